"""Histories of `transcribe_media` jobs, simulated, and what Conductor would say of them at any moment."""

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

T0 = 1_700_000_000_000  # epoch ms at which every simulated job starts
SPEED = 13.0  # audio seconds per second of inference of each simulated worker


@dataclass(frozen=True)
class Attempt:
    """One entry of a workflow's tasks, in its whole life; times are ms since T0."""

    type: str
    reference: str
    scheduled: int
    polled: int
    begun: int
    ended: int
    worker: str
    status: str = "COMPLETED"
    retry: int = 0
    retried: bool = False
    output: dict[str, Any] = field(default_factory=dict)

    def at(self, now: int) -> dict[str, Any]:
        """What Conductor says of it `now` ms after T0 (not before it was scheduled)."""
        raw: dict[str, Any] = {
            "taskType": self.type,
            "taskDefName": self.type,
            "referenceTaskName": self.reference,
            "status": "SCHEDULED",
            "scheduledTime": T0 + self.scheduled,
            "startTime": 0,
            "endTime": 0,
            "updateTime": T0 + self.scheduled,
            "retryCount": self.retry,
            "retried": False,
            "callbackAfterSeconds": 0,
            "pollCount": 0,
            "inputData": {},
            "outputData": {},
        }
        if now < self.polled:
            return raw
        raw.update(status="IN_PROGRESS", startTime=T0 + self.polled, workerId=self.worker, pollCount=1)
        if now < self.begun:
            back = {"status": "SCHEDULED", "callbackAfterSeconds": 1, "outputData": {"waiting": True}}
            return raw | back | {"updateTime": T0 + now}
        if now < self.ended:
            share = (now - self.begun) / (self.ended - self.begun)
            says: dict[str, Any] = {"progress": round(share, 2)} if self.type == "transcribe_chunk" else {}
            if self.type == "await_speakers":
                back = {"status": "SCHEDULED", "callbackAfterSeconds": 1, "outputData": {"waiting": True}}
                return raw | back | {"updateTime": T0 + now}
            return raw | {"outputData": says, "updateTime": T0 + now - now % 3_000}
        raw.update(status=self.status, endTime=T0 + self.ended, retried=self.retried, outputData=self.output)
        return raw | ({"reasonForIncompletion": self.output.get("reason")} if self.status != "COMPLETED" else {})


@dataclass(frozen=True)
class Job:
    """A whole simulated job."""

    attempts: tuple[Attempt, ...]
    ended: int
    status: str
    media: str
    duration_ms: int
    output: dict[str, Any]
    allow_gaps: bool = False

    def at(self, now: int) -> dict[str, Any]:
        """The workflow as `GET /api/workflow/{id}?includeTasks=true` has it `now` ms after T0."""
        over = now >= self.ended
        systems = [("SWITCH", "language_known"), ("FORK", "fork_media"), ("JOIN", "media_forked")]
        return {
            "workflowId": "3f1c7d52-0a5e-4a0b-9d51-8f0c6a1e2b34",
            "workflowName": "transcribe_media",
            "status": self.status if over else "RUNNING",
            "createTime": T0,
            "startTime": T0,
            "endTime": T0 + self.ended if over else 0,
            "input": {"media": self.media, "start": "", "end": "", "allow_gaps": self.allow_gaps},
            "output": self.output if over else {},
            "tasks": [
                *({"taskType": kind, "referenceTaskName": name, "status": "COMPLETED"} for kind, name in systems),
                *(attempt.at(now) for attempt in self.attempts if attempt.scheduled <= now),
            ],
        }

    def end(self) -> dict[str, Any]:
        return self.at(self.ended)


def simulate(
    chunks: int = 12,
    workers: int = 1,
    *,
    retried: Collection[int] = (),
    died: Collection[int] = (),
    lost: Collection[int] = (),
    chunk_ms: int = 60_000,
    split_ms_per_chunk: int = 250,
    media: str = "/media/lecture.mp4",
    seed: int = 7,
    parts: int = 0,
    part_ms: int = 6_000,
    speakers: int | None = 3,
) -> Job:
    """A job of `chunks` chunks on `workers` workers.

    retried chunks fail once with an error, died ones lose their worker once, lost ones fail three times:
    their job is one with --allow-gaps. The split is slower than the first workers, so that chunks are given back.
    With parts a machine `voices` diarizes them, each in part_ms; where speakers is None, cluster_speakers
    fails, in a job with --allow-gaps.
    """
    dice = random.Random(seed)
    attempts = [
        Attempt("plan_media", "plan_media", 40, 90, 90, 900, "laptop-0", output={}),
        Attempt("detect_language", "detect_language", 920, 950, 950, 2_900, "laptop-0", output={"language": "en"}),
    ]
    duration = chunks * chunk_ms
    attempts[0].output.update(
        media_name=media.rsplit("/", 1)[-1], duration_ms=duration, chunk_count=chunks, workers=workers, seconds=0.8
    )
    split_end = 3_100 + chunks * split_ms_per_chunk
    split = {"duration_ms": duration, "chunks": chunks, "seconds": round((split_end - 3_050) / 1000, 3)}
    attempts.append(Attempt("split_media", "split_media", 3_000, 3_050, 3_050, split_end, "laptop-0", output=split))
    free = {f"gpu-{number:02d}": 3_020 + dice.randrange(100) for number in range(workers)}
    queue = [(3_000, index, 0) for index in range(chunks)]
    while queue:
        worker = min(free, key=lambda name: free[name])
        position = next((at for at, entry in enumerate(queue) if entry[0] <= free[worker]), 0)
        scheduled, index, retry = queue.pop(position)
        polled = max(free[worker], scheduled) + dice.randrange(5, 40)
        written = 3_100 + (index + 1) * split_ms_per_chunk
        begun = polled if polled >= written else written + dice.randrange(50, 1_000)
        attempt = _chunk(index, scheduled, polled, begun, worker, retry, chunk_ms, dice.uniform(0.85, 1.15))
        if index in lost or (retry == 0 and index in (*retried, *died)):
            attempt = _broken(attempt, died=index in died, last=index in lost and retry == 2)
            if attempt.retried:
                queue.append((attempt.ended + 1_000, index, retry + 1))
        free[worker] = attempt.ended
        attempts.append(attempt)
    text_end = max(attempt.ended for attempt in attempts)
    if parts:
        attempts[0].output.update(diarize=True, speaker_tasks=_speaker_tasks(parts))
        attempts += _diarization(parts, part_ms, split_end, text_end, speakers)
    begin = max(attempt.ended for attempt in attempts) + 60
    end = begin + 700
    stitched = {"files": {}, "duration_ms": duration, "chunks": chunks, "rtfx": duration / end, "gaps": len(lost)}
    attempts.append(
        Attempt(
            "stitch_transcript", "stitch_transcript", begin, begin + 40, begin + 40, end, "laptop-0", output=stitched
        )
    )
    if parts:
        stitched["speakers"] = speakers
    return Job(tuple(attempts), end + 30, "COMPLETED", media, duration, stitched, bool(lost) or speakers is None)


