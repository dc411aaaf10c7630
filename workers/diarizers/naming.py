"""Clusters to people: numbers in the order in which they appear, names where a reference clip fits. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Clustered, ClusterTurn
from workers.transcript import Speaker, SpeakerTurn

Named = tuple[tuple[SpeakerTurn, ...], tuple[SpeakerTurn, ...], tuple[Speaker, ...], tuple[str, ...]]


def name_speakers(
    clustered: Clustered, clips: Mapping[str, NDArray[np.float32]], same_person: float, offset_ms: int
) -> Named:
    """(turns, exclusive turns, speakers, warnings), all times moved on by `offset_ms`.

    People are in the order in which they first speak; those without a name are SPEAKER_00, SPEAKER_01… in
    that order. `clips` are voices of length 1 by name; each is given to at most one person and each person
    has at most one, the most alike first, from a cosine of `same_person` on. A clip that fits nobody is a warning.
    """
    order = _by_appearance(clustered)
    cosines = {name: _cosines(clips[name], clustered, order) for name in sorted(clips)}
    given = _matched(cosines, same_person)
    unnamed = [cluster for cluster in order if cluster not in given]
    names = {cluster: f"SPEAKER_{number:02d}" for number, cluster in enumerate(unnamed)}
    names |= given
    spoken_ms = dict.fromkeys(order, 0)
    for turn in clustered.turns:
        spoken_ms[turn.cluster] += turn.end_ms - turn.start_ms
    speakers = tuple(
        Speaker(
            name=names[cluster],
            spoken_ms=spoken_ms[cluster],
            similarity=round(cosines[given[cluster]][cluster], 3) if cluster in given else None,
        )
        for cluster in order
    )
    return (
        _named(clustered.turns, names, offset_ms),
        _named(clustered.exclusive_turns, names, offset_ms),
        speakers,
        tuple(
            _warning(name, cosines[name], given, names, same_person) for name in cosines if name not in given.values()
        ),
    )


def _by_appearance(clustered: Clustered) -> list[int]:
    """Clusters that speak at all, by their first turn, then by number."""
    first: dict[int, int] = {}
    for turn in (*clustered.turns, *clustered.exclusive_turns):
        first[turn.cluster] = min(first.get(turn.cluster, turn.start_ms), turn.start_ms)
    return sorted(first, key=lambda cluster: (first[cluster], cluster))


def _cosines(clip: NDArray[np.float32], clustered: Clustered, order: Sequence[int]) -> dict[int, float]:
    """How alike the clip and each cluster's centre are; a centre without length is like nobody."""

    def cosine(cluster: int) -> float:
        centre = clustered.centroids[cluster].astype(np.float64)
        length = float(np.linalg.norm(centre) * np.linalg.norm(clip))
        return float(centre @ clip) / length if length > 0 else 0.0

    return {cluster: cosine(cluster) for cluster in order}


def _matched(cosines: Mapping[str, Mapping[int, float]], same_person: float) -> dict[int, str]:
    """Cluster to name, the most alike pair first; equal ones by appearance, then by name."""
    pairs = [
        (-cosine, place, name, cluster)
        for name, of_clusters in cosines.items()
        for place, (cluster, cosine) in enumerate(of_clusters.items())
        if cosine >= same_person
    ]
    given: dict[int, str] = {}
    for _, _, name, cluster in sorted(pairs):
        if cluster not in given and name not in given.values():
            given[cluster] = name
    return given


def _named(turns: Sequence[ClusterTurn], names: Mapping[int, str], offset_ms: int) -> tuple[SpeakerTurn, ...]:
    return tuple(
        SpeakerTurn(start_ms=turn.start_ms + offset_ms, end_ms=turn.end_ms + offset_ms, speaker=names[turn.cluster])
        for turn in turns
    )


def _warning(
    name: str, cosines: Mapping[int, float], given: Mapping[int, str], names: Mapping[int, str], same_person: float
) -> str:
    """Why nobody is called `name`, and how near the nearest came."""
    if not cosines:
        return f"Nobody was named '{name}': nobody speaks in the recording."
    nearest = max(cosines, key=lambda cluster: cosines[cluster])
    cosine = cosines[nearest]
    if cosine >= same_person:  # then a clip that is even nearer has it
        return (
            f"Nobody was named '{name}': the voice nearest to the clip (similarity {cosine:.3f}) is even nearer to "
            f"that of '{given[nearest]}'; give each name a clip of its own person."
        )
    return (
        f"Nobody was named '{name}': the voice nearest to the clip is that of {names[nearest]} with a similarity of "
        f"{cosine:.3f}, and {same_person:.3f} is needed; give a longer or clearer clip if '{name}' does speak."
    )
