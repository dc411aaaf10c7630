"""How much splitting costs beside a bare decode, and how much memory it takes.

    python -m benchmarks.split [--quick] [--repeat 5] [--workers 16]
    python -m benchmarks.split --memory --hours 10

Each repetition runs a pair, in turns first: ffmpeg alone, decoding the audio track to 16 kHz mono into
nowhere; and the real stage split_media into a folder, with all that belongs to it (hash of the media, voice
activity around each cut, FLAC, hashes, atomic writes). The ratio is taken within each pair, so that what
else the machine does hits both sides. The target is 1.5 at most, on mp3 and on mp4.

Caveats: the recording is one spoken minute (espeak-ng) repeated, so pauses are as even as that; the page
cache is warm for both sides; the voice-activity model is loaded before, as it is in a worker; storage is a
local folder; on one core the two halves of the split, which otherwise overlap, run one after the other.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.surroundings import machine, make_context, spread, working_folder
from workers.context import Context
from workers.media import ffmpeg_executable
from workers.messages import JobInput, JobKeys, SplitMediaInput
from workers.stages.plan import plan_media
from workers.stages.split import split_media

MINUTES = 94.5  # the lecture of the project's goal
QUICK_MINUTES = 10.0
TARGET_RATIO = 1.5
TARGET_MEGABYTES = 300
FORMATS = {
    "mp3": ("talk.mp3", ("-c:a", "libmp3lame", "-b:a", "128k", "-ar", "44100", "-ac", "2")),
    "mp4": ("talk.mp4", ("-c:a", "aac", "-b:a", "128k", "-ar", "48000", "-ac", "2")),
}
SPOKEN = (
    "Good morning, and welcome back. Last week we looked at how a long recording is cut into pieces. "
    "Today we ask a harder question: where should the knife go? If it falls into a word, the word is lost, "
    "or it is heard twice. So we look for a breath. People breathe every few seconds, and nobody speaks then. "
    "There are recordings without a breath, of course. A crowd sings, a machine hums, an auctioneer never stops. "
    "For these we let both neighbours hear the same few seconds, and compare what they heard. "
)


@dataclass(frozen=True)
class Pair:
    """Seconds of one repetition."""

    decode: float
    split: float

    @property
    def ratio(self) -> float:
        return self.split / self.decode


def main() -> None:
    options = _options()
    with working_folder(options.folder) as folder:
        if options.measure_one:
            print(json.dumps(_measured_split(Path(options.measure_one), folder, options.workers)))
            return
        found: dict[str, Any] = {"benchmark": "split", "machine": _machine(), "workers": options.workers}
        minute = _spoken_minute(folder)
        if options.memory:
            found |= _memory(minute, folder, options)
        else:
            found |= _ratios(minute, folder, options)
    Path(options.output).write_text(json.dumps(found, indent=2) + "\n")
    print(f"written: {options.output}")


def _ratios(minute: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    minutes = QUICK_MINUTES if options.quick else MINUTES
    found: dict[str, Any] = {"minutes": minutes, "formats": {}}
    print(f"{minutes} minutes, {options.repeat} pairs, seconds as min / median / max")
    print(f"{'format':8}{'chunks':>8}{'ffmpeg alone':>24}{'split':>24}{'ratio':>24}  target {TARGET_RATIO}")
    for name, (file, encoding) in FORMATS.items():
        media = _recording(minute, folder / file, minutes, encoding)
        context = make_context(folder / f"home-{name}", options.workers)
        plan = plan_media(JobInput(media=str(media), language="en"), context)
        ref = SplitMediaInput(storage=plan.storage, job=plan.job)
        _split_seconds(ref, context)  # loads the voice-activity model
        pairs = [_pair(media, ref, context, split_first=number % 2 == 1) for number in range(options.repeat)]
        ratio = statistics.median(pair.ratio for pair in pairs)
        print(
            f"{name:8}{plan.chunk_count:8}"
            f"{spread([pair.decode for pair in pairs]):>24}{spread([pair.split for pair in pairs]):>24}"
            f"{spread([pair.ratio for pair in pairs]):>24}  {'met' if ratio <= TARGET_RATIO else 'MISSED'}",
            flush=True,
        )
        found["formats"][name] = {
            "chunks": plan.chunk_count,
            "median_ratio": ratio,
            "pairs": [{**asdict(pair), "ratio": pair.ratio} for pair in pairs],
        }
    return found


def _pair(media: Path, ref: SplitMediaInput, context: Context, split_first: bool) -> Pair:
    if split_first:
        split = _split_seconds(ref, context)
        return Pair(_decode_seconds(media), split)
    decode = _decode_seconds(media)
    return Pair(decode, _split_seconds(ref, context))


def _decode_seconds(media: Path) -> float:
    began = time.monotonic()
    _ffmpeg("-i", str(media), "-map", "0:a:0", "-ac", "1", "-ar", "16000", "-f", "s16le", os.devnull)
    return time.monotonic() - began


def _split_seconds(ref: SplitMediaInput, context: Context) -> float:
    storage, keys = context.open_storage(ref.storage), JobKeys(ref.job)
    storage.delete(f"{keys.prefix}audio/")
    storage.delete(keys.split)
    began = time.monotonic()
    split_media(ref, context)
    return time.monotonic() - began


def _memory(minute: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a fresh process that plans and splits `hours` of mp3."""
    file, encoding = FORMATS["mp3"]
    media = _recording(minute, folder / file, options.hours * 60, encoding)
    command = [sys.executable, "-m", "benchmarks.split", "--measure-one", str(media), "--workers", str(options.workers)]
    measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    met = "met" if measured["process_megabytes"] <= TARGET_MEGABYTES else "MISSED"
    print(f"{options.hours} hours of mp3, {measured['chunks']} chunks, split in {measured['seconds']:.1f} s")
    print(f"peak memory of the process: {measured['process_megabytes']:.0f} MB, target {TARGET_MEGABYTES}: {met}")
    print(f"peak memory of ffmpeg:      {measured['ffmpeg_megabytes']:.0f} MB")
    return {"hours": options.hours, **measured}


