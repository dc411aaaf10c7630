"""Pure: how far a job is, read from the JSON that Conductor returns for a workflow and its tasks.

Conductor's own shapes end here: everything that watches a job (display, report, `jobs show`) reads a
`JobView`. All times are epoch milliseconds of the server's clock, all lengths milliseconds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

from workers.errors import OptionError
from workers.spans import parse_time

Stage = Literal[
    "planning", "language", "splitting", "transcribing", "speakers", "stitching", "done", "failed", "cancelled"
]

PLAN, LANGUAGE, SPLIT, TRANSCRIBE, SPEECH, DIARIZE, CLUSTER, AWAIT, STITCH = TASK_TYPES = (
    "plan_media",
    "detect_language",
    "split_media",
    "transcribe_chunk",
    "map_speech",
    "diarize_chunk",
    "cluster_speakers",
    "await_speakers",
    "stitch_transcript",
)
DIARIZATION = frozenset((SPEECH, DIARIZE, CLUSTER))
# These are lost, and a job goes on: what is made of the loss is for cluster_speakers and stitch_transcript to say.
OPTIONAL = DIARIZATION | {TRANSCRIBE}
ENDED = frozenset(
    ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT", "CANCELED", "SKIPPED")
)
YES = frozenset(("true", "1", "yes", "on"))  # as JSON or a form has it
FAILED = frozenset(("COMPLETED_WITH_ERRORS", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT"))

# A first guess of the speed is taken from a chunk still running once it is this far: below, the time
# for fetching and for loading a model is most of what was measured.
MIN_PROGRESS = 0.1
# The speed is that of the last so many chunks of each worker: few enough to follow a machine that
# slows down or a recording that turns from speech to music, enough that one odd chunk does not rule.
CHUNKS_PER_WORKER = 4
# A worker between two chunks still counts as working: it polls several times a second, so one that was
# not seen for this long has left.
RECENT_MS = 5_000
# A running chunk whose worker does not say how far it is, is taken to go at the worker's speed, but never
# to be done before it is.
MOST_GUESSED = 0.95


@dataclass(frozen=True)
class TaskView:
    """One attempt of one task.

    started_ms is the first poll: a chunk that was given back keeps the time at which it was first
    tried; seen_ms is the last poll or sign of life. attempt counts from 1. progress is the share of a
    chunk heard so far, 0 to 1, where its worker says. seconds (wait, fetch, inference, store) are
    known of finished chunks only. waiting: given back because its audio is not written yet. chunk is the
    number of a chunk of text, part that of a diarizer's chunk: the two are not cut alike.
    """

    type: str
    reference: str
    status: str
    attempt: int
    retried: bool
    scheduled_ms: int
    started_ms: int | None
    ended_ms: int | None
    worker: str | None
    seen_ms: int
    polls: int
    delay_ms: int
    chunk: int | None = None
    part: int | None = None
    waiting: bool = False
    progress: float = 0.0
    audio_ms: int = 0
    reused: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict, hash=False)
    error: str | None = None
    reason: str | None = None

    @property
    def done(self) -> bool:
        return self.status == "COMPLETED"

    @property
    def failed(self) -> bool:
        return self.status in FAILED

    @property
    def running(self) -> bool:
        """A worker holds it now; a chunk given back until its audio is written is held by nobody."""
        return self.status == "IN_PROGRESS" and not self.waiting

    @property
    def busy_from_ms(self) -> int | None:
        """When its worker began to work on it in earnest: after the wait, where its seconds tell."""
        if self.started_ms is None or self.ended_ms is None or not self.seconds:
            return self.started_ms
        worked = sum(value for name, value in self.seconds.items() if name != "wait")
        return max(self.started_ms, self.ended_ms - round(worked * 1000))


@dataclass(frozen=True)
class JobView:
    """A job at one moment.

    duration_ms is what of the media is wanted (--start to --end), None until it is planned.
    audio_done_ms counts the heard share of running chunks. chunks_retried counts chunks that took
    more than one attempt. rtfx is audio over wall time since the job began, waiting included.
    workers are the names now busy. Counts are of chunks, not attempts. parts are the diarizer's chunks, None
    where no speakers are wanted or before the plan; speakers is how many people a finished job found, None
    where nobody knows.
    """

    id: str
    status: str
    stage: Stage
    media_name: str
    duration_ms: int | None
    chunks_total: int | None
    chunks_done: int
    chunks_running: int
    chunks_failed: int
    chunks_retried: int
    audio_done_ms: int
    started_ms: int
    ended_ms: int | None
    elapsed_ms: int
    eta_ms: int | None
    rtfx: float | None
    workers: tuple[str, ...]
    reason: str | None
    tasks: tuple[TaskView, ...]
    allow_gaps: bool = False
    parts_total: int | None = None
    parts_done: int = 0
    parts_failed: int = 0
    speakers: int | None = None

    @property
    def diarized(self) -> bool:
        """Whether the job is to tell its speakers apart, as far as is known."""
        return self.parts_total is not None

    @property
    def over(self) -> bool:
        return self.stage in ("done", "failed", "cancelled")

    @property
    def share_done(self) -> float:
        """0 to 1, by audio: chunks differ in length. Once the text is complete, by the parts of the diarization."""
        if self.stage == "done":
            return 1.0
        if self.stage == "speakers":
            return self.parts_done / max(1, self.parts_total or 0)
        return min(1.0, self.audio_done_ms / self.duration_ms) if self.duration_ms else 0.0


def from_workflow(workflow: Mapping[str, Any], now_ms: int) -> JobView:
    """The view of a workflow as `GET /api/workflow/{id}?includeTasks=true` returns it; now_ms by the server's clock."""
    tasks = tuple(
        sorted(
            (_task(raw) for raw in workflow.get("tasks") or () if _type_of(raw) in TASK_TYPES),
            key=lambda task: (task.scheduled_ms, task.chunk or 0, task.attempt),
        )
    )
    request = workflow.get("input") or {}
    plan: Mapping[str, Any] = next(
        (raw.get("outputData") or {} for raw in workflow.get("tasks") or () if _planned(raw)), {}
    )
    chunks, parts = _latest_chunks(tasks), _latest_parts(tasks)
    status = str(workflow.get("status", "RUNNING"))
    over = status in ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED")
    started = int(workflow.get("startTime") or workflow.get("createTime") or now_ms)
    ended = int(workflow.get("endTime") or workflow.get("updateTime") or now_ms) if over else None
    elapsed = max(0, (now_ms if ended is None else ended) - started)
    duration = _wanted_ms(request, plan.get("duration_ms"))
    total = plan.get("chunk_count") or (len(chunks) or None)
    heard = _audio_done_ms(chunks, duration, total, None if over else now_ms)
    stage = _stage(status, tasks, chunks, total)
    lost = sum(task.failed for task in chunks)
    left = max(0, duration - heard - lost * duration // (total or 1)) if duration is not None else None
    return JobView(
        id=str(workflow.get("workflowId", "")),
        status=status,
        stage=stage,
        media_name=str(plan.get("media_name") or _name(str(request.get("media") or ""))),
        duration_ms=duration,
        chunks_total=total,
        chunks_done=sum(task.done for task in chunks),
        chunks_running=sum(task.running for task in chunks),
        chunks_failed=lost,
        chunks_retried=sum(
            count > 1 for count in Counter(task.chunk for task in tasks if task.chunk is not None).values()
        ),
        audio_done_ms=heard,
        started_ms=started,
        ended_ms=ended,
        elapsed_ms=elapsed,
        eta_ms=None
        if over or left is None or stage == "speakers"
        else eta_ms(tasks, left, now_ms, heard=heard, total=total),
        rtfx=heard / elapsed if heard and elapsed else None,
        workers=tuple(sorted({task.worker for task in tasks if task.running and task.worker})),
        reason=_reason(workflow, status, tasks),
        tasks=tasks,
        allow_gaps=str(request.get("allow_gaps") or "").lower() in YES,
        parts_total=_parts_total(plan, parts),
        parts_done=sum(task.done for task in parts),
        parts_failed=sum(task.failed for task in parts),
        speakers=_speakers(workflow) if stage == "done" else None,
    )


def eta_ms(tasks: Iterable[TaskView], left_ms: int, now_ms: int, *, heard: int, total: int | None) -> int | None:
    """Milliseconds until left_ms of audio are heard; None while nothing tells how fast the workers are.

    Each worker goes on as it did over its last chunks (from one end to the next, so fetching and storing
    count), and the workers at it now, or asking for chunks that are not written yet, stay. The sum of their
    speeds divides what is left; workers that cannot get a chunk any more, because fewer are left than there
    are workers, do not count.
    """
    chunks = [task for task in tasks if task.type == TRANSCRIBE]
    if left_ms <= 0:
        return 0
    speeds = _speeds(chunks) or _first_guess(chunks, now_ms, typical_ms=(heard + left_ms) / total if total else 0.0)
    if not speeds:
        return None
    at_it = {
        task.worker
        for task in chunks
        if task.worker
        and not task.reused
        and (task.running or task.waiting or (task.ended_ms or 0) > now_ms - RECENT_MS)
    }
    mean = sum(speeds.values()) / len(speeds)
    known = sorted((speeds.get(worker, mean) for worker in at_it), reverse=True) or [mean]
    chunks_left = max(1, total - sum(task.done for task in chunks)) if total else len(known)
    return round(left_ms / sum(known[:chunks_left]))


def stuck_tasks(view: JobView, now_ms: int, after_ms: int) -> tuple[str, ...]:
    """Task types that nobody has asked for in after_ms although the job waits for them.

    A type is stuck when one of its tasks was due for that long without being polled, and no task of the
    type is running, or was polled or ended within that time: with 12 of 40 chunks in work the other 28 wait as
    they should, and so do all 40 while a worker asks for the first and it is not written yet. A worker
    busy with another job looks the same from here, so ask for the type's live workers before telling
    somebody to start one. With allow_gaps nobody needs to diarize: the text comes without speakers then.
    """
    since = now_ms - after_ms
    alive = {task.type for task in view.tasks if task.running or max(task.seen_ms, task.ended_ms or 0) > since}
    overdue = {
        task.type
        for task in view.tasks
        if (task.waiting or (task.status == "SCHEDULED" and not task.polls))
        and max(task.seen_ms, task.scheduled_ms) + task.delay_ms <= since
    }
    dispensable = DIARIZATION if view.allow_gaps else frozenset()
    return tuple(type_ for type_ in TASK_TYPES if type_ in overdue - alive - dispensable)


def fatal_task(tasks: Iterable[TaskView]) -> TaskView | None:
    """The task that ended a job: the last one that failed for good and that the job cannot do without."""
    failed = [
        task
        for task in tasks
        if task.failed and not task.retried and task.status != "COMPLETED_WITH_ERRORS" and task.type not in OPTIONAL
    ]
    return max(failed, key=lambda task: task.ended_ms or 0, default=None)


def _type_of(raw: Mapping[str, Any]) -> str:
    return str(raw.get("taskDefName") or raw.get("taskType") or "")


def _planned(raw: Mapping[str, Any]) -> bool:
    return _type_of(raw) == PLAN and raw.get("status") == "COMPLETED"


def _task(raw: Mapping[str, Any]) -> TaskView:
    output: Mapping[str, Any] = raw.get("outputData") or {}
    status = str(raw.get("status", "SCHEDULED"))
    kind = _type_of(raw)
    callback = int(raw.get("callbackAfterSeconds") or 0)
    failed = status in FAILED
    return TaskView(
        type=kind,
        reference=str(raw.get("referenceTaskName", "")),
        status=status,
        attempt=int(raw.get("retryCount") or 0) + 1,
        retried=bool(raw.get("retried")),
        scheduled_ms=int(raw.get("scheduledTime") or 0),
        started_ms=raw.get("startTime") or None,
        ended_ms=(raw.get("endTime") or raw.get("updateTime") or None) if status in ENDED else None,
        worker=raw.get("workerId") or None,
        seen_ms=int(raw.get("updateTime") or 0) if raw.get("startTime") else 0,
        polls=int(raw.get("pollCount") or 0),
        delay_ms=1000 * max(callback, int(raw.get("startDelayInSeconds") or 0)),
        chunk=_chunk_index(raw) if kind == TRANSCRIBE else None,
        part=_chunk_index(raw) if kind == DIARIZE else None,
        # Conductor puts a task that was given back into its queue as SCHEDULED. A poll makes it IN_PROGRESS
        # and sets the callback to 0, while the output stays what the last answer said.
        waiting=bool(output.get("waiting")) and (status == "SCHEDULED" or (status == "IN_PROGRESS" and callback > 0)),
        progress=min(1.0, max(0.0, float(output.get("progress") or 0.0))) if status == "IN_PROGRESS" else 0.0,
        audio_ms=int(output.get("audio_ms") or 0),
        reused=bool(output.get("reused")),
        seconds=_seconds(output.get("seconds")),
        error=(output.get("error") or status) if failed else None,
        reason=(output.get("reason") or raw.get("reasonForIncompletion") or None) if failed else None,
    )


def _seconds(value: Any) -> Mapping[str, float]:
    """By phase where a chunk says so; the other tasks give one number, which their times tell already.

    A transcript adds them up by name, so diarizers say fetch_voices where recognizers say fetch.
    """
    if not isinstance(value, Mapping):
        return {}
    return {str(name).removesuffix("_voices"): max(0.0, float(number)) for name, number in value.items()}


def _chunk_index(raw: Mapping[str, Any]) -> int | None:
    number = str(raw.get("referenceTaskName", "")).rsplit("_", 1)[-1]
    return int(number) if number.isdecimal() else None


def _latest_chunks(tasks: Iterable[TaskView]) -> list[TaskView]:
    """The last attempt of each chunk; tasks come in the order in which they were scheduled."""
    return list({task.chunk: task for task in tasks if task.chunk is not None}.values())


def _latest_parts(tasks: Iterable[TaskView]) -> list[TaskView]:
    """The last attempt of each of the diarizer's chunks."""
    return list({task.part: task for task in tasks if task.part is not None}.values())


def _parts_total(plan: Mapping[str, Any], parts: list[TaskView]) -> int | None:
    planned = sum(task.get("name") == DIARIZE for task in plan.get("speaker_tasks") or ())
    return (planned or len(parts)) if plan.get("diarize") or parts else None


def _speakers(workflow: Mapping[str, Any]) -> int | None:
    found = (workflow.get("output") or {}).get("speakers")
    return int(found) if isinstance(found, int | float) else None


def _name(media: str) -> str:
    """Last part of a path or address, without the query, which may hold a signature."""
    path = urlsplit(media).path if "://" in media else media
    return PurePosixPath(path.replace("\\", "/")).name or media.partition("?")[0]


def _wanted_ms(request: Mapping[str, Any], duration_ms: int | None) -> int | None:
    """The media's length, or what --start and --end leave of it."""
    if duration_ms is None:
        return None
    try:
        start = parse_time(str(request["start"])) if request.get("start") else 0
        end = parse_time(str(request["end"])) if request.get("end") else duration_ms
    except OptionError:  # the plan refuses such a job with a sentence; the view only has to show it
        return duration_ms
    return max(0, min(end, duration_ms) - start)


def _audio_done_ms(chunks: Iterable[TaskView], duration_ms: int | None, total: int | None, now_ms: int | None) -> int:
    """Audio heard: of finished chunks what they say, of running ones their share of a chunk of the mean length left.

    Never more than is wanted: chunks overlap a little where no silence was found. now_ms is None for a
    job that is over, in which nothing runs.
    """
    chunks = list(chunks)
    done = sum(task.audio_ms for task in chunks if task.done)
    if duration_ms is None or not total or now_ms is None:
        return done if duration_ms is None else min(done, duration_ms)
    not_done = max(1, total - sum(task.done for task in chunks))
    each = max(0, duration_ms - done) / not_done
    return min(duration_ms, done + round(each * sum(_shares(chunks, each, now_ms))))


def _shares(chunks: list[TaskView], each_ms: float, now_ms: int) -> Iterator[float]:
    """How much of each running chunk is heard: as its worker says, else by the worker's speed.

    A worker hears one chunk at a time, and began it when the one before ended; what else it holds is fetched ahead.
    """
    speeds = _speeds(chunks)
    mean = sum(speeds.values()) / len(speeds) if speeds else 0.0
    last_ends: dict[str | None, int] = {}
    for task in chunks:
        last_ends[task.worker] = max(last_ends.get(task.worker, 0), task.ended_ms or 0)
    hearing: set[str | None] = set()
    for task in sorted((task for task in chunks if task.running), key=lambda task: task.started_ms or now_ms):
        if task.worker in hearing:
            continue
        hearing.add(task.worker)
        begun = max(task.started_ms or now_ms, last_ends[task.worker])
        guess = speeds.get(task.worker or "", mean) * (now_ms - begun) / max(1.0, each_ms)
        yield task.progress or min(MOST_GUESSED, max(0.0, guess))


def _stage(status: str, tasks: tuple[TaskView, ...], chunks: list[TaskView], total: int | None) -> Stage:
    match status:
        case "COMPLETED":
            return "done"
        case "FAILED" | "TIMED_OUT":
            return "failed"
        case "TERMINATED":
            return "cancelled"
    present = {task.type for task in tasks}
    if STITCH in present:
        return "stitching"
    if _only_speakers_left(tasks, chunks, total):
        return "speakers"
    if any(task.running or task.done or task.failed for task in chunks):
        return "transcribing"
    if SPLIT in present or chunks:
        split_done = any(task.done for task in tasks if task.type == SPLIT)
        return "transcribing" if split_done else "splitting"
    return "language" if LANGUAGE in present else "planning"


def _only_speakers_left(tasks: Iterable[TaskView], chunks: list[TaskView], total: int | None) -> bool:
    """Whether the text is complete while the diarization is, or was, still at it."""
    if not chunks or len(chunks) < (total or 0) or any(not task.done and not _given_up(task) for task in chunks):
        return False
    text_ms = max(task.ended_ms or 0 for task in chunks)
    last = {task.reference: task for task in tasks if task.type in DIARIZATION or task.type == AWAIT}
    clustered = [task.ended_ms for task in last.values() if task.type == CLUSTER and task.ended_ms is not None]
    return bool(last) and (not clustered or max(clustered) > text_ms)


def _given_up(task: TaskView) -> bool:
    return task.failed and not task.retried


def _reason(workflow: Mapping[str, Any], status: str, tasks: Iterable[TaskView]) -> str | None:
    """Why a job is over that did not complete: the sentence of the task that ended it, else what Conductor says."""
    said = workflow.get("reasonForIncompletion") or None
    if status == "TERMINATED":
        return said
    if status not in ("FAILED", "TIMED_OUT"):
        return None
    fatal = fatal_task(tasks)
    return (fatal.reason if fatal else None) or said


def _speeds(chunks: Iterable[TaskView]) -> dict[str, float]:
    """Worker to audio milliseconds per millisecond over its last chunks, measured from end to end.

    A worker fetches its next chunk while it hears the current one, so a chunk's own start tells too
    early a beginning: it begins when the worker's previous one ended. A chunk found done from an earlier run
    was not heard now and tells nothing.
    """
    by_worker: dict[str, list[tuple[int, int, int]]] = {}
    for task in chunks:
        begun, ended = task.busy_from_ms, task.ended_ms
        if task.done and task.worker and not task.reused and task.audio_ms and begun is not None and ended is not None:
            by_worker.setdefault(task.worker, []).append((ended, begun, task.audio_ms))
    return {worker: _speed(sorted(steps)) for worker, steps in by_worker.items()}


def _speed(steps: list[tuple[int, int, int]]) -> float:
    """Of one worker's (end, begin, audio), in order of their ends."""
    previous_ends = [0, *(ended for ended, _, _ in steps[:-1])]
    lengths = [
        (audio, ended - max(begun, before)) for (ended, begun, audio), before in zip(steps, previous_ends, strict=True)
    ]
    last = lengths[-CHUNKS_PER_WORKER:]
    return sum(audio for audio, _ in last) / max(1, sum(length for _, length in last))


def _first_guess(chunks: Iterable[TaskView], now_ms: int, typical_ms: float) -> dict[str, float]:
    """Speeds before any chunk is finished, from those that are some way through."""
    return {
        task.worker: task.progress * typical_ms / (now_ms - task.started_ms)
        for task in chunks
        if task.running
        and task.worker
        and task.progress >= MIN_PROGRESS
        and typical_ms
        and task.started_ms is not None
        and task.started_ms < now_ms
    }
