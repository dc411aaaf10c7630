"""Cuts: bounds and balance of the plan, and the choice of the true cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workers.chunking import (
    LONGEST_MS,
    OVERLAP_MS,
    SEARCH_MS,
    SHORTEST_MS,
    SILENCE_MS,
    cut_without_silence,
    longest_first,
    near_part,
    plan_cuts,
    search_windows,
    silences,
)
from workers.spans import Span

spans = st.builds(
    lambda start, length: Span.of(start, start + length), st.integers(0, 10**7), st.integers(1, 12 * 3_600_000)
)
workers = st.integers(0, 64)


def lengths(span: Span, cuts: tuple[int, ...]) -> list[int]:
    edges = (span.start_ms, *cuts, span.end_ms)
    return [after - before for before, after in itertools.pairwise(edges)]


@given(spans, workers)
def test_auto_chunks_tile_within_bounds_long_first(span: Span, count: int) -> None:
    found = lengths(span, plan_cuts(span, "auto", count))
    assert sum(found) == span.duration_ms
    assert max(found) <= LONGEST_MS + 1
    assert len(found) == 1 or min(found) >= SHORTEST_MS - 1
    # the last one takes what is left over, so it alone may be longer than the one before it
    assert all(after <= before + 1 for before, after in itertools.pairwise(found[:-1]))


@given(spans, st.integers(5, 3600))
def test_chunk_seconds_is_a_ceiling_and_leaves_no_tiny_rest(span: Span, seconds: int) -> None:
    found = lengths(span, plan_cuts(span, seconds, 1))
    assert sum(found) == span.duration_ms
    assert max(found) <= seconds * 1000 + 1
    assert max(found) - min(found) <= 2


def test_one_worker_gets_the_whole_and_many_get_shares() -> None:
    ten_minutes = Span.of(0, 600_000)
    assert plan_cuts(ten_minutes, "auto", 1) == ()
    assert lengths(ten_minutes, plan_cuts(ten_minutes, "auto", 2))[:4] == [150_000, 150_000, 75_000, 75_000]


@given(st.integers(2, 64), st.integers(600, 36_000))
def test_all_workers_finish_together(count: int, seconds: int) -> None:
    """Handed out one after the other to whoever is free, the chunks keep the last to finish near the fair share."""
    busy = [0] * count
    for length in lengths(Span.of(0, seconds * 1000), plan_cuts(Span.of(0, seconds * 1000), "auto", count)):
        first = busy.index(min(busy))
        busy[first] += length
    assert max(busy) <= seconds * 1000 / count + 2 * SHORTEST_MS


@given(spans, st.integers(5, 600))
def test_search_windows_are_disjoint_and_centred(span: Span, seconds: int) -> None:
    cuts = plan_cuts(span, seconds, 1)
    windows = search_windows(cuts, span)
    assert [window.midpoint_ms for window in windows] == list(cuts)
    reached = span.start_ms
    for window in windows:
        assert reached <= window.start_ms
        assert window.duration_ms <= 2 * SEARCH_MS
        near = near_part(window)
        assert window.start_ms <= near.start_ms <= near.end_ms <= window.end_ms
        reached = window.end_ms
    assert reached <= span.end_ms


windows = st.builds(lambda start, length: Span.of(start, start + length), st.integers(0, 10**6), st.integers(0, 30_000))


@given(windows, st.data())
def test_pauses_lie_in_silence(window: Span, data: st.DataObject) -> None:
    edges = sorted(
        data.draw(st.lists(st.integers(window.start_ms, window.end_ms), unique=True, max_size=12)),
    )
    speech = [Span.of(start, end) for start, end in zip(edges[::2], edges[1::2], strict=False)]
    quiet = silences(window, speech)
    assert sum(pause.duration_ms for pause in quiet) + sum(s.duration_ms for s in speech) == window.duration_ms
    found = longest_first(quiet, window.midpoint_ms)
    for pause in found:
        assert pause.duration_ms >= SILENCE_MS
        assert window.start_ms <= pause.midpoint_ms < window.end_ms
        assert not any(voiced.overlap_ms(pause) for voiced in speech)
    assert [pause.duration_ms for pause in found] == sorted((pause.duration_ms for pause in found), reverse=True)


def test_of_equal_pauses_the_nearest_to_the_cut_comes_first() -> None:
    window = Span.of(0, 30_000)
    speech = [Span.of(0, 4_000), Span.of(5_000, 14_000), Span.of(15_000, 30_000)]
    assert longest_first(silences(window, speech), 15_000)[0] == Span.of(14_000, 15_000)


@given(windows)
def test_a_cut_without_silence_overlaps_inside_the_window(window: Span) -> None:
    cut = cut_without_silence(window.midpoint_ms, window)
    assert cut.overlap_ms <= OVERLAP_MS
    assert window.start_ms <= cut.at_ms - cut.overlap_ms
    assert cut.at_ms + cut.overlap_ms <= window.end_ms
