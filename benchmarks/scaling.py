"""Speedup and efficiency from 1 to 64 workers, on the real server and the real workflow; inference is a sleep.

    python -m benchmarks.scaling [--quick] [--workers 1,2,4,8,16,32,64] [--faults-at 16] [--format mp3]

A job is all that it is for a user: plan, split, fetch, store, join, stitch, through the embedded Conductor server, and
the workers are processes with the product's own lanes. Only the recognizer, and the voice activity before it, wait
instead of computing (see benchmarks/simulated.py): 13 s of audio in a second, small.en on an RTX 2080 Ti, where
openai-whisper heard one window after the other; so the chunk plan is that for such an engine.

The reference is the ideal and not a measured run with one worker: `audio seconds / 13 / workers`, as if nothing but
inference took any time. Efficiency is that over the wall time from the submission to the job's end, speedup is the
efficiency times the workers. That is stricter: what one worker loses counts here too.

Fewer than eight workers get so much less of the recording that their job takes as long as eight workers need for
all of it (--whole: they get all of it, which takes 13 minutes more); what is lost at its beginning and end is then as
large a part as it is for eight. They run --repeat-long times, the others --repeat times. In each repetition the fleets
grow, from few workers to many, since the server counts a worker that left for 20 s more, and the plan with it.

Variants, with --faults-at workers: *jitter*, each chunk takes a log-normal factor (sigma 0.2) longer or shorter;
*slow*, a tenth of the workers has half the speed; *killed*, 30 % of them are ended by SIGKILL halfway, and others come
--boot seconds later. Their ideal is that of the capacity that was there (benchmarks/scaling_times.py).
"""

import argparse
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks import scaling_tables as tables
from benchmarks.fleet import Ground, Ran, ground, run_job
from benchmarks.runner import Benchmark, Findings, main, progress, run
from benchmarks.scaling_times import capacity_with_kills, ideal_seconds, killed_of, times_of
from benchmarks.simulated import ENGINE, MODEL, SPEED, Simulated
from benchmarks.simulated_fleet import SimulatedFleet, media_worker, simulated_fleet, tree_seconds, wiped
from workers.errors import OptionError
from workers.media import ffmpeg_executable
from workers.messages import JobInput, JobKeys
from workers.settings import Settings
from workers.spans import clock

FEW = 8  # fewer workers get less of the recording
JITTER = 0.2
SLOW_SHARE, SLOWER = 0.1, 0.5
KILLED_SHARE = 0.3
PLAIN, JITTERY, SLOW, KILLED = "plain", "jitter", "slow", "killed"
SETTLED_S = 5.0  # an idle worker looks the less often the more there are, and counts them after three seconds
QUICK_WORKERS, QUICK_SPEED, QUICK_S, QUICK_BOOT_S = "1,2,4", 60.0, 240, 1.0


@dataclass(frozen=True)
class Case:
    """What is run. audio_s: how much of the recording, from its beginning."""

    workers: int
    variant: str
    audio_s: float

    @property
    def name(self) -> str:
        return f"{self.workers} {self.variant}"


@dataclass(frozen=True)
class Stage:
    """All that runs meanwhile, and what it may spend."""

    on: Ground
    fleet: SimulatedFleet
    media: psutil.Process
    server: psutil.Process
    recording: Path

    def spent(self) -> dict[str, float]:
        """Processor seconds so far."""
        return {
            "server": tree_seconds(self.server),
            "media": tree_seconds(self.media),
            "workers": self.fleet.processor_seconds(),
        }


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    recording, audio_s = _recording(options, folder)
    cases = _cases(options, audio_s)
    found = []
    with _stage(folder, recording) as stage:
        _once(stage, Case(1, PLAIN, min(60.0, audio_s)), options, -1)  # models and the server's code are loaded
        for number, case in _in_turn(cases, options):
            row = _once(stage, case, options, number)
            progress(
                f"{case.name}: {row['seconds']:.1f} s, ideal {row['ideal_s']:.1f} s, {row['efficiency']:.3f} of it used"
            )
            found.append(row)
    return Findings(
        repetitions=found,
        tables=tables.tables(found),
        figures=tables.figures(found),
        shows=tables.shows(found),
        targets=tables.targets(found),
    )


