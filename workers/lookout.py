"""What waits at the server, asked once for all lanes of a process.

A poll in vain costs the server 1 to 3 ms of a processor, and counting what waits of all nine kinds not more. Two
processes that asked for each kind in turn polled in vain 1350 times in the twenty seconds that ten short recordings
took. So a process counts, and polls only for what is there.
"""

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.errors import ServerError
from workers.tasks import PolledTask, ServerSilent, TaskClient

FIRST_PAUSE, LAST_PAUSE = 0.05, 1.0  # seconds between looks where nothing waits
FAIR_PAUSE = 0.1  # seconds that a process waits at least, once nothing came for a while
LOOKS_A_SECOND = 40
"""Of all workers together, at 1 ms of the server's processor each. A fixed pause is either felt in every short job or
too much for the server of a large fleet."""
COUNT_SECONDS = 10.0  # between two looks at how many do the same
COUNT_AFTER = 3.0  # seconds until the first, for those who started together to be there
GLANCE = 0.1  # seconds until one who rests sees that the process drains


@dataclass
class Lookout:
    """For the lanes of one process, which serves `kinds`. `poll` is for one lane at a time."""

    client: TaskClient
    kinds: tuple[str, ...]
    draining: threading.Event
    longest_pause: float = LAST_PAUSE
    _news: threading.Condition = field(default_factory=threading.Condition)
    _waiting: dict[str, int] = field(default_factory=dict)  # kind to how many, as of the last look
    _looked_at: float = float("-inf")
    _ended: int = 0  # tasks, by all lanes
    _workers: float = float("inf")
    _count_at: float = field(default_factory=lambda: time.monotonic() + COUNT_AFTER)

    def poll(self, kinds: Sequence[str], fresh_s: float) -> PolledTask | None:
        """A task of the first of `kinds` that has one; what waits is asked anew where it was asked `fresh_s` ago.

        Raises what TaskClient.poll does.
        """
        if self.client.counts and time.monotonic() - self._looked_at >= fresh_s:
            self._look()
        if not self.client.counts:
            self._waiting = {}  # or who rests would wait for nothing more
            return next((found for kind in kinds if (found := self.client.poll(kind))), None)
        for kind in kinds:
            left = self._waiting.pop(kind, 0)  # before it is asked for: in vain, it is not asked for again
            if left and (found := self.client.poll(kind)):
                if left > 1:
                    self._waiting[kind] = left - 1
                return found
        return None

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        found = self.client.waiting(self.kinds)
        with self._news:
            self._waiting = {kind: count for kind, count in found.items() if count}
            self._news.notify_all()

    def ended(self) -> None:
        """A task of this process is done: what follows it may be there at once, for any lane."""
        with self._news:
            self._ended += 1
            self._looked_at = float("-inf")
            self._news.notify_all()

    def rest(self, kinds: Sequence[str], seconds: float) -> bool:
        """Wait, but not on once something of `kinds` waits, nor once another lane has done something: then it is true.

        What waits may be a task whose time is yet to come, so it alone is no reason to look more often.
        """
        until = time.monotonic() + seconds
        with self._news:
            before = self._ended
            while self._ended == before and not any(kind in self._waiting for kind in kinds):
                left = until - time.monotonic()
                if left <= 0 or self.draining.is_set():
                    break
                self._news.wait(min(left, GLANCE))
            return self._ended != before

    def pause(self) -> float:
        """Seconds that an idle lane rests at most before the next look: the longer, the more workers look."""
        if time.monotonic() > self._count_at:
            self._count_at = time.monotonic() + COUNT_SECONDS
            with contextlib.suppress(ServerSilent, ServerError):  # then the last count will do
                self._workers = max(1, self.client.live_workers(self.kinds[0]))
        requests = 1 if self.client.counts else len(self.kinds)
        return min(max(FAIR_PAUSE, self._workers * requests / LOOKS_A_SECOND), self.longest_pause)
