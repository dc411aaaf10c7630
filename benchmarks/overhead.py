"""Where the time of a job goes, with one worker and the server already up.

    whisperfleet bench overhead [--minutes 94.5] [--rtfx 13] [--paced-minutes 11] [--repeat 3] [--quick]

Measured is the product itself: the real Conductor server (embedded, SQLite), one real `whisperfleet worker` with its
model loaded, and jobs submitted as anybody would. Each millisecond of the wall, from the submission to the end of the
workflow, is counted once: as inference while the engine computes, else as what the engine waited for
(benchmarks/overhead_times.py); what no record explains has a row of its own. Conductor tells when tasks were
scheduled, polled and handed in, the worker how long a chunk was fetched, inferred and stored, and the times of the
files when a chunk and its result were written.

Shape: the beginning of the lecture, twice, through a worker whose engine is a sleep of a measured GPU's length (13
times real time: small.en on an RTX 2080 Ti), all else real; its first ten minutes with speakers, once, for
information; and the whole 94.5 minutes through the demo model, as often as --repeat says, each time from nothing and
submitted at another moment of the worker's polling. Nothing is compared with anything, so nothing is interleaved.
From what a job costs once and what it costs between two chunks follows the share for a long job at any speed.
"""

import argparse
import random
import re
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fleet import Ground, Ran, ground, run_job, wait_until_counted, workers
from benchmarks.overhead_paced import paced_worker
from benchmarks.overhead_times import GROUPS, INFERENCE, PHASES, UNEXPLAINED, Where, Written, grouped, predicted, where
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, main, progress, run
from workers.chunking import BATCHED_MS, plan_cuts
from workers.errors import OptionError
from workers.messages import JobInput
from workers.models import demo_recording
from workers.spans import Span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WANTED = 0.03  # share of the wall
LECTURE_MINUTES = 94.5
LONG_ENOUGH = 94.0  # minutes of a job that the target is about
SPEAKERS_MINUTES = 10.0
QUICK_RTFX = 70.0
DEMO, PACED, SPEAKERS = "demo model", "sleep", "demo model, with speakers"
LOADED = re.compile(r"Loaded \S+ for \S+ in ([\d.]+) s, tried it out in ([\d.]+) s")


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    """Raises OptionError, and what the server or a job fails with."""
    minutes, paced_minutes, rtfx, recording = _wanted(options)
    repetitions: list[dict[str, Any]] = []
    with ground(folder) as on:
        with paced_worker(on, rtfx):
            for number in range(min(2, options.repeat)):
                repetitions.append(_repetition(on, PACED, number, recording, paced_minutes, rtfx=rtfx))
        with workers(on, 1):
            load = _load_seconds(on.home)
            if not options.quick:
                wait_until_counted(on, 1)
                repetitions.append(
                    _repetition(on, SPEAKERS, 0, recording, min(minutes, SPEAKERS_MINUTES), diarize=True)
                )
            for number in range(options.repeat):
                repetitions.append(_repetition(on, DEMO, number, recording, minutes))
    return findings(repetitions, load, rtfx, options.quick)


def _wanted(options: argparse.Namespace) -> tuple[float, float, float, Path]:
    """Minutes of the job, minutes of the one that sleeps, its speed, and the recording."""
    for name in ("minutes", "paced_minutes", "rtfx"):
        if getattr(options, name) <= 0:
            raise OptionError(f"--{name.replace('_', '-')} is {getattr(options, name)}: write more than 0.")
    if options.quick:
        return 1.0, 1.0, QUICK_RTFX, demo_recording()
    from benchmarks.corpus import cache_folder, recording

    return options.minutes, options.paced_minutes, options.rtfx, recording("lecture", cache_folder()).path


def _repetition(
    on: Ground,
    kind: str,
    number: int,
    recording: Path,
    minutes: float,
    diarize: bool = False,
    rtfx: float | None = None,
) -> dict[str, Any]:
    """One job from nothing. The pause before it is drawn, so that it meets the worker's polling anywhere."""
    objects = Path(on.storage) / "jobs"
    shutil.rmtree(objects, ignore_errors=True)
    time.sleep(1 + random.Random(f"{kind} {number}").random())
    end = None if minutes >= LECTURE_MINUTES else str(round(60 * minutes, 3))
    ran = run_job(
        on, JobInput(media=str(recording), model="demo", language="en", diarize=diarize, end=end, storage=on.storage)
    )
    found = analysed(ran, objects)
    audio_ms = _audio_ms(ran)
    progress(
        f"{kind}, {number + 1}: {audio_ms / 60_000:.1f} minutes in {found.wall_ms / 1000:.1f} s, "
        f"{100 * found.not_inference:.1f} % not inference"
    )
    return {
        "kind": kind,
        "number": number,
        "rtfx": rtfx,
        "audio_ms": audio_ms,
        "chunks": len(found.gaps) - 1,
        "wall_ms": found.wall_ms,
        "not_inference": found.not_inference,
        "once_ms": found.once_ms,
        "between_ms": found.between_ms,
        "phases_ms": dict(found.total),
        "gaps_ms": [dict(gap) for gap in found.gaps],
    }


