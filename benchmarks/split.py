"""How much splitting costs beside a bare decode.

    whisperfleet bench split [--quick] [--repeat 5] [--workers 16]

Each repetition runs a pair, in turns first, for each format of the 94.5-minute lecture of benchmarks/corpus.py: ffmpeg
alone, decoding the audio track to 16 kHz mono into nowhere; and the real stage split_media into a folder, with all
that belongs to it (hash of the media, voice activity around each cut, FLAC, hashes, atomic writes). The ratio is taken
within each pair, so that what else the machine does hits both sides.
"""

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import Encoding, cache_folder, encoded, recording
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, main, progress, run
from benchmarks.surroundings import make_context, spread
from workers.context import Context
from workers.media import ffmpeg_executable
from workers.messages import JobInput, JobKeys, SplitMediaInput
from workers.stages.plan import plan_media
from workers.stages.split import split_media

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: tuple[Encoding, ...] = ("mp3", "m4a", "flac")
TARGET_RATIO = 1.5
COMPRESSED: tuple[Encoding, ...] = ("mp3", "m4a")
"""What most people have. A FLAC of 16 kHz is decoded in no time, so its ratio says little."""


@dataclass(frozen=True)
class Pair:
    """Seconds of one repetition."""

    format: str
    chunks: int
    decode: float
    split: float

    @property
    def ratio(self) -> float:
        return self.split / self.decode


@dataclass(frozen=True)
class _Job:
    """A planned job, and its media."""

    format: str
    media: Path
    ref: SplitMediaInput
    context: Context
    chunks: int

    def pair(self, split_first: bool) -> Pair:
        if split_first:
            split = self.split_seconds()
            return Pair(self.format, self.chunks, self._decode_seconds(), split)
        decode = self._decode_seconds()
        return Pair(self.format, self.chunks, decode, self.split_seconds())

    def split_seconds(self) -> float:
        storage, keys = self.context.open_storage(self.ref.storage), JobKeys(self.ref.job)
        storage.delete(f"{keys.prefix}audio/")
        storage.delete(keys.split)
        began = time.monotonic()
        split_media(self.ref, self.context)
        return time.monotonic() - began

    def _decode_seconds(self) -> float:
        wanted = ("-map", "0:a:0", "-ac", "1", "-ar", "16000", "-f", "s16le", os.devnull)
        command = [ffmpeg_executable(), "-v", "error", "-nostdin", "-y", "-i", str(self.media), *wanted]
        began = time.monotonic()
        subprocess.run(command, check=True)
        return time.monotonic() - began


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    cache = cache_folder()
    lecture = recording("lecture", cache, options.quick)
    jobs = [_planned(format, encoded(lecture, format, cache), folder, options.workers) for format in FORMATS]
    jobs[0].split_seconds()  # loads the voice-activity model
    pairs: list[Pair] = []
    for number in range(options.repeat):
        for job in jobs:
            progress(f"{job.format}, pair {number + 1} of {options.repeat}")
            pairs.append(job.pair(split_first=number % 2 == 1))
    by_format = {format: [pair for pair in pairs if pair.format == format] for format in FORMATS}
    ratios = {format: statistics.median(pair.ratio for pair in of) for format, of in by_format.items()}
    speeds = {
        format: lecture.duration_ms / 1000 / statistics.median(pair.split for pair in of)
        for format, of in by_format.items()
    }
    return Findings(
        repetitions=[{**asdict(pair), "ratio": pair.ratio} for pair in pairs],
        tables=[_table(by_format, lecture.duration_ms / 60_000)],
        figures={"ratios": {format: _summary(of) for format, of in by_format.items()}, "audio_s_per_s": speeds},
        shows=[
            f"Splitting {format} takes {ratios[format]:.2f} times as long as decoding it, and goes "
            f"{speeds[format]:.0f} times real time."
            for format in FORMATS
        ],
        targets=[
            Target(
                name=f"splitting {format} beside a bare decode",
                wanted=f"at most {TARGET_RATIO}",
                found=f"{ratios[format]:.2f}",
                reached=None if options.quick else ratios[format] <= TARGET_RATIO,
            )
            for format in COMPRESSED
        ],
    )


def _planned(format: Encoding, media: Path, folder: Path, workers: int) -> _Job:
    context = make_context(folder / f"home-{format}", workers)
    plan = plan_media(JobInput(media=str(media), language="en", diarize=False), context)
    return _Job(format, media, SplitMediaInput(storage=plan.storage, job=plan.job), context, plan.chunk_count)


def _table(by_format: dict[Encoding, list[Pair]], minutes: float) -> Table:
    return Table(
        title=f"{minutes:g} minutes of lecture, seconds as min / median / max",
        columns=("format", "chunks", "ffmpeg alone", "split", "ratio"),
        rows=tuple(
            (
                format,
                pairs[0].chunks,
                spread([pair.decode for pair in pairs]),
                spread([pair.split for pair in pairs]),
                spread([pair.ratio for pair in pairs]),
            )
            for format, pairs in by_format.items()
        ),
    )


def _summary(pairs: Sequence[Pair]) -> dict[str, float]:
    ratios = [pair.ratio for pair in pairs]
    return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}


def draw(result: Result, figure: "Figure") -> None:
    axes = figure.subplots()
    found: dict[str, Any] = result.figures["ratios"]
    middle = [found[format]["median"] for format in found]
    reach = [
        [found[format]["median"] - found[format]["min"] for format in found],
        [found[format]["max"] - found[format]["median"] for format in found],
    ]
    axes.bar(list(found), middle, yerr=reach, capsize=6, width=0.5)
    axes.axhline(TARGET_RATIO, color="black", linestyle="--", label=f"target for mp3 and m4a: {TARGET_RATIO}")
    axes.set_ylabel("seconds of the split for one of a bare decode")
    axes.set_title("What splitting costs beside decoding")
    axes.legend()


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=16, help="workers that the chunk plan is made for (default 16)")


BENCHMARK = Benchmark(
    name="split",
    about=__doc__ or "",
    measure=measure,
    draw=draw,
    options=_options,
    packages=("faster-whisper", "onnxruntime", "soundfile", "av", "numpy"),
    caveats=(
        "The page cache is warm for both sides; the voice-activity model is loaded before, as it is in a worker; "
        "storage is a local folder.",
        "On one core the two halves of the split, which otherwise overlap, run one after the other.",
        "The FLAC is 16 kHz already, so decoding it is next to nothing: its ratio is large and its seconds are few.",
    ),
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
