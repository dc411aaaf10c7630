"""Pure: where the wall time of a job with one worker went, millisecond by millisecond.

Time is what the engine does with it. While it infers, that is where the time goes, whatever else the machine does
meanwhile; the stretches between are divided by what the engine waited for. Each millisecond is counted once, so the
phases add up to the wall; what no record explains is told as that.

Times are epoch milliseconds of one machine's clock: the server's for when tasks were scheduled, polled and handed in,
the file system's for when a chunk and its result were written, and the worker's own seconds for how long it took.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from workflows.progress import DIARIZATION, LANGUAGE, PLAN, SPLIT, STITCH, TRANSCRIBE, JobView, TaskView

INFERENCE, SPEECH, FETCH, STORE = "inference", "speech", "fetch", "store"
UNEXPLAINED = "unexplained"

# Phase to what it means, in the order of a job's life.
PHASES: Mapping[str, str] = {
    "plan waits": "until a worker asks for plan_media",
    "plan": "plan_media",
    "language": "detect_language, and until a worker asks for it",
    "split waits": "until a worker asks for split_media",
    "split": "until the chunk is written",
    "schedule": "until the worker begins with a chunk that is written",
    FETCH: "the chunk's audio is read and decoded",
    SPEECH: "the chunk's speech is found (voice activity), where the engine waits for it",
    INFERENCE: "the engine computes",
    STORE: "the result is written",
    "join": "from the last result to the scheduled stitch_transcript",
    "speakers": "the text is done, the speakers are not",
    "stitch waits": "until a worker asks for stitch_transcript",
    "stitch": "stitch_transcript",
    "deliver": "from the transcript to the workflow's end",
    UNEXPLAINED: "of no record",
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "start": ("plan waits", "plan", "language", "split waits"),
    "split": ("split",),
    "schedule": ("schedule",),
    FETCH: (FETCH,),
    SPEECH: (SPEECH,),
    INFERENCE: (INFERENCE,),
    STORE: (STORE,),
    "join": ("join", "speakers", "stitch waits"),
    "stitch": ("stitch",),
    "deliver": ("deliver",),
    UNEXPLAINED: (UNEXPLAINED,),
}
"""The phases as the picture has them."""

Claim = tuple[str, int, int]
"""A phase, and from when to when it would explain what the engine waited for."""


@dataclass(frozen=True)
class Written:
    """When a chunk's record and its result were written, by the chunk's number, in epoch milliseconds."""

    chunks: Mapping[int, int]
    results: Mapping[int, int]


@dataclass(frozen=True)
class Heard:
    """A chunk at the engine: [start_ms, end_ms) is its inference, before it come `speech_ms` and `fetch_ms`."""

    task: TaskView
    start_ms: int
    end_ms: int
    wait_ms: int
    speech_ms: int
    fetch_ms: int
    store_ms: int


@dataclass(frozen=True)
class Where:
    """Milliseconds of the wall by phase. gaps: what was not inference before each chunk, and last after them all."""

    total: Mapping[str, int]
    gaps: tuple[Mapping[str, int], ...]

    @property
    def wall_ms(self) -> int:
        return sum(self.total.values())

    @property
    def inference_ms(self) -> int:
        return self.total[INFERENCE]

    @property
    def not_inference(self) -> float:
        """Share of the wall, 0 to 1."""
        return 1 - self.inference_ms / max(1, self.wall_ms)

    @property
    def once_ms(self) -> int:
        """What a job takes besides inference however long it is: before its first chunk and after its last."""
        return sum(self.gaps[0].values()) + (sum(self.gaps[-1].values()) if len(self.gaps) > 1 else 0)

    @property
    def between_ms(self) -> tuple[int, ...]:
        """From the end of one chunk's inference to the next one's start: none where there is one chunk."""
        return tuple(sum(gap.values()) for gap in self.gaps[1:-1])


def where(view: JobView, written: Written, submitted_ms: int, ended_ms: int) -> Where:
    """The wall [submitted_ms, ended_ms) of a finished job whose chunks one worker heard."""
    heard = engine(view, written, submitted_ms)
    edges = [submitted_ms, *(at for one in heard for at in (one.start_ms, one.end_ms)), max(ended_ms, submitted_ms)]
    gaps = []
    for number, (start, end) in enumerate(zip(edges[::2], edges[1::2], strict=True)):
        before = heard[number - 1] if number else None
        after = heard[number] if number < len(heard) else None
        gaps.append(divide(start, end, _claims(view, written, before, after, (submitted_ms, ended_ms))))
    inference = {INFERENCE: sum(one.end_ms - one.start_ms for one in heard)}
    total = {phase: sum(part.get(phase, 0) for part in (*gaps, inference)) for phase in PHASES}
    return Where(total, tuple(gaps))


def engine(view: JobView, written: Written, earliest_ms: int) -> tuple[Heard, ...]:
    """The chunks in the order in which the engine heard them, none over another.

    A worker tells how long it inferred; when it was done with it is told by its result's file. Where two would overlap
    (a file's time is some milliseconds off) the earlier one is moved.
    """

    def stored(task: TaskView) -> int:
        told = written.results.get(task.chunk if task.chunk is not None else -1)
        return told if told is not None else (task.ended_ms or 0) - _ms(task, STORE)

    done = [task for task in view.tasks if task.type == TRANSCRIBE and task.done and INFERENCE in task.seconds]
    found: list[Heard] = []
    until = None
    for task in sorted(done, key=stored, reverse=True):
        end = max(earliest_ms, stored(task) if until is None else min(stored(task), until))
        until = max(earliest_ms, end - _ms(task, INFERENCE))
        found.append(Heard(task, until, end, _ms(task, "wait"), _ms(task, SPEECH), _ms(task, FETCH), _ms(task, STORE)))
    return tuple(reversed(found))


def divide(start_ms: int, end_ms: int, claims: Sequence[Claim]) -> dict[str, int]:
    """Milliseconds of [start_ms, end_ms) by phase: each goes to the first claim that holds it, or to nobody's."""
    edges = {start_ms, end_ms, *(min(max(at, start_ms), end_ms) for _, *ends in claims for at in ends)}
    shares: dict[str, int] = {}
    for left, right in pairwise(sorted(edges)):
        phase = next((name for name, since, until in claims if since <= left and right <= until), UNEXPLAINED)
        shares[phase] = shares.get(phase, 0) + right - left
    return shares


def _claims(
    view: JobView, written: Written, before: Heard | None, after: Heard | None, wall: tuple[int, int]
) -> list[Claim]:
    """What may explain the time between two chunks, the surest first; without `before` or `after` the job's ends."""
    claims: list[Claim] = []
    if before is not None:
        claims.append((STORE, before.end_ms, before.end_ms + before.store_ms))
    if after is None:
        return claims + _end(view, (before.end_ms + before.store_ms) if before else wall[0], wall[1])
    seated = after.start_ms - after.wait_ms
    fetched = seated - after.speech_ms
    began = fetched - after.fetch_ms
    claims += [(SPEECH, fetched, seated), (FETCH, began, fetched)]
    claims += _beginning(view, wall[0])
    split = _latest(view, SPLIT)
    if split is not None and split.started_ms is not None:
        cut = written.chunks.get(after.task.chunk if after.task.chunk is not None else -1, split.started_ms)
        claims.append(("split", split.started_ms, cut))
        claims.append(("schedule", max(cut, split.started_ms), after.start_ms))
    return claims


def _beginning(view: JobView, submitted_ms: int) -> list[Claim]:
    """Until the split begins."""
    claims: list[Claim] = []
    reached = submitted_ms
    for kind, phase in ((PLAN, "plan"), (LANGUAGE, "language"), (SPLIT, "split")):
        task = _latest(view, kind)
        if task is None or task.started_ms is None:
            continue
        waits = phase if kind == LANGUAGE else f"{phase} waits"
        claims.append((waits, reached, task.started_ms))
        if kind != SPLIT:
            reached = task.ended_ms or task.started_ms
            claims.append((phase, task.started_ms, reached))
    return claims


def _end(view: JobView, since_ms: int, ended_ms: int) -> list[Claim]:
    """After the last result."""
    stitch = _latest(view, STITCH)
    if stitch is None or stitch.started_ms is None or stitch.ended_ms is None:
        return []
    voices = [task for task in view.tasks if task.type in DIARIZATION and task.done]
    speakers = [
        ("speakers", task.busy_from_ms, task.ended_ms)
        for task in voices
        if task.busy_from_ms is not None and task.ended_ms is not None
    ]
    return [
        ("stitch", stitch.started_ms, stitch.ended_ms),
        ("deliver", stitch.ended_ms, ended_ms),
        ("stitch waits", stitch.scheduled_ms, stitch.started_ms),
        *speakers,
        ("join", since_ms, stitch.scheduled_ms),
    ]


def _latest(view: JobView, kind: str) -> TaskView | None:
    return next((task for task in reversed(view.tasks) if task.type == kind and task.done), None)


def _ms(task: TaskView, phase: str) -> int:
    return round(1000 * task.seconds.get(phase, 0.0))


def grouped(phases: Mapping[str, float]) -> dict[str, float]:
    """By group, for the picture and the table."""
    return {group: sum(phases.get(phase, 0) for phase in members) for group, members in GROUPS.items()}


def predicted(inference_s: float, chunks: int, once_ms: float, between_ms: float) -> float:
    """Share of the wall that is not inference, 0 to 1, for a job of so many chunks on one worker."""
    other_s = (once_ms + max(0, chunks - 1) * between_ms) / 1000
    return other_s / (inference_s + other_s)