def analysed(ran: Ran, objects: Path) -> Where:
    """Where a finished job's time went; `objects` holds the jobs' folders, with the files as they were written."""
    from workflows.progress import from_workflow

    ended_ms = int(ran.workflow["endTime"])
    view = from_workflow(ran.workflow, ended_ms)
    return where(view, Written(_times(objects, "audio"), _times(objects, "results")), _submitted(ran), ended_ms)


def _submitted(ran: Ran) -> int:
    return min(int(ran.workflow["startTime"]), int(ran.workflow["endTime"]) - round(1000 * ran.seconds))


def _times(objects: Path, kind: str) -> dict[int, int]:
    """When the JSON file of each chunk was written, in epoch milliseconds. A file's time is that of its last byte."""
    return {int(file.stem): round(1000 * file.stat().st_mtime) for file in objects.glob(f"*/{kind}/*.json")}


def _audio_ms(ran: Ran) -> int:
    return sum(
        int((task.get("outputData") or {}).get("audio_ms") or 0)
        for task in ran.workflow["tasks"]
        if task.get("taskDefName") == "transcribe_chunk" and task.get("status") == "COMPLETED"
    )


def _load_seconds(home: Path) -> float:
    """What the worker's log tells of loading and trying out its model, before it took any work."""
    told = [LOADED.search(log.read_text(errors="replace")) for log in sorted(home.glob("workers-*.log"))]
    return sum(float(match[1]) + float(match[2]) for match in told[-1:] if match)


def findings(repetitions: Sequence[dict[str, Any]], load: float, rtfx: float, quick: bool) -> Findings:
    """Tables, figures, targets and sentences from the repetitions."""
    of = {kind: [one for one in repetitions if one["kind"] == kind] for kind in (DEMO, PACED, SPEAKERS)}
    of = {kind: ones for kind, ones in of.items() if ones}
    long_job = _long_job(of, rtfx)
    return Findings(
        repetitions=repetitions,
        tables=(_phase_table(of), _summary_table(of), _load_table(load)),
        figures={
            "kinds": {kind: _figures(ones) for kind, ones in of.items()},
            "load_s": load,
            "long_job": long_job,
            "wanted": WANTED,
        },
        targets=_targets(of[DEMO], long_job, rtfx, quick),
        shows=_shows(of, long_job, load, rtfx),
    )


