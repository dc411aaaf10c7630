"""The diarizer onnx: planted truth with models made by hand, and pyannote.audio as the oracle where it is installed."""

import importlib.metadata
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tests.support import tone_models
from tests.support.services import absent
from workers.diarizers import ClusterTurn, Pcm, Windows
from workers.diarizers.agglomerative import agglomerate
from workers.diarizers.fbank import fbank
from workers.diarizers.grid import count_windows
from workers.diarizers.loading import load
from workers.diarizers.onnx_models import OnnxModels
from workers.diarizers.packing import joined, pack, unpack
from workers.diarizers.voices import unit
from workers.errors import ModelError, OptionError
from workers.messages import SpeakerHints
from workers.settings import refuse_telemetry
from workers.spans import SAMPLE_RATE

pytestmark = pytest.mark.integration

SECONDS = 20.5
# (start, end, person): two at once from 9 to 11 s, and the first one comes back
SAID = [(0.5, 4.0, 0), (4.5, 11.0, 1), (9.0, 11.0, 0), (11.5, 16.0, 2), (16.5, 20.0, 0)]
FRAME_S = 0.06  # a frame hears 62 ms, so an edge is known to about that


@pytest.fixture(scope="module")
def diarizer(tmp_path_factory: pytest.TempPathFactory) -> OnnxModels:
    return loaded(tone_models.save(tmp_path_factory.mktemp("tones")))


@pytest.fixture(scope="module")
def pcm() -> Pcm:
    return tone_models.tones(SAID, SECONDS)


@pytest.fixture(scope="module")
def whole(diarizer: OnnxModels, pcm: Pcm) -> Windows:
    return diarizer.hear(pcm, range(count_windows(len(pcm), diarizer.spec)), lambda: None)


def loaded(folder: Path) -> OnnxModels:
    return cast(OnnxModels, load("onnx", str(folder), device="cpu", threads=1))


def cluster(
    diarizer: OnnxModels, windows: Windows, **hints: int
) -> tuple[tuple[ClusterTurn, ...], tuple[ClusterTurn, ...], int, tuple[str, ...]]:
    found = diarizer.cluster(windows, None, round(SECONDS * 1000), SpeakerHints(**hints), lambda: None)
    return found.turns, found.exclusive_turns, len(found.centroids), found.warnings


def matches(turns: Sequence[ClusterTurn], said: Sequence[tuple[float, float, int]]) -> bool:
    """One turn for each stretch, edges within a frame, and clusters one to one with people."""
    if len(turns) != len(said) or len(
        {(turn.cluster, who) for turn, (*_, who) in zip(turns, said, strict=True)}
    ) != len({who for *_, who in said}):
        return False
    return all(
        abs(turn.start_ms / 1000 - start) <= FRAME_S and abs(turn.end_ms / 1000 - end) <= FRAME_S
        for turn, (start, end, _) in zip(turns, said, strict=True)
    )


def test_who_sounds_when_is_found(diarizer: OnnxModels, whole: Windows) -> None:
    turns, exclusive, people, warned = cluster(diarizer, whole)
    assert (people, warned) == (3, ())
    assert matches(turns, SAID), turns
    assert all(one.end_ms <= other.start_ms for one, other in pairwise(exclusive))
    assert matches([turn for turn in exclusive if turn.start_ms > 11_200], SAID[3:]), exclusive


@pytest.mark.parametrize("cuts", [(0, 30), (0, 1, 2, 13, 14, 30, 90), tuple(range(0, 93, 7))])
def test_chunks_give_the_undivided_recording_to_the_bit(
    diarizer: OnnxModels, pcm: Pcm, whole: Windows, cuts: Sequence[int]
) -> None:
    spec = diarizer.spec
    parts = []
    for first, stop in pairwise([*cuts, len(whole.index)]):
        audio = pcm[first * spec.step : (stop - 1) * spec.step + spec.window]
        parts.append(diarizer.hear(audio, range(first, stop), lambda: None))
    order = np.random.default_rng(len(cuts)).permutation(len(parts))
    chunked = joined([unpack(pack(parts[number])) for number in [*order, 0]])
    assert pack(chunked) == pack(whole)
    assert cluster(diarizer, chunked) == cluster(diarizer, whole)


