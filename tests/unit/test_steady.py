"""A clock that somebody sets moves nothing."""

import time

import pytest

from provisioning.reconcile import SystemClock


@pytest.mark.parametrize("set_by_s", [-7_200, 7_200])
def test_a_clock_that_is_set_is_not_followed(set_by_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, before_ms = SystemClock(), time.time() * 1000
    assert abs(clock.now_ms() - before_ms) < 60_000
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + set_by_s * 10**9)
    monkeypatch.setattr(time, "time", lambda: real() / 1e9 + set_by_s)
    assert abs(clock.now_ms() - before_ms) < 60_000
