"""Which models there are, and where a model's files are on this machine."""

import difflib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from workers.errors import ModelError

log = logging.getLogger(__name__)

DEMO = "demo"
DEMO_RECORDING = "demo.flac"
HUB_SECONDS = 5  # to answer at all, before the hub counts as out of reach

_HUB: dict[str, tuple[str, str]] = {  # name: (repository on the hub, size); a test holds the names to faster-whisper's
    "tiny.en": ("Systran/faster-whisper-tiny.en", "75 MB"),
    "tiny": ("Systran/faster-whisper-tiny", "75 MB"),
    "base.en": ("Systran/faster-whisper-base.en", "145 MB"),
    "base": ("Systran/faster-whisper-base", "145 MB"),
    "small.en": ("Systran/faster-whisper-small.en", "484 MB"),
    "small": ("Systran/faster-whisper-small", "484 MB"),
    "medium.en": ("Systran/faster-whisper-medium.en", "1.5 GB"),
    "medium": ("Systran/faster-whisper-medium", "1.5 GB"),
    "large-v1": ("Systran/faster-whisper-large-v1", "3.1 GB"),
    "large-v2": ("Systran/faster-whisper-large-v2", "3.1 GB"),
    "large-v3": ("Systran/faster-whisper-large-v3", "3.1 GB"),
    "large": ("Systran/faster-whisper-large-v3", "3.1 GB"),
    "distil-large-v2": ("Systran/faster-distil-whisper-large-v2", "1.5 GB"),
    "distil-medium.en": ("Systran/faster-distil-whisper-medium.en", "790 MB"),
    "distil-small.en": ("Systran/faster-distil-whisper-small.en", "335 MB"),
    "distil-large-v3": ("Systran/faster-distil-whisper-large-v3", "1.5 GB"),
    "distil-large-v3.5": ("distil-whisper/distil-large-v3.5-ct2", "1.5 GB"),
    "large-v3-turbo": ("mobiuslabsgmbh/faster-whisper-large-v3-turbo", "1.6 GB"),
    "turbo": ("mobiuslabsgmbh/faster-whisper-large-v3-turbo", "1.6 GB"),
}
_OPENAI = (  # the names of openai-whisper: it has no distilled ones
    *("tiny.en", "tiny", "base.en", "base", "small.en", "small", "medium.en", "medium"),
    *("large-v1", "large-v2", "large-v3", "large", "large-v3-turbo", "turbo"),
)
_WANTED_FILES = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")


@dataclass(frozen=True)
class ModelInfo:
    """A model by name; `where` is "installed" or "not here"."""

    name: str
    size: str
    where: str


def catalogue() -> tuple[ModelInfo, ...]:
    """Every name that --model takes besides folders. Imports nothing heavy and asks no hub."""
    hub = (
        ModelInfo(name, size, "installed" if _cached(repository) else "not here")
        for name, (repository, size) in _HUB.items()
    )
    return ModelInfo(DEMO, "16 MB", "installed"), *hub


def demo_folder() -> Path:
    """The model that comes with the package: it knows the synthetic speech of demo.flac and nothing else."""
    return _packaged("model")


def demo_recording() -> Path:
    """The sample recording that comes with the package."""
    return _packaged(DEMO_RECORDING)


def check_name(model: str, engine: str) -> None:
    """Refuse a model that cannot work, without loading or downloading anything.

    Raises ModelError: no such name, a folder that is no model, or the wrong kind for the engine.
    """
    if engine == "openai-whisper":
        _check_openai(model)
    elif model == DEMO or model in _HUB:
        return
    elif _is_path(model):
        _check_folder(Path(model).expanduser())
    elif not _is_repository(model):
        raise _unknown(model, (DEMO, *_HUB))


def locate(model: str, engine: str) -> Path | str:
    """What the engine loads: a folder on this machine, downloaded if need be; openai-whisper's name or file.

    Raises ModelError where there is no such model, or it is not here and the hub is out of reach.
    """
    check_name(model, engine)
    if engine == "openai-whisper":
        return str(Path(model).expanduser()) if _is_path(model) else model
    if model == DEMO:
        return demo_folder()
    if _is_path(model):
        return Path(model).expanduser()
    here = _cached(_repository(model))
    return here if here is not None else fetch(model, log.info)


def check_anywhere(model: str, engine: str) -> None:
    """As `check_name`, but a folder or file may be on another machine than this one."""
    if not _is_path(model):
        check_name(model, engine)


def bring(model: str, engine: str, report: Callable[[str], None]) -> None:
    """See that engine and model are on this machine, and download the model if it is not.

    Raises ModelError where the engine is not installed, or the model is not here and the hub is out of reach.
    What openai-whisper loads by name it downloads itself when it loads it.
    """
    check_name(model, engine)
    if engine == "openai-whisper":
        if importlib.util.find_spec("whisper") is None:
            raise no_openai()
    elif model != DEMO and not _is_path(model) and _cached(_repository(model)) is None:
        fetch(model, report)


