"""What diarizers with several voices in a window share: which can be told, whose they are, who speaks when. Pure."""

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Clustered, Windows
from workers.diarizers.reconstruction import NOBODY, FrameGrid, count_votes, speaking, turns_of
from workers.errors import OptionError
from workers.messages import MOST_SPEAKERS, SpeakerHints

ENOUGH_SPEECH = 0.2  # of a window: voices with less do not form clusters (pyannote.audio, filter_embeddings)


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each of length 1; zero vectors stay."""
    long = np.asarray(vectors, np.float64)
    length = np.linalg.norm(long, axis=-1, keepdims=True)
    return np.asarray(long / np.where(length > 0, length, 1), np.float32)


def clean_frames(activity: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(windows, local speakers): frames in which that voice alone speaks."""
    alone = activity.sum(axis=2, keepdims=True) == 1
    return np.asarray((activity & alone).sum(axis=1), np.int64)


def to_cluster(windows: Windows, most: int) -> tuple[NDArray[np.bool_], int]:
    """(windows, local speakers): the voices that clusters are made of, alone for long enough and not many more than
    `most`; and which windows they are of: every one, or every second, third, …"""
    enough = clean_frames(windows.activity) >= ENOUGH_SPEECH * windows.activity.shape[1]
    told = enough & np.isfinite(windows.embedding).all(axis=2)
    stride = max(1, -(-int(told.sum()) // most))
    kept = np.zeros_like(told)
    kept[::stride] = told[::stride]
    return kept, stride


def bounds(hints: SpeakerHints, candidates: int) -> tuple[int, int]:
    """Least and most clusters to ask for: no more than there are voices, nor than labels of 8 bits can number."""
    most = max(1, min(candidates, MOST_SPEAKERS))
    low = min(hints.exactly or hints.at_least or 1, most)
    return low, max(low, min(hints.exactly or hints.at_most or most, most))


def mean_voice(windows: Windows) -> NDArray[np.float32]:
    """(1, dimension): the mean of all voices that have an embedding."""
    there = windows.activity.any(axis=1) & np.isfinite(windows.embedding).all(axis=2)
    if not there.any():
        return np.zeros((1, windows.embedding.shape[2]), np.float32)
    return np.asarray(windows.embedding[there].mean(axis=0, dtype=np.float64)[None], np.float32)


def voice_of_clip(windows: Windows) -> NDArray[np.float32]:
    """(dimension,), of length 1: the mean over all windows of the voice that is heard longest, alone where it is ever.

    Raises OptionError where there is none.
    """
    clean = clean_frames(windows.activity)
    frames = clean if clean.any() else windows.activity.sum(axis=1)
    rows, longest = np.arange(len(frames)), frames.argmax(axis=1)
    weight, voices = frames[rows, longest], windows.embedding[rows, longest]
    told = (weight > 0) & np.isfinite(voices).all(axis=1)
    if not told.any():
        raise OptionError("Nobody speaks in the clip: give some seconds in which only that person speaks.")
    return unit(np.average(unit(voices[told]), axis=0, weights=weight[told]))


def nearest(windows: Windows, centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """(windows, local speakers): the cluster with the highest cosine; the first one for a voice without an embedding,
    NOBODY for one that is not there."""
    labels = _cosine(windows, centroids).argmax(axis=2)
    return np.where(windows.activity.any(axis=1), labels, NOBODY)


def nearest_apart(windows: Windows, centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """As `nearest`, but two voices of a window are never one person: the surest chooses first, and NOBODY is left
    for those that come after the last cluster is gone."""
    free = _cosine(windows, centroids)
    free[~windows.activity.any(axis=1)] = -np.inf
    labels = np.full(free.shape[:2], NOBODY, np.int64)
    rows = np.arange(len(free))
    for _ in range(min(free.shape[1:])):
        voice, cluster = np.divmod(free.reshape(len(free), -1).argmax(axis=1), free.shape[2])
        some = np.isfinite(free[rows, voice, cluster])
        labels[rows[some], voice[some]] = cluster[some]
        free[rows, voice, :] = -np.inf
        free[rows, :, cluster] = -np.inf
    return labels


def _cosine(windows: Windows, centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    return unit(np.nan_to_num(windows.embedding)) @ unit(centroids).T


def renumbered(
    labels: NDArray[np.int64], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Without clusters that nobody belongs to, whose numbers would be people without a turn."""
    used = np.unique(labels[labels >= 0])
    return np.where(labels >= 0, np.searchsorted(used, labels), NOBODY), centroids[used]


def by_vote(
    windows: Windows,
    labels: NDArray[np.int64],
    centroids: NDArray[np.float32],
    grid: FrameGrid,
    duration_ms: int,
    hints: SpeakerHints,
    longest_gap_ms: float = 0,
    **diagnostics: str | int | float,
) -> Clustered:
    """Who speaks when, of whom each voice of a window is: labels as `nearest_apart` gives them.

    Pauses below longest_gap_ms are filled in `turns` only: in another's turn there may be one, so that filled
    exclusive turns would overlap (as pyannote.audio's do).
    """
    votes = count_votes(windows, labels, grid, second=nearest(windows, centroids))
    spoken, alone = speaking(votes, len(centroids)), speaking(votes, 1)
    there = np.asarray(spoken.any(axis=0), np.bool_)  # whoever is outvoted in every frame is nobody
    found = int(there.sum())
    return Clustered(
        turns=turns_of(spoken[:, there], grid, duration_ms, longest_gap_ms),
        exclusive_turns=turns_of(alone[:, there], grid, duration_ms),
        centroids=centroids[: len(there)][there],  # the last ones may have no voice at all
        diagnostics={**diagnostics, "speakers": found, "voices": int(windows.activity.any(axis=1).sum())},
        warnings=strange_number(found, hints),
    )


def strange_number(found: int, hints: SpeakerHints) -> tuple[str, ...]:
    """A warning where there are not as many speakers as was said."""
    least, most = hints.exactly or hints.at_least, hints.exactly or hints.at_most
    if least and found < least:
        return (f"{least} speakers were asked for, and only {found} voices could be told apart.",)
    if most and found > most:
        return (f"{most} speakers were asked for, and {found} were found.",)
    return ()
