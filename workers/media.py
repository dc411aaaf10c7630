"""The only caller of ffmpeg (to decode) and PyAV (to probe): what is in a media file, and its sound as samples.

The media's clock is ffmpeg's: zero is where the container starts. A track that sets on later is
preceded by silence, gaps in its time stamps are filled with silence, so that sample n of a decode is
n / 16 ms on that clock, however the file was encoded.
"""

import functools
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from workers.errors import MediaError
from workers.settings import bare_environment
from workers.spans import SAMPLE_RATE, clock

Samples = NDArray[np.int16]  # mono, 16 kHz

BLOCK_SAMPLES = 30 * SAMPLE_RATE  # what a decode yields at a time: 30 s, 960 kB
BLOCKS_AHEAD = 16  # decoded and not taken yet: 15 MB, so that ffmpeg never waits for a cut being decided
PIPE_BYTES = 1 << 20  # what Linux gives an ordinary user at most

_MATROSKA_DURATION = re.compile(r"(\d+):(\d\d):(\d\d)\.(\d{6})\d*")  # its tracks say where they end in a tag

# bare streams, whose containers claim no duration: players estimate it from the bit rate of the first frames
BARE_STREAMS = frozenset({"aac", "mp3", "mp2", "ac3", "eac3", "dts", "amr", "adts", "amrnb", "amrwb"})


@dataclass(frozen=True)
class AudioTrack:
    """end_ms: where the track ends on the media's clock, None where the container does not say."""

    codec: str
    rate: int
    channels: int
    end_ms: int | None


@dataclass(frozen=True)
class MediaInfo:
    """What a container says of itself. duration_ms: None where it is missing or only an estimate."""

    container: str
    duration_ms: int | None
    tracks: tuple[AudioTrack, ...]
    has_video: bool

    @property
    def audio_tracks(self) -> int:
        return len(self.tracks)


def probe(path: Path) -> MediaInfo:
    """Read the container's head.

    Raises MediaError where the file is none that ffmpeg can read.
    """
    with _opened(path) as container:
        starts = _start_ms(container)
        sure = _claims_duration(path, container.format.name)
        share = _present_share(path)
        return MediaInfo(
            container=container.format.name,
            duration_ms=int(container.duration / share) // 1000 if sure and container.duration else None,
            tracks=tuple(_track(stream, starts, sure, share) for stream in container.streams.audio),
            has_video=any(not _is_cover(stream) for stream in container.streams.video),
        )


def count_duration(path: Path, track: int) -> int:
    """End in ms of audio track `track` (0 is the first), by reading its packets without decoding them."""
    import av

    end = 0.0
    with _opened(path) as container:
        stream = container.streams.audio[track]
        base = float(stream.time_base or 0)
        counted = 0.0
        try:
            for packet in container.demux(stream):
                if packet.size:
                    counted += (packet.duration or 0) * base
                    if packet.pts is not None:
                        end = max(end, (packet.pts + (packet.duration or 0)) * base)
        except av.error.FFmpegError:
            pass  # what was read until the damage counts; the decode will tell about it
        return max(0, int(max(counted * 1000, end * 1000 - _start_ms(container))))


def last_packet_ms(path: Path) -> int:
    """End of the last packet of any track, video too: how far the file really goes."""
    import av

    end = 0.0
    with _opened(path) as container:
        try:
            if container.duration:
                container.seek(max(0, container.duration - 10_000_000) + (container.start_time or 0))
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except av.error.FFmpegError:
            pass  # a broken-off file: what was read is how far it goes
        return int(end * 1000) - _start_ms(container)


