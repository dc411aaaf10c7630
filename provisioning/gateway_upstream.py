"""Conductor as the gateway asks it: few requests, whatever a thousand machines ask of the gateway.

An empty queue is asked at most every QUIET_S for each task type, and who is alive is passed on now and then.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from provisioning.gateway_leases import owner_of
from provisioning.gateway_limits import TokenBucket
from workers.errors import TransientError, one_line

QUIET_S = 0.05
ANNOUNCE_S = 8.0  # a worker is taken for gone after 20 s of silence (workers.tasks.PRESENCE_TTL_MS)
ANNOUNCES_PER_S = 25.0
MOST_KNOWN = 100
"""Machines that Conductor is told are alive, under as many domains. It keeps a queue for each domain for ever: one for
each machine that was ever rented would slow its every poll, and no plan cuts finer for more workers than these."""
SEAT_S = 30.0  # of silence, and the domain is another machine's
ANNOUNCING = 4  # at a time: polls would wait behind a pool full of them (0.9 s each, SQLite with 2,000 domains)
POLL_DATA_S = 2.0
POLLED_LATELY_MS = 60_000
"""Conductor forgets no domain, so each machine there ever was has a row; who counts the living asks for 20 s
(workers.tasks.PRESENCE_TTL_MS), and the two clocks may differ."""
SIZE_S = 4.0  # to wait for the length of a queue: whoever watches asks again soon
_TIMEOUT = httpx.Timeout(20.0, connect=5.0, pool=15.0)
_LIMITS = httpx.Limits(max_connections=16, max_keepalive_connections=16, keepalive_expiry=20.0)
"""Conductor answers in some milliseconds, so these carry a thousand requests a second; and httpcore looks at every idle
one for each request: with 64 that was a quarter of the gateway's time."""

Timed = Callable[[str, float], None]
"""Hears how long a request took: its name, seconds."""


class UpstreamSilent(TransientError):
    """Conductor did not answer, or with an error of its own."""

    exit_code = 4


@dataclass
class _Door:
    """What is known of one task type's queue: when it was found empty, and whether somebody is looking just now."""

    empty_at: float = float("-inf")
    looking: asyncio.Future[bool] | None = None


