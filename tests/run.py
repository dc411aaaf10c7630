#!/usr/bin/env python3
"""Run all checks: `python3 tests/run.py [--no-openai] [--no-pyannote] [--system] [--venv DIR] [pytest's arguments]`.

Needs nothing but Python 3.11 or newer and pip. Installs the project into .venv-test, then lints, checks
types and runs the tests; the exit code is that of the first step that failed, after all have run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_VENV = ROOT / ".venv-test"
OLDEST = (3, 11)

# Debian package -> (the program it brings, what is not tested without it)
SYSTEM_PACKAGES = {
    "ffmpeg": ("ffmpeg", "makes media of every container and codec, and is the oracle of the decoder tests"),
    "espeak-ng": ("espeak-ng", "speaks the recordings of known words"),
    "flite": ("flite", "speaks them with four more voices"),
    "chromium": ("chromium", "drives the Conductor UI"),
    "chromium-driver": ("chromedriver", "lets the tests steer chromium"),
    "g++": ("g++", "builds meeteval, a second opinion on the scores of speakers"),
    "python3-dev": ("python3-config", "builds it too"),
    "postgresql": ("pg_ctlcluster", "is Conductor's database in the test of the deployment"),
    "caddy": ("caddy", "is the TLS front there"),
    "prometheus": ("prometheus", "evaluates the dashboard there"),
}
POLICY = Path("/usr/sbin/policy-rc.d")  # asked by Debian's packages whether a service may be started


def main() -> int:
    if sys.version_info < OLDEST:
        sys.exit(f"The tests need Python {OLDEST[0]}.{OLDEST[1]} or newer, and this is {sys.version.split()[0]}.")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--venv", type=Path, default=DEFAULT_VENV, help="where to install (default: .venv-test)")
    parser.add_argument("--no-openai", action="store_true", help="leave out openai-whisper")
    parser.add_argument(
        "--no-pyannote", action="store_true", help="leave out pyannote.audio; with --no-openai torch too (5 GB)"
    )
    parser.add_argument(
        "--system", action="store_true", help="install missing Debian packages, as root (default where CI=true)"
    )
    chosen, for_pytest = parser.parse_known_args()

    in_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    with object_store():
        system_packages(install=chosen.system or in_ci)
        left_out = {"openai": chosen.no_openai, "pyannote": chosen.no_pyannote}
        wanted = ["test", "bench", "vast", "gateway", *(extra for extra, out in left_out.items() if not out)]
        python = install(chosen.venv.absolute(), wanted)
        return check(python, for_pytest)


def check(python: Path, for_pytest: list[str]) -> int:
    """Run every step; pytest comes last, so that its summary is the last line."""
    steps = {
        "ruff check": ["ruff", "check"],
        "ruff format": ["ruff", "format", "--check"],
        "mypy": ["mypy"],
        # whole files side by side, in their order, which has the longest first: whole jobs mostly wait, for a server to
        # start or a lease to end
        "pytest": ["pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *for_pytest],
    }
    failed: dict[str, int] = {}
    for name, command in steps.items():
        if name == "pytest" and failed:
            say(f"Failed so far: {', '.join(failed)}")
        code = step(name, [str(python), "-m", *command])
        if code:
            failed[name] = code
    return next(iter(failed.values()), 0)


# ---- what the machine has ----


def system_packages(install: bool) -> None:
    """Bring what is missing, where that is wanted and possible; else say what will not be tested."""
    missing = [package for package, (program, _) in SYSTEM_PACKAGES.items() if shutil.which(program) is None]
    if missing and install and os.name == "posix" and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        step("apt-get update", ["apt-get", "update", "-q"], quiet)
        with no_service_started():
            step("apt-get install", ["apt-get", "install", "-qy", "--no-install-recommends", *missing], quiet)
        missing = [package for package in missing if shutil.which(SYSTEM_PACKAGES[package][0]) is None]
    for package in missing:
        say(f"Missing: {package}, which {SYSTEM_PACKAGES[package][1]}; tests that need it are skipped (CI: fail)")


@contextmanager
def no_service_started() -> Iterator[None]:
    """While packages are installed: a database, a web server and a monitor would listen from now on, on every start."""
    if POLICY.exists():  # somebody has a policy already, as every container image does
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


@contextmanager
def object_store() -> Iterator[None]:
    """Build the object store meanwhile: that takes a processor minutes, and what comes first mostly waits for the net.

    A failure is told by the test that needs it, which tries again.
    """
    cache = Path(os.environ.get("WHISPERFLEET_TEST_CACHE") or Path.home() / ".cache" / "whisperfleet-tests")
    nice = ["nice", "-n", "10"] if shutil.which("nice") else []
    builder = subprocess.Popen(
        [*nice, sys.executable, str(ROOT / "tests" / "support" / "s3_program.py"), str(cache)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it and the compiler it starts can be ended together
    )
    try:
        yield
    finally:
        if builder.poll() is None:
            os.killpg(builder.pid, signal.SIGTERM)
        builder.wait()


# ---- the project, installed ----


def install(venv: Path, extras: list[str]) -> Path:
    """The Python of `venv` with the project, editable, at the pinned versions.

    The extra `scoring` has to be built, so it is tried by itself: without it a test is skipped (CI: fails).
    """
    python = venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not runs(python, "pip"):
        make_venv(venv, python)
        (venv / ".gitignore").write_text("*\n", encoding="utf-8")
    os.environ["PATH"] = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    # no bytecode of this Python may be taken for the other's, and no pip variable may send it elsewhere
    os.environ.pop("PYTHONPATH", None)
    os.environ.pop("PIP_TARGET", None)
    pins = ["-c", str(ROOT / "constraints.txt")]
    if not runs(python, "uv"):
        step("install uv", [str(python), "-m", "pip", "install", "-q", *pins, "uv"])

    def brought(what: str, wanted: list[str]) -> bool:
        by_uv = [str(python), "-m", "uv", "pip", "install", "-q", "--python", str(python), *pins, "-e"]
        by_pip = [str(python), "-m", "pip", "install", "-q", *pins, "-e"]
        project = f"{ROOT}[{','.join(wanted)}]"
        # pip knows mirrors and certificates of the machine's pip.conf that uv does not read
        return not step(f"install {what}", [*by_uv, project]) or not step(f"install {what} by pip", [*by_pip, project])

    if not brought("the project", extras):
        sys.exit("The project could not be installed: the reason is above.")
    if not brought("meeteval", [*extras, "scoring"]):
        say("Missing: meeteval, a second opinion on the scores of speakers; its test is skipped (CI: fails)")
    return python


def make_venv(venv: Path, python: Path) -> None:
    """A virtual environment with pip, also where Debian has taken ensurepip out of Python."""
    if venv != DEFAULT_VENV and venv.exists() and any(venv.iterdir()):
        sys.exit(f"{venv} is no virtual environment with pip, and is not empty: name another folder by --venv.")
    shutil.rmtree(venv, ignore_errors=True)  # what a broken attempt left behind
    step("make the virtual environment", [sys.executable, "-m", "venv", str(venv)])
    if runs(python, "pip"):
        return
    shutil.rmtree(venv, ignore_errors=True)
    with tempfile.TemporaryDirectory() as tools:
        say("This Python cannot make one by itself: virtualenv can")
        step("fetch virtualenv", [sys.executable, "-m", "pip", "install", "-q", "--target", tools, "virtualenv"])
        with_tools = {**os.environ, "PYTHONPATH": tools}
        step("make the virtual environment", [sys.executable, "-m", "virtualenv", "-q", str(venv)], with_tools)
    if not runs(python, "pip"):
        sys.exit(
            f"No virtual environment could be made in {venv}: install Python's venv module (Debian: python3-venv) "
            "or pip with access to a package index."
        )


def runs(python: Path, module: str) -> bool:
    """Is `module` there and whole in the environment of `python`?"""
    if not python.exists():
        return False
    return subprocess.run([str(python), "-m", module, "--version"], capture_output=True, check=False).returncode == 0


# ---- telling ----


def step(name: str, command: list[str], environment: dict[str, str] | None = None) -> int:
    say(name)
    began = time.monotonic()
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if name != "pytest":
        say(f"{name}: {'done' if code == 0 else f'FAILED with exit code {code}'}, {time.monotonic() - began:.0f} s")
    return code


def say(text: str) -> None:
    print(f"--- {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
