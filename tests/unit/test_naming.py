"""Clusters in any order become people in the order in which they speak, and clips give them names."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.diarizers import Clustered, ClusterTurn
from workers.diarizers.naming import name_speakers

Voice = NDArray[np.float32]
EYE = np.eye(6, dtype=np.float32)


def clustered(
    *turns: tuple[int, int, int], centroids: Voice = EYE, exclusive: Sequence[tuple[int, int, int]] = ()
) -> Clustered:
    return Clustered(
        turns=tuple(ClusterTurn(*each) for each in turns),
        exclusive_turns=tuple(ClusterTurn(*each) for each in exclusive or turns),
        centroids=centroids,
    )


def like(cosine: float, cluster: int, other: int = 5) -> Voice:
    """A voice of length 1 at that cosine to the centre of `cluster`."""
    voice: Voice = (cosine * EYE[cluster] + np.sqrt(1 - cosine**2) * EYE[other]).astype(np.float32)
    return voice


def test_people_are_numbered_as_they_appear() -> None:
    heard = clustered((0, 1_000, 3), (500, 2_000, 0), (2_000, 2_500, 3), (3_000, 4_000, 2))
    turns, exclusive, speakers, warnings = name_speakers(heard, {}, 0.7, 10_000)

    assert [(t.start_ms, t.end_ms, t.speaker) for t in turns] == [
        (10_000, 11_000, "SPEAKER_00"),
        (10_500, 12_000, "SPEAKER_01"),
        (12_000, 12_500, "SPEAKER_00"),
        (13_000, 14_000, "SPEAKER_02"),
    ]
    assert exclusive == turns
    assert [(s.name, s.spoken_ms, s.similarity) for s in speakers] == [
        ("SPEAKER_00", 1_500, None),
        ("SPEAKER_01", 1_500, None),
        ("SPEAKER_02", 1_000, None),
    ]
    assert warnings == ()


def test_of_two_who_begin_together_the_smaller_number_is_first() -> None:
    turns, *_ = name_speakers(clustered((0, 900, 4), (0, 1_000, 1)), {}, 0.7, 0)

    assert [(t.end_ms, t.speaker) for t in turns] == [(900, "SPEAKER_01"), (1_000, "SPEAKER_00")]


def test_exclusive_turns_have_the_same_names() -> None:
    heard = clustered((0, 2_000, 2), (1_000, 3_000, 1), exclusive=[(0, 1_500, 2), (1_500, 3_000, 1)])
    turns, exclusive, speakers, _ = name_speakers(heard, {"Ann": EYE[1]}, 0.7, 0)

    assert [t.speaker for t in turns] == ["SPEAKER_00", "Ann"]
    assert [(t.start_ms, t.end_ms, t.speaker) for t in exclusive] == [(0, 1_500, "SPEAKER_00"), (1_500, 3_000, "Ann")]
    assert [s.spoken_ms for s in speakers] == [2_000, 2_000]


def test_a_clip_names_its_person_and_the_others_are_numbered_without_a_hole() -> None:
    heard = clustered((0, 1_000, 0), (1_000, 2_000, 1), (2_000, 3_000, 2))
    _, _, speakers, warnings = name_speakers(heard, {"Ann": like(0.9, 1)}, 0.7, 0)

    assert [(s.name, s.similarity) for s in speakers] == [("SPEAKER_00", None), ("Ann", 0.9), ("SPEAKER_01", None)]
    assert warnings == ()


def test_centres_need_not_be_of_length_one() -> None:
    heard = clustered((0, 1_000, 0), centroids=EYE * np.float32(0.01))
    _, _, speakers, _ = name_speakers(heard, {"Ann": like(0.8, 0)}, 0.7, 0)

    assert [(s.name, s.similarity) for s in speakers] == [("Ann", 0.8)]


def test_a_clip_of_nobody_says_how_near_the_nearest_came() -> None:
    heard = clustered((0, 1_000, 0), (1_000, 2_000, 1))
    _, _, speakers, warnings = name_speakers(heard, {"Ann": like(0.64, 1)}, 0.7, 0)

    assert [s.name for s in speakers] == ["SPEAKER_00", "SPEAKER_01"]
    assert len(warnings) == 1
    for told in ("'Ann'", "0.640", "0.700", "SPEAKER_01"):
        assert told in warnings[0]


@pytest.mark.parametrize("names", [("Ann", "Bob"), ("Bob", "Ann")])
def test_of_two_clips_of_one_person_the_nearer_one_counts(names: tuple[str, str]) -> None:
    nearer, farther = names
    heard = clustered((0, 1_000, 0), (1_000, 2_000, 1))
    _, _, speakers, warnings = name_speakers(heard, {farther: like(0.8, 0), nearer: like(0.95, 0)}, 0.7, 0)

    assert [s.name for s in speakers] == [nearer, "SPEAKER_00"]
    assert len(warnings) == 1
    for told in (f"'{farther}'", "0.800", f"'{nearer}'"):
        assert told in warnings[0]


def test_the_most_alike_pair_goes_first_and_the_other_clip_takes_the_next_person_it_is_like() -> None:
    heard = clustered((0, 1_000, 0), (1_000, 2_000, 1))
    both = 0.75 * EYE[0] + 0.65 * EYE[1] + np.float32(np.sqrt(1 - 0.75**2 - 0.65**2)) * EYE[5]
    _, _, speakers, warnings = name_speakers(heard, {"Ann": both, "Bob": like(0.9, 0)}, 0.6, 0)

    assert [s.name for s in speakers] == ["Bob", "Ann"]
    assert warnings == ()


def test_equal_clips_are_told_apart_by_name_and_equal_people_by_appearance() -> None:
    heard = clustered((0, 1_000, 1), (1_000, 2_000, 0), centroids=np.stack([EYE[0], EYE[0]]))
    for order in (("Bob", "Ann"), ("Ann", "Bob")):
        _, _, speakers, _ = name_speakers(heard, dict.fromkeys(order, EYE[0]), 0.7, 0)
        assert [s.name for s in speakers] == ["Ann", "Bob"]


def test_clusters_that_never_speak_are_no_people() -> None:
    _, _, speakers, warnings = name_speakers(clustered((0, 1_000, 2)), {"Ann": EYE[0]}, 0.7, 0)

    assert [s.name for s in speakers] == ["SPEAKER_00"]
    assert "0.000" in warnings[0]


def test_where_nobody_speaks_every_clip_is_a_warning() -> None:
    heard = clustered(centroids=np.zeros((0, 6), np.float32))

    assert name_speakers(heard, {}, 0.7, 0) == ((), (), (), ())
    turns, exclusive, speakers, warnings = name_speakers(heard, {"Bob": EYE[0], "Ann": EYE[1]}, 0.7, 0)
    assert (turns, exclusive, speakers) == ((), (), ())
    assert ["'Ann'" in warnings[0], "'Bob'" in warnings[1]] == [True, True]


def test_a_centre_without_length_is_like_nobody() -> None:
    heard = clustered((0, 1_000, 0), centroids=np.zeros((1, 6), np.float32))
    _, _, speakers, warnings = name_speakers(heard, {"Ann": EYE[0]}, 0.1, 0)

    assert [s.name for s in speakers] == ["SPEAKER_00"]
    assert len(warnings) == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_how_clusters_are_numbered_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    starts = rng.sample(range(10_000), rng.randint(1, 12))  # all different: the number would decide a tie
    turns = sorted((start, start + rng.randint(1, 3_000), rng.randrange(count)) for start in starts)
    voices = np.random.default_rng(seed).normal(size=(count + 3, 6)).astype(np.float32)
    voices /= np.linalg.norm(voices, axis=1, keepdims=True)
    clips = {name: voices[count + n] for n, name in enumerate(["Zoe", "Ann", "Bob"])}
    renumbered = rng.sample(range(count), count)
    centroids = np.empty_like(voices[:count])
    centroids[renumbered] = voices[:count]
    one = name_speakers(clustered(*turns, centroids=voices[:count]), clips, 0.3, 7)
    other = name_speakers(
        clustered(*((a, b, renumbered[c]) for a, b, c in turns), centroids=centroids),
        dict(reversed(clips.items())),
        0.3,
        7,
    )

    assert one == other
    found, _, speakers, warnings = one
    assert {t.speaker for t in found} == {s.name for s in speakers}
    assert sum(s.spoken_ms for s in speakers) == sum(b - a for a, b, _ in turns)
    numbered = [s.name for s in speakers if s.name not in clips]
    assert numbered == [f"SPEAKER_{n:02d}" for n in range(len(numbered))]
    assert len(warnings) + len(speakers) - len(numbered) == len(clips)
