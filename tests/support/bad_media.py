"""Media that no one can transcribe, servers that do not serve, disks that are full: each really so."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.media import ffmpeg
from workers import models

GOOD_MS = 13_500  # of the demo recording: its first four sentences, cut in the pause behind them
BROKEN_SHARE = 0.6  # what is left of the truncated files


def good_text() -> str:
    """The words of `good.flac`."""
    told = json.loads(models.demo_recording().with_suffix(".json").read_text())
    return " ".join(segment["text"] for segment in told["segments"] if segment["end_ms"] < GOOD_MS)


def make_media(folder: Path) -> Path:
    """Fill `folder` with one good recording, a silent one, and bad ones; returns it."""
    folder.mkdir(parents=True)
    speech = models.demo_recording()
    ffmpeg("-i", speech, "-t", str(GOOD_MS / 1000), folder / "good.flac")
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", "20", folder / "silent.wav")
    picture = ("-f", "lavfi", "-i", "color=c=navy:s=160x90:r=5")
    ffmpeg(*picture, "-t", "10", folder / "video.mp4")
    (folder / "text.mp4").write_text("Dear diary, this is no film.\n")
    (folder / "empty.mp3").touch()
    (folder / "folder.wav").mkdir()
    (folder / "again").mkdir()
    (folder / "again" / "good.wav").write_bytes((folder / "good.flac").read_bytes())
    ffmpeg(*picture, "-i", speech, "-shortest", folder / "whole.mp4")
    ffmpeg("-i", folder / "whole.mp4", "-c", "copy", "-movflags", "+faststart", folder / "index-first.mp4")
    ffmpeg("-i", speech, folder / "whole.mp3")  # with the frame that tells its length (Xing)
    _cut(folder / "whole.mp4", folder / "no-index.mp4")
    _cut(folder / "index-first.mp4", folder / "cut.mp4")
    _cut(folder / "whole.mp3", folder / "short.mp3")
    for path in ("whole.mp4", "index-first.mp4", "whole.mp3"):
        (folder / path).unlink()
    os.mkfifo(folder / "pipe.wav")
    return folder


def _cut(whole: Path, part: Path) -> None:
    content = whole.read_bytes()
    part.write_bytes(content[: int(len(content) * BROKEN_SHARE)])


def hide_whisper(folder: Path) -> Path:
    """A folder that, on PYTHONPATH, makes Python see no openai-whisper, installed or not."""
    folder.mkdir(parents=True)
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['whisper'] = None\n")
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Tests print what they want to."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A plain web server with the files of `folder`, and no Conductor; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def hanging_server() -> Iterator[str]:
    """The kernel accepts the connection, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path | None]:
    """A file system in memory at `folder`; None where this user may not mount."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    try:
        allowed = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        allowed = False
    try:
        yield folder if allowed else None
    finally:
        if allowed:
            subprocess.run(["umount", str(folder)], check=True)
