"""Make ge2e_model/ge2e.onnx from the weights in the package resemblyzer; compare it with torch and the shipped file.

    python -m workers.diarizers.export_ge2e [--weights PRETRAINED.pt] [--out FILE]

For development: needs torch and onnx, and without --weights a package index. resemblyzer itself is never
imported (what it needs does not load on newer Pythons); only its file of weights is read.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workers.diarizers.ge2e import BATCH, DIMENSION, FRAMES, MELS

PACKAGE = "resemblyzer==0.1.4"
CHECKPOINT_SHA256 = "39373b86598fa3da9fcddee6142382efe09777e8d37dc9c0561f41f0070f134e"
LAYERS = 3
HIDDEN = 256
OPSET, IR_VERSION = 17, 8  # of 2022: every onnxruntime since 1.12 reads them

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """Largest differences between values of embeddings, which are of length 1."""

    to_torch: float
    to_shipped: float
    same_bytes: bool


def fetch_weights(folder: Path) -> Path:
    """pretrained.pt of the package, unpacked below `folder`.

    Raises CalledProcessError where the package index does not give it; stderr says why.
    """
    if shutil.which("uv"):
        installer = ["uv", "pip", "install", "--python", sys.executable]
    else:
        installer = [sys.executable, "-m", "pip", "install"]
    command = [*installer, "--quiet", "--no-deps", "--target", str(folder), PACKAGE]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "resemblyzer" / "pretrained.pt"


def read_weights(checkpoint: Path) -> dict[str, Array]:
    """The tensors of the network by torch's names; those of the optimiser, most of the file, are left.

    Raises ValueError where it is another file.
    """
    if hashlib.sha256(checkpoint.read_bytes()).hexdigest() != CHECKPOINT_SHA256:
        raise ValueError(f"{checkpoint} is not the pretrained.pt of {PACKAGE}: its SHA-256 differs.")
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model_state"]
    return {name: tensor.numpy() for name, tensor in state.items() if name.startswith(("lstm.", "linear."))}


def build(weights: dict[str, Array]) -> bytes:
    """The network as an ONNX file: mels (batch, frames, MELS) to embedding (batch, DIMENSION), each of length 1."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    tensors: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {
        "first_axis": np.array([0], np.int64),
        "direction_axis": np.array([1], np.int64),
        "linear_weight": weights["linear.weight"],
        "linear_bias": weights["linear.bias"],
    }
    nodes = [helper.make_node("Transpose", ["mels"], ["heard_0"], perm=[1, 0, 2])]  # time first
    for layer in range(LAYERS):
        tensors |= _layer(weights, layer)
        inputs = [f"heard_{layer}", *(f"{kind}_{layer}" for kind in ("input", "recurrent", "bias"))]
        outputs = [f"states_{layer}", f"last_{layer}"]
        nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=HIDDEN))
        nodes.append(helper.make_node("Squeeze", [f"states_{layer}", "direction_axis"], [f"heard_{layer + 1}"]))
    nodes[-1] = helper.make_node("Squeeze", [f"last_{LAYERS - 1}", "first_axis"], ["voice"])
    nodes += [
        helper.make_node("Gemm", ["voice", "linear_weight", "linear_bias"], ["projected"], transB=1),
        helper.make_node("Relu", ["projected"], ["positive"]),
        helper.make_node("LpNormalization", ["positive"], ["embedding"], axis=1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "ge2e",
        [helper.make_tensor_value_info("mels", TensorProto.FLOAT, ["batch", "frames", MELS])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", DIMENSION])],
        [numpy_helper.from_array(np.ascontiguousarray(tensor), name) for name, tensor in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _layer(weights: dict[str, Array], layer: int) -> dict[str, Array]:
    """The tensors of one LSTM layer with their leading axis of directions, of which there is one."""

    def gates(name: str) -> Array:
        """torch's order of gates (input, forget, cell, output) in ONNX's (input, output, forget, cell)."""
        given, forget, cell, output = np.split(weights[f"lstm.{name}_l{layer}"], 4)
        return np.concatenate([given, output, forget, cell])

    return {
        f"input_{layer}": gates("weight_ih")[None],
        f"recurrent_{layer}": gates("weight_hh")[None],
        f"bias_{layer}": np.concatenate([gates("bias_ih"), gates("bias_hh")])[None],
    }


def run_torch(weights: dict[str, Array], mels: Array) -> Array:
    """The same network by torch, whose layers the weights were trained with."""
    import torch

    lstm = torch.nn.LSTM(MELS, HIDDEN, LAYERS, batch_first=True)
    linear = torch.nn.Linear(HIDDEN, DIMENSION)
    for network, prefix in ((lstm, "lstm."), (linear, "linear.")):
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        network.load_state_dict({name: torch.from_numpy(value) for name, value in own.items()})
    with torch.no_grad():
        _, (last, _) = lstm(torch.from_numpy(mels))
        found = torch.nn.functional.normalize(torch.relu(linear(last[-1])), dim=1)
    return np.asarray(found.numpy(), np.float32)


def run_onnx(model: bytes, mels: Array) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"mels": mels})
    return np.asarray(found, np.float32)


def compare(weights: dict[str, Array], model: bytes) -> Comparison:
    """`model` against torch and against the file in the package, on noise of the spectrum and level of speech."""
    falling = 10 ** np.linspace(-2, -5, MELS)  # power of the bands of a voice at -30 dBFS, about
    noise = np.random.default_rng(1).exponential(size=(2 * BATCH, FRAMES, MELS))
    mels = np.asarray(noise * falling, np.float32)
    shipped = files("workers.diarizers").joinpath("ge2e_model", "ge2e.onnx").read_bytes()
    found = run_onnx(model, mels)
    return Comparison(
        to_torch=float(np.abs(found - run_torch(weights, mels)).max()),
        to_shipped=float(np.abs(found - run_onnx(shipped, mels)).max()),
        same_bytes=model == shipped,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Make the voice model ge2e.onnx again and compare it.")
    parser.add_argument("--weights", type=Path, help=f"pretrained.pt of {PACKAGE}; else the package index is asked")
    parser.add_argument("--out", type=Path, help="where to write the model")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        weights = read_weights(options.weights or fetch_weights(Path(folder)))
    model = build(weights)
    found = compare(weights, model)
    if options.out:
        options.out.write_bytes(model)
    print(f"{len(model)} bytes, SHA-256 {hashlib.sha256(model).hexdigest()}")
    print(f"largest difference to torch: {found.to_torch:.1e}")
    same = "the same bytes" if found.same_bytes else "other bytes"
    print(f"largest difference to the shipped file: {found.to_shipped:.1e} ({same})")


if __name__ == "__main__":
    main()
