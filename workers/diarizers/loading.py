"""The one place that knows which diarizers there are."""

import importlib.metadata
import logging
import re
import time
from pathlib import Path
from typing import get_args

from workers.diarizers import Diarizer
from workers.errors import ModelElsewhere, ModelError, OptionError
from workers.messages import DiarizerName
from workers.settings import pyannote_models

log = logging.getLogger(__name__)

DEFAULT_PYANNOTE = "pyannote/speaker-diarization-community-1"
ONNX_FILES = ("segmentation.onnx", "embedding.onnx")
_OLDEST_PYANNOTE = 4  # major; before it there are no exclusive turns, and other calls
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_DEVICES = ("auto", "cpu", "cuda")


def check(name: str, model: str | None) -> None:
    """Refuse what cannot work on this machine, without loading or downloading anything; takes milliseconds.

    Raises OptionError where the options do not fit together, ModelError where something is not here.
    """
    try:
        _check_here(name, model)
    except ModelElsewhere as error:
        raise ModelError(str(error)) from None


def _check_here(name: str, model: str | None) -> None:
    """As `check`, but ModelElsewhere where another machine may have what this one lacks."""
    check_anywhere(name, model)
    if name == "pyannote":
        _check_pyannote_installed()
        if model is not None and _is_path(model):
            _check_folder(model, ("config.yaml",), "a pipeline's folder, or a name on the Hugging Face hub")
        elif model and not permitted(model):
            raise ModelElsewhere(
                f"The pipeline '{model}' may not be loaded here, as what comes from the hub can run code: take one of "
                f"pyannote's such as {DEFAULT_PYANNOTE} or a folder, or have the worker's operator add the name to "
                "WHISPERFLEET_PYANNOTE_MODELS."
            )
    elif name == "onnx" and model is not None:
        _check_folder(model, ONNX_FILES, f"a folder with {' and '.join(ONNX_FILES)}")


def permitted(name: str) -> bool:
    """Whether what has this name on the Hugging Face hub may be loaded here; loading unpickles, which can run code."""
    return bool(_HUB_NAME.fullmatch(name)) and (name.startswith("pyannote/") or name in pyannote_models())


def check_anywhere(name: str, model: str | None) -> None:
    """As `check`, but the models may be on another machine than this one: only whether the options fit together.

    Raises OptionError where they do not, ModelError where a name is none the hub could have.
    """
    if name not in get_args(DiarizerName):
        raise OptionError(f"There is no diarizer '{name}': take {', '.join(get_args(DiarizerName))}.")
    if name == "ge2e" and model:
        raise OptionError(
            f"The diarizer ge2e has its one model inside and takes no other: leave '{model}' out, "
            "or take the diarizer pyannote or onnx."
        )
    if name == "onnx" and not model:
        raise OptionError(
            "The diarizer onnx brings no models of its own: name a folder with "
            f"{' and '.join(ONNX_FILES)} by --diarizer-model."
        )
    if name == "pyannote" and model and not _is_path(model) and not _HUB_NAME.fullmatch(model):
        raise ModelError(
            f"There is no model '{model}' for the diarizer pyannote: give a folder with config.yaml, "
            f"or a name on the hub such as {DEFAULT_PYANNOTE}."
        )


def load(name: str, model: str | None, device: str = "auto", threads: int = 0) -> Diarizer:
    """Load a diarizer's models.

    device: "cpu", "cuda" or "auto" (a GPU where there is one the diarizer can use); threads: CPU threads,
    0 for the library's choice.

    Raises ModelElsewhere where the models or their library are not on this machine, ModelError where the models are
    unfit, OptionError where diarizer or device do not exist here.
    """
    _check_here(name, model)
    if device not in _DEVICES:
        raise OptionError(f"There is no device '{device}': take {', '.join(_DEVICES)}.")
    began = time.monotonic()
    diarizer = _load(name, model, device, threads)
    log.info(
        "Loaded the diarizer %s in %.1f s.", name, time.monotonic() - began,
        extra={"action": "diarizer_loaded", "diarizer": name, "spec": diarizer.spec.hash},
    )  # fmt: skip
    return diarizer


def _load(name: str, model: str | None, device: str, threads: int) -> Diarizer:
    if name == "pyannote":
        from workers.diarizers.pyannote_audio import PyannoteAudio

        return PyannoteAudio(model or DEFAULT_PYANNOTE, device, threads)
    if name == "onnx" and model is not None:
        from workers.diarizers.onnx_models import OnnxModels

        return OnnxModels(Path(model).expanduser(), device, threads)
    from workers.diarizers.ge2e import Ge2e

    return Ge2e()


def _check_pyannote_installed() -> None:
    try:
        version = importlib.metadata.version("pyannote.audio")
    except importlib.metadata.PackageNotFoundError:
        raise ModelElsewhere(
            'The diarizer pyannote is not installed here: pip install "whisperfleet[pyannote]", '
            "or take the diarizer ge2e."
        ) from None
    if int(version.partition(".")[0]) < _OLDEST_PYANNOTE:
        raise ModelElsewhere(
            f"pyannote.audio {version} is too old for the diarizer pyannote: "
            'pip install --upgrade "whisperfleet[pyannote]".'
        )


def _check_folder(model: str, files: tuple[str, ...], wanted: str) -> None:
    folder = Path(model).expanduser()
    if not folder.exists():
        raise ModelElsewhere(f"There is no model folder '{model}': give {wanted}.")
    if not folder.is_dir():
        raise ModelError(f"'{model}' is no folder: give {wanted}.")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"The model folder '{model}' lacks {' and '.join(missing)}: give {wanted}.")


def _is_path(model: str) -> bool:
    """Whether `model` means a folder: it says so by its first character, or it is there."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or "\\" in model or Path(model).exists()
