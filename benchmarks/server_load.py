"""Null work: jobs of the real workflow whose tasks are completed as soon as they are handed out, by light clients.

A client is a thread with one connection that is kept open. What it hands in has the shape and the size of the real
thing, and says nothing of any recording.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.server_databases import Server
from workers.errors import JobError, WhisperfleetError
from workers.messages import (
    DEFAULT_FORMATS,
    JobInput,
    JobKeys,
    Message,
    PlanMediaOutput,
    SplitMediaOutput,
    StitchTranscriptOutput,
    TranscribeChunkOutput,
)

CHUNK = "transcribe_chunk"
ONCE_A_JOB = ("plan_media", "split_media", "stitch_transcript")
CHUNK_MS = 60_000
STORAGE = "s3://recordings/whisperfleet"
STEP_S = 300.0  # a job that stood still until the server's sweeper found it has been seen
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Step:
    """So many recordings at once, each of so many chunks."""

    recordings: int
    chunks: int

    @property
    def tasks(self) -> int:
        """Of workers: the server's own (forks, joins, switches) are not counted."""
        return self.recordings * (self.chunks + len(ONCE_A_JOB))

    def __str__(self) -> str:
        return f"{self.recordings} x {self.chunks}"


@dataclass
class Crew:
    """What the clients of one step share. done: the tasks handed in, each once, by kind."""

    host: str
    limits: dict[str, int]
    chunks: int
    done: dict[str, set[str]] = field(default_factory=dict)
    posted_bytes: int = 0
    polled_bytes: int = 0
    failures: list[BaseException] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def has_done(self, kind: str) -> bool:
        return len(self.done.get(kind, ())) >= self.limits[kind]

    def note(self, kind: str, task: str, posted: int, polled: int) -> None:
        with self.lock:
            self.done.setdefault(kind, set()).add(task)
            if kind == CHUNK:
                self.posted_bytes += posted
                self.polled_bytes += polled


class Wire:
    """One connection to the server, kept open; for one thread."""

    def __init__(self, host: str) -> None:
        self._connection = http.client.HTTPConnection(host, timeout=_ANSWER_S)

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer's body. Raises JobError where the server refuses or fails."""
        self._connection.request(method, f"/api{path}", body, {"Content-Type": "application/json"} if body else {})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= http.client.BAD_REQUEST:
            raise JobError(f"The server answered {method} {path} with {answer.status}: {data[:200]!r}")
        return data

    def close(self) -> None:
        self._connection.close()


def submit(server: Server, step: Step) -> list[str]:
    """Start the step's jobs; their workflow ids."""
    job = JobInput(media="/media/recordings/A talk of some length, recorded in a hall.mp4", model="small.en")
    return [server.client.start(job, f"recording {number}") for number in range(step.recordings)]


