"""The scoring of speakers against the two libraries of the field, on random turns and words."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.speaker_scoring import SaidWord, diarization_error, speaker_word_error
from tests.support.services import absent
from workers.transcript import SpeakerTurn

pytestmark = pytest.mark.integration


def random_turns(rng: random.Random, speakers: str, count: int) -> list[SpeakerTurn]:
    """Turns that overlap those of other speakers, never those of the same one."""
    turns = []
    for speaker in speakers:
        at = rng.randrange(3000)
        for _ in range(count):
            end = at + rng.randrange(200, 5000)
            turns.append(SpeakerTurn(start_ms=at, end_ms=end, speaker=speaker))
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
