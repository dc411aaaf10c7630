"""Whisper models of real size that need no hub: random weights, and a decoder that says the same text of every window.

    python -m benchmarks.weights turbo FOLDER

writes FOLDER, which --model takes anywhere (CTranslate2), and, where torch is installed, FOLDER/openai.pt for
openai-whisper. Speed and memory are those of the published model of that shape, for neither depends on the values. With
random ones alone the length of the text would: so the decoder's position embeddings are, times STRENGTH, the token
embeddings of a script, and drown what the layers add. Whatever the window, position n says the script's token n:
86 words in thirteen sentences between time stamps, 112 tokens for 30 seconds, about what speech has. Nobody takes it
for wrong and hears it again (suspicion.py): no word comes twice; sentences of seven words, said in half a second each,
are too short to be too fast, and lie where a window has speech; the last one, to its end, has too few to be over
silence. What the model says means nothing.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.errors import OptionError, StorageError, WhisperfleetError
from workers.models import demo_folder

Weights = dict[str, NDArray[np.float16]]
"""By openai-whisper's names; a linear layer's weight is (out, in)."""

SENTENCES, WORDS, SENTENCE_S = 12, 7, 0.5
LAST_WORDS, WINDOW_S = 2, 30.0
WORDS_A_WINDOW = SENTENCES * WORDS + LAST_WORDS
FRAMES, POSITIONS = 1500, 448  # of Whisper's encoder and decoder
STRENGTH = 30.0
ROW = 1.5  # length of a token's embedding: its own logit is ROW * sqrt(width), 29 and more, of any other within +-7
SPREAD, FAINT = 0.02, 0.001  # standard deviations; FAINT is what a layer adds to the stream
BLOCK = 1_000_003  # values drawn; a prime, so that their repetition falls on other columns in every row
PLACES = 7919  # values between where two weights begin


@dataclass(frozen=True)
class Shape:
    """layers of the encoder and of the decoder, width of both, mel bands. Heads are 64 wide in every Whisper."""

    encoder: int
    decoder: int
    width: int
    mels: int = 80

    @property
    def heads(self) -> int:
        return self.width // 64


SHAPES: Mapping[str, Shape] = {  # openai-whisper's README and model files
    "tiny": Shape(4, 4, 384),
    "base": Shape(6, 6, 512),
    "small": Shape(12, 12, 768),
    "medium": Shape(24, 24, 1024),
    "large-v3": Shape(32, 32, 1280, 128),
    "turbo": Shape(32, 4, 1280, 128),
}
OPENAI = "openai.pt"


def write(name: str, folder: Path) -> None:
    """The model of that shape, in `folder`, which is made. Raises OptionError, StorageError."""
    if name not in SHAPES:
        raise OptionError(f"There is no shape '{name}': take one of {', '.join(SHAPES)}.")
    shape = SHAPES[name]
    tokens = json.loads((demo_folder() / "vocabulary.json").read_text("utf-8"))
    made = _weights(shape, len(tokens), _by_position(script(tokens), tokens))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(demo_folder() / "tokenizer.json", folder / "tokenizer.json")
        # what faster-whisper asks this file for; without it there are 80 bands
        (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": shape.mels}))
        _write_openai(shape, made, folder / OPENAI)
        _write_ctranslate2(shape, made, tokens, folder)
    except (OSError, RuntimeError) as error:  # torch says of a full disk that its archive failed
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StorageError(f"The model cannot be written to {folder} ({reason}): name another one.") from error


def script(tokens: list[str]) -> list[int]:
    """The text of every window as token ids, without the end: sentences of distinct words between time stamps."""
    ids = {token: number for number, token in enumerate(tokens)}
    words = iter(
        ids[token]
        for token in tokens
        if token[:1] == "Ġ" and len(token) > 4 and token[1:].isascii() and token[1:].islower()
    )
    said: list[int] = []
    for number in range(SENTENCES):
        said += _sentence(ids, number * SENTENCE_S, (number + 1) * SENTENCE_S, islice(words, WORDS))
    return said + _sentence(ids, SENTENCES * SENTENCE_S, WINDOW_S, islice(words, LAST_WORDS))


def _sentence(ids: Mapping[str, int], start_s: float, end_s: float, words: Iterable[int]) -> list[int]:
    return [ids[f"<|{start_s:.2f}|>"], *words, ids[f"<|{end_s:.2f}|>"]]


def _by_position(said: list[int], tokens: list[str]) -> NDArray[np.int64]:
    """What is said at each of POSITIONS: the rest of the prompt after its first token, the script, and the end."""
    end, english, transcribe = (tokens.index(token) for token in ("<|endoftext|>", "<|en|>", "<|transcribe|>"))
    follows = [english, transcribe, *said]
    return np.array(follows + [end] * (POSITIONS - len(follows)))


def _weights(shape: Shape, vocabulary: int, says: NDArray[np.int64]) -> Weights:
    width = shape.width
    drawn = np.random.default_rng(1).standard_normal(BLOCK, np.float32)
    places = count(0, PLACES)

    def values(spread: float, *size: int) -> NDArray[np.float16]:
        """Each from another place: equal ones would be kept once, and a processor's cache would hold them."""
        return np.resize(np.roll((spread * drawn).astype(np.float16), next(places)), size)

    made: Weights = {
        "encoder.conv1.weight": values(SPREAD, width, shape.mels, 3),
        "encoder.conv2.weight": values(SPREAD, width, width, 3),
        "encoder.positional_embedding": values(SPREAD, FRAMES, width),
        "decoder.token_embedding.weight": values(ROW / width**0.5, vocabulary, width),
    }
    made["decoder.positional_embedding"] = np.float16(STRENGTH) * made["decoder.token_embedding.weight"][says]
    for name in ("encoder.conv1.bias", "encoder.conv2.bias"):
        made[name] = np.zeros(width, np.float16)
    for half, layers, attentions in (
        ("encoder", shape.encoder, ("attn",)),
        ("decoder", shape.decoder, ("attn", "cross_attn")),
    ):
        _add_norm(made, "encoder.ln_post" if half == "encoder" else "decoder.ln", width)
        for at in (f"{half}.blocks.{number}" for number in range(layers)):
            for attention in attentions:
                _add_norm(made, f"{at}.{attention}_ln", width)
                for part in ("query", "key", "value", "out"):
                    made[f"{at}.{attention}.{part}.weight"] = values(FAINT if part == "out" else SPREAD, width, width)
                    if part != "key":
                        made[f"{at}.{attention}.{part}.bias"] = np.zeros(width, np.float16)
            _add_norm(made, f"{at}.mlp_ln", width)
            made[f"{at}.mlp.0.weight"] = values(SPREAD, 4 * width, width)
            made[f"{at}.mlp.2.weight"] = values(FAINT, width, 4 * width)
            made[f"{at}.mlp.0.bias"], made[f"{at}.mlp.2.bias"] = (np.zeros(n * width, np.float16) for n in (4, 1))
    return made


