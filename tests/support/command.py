"""The `whisperfleet` command as a user runs it: a process of its own, its words, its exit code, its files."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from workers.messages import JobInput
from workers.transcript import Transcript


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str

    @property
    def events(self) -> list[dict[str, object]]:
        """What --json printed."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def job_id(self) -> str:
        return str(next(event["job"] for event in self.events if event.get("job")))


def argv(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "workflows.cli", *(str(argument) for argument in arguments)]


def whisperfleet(*arguments: object, timeout_s: float = 240) -> Ran:
    """Run to the end. Whatever the end is, a traceback is never it."""
    done = subprocess.run(argv(*arguments), capture_output=True, text=True, timeout=timeout_s, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def start(*arguments: object, log: Path) -> "subprocess.Popen[str]":
    """Run in the background; what it says goes to `log`."""
    with log.open("w") as file:
        return subprocess.Popen(argv(*arguments), stdout=file, stderr=subprocess.STDOUT, text=True)


@contextmanager
def background(*arguments: object, log: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run in the background, asked to end when the block does."""
    process = start(*arguments, log=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def transcript(folder: Path, stem: str) -> Transcript:
    return Transcript.model_validate_json((folder / f"{stem}.json").read_text())


def content(folder: Path, stem: str) -> dict[str, object]:
    """All files of a transcript, without the provenance: what must not depend on who did the work.

    The page holds the JSON, provenance and all, and the way to the recording: of it only that it is there.
    """
    found: dict[str, object] = {path.suffix: path.read_text() for path in folder.glob(f"{stem}.*")}
    told = json.loads(str(found[".json"]))
    told.pop("provenance")
    found[".html"] = ".html" in found
    found[".json"] = told
    return found


def demo_job(media: Path, **options: object) -> JobInput:
    return JobInput.decode({"media": str(media), "model": "demo", **options})
