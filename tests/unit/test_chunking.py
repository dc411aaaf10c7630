"""Cuts: bounds and balance of the plan, and the choice of the true cut."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from workers.chunking import (
    BATCHED_MS,
    GROWTH,
    LONGEST_MS,
    OVERLAP_MS,
    SEARCH_MS,
    SHARE,
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
def test_auto_chunks_tile_within_bounds(span: Span, count: int) -> None:
    found = lengths(span, plan_cuts(span, "auto", count))
    assert sum(found) == span.duration_ms
    assert max(found) <= LONGEST_MS + 1
    assert len(found) == 1 or min(found) >= SHORTEST_MS - 1


@given(st.integers(2, 64), st.integers(1, 12 * 3_600_000))
def test_rounds_are_whole_begin_short_and_grow_once(count: int, total_ms: int) -> None:
    """Where each worker gets SHARE of the shortest chunks, and more."""
    total_ms = max(total_ms, count * SHARE * SHORTEST_MS)
    found = lengths(Span.of(0, total_ms), plan_cuts(Span.of(0, total_ms), "auto", count))
    assert len(found) % count == 0
    rounds = [found[at : at + count] for at in range(0, len(found), count)]
    assert all(max(alike) - min(alike) <= 2 for alike in rounds)
    assert max(*rounds[0], *rounds[-1]) <= SHORTEST_MS + 1
    firsts = [alike[0] for alike in rounds]
    longest = firsts.index(max(firsts))
    assert all(after >= before - SHORTEST_MS for before, after in itertools.pairwise(firsts[: longest + 1]))
    assert all(after <= before + SHORTEST_MS for before, after in itertools.pairwise(firsts[longest:]))
    assert all(after <= GROWTH * before + SHORTEST_MS for before, after in itertools.pairwise(firsts))


@given(spans, st.integers(5, 3600))
def test_chunk_seconds_is_a_ceiling_and_leaves_no_tiny_rest(span: Span, seconds: int) -> None:
    found = lengths(span, plan_cuts(span, seconds, 1))
    assert sum(found) == span.duration_ms
    assert max(found) <= seconds * 1000 + 1
    assert max(found) - min(found) <= 2


def test_one_worker_gets_few_chunks_and_many_get_rounds() -> None:
    ten_minutes = Span.of(0, 600_000)
    assert plan_cuts(Span.of(0, 170_000), "auto", 1) == ()
    assert plan_cuts(ten_minutes, "auto", 1) == (60_000, 180_000)
    assert lengths(ten_minutes, plan_cuts(ten_minutes, "auto", 2))[:4] == [30_000, 30_000, 45_893, 45_893]
    assert lengths(Span.of(0, 1_200_000), plan_cuts(Span.of(0, 1_200_000), "auto", 16)) == [37_500] * 32
    assert lengths(Span.of(0, 200_000), plan_cuts(Span.of(0, 200_000), "auto", 16)) == [
        *(33_333, 33_334, 33_333),
        *(33_333, 33_334, 33_333),
    ]
    assert plan_cuts(Span.of(0, 59_000), "auto", 64) == ()


def test_an_engine_that_decodes_many_windows_at_once_gets_longer_chunks() -> None:
    def batched(seconds: int, count: int) -> list[int]:
        span = Span.of(0, seconds * 1000)
        return lengths(span, plan_cuts(span, "auto", count, BATCHED_MS))

    assert batched(600, 1) == [120_000, 480_000]
    assert batched(600, 2) == [150_000] * 4
    assert batched(600, 16) == [37_500] * 16, "no worker is to have nothing, while there is half a minute for it"
    assert batched(59, 16) == [59_000]
    assert min(batched(5_670, 16)) >= BATCHED_MS
    assert len(batched(5_670, 64)) == 64
    assert min(batched(36_000, 16)) >= BATCHED_MS


@given(spans, workers)
def test_the_engine_changes_no_bound(span: Span, count: int) -> None:
    found = lengths(span, plan_cuts(span, "auto", count, BATCHED_MS))
    assert sum(found) == span.duration_ms
    assert max(found) <= LONGEST_MS + 1
    assert len(found) == 1 or min(found) >= SHORTEST_MS - 1


def test_a_last_round_may_be_not_quite_full_where_that_makes_chunks_shorter() -> None:
    """64 workers and 94.5 minutes: 189 chunks of 30 s, three rounds but for three, and not two rounds of 44 s."""
    assert lengths(Span.of(0, 5_670_000), plan_cuts(Span.of(0, 5_670_000), "auto", 64)) == [30_000] * 189


@given(st.integers(2, 64), st.integers(600, 36_000))
def test_all_workers_finish_together(count: int, seconds: int) -> None:
    """Handed out one after the other to whoever is free, the chunks keep the last to finish near the fair share."""
    busy = [0] * count
    for length in lengths(Span.of(0, seconds * 1000), plan_cuts(Span.of(0, seconds * 1000), "auto", count)):
        first = busy.index(min(busy))
        busy[first] += length
    assert max(busy) <= seconds * 1000 / count + SHORTEST_MS


@given(st.integers(2, 16), st.integers(3_600, 36_000))
def test_the_splitter_keeps_ahead_of_the_workers(count: int, seconds: int) -> None:
    """Workers that read 13 s of sound in a second, a splitter that cuts 700: all lose a round's cutting at most."""
    cut = 0.0
    free = [0.0] * count
    for length in lengths(Span.of(0, seconds * 1000), plan_cuts(Span.of(0, seconds * 1000), "auto", count)):
        cut += length / 700
        first = free.index(min(free))
        free[first] = max(free[first], cut) + length / 13
    ramp = count * SHORTEST_MS / 700
    assert max(free) <= seconds * 1000 / count / 13 + ramp + 100


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
