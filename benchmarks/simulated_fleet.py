"""A fleet whose inference is a sleep, and the real worker for media, as a benchmark drives them."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.fleet import Ground, wait_until_counted
from benchmarks.simulated import Nursery, Simulated, encoded, journal_of
from workers.errors import EngineError
from workers.lanes import MEDIA_TASKS
from workers.settings import worker_environment

ANSWER_S = 60.0
SEEN_S = 60.0  # a worker that is gone counts as alive for 20 s
LOOK_S = 0.25


@dataclass(frozen=True)
class Inference:
    """One chunk at one simulated engine, in seconds since the epoch; ended None: killed before its end.

    factor: by which it takes longer than its audio_s let expect.
    """

    worker: str
    began: float
    ended: float | None
    audio_s: float
    factor: float = 1.0


@dataclass
class SimulatedFleet:
    """Workers by name. Use `simulated_fleet`."""

    on: Ground
    process: "subprocess.Popen[str]"
    told: SimpleQueue[dict[str, Any]] = field(default_factory=SimpleQueue)
    names: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, workers: Sequence[Simulated]) -> None:
        """Returns once all of them take tasks."""
        with self.lock:
            self._order(do="start", workers=encoded(workers))
            self.names += [worker.name for worker in workers]
            for _ in workers:
                self._answer("ready")

    def kill(self, names: Sequence[str]) -> None:
        """SIGKILL; returns once they are gone."""
        with self.lock:
            self._order(do="kill", names=list(names))
            self.names = [name for name in self.names if name not in names]
            self._answer("killed")

    def processor_seconds(self) -> float:
        """Of all workers that there were."""
        with self.lock:
            self._order(do="usage")
            return float(self._answer("used")["seconds"])

    def wait_until_seen(self) -> None:
        """Until the server counts just these workers: the chunk plan is made for as many."""
        wait_until_counted(self.on, len(self.names))

    def inferences(self, since: float) -> list[Inference]:
        """Those that began after `since`, as they began."""
        lines = [json.loads(line) for line in journal_of(self.on.home).read_text().splitlines()]
        return paired([line for line in lines if line["at"] >= since])

    def _order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise EngineError(f"The simulated workers are gone; their log is in {self.on.home}.") from error

    def _answer(self, event: str) -> dict[str, Any]:
        try:
            told = self.told.get(timeout=ANSWER_S)
        except Empty:
            told = {"event": "nothing"}
        if told["event"] != event:
            raise EngineError(f"The simulated workers told {told['event']}, not {event}: see their log.")
        return told


def paired(lines: Sequence[dict[str, Any]]) -> list[Inference]:
    """Begins and ends of one worker alternate; an end without its begin belongs to what was before."""
    found: list[Inference] = []
    running: dict[str, Inference] = {}
    for line in sorted(lines, key=lambda line: float(line["at"])):
        last = running.pop(line["worker"], None)
        if line["event"] == "ends" and last is not None:
            found.append(replace(last, ended=line["at"]))
        elif line["event"] == "begins":
            found += [last] if last is not None else []
            running[line["worker"]] = Inference(line["worker"], line["at"], None, line["seconds"], line["factor"])
    return sorted([*found, *running.values()], key=lambda inference: inference.began)


@contextmanager
def simulated_fleet(on: Ground) -> Iterator[SimulatedFleet]:
    """A nursery without workers; all that are started end with the block."""
    nursery = Nursery(on.url, str(journal_of(on.home)))
    # numpy's own threads would not survive the fork
    environment = worker_environment(
        WHISPERFLEET_HOME=str(on.home), WHISPERFLEET_STORAGE=on.storage, OPENBLAS_NUM_THREADS="1"
    )
    with (on.home / "simulated.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.simulated", json.dumps(asdict(nursery))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        )
    fleet = SimulatedFleet(on, process)
    listener = threading.Thread(target=_listen, args=(fleet,), daemon=True)
    listener.start()
    try:
        fleet._answer("nursery")
        yield fleet
    finally:
        _close(process)
        listener.join()


def _listen(fleet: SimulatedFleet) -> None:
    assert fleet.process.stdout is not None
    for line in fleet.process.stdout:
        fleet.told.put(json.loads(line))
    fleet.told.put({"event": "that they ended"})


def _close(process: "subprocess.Popen[str]") -> None:
    """Its input's end ends it and its workers."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def media_worker(on: Ground) -> Iterator[psutil.Process]:
    """`whisperfleet worker` for plan, split and stitch, seen by the server."""
    command = [
        *(sys.executable, "-m", "workflows.cli", "worker", "--server", on.url),
        *("--processes", "1", "--tasks", ",".join(MEDIA_TASKS)),
    ]
    environment = worker_environment(WHISPERFLEET_HOME=str(on.home), WHISPERFLEET_STORAGE=on.storage)
    log = on.home / "media.log"
    with log.open("w") as file:
        pool = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        ends = time.monotonic() + SEEN_S
        while on.client.live_workers("plan_media") == 0:
            if pool.poll() is not None or time.monotonic() > ends:
                raise EngineError(f"The worker for media did not come up; its log ends: {log.read_text()[-400:]}")
            time.sleep(LOOK_S)
        yield psutil.Process(pool.pid)
    finally:
        pool.terminate()
        try:
            pool.wait(15)
        except subprocess.TimeoutExpired:
            pool.kill()
            pool.wait()


def tree_seconds(root: psutil.Process) -> float:
    """Processor seconds of a process, its living descendants, and those that they waited for."""
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
            total += getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
    return total


def wiped(folder: Path) -> None:
    """Empty a storage folder: results are kept by content, so a second run of a job would find all of it done."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
