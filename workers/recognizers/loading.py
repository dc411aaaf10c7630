"""The one place that knows which engines there are."""

import logging
import os
import time
from pathlib import Path
from typing import cast, get_args
from urllib.error import URLError

import numpy as np

from workers import models
from workers.errors import EngineError, ModelError, OptionError, WhisperfleetError
from workers.messages import Engine, RecognizeOptions
from workers.recognizers import DecodeSettings, Recognizer
from workers.spans import SAMPLE_RATE, Span

log = logging.getLogger(__name__)

SMALL_MODEL_BYTES = 60_000_000  # below every published Whisper (tiny has 75 MB)


def load(
    engine: str,
    model: str,
    device: str = "auto",
    device_index: int = 0,
    threads: int = 0,
    compute_type: str = "auto",
) -> Recognizer:
    """Load a model and try it out, so that a worker that takes work is able to do it.

    device: "cpu", "cuda" or "auto" (a GPU where there is one); device_index pins the process to one
    GPU; threads: CPU threads, 0 for the library's choice. compute_type "auto": see `compute_type_for`.

    Raises ModelError where the model is not here or cannot be loaded, OptionError where the engine or
    device does not exist here, EngineError where the loaded model fails its trial.
    """
    if engine not in get_args(Engine):
        raise OptionError(f"There is no engine '{engine}': take {', '.join(get_args(Engine))}.")
    began = time.monotonic()
    found = models.locate(model, engine)
    try:
        recognizer = _load(engine, model, found, device, device_index, threads, compute_type)
    except WhisperfleetError:
        raise
    except URLError as error:  # only openai-whisper downloads while it loads
        raise ModelError(
            f"The model {model} of openai-whisper is not on this machine and cannot be downloaded ({error.reason}): "
            f"bring {model}.pt from a machine with internet (it lies there in ~/.cache/whisper) and give it to --model."
        ) from error
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(f"The model {model} cannot be loaded for {engine}: {' '.join(str(error).split())}.") from error
    loaded = time.monotonic()
    warm_up(recognizer)
    log.info(
        "Loaded %s for %s in %.1f s, tried it out in %.1f s.",
        model, engine, loaded - began, time.monotonic() - loaded,
        extra={"action": "model_loaded", "model": model, "engine": engine},
    )  # fmt: skip
    return recognizer


def warm_up(recognizer: Recognizer) -> None:
    """One second of faint noise through the whole model: kernels compiled, memory taken, faults found.

    Raises EngineError where the model fails.
    """
    noise = np.random.default_rng(0).normal(0, 1e-3, SAMPLE_RATE).astype(np.float32)
    options = RecognizeOptions(engine=cast(Engine, recognizer.engine), model=recognizer.model, language="en")
    try:
        recognizer.recognize(noise, [Span.of(0, 1000)], options, DecodeSettings(), lambda: None, lambda share: None)
    except EngineError as error:
        raise EngineError(f"The model {recognizer.model} was loaded but fails at its trial: {error}") from error


def _load(
    engine: str, model: str, found: Path | str, device: str, device_index: int, threads: int, compute_type: str
) -> Recognizer:
    if engine == "openai-whisper":
        from workers.recognizers.openai_whisper import OpenAIWhisper

        return OpenAIWhisper(model, str(found), device, device_index, threads)
    # Threads that wait must sleep soon. GNU OpenMP lets them spin, and where processes share cores they spin in
    # each other's way: on two busy cores 20 s of audio took 9.5 s with spinning and 0.8 s without.
    # Read when the library loads, so the worker pool sets it for its children too.
    os.putenv("GOMP_SPINCOUNT", "1000")
    from workers.recognizers.faster_whisper import FasterWhisper

    folder = Path(found)
    device = _device(device, device_index)
    if compute_type == "auto":
        compute_type = compute_type_for(device, folder)
    return FasterWhisper(engine, model, folder, device, device_index, threads, compute_type)


def compute_type_for(device: str, folder: Path) -> str:
    """How CTranslate2 computes where nobody said: float16 on a GPU, int8 on a CPU, float32 for small models.

    On a CPU int8 takes two thirds of float32's time and memory in faster-whisper's own benchmark. A model
    smaller than any published Whisper has nothing to gain and, with so few weights, accuracy to lose.
    """
    if device == "cuda":
        return "float16"
    return "float32" if models.folder_bytes(folder) < SMALL_MODEL_BYTES else "int8"


def _device(device: str, device_index: int) -> str:
    import ctranslate2

    gpus = ctranslate2.get_cuda_device_count()
    if device == "auto":
        return "cuda" if gpus > device_index else "cpu"
    if device == "cuda" and device_index >= gpus:
        raise OptionError(
            f"There is no GPU {device_index} that CTranslate2 can use here (it sees {gpus}): take --device cpu."
        )
    if device not in ("cpu", "cuda"):
        raise OptionError(f"There is no device '{device}': take auto, cpu or cuda.")
    return str(device)
