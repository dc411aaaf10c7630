"""From windows that overlap, each with the number of a voice, to turns. Pure.

Time runs in frames of 10 ms of the wanted span; a frame is speech where its middle is.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import ClusterTurn, DiarizerSpec
from workers.spans import SAMPLES_PER_MS, Span

FRAME_MS = 10
NOBODY = -1

# Chosen on 16 conversations of 1 to 6 voices, 300 s each: DER without a collar (mean, worst) and confusion.
SHORTEST_PAUSE_MS = (
    200  # less within one person's speech parts no turns: 0 ms 2.6 %, 3.5 %; 200: 3.0, 4.2; 300: 4.0, 5.7
)
SHORTEST_CHANGE_MS = (
    300  # less within a stretch of speech is the vote's blur: 100 ms 0.47 % confused; 300: 0.18; 400: 0.12
)
SHORTEST_TURN_MS = 100  # what is left alone and shorter is no syllable
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
    runs = _joined(_settled(_runs(voices)), SHORTEST_PAUSE_MS)
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


def _settled(runs: Sequence[Run]) -> list[Run]:
    """Without changes of voice that are too short to be one: the longer neighbour within the speech goes on there."""
    settled: list[Run] = []
    for place, (start, end, voice) in enumerate(runs):
        touching = [run for run in runs[max(0, place - 1) : place + 2] if run[1] == start or run[0] == end]
        longest = max(touching, key=_length, default=(0, 0, NOBODY))
        taken = end - start < SHORTEST_CHANGE_MS and _length(longest) >= end - start
        settled.append((start, end, longest[2] if taken else voice))
    return [run for run in _joined(settled, 1) if _length(run) >= SHORTEST_TURN_MS]


def _length(run: Run) -> int:
    return run[1] - run[0]


def _joined(runs: Sequence[Run], pause_ms: int) -> list[Run]:
    """Neighbours of one voice with less than a pause between them, made one."""
    joined: list[Run] = []
    for start, end, voice in runs:
        if joined and joined[-1][2] == voice and start - joined[-1][1] < pause_ms:
            joined[-1] = (joined[-1][0], end, voice)
        else:
            joined.append((start, end, voice))
    return joined
