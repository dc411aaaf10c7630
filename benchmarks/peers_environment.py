"""The environment of those peers that cannot live in ours: whisperX pins other versions, and Ray comes with it."""

import importlib.util
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.runner import progress
from workers.errors import EngineError, OptionError

REQUIREMENTS = Path(__file__).with_name("peers-requirements.txt")
PYTHON = "3.13"  # whisperx-batch asks for it
WHISPERX_BATCH = "git+https://github.com/olastor/whisperx-batch@4f8e0b1d3981021d61eb5950f8ae7c6b4a3143eb"


def default_folder() -> Path:
    import platformdirs

    return platformdirs.user_cache_path("whisperfleet") / "benchmark-peers"


def python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make(folder: Path, python: str, whisperx_batch: str) -> None:
    """whisperX, Ray and, where it can be had, whisperx-batch in `folder`; some 8 GB with the torch that they bring.

    Raises OptionError without uv, EngineError where whisperX or Ray cannot be installed.
    """
    uv = _uv()
    progress(f"Making {folder} with Python {python}, whisperX and Ray: 3 GB to download")
    if not python_of(folder).exists():
        _do([*uv, "venv", "--quiet", "--python", python, str(folder)], f"no environment with Python {python}")
    install = [*uv, "pip", "install", "--quiet", "--python", str(python_of(folder))]
    _do([*install, "--requirement", str(REQUIREMENTS)], "whisperX and Ray cannot be installed")
    try:
        # without its dependencies: they are those of the requirements, at the versions named there
        _do([*install, "--no-deps", whisperx_batch], "whisperx-batch cannot be installed")
    except EngineError as error:
        progress(f"{error}. Its stages rebuilt on Ray Data stand in: for the real one name a --whisperx-batch FOLDER.")
    progress(f"The peers are in {folder}.")


@cache
def absence(package: str, folder: Path | None) -> str | None:
    """Why `package` cannot be run from `folder`, None being this process's environment; None where it can."""
    if folder is None:
        return None if importlib.util.find_spec(package) else f"{package} is not installed here"
    if not python_of(folder).exists():
        return "its environment is not there: run once with --setup"
    found = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    asked = subprocess.run([str(python_of(folder)), "-c", found, package], capture_output=True, check=False)
    return None if asked.returncode == 0 else f"{package} is not in its environment: run again with --setup"


def _uv() -> list[str]:
    if importlib.util.find_spec("uv"):
        return [sys.executable, "-m", "uv"]
    found = shutil.which("uv")
    if found is None:
        raise OptionError("--setup needs uv, which is not here: pip install uv.")
    return [found]


def _do(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"{failure}: {' '.join(done.stderr.split())[-300:]}")
