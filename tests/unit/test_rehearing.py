"""What of a suspicious chunk is heard again, and how both texts are put together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.rehearing import blamed, spliced
from workers.spans import Span
from workers.transcript import Segment, Word

MINUTES_3 = 180_000
AUDIO = np.zeros(MINUTES_3 * 16, np.float32)
SPEECH = [Span.of(at + 500, at + 9_500) for at in range(0, MINUTES_3, 10_000)]  # nine seconds, then one of silence
LOOP = "thank you " * 15


def said(at: int, text: str = "the captain opened a small green box near the river", end: int | None = None) -> Segment:
    end = at + 8_000 if end is None else end
    word = Word(start_ms=at, end_ms=end, text=text, probability=0.5)
    return Segment(start_ms=at, end_ms=end, text=text, words=(word,))


HONEST = [said(region.start_ms, f"sentence {number} is not like any other one") for number, region in enumerate(SPEECH)]


def test_only_the_windows_with_an_odd_text_are_to_blame() -> None:
    first = [*HONEST[:7], said(SPEECH[7].start_ms, LOOP), *HONEST[8:]]
    (window,) = blamed(AUDIO, SPEECH, first, MINUTES_3)
    assert window.span.holds(SPEECH[7].midpoint_ms)
    assert window.span.duration_ms <= 30_000
    assert first[7] in window.segments
    assert set(window.speech) <= set(SPEECH)


def test_a_text_that_is_odd_as_a_whole_only_is_heard_again_as_a_whole() -> None:
    first = [said(region.start_ms, "thank you", region.start_ms + 500) for region in SPEECH]
    (window,) = blamed(AUDIO, SPEECH, first, MINUTES_3)
    assert (window.span, window.speech, window.segments) == (Span.of(0, MINUTES_3), tuple(SPEECH), tuple(first))


def test_the_better_text_takes_the_place_of_the_odd_one_and_of_nothing_else() -> None:
    first = [*HONEST[:7], said(SPEECH[7].start_ms, LOOP), *HONEST[8:]]
    windows = blamed(AUDIO, SPEECH, first, MINUTES_3)
    second = [segment for segment in HONEST if windows[0].span.holds(segment.span.midpoint_ms)]
    segments, replaced = spliced(first, windows, second, MINUTES_3)
    assert segments == tuple(HONEST)
    assert replaced == 1


def test_a_second_text_that_is_no_better_is_dropped() -> None:
    first = [*HONEST[:7], said(SPEECH[7].start_ms, LOOP), *HONEST[8:]]
    windows = blamed(AUDIO, SPEECH, first, MINUTES_3)
    segments, replaced = spliced(first, windows, windows[0].segments, MINUTES_3)
    assert (segments, replaced) == (tuple(first), 0)


def test_where_two_passes_meet_the_later_gives_way_with_its_words() -> None:
    first = [said(0, LOOP, 20_000), said(30_000)]
    windows = blamed(AUDIO[: 40_000 * 16], [Span.of(0, 20_000), Span.of(29_000, 38_000)], first, 40_000)
    segments, replaced = spliced(first, windows, [said(0, end=31_000)], 40_000)
    assert replaced == 1
    assert [(segment.start_ms, segment.end_ms) for segment in segments] == [(0, 31_000), (31_000, 38_000)]
    assert segments[1].words[0].start_ms == 31_000


@given(st.sets(st.integers(0, len(SPEECH) - 1), min_size=1))
def test_whatever_was_odd_all_is_text_in_order_and_nothing_is_lost(odd: set[int]) -> None:
    first = [said(region.start_ms, LOOP) if at in odd else HONEST[at] for at, region in enumerate(SPEECH)]
    windows = blamed(AUDIO, SPEECH, first, MINUTES_3)
    again = [segment for segment in HONEST if any(window.span.holds(segment.span.midpoint_ms) for window in windows)]
    segments, _ = spliced(first, windows, again, MINUTES_3)
    assert segments == tuple(HONEST)
    assert all(earlier.end_ms <= later.start_ms for earlier, later in pairwise(segments))


@pytest.mark.parametrize("speech", [[Span.of(0, 1_000)], SPEECH])
def test_the_blamed_hold_speech(speech: list[Span]) -> None:
    assert all(window.speech for window in blamed(AUDIO, speech, [said(0, LOOP)], MINUTES_3))


def test_a_text_where_nobody_speaks_is_heard_again_as_a_whole() -> None:
    (window,) = blamed(AUDIO, [], HONEST, MINUTES_3)
    assert window.segments == tuple(HONEST)
    assert spliced(HONEST, [window], [], MINUTES_3) == ((), 1)
