"""How much of strangers a gateway bears: buckets against a model of them, the pace of a thousand idle workers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.gateway_limits import LONGEST_MS, POLLS_PER_S, SHORTEST_MS, Allowance, Pace, TokenBucket

STEPS = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 5)), max_size=60)


@given(rate=st.floats(0.1, 50), burst=st.integers(1, 50), steps=STEPS)
def test_no_stretch_of_time_gives_more_than_its_share(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    """Whatever is asked when: between any two moments at most the burst and what flowed in meanwhile."""
    bucket, now = TokenBucket(rate, burst), 0.0
    taken: list[tuple[float, int]] = []
    for pause, amount in steps:
        now += pause
        if bucket.take(amount, now):
            taken.append((now, amount))
    for first in range(len(taken)):
        total = 0
        for at, amount in taken[first:]:
            total += amount
            assert total <= burst + (at - taken[first][0]) * rate + 1e-6


@given(rate=st.floats(0.1, 50), burst=st.integers(1, 50), steps=STEPS)
def test_what_it_says_to_wait_is_enough_and_needed(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    bucket, now = TokenBucket(rate, burst), 0.0
    for pause, amount in steps:
        now += pause
        bucket.take(amount, now)
    wanted = min(3, burst)
    wait_s = bucket.wait(wanted, now)
    if wait_s > 1e-3:
        assert not bucket.take(wanted, now + wait_s - 1e-3 * wait_s - 1e-6 / rate)
    assert bucket.take(wanted, now + wait_s + 1e-6)


def test_bytes_that_were_sent_are_paid_before_the_next_request() -> None:
    allowance = Allowance(TokenBucket(100, 100), TokenBucket(1_000, 10_000))
    assert allowance.request(0.0) == 0.0
    allowance.sent.drain(12_000, 0.0)
    assert allowance.request(0.0) == pytest.approx(2.0, abs=0.01)
    assert allowance.request(2.1) == 0.0


def simulated_polls_per_s(workers: int, kinds: int, seconds: float = 60.0) -> float:
    """Idle workers that do as they are told, from a start all at once: polls a second in the last half."""
    dice = random.Random(1)
    pace = Pace(lambda: dice.uniform(0.8, 1.2))
    due = [(0.0, worker, kind) for worker in range(workers) for kind in range(kinds)]
    polls = 0
    import heapq

    heapq.heapify(due)
    while due[0][0] < seconds:
        now, worker, kind = heapq.heappop(due)
        pace.seen(f"w{worker}", f"k{kind}", round(now * 1000))
        polls += now > seconds / 2
        heapq.heappush(due, (now + pace.after_ms() / 1000, worker, kind))
    return polls / (seconds / 2)


@pytest.mark.parametrize("workers", [100, 1_000])
@pytest.mark.parametrize("kinds", [1, 3])
def test_idle_workers_poll_no_more_often_than_is_good_however_many_they_are(workers: int, kinds: int) -> None:
    assert simulated_polls_per_s(workers, kinds) == pytest.approx(POLLS_PER_S, rel=0.1)


def test_few_workers_poll_often_and_the_gone_do_not_count() -> None:
    pace = Pace(lambda: 1.0)
    assert pace.after_ms() == SHORTEST_MS
    for worker in range(100_000):
        pace.seen(f"w{worker}", "k", 0)
    assert pace.after_ms() == LONGEST_MS
    for now_ms in range(0, 120_000, 1_000):
        pace.seen("last", "k", now_ms)
    assert pace.after_ms() == SHORTEST_MS