def median_one(ones: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The repetition in the middle: its parts add up, which medians of parts would not."""
    return sorted(ones, key=lambda one: float(one["not_inference"]))[(len(ones) - 1) // 2]


def _figures(ones: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    middle = median_one(ones)
    return {
        "minutes": round(middle["audio_ms"] / 60_000, 1),
        "wall_ms": middle["wall_ms"],
        "not_inference": middle["not_inference"],
        "groups_ms": grouped(middle["phases_ms"]),
        "chunks": middle["chunks"],
    }


def _long_job(of: Mapping[str, Sequence[Mapping[str, Any]]], rtfx: float) -> dict[str, float]:
    """A 94.5-minute job at `rtfx`, from what jobs were seen to cost once and between two chunks."""
    seen = of[PACED]
    between = [
        length for one in seen for length in one["between_ms"]
    ]  # what fits behind inference depends on its speed
    chunks = len(plan_cuts(Span.of(0, round(60_000 * LECTURE_MINUTES)), "auto", 1, BATCHED_MS)) + 1
    once_ms = statistics.median(one["once_ms"] for one in seen)
    between_ms = float(statistics.median(between)) if between else 0.0
    inference_s = 60 * LECTURE_MINUTES / rtfx
    return {
        "chunks": chunks,
        "once_ms": once_ms,
        "between_ms": between_ms,
        "inference_s": inference_s,
        "not_inference": predicted(inference_s, chunks, once_ms, between_ms),
    }


def _phase_table(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    ones = of[DEMO]
    middle = median_one(ones)
    rows: list[tuple[str | int | float | None, ...]] = []
    for phase, meaning in PHASES.items():
        values = [one["phases_ms"][phase] for one in ones]
        share = round(100 * middle["phases_ms"][phase] / middle["wall_ms"], 2)
        chunk_ms = round(middle["phases_ms"][phase] / max(1, middle["chunks"]))
        rows.append((phase, middle["phases_ms"][phase], min(values), max(values), share, chunk_ms, meaning))
    rows.append(
        (
            "wall",
            middle["wall_ms"],
            min(one["wall_ms"] for one in ones),
            max(one["wall_ms"] for one in ones),
            100.0,
            round(middle["wall_ms"] / max(1, middle["chunks"])),
            "from the submission to the workflow's end",
        )
    )
    return Table(
        title=f"Where {middle['audio_ms'] / 60_000:.1f} minutes through the demo model go, one worker, milliseconds",
        columns=("phase", "middle run", "min", "max", "% of wall", "a chunk", "what it is"),
        rows=tuple(rows),
    )


def _summary_table(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    rows = []
    for kind, ones in of.items():
        shares = [100 * one["not_inference"] for one in ones]
        between = [length for one in ones for length in one["between_ms"]]
        middle = median_one(ones)
        rows.append(
            (
                kind if kind != PACED else f"{kind}, {ones[0]['rtfx']:g} times real time",
                round(middle["audio_ms"] / 60_000, 1),
                middle["chunks"],
                len(ones),
                round(middle["wall_ms"] / 1000, 2),
                round(min(shares), 2),
                round(100 * middle["not_inference"], 2),
                round(max(shares), 2),
                round(statistics.median(one["once_ms"] for one in ones)),
                round(statistics.median(between)) if between else None,
                max(between, default=None),
            )
        )
    return Table(
        title="Not inference",
        columns=(
            *("engine", "minutes", "chunks", "runs", "wall s", "min %", "middle %", "max %"),
            *("once ms", "between chunks ms", "at most"),
        ),
        rows=tuple(rows),
    )


def _load_table(load: float) -> Table:
    return Table(
        title="Once a worker, before it takes any work",
        columns=("what", "seconds"),
        rows=(("model loaded and tried out (as the worker's log tells it)", round(load, 1)),),
    )


def _targets(
    demo: Sequence[Mapping[str, Any]], long_job: Mapping[str, float], rtfx: float, quick: bool
) -> tuple[Target, ...]:
    middle = median_one(demo)
    minutes = middle["audio_ms"] / 60_000
    low, high = (100 * end([one["not_inference"] for one in demo]) for end in (min, max))
    found = f"{100 * middle['not_inference']:.2f} % ({low:.2f} to {high:.2f} of {len(demo)}) on {minutes:.1f} minutes"
    wanted = f"at most {100 * WANTED:.0f} % of the wall"
    return (
        Target(
            name="Not inference, 94.5 minutes, one worker, demo model",
            wanted=wanted,
            found=found,
            reached=middle["not_inference"] <= WANTED if minutes >= LONG_ENOUGH else None,
        ),
        Target(
            name=f"The same at {rtfx:g} times real time, from what a job costs once and between two chunks",
            wanted=wanted,
            found=f"{100 * long_job['not_inference']:.2f} %",
            reached=long_job["not_inference"] <= WANTED if not quick else None,
        ),
    )


def _shows(
    of: Mapping[str, Sequence[Mapping[str, Any]]], long_job: Mapping[str, float], load: float, rtfx: float
) -> tuple[str, ...]:
    middle = median_one(of[DEMO])
    other = {
        group: length for group, length in grouped(middle["phases_ms"]).items() if group != INFERENCE and length > 0
    }
    most = sorted(other, key=lambda group: -other[group])[:3]
    unexplained = max(one["phases_ms"][UNEXPLAINED] / one["wall_ms"] for ones in of.values() for one in ones)
    sentences = [
        f"Of {middle['wall_ms'] / 1000:.1f} s for {middle['audio_ms'] / 60_000:.1f} minutes with one worker and the "
        f"demo model {100 * middle['not_inference']:.2f} % were not inference; most of that was "
        + ", ".join(f"{group} ({other[group] / 1000:.2f} s)" for group in most)
        + ".",
        f"A job costs {long_job['once_ms'] / 1000:.2f} s once (start, first chunk, join, stitch) and "
        f"{long_job['between_ms']:.0f} ms between two chunks: of a 94.5-minute job at {rtfx:g} times real time "
        f"({long_job['inference_s']:.0f} s of inference in {long_job['chunks']:.0f} chunks) "
        f"{100 * long_job['not_inference']:.2f} % would not be inference.",
        f"The model is loaded once a worker, before it takes work: {load:.1f} s for the demo model.",
        f"At most {100 * unexplained:.2f} % of any job's wall is explained by no record.",
    ]
    if SPEAKERS in of:
        told = median_one(of[SPEAKERS])
        sentences.append(
            f"With speakers told apart on the same cores {100 * told['not_inference']:.1f} % of a "
            f"{told['audio_ms'] / 60_000:.0f}-minute job were not inference."
        )
    return tuple(sentences)


COLOURS: Mapping[str, str] = {
    "start": "#7a5195",
    "split": "#bc5090",
    "schedule": "#ef5675",
    "fetch": "#ff9a56",
    "speech": "#ffc94d",
    INFERENCE: "#2f6f9f",
    "store": "#6aa84f",
    "join": "#45818e",
    "stitch": "#274e13",
    "deliver": "#a8bf8f",
    UNEXPLAINED: "#b0b0b0",
}


def draw(found: Result, figure: "Figure") -> None:
    """Above the whole wall, below what of it was not inference, by what the engine waited for."""
    kinds: dict[str, dict[str, Any]] = found.figures["kinds"]
    above, below = figure.subplots(2, 1, height_ratios=(1, 2))
    names = list(reversed(kinds))
    labels = [f"{name}\n{kinds[name]['minutes']:g} min, {_chunks(kinds[name]['chunks'])}" for name in names]
    for axes in (above, below):
        axes.set_yticks(range(len(names)), labels, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for row, name in enumerate(names):
        groups, wall = kinds[name]["groups_ms"], kinds[name]["wall_ms"]
        inference = 100 * groups[INFERENCE] / wall
        above.barh(row, inference, color=COLOURS[INFERENCE], height=0.6)
        above.barh(row, 100 - inference, left=inference, color="#cccccc", height=0.6)
        inside = inference > 25
        at, colour = (1.0, "white") if inside else (inference + 1, "black")
        above.text(at, row, f"inference {inference:.1f} %", va="center", color=colour, fontsize=8)
        left = 0.0
        for group in GROUPS:
            if group != INFERENCE and groups[group]:
                below.barh(row, groups[group] / 1000, left=left, color=COLOURS[group], height=0.6)
                left += groups[group] / 1000
        limit = found.figures["wanted"] * wall / 1000
        below.plot([limit, limit], [row - 0.4, row + 0.4], color="black", linewidth=1.5, linestyle="--")
    above.set_xlim(0, 100)
    above.set_xlabel("% of the wall", fontsize=8)
    below.set_xlabel("seconds that were not inference; dashed: 3 % of the wall", fontsize=8)
    shown = [group for group in GROUPS if group != INFERENCE and any(one["groups_ms"][group] for one in kinds.values())]
    handles = [below.barh(0, 0, color=COLOURS[group], label=group) for group in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(shown), fontsize=8, frameon=False)
    figure.suptitle("Where the time of a job goes, one worker, server up", fontsize=11)


def _chunks(count: int) -> str:
    return f"{count} chunk{'' if count == 1 else 's'}"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--minutes", type=float, default=LECTURE_MINUTES, help="of the lecture, demo model (default 94.5)"
    )
    parser.add_argument("--rtfx", type=float, default=13.0, help="speed of the engine that sleeps (default 13)")
    parser.add_argument(
        "--paced-minutes", type=float, default=11.0, help="of the lecture for it (default 11; 94.5 takes 15 minutes)"
    )


BENCHMARK = Benchmark(
    name="overhead",
    about=__doc__,
    measure=measure,
    draw=draw,
    caveats=(
        "Server, worker, decoder and this program share the machine's cores, so what the split or the server computes "
        "meanwhile lengthens inference and does not count as overhead; beside a GPU the processor is free for it.",
        "The end is the end of the workflow on the server: what somebody who watches sees comes up to a second later.",
        "The worker's seconds, the server's and the file system's times are of one clock but of different places: a "
        "phase of some milliseconds may be its neighbour's.",
    ),
    packages=("faster-whisper", "ctranslate2", "numpy"),
    options=options,
    repeat=3,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
