"""A rented machine's decisions: whatever is the matter, it ends, in time and for a reason; else it goes on."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.duty import DRAIN_SECONDS, REFUSALS, Drain, End, GoOn, Limits, Situation, decide
from workers.pulse import Heard, hear
from workers.supervisor import beat_seconds, read_report

LIMITS = Limits(ttl_s=6 * 3600, idle_s=900, silence_s=600)
WORKING = Situation(age_s=1000, silent_s=5, working=True)

seconds = st.floats(0, 1e5)
situations = st.builds(
    Situation,
    age_s=seconds,
    silent_s=seconds,
    idle_s=seconds,
    refusals=st.integers(0, 5),
    terminations=st.integers(0, 3),
    stop=st.booleans(),
    drain=st.booleans(),
    test_failure=st.none() | st.just("bad"),
    working=st.booleans(),
    worker_code=st.none() | st.integers(-9, 2),
    draining_s=st.none() | seconds,
)


@pytest.mark.parametrize(
    ("change", "reason", "failed"),
    [
        ({"age_s": LIMITS.ttl_s}, "time is over", False),
        ({"stop": True}, "wants it to stop", False),
        ({"test_failure": "no GPU"}, "self-test failed: no GPU", True),
        ({"refusals": REFUSALS}, "token", True),
        ({"silent_s": LIMITS.silence_s}, "has not answered", True),
        ({"terminations": 2}, "twice", False),
        ({"working": False, "worker_code": 1}, "ended by itself", True),
        ({"working": False, "worker_code": 0, "draining_s": 3.0}, "drained", False),
        ({"draining_s": DRAIN_SECONDS}, "did not drain in time", False),
        ({"working": False, "terminations": 1, "draining_s": 0.0}, "before it had begun", False),
    ],
)
def test_what_ends_it(change: dict[str, object], reason: str, failed: bool) -> None:
    decision = decide(replace(WORKING, **change), LIMITS)  # type: ignore[arg-type]
    assert isinstance(decision, End)
    assert reason in decision.reason
    assert decision.failed is failed


@pytest.mark.parametrize(
    "change",
    [{"terminations": 1}, {"drain": True}, {"idle_s": LIMITS.idle_s}, {"age_s": LIMITS.ttl_s - DRAIN_SECONDS}],
)
def test_what_drains_it_first(change: dict[str, object]) -> None:
    situation = replace(WORKING, **change)  # type: ignore[arg-type]
    assert isinstance(decide(situation, LIMITS), Drain)
    assert decide(replace(situation, draining_s=1.0), LIMITS) == GoOn()


def test_a_machine_that_works_or_is_tested_goes_on() -> None:
    assert decide(WORKING, LIMITS) == GoOn()
    assert decide(replace(WORKING, working=False), LIMITS) == GoOn()
    assert decide(replace(WORKING, refusals=REFUSALS - 1), LIMITS) == GoOn()


@given(situations)
def test_none_outlives_its_time_its_gateway_or_its_token(now: Situation) -> None:
    if now.age_s >= LIMITS.ttl_s or now.silent_s >= LIMITS.silence_s or now.refusals >= REFUSALS or now.stop:
        assert isinstance(decide(now, LIMITS), End)


@given(situations)
def test_none_goes_on_that_nobody_has_work_for(now: Situation) -> None:
    """Idle, drained or dead, it is on its way out, and that way has an end."""
    useless = now.idle_s >= LIMITS.idle_s or now.drain or now.worker_code is not None
    if useless and not now.working:
        assert not isinstance(decide(now, LIMITS), GoOn)
        assert isinstance(decide(replace(now, draining_s=DRAIN_SECONDS), LIMITS), End)


@given(situations, st.floats(0, 1e5))
def test_time_alone_brings_no_way_back(now: Situation, later: float) -> None:
    if isinstance(decide(now, LIMITS), End) and now.draining_s is None:
        after = replace(now, age_s=now.age_s + later, silent_s=now.silent_s + later)
        assert isinstance(decide(after, LIMITS), End)


# ---- what the gateway says ----


def test_a_stop_or_drain_once_said_stays() -> None:
    heard = hear(Heard(0.0, refusals=2), {"stop": True, "drain": True}, True, 1.0)
    assert hear(heard, {"stop": False, "drain": False}, True, 2.0) == Heard(2.0, 0, True, True)


def test_it_is_idle_from_the_last_task_that_the_gateway_knew_of() -> None:
    heard = Heard(0.0)
    told: list[tuple[dict[str, Any], bool]] = [
        ({"held": 0, "last_task_ms": None}, False),  # tested for a while
        ({"held": 0, "last_task_ms": None}, True),  # working now
        ({"held": 0, "last_task_ms": None}, True),
        ({"held": 1, "last_task_ms": 5}, True),
        ({"held": 0, "last_task_ms": 5}, True),
        ({"held": 0, "last_task_ms": 9}, True),  # one came and went between two beats
        ({"held": 0, "last_task_ms": 9}, True),
    ]
    busy = []
    for at, (answer, working) in enumerate(told):
        heard = hear(heard, answer, working, float(at))
        busy.append(heard.busy_at)
    assert busy == [0.0, 0.0, 0.0, 3.0, 3.0, 5.0, 5.0]


@given(
    st.dictionaries(st.sampled_from(["held", "last_task_ms", "stop", "drain", "time_ms"]), st.integers() | st.text())
)
def test_a_gateway_that_answers_oddly_is_alive_and_orders_nothing(answer: dict[str, Any]) -> None:
    heard = hear(Heard(0.0), answer, True, 7.0)
    assert heard.answered_at == 7.0
    assert not heard.stop
    assert not heard.drain


def test_a_gateway_that_does_not_tell_of_tasks_calls_nobody_idle() -> None:
    assert hear(Heard(0.0), {"time_ms": 5, "drain": False, "stop": False}, True, 3.0).busy_at is None


def test_short_limits_are_looked_at_more_often() -> None:
    assert beat_seconds(LIMITS) == 20.0
    assert beat_seconds(Limits(100, 900, 4)) == 1.0


@pytest.mark.parametrize(
    ("output", "ok"),
    [('{"ok": true, "rtfx": 3}\n', True), ('noise\n{"ok": true}', True), ("", False), ("[1]\n", False), ("{", False)],
)
def test_a_test_without_a_result_is_a_failed_one(output: str, ok: bool) -> None:
    report = read_report(output, -11)
    assert (report["ok"] is True) is ok
    assert ok or "-11" in report["reason"]
