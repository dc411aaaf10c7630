"""The scaling benchmark's pure parts: the ideal of a fleet that changes, and where workers' time went."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling_times import capacity_with_kills, ideal_seconds, killed_of, times_of
from benchmarks.simulated import jitter_factor, plausible
from benchmarks.simulated_fleet import Inference, paired
from workers.spans import Span
from workers.suspicion import suspect


def test_without_kills_the_ideal_is_the_fair_share() -> None:
    assert ideal_seconds(436.0, [(0.0, 16)]) == 436.0 / 16


def test_the_killed_are_missed_until_others_are_there() -> None:
    """16 workers, 160 s of work: 5 s of 16, 4 s of 11, and what is left for 16 again."""
    assert ideal_seconds(160.0, capacity_with_kills(16, 5, 5.0, 4.0)) == pytest.approx(9.0 + (160 - 80 - 44) / 16)


def test_work_that_is_done_before_the_kill_or_before_the_boot_knows_nothing_of_it() -> None:
    assert ideal_seconds(16.0, capacity_with_kills(16, 5, 5.0, 4.0)) == 1.0
    assert ideal_seconds(91.0, capacity_with_kills(16, 5, 5.0, 4.0)) == pytest.approx(6.0)


def test_all_dead_for_a_while_is_waited_for_and_for_ever_is_refused() -> None:
    assert ideal_seconds(10.0, capacity_with_kills(1, 1, 4.0, 100.0)) == 110.0
    with pytest.raises(ValueError, match="no capacity is left"):
        ideal_seconds(10.0, [(0.0, 1), (4.0, 0)])


steps = st.lists(st.tuples(st.floats(0.1, 50), st.integers(0, 64)), min_size=1, max_size=6)


@given(steps, st.floats(0.1, 5_000))
def test_the_ideal_is_where_the_capacity_adds_up_to_the_work(steps: list[tuple[float, int]], work: float) -> None:
    at, capacity = 0.0, []
    for lasts, workers in steps:
        capacity.append((at, float(workers)))
        at += lasts
    capacity.append((at, 1.0))
    found = ideal_seconds(work, capacity)
    edges = [*(start for start, _ in capacity[1:]), float("inf")]
    done = sum(
        workers * max(0.0, min(until, found) - start)
        for (start, workers), until in zip(capacity, edges, strict=True)
        if workers
    )
    assert done == pytest.approx(work)


def test_thirty_percent_of_few_are_at_least_one() -> None:
    assert [killed_of(workers, 0.3) for workers in (1, 2, 4, 16, 64)] == [1, 1, 1, 5, 19]


def test_begins_and_ends_are_paired_and_what_was_killed_has_no_end() -> None:
    def line(at: float, worker: str, event: str) -> dict[str, object]:
        return {"at": at, "worker": worker, "event": event, "seconds": 30.0, "factor": 1.0}

    lines = [
        line(0.5, "b", "ends"),  # of a job before
        *(line(1, "a", "begins"), line(2, "b", "begins"), line(3, "a", "ends"), line(4, "a", "begins")),
        *(line(9, "a", "begins"), line(10, "a", "ends"), line(11, "b", "ends")),
    ]
    random.Random(1).shuffle(lines)
    assert paired(lines) == [
        Inference("a", 1, 3, 30.0),
        Inference("b", 2, 11, 30.0),
        Inference("a", 4, None, 30.0),
        Inference("a", 9, 10, 30.0),
    ]


def test_an_average_workers_time_adds_up() -> None:
    def task(name: str, at: float) -> dict[str, object]:
        times = {"scheduledTime": at * 1000, "startTime": at * 1000 + 500, "endTime": at * 1000 + 900}
        return {"referenceTaskName": name, "seq": at, **times}

    names = ("plan_media", "split_media", "chunk_0", "chunk_1", "join_chunks", "join_media", "stitch_transcript")
    workflow = {"tasks": [task(name, 100 + at) for at, name in enumerate(names)], "endTime": 120_000}
    heard = [Inference("a", 102, 104, 30), Inference("b", 103, 105, 30), Inference("a", 106, 108, 30)]
    times = times_of(workflow, 100.0, [101.5, 102.5], heard, workers=4)
    assert (times.before, times.between, times.after) == (5 / 4, 2 / 4, 3 / 4)
    assert times.inference == 6 / 4
    assert times.lost == 8 - 16 / 4  # two workers of four never had one
    assert (times.cut_first, times.heard_last, times.ended) == (1.5, 8.0, 20.0)


def test_jitter_belongs_to_the_chunk_and_keeps_the_work() -> None:
    factors = [jitter_factor(0.2, 3, chunk) for chunk in range(4_000)]
    assert sum(factors) / len(factors) == pytest.approx(1.0, abs=0.02)
    assert factors == [jitter_factor(0.2, 3, chunk) for chunk in range(4_000)]
    assert jitter_factor(0.0, 3, 1) == 1.0


@given(st.integers(1_000, 600_000))
def test_nobody_suspects_what_a_sleeping_recognizer_says(length_ms: int) -> None:
    segments = plausible(length_ms)
    assert all(word.end_ms <= length_ms for segment in segments for word in segment.words)
    assert suspect(segments, [Span.of(0, length_ms)], length_ms).reasons == ()