class Upstream:
    """server: Conductor's API, ending in /api. Every method raises UpstreamSilent where it does not answer."""

    def __init__(
        self, server: str, timed: Timed = lambda name, seconds: None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.server = server
        self._timed = timed
        self._http = httpx.AsyncClient(
            base_url=server.rstrip("/"), timeout=_TIMEOUT, limits=_LIMITS, transport=transport, trust_env=False
        )
        self._doors: dict[str, _Door] = {}
        self._announced: dict[tuple[str, str], float] = {}
        self._seats: dict[str, tuple[int, float]] = {}
        self._announces = TokenBucket(ANNOUNCES_PER_S, ANNOUNCES_PER_S)
        self._announcing: set[asyncio.Task[None]] = set()
        self._poll_data: dict[str, tuple[float, list[dict[str, Any]]]] = {}

    async def close(self) -> None:
        for task in self._announcing:
            task.cancel()
        await self._http.aclose()

    async def poll(self, kind: str, nonce: str, count: int = 1) -> list[dict[str, Any]]:
        """Up to `count` tasks, now held by the machine; none without asking while the queue was empty a moment ago."""
        door = self._doors.setdefault(kind, _Door())
        if time.monotonic() - door.empty_at < QUIET_S:
            return []
        if door.looking is not None:
            if not await asyncio.shield(door.looking):
                return []
            return await self._poll(door, kind, nonce, count)
        door.looking = asyncio.get_running_loop().create_future()
        found = False
        try:
            tasks = await self._poll(door, kind, nonce, count)
            found = bool(tasks)
            return tasks
        finally:
            door.looking.set_result(found)
            door.looking = None

    async def _poll(self, door: _Door, kind: str, nonce: str, count: int) -> list[dict[str, Any]]:
        answer = await self._ask("poll", "GET", f"/tasks/poll/batch/{kind}", params=_one_look(owner_of(nonce), count))
        found = answer.json() if answer.status_code == 200 and answer.content else []
        if not found:
            door.empty_at = time.monotonic()
        return [task for task in found if isinstance(task, dict) and task.get("taskId")]

    def stir(self, kind: str) -> None:
        """Something was put back in the queue: the next who asks is to look."""
        if kind in self._doors:
            self._doors[kind].empty_at = float("-inf")

    async def update(self, result: dict[str, Any]) -> bool:
        """Hand in what became of a task; False where Conductor knows no such task any more."""
        answer = await self._ask("update", "POST", "/tasks", json=result)
        return answer.status_code < 400

    async def task(self, task_id: str) -> dict[str, Any] | None:
        """A task as it stands; None where there is none of this id."""
        answer = await self._ask("task", "GET", f"/tasks/{quote(task_id, safe='')}")
        found = answer.json() if answer.status_code == 200 and answer.content else None
        return found if isinstance(found, dict) else None

    async def log(self, task_id: str, text: str) -> None:
        await self._ask("log", "POST", f"/tasks/{quote(task_id, safe='')}/log", content=text.encode())

    async def sizes(self, kinds: tuple[str, ...]) -> dict[str, int]:
        """How many tasks wait by kind."""

        async def size(kind: str) -> int:
            answer = await self._ask("queue", "GET", "/tasks/queue/size", params={"taskType": kind}, timeout=SIZE_S)
            return int(answer.json()) if answer.status_code == 200 and answer.content else 0

        return dict(zip(kinds, await asyncio.gather(*map(size, kinds)), strict=True))

    async def poll_data(self, kind: str) -> list[dict[str, Any]]:
        """Who polled when in the last POLLED_LATELY_MS; some seconds old at most."""
        asked_at, known = self._poll_data.get(kind, (float("-inf"), []))
        if time.monotonic() - asked_at < POLL_DATA_S:
            return known
        answer = await self._ask("polldata", "GET", "/tasks/queue/polldata", params={"taskType": kind})
        found = answer.json() if answer.status_code == 200 and answer.content else []
        since = time.time() * 1000 - POLLED_LATELY_MS
        lately = [row for row in found if isinstance(row, dict) and int(row.get("lastPollTime") or 0) >= since]
        self._poll_data[kind] = (time.monotonic(), lately)
        return self._poll_data[kind][1]

    def announce(self, kind: str, nonce: str) -> None:
        """Pass a sign of life on in the background: lost ones are forgiven, the next comes soon."""
        now = time.monotonic()
        if len(self._announcing) >= ANNOUNCING or (seat := self._seat(nonce, now)) is None:
            return
        if now - self._announced.get((kind, nonce), float("-inf")) < ANNOUNCE_S or not self._announces.take(1, now):
            return
        self._announced[kind, nonce] = now
        task = asyncio.get_running_loop().create_task(self._announce(kind, nonce, seat))
        self._announcing.add(task)
        task.add_done_callback(self._announcing.discard)

    def _seat(self, nonce: str, now: float) -> int | None:
        """The number of the domain that this machine is known under; None while all are taken."""
        if nonce not in self._seats:
            self._seats = {one: held for one, held in self._seats.items() if now - held[1] < SEAT_S}
            taken = {seat for seat, _ in self._seats.values()}
            free = next((seat for seat in range(1, MOST_KNOWN + 1) if seat not in taken), None)
            if free is None:
                return None
            self._seats[nonce] = (free, now)
        seat = self._seats[nonce][0]
        self._seats[nonce] = (seat, now)
        return seat

    def forget(self, nonce: str) -> None:
        self._seats.pop(nonce, None)
        self._announced = {key: at for key, at in self._announced.items() if key[1] != nonce}

    async def _announce(self, kind: str, nonce: str, seat: int) -> None:
        owner = owner_of(nonce)
        try:
            await self._ask(
                "announce",
                "GET",
                f"/tasks/poll/batch/{kind}",
                params={**_one_look(owner, 1), "domain": owner_of(str(seat))},
            )
        except UpstreamSilent:
            self._announced.pop((kind, nonce), None)

    async def alive(self) -> bool:
        try:
            answer = await self._ask("alive", "GET", "/metadata/taskdefs", timeout=8.0)
        except UpstreamSilent:
            return False
        return answer.status_code == 200

    async def _ask(self, name: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Raises UpstreamSilent for no answer and for one of 500 or above; others are for the caller to read."""
        began = time.perf_counter()
        try:
            answer = await self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise UpstreamSilent(f"Conductor at {self.server} does not answer ({one_line(error)}).") from error
        finally:
            self._timed(name, time.perf_counter() - began)
        if answer.status_code >= 500:
            raise UpstreamSilent(f"Conductor at {self.server} answered {method} {path} with {answer.status_code}.")
        return answer


def _one_look(owner: str, count: int) -> dict[str, Any]:
    """A poll that looks once. Conductor's plain poll of an empty queue takes 100 ms, and a thread of it for so long."""
    return {"workerid": owner, "count": count, "timeout": 0}
