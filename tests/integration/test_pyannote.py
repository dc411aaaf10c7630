"""The diarizer pyannote with random weights: all of the plumbing, and pyannote.audio itself as the oracle."""

import importlib.metadata
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.services import absent
from workers.diarizers import Clustered, Pcm, Windows
from workers.diarizers.grid import count_windows
from workers.diarizers.loading import load
from workers.diarizers.packing import joined, pack, unpack
from workers.diarizers.reconstruction import NOBODY, FrameGrid, Votes, count_votes, speaking, turns_of
from workers.errors import ModelElsewhere, ModelError, OptionError
from workers.messages import SpeakerHints
from workers.settings import refuse_telemetry
from workers.spans import SAMPLE_RATE

if TYPE_CHECKING:
    from workers.diarizers.pyannote_audio import PyannoteAudio

# pyannote.audio's own calls, with which results are compared, warn of what the diarizer keeps to itself
pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:::pyannote|lightning|torch|numpy|sklearn")]

SECONDS = 10
PIPELINES = ("community", "agglomerative")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    refuse_telemetry()
    try:
        importlib.metadata.version("pyannote.audio")
    except importlib.metadata.PackageNotFoundError:
        absent("needs pyannote.audio: pip install '.[pyannote]'")
    from tests.support import random_models

    root = tmp_path_factory.mktemp("pyannote")
    for name in PIPELINES:
        (root / name).mkdir()
    return {
        "community": random_models.save_community(root / "community"),
        "agglomerative": random_models.save_agglomerative(root / "agglomerative"),
    }


