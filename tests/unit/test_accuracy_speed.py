"""The schedule that the accuracy benchmark computes, against a simulation that goes millisecond by millisecond."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.accuracy_runs import Length
from benchmarks.accuracy_speed import Pace, cut_lengths_s, efficiency, makespan, shift_of
from workers.spans import Span

PACE = Pace(rate=2.0, split_rate=50.0, chunk_s=0.03, hand_out_s=0.01, begin_s=0.2, end_s=0.1)
"""All of whole milliseconds for chunks of whole tenths of a second."""


@dataclass
class Worker:
    """chunk: the index of the one in hand; until: when it is done, in ms, known once it is cut."""

    chunk: int | None = None
    until: int | None = None


def simulated_ms(chunks_ms: list[int], workers: int) -> int:
    """Every millisecond: who is done is free, who waits for a chunk that is cut begins, and one is handed out."""
    cut_ms = [200 + sum(chunks_ms[: index + 1]) // 50 for index in range(len(chunks_ms))]
    staff = [Worker() for _ in range(workers)]
    next_chunk, now, handed_at = 0, 200, 0
    receiver: Worker | None = None
    while True:
        for worker in staff:
            if worker.until is not None and worker.until <= now:
                worker.chunk = worker.until = None
        if receiver is not None and now >= handed_at:
            receiver.chunk, next_chunk, receiver = next_chunk, next_chunk + 1, None
        for worker in staff:
            if worker.chunk is not None and worker.until is None and cut_ms[worker.chunk] <= now:
                worker.until = now + chunks_ms[worker.chunk] // 2 + 30
        idle = [worker for worker in staff if worker.chunk is None]
        if receiver is None and next_chunk < len(chunks_ms) and idle:
            receiver, handed_at = idle[0], now + 10
        if next_chunk == len(chunks_ms) and len(idle) == workers:
            return now + 100
        now += 1


@settings(max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 5))
def test_the_schedule_is_that_of_a_simulation(tenths: list[int], workers: int) -> None:
    expected = simulated_ms([tenth * 100 for tenth in tenths], workers)
    assert makespan([tenth / 10 for tenth in tenths], workers, PACE) == pytest.approx(expected / 1000, abs=1e-6)


@given(st.lists(st.floats(1, 900), min_size=1, max_size=50), st.integers(1, 64))
def test_nobody_is_faster_than_the_ideal(chunks_s: list[float], workers: int) -> None:
    assert 0 < efficiency(chunks_s, workers, Pace()) < 1


def test_one_worker_takes_the_sum() -> None:
    pace = Pace(split_rate=1e9)
    expected = 300 / 13 + 3 * (pace.chunk_s + pace.hand_out_s) + pace.begin_s + pace.end_s
    assert makespan([100.0] * 3, 1, pace) == pytest.approx(expected, abs=1e-6)


@given(st.integers(60_000, 6_000_000), st.sampled_from([30, 60, 300]), st.lists(st.floats(-1, 1), max_size=5))
def test_moved_cuts_still_tile_the_recording(duration_ms: int, seconds: int, shifts: list[float]) -> None:
    length = Length("", seconds)
    found = cut_lengths_s(length, duration_ms, shifts, seed=1)
    assert len(found) == len(length.cuts(duration_ms)) + 1
    assert sum(found) == pytest.approx(duration_ms / 1000)
    assert min(found) > 0
    if not shifts:
        assert max(found) - min(found) < 0.01


def test_a_cuts_place_is_told_in_parts_of_the_search() -> None:
    assert shift_of(11_000, 10_000, Span.of(6_000, 14_000)) == 0.25
    assert shift_of(6_000, 10_000, Span.of(6_000, 14_000)) == -1
    assert shift_of(10_000, 10_000, Span.of(10_000, 10_000)) == 0