@pytest.mark.parametrize(
    ("hints", "people"), [({"exactly": 2}, 2), ({"at_most": 2}, 2), ({"at_most": 1}, 1), ({"at_least": 3}, 3)]
)
def test_as_many_people_as_was_said(diarizer: OnnxModels, whole: Windows, hints: dict[str, int], people: int) -> None:
    turns, _, found, warned = cluster(diarizer, whole, **hints)
    assert (found, warned) == (people, ())
    assert {turn.cluster for turn in turns} == set(range(people))


def test_more_people_than_voices_are_said_to_be_too_many(diarizer: OnnxModels, pcm: Pcm) -> None:
    little = diarizer.hear(pcm[: 5 * SAMPLE_RATE], range(count_windows(5 * SAMPLE_RATE, diarizer.spec)), lambda: None)
    *_, people, warned = cluster(diarizer, little, exactly=50)
    assert warned == (f"50 speakers were asked for, and only {people} voices could be told apart.",)


def test_a_clip_is_like_its_person_and_unlike_others(diarizer: OnnxModels, whole: Windows) -> None:
    found = diarizer.cluster(whole, None, round(SECONDS * 1000), SpeakerHints(), lambda: None)
    speaks_at = {round(turn.start_ms / 1000, 1): turn.cluster for turn in found.turns}
    first = min(speaks_at)
    clip = diarizer.embed(tone_models.tones([(0.2, 2.5, 0)], 3.0))
    cosine = unit(found.centroids) @ clip
    assert np.linalg.norm(clip) == pytest.approx(1)
    assert cosine[speaks_at[first]] >= diarizer.same_person
    assert (np.delete(cosine, speaks_at[first]) < diarizer.same_person).all()
    with pytest.raises(OptionError, match="Nobody speaks in the clip"):
        diarizer.embed(tone_models.tones([], 3.0))


def test_silence_has_no_turns_and_missing_windows_nobody(diarizer: OnnxModels, whole: Windows) -> None:
    silent = diarizer.hear(tone_models.tones([], 5.0), range(10), lambda: None)
    assert cluster(diarizer, silent, exactly=2)[:3] == ((), (), 0)
    kept = np.r_[0:20, 60 : len(whole.index)]
    holed = Windows(whole.spec_hash, whole.index[kept], whole.activity[kept], whole.embedding[kept])
    turns, *_ = cluster(diarizer, holed)
    assert not any(turn.start_ms < 11_950 and turn.end_ms > 5_850 for turn in turns)
    assert matches([turn for turn in turns if turn.end_ms < 4_500], SAID[:1])
    assert matches([turn for turn in turns if turn.start_ms > 16_200], SAID[4:])


# ---- models that are none ----


