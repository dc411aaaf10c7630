"""Loops and text over silence are found where they were planted, and nowhere in honest speech."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.speech import english
from workers.spans import Span
from workers.suspicion import RATIO, RATIO_WORDS, compression_ratio, suspect, tokens
from workers.transcript import Segment


def spoken(texts: Sequence[str]) -> tuple[list[Segment], list[Span], int]:
    """Sentences at two and a half words a second, half a second apart, with the speech where they are."""
    segments, at = [], 300
    for text in texts:
        end = at + max(400, 400 * len(tokens(text)))
        segments.append(Segment(start_ms=at, end_ms=end, text=text))
        at = end + 500
    return segments, [segment.span for segment in segments], at


def honest(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [english(rng) for _ in range(count)]


@given(seed=st.integers(0, 10**6), count=st.integers(1, 80))
def test_honest_speech_is_never_suspected(seed: int, count: int) -> None:
    found = suspect(*spoken(honest(seed, count)))
    assert found.reasons == ()
    assert found.score == 0


@given(seed=st.integers(0, 10**6))
def test_honest_speech_compresses_less_than_the_threshold(seed: int) -> None:
    words = tokens(" ".join(honest(seed, 40)))[:RATIO_WORDS]
    assert compression_ratio(" ".join(words)) < RATIO


@given(
    seed=st.integers(0, 10**6),
    phrase=st.lists(st.sampled_from(["the", "of", "thank", "you", "watching", "please"]), min_size=1, max_size=9),
    times=st.integers(12, 40),
)
def test_a_planted_loop_is_found_and_scores_worse(seed: int, phrase: list[str], times: int) -> None:
    texts = honest(seed, 8)
    looped = suspect(*spoken([*texts, " ".join(phrase * times), *texts[:2]]))
    assert any("times in a row" in reason for reason in looped.reasons)
    assert looped.score > suspect(*spoken(texts)).score


def test_one_segment_all_over_again_is_found() -> None:
    texts = [text for pair in zip(honest(3, 6), ["Thank you."] * 6, strict=True) for text in pair]
    assert any("'thank you' is 6 of 12 segments" in reason for reason in suspect(*spoken(texts)).reasons)


def test_text_over_silence_is_found() -> None:
    segments, speech, audio_ms = spoken(honest(5, 6))
    ghost = Segment(start_ms=audio_ms + 5000, end_ms=audio_ms + 8000, text="Subtitles by the community.")
    found = suspect([*segments, ghost], speech, audio_ms + 20_000)
    assert found.reasons == ("4 words over silence",)


def test_too_many_words_for_the_time_are_found() -> None:
    segment = Segment(start_ms=0, end_ms=1000, text=" ".join(honest(1, 4)))
    assert any("faster" in reason for reason in suspect([segment], [Span.of(0, 1000)], 1000).reasons)


def test_hearing_nothing_in_much_speech_is_found() -> None:
    found = suspect([], [Span.of(0, 20_000)], 30_000)
    assert found.reasons == ("0 words in 20 s of speech",)
    assert found.score == 2


def test_silence_is_honestly_empty() -> None:
    assert suspect([], [], 30_000).reasons == ()


@pytest.mark.parametrize("text", ["One two one two one two.", "No, no, no, no, no!", "Ja, ja, ja, ja."])
def test_short_repetitions_are_said(text: str) -> None:
    assert suspect(*spoken([text, *honest(2, 5)])).reasons == ()


def test_scripts_without_spaces_are_counted_by_character() -> None:
    assert tokens("你好, don't") == ["你", "好", "don't"]
    assert suspect(*spoken(["謝謝" * 12])).reasons != ()
