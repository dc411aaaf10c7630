"""The gateway by this machine's clock, and what it said last while it says nothing.

A gateway that is restarted or out of reach must cost no machine: its silence is not the workers' silence. Until it
speaks again the news stand still, and then every worker has as long again to be heard of as it ever had.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from provisioning.demand import Gateway
from provisioning.fleet import WorkerNews
from workers.errors import WhisperfleetError

CLOCKS_DIFFER_MS = 2_000  # less is the way there and back


@dataclass(frozen=True)
class Heard:
    """known: whether the gateway answered just now; problem: its sentence where it did not."""

    workers: dict[str, WorkerNews]
    known: bool
    problem: str | None = None


class Hearing:
    """What a controller asks of the gateway, with times of this machine's clock on this side."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._ahead_ms = 0
        self._news: dict[str, WorkerNews] = {}  # as last heard
        self._heard_ms: int | None = None
        self._silent = False
        self._back_ms = 0  # when it last spoke again after a silence

    def listen(self, now_ms: int) -> Heard:
        stood_still = 0 if self._heard_ms is None else now_ms - self._heard_ms
        try:
            theirs, news = self._gateway.workers()
        except WhisperfleetError as error:
            self._silent = True
            frozen = {nonce: _moved(one, stood_still) for nonce, one in self._news.items()}
            return Heard(frozen, False, str(error))
        self._ahead_ms = theirs - now_ms if abs(theirs - now_ms) > CLOCKS_DIFFER_MS else 0
        fresh = {nonce: _moved(one, -self._ahead_ms) for nonce, one in news.items()}
        if self._silent:
            self._silent, self._back_ms = False, now_ms
        for nonce, before in self._news.items():
            if before.last_seen_ms is not None and before.last_seen_ms <= self._back_ms:
                fresh[nonce] = self._excused(fresh.get(nonce, before), before)
        self._news, self._heard_ms = fresh, now_ms
        return Heard(dict(fresh), True)

    def admit(self, nonce: str, kinds: Sequence[str], expires_ms: int) -> str:
        return self._gateway.admit(nonce, kinds, expires_ms + self._ahead_ms)

    def lose(self, nonce: str) -> tuple[str, ...]:
        freed = self._gateway.lose(nonce)
        self._news.pop(nonce, None)
        return freed

    def drain(self, nonce: str) -> None:
        self._gateway.drain(nonce)

    def _excused(self, now: WorkerNews, before: WorkerNews) -> WorkerNews:
        """A gateway that started anew knows nobody, and who could not speak to it is not silent since before that."""
        seen = max(now.last_seen_ms or 0, self._back_ms)
        return replace(now, first_seen_ms=now.first_seen_ms or before.first_seen_ms, last_seen_ms=seen)


def _moved(news: WorkerNews, by_ms: int) -> WorkerNews:
    def move(at_ms: int | None) -> int | None:
        return None if at_ms is None else at_ms + by_ms

    return replace(
        news,
        first_seen_ms=move(news.first_seen_ms),
        last_seen_ms=move(news.last_seen_ms),
        last_task_ms=move(news.last_task_ms),
    )
