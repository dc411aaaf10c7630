"""How a process finds out that there is work: it counts what waits, and polls only for what does."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from workers import lookout
from workers.lookout import LAST_PAUSE, Lookout
from workers.tasks import PolledTask, ServerSilent, TaskClient

KINDS = ("first", "second", "third")


class Server:
    """Queues by kind; late: tasks that are counted, and whose time is yet to come."""

    def __init__(self, counts: bool = True, alive: int | None = 1) -> None:
        self.counts = counts
        self.alive = alive
        self.queues: dict[str, int] = {}
        self.late: dict[str, int] = {}
        self.asked: list[str] = []

    def poll(self, kind: str) -> PolledTask | None:
        self.asked.append(kind)
        if not self.queues.get(kind):
            return None
        self.queues[kind] -= 1
        return PolledTask("t", "w", kind, "reference", {}, 1, 0, 10)

    def waiting(self, kinds: tuple[str, ...]) -> dict[str, int]:
        self.asked.append("what waits")
        return {kind: self.queues.get(kind, 0) + self.late.get(kind, 0) for kind in kinds}

    def live_workers(self, kind: str) -> int:
        if self.alive is None:
            raise ServerSilent("it restarts")
        return self.alive


def lookout_of(server: Server) -> Lookout:
    return Lookout(cast(TaskClient, server), KINDS, threading.Event())


def kind_of(task: PolledTask | None) -> str | None:
    return task.kind if task else None


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of workers.lookout."""
    now = [1000.0]
    monkeypatch.setattr(lookout, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_nobody_is_polled_where_nothing_waits(at: list[float]) -> None:
    server = Server()
    out = lookout_of(server)
    for _ in range(3):
        assert out.poll(KINDS, 0.1) is None
        at[0] += 0.2
    assert server.asked == ["what waits"] * 3


def test_one_count_serves_all_lanes_until_it_is_old_or_something_was_done(at: list[float]) -> None:
    server = Server()
    out = lookout_of(server)
    assert [out.poll(lane, 0.1) for lane in (KINDS[:1], KINDS[1:])] == [None, None]
    assert server.asked == ["what waits"]
    out.ended()
    assert out.poll(KINDS[:1], 0.1) is None
    assert server.asked == ["what waits"] * 2, "what follows a task may be there at once"


def test_what_waits_is_taken_in_the_lanes_order_and_each_task_once(at: list[float]) -> None:
    server = Server()
    server.queues = {"second": 2, "first": 1}
    out = lookout_of(server)
    taken = [kind_of(out.poll(KINDS, 0.1)) for _ in range(4)]
    assert taken == ["first", "second", "second", None]
    assert server.asked == ["what waits", "first", "second", "second"]


def test_a_task_whose_time_is_yet_to_come_is_asked_for_once_a_count(at: list[float]) -> None:
    server = Server()
    server.late = {"second": 1}
    out = lookout_of(server)
    for _ in range(3):
        assert out.poll(KINDS, 0.1) is None
    assert server.asked == ["what waits", "second"]
    assert not out.rest(KINDS, 0), "nor is it a reason to look more often"


def test_a_server_that_does_not_count_is_polled_for_every_kind(at: list[float]) -> None:
    server = Server(counts=False)
    server.queues = {"third": 1}
    assert kind_of(lookout_of(server).poll(KINDS, 0.1)) == "third"
    assert server.asked == list(KINDS)


def test_who_rests_does_not_wait_for_what_a_server_no_longer_counts() -> None:
    """It would be true for ever, and the lane would poll without a pause."""
    server = Server()
    server.queues = {"second": 1}
    out = lookout_of(server)
    assert out.poll(KINDS[:1], 0) is None
    server.queues, server.counts = {}, False
    assert out.poll(KINDS[1:2], 0) is None
    began = time.monotonic()
    assert not out.rest(KINDS, 0.2)
    assert time.monotonic() - began >= 0.2


def rested(out: Lookout, kinds: tuple[str, ...], then: Callable[[], object]) -> bool:
    """Whether `then` ends a rest of an hour, and what that says."""
    threading.Timer(0.05, then).start()
    began = time.monotonic()
    told = out.rest(kinds, 3600)
    assert time.monotonic() - began < 600
    return told


def test_who_rests_is_woken_by_what_another_lane_did_or_saw_and_by_the_end() -> None:
    server = Server()
    out = lookout_of(server)
    assert not out.rest(("first",), 0.01)
    assert rested(out, ("first",), out.ended)
    server.queues = {"first": 1}
    assert not rested(out, ("first",), lambda: out.poll(("second",), 0))
    assert kind_of(out.poll(("first",), 3600)) == "first", "without a further count"
    assert not rested(out, ("first",), out.draining.set)


def test_an_idle_process_looks_the_less_often_the_more_do_the_same(at: list[float]) -> None:
    def looks_a_second(alive: int | None, counts: bool = True) -> float:
        """Of all workers together, once they were counted."""
        out = lookout_of(Server(counts, alive))
        assert out.pause() == LAST_PAUSE, "how many there are is not known yet"
        at[0] += lookout.COUNT_AFTER + 1
        return (alive or 1) / out.pause()

    assert [round(looks_a_second(alive)) for alive in (1, 2, 4, 8, 40)] == [10, 20, 40, 40, 40]
    assert looks_a_second(64) == 64 / LAST_PAUSE
    assert round(looks_a_second(12, counts=False) * len(KINDS)) == 40, "of a server that does not count, polls"
    assert looks_a_second(None) == 1 / LAST_PAUSE, "a server that does not tell is spared"