def _add_norm(made: Weights, name: str, width: int) -> None:
    made[f"{name}.weight"], made[f"{name}.bias"] = np.ones(width, np.float16), np.zeros(width, np.float16)


def _write_openai(shape: Shape, made: Weights, path: Path) -> None:
    try:
        import torch
    except ImportError:
        return
    dimensions = {
        "n_mels": shape.mels,
        "n_audio_ctx": FRAMES,
        "n_audio_state": shape.width,
        "n_audio_head": shape.heads,
        "n_audio_layer": shape.encoder,
        "n_vocab": len(made["decoder.token_embedding.weight"]),
        "n_text_ctx": POSITIONS,
        "n_text_state": shape.width,
        "n_text_head": shape.heads,
        "n_text_layer": shape.decoder,
    }
    state = {name: torch.from_numpy(values) for name, values in made.items()}
    torch.save({"dims": dimensions, "model_state_dict": state}, path)


# ---- CTranslate2 ----


def _write_ctranslate2(shape: Shape, made: Weights, tokens: list[str], folder: Path) -> None:
    """As its own converter lays it out: the projections of one input are one layer."""
    from ctranslate2.specs import WhisperSpec

    spec = WhisperSpec(shape.encoder, shape.heads, shape.decoder, shape.heads)
    for layer, name in ((spec.encoder.conv1, "conv1"), (spec.encoder.conv2, "conv2")):
        _linear(layer, made, f"encoder.{name}")
    for half, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        half.position_encodings.encodings = made[f"{name}.positional_embedding"]
        _norm(half.layer_norm, made, "encoder.ln_post" if name == "encoder" else "decoder.ln")
        for number, layer in enumerate(half.layer):
            at = f"{name}.blocks.{number}"
            _attention(layer.self_attention, made, f"{at}.attn", (("query", "key", "value"),))
            if name == "decoder":
                _attention(layer.attention, made, f"{at}.cross_attn", (("query",), ("key", "value")))
            _norm(layer.ffn.layer_norm, made, f"{at}.mlp_ln")
            _linear(layer.ffn.linear_0, made, f"{at}.mlp.0")
            _linear(layer.ffn.linear_1, made, f"{at}.mlp.2")
    spec.decoder.embeddings.weight = made["decoder.token_embedding.weight"]
    spec.decoder.projection.weight = made["decoder.token_embedding.weight"]
    spec.register_vocabulary(tokens)
    config = json.loads((demo_folder() / "config.json").read_text("utf-8"))
    heads = [[shape.decoder - 1, head] for head in range(min(6, shape.heads))]  # the published ones name 6 to 23
    for name, value in {**config, "alignment_heads": heads}.items():
        setattr(spec.config, name, value)
    spec.validate()
    spec.optimize(quantization="float16")
    spec.save(str(folder))


def _norm(layer: Any, made: Weights, name: str) -> None:
    layer.gamma, layer.beta = made[f"{name}.weight"], made[f"{name}.bias"]


def _linear(layer: Any, made: Weights, *names: str) -> None:
    """One layer of several that have the same input; openai-whisper's keys have no bias."""
    weights = [made[f"{name}.weight"] for name in names]
    biases = [made.get(f"{name}.bias", np.zeros(len(weights[0]), np.float16)) for name in names]
    layer.weight, layer.bias = np.concatenate(weights), np.concatenate(biases)


def _attention(layer: Any, made: Weights, name: str, groups: tuple[tuple[str, ...], ...]) -> None:
    _norm(layer.layer_norm, made, f"{name}_ln")
    for linear, parts in zip(layer.linear, (*groups, ("out",)), strict=True):
        _linear(linear, made, *(f"{name}.{part}" for part in parts))


def main() -> None:
    """`python -m benchmarks.weights SHAPE FOLDER`."""
    if len(sys.argv) != 3:
        print("Usage: python -m benchmarks.weights SHAPE FOLDER", file=sys.stderr)
        sys.exit(2)
    try:
        write(sys.argv[1], Path(sys.argv[2]))
    except WhisperfleetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"Written: {sys.argv[2]}, a model of {sys.argv[1]}'s shape that knows no speech")


if __name__ == "__main__":
    main()
