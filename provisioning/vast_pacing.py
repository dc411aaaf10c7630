"""How often Vast.ai may be asked: one gap per endpoint, longer after it said that was too often.

The gaps are its own, the `x-rate-limit` of its published API description (`vast-ai/docs`, openapi): the least number of
seconds between two calls of one endpoint by one account, penalty included where creating too fast costs one. They count
from the end of a call, so that whatever the network does to a request the server never sees two of them closer.
"""

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

GAPS: dict[str, float] = {
    "create": 4.5,
    "change_bid": 5.5,
    "destroy": 3.0,
    "show": 2.0,
    "list": 1.0,
    "charges": 1.0,
    "logs": 1.5,
    "account": 1.0,
    "search": 6.0,  # ten a minute
}
PENALTY: dict[str, float] = {"create": 12.0}
LONGEST_BACKOFF = 120.0  # seconds, where the server does not say how long; it forgets within minutes
PATIENCE = 20.0  # seconds a caller is kept waiting; for more it is told to come back, and does other things


class TooSoon(Exception):
    """The endpoint is not to be asked for another `seconds`, which is more than a caller should be kept."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not before {seconds:.0f} s from now")
        self.seconds = seconds


@dataclass
class _Lane:
    """One endpoint: who asks it now, when it may be asked again, and how often it was too early in a row."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    not_before: float = -math.inf
    refusals: int = 0


class Pacer:
    """Lets one call at a time through to each endpoint, no sooner than it may. Safe to share between threads.

    clock and sleep: seconds; injected, so that a market with a virtual clock is paced by that.
    """

    def __init__(self, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._clock = clock
        self._sleep = sleep
        self._lanes = {endpoint: _Lane() for endpoint in GAPS}

    @contextmanager
    def turn(self, endpoint: str) -> Iterator[None]:
        """Wait until the endpoint may be asked, and keep others from it meanwhile.

        Raises TooSoon, and asks for no wait at all, where that is more than PATIENCE away.
        """
        lane = self._lanes[endpoint]
        with lane.lock:
            wait = lane.not_before - self._clock()
            if wait > PATIENCE:
                raise TooSoon(wait)
            if wait > 0:
                self._sleep(wait)
            try:
                yield
            finally:
                lane.not_before = max(lane.not_before, self._clock() + GAPS[endpoint])

    def accepted(self, endpoint: str) -> None:
        """It answered something else than "too often"."""
        self._lanes[endpoint].refusals = 0

    def refused(self, endpoint: str, retry_after: float | None) -> float:
        """It said "too often": hold back for as long as it said, else twice as long each time. Returns the seconds."""
        lane = self._lanes[endpoint]
        lane.refusals += 1
        least = PENALTY.get(endpoint, 2 * GAPS[endpoint])
        backoff = min(LONGEST_BACKOFF, least * 2 ** min(lane.refusals - 1, 10))
        seconds = backoff if retry_after is None else max(retry_after, GAPS[endpoint])
        lane.not_before = max(lane.not_before, self._clock() + seconds)
        return seconds


def retry_after(headers: dict[str, str], body: object, now_epoch_s: float) -> float | None:
    """Seconds the server asks to wait: its header, its JSON, or the time when a quota is given anew; else None.

    headers: with lower-case names. Whatever is no sensible number of seconds (a day at most) is not believed.
    """
    said: list[object] = [headers.get("retry-after")]
    if isinstance(body, dict):
        said.append(body.get("retry_after"))
    for value in said:
        if (seconds := _number(value)) is not None and 0 <= seconds <= 86_400:
            return seconds
    reset = _number(headers.get("x-ratelimit-reset"))
    if reset is None:
        return None
    seconds = reset - now_epoch_s if reset > 86_400 else reset  # an epoch time, or a number of seconds
    return seconds if 0 <= seconds <= 86_400 else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
