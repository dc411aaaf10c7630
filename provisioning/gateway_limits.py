"""How much of a stranger the gateway bears: requests and bytes of each machine, the pace of idle ones, tasks held.

Pure: whoever asks brings the time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

REQUESTS_PER_S, REQUESTS_BURST = 60.0, 240.0  # an SDK worker with three task types polls 30 times a second when idle
BYTES_PER_S, BYTES_BURST = 8e6, 128e6  # what a machine sends: a part of the windows of an hour is some 30 MB
MAX_HELD = 8  # two recognizer lanes and a diarizer lane hold three; an SDK worker as many as it has threads
POLLS_PER_S = 300.0  # of all idle machines together
SHORTEST_MS, LONGEST_MS = 50, 10_000  # of X-Poll-After-Ms; the longest is the time in which a machine may go silent
LIVE_MS = 30_000


@dataclass
class TokenBucket:
    """So many a second on average, `burst` at once. Starts full."""

    rate: float
    burst: float
    _level: float | None = None
    _at: float = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Whether `amount` was to be had now, in seconds of any steady clock; where not, nothing is taken."""
        level = self.burst if self._level is None else min(self.burst, self._level + (now - self._at) * self.rate)
        self._at = now
        self._level = level - amount if amount <= level else level
        return amount <= level

    def drain(self, amount: float, now: float) -> None:
        """Take what was used already; the bucket may then be below empty for a while."""
        self.take(0.0, now)
        self._level = (self._level or 0.0) - amount

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` is to be had, if nobody else takes of it."""
        self.take(0.0, now)
        return max(0.0, (min(amount, self.burst) - (self._level or 0.0)) / self.rate)


@dataclass
class Allowance:
    """What one machine may ask for."""

    requests: TokenBucket = field(default_factory=lambda: TokenBucket(REQUESTS_PER_S, REQUESTS_BURST))
    sent: TokenBucket = field(default_factory=lambda: TokenBucket(BYTES_PER_S, BYTES_BURST))

    def request(self, now: float) -> float:
        """0 where a request is allowed, else seconds to wait."""
        owed_s = self.sent.wait(1.0, now)
        if owed_s > 0:
            return owed_s
        return 0.0 if self.requests.take(1.0, now) else self.requests.wait(1.0, now)


class Pace:
    """How long idle workers are asked to wait between two polls, so that all together stay below POLLS_PER_S.

    Each (machine, task type) that polled lately counts: that is how often a round of polls comes. jitter gives factors
    about 1, so that workers that were started together do not poll together for ever.
    """

    def __init__(self, jitter: Callable[[], float], polls_per_s: float = POLLS_PER_S) -> None:
        self._jitter = jitter
        self._polls_per_s = polls_per_s
        self._seen: dict[tuple[str, str], int] = {}
        self._swept_ms = 0

    def seen(self, nonce: str, kind: str, now_ms: int) -> None:
        self._seen[nonce, kind] = now_ms
        if now_ms - self._swept_ms > LIVE_MS / 4:
            self._seen = {key: at for key, at in self._seen.items() if now_ms - at < LIVE_MS}
            self._swept_ms = now_ms

    def after_ms(self) -> int:
        wanted = 1000 * len(self._seen) / self._polls_per_s * self._jitter()
        return round(min(LONGEST_MS, max(SHORTEST_MS, wanted)))
