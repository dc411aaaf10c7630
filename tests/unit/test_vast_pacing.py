"""The market's endpoints are asked no more often than they allow, by however many threads, on whatever clock."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning.vast_pacing import GAPS, LONGEST_BACKOFF, PATIENCE, Pacer, TooSoon, retry_after


class Time:
    """A clock that stands still unless somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.lists(st.tuples(st.sampled_from(sorted(GAPS)), st.floats(0, 10), st.floats(0, 3)), max_size=30))
def test_no_two_calls_of_an_endpoint_come_closer_than_its_gap(calls: list[tuple[str, float, float]]) -> None:
    time = Time()
    pacer = Pacer(time, time.sleep)
    last: dict[str, float] = {}
    for endpoint, before, taking in calls:
        time.now += before
        with pacer.turn(endpoint):
            assert time.now - last.get(endpoint, 0.0) >= GAPS[endpoint] - 1e-6
            time.now += taking
            last[endpoint] = time.now


def test_endpoints_do_not_wait_for_each_other() -> None:
    time = Time()
    pacer = Pacer(time, time.sleep)
    for endpoint in GAPS:
        with pacer.turn(endpoint):
            pass
    assert time.now == 1000.0


def test_threads_take_turns() -> None:
    time = Time()
    pacer = Pacer(time, time.sleep)
    starts: list[float] = []

    def ask() -> None:
        for _ in range(5):
            with pacer.turn("list"):
                starts.append(time.now)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert starts == [1000.0 + number * GAPS["list"] for number in range(20)]


def test_a_refusal_holds_back_for_as_long_as_it_says() -> None:
    time = Time()
    pacer = Pacer(time, time.sleep)
    assert pacer.refused("list", 7.0) == 7.0
    with pacer.turn("list"):
        assert time.now == 1007.0
    pacer.refused("list", 90.0)
    with pytest.raises(TooSoon) as soon, pacer.turn("list"):
        pass
    assert soon.value.seconds == 90.0
    assert time.now == 1007.0, "nobody is kept for longer than PATIENCE"
    time.now += 90.0 - PATIENCE
    with pacer.turn("list"):
        assert time.now == 1097.0


def test_refusals_in_a_row_hold_back_longer_and_an_answer_ends_that() -> None:
    time = Time()
    pacer = Pacer(time, time.sleep)
    assert [pacer.refused("destroy", None) for _ in range(7)] == [6.0, 12.0, 24.0, 48.0, 96.0, LONGEST_BACKOFF, 120.0]
    pacer.accepted("destroy")
    assert pacer.refused("destroy", None) == 6.0
    assert pacer.refused("create", None) == 12.0, "the penalty for creating too fast"
    assert pacer.refused("create", 0.0) == GAPS["create"]


@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "90"}, None, 90.0),
        ({"retry-after": "1.5"}, {"retry_after": 9}, 1.5),
        ({}, {"retry_after": 9}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {"retry_after": "4"}, 4.0),
        ({"x-ratelimit-reset": "1790003600"}, {"error": "search_quota_exceeded"}, 3600.0),
        ({"x-ratelimit-reset": "30"}, None, 30.0),
        ({}, "API requests too frequent", None),
        ({"retry-after": "-5"}, {"retry_after": True}, None),
        ({"retry-after": "inf"}, {"retry_after": 1e12}, None),
    ],
)
def test_what_the_server_asks_to_wait(headers: dict[str, str], body: object, seconds: float | None) -> None:
    assert retry_after(headers, body, 1_790_000_000.0) == seconds
