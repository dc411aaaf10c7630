"""From who speaks in each window to who speaks when: windows vote, frame by frame. Pure.

The rules are those of pyannote.audio's pipelines (speaker_count, reconstruct, to_annotation), whose own code is the
oracle of the tests. Four things differ, so that nobody is made up, and the answer is the same on every processor:
a frame has no more speakers than there are clusters; a cluster speaks only in frames where a window heard it, be it
as second choice; of clusters with as many votes the lower number speaks; windows that are missing do not vote.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import ClusterTurn, Windows
from workers.spans import SAMPLES_PER_MS

NOBODY = -2  # the label of a voice that is not there, or that no cluster was left for, as in pyannote.audio
_VOTE = 256  # of a first choice: the second choices of all windows that hear a frame weigh less than one first choice
_BLOCK = 100_000  # frames that are ranked at once: half an hour


@dataclass(frozen=True)
class FrameGrid:
    """Where frames lie, in samples: frame i hears [i * step, i * step + size).

    window_step: from window to window; window: length of one.
    """

    size: int
    step: int
    window: int
    window_step: int

    def first_of(self, window: int) -> int:
        """The frame of the recording with which a window's frames begin."""
        return int(np.rint(window * self.window_step / self.step))

    def count(self, windows: int) -> int:
        """Frames of a recording of so many windows."""
        return int(np.rint(((windows - 1) * self.window_step + self.window) / self.step)) + 1

    def middle_ms(self, frame: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.rint((frame * self.step + self.size / 2) / SAMPLES_PER_MS).astype(np.int64)


@dataclass(frozen=True)
class Votes:
    """Per frame of the recording. clusters: (frames, clusters), by how many windows each of them is heard, times 256,
    and how often it is a second choice; speakers: (frames,), how many people speak at once, the mean of the windows,
    rounded."""

    clusters: NDArray[np.uint16]
    speakers: NDArray[np.int64]


def count_votes(
    windows: Windows, labels: NDArray[np.int64], grid: FrameGrid, second: NDArray[np.int64] | None = None
) -> Votes:
    """labels: (windows, local speakers), the cluster of each voice, or NOBODY.

    second: the same, for voices that have no label because another voice of the window took the cluster. They decide
    only where nobody has a first vote, as in a window of two voices when one person was asked for.
    """
    second = np.full_like(labels, NOBODY) if second is None else np.where(labels >= 0, NOBODY, second)
    clusters = max(0, int(labels.max(initial=NOBODY)) + 1, int(second.max(initial=NOBODY)) + 1)
    if not len(windows.index):
        return Votes(np.zeros((0, clusters), np.uint16), np.zeros(0, np.int64))
    per_window = windows.activity.shape[1]
    frames = max(grid.count(int(windows.index[-1]) + 1), grid.first_of(int(windows.index[-1])) + per_window)
    votes = np.zeros((frames, clusters), np.uint16)
    voices = np.zeros(frames, np.int64)
    heard_by = np.zeros(frames, np.int64)
    for number, active, *choices in zip(windows.index, windows.activity, labels, second, strict=True):
        first = grid.first_of(int(number))
        covered = slice(first, first + per_window)
        voices[covered] += active.sum(axis=1)
        heard_by[covered] += 1
        for assigned, weight in zip(choices, (_VOTE, 1), strict=True):
            for cluster in np.unique(assigned[assigned >= 0]):
                votes[covered, cluster] += np.uint16(weight) * active[:, assigned == cluster].any(axis=1)
    return Votes(votes, np.rint(voices / np.maximum(heard_by, 1)).astype(np.int64))


def speaking(votes: Votes, at_once: int) -> NDArray[np.bool_]:
    """(frames, clusters): in each frame those with most votes, as many as speak there, at most `at_once`."""
    frames, clusters = votes.clusters.shape
    chosen = np.zeros((frames, clusters), np.bool_)
    for begin in range(0, frames, _BLOCK):
        block = slice(begin, begin + _BLOCK)
        order = np.argsort(-votes.clusters[block].astype(np.int32), axis=1, kind="stable")
        allowed = np.arange(clusters) < np.minimum(votes.speakers[block], at_once)[:, None]
        np.put_along_axis(chosen[block], order, allowed, axis=1)
    return chosen & (votes.clusters > 0)


def turns_of(
    spoken: NDArray[np.bool_], grid: FrameGrid, duration_ms: int, longest_gap_ms: float = 0
) -> tuple[ClusterTurn, ...]:
    """Turns from the middle of the first frame to the middle of the first silent one, ascending.

    Pauses of a person below longest_gap_ms are filled.
    """
    found = []
    for cluster in range(spoken.shape[1]):
        edges = np.diff(np.concatenate([[False], spoken[:, cluster], [False]]).astype(np.int8))
        starts = grid.middle_ms(np.flatnonzero(edges == 1))
        # someone who speaks in the last frame stops in its middle: what is after it nobody has heard
        ends = grid.middle_ms(np.minimum(np.flatnonzero(edges == -1), len(spoken) - 1))
        kept = np.ones(len(starts) + 1, np.bool_)
        kept[1:-1] = starts[1:] - ends[:-1] >= max(longest_gap_ms, 1e-9)
        starts, ends = starts[kept[:-1]], ends[kept[1:]]
        found += [
            ClusterTurn(int(start), min(int(end), duration_ms), cluster)
            for start, end in zip(starts, ends, strict=True)
            if start < min(end, duration_ms)
        ]
    return tuple(sorted(found, key=lambda turn: (turn.start_ms, turn.end_ms, turn.cluster)))
