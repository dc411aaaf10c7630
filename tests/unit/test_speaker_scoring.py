"""The scoring of speakers against figures worked out by hand and against two libraries of the field."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.services import absent
from tests.support.speaker_scoring import (
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


def random_turns(rng: random.Random, speakers: str, count: int) -> list[SpeakerTurn]:
    """Turns that overlap those of other speakers, never those of the same one."""
    turns = []
    for speaker in speakers:
        at = rng.randrange(3000)
        for _ in range(count):
            end = at + rng.randrange(200, 5000)
            turns.append(turn(at, end, speaker))
            at = end + rng.randrange(1, 6000)
    return sorted(turns, key=lambda said: said.start_ms)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("collar_ms", [0, 250])
@pytest.mark.parametrize("overlap", [True, False])
def test_der_is_that_of_pyannote_metrics(seed: int, collar_ms: int, overlap: bool) -> None:
    """Whose collar is the whole width."""
    rng = random.Random(seed)
    truth = random_turns(rng, "abcd"[: rng.randint(1, 4)], 8)
    found = random_turns(rng, "wxyz"[: rng.randint(1, 4)], 8)
    core, metrics = pyannote()
    metric = metrics.DiarizationErrorRate(collar=2 * collar_ms / 1000, skip_overlap=not overlap)
    end = max(said.end_ms for said in truth + found) / 1000
    theirs = metric(
        annotation(core, truth), annotation(core, found), uem=core.Timeline([core.Segment(0, end)]), detailed=True
    )
    ours = diarization_error(truth, found, collar_ms, overlap)
    assert ours.spoken_ms == pytest.approx(theirs["total"] * 1000, abs=1)
    assert ours.miss_ms == pytest.approx(theirs["missed detection"] * 1000, abs=1)
    assert ours.false_alarm_ms == pytest.approx(theirs["false alarm"] * 1000, abs=1)
    assert ours.confusion_ms == pytest.approx(theirs["confusion"] * 1000, abs=1)


def pyannote() -> tuple[Any, Any]:
    try:
        import pyannote.core
        import pyannote.metrics.diarization
    except ImportError:
        absent("needs pyannote.metrics: pip install '.[test]'")
    return pyannote.core, pyannote.metrics.diarization


def annotation(core: Any, turns: Sequence[SpeakerTurn]) -> Any:
    made = core.Annotation()
    for number, said in enumerate(turns):
        made[core.Segment(said.start_ms / 1000, said.end_ms / 1000), number] = said.speaker
    return made


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
    truth = words("a:the captain opened b:the green box a:yesterday")
    assert word_diarization_error(truth, words("x:The captain opened y:the green box. x:Yesterday.")) == 0
    assert word_diarization_error(truth, words("x:the captain opened the y:green box x:yesterday")) == pytest.approx(1 / 7)
    assert word_diarization_error(truth, words("x:the captain opened y:the green box ?:yesterday")) == pytest.approx(1 / 7)


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


@pytest.mark.parametrize("seed", range(10))
def test_cpwer_is_that_of_meeteval(seed: int) -> None:
    try:
        import meeteval.wer
    except ImportError:
        absent("needs meeteval: pip install meeteval, with a C++ compiler")
    rng = random.Random(seed)
    truth = [SaidWord(rng.choice("pqrst"), rng.choice("abc")) for _ in range(60)]
    found = [SaidWord(rng.choice("pqrst"), rng.choice("wxyz"[: 1 + seed % 4])) for _ in range(rng.randint(30, 70))]
    theirs = meeteval.wer.cp_word_error_rate(by_person(truth), by_person(found))
    assert speaker_word_error(truth, found) == pytest.approx(theirs.error_rate)


def by_person(said: Sequence[SaidWord]) -> dict[str, str]:
    people = sorted({word.speaker or "" for word in said})
    return {person: " ".join(word.text for word in said if word.speaker == person) for person in people}
