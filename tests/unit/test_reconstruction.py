"""Votes of windows, counted by hand here and by pyannote.audio's own code in tests/integration/test_pyannote.py."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.diarizers import ClusterTurn, Windows
from workers.diarizers.reconstruction import NOBODY, FrameGrid, Votes, count_votes, speaking, turns_of
from workers.diarizers.voices import by_vote
from workers.messages import SpeakerHints

# windows of 4 frames of 10 ms, one every 2 frames
GRID = FrameGrid(size=160, step=160, window=640, window_step=320)


def windows(*frames: list[list[int]], index: list[int] | None = None) -> Windows:
    """One list per window: per local speaker, its frames."""
    activity = np.array(frames, np.bool_).transpose(0, 2, 1)
    numbers = np.array(list(range(len(frames))) if index is None else index, np.int32)
    return Windows("x", numbers, activity, np.zeros((len(frames), activity.shape[2], 2), np.float32))


def labels(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int64)


def test_a_frame_has_as_many_speakers_as_its_windows_hear_on_the_average() -> None:
    heard = windows([[1, 1, 1, 1], [0, 0, 1, 1]], [[1, 1, 0, 0], [1, 0, 0, 0]])
    votes = count_votes(heard, labels([0, 1], [0, 1]), GRID)
    assert votes.speakers.tolist()[:6] == [1, 1, 2, 2, 0, 0]  # frame 3: (2 + 1) / 2 = 1.5, and to even that is 2
    assert (votes.clusters // 256).tolist()[:6] == [[1, 0], [1, 0], [2, 2], [2, 1], [0, 0], [0, 0]]


def test_of_equals_the_lower_number_speaks_and_nobody_without_a_vote() -> None:
    votes = Votes(np.array([[1, 1, 0], [0, 2, 1], [0, 0, 0]], np.uint16), np.array([1, 3, 2]))
    assert speaking(votes, 9).tolist() == [[True, False, False], [False, True, True], [False, False, False]]
    assert speaking(votes, 1).tolist() == [[True, False, False], [False, True, False], [False, False, False]]


def test_two_voices_of_a_window_that_are_one_person_have_one_vote() -> None:
    votes = count_votes(windows([[1, 1, 0, 0], [1, 0, 1, 0]]), labels([0, 0]), GRID)
    assert (votes.clusters[:4, 0] // 256).tolist() == [1, 1, 1, 0]
    assert speaking(votes, 9)[:4, 0].tolist() == [True, True, True, False]


def test_a_voice_that_no_cluster_was_left_for_speaks_where_nobody_else_does() -> None:
    heard = windows([[1, 1, 0, 0], [0, 1, 1, 0]])
    votes = count_votes(heard, labels([0, NOBODY]), GRID, second=labels([1, 0]))
    assert speaking(votes, 9)[:4].tolist() == [[True], [True], [True], [False]]
    other = count_votes(heard, labels([1, NOBODY]), GRID, second=labels([1, 0]))
    assert speaking(other, 1)[:4].tolist() == [[False, True], [False, True], [True, False], [False, False]]


def test_a_missing_window_votes_for_nobody_and_against_nobody() -> None:
    full = [[1, 1, 1, 1]]
    votes = count_votes(windows(full, full, index=[0, 5]), labels([0], [0]), GRID)
    spoken = speaking(votes, 9)[:, 0]
    assert np.flatnonzero(spoken).tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


def test_turns_reach_from_middle_to_middle_and_not_past_the_recording() -> None:
    spoken = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 0], [1, 0]], np.bool_)
    assert turns_of(spoken, GRID, 1000) == (
        ClusterTurn(5, 25, 1),
        ClusterTurn(15, 35, 0),
        ClusterTurn(45, 55, 0),
    )
    assert turns_of(spoken, GRID, 48)[-1] == ClusterTurn(45, 48, 0)
    assert turns_of(spoken, GRID, 45) == (ClusterTurn(5, 25, 1), ClusterTurn(15, 35, 0))


@pytest.mark.parametrize(("gap_ms", "count"), [(0, 2), (10, 2), (10.5, 1)])
def test_a_pause_below_the_gap_is_filled(gap_ms: float, count: int) -> None:
    spoken = np.array([[1], [1], [0], [1], [0]], np.bool_)
    assert len(turns_of(spoken, GRID, 1000, gap_ms)) == count


def test_without_windows_or_voices_there_are_no_turns() -> None:
    none = Windows("x", np.zeros(0, np.int32), np.zeros((0, 4, 2), np.bool_), np.zeros((0, 2, 2), np.float32))
    assert turns_of(speaking(count_votes(none, np.zeros((0, 2), np.int64), GRID), 9), GRID, 1000) == ()
    silent = windows([[0, 0, 0, 0], [0, 0, 0, 0]])
    votes = count_votes(silent, labels([NOBODY, NOBODY]), GRID)
    assert turns_of(speaking(votes, 9), GRID, 1000) == ()


def test_a_pause_with_another_in_it_is_filled_but_not_of_exclusive_turns() -> None:
    heard = windows([[1, 0, 0, 1], [0, 1, 0, 0]])
    found = by_vote(heard, labels([0, 1]), np.eye(2, dtype=np.float32), GRID, 1000, SpeakerHints(), 50)
    assert found.turns == (ClusterTurn(5, 45, 0), ClusterTurn(15, 25, 1))
    assert found.exclusive_turns == (ClusterTurn(5, 15, 0), ClusterTurn(15, 25, 1), ClusterTurn(35, 45, 0))


@given(st.data())
def test_exclusive_turns_never_overlap_and_lie_within_all_turns(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    bits = data.draw(st.lists(st.booleans(), min_size=count * 12, max_size=count * 12))
    activity = np.array(bits, np.bool_).reshape(count, 4, 3)
    drawn = data.draw(st.lists(st.integers(0, 3), min_size=count * 3, max_size=count * 3))
    assigned = np.where(activity.any(axis=1), np.array(drawn).reshape(count, 3), NOBODY)
    heard = Windows("x", np.arange(count, dtype=np.int32), activity, np.zeros((count, 3, 4), np.float32))
    votes = count_votes(heard, assigned, GRID)
    alone, all_of_them = speaking(votes, 1), speaking(votes, 99)
    assert (alone.sum(axis=1) <= 1).all()
    assert not (alone & ~all_of_them).any()
    gap_ms = data.draw(st.sampled_from([0.0, 10.5, 35.0, 500.0]))
    found = by_vote(heard, assigned, np.eye(4, dtype=np.float32), GRID, 10_000, SpeakerHints(), gap_ms)
    assert all(one.end_ms <= after.start_ms for one, after in pairwise(found.exclusive_turns))
    for own in found.exclusive_turns:
        assert any(
            turn.cluster == own.cluster and turn.start_ms <= own.start_ms and own.end_ms <= turn.end_ms
            for turn in found.turns
        )