def _measured_split(media: Path, folder: Path, workers: int) -> dict[str, float]:
    context = make_context(folder / "home", workers)
    plan = plan_media(JobInput(media=str(media)), context)
    with _largest_child() as child:
        split = split_media(SplitMediaInput(storage=plan.storage, job=plan.job), context)
    kilobytes = 1024 if sys.platform == "linux" else 1  # ru_maxrss is in kB on Linux, in bytes on macOS
    return {
        "chunks": plan.chunk_count,
        "seconds": split.seconds,
        "process_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes / 1e6,
        "ffmpeg_megabytes": max(child, default=0) / 1e6,
    }


@contextmanager
def _largest_child() -> Iterator[list[int]]:
    """Resident bytes of this process's children, sampled: their ru_maxrss counts what they were before exec, too."""
    seen: list[int] = []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.05):
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):
                    seen.append(child.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _spoken_minute(folder: Path) -> Path:
    """A spoken minute; every second sentence is followed by a pause of its own."""
    if shutil.which("espeak-ng") is None:
        sys.exit("The recording is spoken by espeak-ng: install it (apt-get install espeak-ng).")
    speech, minute = folder / "speech.wav", folder / "minute.wav"
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "150", "-w", speech, SPOKEN * 3], check=True)
    _ffmpeg("-i", str(speech), "-t", "60", "-ar", "44100", str(minute))
    return minute


def _recording(minute: Path, path: Path, minutes: float, encoding: tuple[str, ...]) -> Path:
    """The minute, encoded once and repeated as it is: encoding hours would take longer than all that is measured."""
    encoded = path.with_stem("minute")
    _ffmpeg("-i", str(minute), *encoding, str(encoded))
    _ffmpeg("-stream_loop", "-1", "-i", str(encoded), "-t", str(minutes * 60), "-c", "copy", str(path))
    return path


def _ffmpeg(*arguments: str) -> None:
    subprocess.run([ffmpeg_executable(), "-v", "error", "-nostdin", "-y", *arguments], check=True)


def _machine() -> dict[str, Any]:
    banner = subprocess.run([ffmpeg_executable(), "-version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    packages = ("faster-whisper", "onnxruntime", "soundfile", "av", "numpy")
    return {**machine(*packages), "ffmpeg": banner.splitlines()[0]}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.split", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="pairs a format, 5 at least for a figure to publish")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_MINUTES} minutes instead of {MINUTES}")
    parser.add_argument("--workers", type=int, default=16, help="workers that the chunk plan is made for")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of time")
    parser.add_argument("--hours", type=float, default=10.0, help="length of the recording of --memory")
    parser.add_argument("--output", default="split.json", help="where the figures go")
    parser.add_argument("--folder", help="keep the recordings and objects in this existing folder")
    parser.add_argument("--measure-one", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
