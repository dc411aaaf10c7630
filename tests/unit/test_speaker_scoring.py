"""The scoring of speakers against figures worked out by hand; test_scoring_oracles.py has other libraries do it."""

import pytest

from benchmarks.speaker_scoring import (
    SaidWord,
    diarization_error,
    speaker_word_error,
    word_diarization_error,
)
from workers.transcript import SpeakerTurn


def turn(start_ms: int, end_ms: int, speaker: str) -> SpeakerTurn:
    return SpeakerTurn(start_ms=start_ms, end_ms=end_ms, speaker=speaker)


TRUTH = [turn(0, 4000, "anna"), turn(4000, 8000, "ben"), turn(9000, 10_000, "anna")]


def test_every_kind_of_error_is_counted_by_its_length() -> None:
    found = [turn(0, 4500, "x"), turn(4500, 7000, "y"), turn(8000, 8200, "y"), turn(9000, 10_000, "x")]
    error = diarization_error(TRUTH, found)
    assert (error.spoken_ms, error.miss_ms, error.false_alarm_ms, error.confusion_ms) == (9000, 1000, 200, 500)
    assert error.rate == pytest.approx(1700 / 9000)


def test_a_collar_leaves_out_its_width_on_each_side_of_every_end() -> None:
    found = [turn(0, 4500, "x"), turn(4500, 7000, "y"), turn(8000, 8200, "y"), turn(9000, 10_000, "x")]
    error = diarization_error(TRUTH, found, collar_ms=250)
    # left: 250..3750, 4250..7750, 9250..9750; of the errors: 4250..4500, 7000..7750, and nothing of 8000..8200
    assert (error.spoken_ms, error.miss_ms, error.false_alarm_ms, error.confusion_ms) == (7500, 750, 0, 250)


def test_overlap_counts_twice_or_not_at_all() -> None:
    truth = [turn(0, 2000, "anna"), turn(1000, 3000, "ben")]
    found = [turn(0, 1500, "x"), turn(1500, 3000, "y")]
    assert diarization_error(truth, found).miss_ms == 1000
    assert diarization_error(truth, found).spoken_ms == 4000
    alone = diarization_error(truth, found, overlap=False)
    assert (alone.spoken_ms, alone.miss_ms, alone.confusion_ms) == (2000, 0, 0)


def test_names_do_not_matter_but_people_do() -> None:
    renamed = [turn(said.start_ms, said.end_ms, {"anna": "ben", "ben": "anna"}[said.speaker]) for said in TRUTH]
    assert diarization_error(TRUTH, renamed).rate == 0
    one = [turn(said.start_ms, said.end_ms, "all") for said in TRUTH]
    assert diarization_error(TRUTH, one).confusion_ms == 4000
    assert diarization_error(TRUTH, []).rate == 1


# ---- words ----


def words(text: str) -> list[SaidWord]:
    """ "a:the captain b:opened" as words with their speakers; "?:" is nobody."""
    said: list[SaidWord] = []
    speaker: str | None = None
    for part in text.split():
        if ":" in part:
            name, _, part = part.partition(":")
            speaker = None if name == "?" else name
        said.append(SaidWord(part, speaker))
    return said


def test_wder_counts_words_heard_of_the_wrong_person() -> None:
    truth, one = words("a:the captain opened b:the green box a:yesterday"), pytest.approx(1 / 7)
    assert word_diarization_error(truth, words("x:The captain opened y:the green box. x:Yesterday.")) == 0
    assert word_diarization_error(truth, words("x:the captain opened the y:green box x:yesterday")) == one
    assert word_diarization_error(truth, words("x:the captain opened y:the green box ?:yesterday")) == one


def test_wder_leaves_words_out_that_were_not_heard_or_not_said() -> None:
    truth = words("a:the captain opened b:the green box")
    heard = words("x:the really captain lost y:green box")  # "really" made up, "opened" wrong, "the" not heard
    assert word_diarization_error(truth, heard) == 0
    assert word_diarization_error(truth, words("x:the captain lost green box")) == pytest.approx(2 / 5)
    assert word_diarization_error(truth, []) == 0


def test_cpwer_counts_a_word_of_the_wrong_person_twice() -> None:
    truth = words("a:the captain opened b:the green box")
    assert speaker_word_error(truth, words("x:the captain opened y:the green box")) == 0
    assert speaker_word_error(truth, words("x:the captain opened the y:green box")) == pytest.approx(2 / 6)
    assert speaker_word_error(truth, words("x:the captain opened the green box")) == pytest.approx(6 / 6)
    assert speaker_word_error(truth, []) == 1