def no_openai() -> ModelError:
    """What to say where openai-whisper is asked for and not installed."""
    return ModelError(
        'The engine openai-whisper is not installed here: pip install "whisperfleet[openai]", or leave --engine out.'
    )


def fetch(model: str, report: Callable[[str], None]) -> Path:
    """Download a model to the hub's cache (HF_HOME), showing progress; returns its folder.

    Raises ModelError where there is no such model or the hub is out of reach, after seconds and not minutes.
    """
    check_name(model, "faster-whisper")
    if model == DEMO or _is_path(model):
        report(f"{model} is already here.")
        return demo_folder() if model == DEMO else Path(model).expanduser()
    size = _HUB[model][1] if model in _HUB else "of unknown size"
    report(f"Fetching the model {model} ({size}) from the Hugging Face hub.")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    _knock(model)
    try:
        with _impatient_hub():
            folder = huggingface_hub.snapshot_download(
                _repository(model), allow_patterns=list(_WANTED_FILES), etag_timeout=HUB_SECONDS
            )
    except RepositoryNotFoundError as error:
        raise ModelError(f"The Hugging Face hub has no model '{_repository(model)}'.") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _out_of_reach(model, str(error)) from error
    report(f"The model {model} is in {folder}.")
    return Path(folder)


def folder_bytes(folder: Path) -> int:
    """Size of a model's weights."""
    return (folder / "model.bin").stat().st_size


def _knock(model: str) -> None:
    """Ask the hub for a sign of life first: its client tries a silent one for minutes.

    Raises ModelError where none comes within HUB_SECONDS.
    """
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _out_of_reach(model, "HF_HUB_OFFLINE is set")
    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except httpx.HTTPError as error:
        raise _out_of_reach(model, str(error) or type(error).__name__) from error


@contextmanager
def _impatient_hub() -> Iterator[None]:
    """The hub client with little patience, and without telemetry."""
    from huggingface_hub import constants

    patience = {
        "HF_HUB_ETAG_TIMEOUT": HUB_SECONDS,
        "HF_HUB_DOWNLOAD_TIMEOUT": HUB_SECONDS * 3,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    before = {name: getattr(constants, name) for name in patience if hasattr(constants, name)}
    for name in before:
        setattr(constants, name, patience[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(constants, name, value)


def _cached(repository: str) -> Path | None:
    """The newest complete snapshot in the hub's cache; read from disk as the hub's client lays it out."""
    from huggingface_hub import constants  # light, and it knows HF_HOME and its relatives

    cache = Path(constants.HF_HUB_CACHE)
    snapshots = (cache / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*")
    whole = [folder for folder in snapshots if (folder / "model.bin").exists() and (folder / "config.json").exists()]
    return max(whole, key=lambda folder: folder.stat().st_mtime, default=None)


def _packaged(name: str) -> Path:
    """A file or folder of workers/demo; the package is always installed as files, so its path stays good."""
    with as_file(files("workers") / "demo" / name) as path:
        if not path.exists():
            raise ModelError(f"This installation lacks its {name} of the demo: install whisperfleet again.")
        return path


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"There is no model folder '{folder}': give a folder with a CTranslate2 model, or a name.")
    missing = [name for name in ("model.bin", "config.json") if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"'{folder}' is no CTranslate2 model, it lacks {' and '.join(missing)}: "
            "convert the model with ct2-transformers-converter, or give a name."
        )
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"The model '{folder}' lacks tokenizer.json: copy it there from the original model.")


def _check_openai(model: str) -> None:
    if _is_path(model):
        file = Path(model).expanduser()
        if file.is_file() and file.suffix == ".pt":
            return
        raise ModelError(f"'{model}' is no model of openai-whisper: give a .pt file, or one of {', '.join(_OPENAI)}.")
    if model == DEMO:
        raise ModelError(
            "The model demo runs on faster-whisper only: leave --engine out, or give a .pt file to --model."
        )
    if model not in _OPENAI:
        raise _unknown(model, _OPENAI)


def _unknown(model: str, names: tuple[str, ...]) -> ModelError:
    close = difflib.get_close_matches(model, names, n=1, cutoff=0.6)
    advice = f"did you mean {close[0]}?" if close else f"take one of {', '.join(names)}, or a model's folder."
    return ModelError(f"There is no model named '{model}'; {advice}")


def _out_of_reach(model: str, reason: str) -> ModelError:
    reason = " ".join(reason.split())[:200]
    return ModelError(
        f"The model {model} is not on this machine and the Hugging Face hub is out of reach ({reason}): run "
        f"`whisperfleet models fetch {model}` where there is internet and give the folder it names to --model, "
        "or set HF_HOME to a copy of its cache; the model demo needs no hub."
    )


def _repository(model: str) -> str:
    return _HUB[model][0] if model in _HUB else model


def _is_path(model: str) -> bool:
    """Whether `model` means a folder or file: it says so by its first character, or it is there."""
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..") or "\\" in model or Path(model).exists()


def _is_repository(model: str) -> bool:
    """OWNER/NAME: any CTranslate2 model of the hub."""
    owner, slash, name = model.partition("/")
    return bool(slash and owner and name and "/" not in name)
