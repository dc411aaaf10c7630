"""A segmentation and an embedding model in ONNX, made by hand: three people whose voices are pure tones.

What is heard in them is known exactly, and no library of models is needed.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from workers.spans import SAMPLE_RATE

TONES = (300.0, 800.0, 1800.0)  # Hz, of people 0, 1 and 2
LOUDNESS = 0.2
WINDOW = 32_000  # samples, 2 s
FIELD, SHIFT = 991, 270  # samples of a frame, and from frame to frame, as in segmentation-3.0
SETS = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
DIMENSION = 24

SEGMENTATION_SAYS = {
    "sample_rate": SAMPLE_RATE,
    "window_size": WINDOW,
    "receptive_field_size": FIELD,
    "receptive_field_shift": SHIFT,
    "num_speakers": 3,
    "powerset_max_classes": 2,
    "num_classes": len(SETS),
}
EMBEDDING_SAYS = {
    "framework": "wespeaker",
    "sample_rate": SAMPLE_RATE,
    "normalize_samples": 0,
    "output_dim": DIMENSION,
    "feature_normalize_type": "",
}


def save(
    folder: Path, segmentation: dict[str, object] | None = None, embedding: dict[str, object] | None = None
) -> Path:
    """Both models into `folder`; what is given goes into their metadata instead."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "segmentation.onnx", segmentation_graph(), {**SEGMENTATION_SAYS, **(segmentation or {})})
    _write(folder / "embedding.onnx", embedding_graph(), {**EMBEDDING_SAYS, **(embedding or {})})
    return folder


def segmentation_graph() -> onnx.GraphProto:
    """Of each tone the power in a frame, from a pair of filters; a set's score is the power of its tones over a
    quarter of their loudness."""
    time = 2 * np.pi * np.arange(FIELD) / SAMPLE_RATE
    waves = [wave(tone * time) for tone in TONES for wave in (np.cos, np.sin)]
    filters = np.stack(waves)[:, None].astype(np.float32) * 2 / FIELD
    scores = np.zeros((len(SETS), 6, 1), np.float32)
    for number, people in enumerate(SETS):
        for person in people:
            scores[number, 2 * person : 2 * person + 2] = 1
    floor = np.array([-len(people) * LOUDNESS**2 / 4 for people in SETS], np.float32)
    return helper.make_graph(
        [
            helper.make_node("Conv", ["x", "filters"], ["waves"], strides=[SHIFT]),
            helper.make_node("Mul", ["waves", "waves"], ["power"]),
            helper.make_node("Conv", ["power", "scores", "floor"], ["scored"]),
            helper.make_node("Transpose", ["scored"], ["y"], perm=[0, 2, 1]),
        ],
        "segmentation",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, "T"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "F", len(SETS)])],
        [_constant("filters", filters), _constant("scores", scores), _constant("floor", floor)],
    )


def embedding_graph(bands: int = 80) -> onnx.GraphProto:
    """The loud bands of the mean frame, turned at random."""
    turned = np.random.default_rng(0).normal(size=(bands, DIMENSION)).astype(np.float32)
    return helper.make_graph(
        [
            helper.make_node("Sub", ["feats", "soft"], ["over"]),
            helper.make_node("Relu", ["over"], ["loud"]),
            helper.make_node("ReduceMean", ["loud"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "turned"], ["embs"]),
        ],
        "embedding",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", "T", bands])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", DIMENSION])],
        [_constant("soft", np.array(20, np.float32)), _constant("turned", turned)],
    )


def write_embedding(folder: Path, bands: int) -> None:
    _write(folder / "embedding.onnx", embedding_graph(bands), EMBEDDING_SAYS)


def tones(parts: list[tuple[float, float, int]], seconds: float) -> NDArray[np.int16]:
    """A recording in which each person of (start, end, person), in seconds, sounds for that long."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = 1e-4 * np.random.default_rng(0).normal(size=len(time))
    for start, end, person in parts:
        inside = (start <= time) & (time < end)
        sound[inside] += LOUDNESS * np.sin(2 * np.pi * TONES[person] * time[inside])
    return (sound * 32767).astype(np.int16)


def _constant(name: str, value: NDArray[np.floating]) -> onnx.TensorProto:
    return numpy_helper.from_array(value.astype(np.float32), name)


def _write(file: Path, graph: onnx.GraphProto, says: dict[str, object]) -> None:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {name: str(value) for name, value in says.items()})
    onnx.save(model, str(file))


def restate(source: Path, target: Path, says: Mapping[str, object]) -> None:
    """The model `source` with other metadata."""
    model = onnx.load(str(source))
    helper.set_model_props(model, {name: str(value) for name, value in says.items()})
    onnx.save(model, str(target))
