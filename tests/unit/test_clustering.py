"""Voices that were planted in made-up windows are found again, and what cannot be found is said."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.speaker_scoring import diarization_error
from workers.diarizers import Clustered, DiarizerSpec, Windows
from workers.diarizers.clustering import MOST_TRAINING, cluster_voices
from workers.diarizers.grid import count_windows
from workers.diarizers.packing import joined
from workers.errors import WorkAborted
from workers.messages import SpeakerHints
from workers.spans import SAMPLES_PER_MS, Span
from workers.transcript import SpeakerTurn

DIMENSION = 64
SPEC = DiarizerSpec("planted", 1, "0" * 64, 25_840, 6_400, frames=0, local_speakers=1, dimension=DIMENSION)
NO_HINTS = SpeakerHints()


@dataclass(frozen=True)
class Meeting:
    """Who really speaks when, what a diarizer hears of it, and where there is speech."""

    truth: tuple[SpeakerTurn, ...]
    windows: Windows
    speech: tuple[Span, ...]
    duration_ms: int


def meeting(voices: int, seconds: int = 200, seed: int = 1) -> Meeting:
    """`voices` people in turns of 3 to 9 s, 0.3 to 0.9 s apart."""
    rng = random.Random(seed)
    turns: list[SpeakerTurn] = []
    at = 500
    while at < seconds * 1000 - 10_000:
        end = at + rng.randrange(3000, 9000)
        others = [voice for voice in range(voices) if not turns or turns[-1].speaker != str(voice)]
        turns.append(SpeakerTurn(start_ms=at, end_ms=end, speaker=str(rng.choice(others or [0]))))
        at = end + rng.randrange(300, 900)
    return heard(turns, seconds * 1000)


def heard(truth: Sequence[SpeakerTurn], duration_ms: int) -> Meeting:
    """A window holds the voices in it by their shares, and noise."""
    count = count_windows(duration_ms * SAMPLES_PER_MS, SPEC)
    people = sorted({int(turn.speaker) for turn in truth})
    said = np.zeros((duration_ms + SPEC.window, len(people)))  # of each millisecond
    for turn in truth:
        said[turn.start_ms : turn.end_ms, people.index(int(turn.speaker))] = 1
    until = np.concatenate([np.zeros((1, len(people))), np.cumsum(said, axis=0)])
    starts = np.arange(count) * SPEC.step // SAMPLES_PER_MS
    shares = until[starts + SPEC.window // SAMPLES_PER_MS] - until[starts]
    mixed = _unit(shares @ np.array([voice(number) for number in people]).reshape(len(people), DIMENSION))
    noise = np.random.default_rng(7).standard_normal((count, DIMENSION)) / np.sqrt(DIMENSION)
    embedding = np.asarray(_unit(mixed + 0.4 * noise)[:, None], np.float32)
    embedding[~shares.any(axis=1)] = np.nan
    windows = Windows(SPEC.hash, np.arange(count, dtype=np.int32), np.zeros((count, 0, 1), np.bool_), embedding)
    return Meeting(tuple(truth), windows, tuple(turn.span for turn in truth), duration_ms)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float64)


def voice(number: int) -> NDArray[np.float64]:
    """The direction of a person: any two have a cosine of about 0.5, like GE2E's, whose values are all positive."""
    direction = np.abs(np.random.default_rng(1000 + number).standard_normal(DIMENSION)) ** 1.5
    return np.asarray(direction / np.linalg.norm(direction), np.float64)


def clustered(of: Meeting, hints: SpeakerHints = NO_HINTS) -> Clustered:
    return cluster_voices(of.windows, of.speech, of.duration_ms, hints, SPEC, lambda: None)


def named(found: Clustered) -> list[SpeakerTurn]:
    return [SpeakerTurn(start_ms=turn.start_ms, end_ms=turn.end_ms, speaker=str(turn.cluster)) for turn in found.turns]


def assert_same(one: Clustered, other: Clustered) -> None:
    assert replace(one, centroids=other.centroids) == other
    assert one.centroids.tobytes() == other.centroids.tobytes()