@contextmanager
def clients(server: Server, step: Step, count: int, **limits: int) -> Iterator[Crew]:
    """`count` clients for chunks and one for each other kind, at work in the block.

    Each ends when all of its kind is done. limits: by kind, that only so many are done.
    """
    limits = dict.fromkeys(ONCE_A_JOB, step.recordings) | {CHUNK: step.recordings * step.chunks} | limits
    crew = Crew(server.host, limits, step.chunks)
    kinds = [*ONCE_A_JOB, *[CHUNK] * count]
    threads = [threading.Thread(target=_client, args=(crew, kind), name=kind, daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield crew
    finally:
        crew.closed.set()
        for thread in threads:
            thread.join(_ANSWER_S)


def wait_until_done(crew: Crew) -> None:
    """Until everything that the clients were to do is done. Raises JobError where it is not after STEP_S."""
    ends = time.monotonic() + STEP_S
    while not all(crew.has_done(kind) for kind in crew.limits):
        if crew.failures:
            raise JobError(f"A client of the benchmark failed: {crew.failures[0]}") from crew.failures[0]
        if time.monotonic() > ends:
            told = ", ".join(f"{len(crew.done.get(kind, ()))} of {limit} {kind}" for kind, limit in crew.limits.items())
            raise JobError(f"The server did not get through with the work in {STEP_S:.0f} s: {told}.")
        time.sleep(0.01)


def poll_in_vain(host: str, count: int, seconds: float) -> int:
    """`count` clients poll an empty queue, each again as soon as it is answered; the number of polls in all."""
    ends, polls = time.monotonic() + seconds, [0] * count

    def one(number: int) -> None:
        wire = Wire(host)
        while time.monotonic() < ends:
            wire.ask("GET", f"/tasks/poll/diarize_chunk?workerid=idle-{number}")
            polls[number] += 1
        wire.close()

    threads = [threading.Thread(target=one, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + _ANSWER_S)
    return sum(polls)


def _client(crew: Crew, kind: str) -> None:
    wire = Wire(crew.host)
    output = OUTPUTS[kind]
    try:
        while not (crew.closed.is_set() or crew.has_done(kind)):
            polled = wire.ask("GET", f"/tasks/poll/{kind}?workerid=benchmark")
            if not polled:
                continue
            task = json.loads(polled)
            told = json.dumps(
                {
                    "taskId": task["taskId"],
                    "workflowInstanceId": task["workflowInstanceId"],
                    "workerId": "benchmark",
                    "status": "COMPLETED",
                    "outputData": output(task, crew.chunks).model_dump(mode="json"),
                }
            ).encode()
            wire.ask("POST", "/tasks", told)
            crew.note(kind, f"{task['workflowInstanceId']}/{task['referenceTaskName']}", len(told), len(polled))
    except (OSError, http.client.HTTPException, ValueError, KeyError, WhisperfleetError) as error:
        crew.failures.append(error)
    finally:
        wire.close()


def plan_output(task: dict[str, Any], chunks: int) -> PlanMediaOutput:
    """As workers.stages.plan makes it for a recording of so many chunks whose language is known."""
    job = str(task["workflowInstanceId"]).replace("-", "")[:32]
    names = [f"chunk_{index}" for index in range(chunks)]
    return PlanMediaOutput(
        storage=STORAGE,
        job=job,
        media_name="A talk of some length, recorded in a hall.mp4",
        duration_ms=chunks * CHUNK_MS,
        chunk_count=chunks,
        detect_language=False,
        fork_tasks=tuple(
            {"name": CHUNK, "taskReferenceName": name, "type": "SIMPLE", "optional": True} for name in names
        ),
        fork_inputs={name: {"storage": STORAGE, "job": job, "index": index} for index, name in enumerate(names)},
        workers=16,
        seconds=0.812,
    )


def _split_output(task: dict[str, Any], chunks: int) -> SplitMediaOutput:
    return SplitMediaOutput(duration_ms=chunks * CHUNK_MS, chunks=chunks, seconds=7.312)


def _chunk_output(task: dict[str, Any], chunks: int) -> TranscribeChunkOutput:
    data = task["inputData"]
    return TranscribeChunkOutput(
        index=data["index"],
        key=JobKeys(data["job"]).result(data["index"]),
        worker="gpu-host-0123456789-0",
        attempts=1,
        audio_ms=CHUNK_MS,
        words=151,
        seconds={"fetch": 0.104, "wait": 0.013, "inference": 4.615, "store": 0.031},
    )


def _stitch_output(task: dict[str, Any], chunks: int) -> StitchTranscriptOutput:
    keys = JobKeys(task["inputData"]["job"])
    return StitchTranscriptOutput(
        files={extension: f"{STORAGE}/{keys.transcript(extension)}" for extension in DEFAULT_FORMATS},
        duration_ms=chunks * CHUNK_MS,
        language="en",
        chunks=chunks,
        words=151 * chunks,
        gaps=0,
        seconds={"plan": 0.812, "split": 7.312, "fetch": 6.1, "inference": 276.9, "store": 1.9, "stitch": 0.4},
        rtfx=188.4,
    )


OUTPUTS: dict[str, Callable[[dict[str, Any], int], Message]] = {
    "plan_media": plan_output,
    "split_media": _split_output,
    CHUNK: _chunk_output,
    "stitch_transcript": _stitch_output,
}
