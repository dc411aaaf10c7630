"""The score itself, against errors planted by hand."""

from dataclasses import dataclass

import pytest

from benchmarks.scoring import (
    Density,
    TimedWord,
    density,
    errors_by_time,
    heard_words,
    said_words,
    word_error_rate,
)
from benchmarks.speech import Sentence
from workers.transcript import Segment, Word

TRUTH = (
    Sentence(0, 3000, "speaker_0", "The captain opened the box."),
    Sentence(10_000, 13_000, "speaker_1", "My sister's heavy guitar!"),
)


@dataclass(frozen=True)
class Heard:
    segments: tuple[Segment, ...]


def heard(*texts: str) -> Heard:
    spans = [(sentence.start_ms, sentence.end_ms) for sentence in TRUTH]
    return Heard(
        tuple(Segment(start_ms=a, end_ms=b, text=text) for (a, b), text in zip(spans, texts, strict=True)),
    )


def test_case_and_punctuation_are_no_errors() -> None:
    assert word_error_rate("The captain, my sister’s.", "the CAPTAIN my sister's") == 0
    assert errors_by_time(TRUTH, heard("the captain opened the box", "MY sister’s, heavy guitar")) == ()


def test_word_error_rate_counts_each_kind_of_error() -> None:
    assert word_error_rate("one two three four", "one two five four") == pytest.approx(0.25)
    assert word_error_rate("one two three four", "one two four") == pytest.approx(0.25)
    assert word_error_rate("one two three four", "one two three four five") == pytest.approx(0.25)


def test_planted_errors_are_found_at_their_times() -> None:
    errors = errors_by_time(TRUTH, heard("The captain opened box", "My sister's really heavy basket"))
    assert [(error.kind, error.said, error.heard) for error in errors] == [
        ("deletion", "the", None),
        ("insertion", None, "really"),
        ("substitution", "guitar", "basket"),
    ]
    assert 2000 < errors[0].at_ms < 2800
    assert all(10_000 < error.at_ms < 13_000 for error in errors[1:])


def test_heard_words_keep_their_own_times() -> None:
    words = (
        Word(start_ms=100, end_ms=300, text="Hello,", probability=1),
        Word(start_ms=400, end_ms=600, text="well-known", probability=1),
    )
    segment = Segment(start_ms=0, end_ms=5000, text="Hello, well-known", words=words)
    assert heard_words(Heard((segment,))) == [
        TimedWord("hello", 200),
        TimedWord("well", 444),
        TimedWord("known", 544),
    ]


def test_nothing_heard_loses_every_word_and_nothing_said_invents_them() -> None:
    assert [error.kind for error in errors_by_time(TRUTH, Heard(()))] == ["deletion"] * len(said_words(TRUTH))
    assert [error.kind for error in errors_by_time((), heard("a", "b"))] == ["insertion"] * 2


def test_density_separates_errors_at_the_cut_from_the_others() -> None:
    said = [TimedWord("word", at_ms) for at_ms in range(0, 60_000, 500)]
    errors = errors_by_time(
        [Sentence(29_000, 31_000, "speaker_0", "one two three")],
        Heard((Segment(start_ms=29_000, end_ms=31_000, text="four five six"),)),
    )
    assert density(errors, said, [30_000]) == Density(near_errors=3, near_words=9, far_errors=0, far_words=111)
    assert density(errors, said, [10_000]) == Density(near_errors=0, near_words=9, far_errors=3, far_words=111)


def test_an_excess_is_told_from_chance() -> None:
    assert Density(near_errors=30, near_words=100, far_errors=40, far_words=1000).p_denser < 1e-6
    assert Density(near_errors=5, near_words=100, far_errors=40, far_words=1000).p_denser > 0.3
    assert Density(near_errors=0, near_words=0, far_errors=0, far_words=10).p_denser == pytest.approx(1)
