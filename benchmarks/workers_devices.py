"""Pure: N workers on M devices, simulated. No GPU is asked; the assumptions are these.

* A chunk needs `host` seconds of a processor core (fetch, decode, voice activity, tokens) and then `device` seconds of
  a device, which is for itself as fast for every worker. Lengths vary by a log-normal factor, drawn by a seed.
* Workers are dealt out to devices in turn: worker 4 of 3 devices is on the first again.
* A device is shared fairly: k workers at work on it get 1/k of it each. Alone a worker uses the share `filled` of it
  (launches, waits and transfers leave the rest idle), so a second one can use what is left.
* `overlapped`: while a worker's chunk is on the device it prepares the next one, as Whisperfleet's two lanes do;
  otherwise one comes after the other, as in a plain loop over files.
* `together`: all workers are threads of one process, which prepare one after the other (Python's global lock); so it
  is with num_workers of one model. Otherwise each is a process, and `cores` of them prepare at once.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

NEVER = float("inf")
DONE = 1e-9  # seconds of work that are none: what rounding leaves


@dataclass(frozen=True)
class Setup:
    """Who works on what. filled: share of a device that one worker alone can use, over 0 to 1."""

    workers: int
    devices: int
    overlapped: bool = True
    together: bool = False
    filled: float = 1.0
    cores: int = 8


@dataclass(frozen=True)
class Task:
    """Seconds that a chunk takes of a core, and then of a device that nobody else uses."""

    host: float
    device: float


@dataclass
class _Worker:
    """What one worker has left to do; None: nothing."""

    gpu: int
    host: float | None = None
    ready: float | None = None
    device: float | None = None
    next_device: float = 0.0


def chunks(count: int, host: float, device: float, jitter: float, seed: int) -> tuple[Task, ...]:
    """`count` chunks of about so many seconds; both parts of one vary alike, by a factor with the median 1."""
    dice = random.Random(seed)
    factors = [dice.lognormvariate(0.0, jitter) for _ in range(count)]
    return tuple(Task(host * factor, device * factor) for factor in factors)


def makespan(setup: Setup, tasks: Sequence[Task]) -> float:
    """Seconds until the last chunk is done, each taken by whoever is free first."""
    workers = [_Worker(number % setup.devices) for number in range(setup.workers)]
    waiting = deque(tasks)
    now = 0.0
    while True:
        for worker in workers:
            _begin(worker, waiting, setup)
        host, device = _speeds(workers, setup)
        left = [
            part / speed
            for worker, on in zip(workers, device, strict=True)
            for part, speed in ((worker.host, host), (worker.device, on))
            if part is not None
        ]
        if not left:
            return now
        step = min(left)
        now += step
        for worker, on in zip(workers, device, strict=True):
            _advance(worker, step, host, on)


def _begin(worker: _Worker, waiting: deque[Task], setup: Setup) -> None:
    """What is prepared goes to the device once that is free; then the next may be prepared."""
    if worker.device is None and worker.ready is not None:
        worker.device, worker.ready = worker.ready, None
    free = worker.host is None and worker.ready is None and (setup.overlapped or worker.device is None)
    if free and waiting:
        task = waiting.popleft()
        worker.host, worker.next_device = task.host, task.device


def _speeds(workers: Sequence[_Worker], setup: Setup) -> tuple[float, list[float]]:
    """How fast each preparation goes, and each worker's part on its device: 1 is alone."""
    preparing = sum(worker.host is not None for worker in workers)
    room = 1 if setup.together else setup.cores
    busy = [0] * setup.devices
    for worker in workers:
        busy[worker.gpu] += worker.device is not None
    return (
        min(1.0, room / max(1, preparing)),
        [min(1.0, 1 / (setup.filled * max(1, busy[worker.gpu]))) for worker in workers],
    )


def _advance(worker: _Worker, step: float, host: float, device: float) -> None:
    if worker.host is not None:
        worker.host -= step * host
        if worker.host <= DONE:
            worker.host, worker.ready = None, worker.next_device
    if worker.device is not None:
        worker.device -= step * device
        if worker.device <= DONE:
            worker.device = None
