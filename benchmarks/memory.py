"""How much memory a job's parts take at most, for 1, 3 and 10 hours of audio: flat is the claim.

    whisperfleet bench memory [--hours 1,3,10] [--repeat 3] [--quick]

Each part runs in a process of its own, with the real stage and all that belongs to it, and says how much it ever had
resident (VmHWM): *split* plans the job and cuts the recording (its ffmpeg is looked at every 20 ms and told apart);
*worker* has the demo model loaded and hears the job's first chunk, of the longest recording the first two, so that
what a chunk leaves behind would show; *stitch* joins the results of all chunks and the speakers and writes the
transcript in every format. Conductor's own join holds keys and numbers only.

In each repetition the lengths come in an order drawn anew, and ratios are taken within it. Chunks are 10 minutes at
every length, the longest that are ever cut: a worker's memory here is the most that a chunk's length can ask for.

Shape: the recording is `hours` of benchmarks/corpus.py, and its beginning. Hearing all of it would take an hour, and
a worker knows nothing of other chunks: so the results of the others are made of the truth (a segment a sentence, each
word with its times and probability), and so are the speakers' turns.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import cache_folder, recording
from benchmarks.memory_part import Task, keys_of
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, interleaved, main, progress, run
from benchmarks.speech import Recorded, Sentence
from workers.errors import EngineError, OptionError
from workers.media import ffmpeg_executable
from workers.messages import (
    Chunk,
    ChunkResult,
    JobKeys,
    SpeakerResult,
    SplitMediaOutput,
    StitchTranscriptInput,
    TranscribeChunkOutput,
)
from workers.storage import Storage
from workers.transcript import Decode, Segment, Speaker, SpeakerTurn, Word

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLAT = 1.1
HOURS = (1.0, 3.0, 10.0)
QUICK_HOURS = (1 / 60, 3 / 60)
CHUNK_SECONDS = 600  # the longest that the product cuts
QUICK_CHUNK_SECONDS = 20
PARTS = ("split", "ffmpeg", "worker", "stitch")
DONE_BY = {"split": "cutting", "ffmpeg": "its ffmpeg", "worker": "a worker", "stitch": "stitching"}


def _measure(options: argparse.Namespace, folder: Path) -> Findings:
    hours = _hours(options)
    whole = recording("hours", Path(options.cache) if options.cache else cache_folder(), options.quick)
    heard = {length: 2 if length == hours[-1] else 1 for length in hours}
    jobs = {f"{length:g}": _Job(length, heard[length], whole, folder, options) for length in hours}
    repetitions: list[dict[str, Any]] = []
    for number, name in interleaved(list(jobs), options.repeat):
        progress(f"{_spoken(float(name))}, repetition {number + 1} of {options.repeat}")
        repetitions += [{"repetition": number, "hours": float(name), **took} for took in jobs[name].run()]
    peaks = {part: {name: _megabytes(repetitions, part, float(name)) for name in jobs} for part in PARTS}
    ratios = {part: _ratios(peaks[part], list(jobs)) for part in PARTS}
    slope = _slope([(float(name), peak) for name in jobs for peak in peaks["stitch"][name]])
    sizes = [size for job in jobs.values() for size in job.bytes_a_word]
    return Findings(
        repetitions=repetitions,
        tables=[_table(repetitions, peaks, ratios, list(jobs))],
        figures={"megabytes": peaks, "ratios": ratios, "stitch_megabytes_an_hour": slope, "bytes_a_word": sizes},
        targets=[_target(part, ratios[part], hours, options.quick) for part in PARTS],
        shows=_shows(peaks, ratios, slope, hours),
    )


def _hours(options: argparse.Namespace) -> tuple[float, ...]:
    if options.quick and not options.hours:
        return QUICK_HOURS
    if not options.hours:
        return HOURS
    try:
        hours = tuple(sorted({float(hour) for hour in options.hours.split(",")}))
    except ValueError:
        hours = ()
    if len(hours) < 2 or not all(0 < hour <= 10 for hour in hours):
        raise OptionError(f"--hours is {options.hours}: write two lengths or more, up to 10, with commas between them.")
    return hours


# ---- a job of one length ----


class _Job:
    """A recording of some length in a folder of its own, whose parts are run one after the other."""

    def __init__(self, hours: float, heard: int, whole: Recorded, folder: Path, options: argparse.Namespace) -> None:
        self.folder = folder / f"{hours:g}h"
        self.folder.mkdir()
        self.bytes_a_word: list[dict[str, float]] = []
        self._until_ms = round(hours * 3_600_000)
        self._truth = tuple(said for said in whole.truth if said.end_ms <= self._until_ms)
        self._made: dict[str, bytes] = {}
        media = self.folder / "recording.flac"
        _cut(whole.path, media, self._until_ms)
        chunk_seconds = QUICK_CHUNK_SECONDS if options.quick else CHUNK_SECONDS
        task = Task(str(media), chunk_seconds, options.threads, heard)
        (self.folder / "task.json").write_text(json.dumps(asdict(task)))

    def run(self) -> list[dict[str, Any]]:
        """Each part's figures; everything that an earlier repetition left is deleted first."""
        if (self.folder / "plan.json").exists():
            context, keys = keys_of(self.folder)
            context.open_storage(context.settings.storage).delete(keys.prefix)
        split = self._part("split")
        worker = self._part("worker")
        self._fill()
        stitch = self._part("stitch")
        ffmpeg = {"part": "ffmpeg", "before": 0, "peak": split["child"], "child": 0, "seconds": split["seconds"]}
        return [split, ffmpeg, worker, stitch]

    def _part(self, name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.memory_part", name, str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineError(f"The benchmark's {name} failed: {done.stderr.strip()[-400:]}")
        return {"part": name, **json.loads(done.stdout.splitlines()[-1])}

    def _fill(self) -> None:
        """Results for the chunks that were not heard, the speakers, and the input of the stitch."""
        context, keys = keys_of(self.folder)
        storage = context.open_storage(context.settings.storage)
        plan = json.loads((self.folder / "plan.json").read_text())
        outputs = {f"chunk_{index}": self._result(storage, keys, index) for index in range(plan["chunk_count"])}
        storage.put_bytes(keys.speaker_result(plan["speakers"]), speakers_of(self._truth).model_dump_json().encode())
        given = StitchTranscriptInput(
            storage=plan["storage"],
            job=plan["job"],
            chunks={name: output.model_dump() for name, output in outputs.items()},
            split=SplitMediaOutput.model_validate_json((self.folder / "split.json").read_bytes()),
            speakers=plan["speakers"],
        )
        (self.folder / "stitch.json").write_text(given.model_dump_json())

    def _result(self, storage: Storage, keys: JobKeys, index: int) -> TranscribeChunkOutput:
        """What was heard; else a result of the same kind, made once of the truth."""
        key = keys.result(index)
        if storage.exists(key):
            result = ChunkResult.model_validate_json(storage.get_bytes(key))
            self._compare_sizes(result)
        else:
            chunk = Chunk.model_validate_json(storage.get_bytes(keys.chunk(index)))
            result = heard_as_said(chunk, self._truth)
            data = self._made.setdefault(key, result.model_dump_json().encode())
            storage.put_bytes(key, data)
        return TranscribeChunkOutput(
            index=index,
            key=key,
            worker=result.worker,
            attempts=1,
            audio_ms=result.chunk.audio.duration_ms,
            words=_words(result),
            seconds=result.seconds,
        )

    def _compare_sizes(self, heard: ChunkResult) -> None:
        made = heard_as_said(heard.chunk, self._truth)
        sizes = {
            name: len(result.model_dump_json()) / _words(result)
            for name, result in (("heard", heard), ("made", made))
            if _words(result)
        }
        self.bytes_a_word.append(sizes)


def _cut(source: Path, to: Path, until_ms: int) -> None:
    command = [ffmpeg_executable(), "-v", "error", "-nostdin", "-i", str(source), "-t", str(until_ms / 1000)]
    done = subprocess.run([*command, "-c:a", "flac", str(to)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EngineError(f"ffmpeg did not cut the recording: {done.stderr.strip()[-300:]}")


def heard_as_said(chunk: Chunk, truth: Sequence[Sentence]) -> ChunkResult:
    """A result as an engine without fault would give it: a segment for each sentence whose middle lies in the core."""
    dice = random.Random(f"probabilities {chunk.index}")
    inside = [said for said in truth if chunk.core.start_ms <= (said.start_ms + said.end_ms) // 2 < chunk.core.end_ms]
    return ChunkResult(
        index=chunk.index,
        chunk=chunk,
        language="en",
        segments=tuple(_segment(said, dice) for said in inside),
        decodes=(Decode(settings={"one_by_one": False, "temperatures": "0.0"}, kept=True, score=0.0),),
        worker="benchmark",
        attempts=1,
        seconds={"fetch": 0.1, "speech": 1.0, "wait": 0.0, "inference": 10.0},
    )


def _segment(said: Sentence, dice: random.Random) -> Segment:
    texts = said.text.split()
    step = (said.end_ms - said.start_ms) / len(texts)
    words = tuple(
        Word(
            start_ms=round(said.start_ms + at * step),
            end_ms=round(said.start_ms + (at + 1) * step),
            text=text,
            probability=dice.uniform(0.5, 1),
        )
        for at, text in enumerate(texts)
    )
    return Segment(start_ms=said.start_ms, end_ms=said.end_ms, text=said.text, words=words)


def speakers_of(truth: Sequence[Sentence]) -> SpeakerResult:
    """A diarizer's answer without fault: a turn for each sentence."""
    turns = tuple(
        SpeakerTurn(start_ms=said.start_ms, end_ms=said.end_ms, speaker=f"SPEAKER_{said.speaker}") for said in truth
    )
    spoken: dict[str, int] = {}
    for turn in turns:
        spoken[turn.speaker] = spoken.get(turn.speaker, 0) + turn.span.duration_ms
    people = tuple(Speaker(name=name, spoken_ms=spoken_ms) for name, spoken_ms in spoken.items())
    return SpeakerResult(turns=turns, exclusive_turns=turns, speakers=people)


def _words(result: ChunkResult) -> int:
    return sum(len(segment.words) for segment in result.segments)


# ---- what it shows ----


def _megabytes(repetitions: Sequence[dict[str, Any]], part: str, hours: float) -> list[float]:
    return [one["peak"] / 1e6 for one in repetitions if (one["part"], one["hours"]) == (part, hours)]


def _ratios(peaks: dict[str, list[float]], names: Sequence[str]) -> list[float]:
    """The longest against the shortest, within each repetition."""
    return [longest / shortest for longest, shortest in zip(peaks[names[-1]], peaks[names[0]], strict=True)]


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """Megabytes for an hour more, by least squares."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope


def _spoken(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return "1 hour" if hours == 1 else f"{hours:g} hours"


def _table(
    repetitions: Sequence[dict[str, Any]],
    peaks: dict[str, dict[str, list[float]]],
    ratios: dict[str, list[float]],
    names: Sequence[str],
) -> Table:
    rows = []
    for part in PARTS:
        for name in names:
            found = peaks[part][name]
            before = [one["before"] / 1e6 for one in repetitions if (one["part"], one["hours"]) == (part, float(name))]
            ratio = statistics.median(ratios[part]) if name == names[-1] else None
            cells = (statistics.median(before), min(found), statistics.median(found), max(found))
            told = [round(cell, 1) if part != "ffmpeg" or at else None for at, cell in enumerate(cells)]
            rows.append((part, _spoken(float(name)), *told, ratio and round(ratio, 3)))
    return Table(
        title="Peak resident memory in MB",
        columns=("part", "audio", "loaded, not begun", "peak min", "peak median", "peak max", "longest : shortest"),
        rows=tuple(rows),
    )


def _target(part: str, ratios: Sequence[float], hours: Sequence[float], quick: bool) -> Target:
    found = statistics.median(ratios)
    told = f"{found:.2f} times" + (", for it holds the whole transcript" if part == "stitch" and found > FLAT else "")
    measured = not quick and (hours[0], hours[-1]) == (HOURS[0], HOURS[-1])
    return Target(
        name=f"memory of {DONE_BY[part]} is flat",
        wanted=f"peak at 10 hours at most {FLAT} times that at 1 hour",
        found=told if measured else f"{told}, of other lengths",
        reached=found <= FLAT if measured else None,
    )


def _shows(
    peaks: dict[str, dict[str, list[float]]], ratios: dict[str, list[float]], slope: float, hours: Sequence[float]
) -> list[str]:
    longest, shortest = _spoken(hours[-1]), _spoken(hours[0])
    told = [
        f"{DONE_BY[part].capitalize()} takes {statistics.median(peaks[part][f'{hours[-1]:g}']):.0f} MB at most for "
        f"{longest}, {statistics.median(ratios[part]):.2f} times what it takes for {shortest}."
        for part in PARTS
    ]
    return [*told, f"Stitching holds the transcript: {slope:.1f} MB for each hour more."]


def _draw(found: Result, figure: "Figure") -> None:
    """A line for each part over the hours."""
    axes = figure.subplots()
    lines: dict[str, dict[str, list[float]]] = found.figures["megabytes"]
    top = 1.1 * max(max(values) for peaks in lines.values() for values in peaks.values())
    labels: dict[str, float] = {}
    for at, (part, peaks) in enumerate(lines.items()):
        hours = [float(name) for name in peaks]
        lowest, highest = [min(each) for each in peaks.values()], [max(each) for each in peaks.values()]
        middle = [statistics.median(values) for values in peaks.values()]
        axes.plot(hours, middle, marker="o", color=f"C{at}")
        axes.fill_between(hours, lowest, highest, color=f"C{at}", alpha=0.2)
        labels[f"{part}: {middle[-1]:.0f} MB"] = middle[-1]
    for at, (text, height) in enumerate(zip(labels, _apart(list(labels.values()), top * 0.05), strict=True)):
        axes.text(hours[-1] * 1.03, height, text, va="center", color=f"C{at}")
    axes.set_xlim(0, hours[-1] * 1.3)
    axes.set_ylim(0, top)
    axes.set_xticks(hours, [_spoken(each) for each in hours])
    axes.set_ylabel("peak resident memory, MB")
    axes.set_xlabel("length of the recording")
    axes.set_title("Peak memory of each part of a job")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """Where labels go that would cover each other: upwards, in their order."""
    placed = list(heights)
    order = sorted(range(len(placed)), key=lambda at: placed[at])
    for lower, upper in pairwise(order):
        placed[upper] = max(placed[upper], placed[lower] + least)
    return placed


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", help="lengths with commas between them, up to 10 (default 1,3,10)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the worker's engine (default 2)")
    parser.add_argument("--cache", help="where the recording is found or kept (default: in your cache folder)")


BENCHMARK = Benchmark(
    name="memory",
    about="Peak resident memory of split, worker and stitch at 1, 3 and 10 hours.",
    measure=_measure,
    draw=_draw,
    caveats=(
        "The worker hears a chunk or two with the small demo model: one of real size takes its weights more.",
        "All results but those are made of the truth, of about the size of heard ones (figures: bytes_a_word).",
        "Clustering the speakers of 10 hours is measured by `whisperfleet bench speakers`.",
        "Resident memory is what the system gave; an allocator keeps some of what was freed.",
    ),
    packages=("faster-whisper", "ctranslate2", "onnxruntime", "pydantic", "numpy", "soundfile"),
    options=_options,
    repeat=3,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
