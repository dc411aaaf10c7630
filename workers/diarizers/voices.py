"""What diarizers with several voices in a window share: which of them can be told, and whose they are. Pure."""

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Windows
from workers.diarizers.reconstruction import NOBODY
from workers.errors import OptionError
from workers.messages import SpeakerHints


def unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each of length 1; zero vectors stay."""
    long = np.asarray(vectors, np.float64)
    length = np.linalg.norm(long, axis=-1, keepdims=True)
    return np.asarray(long / np.where(length > 0, length, 1), np.float32)


def clean_frames(activity: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(windows, local speakers): frames in which that voice alone speaks."""
    alone = activity.sum(axis=2, keepdims=True) == 1
    return np.asarray((activity & alone).sum(axis=1), np.int64)


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


def strange_number(found: int, hints: SpeakerHints) -> tuple[str, ...]:
    """A warning where there are not as many speakers as was said."""
    least, most = hints.exactly or hints.at_least, hints.exactly or hints.at_most
    if least and found < least:
        return (f"{least} speakers were asked for, and only {found} voices could be told apart.",)
    if most and found > most:
        return (f"{most} speakers were asked for, and {found} were found.",)
    return ()