@pytest.mark.parametrize(
    ("segmentation", "embedding", "sentence"),
    [
        ({"num_speakers": 4}, {}, r"gives \[1, 115, 7\] where \[1, frames, 11\] is wanted"),
        ({"sample_rate": 8000}, {}, "hears 8000 Hz"),
        ({"window_size": "long"}, {}, "metadata of .* is damaged"),
        ({"window_size": 100}, {}, "does not take windows of 100 samples"),
        ({}, {"framework": "nemo"}, "is of nemo: take a speaker model of WeSpeaker or 3D-Speaker"),
        ({}, {"sample_rate": 8000}, "hears 8000 Hz"),
        ({}, {"output_dim": 256}, "says that its embeddings have 256 numbers, and they have 24"),
    ],
)
def test_a_model_of_another_kind_or_dimension_is_refused(
    tmp_path: Path, segmentation: dict[str, object], embedding: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        loaded(tone_models.save(tmp_path, segmentation, embedding))


def test_other_features_and_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = tone_models.save(tmp_path)
    tone_models.write_embedding(folder, bands=40)
    with pytest.raises(ModelError, match=r"takes \[\['B', 'T', 40\]\] where one input of \[1, frames, 80\] is wanted"):
        loaded(folder)
    (folder / "embedding.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"embedding\.onnx' cannot be loaded"):
        loaded(folder)
    (folder / "embedding.onnx").unlink()
    with pytest.raises(ModelError, match=r"lacks embedding\.onnx"):
        loaded(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"threshold": "high"}', '{"threshold": 2.5}'])
def test_a_threshold_may_be_set_and_must_be_one(tmp_path: Path, text: str) -> None:
    folder = tone_models.save(tmp_path)
    (folder / "diarizer.json").write_text('{"threshold": 1.0}')
    assert loaded(folder).same_person == pytest.approx(0.5)
    (folder / "diarizer.json").write_text(text)
    with pytest.raises(ModelError, match="threshold"):
        loaded(folder)


def test_a_gpu_that_onnxruntime_cannot_use_is_one_sentence(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime can use a GPU")
    with pytest.raises(OptionError, match="onnxruntime-gpu"):
        load("onnx", str(tone_models.save(tmp_path)), device="cuda")


# ---- pyannote.audio as the oracle ----


def needs_pyannote() -> None:
    refuse_telemetry()
    try:
        importlib.metadata.version("pyannote.audio")
    except importlib.metadata.PackageNotFoundError:
        absent("needs pyannote.audio: pip install '.[pyannote]'")


@pytest.mark.parametrize(("window", "scale"), [("hamming", 32768.0), ("povey", 1.0)])
def test_the_filter_bank_is_kaldis(pcm: Pcm, window: str, scale: float) -> None:
    needs_pyannote()
    import torch
    from torchaudio.compliance import kaldi

    noise = np.random.default_rng(0).normal(0, 0.05, 30_000)
    samples = (scale * (noise + pcm[:30_000] / 32768)).astype(np.float32)
    expected = kaldi.fbank(
        torch.from_numpy(samples)[None], num_mel_bins=80, dither=0.0, window_type=window, sample_frequency=16000
    ).numpy()
    np.testing.assert_allclose(fbank(samples, window), expected, rtol=0, atol=2e-3)


def test_a_model_of_pyannote_hears_the_same_in_onnx(tmp_path: Path) -> None:
    needs_pyannote()
    import torch

    from tests.support import random_models
    from tests.support.tone_models import SEGMENTATION_SAYS

    torch_model = random_models.segmentation_model()
    folder = tone_models.save(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that there is a newer exporter, which takes one more package
        torch.onnx.export(
            torch_model, (torch.zeros(1, 1, 32_000),), str(folder / "plain.onnx"), input_names=["x"],
            output_names=["y"], dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, dynamo=False, opset_version=17,
        )  # fmt: skip
    tone_models.restate(folder / "plain.onnx", folder / "segmentation.onnx", SEGMENTATION_SAYS)
    samples = np.random.default_rng(0).normal(0, 0.1, (6, 1, 32_000)).astype(np.float32).cumsum(axis=2) * 0.01
    pcm = (samples.reshape(-1).clip(-1, 1) * 32767).astype(np.int16)
    diarizer = loaded(folder)
    assert diarizer.spec.frames == torch_model.num_frames(32_000)
    heard = [
        diarizer.hear(pcm[at : at + 32_000], range(1), lambda: None).activity[0] for at in range(0, len(pcm), 32_000)
    ]
    with torch.inference_mode():
        scores = torch_model(torch.from_numpy(pcm.reshape(6, 1, -1).astype(np.float32) / 32768)).numpy()
    sure = np.sort(scores, axis=2)
    sure = sure[:, :, -1] - sure[:, :, -2] > 1e-4
    expected = diarizer._segmenter.classes[scores.argmax(axis=2)]
    assert sure.mean() > 0.9
    assert (np.stack(heard)[sure] == expected[sure]).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("people", [None, 2, 3])
@pytest.mark.filterwarnings("ignore")  # of pyannote.audio and what it imports
def test_clusters_are_those_of_pyannote(seed: int, people: int | None) -> None:
    needs_pyannote()
    from pyannote.audio.pipelines.clustering import AgglomerativeClustering

    random = np.random.default_rng(seed)
    centres = unit(random.normal(size=(4, 32)))
    voices = np.concatenate([centre + 0.8 * random.normal(size=(30, 32)) / 32**0.5 for centre in centres])
    oracle = AgglomerativeClustering(metric="cosine")
    oracle.instantiate({"method": "centroid", "threshold": 0.7046, "min_cluster_size": 12})
    expected = oracle.cluster(voices.copy(), min_clusters=people or 1, max_clusters=people or 99, num_clusters=people)
    found = agglomerate(voices.astype(np.float32), 0.7046, people or 1, people or 99)
    pairs = set(zip(found.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(set(found.tolist())) == len(set(expected.tolist()))