class Decoding:
    """A running ffmpeg that turns one audio track into 16 kHz mono; leave its `with` to end it.

    `blocks` yields the samples; once they are exhausted, `finished` is true, and `returncode` and
    `complaints` (ffmpeg's error lines: the first few, and how many) tell how it went.
    """

    def __init__(self, path: Path, track: int, start_ms: int | None = None, length_ms: int | None = None) -> None:
        """`start_ms` seeks fast and not exactly; without it, sample 0 is the media's start."""
        self.complaints: list[str] = []
        self.complaint_count = 0
        self.last_complaint = ""
        self.finished = False
        self._blocks: queue.Queue[Samples | None] = queue.Queue(BLOCKS_AHEAD)
        self._closing = threading.Event()
        self._process = _start(_command(path, track, start_ms, length_ms))
        self._threads = [
            threading.Thread(target=self._read_sound, name="ffmpeg-sound", daemon=True),
            threading.Thread(target=self._read_complaints, name="ffmpeg-complaints", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._closing.set()
        self._process.kill()
        for thread in self._threads:
            thread.join()
        self._process.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def blocks(self) -> Iterator[Samples]:
        while (block := self._blocks.get()) is not None:
            yield block
        self._process.wait()
        self._threads[1].join()
        self.finished = True

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def _read_sound(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        _widen(pipe)
        while not self._closing.is_set():
            block = _read_whole(pipe, BLOCK_SAMPLES * 2)
            if len(block) >= 2:
                self._hand_over(np.frombuffer(block[: len(block) // 2 * 2], dtype="<i2"))
            if len(block) < BLOCK_SAMPLES * 2:
                break
        self._hand_over(None)

    def _hand_over(self, block: Samples | None) -> None:
        while not self._closing.is_set():
            try:
                self._blocks.put(block, timeout=0.2)
            except queue.Full:
                continue
            return

    def _read_complaints(self) -> None:
        pipe = self._process.stderr
        assert pipe is not None
        for line in pipe:
            text = line.decode(errors="replace").strip()
            if text:
                self.complaint_count += 1
                self.last_complaint = text
                if len(self.complaints) < 5:
                    self.complaints.append(text)


def decode_excerpt(path: Path, track: int, start_ms: int, length_ms: int) -> Samples:
    """About `length_ms` of sound from about `start_ms`; empty where nothing can be decoded there."""
    with Decoding(path, track, start_ms, length_ms) as decoding:
        blocks = list(decoding.blocks())
    return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)


def as_float(samples: Samples) -> NDArray[np.float32]:
    """The samples between -1 and 1, as models want them."""
    return np.multiply(samples, np.float32(1 / 32768), dtype=np.float32)


@functools.cache
def ffmpeg_executable() -> str:
    """The system's ffmpeg, else the one that the package imageio-ffmpeg brings."""
    found = shutil.which("ffmpeg")
    if found:
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _command(path: Path, track: int, start_ms: int | None, length_ms: int | None) -> list[str]:
    import ffmpeg

    limits = {} if start_ms is None else {"ss": start_ms / 1000}
    # only files: a playlist disguised as media must not make this machine fetch addresses
    source = ffmpeg.input(f"file:{path.absolute()}", protocol_whitelist="file,pipe", **limits)
    output: dict[str, Any] = {"ac": 1, "ar": SAMPLE_RATE, "acodec": "pcm_s16le", "format": "s16le"}
    # async=1 fills and trims by time stamp; first_pts=0 puts silence before a track that starts late
    output["af"] = "aresample=async=1:first_pts=0" if start_ms is None else "aresample"
    if length_ms is not None:
        output["t"] = length_ms / 1000
    stream = source[f"a:{track}"].output("pipe:1", flush_packets=0, **output)
    return [str(part) for part in stream.global_args("-v", "error", "-nostdin").compile(cmd=ffmpeg_executable())]


def _start(command: list[str]) -> "subprocess.Popen[bytes]":
    """Start ffmpeg so that it ends with this process, however that ends.

    The pipe alone ends it at its next write; on Linux the kernel also kills it where it does not come
    to write. That is asked for by a few lines of Python that then become ffmpeg, because code run
    between fork and exec in a process with threads may deadlock.
    """
    if sys.platform == "linux" and sys.executable:
        command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=bare_environment(),
    )


_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


def _widen(pipe: IO[bytes]) -> None:
    """A wider pipe: fewer turns between ffmpeg and us. Where the system refuses, the usual one does."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            return


def _read_whole(pipe: IO[bytes], size: int) -> bytes:
    """`size` bytes, fewer only at the end."""
    buffer = bytearray(size)
    filled = 0
    view = memoryview(buffer)
    while filled < size:
        count = pipe.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return bytes(view[:filled])


def _opened(path: Path) -> Any:
    """An open PyAV container.

    Raises MediaError with a sentence for everything that cannot be opened.
    """
    import av

    try:
        return av.open(f"file:{path.absolute()}", options={"protocol_whitelist": "file"})
    except PermissionError as error:
        raise MediaError(f"'{path.name}' may not be read by this user: change its permissions.") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if _head(path, 12)[4:8] == b"ftyp":
            raise MediaError(
                f"'{path.name}' is cut off or damaged: its index (the moov atom) is missing, "
                "so nothing in it can be found; copy or record it again."
            ) from error
        raise MediaError(
            f"'{path.name}' is no audio or video that ffmpeg can read: check that it is a media file and whole."
        ) from error


def _track(stream: Any, start_ms: int, sure: bool, share: float) -> AudioTrack:
    end_ms = None
    if sure and stream.duration and stream.time_base:
        begins = (stream.start_time or 0) * stream.time_base * 1000 - start_ms
        end_ms = int((begins + stream.duration * stream.time_base * 1000) / share)
    elif written := _MATROSKA_DURATION.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds, micros = (int(part) for part in written.groups())
        end_ms = (hours * 3600 + minutes * 60 + seconds) * 1000 + micros // 1000 - start_ms
    context = stream.codec_context
    return AudioTrack(
        codec=context.name if context else "unknown",
        rate=(context.sample_rate or 0) if context else 0,
        channels=(context.channels or 0) if context else 0,
        end_ms=end_ms,
    )


def _start_ms(container: Any) -> int:
    return int((container.start_time or 0) // 1000)


def _is_cover(stream: Any) -> bool:
    """A picture of the album, which containers hold as a video of one frame."""
    return "attached_pic" in str(stream.disposition).lower()


def _claims_duration(path: Path, container: str) -> bool:
    """Whether the container really says how long it is. An mp3 does in a Xing, Info or VBRI frame."""
    if "mp3" in container.split(","):
        head = _head(path, 10)
        tag = _synchsafe(head[6:10]) + 10 if head[:3] == b"ID3" else 0
        frame = _head(path, 4096, tag)
        return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))
    return not BARE_STREAMS.intersection(container.split(","))


def _present_share(path: Path) -> float:
    """How much of a RIFF file (wav, avi) is there, 0 to 1: libav shortens its duration to what it finds.

    A recorder that could not know the size when it began writes 0, or about 2 or 4 GiB.
    """
    head = _head(path, 12)
    if head[:4] != b"RIFF":
        return 1.0
    promised = int.from_bytes(head[4:8], "little") + 8
    unknown = promised <= 12 or abs(promised - (1 << 31)) < 4096 or promised > (1 << 32) - 4096
    return 1.0 if unknown else min(1.0, path.stat().st_size / promised)


def _synchsafe(four: bytes) -> int:
    return functools.reduce(lambda value, byte: value << 7 | byte & 0x7F, four, 0)


def _head(path: Path, size: int, offset: int = 0) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def describe_truncation(name: str, decoded_ms: int, claimed_ms: int) -> str:
    """The sentence for media that end before they say they do."""
    return (
        f"'{name}' breaks off at {clock(decoded_ms)} although it says it is {clock(claimed_ms)} long: "
        "copy it again whole, or add --allow-gaps to transcribe what is there."
    )
