"""What the accuracy benchmark counts, against numbers counted by hand and another way."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.accuracy_scores import (
    BLOCK_MS,
    Pair,
    by_block,
    by_cut,
    covered,
    difference,
    sentence_time_errors,
)
from benchmarks.scoring import TimedWord, WordError
from benchmarks.speech import Sentence
from workers.spans import Span
from workers.stitching import Stitched
from workers.transcript import Segment, Word


def errors_at(*times_ms: int) -> list[WordError]:
    return [WordError("deletion", at_ms, "word", None) for at_ms in times_ms]


def words_at(*times_ms: int) -> list[TimedWord]:
    return [TimedWord("word", at_ms) for at_ms in times_ms]


def test_errors_and_words_are_counted_up_to_two_seconds_from_each_cut() -> None:
    said = words_at(7_999, 8_000, 10_000, 12_000, 12_001, 30_000)
    found = by_cut(errors_at(8_000, 12_001, 30_001), errors_at(10_000, 10_001, 40_000), said, [10_000, 30_000])
    assert found == [Pair(errors=1, control=2, words=3), Pair(errors=1, control=0, words=1)]


times = st.lists(st.integers(0, 600_000), max_size=30)


@given(times, times, times, st.integers(600_001, 700_000))
def test_blocks_hold_every_error_and_word_once(wrong: list[int], other: list[int], said: list[int], end: int) -> None:
    blocks = by_block(errors_at(*wrong), errors_at(*other), words_at(*said), end)
    totals = [sum(getattr(block, name) for block in blocks) for name in ("errors", "control", "words")]
    assert totals == [len(wrong), len(other), len(said)]
    assert blocks[1].errors == sum(BLOCK_MS <= at < 2 * BLOCK_MS for at in wrong)


def test_the_difference_is_that_of_all_places_together() -> None:
    found = difference([Pair(3, 1, 10), Pair(0, 1, 30)])
    assert (found.value, found.rate, found.control_rate, found.words) == (1 / 40, 3 / 40, 2 / 40, 40)
    assert found.low <= found.value <= found.high


def test_nothing_said_is_no_difference() -> None:
    assert difference([]).value == difference([Pair(1, 0, 0)]).high == 0


def test_the_same_errors_are_no_difference_and_have_no_interval() -> None:
    found = difference([Pair(count, count, 10) for count in range(5)])
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """200 experiments with a true difference of 2 in 100 words: 95 of 100 intervals should hold it."""
    dice = random.Random(5)

    def errors(rate: float) -> int:
        return sum(dice.random() < rate for _ in range(20))

    held = 0
    for _ in range(200):
        found = difference([Pair(errors(0.07), errors(0.05), 20) for _ in range(60)])
        held += found.low <= 0.02 <= found.high
    assert 180 <= held <= 199


def test_only_a_sentences_first_and_last_word_are_timed_and_only_if_they_were_heard() -> None:
    truth = [
        Sentence(1_000, 3_000, "speaker_0", "The captain opened the box."),
        Sentence(5_000, 6_000, "speaker_0", "Two three."),
    ]
    heard = [("The", 1_100, 1_300), ("captain", 1_300, 1_600), ("opened", 1_600, 2_000), ("the", 2_000, 2_200)]
    heard += [("fox.", 2_200, 2_950), ("Two", 4_700, 5_500), ("three", 5_500, 6_050)]
    words = tuple(Word(start_ms=start, end_ms=end, text=text, probability=1) for text, start, end in heard)
    segment = Segment(start_ms=1_100, end_ms=6_050, text=" ".join(word.text for word in words), words=words)
    assert sentence_time_errors(truth, Stitched((segment,), ())) == [100, 300, 50]
    assert sentence_time_errors(truth, Stitched((), ())) == []


@pytest.mark.parametrize(
    ("cores", "whole"),
    [
        ([(0, 400), (400, 1000)], True),
        ([(0, 1000), (1000, 1000)], True),
        ([(0, 400), (401, 1000)], False),
        ([(0, 400), (399, 1000)], False),
        ([(0, 400), (400, 999)], False),
        ([], False),
    ],
)
def test_cores_cover_a_recording_or_they_do_not(cores: list[tuple[int, int]], whole: bool) -> None:
    assert covered([Span.of(*core) for core in cores], 1000) is whole
