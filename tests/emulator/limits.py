"""Who may call what, and how often: keys with scopes, and the shortest time between two calls of one endpoint.

The gaps are those that the market documents per endpoint and key (seconds); a search is ten in a minute.
"""

from collections import defaultdict, deque
from dataclasses import dataclass

GAPS_S = {
    "create": 4.5,
    "bid": 5.5,
    "destroy": 3.0,
    "show": 2.0,
    "list": 1.0,
    "charges": 1.0,
    "state": 1.0,
    "reboot": 1.0,
    "command": 1.5,
    "logs": 1.5,
}
CREATE_PENALTY_S = 12.0  # a create that came too early has to wait for that long from then
SEARCHES, SEARCH_WINDOW_S = 10, 60.0
# Real seconds: a client that waits exactly as long as it must is not at fault for how fast its packets travel.
TOLERANCE_S = 0.05

SCOPES = frozenset({"misc", "instance_read", "instance_write", "user_read", "user_write", "billing_read"})


@dataclass
class Key:
    """instance_id: a key of this one instance, good for starting, stopping and destroying it and nothing else."""

    value: str
    name: str
    scopes: frozenset[str] = SCOPES
    instance_id: int | None = None
    revoked: bool = False


class Limiter:
    """Remembers calls by endpoint and key. Calls that come too early are counted, and do not push the gap further."""

    def __init__(self, tolerance_s: float = TOLERANCE_S) -> None:
        self._tolerance_s = tolerance_s
        self.violations: list[tuple[float, str, str]] = []  # when, endpoint, name of the key
        self._next: dict[tuple[str, str], float] = {}
        self._searches: dict[str, deque[float]] = defaultdict(deque)

    def wait_s(self, endpoint: str, key: str, now: float) -> float:
        """Note a call. 0: it may pass; else so many seconds too early, and noted as a violation."""
        wait = self._search_wait(key, now) if endpoint == "search" else self._gap_wait(endpoint, key, now)
        if wait > self._tolerance_s:
            self.violations.append((now, endpoint, key))
            if endpoint == "create":
                self._next[endpoint, key] = now + CREATE_PENALTY_S
            return wait
        return 0.0

    def _gap_wait(self, endpoint: str, key: str, now: float) -> float:
        gap = GAPS_S.get(endpoint)
        if gap is None:
            return 0.0
        wait = self._next.get((endpoint, key), now) - now
        if wait <= self._tolerance_s:
            self._next[endpoint, key] = now + gap
        return wait

    def _search_wait(self, key: str, now: float) -> float:
        recent = self._searches[key]
        while recent and recent[0] <= now - SEARCH_WINDOW_S + self._tolerance_s:
            recent.popleft()
        if len(recent) >= SEARCHES:
            return recent[0] + SEARCH_WINDOW_S - now
        recent.append(now)
        return 0.0
