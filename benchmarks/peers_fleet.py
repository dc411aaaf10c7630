"""Whisperfleet beside its peers: the real server, one or two workers, the same recordings, every job from nothing."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.fleet import Ground, run_jobs, workers
from benchmarks.peers_process import Watch
from benchmarks.peers_scores import Heard, of_transcript
from workers.errors import JobError
from workers.messages import JobInput
from workers.models import demo_recording
from workers.transcript import Transcript

WARMING, WARMING_SECONDS = 3, 10  # short jobs before anything is measured, in chunks for every worker


@dataclass(frozen=True)
class Fleet:
    """Loaded workers on the server of `on`; load_s: from the command to the last worker's loaded model."""

    on: Ground
    pid: int
    server_pid: int
    load_s: float


@dataclass(frozen=True)
class Ran:
    """Seconds from the first submission to the last job's end, by Conductor's clock; MiB at the peak."""

    wall_s: float
    processor_s: float
    peak_mib: float
    server_processor_s: float
    server_peak_mib: float
    heard: tuple[Heard, ...]


def server_pid(on: Ground) -> int:
    """Of the embedded server's Java process. Raises JobError where it is gone."""
    from provisioning import server_state

    state = server_state.read(server_state.files(on.home))
    process = server_state.java_process(state) if state else None
    if process is None:
        raise JobError("The benchmark's Conductor server is gone; its log is in the benchmark's folder.")
    return int(process.pid)


@contextmanager
def fleet(on: Ground, processes: int, threads: int) -> Iterator[Fleet]:
    """Workers that have each heard something, as every peer has: what is loaded at a first job is loaded."""
    began = time.monotonic()
    with workers(on, processes, threads) as pid:
        up = Fleet(on, pid, server_pid(on), time.monotonic() - began)
        for _ in range(WARMING):
            transcribe(up, [demo_recording()], words=False, chunk_seconds=WARMING_SECONDS)
        yield up


def transcribe(of: Fleet, media: Sequence[Path], words: bool, chunk_seconds: Literal["auto"] | int = "auto") -> Ran:
    """All at once, with empty storage: a job's results are found again by their content, and would cost nothing."""
    shutil.rmtree(Path(of.on.storage) / "jobs", ignore_errors=True)
    jobs = [
        JobInput(
            media=str(path),
            model="demo",
            language="en",
            diarize=False,
            word_timestamps=words,
            formats=("json",),
            chunk_seconds=chunk_seconds,
        )
        for path in media
    ]
    with Watch({"workers": of.pid, "server": of.server_pid}) as watch:
        began = time.time()
        ran = run_jobs(of.on, jobs)
        ended = time.time()
    workers_cost, server_cost = watch.cost("workers", began, ended), watch.cost("server", began, ended)
    return Ran(
        wall_s=max(one.seconds for one in ran),
        processor_s=workers_cost.processor_s,
        peak_mib=workers_cost.peak_mib,
        server_processor_s=server_cost.processor_s,
        server_peak_mib=server_cost.peak_mib,
        heard=tuple(_heard(one.output["files"]["json"]) for one in ran),
    )


def _heard(address: str) -> Heard:
    transcript = Transcript.model_validate_json(Path(address.removeprefix("file://")).read_bytes())
    if transcript.gaps:
        raise JobError(f"The benchmark's job lost {len(transcript.gaps)} chunks: its workers' log tells why.")
    return of_transcript(transcript.segments)