def _in_turn(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[tuple[int, Case]]:
    """Each case once in each repetition, small fleets before large ones; variants of one size in turns."""
    for number in range(max(options.repeat, options.repeat_long)):
        ordered = sorted(cases, key=lambda case: (case.workers, (hash_of(case.variant) + number) % 4))
        for case in ordered:
            if number < (options.repeat_long if case.workers < FEW and not options.quick else options.repeat):
                yield number, case


def hash_of(variant: str) -> int:
    return (PLAIN, JITTERY, SLOW, KILLED).index(variant)


def _cases(options: argparse.Namespace, audio_s: float) -> list[Case]:
    cases = []
    for workers in options.workers:
        share = 1.0 if options.whole or options.quick else min(1.0, workers / FEW)
        cases.append(Case(workers, PLAIN, audio_s * share))
    if options.quick:
        return [*cases, Case(max(options.workers), KILLED, audio_s)]
    return [*cases, *(Case(size, kind, audio_s) for size in options.faults_at for kind in (JITTERY, SLOW, KILLED))]


def _once(stage: Stage, case: Case, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """One job with a fresh fleet and fresh storage: how long it took, and where the time went."""
    fleet = stage.fleet
    fleet.kill(list(fleet.names))
    wiped(Path(stage.on.storage))
    slow = killed_of(case.workers, SLOW_SHARE) if case.variant == SLOW else 0
    crew = [
        Simulated(
            name=f"simulated-{place}",
            speed=options.speed * (SLOWER if place < slow else 1.0),
            jitter=JITTER if case.variant == JITTERY else 0.0,
            seed=number,
        )
        for place in range(case.workers)
    ]
    fleet.start(crew)
    fleet.wait_until_seen()
    if not options.quick:
        time.sleep(SETTLED_S)
    work_s = case.audio_s / options.speed
    halfway_s = work_s / case.workers / 2
    doomed = crew[: killed_of(case.workers, KILLED_SHARE)] if case.variant == KILLED else []
    job = JobInput(
        media=str(stage.recording),
        model=MODEL,
        engine=ENGINE,
        language="en",
        diarize=False,
        end=clock(round(case.audio_s * 1000)),
    )
    before = stage.spent()
    with _killing(fleet, doomed, halfway_s, options.boot):
        ran = run_job(stage.on, job)
        after = stage.spent()
    heard = fleet.inferences(since=float(ran.workflow["endTime"]) / 1000 - ran.seconds)
    done = [one for one in heard if one.ended is not None]
    drawn = sum(one.audio_s * one.factor for one in done) / sum(one.audio_s for one in done)
    capacity: list[tuple[float, float]] = [(0.0, case.workers - slow * (1 - SLOWER))]
    if doomed:
        capacity = capacity_with_kills(case.workers, len(doomed), halfway_s, options.boot)
    ideal_s = ideal_seconds(work_s * drawn, capacity)
    return {
        "case": case.name,
        "workers": case.workers,
        "variant": case.variant,
        "repetition": number,
        "audio_s": case.audio_s,
        "seconds": round(ran.seconds, 3),
        "ideal_s": round(ideal_s, 3),
        "efficiency": round(ideal_s / ran.seconds, 4),
        "speedup": round(work_s * drawn / ran.seconds, 3),
        "chunks": ran.output["chunks"],
        "lost_inferences": len(heard) - len(done),
        "attempts": sum(task["taskDefName"] == "transcribe_chunk" for task in ran.workflow["tasks"]),
        "processor_s": {name: round(after[name] - before[name], 2) for name in after},
        "processor_available_s": round(ran.seconds * (os.cpu_count() or 1), 2),
        "times": times_of(
            ran.workflow, float(ran.workflow["endTime"]) / 1000 - ran.seconds, _cut(stage, ran), heard, case.workers
        ).as_dict(),
    }


def _cut(stage: Stage, ran: Ran) -> list[float]:
    """When each chunk's record came into storage."""
    folder = Path(stage.on.storage) / JobKeys(ran.output["job"]).chunk(0)
    return [path.stat().st_mtime for path in folder.parent.glob("*.json")]


@contextmanager
def _killing(fleet: SimulatedFleet, doomed: Sequence[Simulated], at_s: float, boot_s: float) -> Iterator[None]:
    """In this block, counted from its beginning: end the doomed at `at_s`, put others in their place."""
    failed: list[Exception] = []

    def kill() -> None:
        try:
            time.sleep(at_s)
            fleet.kill([worker.name for worker in doomed])
            time.sleep(boot_s)
            fleet.start(doomed)
        except Exception as error:  # told where somebody waits for it
            failed.append(error)

    thread = threading.Thread(target=kill, daemon=True)
    if doomed:
        thread.start()
    yield
    if doomed:
        thread.join()
    if failed:
        raise failed[0]


@contextmanager
def _stage(folder: Path, recording: Path) -> Iterator[Stage]:
    from provisioning import conductor

    with ground(folder) as on:
        settings = Settings(home=on.home, server=None, storage=on.storage, s3_endpoint=None, ui=None, server_jar=None)
        server = psutil.Process(conductor.status(settings).pid)
        with media_worker(on) as media, simulated_fleet(on) as fleet:
            yield Stage(on, fleet, media, server, recording)


def _recording(options: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """The lecture in the format that was asked for, and its length in seconds."""
    from benchmarks.corpus import cache_folder, encoded, recording

    lecture = recording("lecture", cache_folder(), quick=options.quick)
    if options.quick:  # a minute of it again and again
        path = folder / f"lecture.{options.format}"
        again = [
            "-v",
            "error",
            "-nostdin",
            "-stream_loop",
            "-1",
            "-i",
            str(lecture.path),
            "-t",
            str(QUICK_S),
            str(path),
        ]
        subprocess.run([ffmpeg_executable(), *again], check=True)
        return path, float(QUICK_S)
    return encoded(lecture, options.format, cache_folder()), lecture.duration_ms / 1000


def _numbers(text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",") if part})
    except ValueError:
        numbers = [0]
    if any(not 1 <= number <= 64 for number in numbers):
        raise OptionError(f"'{text}' is no list of workers: write numbers from 1 to 64 with commas between them.")
    return numbers


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", default="1,2,4,8,16,32,64", help="sizes of the fleet (default 1,2,4,8,16,32,64)")
    parser.add_argument("--faults-at", default="16", help="sizes with jitter, slow and killed workers (default 16)")
    parser.add_argument("--repeat-long", type=int, default=1, help="repetitions with fewer than 8 workers (default 1)")
    parser.add_argument("--whole", action="store_true", help="fewer than 8 workers get the whole recording, too")
    parser.add_argument("--speed", type=float, help=f"seconds of audio a worker hears in one (default {SPEED:g})")
    parser.add_argument("--boot", type=float, help="seconds from a kill to the worker in its place (default 10)")
    parser.add_argument("--format", choices=("flac", "mp3"), default="flac", help="of the recording (default flac)")


def _checked(options: argparse.Namespace, folder: Path) -> Findings:
    """The defaults depend on --quick. Raises OptionError."""
    options.workers = _numbers(QUICK_WORKERS if options.quick else options.workers)
    options.faults_at = _numbers("" if options.quick else options.faults_at)
    options.speed = options.speed or (QUICK_SPEED if options.quick else SPEED)
    options.boot = options.boot if options.boot is not None else (QUICK_BOOT_S if options.quick else 10.0)
    if options.speed <= 0 or options.boot < 0 or options.repeat_long < 0:
        raise OptionError("--speed is a number above 0, --boot and --repeat-long are none below it.")
    return measure(options, folder)


BENCHMARK = Benchmark(
    name="scaling",
    about="Speedup and efficiency from 1 to 64 workers on the real server; inference is a sleep.",
    measure=_checked,
    draw=tables.draw,
    caveats=(
        "Inference is a sleep: a real GPU hears short chunks less efficiently than long ones (its batches are not "
        "full) and is disturbed by what else its machine does; neither is in these figures.",
        "The voice activity before the inference is a sleep of 3 ms for each second of audio, too.",
        "Server, splitter and all workers share this machine's cores and one folder: no network and no object store "
        "is between them. The more workers, the more it is this machine that is measured.",
        "The reference is an ideal without any loss, not a run with one worker: all efficiencies are a little lower "
        "than they would be against that.",
        "The model is taken for loaded: what a worker needs to start is in --boot and nowhere else.",
    ),
    packages=("whisperfleet", "conductor-python", "numpy", "soundfile", "psutil"),
    options=_options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
