"""Clustering from the bottom up, as pyannote's 3.1 pipeline does it, in numpy alone. Pure.

Vectors of length 1; the two clusters with the nearest centroids merge, again and again; where to stop says a
distance, or the number of people asked for; small clusters join the nearest large one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.diarizers.voices import unit

SMALLEST = 12  # voices of a cluster that is a person of its own (3.1's min_cluster_size)
_SMALLEST_SHARE = 0.1  # of all voices, where these are few: nobody in 20 windows could have 12


@dataclass(frozen=True)
class Merges:
    """Step by step: which two clusters become one (each known by its first member), how far apart they were."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.float64]


def agglomerate(
    voices: NDArray[np.float32], threshold: float, low: int, high: int, wanted: Callable[[], None] = lambda: None
) -> NDArray[np.int64]:
    """The cluster, from 0, of each voice; from `low` to `high` of them, which goes before the size of clusters.

    voices: (n, dimension). threshold: Euclidean distance of centroids of unit vectors, from 0 to 2.
    """
    if not len(voices):
        return np.zeros(0, np.int64)
    units = unit(voices).astype(np.float64)
    smallest = min(SMALLEST, max(1, round(_SMALLEST_SHARE * len(units))))
    merges = merge_all(units, wanted)
    labels = _without_small(units, _labels_after(merges, _steps_to(merges, threshold)), smallest)
    people = min(max(int(labels.max()) + 1, low), high)
    while labels.max() + 1 != people and smallest:
        held = _steps_for(merges, people, smallest, threshold)
        labels = _without_small(units, _labels_after(merges, held), smallest)
        smallest //= 2
    return labels


def merge_all(units: NDArray[np.float64], wanted: Callable[[], None] = lambda: None) -> Merges:
    """All merges down to one cluster. Memory: 8 bytes times the square of the number of vectors."""
    count = len(units)
    square = np.einsum("ij,ij->i", units, units)
    apart = np.maximum(square[:, None] + square[None] - 2 * (units @ units.T), 0)
    np.fill_diagonal(apart, np.inf)
    size = np.ones(count)
    nearest = apart.argmin(axis=1)
    least = apart[np.arange(count), nearest]
    first, second, distance = np.zeros(count - 1, np.int64), np.zeros(count - 1, np.int64), np.zeros(count - 1)
    for step in range(count - 1):
        if step % 100 == 0:
            wanted()
        one = int(least.argmin())
        one, other = sorted((one, int(nearest[one])))
        first[step], second[step], distance[step] = one, other, np.sqrt(apart[one, other])
        total = size[one] + size[other]
        # Lance and Williams: the squared distance from the centroid of the two together
        merged = (size[one] * apart[one] + size[other] * apart[other]) / total
        merged = np.maximum(merged - size[one] * size[other] * apart[one, other] / total**2, 0)
        merged[np.isinf(apart[one])] = merged[other] = np.inf
        size[one] = total
        apart[one], apart[:, one], apart[other], apart[:, other] = merged, merged, np.inf, np.inf
        nearer = merged < least
        nearest[nearer], least[nearer] = one, merged[nearer]
        for row in (one, *np.flatnonzero((nearest == one) | (nearest == other))):
            nearest[row] = apart[row].argmin()
            least[row] = apart[row, nearest[row]]
        least[other] = np.inf
    return Merges(first, second, distance)


def _steps_to(merges: Merges, threshold: float) -> NDArray[np.bool_]:
    """Which merges hold: those under which no distance is above the threshold, however the later ones shrink again."""
    highest: dict[int, float] = {}
    holds = np.zeros(len(merges.distance), np.bool_)
    for step, (one, other, apart) in enumerate(zip(merges.first, merges.second, merges.distance, strict=True)):
        highest[one] = max(highest.get(one, 0.0), highest.get(other, 0.0), float(apart))
        holds[step] = highest[one] <= threshold
    return holds


def _steps_for(merges: Merges, people: int, smallest: int, threshold: float) -> NDArray[np.bool_]:
    """The first so many merges that leave as many large clusters as asked for, or nearly, the last of them making a
    large one; where there are several such numbers, the one whose distance is nearest to the threshold."""
    size = np.ones(len(merges.distance) + 1, np.int64)
    large = len(size) if smallest == 1 else 0
    ends = [(abs(large - people), np.inf, 0), (abs(1 - people), np.inf, len(merges.distance))]
    *best_off, best = min(ends)
    for step, (one, other) in enumerate(zip(merges.first, merges.second, strict=True)):
        large -= int(size[one] >= smallest) + int(size[other] >= smallest)
        size[one] += size[other]
        large += int(size[one] >= smallest)
        off = [abs(large - people), abs(float(merges.distance[step]) - threshold)]
        if size[one] >= smallest and off < best_off:
            best, best_off = step + 1, off
    return np.arange(len(merges.distance)) < best


def _labels_after(merges: Merges, holds: NDArray[np.bool_]) -> NDArray[np.int64]:
    parent = np.arange(len(holds) + 1)
    for one, other in zip(merges.first[holds], merges.second[holds], strict=True):
        parent[other] = one
    for voice in range(len(parent)):  # the first member comes before all others, so its own parent is settled
        parent[voice] = parent[parent[voice]]
    return np.unique(parent, return_inverse=True)[1].astype(np.int64)


def _without_small(units: NDArray[np.float64], labels: NDArray[np.int64], smallest: int) -> NDArray[np.int64]:
    """Small clusters join the large one with the highest cosine of centroids; with no large one all are one person."""
    counts = np.bincount(labels)
    large = np.flatnonzero(counts >= smallest)
    if not len(large):
        return np.zeros_like(labels)
    centroids = unit(np.stack([units[labels == cluster].mean(axis=0) for cluster in range(len(counts))]))
    joins = np.asarray((centroids @ centroids[large].T).argmax(axis=1), np.int64)
    joins[large] = np.arange(len(large))
    return joins[labels]
