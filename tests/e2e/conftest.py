"""What whole jobs need besides a server: workers in the background, media of several kinds."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Conductor
from tests.support.command import start
from workers.media import ffmpeg_executable


@pytest.fixture
def worker(conductor: Conductor, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `whisperfleet worker` with these options; it is stopped after the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*options: object) -> "subprocess.Popen[str]":
        process = start("worker", "--server", conductor.url, *options, log=tmp_path / f"worker-{len(started)}.log")
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        process.wait(60)


@pytest.fixture
def make_video() -> Callable[[Path, Path], None]:
    """Put a picture beside a recording's sound."""

    def make(sound: Path, video: Path) -> None:
        picture = ["-f", "lavfi", "-i", "color=c=navy:s=160x90:r=5"]
        command = [ffmpeg_executable(), "-v", "error", "-y", *picture, "-i", str(sound), "-shortest", str(video)]
        subprocess.run(command, check=True, timeout=120)

    return make


@pytest.fixture
def own_server(server_jar: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For commands that start an embedded server of their own, in the test's data folder."""
    if server_jar is not None:
        monkeypatch.setenv("WHISPERFLEET_SERVER_JAR", str(server_jar))
