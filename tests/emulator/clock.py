"""The time that the emulator and its clients live in: moved by hand, or the machine's own (perhaps faster).

Both run actions at given times. `sleep` is what a paced client calls, so that in virtual time a wait costs none.
"""

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

Action = Callable[[], None]


class Clock(Protocol):
    """now: epoch seconds."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def call_at(self, when: float, action: Action) -> None: ...


class _Agenda:
    """Actions by time; those of one time in the order in which they were entered."""

    def __init__(self) -> None:
        self._order = itertools.count()
        self._entries: list[tuple[float, int, Action]] = []

    def add(self, when: float, action: Action) -> None:
        heapq.heappush(self._entries, (when, next(self._order), action))

    def next_time(self) -> float | None:
        return self._entries[0][0] if self._entries else None

    def pop(self, until: float) -> tuple[float, Action] | None:
        if not self._entries or self._entries[0][0] > until:
            return None
        when, _, action = heapq.heappop(self._entries)
        return when, action


class VirtualClock:
    """Stands still until somebody sleeps on it or advances it; then runs what falls due, each at its own time.

    Actions run in the thread that moves the clock, with no lock held, so an action may call the API over http. Sleeps
    of several threads overlap, as they would in real time.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start
        self._agenda = _Agenda()
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))

    def advance(self, seconds: float) -> None:
        """Raises ValueError for a step back."""
        if seconds < 0:
            raise ValueError(f"time does not go back, and {seconds} s would")
        target = self._now + seconds
        while True:
            with self._lock:
                due = self._agenda.pop(target)
                self._now = max(self._now, target if due is None else due[0])
            if due is None:
                return
            due[1]()

    def call_at(self, when: float, action: Action) -> None:
        with self._lock:
            self._agenda.add(when, action)


class RealClock:
    """The machine's time from now on, `speed` times as fast. Use as a context: a thread runs what falls due.

    An error in an action ends the thread and is raised when the context is left.
    """

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._start = time.time()
        self._origin = time.monotonic()
        self._agenda = _Agenda()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._error: BaseException | None = None

    def now(self) -> float:
        return self._start + (time.monotonic() - self._origin) * self.speed

    def sleep(self, seconds: float) -> None:
        time.sleep(max(0.0, seconds) / self.speed)

    def call_at(self, when: float, action: Action) -> None:
        with self._changed:
            self._agenda.add(when, action)
            self._changed.notify_all()

    def __enter__(self) -> "RealClock":
        self._thread = threading.Thread(target=self._run, name="emulator-clock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        try:
            while action := self._wait_for_action():
                action()
        except BaseException as error:  # the thread has nobody to tell; the context raises it
            self._error = error

    def _wait_for_action(self) -> Action | None:
        with self._changed:
            while not self._stopping:
                due = self._agenda.pop(self.now())
                if due is not None:
                    return due[1]
                when = self._agenda.next_time()
                self._changed.wait(None if when is None else max(0.0, when - self.now()) / self.speed)
        return None
