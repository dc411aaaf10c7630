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
from workers.diarizers.voting import NOBODY, Labels, speech_frames, speech_shares, turns_by_vote
from workers.messages import SpeakerHints
from workers.spans import Span

# A window with a pause in it holds the end of one person and the beginning of another more often than not. Where
# hardly any is full (short answers), less full ones have to do.
FULL_OF_SPEECH = (0.9, 0.5, 0.1)
FEWEST_TRAINING = 12

# Eigenvectors of N windows cost N³ in time and N² in memory, 1 s and 150 MB at 1 500; the others are classified only.
MOST_TRAINING = 1500

# Windows count as alike if one is among the nearest NEIGHBOURS of N of the other. Measured on 80 conversations
# of 20 to 300 s with 1 to 6 voices: below 8 neighbours short ones fall into splinters.
NEIGHBOURS = 0.1
FEWEST_NEIGHBOURS, MOST_NEIGHBOURS = 8, 60

MOST_FOUND = 20  # voices that are found unasked

# Two voices whose mean embeddings have this cosine are one person. Measured: halves of one person's windows have
# 0.93 to 0.98, two persons up to 0.86.
ONE_PERSON = 0.93

ROUNDS = 100  # of k-means; it has settled after some ten
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
        warnings=found.warnings,
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
    """centroids: (voices, dimension), each of length 1. automatic: how many were found without hints."""

    centroids: Embeddings
    automatic: int | None
    eigengaps: list[float]
    warnings: tuple[str, ...] = ()


def _find_voices(embeddings: Embeddings, hints: SpeakerHints, wanted: Callable[[], None]) -> _Voices:
    low, high = _bounds(hints)
    asked = low
    low, high = min(low, len(embeddings)), min(high, len(embeddings))
    if high == 1:
        found = _Voices(_centroids(embeddings, np.zeros(len(embeddings), np.intp)), None, [])
    else:
        found = _spectral(embeddings, low, high, wanted)
    apart = _told_apart(found.centroids)
    return _Voices(found.centroids, found.automatic, found.eigengaps, _doubts(asked, len(found.centroids), apart))


def _bounds(hints: SpeakerHints) -> tuple[int, int]:
    if hints.exactly is not None:
        return hints.exactly, hints.exactly
    low = hints.at_least or 1
    return low, hints.at_most or max(low, MOST_FOUND)


def _doubts(asked: int, given: int, apart: int) -> tuple[str, ...]:
    """What to say where more people were asked for than can be heard."""
    if asked <= apart:
        return ()
    voices = "1 voice" if apart == 1 else f"{apart} voices"
    only = f"{asked} speakers were asked for, but only {voices} can be told apart"
    if given < asked:
        return (f"{only}, in too little speech to look for more.",)
    return (f"{only}: one person may stand under several names, so try it with fewer or without a number.",)


def _spectral(embeddings: Embeddings, low: int, high: int, wanted: Callable[[], None]) -> _Voices:
    """As many voices as the widest gap between the eigenvalues of the neighbourhood graph says."""
    laplacian = _laplacian(embeddings)
    wanted()
    values, vectors = np.linalg.eigh(laplacian)
    wanted()
    gaps = np.diff(values[: max(high, MOST_FOUND) + 1])

    def settled(low: int, high: int) -> Embeddings:
        count = low + int(np.argmax(gaps[low - 1 : high])) if low <= len(gaps) else low
        while True:
            centroids = _centroids(embeddings, _k_means(vectors[:, :count]))
            if count <= low or _told_apart(centroids) == len(centroids):
                return centroids
            count -= 1

    automatic = len(settled(1, min(MOST_FOUND, len(embeddings))))
    return _Voices(settled(low, high), automatic, [round(float(gap), 4) for gap in gaps[:EIGENGAPS_SHOWN]])


def _laplacian(embeddings: Embeddings) -> NDArray[np.float64]:
    """Normalised Laplacian of the graph that joins each window with its nearest neighbours.

    Neighbours count as joined or not, however near: the graph then has the same density in a voice that varies
    little and in one that varies much.
    """
    count = len(embeddings)
    neighbours = min(max(round(NEIGHBOURS * count), FEWEST_NEIGHBOURS), MOST_NEIGHBOURS, count - 1)
    likeness = embeddings @ embeddings.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :neighbours]
    joined = np.zeros((count, count))
    np.put_along_axis(joined, nearest, 1.0, axis=1)
    joined = (joined + joined.T) / 2
    np.fill_diagonal(joined, 1.0)
    scale = 1 / np.sqrt(joined.sum(axis=1))
    return np.asarray(np.eye(count) - scale[:, None] * joined * scale, np.float64)


def _k_means(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Cluster of each point; as many clusters as points have coordinates.

    Begins with the point farthest from the mean and goes on with those farthest from all chosen, so without
    chance; only distances matter, so the sign or the rotation in which eigenvectors come changes nothing.
    """
    count = points.shape[1]
    chosen = [int(np.argmax(_squares(points, points.mean(axis=0, keepdims=True))[:, 0]))]
    far = _squares(points, points[chosen])[:, 0]
    while len(chosen) < count:
        chosen.append(int(np.argmax(far)))
        far = np.minimum(far, _squares(points, points[chosen[-1:]])[:, 0])
    centres = points[chosen]
    labels = np.zeros(len(points), np.intp)
    for _ in range(ROUNDS):
        before, labels = labels, np.argmin(_squares(points, centres), axis=1)
        if np.array_equal(before, labels):
            break
        centres = np.stack(
            [points[labels == k].mean(axis=0) if (labels == k).any() else centres[k] for k in range(count)]
        )
    return labels


def _squares(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.sum((points - centre) ** 2, axis=1) for centre in centres], axis=1)


# ---- voices ----


def _unit(embeddings: NDArray[np.floating]) -> Embeddings:
    length = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return np.asarray(embeddings / np.maximum(length, 1e-12), np.float32)


def _centroids(embeddings: Embeddings, labels: NDArray[np.intp]) -> Embeddings:
    """The mean direction of each cluster that has a window."""
    return _unit(np.stack([embeddings[labels == k].mean(axis=0, dtype=np.float64) for k in np.unique(labels)]))


def _told_apart(centroids: Embeddings) -> int:
    """How many persons the voices are, where those as near as one person's are one."""
    person = np.arange(len(centroids))
    for first, second in np.argwhere(np.triu(centroids @ centroids.T >= ONE_PERSON, 1)):
        person[person == person[second]] = person[first]
    return len(np.unique(person))


def _nearest(embeddings: NDArray[np.float32], centroids: Embeddings) -> Labels:
    return np.asarray(np.argmax(embeddings @ centroids.T, axis=1), np.int32)


def _by_appearance(turns: Sequence[ClusterTurn], centroids: Embeddings) -> tuple[tuple[ClusterTurn, ...], Embeddings]:
    """Clusters renumbered in the order in which they first speak; those that never do are dropped."""
    order = list(dict.fromkeys(turn.cluster for turn in turns))
    number = {cluster: place for place, cluster in enumerate(order)}
    renumbered = tuple(ClusterTurn(turn.start_ms, turn.end_ms, number[turn.cluster]) for turn in turns)
    return renumbered, centroids[order]
