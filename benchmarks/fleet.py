"""A fleet to measure: the real Conductor server in a folder of its own, real workers, real jobs.

Nothing of the user's is touched: server, objects and logs lie below the benchmark's folder, and all that was started
ends with the block.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.runner import progress
from workers.errors import EngineError, JobError, TransientError
from workers.messages import JobInput
from workers.settings import Settings, load, worker_environment
from workflows.client import Client

UP_S = 180.0
COUNTED_S = 60.0
LOOK_S = 0.1  # how late a job's end is noticed; its duration is Conductor's own
PAUSED_S = 0.05


@dataclass(frozen=True)
class Ground:
    """A running server, registered. home holds its data, the objects and the workers' logs."""

    client: Client
    home: Path

    @property
    def url(self) -> str:
        return self.client.server

    @property
    def storage(self) -> str:
        return str(self.home / "objects")


@dataclass(frozen=True)
class Ran:
    """A finished job: seconds from its submission to its end, as Conductor has them; workflow: all it tells of it."""

    seconds: float
    workflow: dict[str, Any]

    @property
    def output(self) -> dict[str, Any]:
        return dict(self.workflow["output"])


@contextmanager
def ground(folder: Path) -> Iterator[Ground]:
    """The embedded server (SQLite) with its data below `folder`, up and with our definitions."""
    from provisioning import conductor

    home = folder / "home"
    settings = Settings(
        home=home, server=None, storage=str(home / "objects"), s3_endpoint=None, ui=None, server_jar=load().server_jar
    )
    with conductor.ensure(settings, progress) as lease:
        client = Client(lease.url)
        client.register(force=True)
        yield Ground(client, home)


@contextmanager
def workers(
    on: Ground, processes: int, threads: int | None = None, *options: str, model: str = "demo"
) -> Iterator[int]:
    """`whisperfleet worker` with so many processes, its model loaded; gives its process id."""
    command = [
        *(sys.executable, "-m", "workflows.cli", "worker", "--server", on.url, "--model", model),
        *("--processes", str(processes), *(("--threads", str(threads)) if threads else ()), *options),
    ]
    on.home.mkdir(parents=True, exist_ok=True)
    log = on.home / f"workers-{time.time_ns()}.log"
    environment = worker_environment(WHISPERFLEET_HOME=str(on.home), WHISPERFLEET_STORAGE=on.storage)
    with log.open("w") as file:
        pool = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        _wait_until_loaded(pool, log, processes)
        yield pool.pid
    finally:
        pool.terminate()
        try:
            pool.wait(15)
        except subprocess.TimeoutExpired:
            pool.kill()
            pool.wait()


def wait_until_counted(on: Ground, workers: int) -> None:
    """Until the server counts just so many: those of the run before are alive to it for twenty seconds more, and a
    chunk plan would be made for them too. Raises EngineError where it never does.
    """
    ends = time.monotonic() + COUNTED_S
    while (seen := on.client.live_workers("transcribe_chunk")) != workers:
        if time.monotonic() > ends:
            raise EngineError(f"The server counts {seen} workers where {workers} were started.")
        time.sleep(LOOK_S)


def run_job(on: Ground, job: JobInput, timeout_s: float = 3600) -> Ran:
    """Submit and wait for the end. Raises JobError with Conductor's reason where it is not COMPLETED."""
    return run_jobs(on, [job], timeout_s)[0]


def run_jobs(on: Ground, jobs: Sequence[JobInput], timeout_s: float = 3600) -> list[Ran]:
    """Submit all at once; each one's seconds count from the submission of the first."""
    began = time.time()
    ids = [on.client.start(job.model_copy(update={"storage": on.storage}), "benchmark") for job in jobs]
    ends = time.monotonic() + timeout_s
    for job_id in ids:
        while (status := _status(on.client, job_id)) == "RUNNING":
            if time.monotonic() > ends:
                raise JobError(f"The benchmark's job {job_id} was not done after {timeout_s:.0f} s.")
            time.sleep(LOOK_S)
        if status != "COMPLETED":
            reason = on.client.workflow(job_id, tasks=False).get("reasonForIncompletion")
            raise JobError(f"The benchmark's job {job_id} ended as {status}: {reason}")
    told = [on.client.workflow(job_id) for job_id in ids]
    return [Ran(workflow["endTime"] / 1000 - began, workflow) for workflow in told]


def _status(client: Client, job_id: str) -> str:
    with suppress(TransientError):  # a busy server may let one look go unanswered
        return str(client.workflow(job_id, tasks=False)["status"])
    return "RUNNING"


def _wait_until_loaded(pool: "subprocess.Popen[bytes]", log: Path, processes: int) -> None:
    """The workers' log has one line for each loaded model. So this is for workers that take chunks."""
    ends = time.monotonic() + UP_S
    while log.read_text(errors="replace").count("tried it out in") < processes:
        if pool.poll() is not None or time.monotonic() > ends:
            raise EngineError(f"The benchmark's workers did not come up; their log ends: {log.read_text()[-400:]}")
        time.sleep(PAUSED_S)
