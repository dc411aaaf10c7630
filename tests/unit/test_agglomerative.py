"""Clustering from the bottom up, with scipy's linkage as the second opinion."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from workers.diarizers.agglomerative import SMALLEST, agglomerate, merge_all
from workers.diarizers.voices import unit


def voices(seed: int, sizes: tuple[int, ...] = (40, 30, 20), spread: float = 0.35) -> NDArray[np.float32]:
    """Blobs of unit vectors, one after the other."""
    random = np.random.default_rng(seed)
    centres = unit(random.normal(size=(len(sizes), 32)))
    near = [
        centre + spread * random.normal(size=(size, 32)) / 32**0.5 for centre, size in zip(centres, sizes, strict=True)
    ]
    return unit(np.concatenate(near))


def partition(labels: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == cluster).tolist()) for cluster in set(labels.tolist())}


@pytest.mark.parametrize("seed", range(6))
def test_merges_are_those_of_scipy(seed: int) -> None:
    units = voices(seed, spread=1.5).astype(np.float64)
    expected = linkage(units, method="centroid", metric="euclidean")
    np.testing.assert_allclose(merge_all(units).distance, expected[:, 2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7046, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_below_a_threshold_large_clusters_are_those_of_scipy(seed: int, threshold: float) -> None:
    units = voices(seed, spread=0.9)
    expected = fcluster(linkage(units, method="centroid", metric="euclidean"), threshold, criterion="distance")
    counts = np.bincount(expected)
    large = [group for group in partition(expected) if counts[expected[min(group)]] >= min(SMALLEST, 9)]
    found = partition(agglomerate(units, threshold, 1, 99))
    if not large:
        assert len(found) == 1
    for group in large:
        assert any(group <= mine for mine in found)
    assert len(found) == max(1, len(large))


def test_people_are_told_apart_and_counted() -> None:
    found = agglomerate(voices(1), 0.7046, 1, 99)
    assert partition(found) == {frozenset(range(40)), frozenset(range(40, 70)), frozenset(range(70, 90))}


@pytest.mark.parametrize(("low", "high", "people"), [(2, 2, 2), (1, 2, 2), (4, 9, 4), (3, 3, 3), (1, 1, 1)])
def test_as_many_people_as_asked_for(low: int, high: int, people: int) -> None:
    assert len(set(agglomerate(voices(2), 0.7046, low, high).tolist())) == people


def test_an_outlier_is_nobody_of_his_own() -> None:
    crowd = voices(3, (40, 40, 1), spread=0.2)
    assert len(set(agglomerate(crowd, 0.7046, 1, 99).tolist())) == 2


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_voices_are_no_trouble(count: int) -> None:
    assert agglomerate(voices(4)[:count], 0.7046, 1, 99).tolist() == [0] * count


def test_equal_voices_are_one_person_whatever_was_asked() -> None:
    same = np.repeat(voices(5)[:1], 20, axis=0)
    assert len(set(agglomerate(same, 0.7046, 1, 99).tolist())) == 1
