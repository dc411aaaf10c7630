"""From windows that overlap, each with the number of a voice, to turns. Pure.

Time runs in frames of 10 ms of the wanted span; a frame is speech where its middle is.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import ClusterTurn, DiarizerSpec
from workers.spans import SAMPLES_PER_MS, Span

FRAME_MS = 10
NOBODY = -1

SHORTEST_PAUSE_MS = 300  # a shorter silence within one person's speech is a breath, and parts no turns
SHORTEST_TURN_MS = 100  # what is shorter is no syllable; where somebody else goes on speaking it is theirs
BLOCK_FRAMES = 60_000  # ten minutes: the votes of all voices are held for so long a stretch only

Frames = NDArray[np.bool_]
Labels = NDArray[np.int32]


def speech_frames(speech: Sequence[Span], duration_ms: int) -> Frames:
    """Of each frame of [0, duration_ms), whether its middle lies in one of the regions."""
    frames = np.zeros(-(-duration_ms // FRAME_MS), np.bool_)
    for region in speech:
        first, stop = (-(-(max(0, ms) - FRAME_MS // 2) // FRAME_MS) for ms in (region.start_ms, region.end_ms))
        frames[first:stop] = True
    return frames


def speech_shares(index: NDArray[np.int32], frames: Frames, spec: DiarizerSpec) -> NDArray[np.float64]:
    """What part of each window is speech, 0 to 1; beyond the end of the recording there is none."""
    before = np.concatenate([[0], np.cumsum(frames)])
    starts = index.astype(np.int64) * spec.step // (FRAME_MS * SAMPLES_PER_MS)
    length = spec.window // (FRAME_MS * SAMPLES_PER_MS)
    held = before[np.minimum(starts + length, len(frames))] - before[np.minimum(starts, len(frames))]
    return np.asarray(held / length, np.float64)


def turns_by_vote(
    index: NDArray[np.int32], labels: Labels, frames: Frames, duration_ms: int, spec: DiarizerSpec
) -> tuple[ClusterTurn, ...]:
    """Who speaks when: in each frame of speech, the voice that most of the windows over it have, near ones first.

    labels: the voice of each window, NOBODY where it has none. A frame that no window with a voice covers
    is nobody's. The turns never overlap.
    """
    voices = np.full(len(frames), NOBODY, np.int32)
    for first in range(0, len(frames), BLOCK_FRAMES):
        block = slice(first, min(first + BLOCK_FRAMES, len(frames)))
        voices[block] = np.where(frames[block], _elected(index, labels, range(block.start, block.stop), spec), NOBODY)
    runs = _joined(_without_bursts(_joined(_runs(voices))))
    return tuple(ClusterTurn(start, min(end, duration_ms), voice) for start, end, voice in runs)


def _elected(index: NDArray[np.int32], labels: Labels, frames: range, spec: DiarizerSpec) -> Labels:
    """The voice with most votes in each frame. A window's vote falls from 1 in its middle to 0 at its ends,
    because that is where another person may have begun.
    """
    voices = int(labels.max(initial=NOBODY)) + 1
    if not voices:
        return np.full(len(frames), NOBODY, np.int32)
    middles = (np.arange(frames.start, frames.stop) + 0.5) * (FRAME_MS * SAMPLES_PER_MS)
    newest = (middles // spec.step).astype(np.int64)  # the last window that begins before the frame's middle
    votes = np.zeros((len(frames), voices))
    rows = np.arange(len(frames))
    for back in range(-(-spec.window // spec.step)):
        number = newest - back
        at = np.minimum(np.searchsorted(index, number), len(index) - 1)
        weight = 1 - np.abs(middles - number * spec.step - spec.window / 2) / (spec.window / 2)
        counts = (index[at] == number) & (labels[at] != NOBODY) & (weight > 0)
        votes[rows[counts], labels[at[counts]]] += weight[counts]
    return np.where(votes.any(axis=1), votes.argmax(axis=1), NOBODY).astype(np.int32)


Run = tuple[int, int, int]  # start and end in ms, voice


def _runs(voices: Labels) -> list[Run]:
    """Maximal stretches of frames of one voice, ascending; NOBODY's are left out."""
    if not len(voices):
        return []
    edges = np.concatenate([[0], np.flatnonzero(np.diff(voices)) + 1, [len(voices)]])
    return [
        (int(start) * FRAME_MS, int(end) * FRAME_MS, int(voices[start]))
        for start, end in pairwise(edges)
        if voices[start] != NOBODY
    ]


def _joined(runs: Sequence[Run]) -> list[Run]:
    """Neighbours of one voice with less than a pause between them, made one."""
    joined: list[Run] = []
    for start, end, voice in runs:
        if joined and joined[-1][2] == voice and start - joined[-1][1] < SHORTEST_PAUSE_MS:
            joined[-1] = (joined[-1][0], end, voice)
        else:
            joined.append((start, end, voice))
    return joined


def _without_bursts(runs: Sequence[Run]) -> list[Run]:
    """No run shorter than a syllable: it goes to the longer of those it touches, and away where it touches none."""
    return list(_kept(runs))


def _kept(runs: Sequence[Run]) -> Iterator[Run]:
    for place, (start, end, voice) in enumerate(runs):
        if end - start >= SHORTEST_TURN_MS:
            yield start, end, voice
            continue
        touching = [
            other
            for other in (runs[place - 1] if place else None, runs[place + 1] if place + 1 < len(runs) else None)
            if other and (other[1] == start or other[0] == end) and other[1] - other[0] >= SHORTEST_TURN_MS
        ]
        if touching:
            yield start, end, max(touching, key=lambda other: other[1] - other[0])[2]
