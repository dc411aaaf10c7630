"""Spectral clustering: groups in a graph of neighbours show in its eigenvectors. Pure, and nothing by chance."""

import numpy as np
from numpy.typing import NDArray

# A window is joined to this share of all windows, the nearest to it. Chosen on 80 conversations of 20 to 300 s with
# 1 to 6 voices: from 3 to 10 % the right number of voices shows from two minutes on; below 8 neighbours short
# conversations fall into splinters.
NEIGHBOURS = 0.05
FEWEST_NEIGHBOURS = 8

ROUNDS = 100  # of k-means; it has settled after some ten


def laplacian(embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
    """Normalised Laplacian of the graph that joins each embedding (n, dimension; of length 1) with its nearest.

    Neighbours count as joined or not, however near: the graph then has the same density in a voice that varies
    little and in one that varies much.
    """
    count = len(embeddings)
    neighbours = min(max(round(NEIGHBOURS * count), FEWEST_NEIGHBOURS), count - 1)
    exact = embeddings.astype(np.float64)  # in single precision another processor may order neighbours otherwise
    likeness = exact @ exact.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :neighbours]
    joined = np.zeros((count, count))
    np.put_along_axis(joined, nearest, 1.0, axis=1)
    joined = (joined + joined.T) / 2
    np.fill_diagonal(joined, 1.0)
    scale = 1 / np.sqrt(joined.sum(axis=1))
    return np.asarray(np.eye(count) - scale[:, None] * joined * scale, np.float64)


def k_means(points: NDArray[np.float64]) -> NDArray[np.intp]:
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
