"""The gateway's clock is put right, and its silence is not taken for the workers'."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from provisioning.demand import GatewaySilent
from provisioning.fleet import WorkerNews
from provisioning.hearing import Hearing

T0 = 1_800_000_000_000
NEWS = WorkerNews("abcd", T0, T0 + 50_000, T0 + 40_000, 1, 60_000, 3, 180_000, 9_000, rtfx=20.0)


class Told:
    """A gateway that says what it is told to, by a clock that is `ahead_ms` ahead."""

    def __init__(self) -> None:
        self.news: dict[str, WorkerNews] = {"abcd": NEWS}
        self.now_ms = T0 + 60_000
        self.ahead_ms = 0
        self.silent = False
        self.admitted: list[int] = []

    def admit(self, nonce: str, kinds: Sequence[str], expires_ms: int) -> str:
        self.admitted.append(expires_ms)
        return "token"

    def lose(self, nonce: str) -> tuple[str, ...]:
        self.news.pop(nonce, None)
        return ("task",)

    def drain(self, nonce: str) -> None: ...

    def workers(self) -> tuple[int, dict[str, WorkerNews]]:
        if self.silent:
            raise GatewaySilent("It is silent.")
        moved = {
            nonce: replace(
                one,
                first_seen_ms=None if one.first_seen_ms is None else one.first_seen_ms + self.ahead_ms,
                last_seen_ms=None if one.last_seen_ms is None else one.last_seen_ms + self.ahead_ms,
                last_task_ms=None if one.last_task_ms is None else one.last_task_ms + self.ahead_ms,
            )
            for nonce, one in self.news.items()
        }
        return self.now_ms + self.ahead_ms, moved


@pytest.mark.parametrize("ahead_ms", [0, 1_500, 600_000, -600_000])
def test_news_come_by_our_clock_and_expiries_go_by_theirs(ahead_ms: int) -> None:
    told = Told()
    told.ahead_ms = ahead_ms
    hearing = Hearing(told)
    heard = hearing.listen(told.now_ms)
    assert heard.known
    slack = 2_000 if abs(ahead_ms) <= 2_000 else 0  # that little is how long an answer takes, and left alone
    last_seen = heard.workers["abcd"].last_seen_ms
    assert last_seen is not None
    assert abs(last_seen - (T0 + 50_000)) <= slack
    hearing.admit("efgh", (), T0 + 3_600_000)
    assert abs(told.admitted[0] - (T0 + 3_600_000 + ahead_ms)) <= slack


def test_nobody_grows_older_while_the_gateway_is_silent() -> None:
    told = Told()
    hearing = Hearing(told)
    hearing.listen(T0 + 60_000)
    told.silent = True
    heard = hearing.listen(T0 + 660_000)
    assert not heard.known
    assert heard.problem == "It is silent."
    assert heard.workers["abcd"].last_seen_ms == T0 + 650_000  # ten seconds ago, as it was when it was last heard of
    assert heard.workers["abcd"].chunks_done == 3


def test_after_a_silence_everybody_has_as_long_again() -> None:
    told = Told()
    hearing = Hearing(told)
    hearing.listen(T0 + 60_000)
    told.silent = True
    hearing.listen(T0 + 70_000)
    told.silent, told.news, told.now_ms = False, {}, T0 + 900_000  # it was started anew and knows nobody
    heard = hearing.listen(T0 + 900_000)
    assert heard.workers["abcd"].last_seen_ms == T0 + 900_000
    assert heard.workers["abcd"].first_seen_ms == T0
    told.now_ms = T0 + 1_200_000
    later = hearing.listen(T0 + 1_200_000)  # and is not heard of for five minutes then
    assert later.workers["abcd"].last_seen_ms == T0 + 900_000
    told.news = {"abcd": replace(NEWS, first_seen_ms=None, last_seen_ms=T0 + 1_205_000)}
    told.now_ms = T0 + 1_210_000
    assert hearing.listen(T0 + 1_210_000).workers["abcd"].last_seen_ms == T0 + 1_205_000


def test_who_is_lost_is_not_remembered() -> None:
    told = Told()
    hearing = Hearing(told)
    hearing.listen(T0 + 60_000)
    told.silent = True
    hearing.listen(T0 + 70_000)
    told.silent = False
    assert hearing.lose("abcd") == ("task",)
    assert hearing.listen(T0 + 80_000).workers == {}


def test_a_gateway_that_never_spoke() -> None:
    told = Told()
    told.silent = True
    heard = Hearing(told).listen(T0)
    assert (heard.workers, heard.known) == ({}, False)
