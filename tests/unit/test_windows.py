"""Windows hold all speech, fit the encoder, and never overlap."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.recognizers.windows import LONGEST_MS, plan_windows, unheard_tail, voiced_stretches
from workers.spans import SAMPLES_PER_MS, Span

speech_lists = st.lists(st.tuples(st.integers(160, 5000), st.integers(100, 45_000)), min_size=1, max_size=12)


@given(laid=speech_lists)
def test_windows_hold_all_speech_and_stay_apart(laid: list[tuple[int, int]]) -> None:
    speech, at = [], 0
    for pause, length in laid:
        speech.append(Span.of(at + pause, at + pause + length))
        at += pause + length
    audio = np.zeros((at + 300) * SAMPLES_PER_MS, np.float32)
    windows = plan_windows(audio, speech)
    assert all(window.duration_ms <= LONGEST_MS for window in windows)
    for spans in (windows, voiced_stretches(audio, speech)):
        assert all(a.end_ms <= b.start_ms for a, b in itertools.pairwise(spans))
        assert all(sum(region.overlap_ms(span) for span in spans) == region.duration_ms for region in speech)


def test_a_window_is_cut_in_its_longest_late_pause() -> None:
    speech = [Span.of(0, 21_000), Span.of(21_800, 27_000), Span.of(27_200, 40_000)]
    windows = plan_windows(np.zeros(40_000 * SAMPLES_PER_MS, np.float32), speech)
    assert [window.end_ms for window in windows] == [21_200, 40_000]


def test_speech_after_the_last_closed_sentence_is_heard_again() -> None:
    window, speech = Span.of(1000, 31_000), [Span.of(1200, 30_800)]
    assert unheard_tail(window, 28_000, speech) == Span.of(28_000, 31_000)
    assert unheard_tail(window, 30_700, speech) is None
    assert unheard_tail(window, 31_000, speech) is None
    assert unheard_tail(window, 1000, speech) is None