def _speaker_tasks(parts: int) -> list[dict[str, str]]:
    return [
        {"name": "map_speech", "taskReferenceName": "speech"},
        *({"name": "diarize_chunk", "taskReferenceName": f"voices_{index}"} for index in range(parts)),
    ]


def _diarization(parts: int, part_ms: int, split_end: int, text_end: int, speakers: int | None) -> list[Attempt]:
    """One machine that takes the speech map, which needs the whole split, and then part after part."""
    scheduled, worker = 3_000, "voices"
    at = split_end + 200
    spent: dict[str, Any] = {"key": "jobs/0/speech.json", "regions": 9, "seconds": {"map_speech": 1.2}}
    attempts = [Attempt("map_speech", "speech", scheduled, 3_080, at, at + 1_200, worker, output=spent)]
    at += 1_200
    for index in range(parts):
        begun, at = at + 20, at + 20 + part_ms
        fetch, store = 100, 50
        seconds = {
            "fetch_voices": fetch / 1000,
            "diarize": (part_ms - fetch - store) / 1000,
            "store_voices": store / 1000,
        }
        output = {
            "index": index,
            "key": f"jobs/0/voices/0/{index:05d}.npz",
            "windows": 1_000,
            "seconds": seconds,
        }
        part = Attempt("diarize_chunk", f"voices_{index}", scheduled, begun, begun, at, worker, output=output)
        attempts.append(part)
    begun, at = at + 80, at + 1_500
    done: dict[str, Any] = {"key": "jobs/0/speakers/0/result.json", "speakers": speakers, "seconds": {"cluster": 1.4}}
    failure: dict[str, Any] = {
        "error": "EngineError",
        "reason": "The voices of two versions cannot be compared: restart the workers.",
    }
    outcome, says = ("COMPLETED", done) if speakers is not None else ("COMPLETED_WITH_ERRORS", failure)
    attempts.append(
        Attempt("cluster_speakers", "cluster_speakers", begun - 60, begun, begun, at, worker, outcome, output=says)
    )
    if speakers is None and text_end < at:
        waited = {"given_up": 0, "waited_seconds": (at - text_end) / 1000}
        polled = text_end + 80
        attempts.append(
            Attempt(
                "await_speakers", "await_speakers", text_end + 40, polled, polled, at + 900, "laptop-0", output=waited
            )
        )
    return attempts


def _chunk(
    index: int, scheduled: int, polled: int, begun: int, worker: str, retry: int, audio_ms: int, slowness: float
) -> Attempt:
    inference = round(audio_ms / SPEED * slowness)
    fetch, store = 120, 60
    output = {
        "index": index,
        "key": f"jobs/0/results/{index:05d}.json",
        "worker": worker,
        "attempts": retry + 1,
        "audio_ms": audio_ms,
        "words": 150,
        "seconds": {
            "wait": (begun - polled) / 1000,
            "fetch": fetch / 1000,
            "inference": inference / 1000,
            "store": store / 1000,
        },
    }
    ended = begun + fetch + inference + store
    return Attempt(
        "transcribe_chunk",
        f"chunk_{index}",
        scheduled,
        polled,
        begun,
        ended,
        worker,
        retry=retry,
        output=output,
    )


def _broken(attempt: Attempt, *, died: bool, last: bool) -> Attempt:
    """The same attempt, failing half way, or timing out because its worker is gone."""
    whole = attempt.ended - attempt.begun
    failure = {"error": "EngineError", "reason": f"The engine failed on {attempt.reference}: CUDA <error> & no more."}
    return Attempt(
        attempt.type,
        attempt.reference,
        attempt.scheduled,
        attempt.polled,
        attempt.begun,
        attempt.begun + (10_000 if died else whole // 2),
        attempt.worker,
        status="TIMED_OUT" if died else ("COMPLETED_WITH_ERRORS" if last else "FAILED"),
        retry=attempt.retry,
        retried=not last,
        output={} if died else failure,
    )
