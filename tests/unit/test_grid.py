"""Every window is computed by one chunk from its own samples, wherever the cuts fall."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.diarizers import DiarizerSpec
from workers.diarizers.grid import count_windows, owned, reach
from workers.spans import SAMPLE_RATE


def spec(window: int, step: int) -> DiarizerSpec:
    return DiarizerSpec("any", 1, "0" * 64, window, step, frames=0, local_speakers=1, dimension=1)


GE2E, PYANNOTE = spec(25_840, 6_400), spec(160_000, 16_000)
specs = st.one_of(
    st.sampled_from([GE2E, PYANNOTE]),
    st.integers(1, 200_000).flatmap(lambda window: st.builds(spec, st.just(window), st.integers(1, window))),
)


@pytest.mark.parametrize(
    ("samples", "windows"),
    [
        (-1, 0),
        (0, 0),
        (1, 1),  # shorter than a window: one, filled up
        (159_999, 1),
        (160_000, 1),  # exactly one
        (160_001, 2),  # something left over
        (176_000, 2),
        (176_001, 3),
    ],
)
def test_windows_of_a_recording(samples: int, windows: int) -> None:
    assert count_windows(samples, PYANNOTE) == windows


@given(st.integers(1, 10**7), specs)
def test_windows_cover_the_recording_and_none_is_without_need(samples: int, spec: DiarizerSpec) -> None:
    count = count_windows(samples, spec)
    assert (count - 1) * spec.step + spec.window >= samples
    assert count == 1 or (count - 2) * spec.step + spec.window < samples


@given(st.integers(1, 50), st.integers(1, 900), specs)
def test_chunks_own_every_window_once_and_in_order(chunks: int, seconds: int, spec: DiarizerSpec) -> None:
    ranges = [owned(index, chunks, seconds, spec) for index in range(chunks)]
    assert ranges[0][0] == 0
    assert ranges[-1][1] is None
    assert all(stop == first for (_, stop), (first, _) in pairwise(ranges))
    assert all(stop is None or first <= stop for first, stop in ranges)


@given(st.integers(1, 50), st.integers(1, 900), st.data(), specs)
def test_the_owner_of_a_window_holds_its_first_sample(
    chunks: int, seconds: int, data: st.DataObject, spec: DiarizerSpec
) -> None:
    window = data.draw(st.integers(0, chunks * seconds * SAMPLE_RATE // spec.step))
    (owner,) = [
        index
        for index, (first, stop) in enumerate(owned(index, chunks, seconds, spec) for index in range(chunks))
        if first <= window and (stop is None or window < stop)
    ]
    assert owner == min(window * spec.step // (seconds * SAMPLE_RATE), chunks - 1)


@given(st.integers(0, 10**6), st.integers(1, 1000), specs)
def test_the_reach_of_windows_is_their_samples_and_no_more(first: int, count: int, spec: DiarizerSpec) -> None:
    start, end = reach(first, first + count, spec)
    assert start == first * spec.step
    assert end == (first + count - 1) * spec.step + spec.window
    assert end is not None
    assert count_windows(end - start, spec) == count
    assert reach(first, None, spec) == (start, None)