@pytest.fixture(scope="module")
def diarizers(folders: dict[str, Path]) -> Iterator[dict[str, "PyannoteAudio"]]:
    """Loaded once; from then on whatever reaches for the network fails."""
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch)
        yield {name: loaded(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def pcm() -> Pcm:
    """Bursts of buzz and noise of random pitch, level and length: what random models make something of."""
    random = np.random.default_rng(1)
    total, sound = SECONDS * SAMPLE_RATE, [np.zeros(0)]
    while sum(map(len, sound)) < total:
        time = np.arange(int(random.integers(4_000, 30_000))) / SAMPLE_RATE
        buzz = 0.2 * np.sign(np.sin(2 * np.pi * random.choice([110, 180, 260, 400]) * time))
        sound.append(random.uniform(0, 1) ** 2 * (buzz + random.normal(0, 0.1, len(time))))
    return (np.concatenate(sound)[:total].clip(-1, 1) * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def whole(diarizers: dict[str, "PyannoteAudio"], pcm: Pcm) -> Windows:
    """Of the undivided recording; the same for both pipelines, whose models are the same."""
    return hear(diarizers["community"], pcm, 0, None)


def loaded(folder: Path | str) -> "PyannoteAudio":
    return cast("PyannoteAudio", load("pyannote", str(folder), device="cpu", threads=1))


def hear(diarizer: "PyannoteAudio", pcm: Pcm, first: int, stop: int | None) -> Windows:
    spec = diarizer.spec
    stop = count_windows(len(pcm), spec) if stop is None else stop
    audio = pcm[first * spec.step : (stop - 1) * spec.step + spec.window]
    return diarizer.hear(audio, range(first, stop), lambda: None)


def cluster(diarizer: "PyannoteAudio", windows: Windows, **hints: int) -> Clustered:
    return diarizer.cluster(windows, None, SECONDS * 1000, SpeakerHints(**hints), lambda: None)


def cut_off(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something reached for the network")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        patch.setattr(socket, name, refuse)
    patch.setattr(socket.socket, "connect", refuse)


# ---- chunks ----


@pytest.mark.parametrize("cuts", [(0, 20), (0, 1, 2, 13, 14, 30), tuple(range(0, 41, 7))])
def test_chunks_give_the_windows_and_speakers_of_the_undivided_recording(
    diarizers: dict[str, "PyannoteAudio"], pcm: Pcm, whole: Windows, cuts: Sequence[int]
) -> None:
    diarizer = diarizers["community"]
    count = count_windows(len(pcm), diarizer.spec)
    parts = [hear(diarizer, pcm, first, stop) for first, stop in pairwise([*cuts, count])]
    order = np.random.default_rng(len(cuts)).permutation(len(parts))
    chunked = joined([unpack(pack(parts[number])) for number in [*order, 0]])
    assert chunked.index.tolist() == whole.index.tolist() == list(range(count))
    assert (chunked.activity == whole.activity).all()
    np.testing.assert_allclose(chunked.embedding, whole.embedding, rtol=0, atol=1e-5, equal_nan=True)
    for name in PIPELINES:
        for hints in ({}, {"exactly": 3}):
            one, other = (cluster(diarizers[name], windows, **hints) for windows in (whole, chunked))
            assert one.turns
            assert (one.turns, one.exclusive_turns) == (other.turns, other.exclusive_turns)


def test_a_batch_of_the_gpu_gives_the_windows_of_single_ones(
    folders: dict[str, Path], pcm: Pcm, whole: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.diarizers.pyannote_audio.CPU_BATCH", 16)
    diarizer = loaded(folders["community"])
    parts = [hear(diarizer, pcm, 0, 19), hear(diarizer, pcm, 19, None)]
    batched = joined(parts)
    assert (batched.activity == whole.activity).all()
    np.testing.assert_allclose(batched.embedding, whole.embedding, rtol=0, atol=1e-5, equal_nan=True)


# ---- pyannote.audio as the oracle ----


def test_windows_are_those_of_pyannote(heard_by_pyannote: tuple[Any, Any], whole: Windows) -> None:
    heard, voices = heard_by_pyannote
    assert (heard.data == whole.activity).all()
    there = whole.activity.any(axis=1)
    assert there.mean() > 0.3, "the models hear too little"
    assert (whole.activity.sum(axis=2) == 2).mean() > 0.05, "the models hear too few people at once"
    np.testing.assert_allclose(whole.embedding[there], voices[there], rtol=0, atol=1e-5)
    assert np.isnan(whole.embedding[~there]).all()


@pytest.fixture(scope="module")
def heard_by_pyannote(diarizers: dict[str, "PyannoteAudio"], pcm: Pcm) -> tuple[Any, Any]:
    """Segmentation and embeddings of the undivided recording."""
    pipeline, file = diarizers["community"]._pipeline, in_memory(pcm)
    heard = pipeline.get_segmentations(file)
    return heard, pipeline.get_embeddings(file, heard, exclude_overlap=True)


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("hints", [{}, {"exactly": 2}, {"exactly": 3}, {"at_least": 4}, {"at_most": 1}])
def test_people_and_speech_are_those_of_pyannote(
    diarizers: dict[str, "PyannoteAudio"],
    heard_by_pyannote: tuple[Any, Any],
    pcm: Pcm,
    whole: Windows,
    name: str,
    hints: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diarizer = diarizers[name]
    heard, voices = heard_by_pyannote  # computed once: pyannote changes what it is given
    monkeypatch.setattr(diarizer._pipeline, "get_segmentations", lambda *_, **__: deepcopy(heard))
    monkeypatch.setattr(diarizer._pipeline, "get_embeddings", lambda *_, **__: voices.copy())
    asked = {"exactly": "num_speakers", "at_least": "min_speakers", "at_most": "max_speakers"}
    expected = diarizer._pipeline(in_memory(pcm), **{asked[hint]: number for hint, number in hints.items()})
    found = cluster(diarizer, whole, **hints)
    assert speech(found.turns) == spoken(expected.speaker_diarization)
    assert speech(found.exclusive_turns) == spoken(expected.exclusive_speaker_diarization)
    assert {turn.cluster for turn in found.turns} == set(range(len(found.centroids)))
    if "exactly" in hints:
        assert len(found.centroids) == hints["exactly"]
    theirs = expected.speaker_embeddings
    for centroid in found.centroids:
        assert np.abs(theirs - centroid).max(axis=1).min() < 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_votes_and_turns_are_those_of_pyannote(
    diarizers: dict[str, "PyannoteAudio"], whole: Windows, seed: int
) -> None:
    """Windows of random activity, voices of random clusters. Only of equals another may be chosen."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    diarizer, random = diarizers["community"], np.random.default_rng(seed)
    grid, frames, pipeline = diarizer._grid, whole.activity.shape[1], diarizer._pipeline
    activity = random.random((30, frames, 3)) < random.random((30, 1, 3))
    windows = Windows("x", np.arange(30, dtype=np.int32), activity, np.zeros((30, 3, 1), np.float32))
    labels = random.permuted(np.tile(np.arange(5), (30, 1)), axis=1)[:, :3]
    labels[random.random(labels.shape) < 0.1] = NOBODY
    labels[0] = (0, 1, 4)  # all five are there

    every = SlidingWindow(start=0.0, duration=grid.window / SAMPLE_RATE, step=grid.window_step / SAMPLE_RATE)
    dense = SlidingWindowFeature(activity.astype(np.float32), every)
    count = pipeline.speaker_count(dense, pipeline._segmentation.model.receptive_field, warm_up=(0.0, 0.0))
    votes = count_votes(windows, labels, grid)
    length = len(count.data)
    assert votes.speakers[:length].tolist() == count.data[:, 0].tolist()
    assert not votes.speakers[length:].any()

    theirs = pipeline.reconstruct(dense, labels, count)
    ours = speaking(votes, 99)[:length]
    assert_as_popular(votes, ours, theirs.data > 0.5)
    assert turns_of(ours, grid, 10**6) == turns_in(
        pipeline.to_annotation(SlidingWindowFeature(1.0 * ours, count.sliding_window)), grid
    )


def assert_as_popular(votes: Votes, ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> None:
    """As many people and votes in a frame as with pyannote's choice, less those whom no window heard."""
    popular = votes.clusters[: len(ours)].astype(np.int64)
    theirs = theirs[:, : popular.shape[1]] & (popular > 0)
    assert (ours.sum(axis=1) == theirs.sum(axis=1)).all()
    assert ((ours * popular).sum(axis=1) == (theirs * popular).sum(axis=1)).all()
    assert not (ours & (popular == 0)).any()


def in_memory(pcm: Pcm) -> dict[str, Any]:
    import torch

    return {"waveform": torch.from_numpy(pcm.astype(np.float32) / 32768)[None], "sample_rate": SAMPLE_RATE, "uri": "x"}


def speech(turns: Sequence[Any]) -> list[tuple[int, int]]:
    """When anybody speaks."""
    found: list[tuple[int, int]] = []
    for turn in sorted(turns, key=lambda turn: turn.start_ms):
        if found and turn.start_ms <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], turn.end_ms))
        else:
            found.append((turn.start_ms, turn.end_ms))
    return found


def spoken(annotation: Any) -> list[tuple[int, int]]:
    stretches = [(round(one.start * 1000), round(one.end * 1000)) for one in annotation.get_timeline().support()]
    return [(start, min(end, SECONDS * 1000)) for start, end in stretches if start < SECONDS * 1000]


def turns_in(annotation: Any, grid: FrameGrid) -> tuple[Any, ...]:
    from workers.diarizers import ClusterTurn

    found = [
        ClusterTurn(round(segment.start * 1000), round(segment.end * 1000), int(cluster))
        for segment, _, cluster in annotation.itertracks(yield_label=True)
    ]
    return tuple(sorted(found, key=lambda turn: (turn.start_ms, turn.end_ms, turn.cluster)))


# ---- what is asked for, and what is not there ----


def test_more_speakers_than_voices_are_said_to_be_too_many(
    diarizers: dict[str, "PyannoteAudio"], whole: Windows
) -> None:
    for name in PIPELINES:
        found = cluster(diarizers[name], whole, exactly=90)
        assert 1 < len(found.centroids) < 90
        assert found.warnings == (
            f"90 speakers were asked for, and only {len(found.centroids)} voices could be told apart.",
        )
        assert {turn.cluster for turn in found.turns} <= set(range(len(found.centroids)))


def test_windows_that_are_missing_are_nobodys(diarizers: dict[str, "PyannoteAudio"], whole: Windows) -> None:
    diarizer = diarizers["community"]
    kept = np.r_[0:10, 32 : len(whole.index)]
    holed = Windows(whole.spec_hash, whole.index[kept], whole.activity[kept], whole.embedding[kept])
    found = cluster(diarizer, holed, exactly=2)
    spec = diarizer.spec
    begin, end = ((9 * spec.step + spec.window) // 16 + 40, 32 * spec.step // 16 - 40)
    assert any(begin < turn.end_ms and turn.start_ms < end for turn in cluster(diarizer, whole, exactly=2).turns)
    assert not any(begin < turn.end_ms and turn.start_ms < end for turn in found.turns)
    assert any(turn.end_ms <= begin for turn in found.turns)
    assert any(turn.start_ms >= end for turn in found.turns)


def test_where_nobody_speaks_there_are_no_turns(diarizers: dict[str, "PyannoteAudio"], whole: Windows) -> None:
    silent = Windows(whole.spec_hash, whole.index, whole.activity & False, whole.embedding * np.nan)
    found = cluster(diarizers["community"], silent, exactly=3)
    assert (found.turns, found.exclusive_turns, found.centroids.shape) == ((), (), (0, 256))


@pytest.mark.parametrize("name", PIPELINES)
def test_a_voice_that_is_never_alone_for_long_is_one_person(
    diarizers: dict[str, "PyannoteAudio"], whole: Windows, name: str
) -> None:
    activity = np.zeros_like(whole.activity)
    activity[:, 3:6, 0] = True
    found = cluster(diarizers[name], Windows(whole.spec_hash, whole.index, activity, whole.embedding))
    assert {turn.cluster for turn in found.turns} == {0}
    assert np.isfinite(found.centroids).all()


def test_too_many_voices_to_cluster_at_once_join_the_nearest(
    diarizers: dict[str, "PyannoteAudio"], whole: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.diarizers.pyannote_audio.MOST_CLUSTERED", 10)
    found = cluster(diarizers["agglomerative"], whole, exactly=2)
    assert cast(int, found.diagnostics["voices_clustered"]) <= 12
    assert speech(found.turns) == speech(cluster(diarizers["agglomerative"], whole, exactly=2).turns)
    assert len(found.centroids) == 2


def test_a_clip_has_a_voice_of_length_one_or_a_sentence(diarizers: dict[str, "PyannoteAudio"], pcm: Pcm) -> None:
    diarizer = diarizers["community"]
    for samples in (len(pcm), 9_000):
        voice = diarizer.embed(pcm[-samples:])
        assert voice.shape == (256,)
        assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-5)
    with pytest.raises(OptionError, match="Nobody speaks in the clip"):
        diarizer.embed(pcm[:0])


def test_the_same_person_is_as_near_as_the_clustering_says(diarizers: dict[str, "PyannoteAudio"]) -> None:
    assert diarizers["agglomerative"].same_person == pytest.approx(1 - 0.5**2 / 2)
    assert diarizers["community"].same_person == 0.75


def test_the_spec_is_of_the_weights_and_not_of_the_clustering(
    diarizers: dict[str, "PyannoteAudio"], folders: dict[str, Path], tmp_path: Path
) -> None:
    from tests.support import random_models

    community, other = (diarizers[name].spec for name in PIPELINES)
    assert community == other
    folder = shutil.copytree(folders["agglomerative"], tmp_path / "other")
    shutil.rmtree(folder / "embedding")
    random_models.save_model(random_models.embedding_model(seed=1), folder / "embedding")
    assert loaded(folder).spec.hash != community.hash


def test_nothing_is_reported_to_anybody(diarizers: dict[str, "PyannoteAudio"]) -> None:
    from pyannote.audio.telemetry.metrics import is_metrics_enabled

    assert os.environ["PYANNOTE_METRICS_ENABLED"] == "0"
    assert not is_metrics_enabled()


def test_an_embedding_whose_name_is_another_librarys_is_loaded_as_pyannotes(
    folders: dict[str, Path], diarizers: dict[str, "PyannoteAudio"], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders["agglomerative"], tmp_path / "mine")
    away = shutil.copytree(folders["agglomerative"] / "embedding", tmp_path / "nvidia")
    config = (folder / "config.yaml").read_text().replace("$model/embedding", str(away))
    (folder / "config.yaml").write_text(config)
    assert loaded(folder).spec == diarizers["agglomerative"].spec


# ---- folders that are none ----


def test_a_file_that_is_missing_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for missing in ("segmentation/pytorch_model.bin", "embedding/pytorch_model.bin", "plda/plda.npz"):
        folder = shutil.copytree(folders["community"], tmp_path / missing)
        (folder / missing).unlink()
        with pytest.raises(ModelError, match=f"lacks .*{missing}"):
            loaded(folder)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("just: this", "describes no pipeline"),
        ("{", "cannot be loaded"),
        ("pipeline: {name: pyannote.audio.pipelines.VoiceActivityDetection, params: {segmentation: $model/segmentation}"
         "}", "is no pipeline this diarizer can use"),
        ("pipeline: {name: nobody.Knows, params: {}}", "is no pipeline this diarizer can use"),
        ("pipeline: {name: pyannote.audio.pipelines.SpeakerDiarization, params: {}}\n"
         "preprocessors: {x: {name: os.abort}}", "has preprocessors, which could run code of others"),
    ],
)  # fmt: skip
def test_a_config_that_describes_no_diarization_is_refused(
    folders: dict[str, Path], tmp_path: Path, config: str, sentence: str
) -> None:
    folder = shutil.copytree(folders["community"], tmp_path / "bad")
    (folder / "config.yaml").write_text(config)
    with pytest.raises(ModelError, match=sentence):
        loaded(folder)


def test_damaged_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["community"], tmp_path / "bad")
    (folder / "embedding" / "pytorch_model.bin").write_bytes(b"no model")
    with pytest.raises(ModelError, match="cannot be loaded"):
        loaded(folder)


def test_a_name_on_the_hub_without_the_hub_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelElsewhere, match=r"is out of reach: give a folder with config\.yaml"):
        loaded("pyannote/no-such-pipeline")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("httpx.head", hub_that_refuses)
    with pytest.raises(ModelElsewhere, match=r"is out of reach: .* \(connection refused\)"):
        loaded("pyannote/no-such-pipeline")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = shutil.copytree(folders["agglomerative"], tmp_path / "half")
    config = (folder / "config.yaml").read_text().replace("$model/embedding", "pyannote/no-such-embedding")
    (folder / "config.yaml").write_text(config)
    with pytest.raises(ModelElsewhere, match="out of reach"):
        loaded(folder)


def hub_that_refuses(*_: object, **__: object) -> None:
    import httpx

    raise httpx.ConnectError("connection refused")


def test_a_gpu_that_is_not_there_is_one_sentence(folders: dict[str, Path]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(OptionError, match="no GPU that torch can use"):
        load("pyannote", str(folders["community"]), device="cuda")