def assert_sound(found: Clustered, of: Meeting) -> None:
    """What holds of every result."""
    assert found.exclusive_turns == found.turns
    assert all(0 <= turn.start_ms < turn.end_ms <= of.duration_ms for turn in found.turns)
    assert all(one.end_ms <= other.start_ms for one, other in zip(found.turns, found.turns[1:], strict=False))
    assert list(dict.fromkeys(turn.cluster for turn in found.turns)) == list(range(len(found.centroids)))
    assert found.centroids.dtype == np.float32
    assert found.centroids.shape == (len(found.centroids), DIMENSION)
    assert np.allclose(np.linalg.norm(found.centroids, axis=1), 1)
    assert found.diagnostics["speakers"] == len(found.centroids)


@pytest.mark.parametrize("voices", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("seed", [1, 2])
def test_planted_voices_are_counted_and_found(voices: int, seed: int) -> None:
    of = meeting(voices, 60 * voices + 60, seed)
    found = clustered(of)
    assert_sound(found, of)
    assert found.diagnostics["speakers_found"] == found.diagnostics["speakers"] == voices
    assert diarization_error(of.truth, named(found)).rate < 0.03
    assert diarization_error(of.truth, named(found), collar_ms=250).rate < 0.01
    assert found.warnings == ()


def test_a_centroid_is_the_direction_of_its_voice() -> None:
    of = meeting(3)
    found = clustered(of)
    first = list(dict.fromkeys(turn.speaker for turn in of.truth))
    for centroid, speaker in zip(found.centroids, first, strict=True):
        assert centroid @ voice(int(speaker)) > 0.97


def test_a_person_who_says_little_is_found() -> None:
    """Five seconds among ten minutes of two others, too little to show in the graph."""
    of = meeting(2, 600)
    place = len(of.truth) // 2
    rare = of.truth[place].model_copy(update={"speaker": "7"})
    of = heard([*of.truth[:place], rare, *of.truth[place + 1 :]], of.duration_ms)
    assert rare.end_ms - rare.start_ms > 4000
    assert clustered(of).diagnostics["speakers_found"] == 3


# ---- nothing but the windows decides ----


@given(st.permutations(range(8)), st.integers(1, 60))
@settings(max_examples=10, deadline=None)
def test_parts_in_any_order_and_twice_give_the_same(order: list[int], size: int) -> None:
    of = meeting(3, 90)
    cuts = range(0, len(of.windows.index), size)
    parts = [part(of.windows, slice(cut, cut + size)) for cut in cuts]
    shuffled = [parts[place] for place in sorted(range(len(parts)), key=lambda place: (order[place % 8], place))]
    assert_same(clustered(replace(of, windows=joined(shuffled + parts[::2]))), clustered(of))


def part(windows: Windows, places: slice | NDArray[np.bool_]) -> Windows:
    return Windows(windows.spec_hash, windows.index[places], windows.activity[places], windows.embedding[places])


def test_more_windows_than_are_clustered_are_all_given_to_somebody() -> None:
    of = meeting(4, 1600)
    found = clustered(of)
    assert found.diagnostics["windows_clustered"] == MOST_TRAINING < len(of.windows.index)
    assert found.diagnostics["speakers"] == 4
    assert diarization_error(of.truth, named(found)).rate < 0.03


# ---- hints ----


def test_a_number_that_is_given_wins() -> None:
    of = meeting(4)
    assert len(clustered(of, SpeakerHints(exactly=4)).centroids) == 4
    three = clustered(of, SpeakerHints(exactly=3, at_least=5, at_most=6))
    assert (three.diagnostics["speakers"], three.diagnostics["speakers_found"]) == (3, 4)
    assert three.warnings == ()


def test_bounds_are_kept() -> None:
    of = meeting(4)
    assert len(clustered(of, SpeakerHints(at_most=2)).centroids) == 2
    assert len(clustered(of, SpeakerHints(at_least=2, at_most=8)).centroids) == 4
    assert len(clustered(of, SpeakerHints(at_least=5)).centroids) == 5


@pytest.mark.parametrize("hints", [SpeakerHints(exactly=1), SpeakerHints(at_most=1)])
def test_one_person_needs_no_clustering(hints: SpeakerHints) -> None:
    found = clustered(meeting(3), hints)
    assert len(found.centroids) == 1
    assert found.diagnostics["eigengaps"] == []
    assert found.diagnostics["speakers_found"] is None
    assert found.warnings == ()


def test_more_people_than_voices_are_given_and_doubted() -> None:
    found = clustered(meeting(2), SpeakerHints(exactly=5))
    assert len(found.centroids) == 5
    (warning,) = found.warnings
    assert warning.startswith("5 speakers were asked for, but only 2 voices can be told apart: one person may stand")
    (warning,) = clustered(meeting(1), SpeakerHints(at_least=3)).warnings
    assert "only 1 voice can be told apart" in warning


def test_more_people_than_windows_are_as_many_as_there_are() -> None:
    of = heard([SpeakerTurn(start_ms=0, end_ms=3000, speaker="0")], 3000)
    found = clustered(of, SpeakerHints(exactly=50))
    assert_sound(found, of)
    assert len(found.centroids) <= len(of.windows.index)
    (warning,) = found.warnings
    assert warning.startswith("50 speakers were asked for, but only 1 voice can be told apart, and there is too little")


# ---- edges ----


def test_nobody_speaks() -> None:
    of = meeting(2, 30)
    for empty in (
        replace(of, speech=()),
        replace(of, windows=part(of.windows, slice(0, 0))),
        replace(of, windows=replace(of.windows, embedding=np.full_like(of.windows.embedding, np.nan))),
        replace(of, windows=part(of.windows, slice(0, 0)), speech=(), duration_ms=0),
    ):
        for hints in (NO_HINTS, SpeakerHints(exactly=3)):
            found = clustered(empty, hints)
            assert found.turns == found.exclusive_turns == ()
            assert found.centroids.shape == (0, DIMENSION)


@pytest.mark.parametrize("duration_ms", [5, 120, 700, 1615, 1700, 2500])
def test_a_recording_of_a_window_or_two_is_one_person(duration_ms: int) -> None:
    of = heard([SpeakerTurn(start_ms=0, end_ms=duration_ms, speaker="0")], duration_ms)
    found = clustered(of)
    assert_sound(found, of)
    if duration_ms >= 200:  # a tenth of a window, or nobody can tell who it is
        (turn,) = found.turns
        assert turn.start_ms == 0
        assert duration_ms - 10 < turn.end_ms <= duration_ms


def test_one_person_who_is_heard_the_same_every_time() -> None:
    of = meeting(1, 60)
    there = np.isfinite(of.windows.embedding)
    same = np.where(there, np.float32(1 / np.sqrt(DIMENSION)), np.float32(np.nan))
    of = replace(of, windows=replace(of.windows, embedding=same))
    assert clustered(of).diagnostics["speakers"] == 1
    asked = clustered(of, SpeakerHints(exactly=3))
    assert_sound(asked, of)
    assert asked.warnings


def test_where_windows_are_missing_nobody_is_there() -> None:
    of = meeting(2)
    starts_ms = of.windows.index * (SPEC.step // SAMPLES_PER_MS)
    lost = Span.of(60_000, 100_000)
    left = part(of.windows, (starts_ms < lost.start_ms) | (starts_ms >= lost.end_ms))
    found = clustered(replace(of, windows=left))
    assert found.diagnostics["speakers"] == 2
    unheard = Span.of(lost.start_ms + SPEC.window // SAMPLES_PER_MS, lost.end_ms)
    assert all(not turn_span.overlap_ms(unheard) for turn_span in (turn.span for turn in named(found)))
    kept = [turn for turn in of.truth if not turn.span.overlap_ms(Span.of(50_000, 110_000))]
    inside = [turn for turn in named(found) if not turn.span.overlap_ms(Span.of(50_000, 110_000))]
    assert diarization_error(kept, inside).rate < 0.05


def test_only_speech_has_a_speaker() -> None:
    """Windows reach over pauses, and the turns do not."""
    of = meeting(2)
    for turn in clustered(of).turns:
        assert any(turn.start_ms >= region.start_ms - 5 and turn.end_ms <= region.end_ms + 5 for region in of.speech)


def test_short_answers_alone_are_told_apart_too() -> None:
    """No window is full of speech: the less full ones say which voices there are."""
    turns = [
        SpeakerTurn(start_ms=at, end_ms=at + 900, speaker=str(number % 2))
        for number, at in enumerate(range(0, 120_000, 3000))
    ]
    of = heard(turns, 120_000)
    found = clustered(of)
    assert found.diagnostics["speakers"] == 2
    assert diarization_error(of.truth, named(found)).rate < 0.03


def test_long_work_can_be_stopped() -> None:
    def unwanted() -> None:
        raise WorkAborted("nobody wants it")

    of = meeting(2)
    with pytest.raises(WorkAborted):
        cluster_voices(of.windows, of.speech, of.duration_ms, NO_HINTS, SPEC, unwanted)
