"""What a command needs around its jobs: a server, perhaps workers, and a clean end of all it started."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from workers.errors import WhisperfleetError
from workers.lanes import ALL_TASKS
from workers.pool import PoolSpec, WorkerPool
from workers.settings import Settings
from workflows.client import Client
from workflows.display import Display
from workflows.watch import Watched, watch

UP_SECONDS = 120.0  # a worker's imports and first sign of life, on a machine that swaps
EMBEDDED_PAUSE = 0.25  # seconds between an idle worker's polls: on one machine a late poll costs more than an early one


@dataclass(frozen=True)
class WorkerWish:
    """What workers the command wants here.

    processes None: as many as the machine suggests where the server is embedded, else none.
    """

    engine: str
    model: str
    processes: int | None = None
    threads: int | None = None
    device: str = "auto"


@dataclass
class Session:
    """A server in use, with the pool of this command's own workers, if any."""

    client: Client
    pool: WorkerPool | None

    def check(self) -> None:
        """Raises what made this command's own workers give up."""
        if self.pool is not None:
            self.pool.check()

    def progress(self) -> Mapping[str, float]:
        """Of the tasks that this command's own workers are at."""
        return self.pool.progress if self.pool is not None else {}

    def run(self, beginning: Iterable[Watched], display: Display, follow: bool) -> list[Watched]:
        """Begin the jobs one by one and watch them to their end.

        Whatever interrupts that cancels those that are not over, also when not all had begun.
        """
        jobs: list[Watched] = []
        try:
            for job in beginning:
                jobs.append(job)  # one at a time: what has begun must be known when the next one fails to
            watch(self.client, jobs, display, follow, self.check, self.progress)
            return jobs
        except (WhisperfleetError, KeyboardInterrupt) as error:
            reason = str(error) or "cancelled by its user"
            for job in jobs:
                if not job.over:
                    with contextlib.suppress(WhisperfleetError):  # a server that is gone has nothing to cancel
                        self.client.cancel(job.id, reason)
            raise


@contextlib.contextmanager
def connected(settings: Settings, display: Display) -> Iterator[Client]:
    """A server with our definitions on it: the one named, or the embedded one for as long as this lasts."""
    from provisioning.conductor import ensure

    with ensure(settings, display.note) as lease:
        client = Client(lease.url)
        client.check()
        client.register(force=settings.server is None)  # our own server gets this version's definitions
        yield client


@contextlib.contextmanager
def session(settings: Settings, wish: WorkerWish, display: Display) -> Iterator[Session]:
    """A connected client, with workers here if wished or if the server is the embedded one."""
    with connected(settings, display) as client:
        if settings.server is not None and wish.processes is None:
            yield Session(client, None)
            return
        spec = PoolSpec(
            server=client.server,
            kinds=ALL_TASKS,
            engine=wish.engine,
            model=wish.model,
            processes=wish.processes,
            threads=wish.threads,
            device=wish.device,
            longest_pause=EMBEDDED_PAUSE if settings.server is None else 1.0,
        )
        with worker_log(settings) as log, WorkerPool(spec, log, display.warn) as pool:
            pool.wait_until("up", UP_SECONDS)
            yield Session(client, pool)


@contextlib.contextmanager
def worker_log(settings: Settings) -> Iterator[IO[str]]:
    """The file that this machine's workers write to; the last run's is kept beside it."""
    path = worker_log_path(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > 5_000_000:
        path.replace(path.with_suffix(".old.log"))
    with path.open("a", encoding="utf-8") as log:
        yield log


def worker_log_path(settings: Settings) -> Path:
    return settings.home / "logs" / "workers.log"


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C (or SIGTERM) once raises KeyboardInterrupt, so that everything is closed; a second one ends at once.

    Ending at once leaves nothing running either: workers end with their standard input, and the
    embedded server with its last user.
    """

    def second(_number: int, _frame: FrameType | None) -> None:
        os._exit(130)

    def first(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, second)
        signal.signal(signal.SIGTERM, second)
        print("\nStopping; press Ctrl-C again to stop at once.", file=sys.stderr)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, first), signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
