"""The worker processes of one machine: started, pinned, watched, restarted, stopped.

One process per GPU, pinned by CUDA_VISIBLE_DEVICES (a second on the same GPU gains little and
costs its memory); on a processor, `processes` times `threads`.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO

from workers.errors import EngineError, OptionError, WhisperfleetError, by_name
from workers.process import ProcessSpec
from workers.settings import worker_environment

THREADS_A_PROCESS = 4  # beyond four threads CTranslate2's gain per thread falls off; more processes gain more
ON_GPU = ("transcribe_chunk", "detect_language", "diarize_chunk")
MAX_QUICK_DEATHS = 4
QUICK_SECONDS = 20.0


@dataclass(frozen=True)
class PoolSpec:
    """How many processes, on what. processes and threads None: chosen from the machine."""

    server: str
    kinds: tuple[str, ...]
    engine: str
    model: str
    processes: int | None = None
    threads: int | None = None
    device: str = "auto"
    longest_pause: float = 1.0


@dataclass
class _Slot:
    """One process and what became of it."""

    spec: ProcessSpec
    gpu: int | None
    process: subprocess.Popen[str] | None = None
    state: str = "starting"
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_QUICK_DEATHS))


def plan_slots(spec: PoolSpec, gpus: int, cores: int, host: str, pid: int) -> list[tuple[ProcessSpec, int | None]]:
    """Pure: the processes to run, each with the GPU it is pinned to, or None.

    Raises OptionError where the device is not there.
    """
    device, _, wanted = spec.device.partition(":")
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"--device is '{spec.device}': write auto, cpu, cuda, or cuda:0,1.")
    if device == "cuda" and not gpus:
        raise OptionError("--device cuda, but this machine shows no usable GPU; `whisperfleet doctor` says why.")
    pinned: list[int | None]
    if gpus and device != "cpu":
        chosen = _gpu_numbers(spec.device, wanted, gpus)
        pinned = [chosen[i % len(chosen)] for i in range(spec.processes or len(chosen))]
    else:
        pinned = [None] * (spec.processes or max(1, cores // THREADS_A_PROCESS))
    threads = spec.threads or (0 if pinned[0] is not None else max(1, cores // len(pinned)))
    return [
        (
            ProcessSpec(
                server=spec.server,
                name=f"{host}-{pid}-{number}",
                kinds=spec.kinds,
                engine=spec.engine,
                model=spec.model,
                device="cpu" if gpu is None else "cuda",
                threads=threads,
                longest_pause=spec.longest_pause,
            ),
            gpu,
        )
        for number, gpu in enumerate(pinned)
    ]


def check_device(device: str) -> None:
    """Raises OptionError where this machine has no such device: told before a server is started."""
    if device not in ("auto", "cpu"):
        spec = PoolSpec(server="", kinds=("transcribe_chunk",), engine="", model="", device=device)
        plan_slots(spec, _count_gpus(spec), cores=1, host="", pid=0)


def _gpu_numbers(device: str, wanted: str, gpus: int) -> list[int]:
    if not wanted:
        return list(range(gpus))
    try:
        chosen = [int(part) for part in wanted.split(",")]
    except ValueError:
        chosen = [-1]
    if any(not 0 <= number < gpus for number in chosen):
        raise OptionError(f"--device is '{device}', but this machine has GPUs 0 to {gpus - 1}.")
    return chosen


class WorkerPool:
    """Runs the processes until `stop`; a context manager."""

    def __init__(self, spec: PoolSpec, log: IO[str] | None, say: Callable[[str], None] = lambda _: None) -> None:
        self._log = log
        self._say = say
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._failure: WhisperfleetError | None = None
        self.progress: dict[str, float] = {}  # task id to the share of it that is done, 0 to 1
        planned = plan_slots(spec, _count_gpus(spec), os.cpu_count() or 1, socket.gethostname(), os.getpid())
        self._slots = [_Slot(process, gpu) for process, gpu in planned]

    @property
    def size(self) -> int:
        return len(self._slots)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(slot.spec.name for slot in self._slots)

    def pids(self) -> list[int]:
        return [slot.process.pid for slot in self._slots if slot.process and slot.process.poll() is None]

    def start(self) -> None:
        for slot in self._slots:
            self._launch(slot)

    def wait_until(self, state: str, timeout_s: float) -> None:
        """Until every process is `up` (seen by the server) or `ready` (model loaded).

        Raises what a process failed with, EngineError after timeout_s.
        """
        reached = {"up": ("up", "ready"), "ready": ("ready",)}[state]
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not all(slot.state in reached for slot in self._slots):
                self.check()
                self._changed.wait(1.0)
                if time.monotonic() >= deadline:
                    raise EngineError(f"The workers were not {state} after {timeout_s:.0f} s.")

    def check(self) -> None:
        """Raises what made the processes give up, if they did."""
        if self._failure is not None:
            raise self._failure

    def wait(self) -> None:
        """Until stopped or given up; raises what they failed with."""
        while not self._stopping.wait(0.5):
            self.check()

    def drain(self) -> None:
        """Ask every process to finish what it holds, and take no more."""
        self._stopping.set()
        for slot in self._slots:
            if slot.process and slot.process.poll() is None:
                slot.process.terminate()

    def alive(self) -> bool:
        return bool(self.pids())

    def join(self, timeout_s: float) -> None:
        """Wait for the first living process to end, timeout_s at most."""
        process = next((slot.process for slot in self._slots if slot.process and slot.process.poll() is None), None)
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout_s)

    def kill(self) -> None:
        """End every process now; what they held is done again by others once its lease is over."""
        self._stopping.set()
        for slot in self._slots:
            if slot.process and slot.process.poll() is None:
                slot.process.kill()

    def stop(self, grace_s: float) -> None:
        """Drain, wait up to grace_s, then kill."""
        self.drain()
        deadline = time.monotonic() + grace_s
        for slot in self._slots:
            if slot.process is None:
                continue
            try:
                slot.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                slot.process.kill()
                slot.process.wait()
            if slot.process.stdin:
                slot.process.stdin.close()

    def __enter__(self) -> "WorkerPool":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(grace_s=3.0)

    def _launch(self, slot: _Slot) -> None:
        environment = worker_environment(PYTHONUNBUFFERED="1")
        if slot.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot.gpu)
        slot.state = "starting"
        slot.process = subprocess.Popen(
            [sys.executable, "-m", "workers.process", slot.spec.encode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        threading.Thread(target=self._listen, args=(slot, slot.process), daemon=True).start()

    def _listen(self, slot: _Slot, process: subprocess.Popen[str]) -> None:
        """Follow one process to its end; start another in its place unless the pool stops."""
        assert process.stdout is not None
        for line in process.stdout:
            self._heard(slot, line)
        code = process.wait()
        process.stdout.close()
        if not self._stopping.is_set() and self._failure is None:
            self._replace(slot, code)

    def _heard(self, slot: _Slot, line: str) -> None:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            return
        if not isinstance(event, dict) or "event" not in event:
            return  # nothing that the process says; whatever it is, the listener lives on
        if event["event"] == "progress":
            self.progress[event["task"]] = event["share"]
            return
        with self._changed:
            slot.state = event["event"]
            if slot.state == "failed":
                self._failure = by_name(event["error"])(event["reason"])
            self._changed.notify_all()

    def _replace(self, slot: _Slot, code: int) -> None:
        now = time.monotonic()
        slot.deaths.append(now)
        if len(slot.deaths) == MAX_QUICK_DEATHS and now - slot.deaths[0] < MAX_QUICK_DEATHS * QUICK_SECONDS:
            with self._changed:
                self._failure = EngineError(
                    f"Worker {slot.spec.name} died {MAX_QUICK_DEATHS} times in a row (last exit code {code}); "
                    "its log says why."
                )
                self._changed.notify_all()
            return
        self._say(f"Worker {slot.spec.name} ended (exit code {code}); starting another in its place.")
        # a new name: the server still takes the old one for alive, and a log should tell the two apart
        slot.spec = replace(slot.spec, name=f"{slot.spec.name.split('+')[0]}+{int(now * 1000) % 100000}")
        if not self._stopping.wait(min(8.0, 0.5 * 2 ** len(slot.deaths))):
            self._launch(slot)


def _count_gpus(spec: PoolSpec) -> int:
    """How many GPUs CTranslate2 can use here; asked only where there is work for one."""
    if spec.device == "cpu" or not any(kind in ON_GPU for kind in spec.kinds):
        return 0
    import ctranslate2

    return int(ctranslate2.get_cuda_device_count())
