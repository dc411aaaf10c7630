"""Which windows are the same voice: spectral clustering over the whole recording, and turns from it. Pure.

For diarizers that hear one voice a window. Only windows full of speech say which voices there are; then every
window is given to the nearest of them. Nothing is drawn by chance, and no result depends on the chunks in which
the windows came.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Clustered, ClusterTurn, DiarizerSpec, Windows
from workers.diarizers.spectral import ROUNDS, k_means, laplacian
from workers.diarizers.voting import NOBODY, Labels, speech_frames, speech_shares, turns_by_vote
from workers.messages import SpeakerHints
from workers.spans import Span

# A window with a pause in it holds the end of one person and the beginning of another more often than not. Where
# hardly any is full (short answers), less full ones have to do.
FULL_OF_SPEECH = (0.9, 0.5, 0.1)
FEWEST_TRAINING = 12

# Eigenvectors of N windows cost N³ in time and N² in memory, 1 s and 150 MB at 1 500; the others are classified only.
MOST_TRAINING = 1500

MOST_FOUND = 20  # voices that are found unasked

# Measured with ge2e on 80 conversations of 20 to 300 s with 1 to 6 voices: the means of two persons' windows have
# a cosine of at most 0.79; where one person's windows are given to two, these have 0.91 and more (once 0.87).
# In a lively telephone call, where most windows hold some of both, two persons have 0.87.
ONE_PERSON = 0.9
DOUBTFUL = 0.85  # where more voices than were heard are asked for, two as near as this are worth a warning

# A cluster that falls into parts less alike than this holds two persons: one of them spoke too little to show in
# the graph. At least so many windows each, as a cough fills one or two. The number of voices was right in 71 of the
# 80 conversations, and in 68 if it took four windows; too few were found in the others, too many in none.
TWO_PERSONS = 0.75
FEWEST_OF_A_PERSON = 3

EIGENGAPS_SHOWN = 10

Embeddings = NDArray[np.float32]  # (n, dimension), each of length 1


def cluster_voices(
    windows: Windows,
    speech: Sequence[Span],
    duration_ms: int,
    hints: SpeakerHints,
    spec: DiarizerSpec,
    wanted: Callable[[], None],
) -> Clustered:
    """Turns over [0, duration_ms) from all windows of a recording, as Diarizer.cluster wants them.

    Turns never overlap, since a window holds one voice. Clusters are numbered by first appearance.
    """
    frames = speech_frames(speech, duration_ms)
    shares = speech_shares(windows.index, frames, spec)
    heard = np.asarray(np.isfinite(windows.embedding[:, 0]).all(axis=1), np.bool_)
    training = _training(shares, heard)
    if not len(training):
        return _nobody(len(windows.index), spec)
    found = _find_voices(_unit(windows.embedding[training, 0]), hints, wanted)
    wanted()
    labels = np.full(len(windows.index), NOBODY, np.int32)
    labels[heard] = _nearest(windows.embedding[heard, 0], found.centroids)
    wanted()
    turns, centroids = _by_appearance(turns_by_vote(windows.index, labels, frames, duration_ms, spec), found.centroids)
    asked, _ = _bounds(hints)
    return Clustered(
        turns=turns,
        exclusive_turns=turns,
        centroids=centroids,
        diagnostics={
            "speakers_found": found.automatic,
            "speakers": len(centroids),
            "eigengaps": found.eigengaps,
            "windows_clustered": len(training),
            "windows": len(windows.index),
        },
        warnings=_doubts(asked, found.automatic, centroids),
    )


def _nobody(windows: int, spec: DiarizerSpec) -> Clustered:
    return Clustered(
        turns=(),
        exclusive_turns=(),
        centroids=np.zeros((0, spec.dimension), np.float32),
        diagnostics={
            "speakers_found": 0,
            "speakers": 0,
            "eigengaps": [],
            "windows_clustered": 0,
            "windows": windows,
        },
    )


def _training(shares: NDArray[np.float64], heard: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Places of the windows that say which voices there are: full of speech, evenly over the recording."""
    places = np.zeros(0, np.intp)
    for share in FULL_OF_SPEECH:
        places = np.flatnonzero(heard & (shares >= share))
        if len(places) >= FEWEST_TRAINING:
            break
    if len(places) > MOST_TRAINING:
        places = places[np.arange(MOST_TRAINING) * len(places) // MOST_TRAINING]
    return places


# ---- how many voices, and which ----


@dataclass(frozen=True)
class _Voices:
    """centroids: (voices, dimension), each of length 1. automatic: how many there are without hints; None for not
    looked for."""

    centroids: Embeddings
    automatic: int | None
    eigengaps: list[float]


def _find_voices(embeddings: Embeddings, hints: SpeakerHints, wanted: Callable[[], None]) -> _Voices:
    low, high = _bounds(hints)
    low, high = min(low, len(embeddings)), min(high, len(embeddings))
    if high > 1:
        return _spectral(embeddings, low, high, wanted)
    return _Voices(_unit(embeddings.mean(axis=0, keepdims=True)), 1 if len(embeddings) == 1 else None, [])


def _bounds(hints: SpeakerHints) -> tuple[int, int]:
    if hints.exactly is not None:
        return hints.exactly, hints.exactly
    low = hints.at_least or 1
    return low, hints.at_most or max(low, MOST_FOUND)


def _doubts(asked: int, automatic: int | None, centroids: Embeddings) -> tuple[str, ...]:
    """What to say where more people were asked for than can be heard."""
    given = len(centroids)
    if automatic is None or asked <= automatic or (given >= asked and _closest(centroids) < DOUBTFUL):
        return ()
    heard = min(automatic, given)
    only = f"{asked} speakers were asked for, but only {heard} voice{'s' * (heard != 1)} can be told apart"
    if given < asked:
        return (f"{only}, and there is too little speech to look for more.",)
    return (f"{only}: one person may stand under several names, so try fewer, or leave the number open.",)


def _spectral(embeddings: Embeddings, low: int, high: int, wanted: Callable[[], None]) -> _Voices:
    """As many voices as the widest gap between the eigenvalues says, corrected where their cosines are sure."""
    graph = laplacian(embeddings)
    wanted()
    values, vectors = np.linalg.eigh(graph)
    wanted()
    gaps = np.diff(np.append(values, values[-1]))  # after the last there is none to see

    def between(low: int, high: int) -> Embeddings:
        count = low + int(np.argmax(gaps[low - 1 : high]))
        centroids = _centroids(embeddings, k_means(vectors[:, :count]))
        while count > low and _closest(centroids) >= ONE_PERSON:
            count -= 1
            centroids = _centroids(embeddings, k_means(vectors[:, :count]))
        return _parted(embeddings, centroids, high)

    unasked = (1, min(MOST_FOUND, len(embeddings)))
    found = between(*unasked)
    asked = found if (low, high) == unasked else between(low, high)
    return _Voices(asked, len(found), [round(float(gap), 4) for gap in gaps[:EIGENGAPS_SHOWN]])


# ---- voices ----


def _unit(embeddings: NDArray[np.floating]) -> Embeddings:
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return np.asarray(embeddings / np.maximum(length, 1e-12), np.float32)


def _centroids(embeddings: Embeddings, labels: NDArray[np.integer]) -> Embeddings:
    """The mean direction of each cluster that has a window."""
    return _unit(np.stack([embeddings[labels == k].mean(axis=0, dtype=np.float64) for k in np.unique(labels)]))


def _closest(centroids: Embeddings) -> float:
    """The cosine of the two voices most alike, -1 where there are not two."""
    return float((centroids @ centroids.T)[np.triu_indices(len(centroids), 1)].max(initial=-1.0))


def _parted(embeddings: Embeddings, centroids: Embeddings, most: int) -> Embeddings:
    """The same voices, and those found apart inside one of them, `most` in all."""
    place = 0
    while place < len(centroids) < most:
        parts = _two_parts(embeddings[_nearest(embeddings, centroids) == place])
        if parts is None:
            place += 1
        else:
            centroids = np.concatenate([centroids[:place], parts, centroids[place + 1 :]])
    return _centroids(embeddings, _nearest(embeddings, centroids))


def _two_parts(embeddings: Embeddings) -> Embeddings | None:
    """The means of two persons that a cluster holds, or None where it is one.

    Begins with the window that is least like the cluster and the one that is least like that.
    """
    if len(embeddings) < 2 * FEWEST_OF_A_PERSON:
        return None
    first = int(np.argmin(embeddings @ embeddings.mean(axis=0)))
    means = embeddings[[first, int(np.argmin(embeddings @ embeddings[first]))]]
    labels = np.zeros(0, np.int32)
    for _ in range(ROUNDS):
        before, labels = labels, _nearest(embeddings, means)
        if np.bincount(labels, minlength=2).min() < FEWEST_OF_A_PERSON:
            return None
        if np.array_equal(before, labels):
            break
        means = _centroids(embeddings, labels)
    return means if means[0] @ means[1] < TWO_PERSONS else None


def _nearest(embeddings: NDArray[np.float32], centroids: Embeddings) -> Labels:
    return np.asarray(np.argmax(embeddings @ centroids.T, axis=1), np.int32)


def _by_appearance(turns: Sequence[ClusterTurn], centroids: Embeddings) -> tuple[tuple[ClusterTurn, ...], Embeddings]:
    """Clusters renumbered in the order in which they first speak; those that never do are dropped."""
    order = list(dict.fromkeys(turn.cluster for turn in turns))
    number = {cluster: place for place, cluster in enumerate(order)}
    renumbered = tuple(ClusterTurn(turn.start_ms, turn.end_ms, number[turn.cluster]) for turn in turns)
    return renumbered, centroids[order]
