"""One model with num_workers, several processes, more threads, several devices: what is faster, and what it takes.

    whisperfleet bench workers [--minutes 6] [--product-minutes 4] [--model demo] [--device cpu] [--repeat 5] [--quick]

Three parts, of which the last is SIMULATED:

1. The bare engine (faster-whisper's batched pipeline on CTranslate2, pieces of a minute, each taken by whoever is
   free): `num_workers` N fed by N threads of one process, N processes, and `cpu_threads` T, dividing the same cores in
   different ways, and with more threads than cores. All processes stay loaded between their turns.
2. The product: `whisperfleet worker --processes P --threads T` on the real server; whole jobs, in chunks of a minute,
   so that every division hears the same ones. Workers are started anew each time; starting is not counted.
3. N workers on M devices, simulated (benchmarks/workers_devices.py has the assumptions): how much of a chunk's time is
   the processor's is measured in part 2 (fetch, voice activity), the devices' speed is set by hand.

Everything is interleaved: in each repetition every setting has its turn, in an order drawn anew, and figures are
ratios to one process with one thread in the same repetition. With --device cuda part 1 divides GPUs instead of cores.
"""

import argparse
import os
import shutil
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from benchmarks import workers_devices as devices
from benchmarks.fleet import Ground, ground, run_job
from benchmarks.fleet import workers as product_workers
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, interleaved, main, progress, run
from benchmarks.surroundings import spread
from benchmarks.workers_engine import (
    PIECE_S,
    Engines,
    Setting,
    Work,
    count,
    fastest,
    peak_mb,
    settings_on_cores,
    settings_on_gpus,
)
from workers.errors import OptionError
from workers.messages import JobInput
from workers.models import demo_recording, locate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENGINE, PRODUCT, SIMULATED = "engine", "product", "simulated"
CHUNK_S = 60
SPEEDS = (13.0, 50.0)  # times real time: small.en on an RTX 2080 Ti, and turbo, batched, on a GPU of 2024
CHUNKS = 96  # of 94.5 minutes, a minute each
JITTER = 0.15
WORKERS_ON_DEVICES = ((1, 1), (2, 1), (3, 1), (4, 1), (1, 3), (2, 3), (3, 3), (6, 3))
HALF_FILLED = 0.6


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    """Raises OptionError, and what an engine, the server or a job fails with."""
    from workers.recognizers.loading import compute_type_for

    cores = os.cpu_count() or 1
    settings, recording, minutes, product_minutes = _wanted(options, cores)
    found = str(locate(options.model, "faster-whisper"))
    kind = compute_type_for(options.device, Path(found))
    work = Work(found, options.device, kind, str(recording), max(1, int(minutes * 60) // PIECE_S))
    engine = _bare_engine(settings, work, options.repeat)
    divisions = _divisions(cores, options.quick)
    with ground(folder) as on:
        product = _product(on, divisions, options, recording, product_minutes)
    alone = [one for one in product if one["setting"] == _division(*divisions[0])]  # no other worker on its cores
    host = statistics.median(one["host_s"] / one["audio_s"] for one in alone)
    simulated = _simulated(host, 1 if options.quick else options.repeat)
    return findings(settings, divisions, [*engine, *product, *simulated], host, cores)


def _divisions(cores: int, quick: bool) -> tuple[tuple[int, int], ...]:
    """Processes and threads of each: the first is what the others are compared to."""
    if quick:
        return (1, 1), (2, 1)
    return tuple(dict.fromkeys(((1, 1), (1, cores), (max(1, cores // 4), min(4, cores)), (cores, 1))))


def _wanted(options: argparse.Namespace, cores: int) -> tuple[tuple[Setting, ...], Path, float, float]:
    """The settings of the bare engine, the recording, and how many minutes of it the engine and the product hear."""
    if options.device not in ("cpu", "cuda"):
        raise OptionError(f"--device is '{options.device}': write cpu or cuda.")
    for name in ("minutes", "product_minutes"):
        if not 1 <= getattr(options, name) <= 20:
            raise OptionError(f"--{name.replace('_', '-')} is {getattr(options, name)}: write 1 to 20.")
    settings = settings_on_cores(cores, options.quick)
    if options.device == "cuda":
        import ctranslate2

        gpus = int(ctranslate2.get_cuda_device_count())
        if not gpus:
            raise OptionError("--device cuda, but this machine shows no usable GPU; `whisperfleet doctor` says why.")
        settings = settings_on_gpus(gpus)
    if options.quick:
        return settings, demo_recording(), 1.0, 1.0
    from benchmarks.corpus import cache_folder, recording

    return settings, recording("talk", cache_folder()).path, options.minutes, options.product_minutes


def _bare_engine(settings: Sequence[Setting], work: Work, repeat: int) -> list[dict[str, Any]]:
    by_name = {setting.name: setting for setting in settings}
    repetitions = []
    with ExitStack() as stack:
        progress(f"Loading {sum(setting.processes for setting in settings)} processes of the bare engine")
        engines = {name: stack.enter_context(Engines(setting, work)) for name, setting in by_name.items()}
        for number, name in interleaved(list(by_name), repeat):
            heard = engines[name].hear()
            rtfx = work.pieces * PIECE_S / heard.seconds
            progress(f"engine, {number + 1}: {name}: {rtfx:.0f} times real time")
            repetitions.append(
                {
                    "part": ENGINE,
                    "number": number,
                    "setting": name,
                    "audio_s": work.pieces * PIECE_S,
                    "seconds": heard.seconds,
                    "rtfx": rtfx,
                    "processor_s": heard.processor_seconds,
                    "peak_mb": heard.peak_mb,
                }
            )
    return repetitions


def _product(
    on: Ground, divisions: Sequence[tuple[int, int]], options: argparse.Namespace, recording: Path, minutes: float
) -> list[dict[str, Any]]:
    by_name = {_division(*division): division for division in divisions}
    repetitions = []
    for number, name in interleaved(list(by_name), options.repeat):
        processes, threads = by_name[name]
        extra = ("--device", "cuda") if options.device == "cuda" else ("--device", "cpu")
        job = JobInput(
            media=str(recording),
            model=options.model,
            language="en",
            diarize=False,
            chunk_seconds=CHUNK_S,
            end=str(60 * minutes),
        )
        shutil.rmtree(Path(on.storage) / "jobs", ignore_errors=True)  # or all would be found done
        with product_workers(on, processes, threads, *extra, model=options.model) as pid:
            ran = run_job(on, job)
            peak = sum(peak_mb(child.pid) for child in psutil.Process(pid).children())
        seconds = ran.output["seconds"]
        audio_s = min(60 * minutes, ran.output["duration_ms"] / 1000)
        progress(f"product, {number + 1}: {name}: {audio_s / ran.seconds:.0f} times real time")
        repetitions.append(
            {
                "part": PRODUCT,
                "number": number,
                "setting": name,
                "audio_s": audio_s,
                "seconds": ran.seconds,
                "rtfx": audio_s / ran.seconds,
                "inference_s": seconds.get("inference", 0.0),
                "host_s": seconds.get("fetch", 0.0) + seconds.get("speech", 0.0),
                "peak_mb": peak,
            }
        )
    return repetitions


def _division(processes: int, threads: int) -> str:
    return f"--processes {processes} --threads {threads}"


def _simulated(host: float, repeat: int) -> list[dict[str, Any]]:
    """Jobs of 96 chunks of a minute; a chunk's host part is `host` seconds for a second of audio."""
    repetitions = []
    for number in range(repeat):
        for speed in SPEEDS:
            tasks = devices.chunks(CHUNKS, host * CHUNK_S, CHUNK_S / speed, JITTER, seed=number)
            alone = devices.makespan(devices.Setup(1, 1, overlapped=False), tasks)
            for workers, gpus in WORKERS_ON_DEVICES:
                for way, setup in _ways(workers, gpus).items():
                    seconds = devices.makespan(setup, tasks)
                    repetitions.append(
                        {
                            "part": SIMULATED,
                            "number": number,
                            "setting": f"{workers} on {gpus}",
                            "way": way,
                            "speed": speed,
                            "seconds": seconds,
                            "ratio": alone / seconds,
                        }
                    )
    return repetitions


PLAIN, OVERLAPPED, THREADS, HALF = (
    "one after the other",
    "overlapped",
    "threads of one process",
    f"overlapped, one fills {100 * HALF_FILLED:.0f} %",
)


def _ways(workers: int, gpus: int) -> dict[str, devices.Setup]:
    return {
        PLAIN: devices.Setup(workers, gpus, overlapped=False),
        THREADS: devices.Setup(workers, gpus, overlapped=False, together=True),
        OVERLAPPED: devices.Setup(workers, gpus),
        HALF: devices.Setup(workers, gpus, filled=HALF_FILLED),
    }


def findings(
    settings: Sequence[Setting],
    divisions: Sequence[tuple[int, int]],
    repetitions: Sequence[dict[str, Any]],
    host: float,
    cores: int,
) -> Findings:
    """Tables, figures and sentences from the repetitions of all three parts."""
    engine = ratios(repetitions, ENGINE, settings[0].name)
    product = ratios(repetitions, PRODUCT, _division(*divisions[0]))
    simulated = _simulated_ratios(repetitions)
    return Findings(
        repetitions=repetitions,
        tables=(
            _table("The bare engine: ratio to the first row, in the same repetition", engine, repetitions, ENGINE),
            _table("The product: ratio to the first row, in the same repetition", product, repetitions, PRODUCT),
            *(_simulated_table(simulated, speed) for speed in SPEEDS),
        ),
        figures={
            "cores": cores,
            "engine": engine,
            "product": product,
            "simulated": {f"{speed:g}": simulated[speed] for speed in SPEEDS},
            "host_s_per_audio_s": host,
        },
        targets=_targets(engine, product, settings, divisions),
        shows=(*_engine_shows(settings, engine, repetitions, cores), *_device_shows(simulated, host)),
    )


def ratios(repetitions: Sequence[Mapping[str, Any]], part: str, base: str) -> dict[str, list[float]]:
    """Each setting's speed over that of `base` in the same repetition; settings in the order of the repetition."""
    of = [one for one in repetitions if one["part"] == part]
    bases = {one["number"]: one["rtfx"] for one in of if one["setting"] == base}
    found: dict[str, list[float]] = {base: []}
    for one in of:
        found.setdefault(one["setting"], []).append(one["rtfx"] / bases[one["number"]])
    return found


def _simulated_ratios(repetitions: Sequence[Mapping[str, Any]]) -> dict[float, dict[str, dict[str, list[float]]]]:
    """By speed, by workers on devices, by way."""
    found: dict[float, dict[str, dict[str, list[float]]]] = {}
    for one in repetitions:
        if one["part"] == SIMULATED:
            ways = found.setdefault(one["speed"], {}).setdefault(one["setting"], {})
            ways.setdefault(one["way"], []).append(one["ratio"])
    return found


def _table(title: str, ratio: Mapping[str, list[float]], repetitions: Sequence[Mapping[str, Any]], part: str) -> Table:
    rows = []
    for name, values in ratio.items():
        of = [one for one in repetitions if one["part"] == part and one["setting"] == name]
        processor = [3600 * one["processor_s"] / one["audio_s"] for one in of if "processor_s" in one]
        rows.append(
            (
                name,
                round(min(values), 2),
                round(statistics.median(values), 2),
                round(max(values), 2),
                spread([one["rtfx"] for one in of]),
                round(statistics.median(processor), 1) if processor else None,
                round(max(one["peak_mb"] for one in of)),
            )
        )
    return Table(
        title=title,
        columns=("setting", "min", "median", "max", "RTFx min / median / max", "processor s per h", "peak MB"),
        rows=tuple(rows),
    )


def _simulated_table(simulated: Mapping[float, Mapping[str, Mapping[str, list[float]]]], speed: float) -> Table:
    ways = list(_ways(1, 1))
    return Table(
        title=f"SIMULATED: devices of {speed:g} times real time; ratio to one worker, one after the other (medians)",
        columns=("workers on devices", *ways),
        rows=tuple(
            (name, *(round(statistics.median(found[way]), 2) for way in ways))
            for name, found in simulated[speed].items()
        ),
    )


def _targets(
    engine: Mapping[str, list[float]],
    product: Mapping[str, list[float]],
    settings: Sequence[Setting],
    divisions: Sequence[tuple[int, int]],
) -> tuple[Target, ...]:
    return (
        Target(
            name="Every open question has figures: num_workers, processes, cpu_threads, devices",
            wanted="a ratio for each, from interleaved repetitions",
            found=f"{len(engine)} divisions of the bare engine, {len(product)} of the product, "
            f"{len(WORKERS_ON_DEVICES)} of workers on devices (simulated)",
            reached=len(engine) == len(settings) and len(product) == len(divisions),
        ),
    )


def _engine_shows(
    settings: Sequence[Setting], engine: Mapping[str, list[float]], repetitions: Sequence[Mapping[str, Any]], cores: int
) -> tuple[str, ...]:
    middle = {name: statistics.median(values) for name, values in engine.items()}
    memory = {
        one["setting"]: max(two["peak_mb"] for two in repetitions if two.get("setting") == one["setting"])
        for one in repetitions
        if one["part"] == ENGINE
    }
    best = fastest(settings, middle)
    sentences = [
        f"Fastest of the bare engine's settings here: {best.name}, {middle[best.name]:.2f} times "
        f"{settings[0].name}, with {memory[best.name]:.0f} MB at the peak.",
    ]
    for many, model in _pairs(settings):
        quicker = middle[many.name] / middle[model.name]
        sentences.append(
            f"{many.processes} processes against one model with num_workers {model.workers} "
            f"({count(many.threads, 'thread')} each): {quicker:.2f} times the speed for "
            f"{memory[many.name] / max(1.0, memory[model.name]):.2f} times the memory "
            f"({memory[many.name]:.0f} MB against {memory[model.name]:.0f} MB)."
        )
    threaded = next((one for one in settings if one.processes == one.workers == 1 and one.threads == cores > 1), None)
    if threaded is not None and not threaded.devices and threaded.threads > 1:
        sentences.append(
            f"cpu_threads {threaded.threads} make one worker {middle[threaded.name]:.2f} times as fast as one thread: "
            f"{100 * middle[threaded.name] / threaded.threads:.0f} % of what as many cores could do."
        )
    return tuple(sentences)


def _pairs(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    """Processes and num_workers that divide the same in two ways."""
    return [
        (many, model)
        for many in settings
        for model in settings
        if many.processes == model.workers > 1
        and many.workers == model.processes == 1
        and (many.threads, many.devices) == (model.threads, model.devices)
    ]


def _device_shows(simulated: Mapping[float, Mapping[str, Mapping[str, list[float]]]], host: float) -> tuple[str, ...]:
    slow, fast = SPEEDS

    def ratio(speed: float, setting: str, base: str, way: str) -> float:
        return statistics.median(simulated[speed][setting][way]) / statistics.median(simulated[speed][base][way])

    def three(setting: str, base: str) -> tuple[str, ...]:
        return tuple(f"{ratio(fast, setting, base, way):.2f}" for way in (PLAIN, OVERLAPPED, HALF))

    six, second, fourth = three("6 on 3", "3 on 3"), three("2 on 1", "1 on 1"), three("4 on 1", "1 on 1")
    return (
        f"Beside the device a second of audio takes {1000 * host:.1f} ms of a core (fetch and voice activity, measured "
        f"in the product): {100 * host * slow:.0f} % of a device's time at {slow:g} times real time, "
        f"{100 * host * fast:.0f} % at {fast:g}.",
        f"Simulated, 6 workers on 3 devices against 3 on 3, at {fast:g} times real time: {six[0]} times as fast where "
        f"a worker prepares and computes one after the other, {six[1]} times where the next chunk is prepared "
        f"meanwhile, as Whisperfleet does, and {six[2]} times where, besides, one worker alone fills only "
        f"{100 * HALF_FILLED:.0f} % of a device.",
        f"Simulated, a second worker on one device: {second[0]}, {second[1]} and {second[2]} times as fast as one, in "
        f"the same order; four: {fourth[0]}, {fourth[1]} and {fourth[2]}.",
    )


BLUE, ORANGE, GREEN, GREY = "#2f6f9f", "#d9822b", "#6aa84f", "#9a9a9a"


def draw(found: Result, figure: "Figure") -> None:
    """What the same cores do, divided in different ways; beside it, simulated, workers on devices."""
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    measured = [*_bars(found.figures["engine"], "", BLUE), *_bars(found.figures["product"], "", GREEN)]
    _draw_measured(left, measured, found.figures["cores"])
    _draw_simulated(right, found.figures["simulated"][f"{SPEEDS[1]:g}"])
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=7, frameon=False)


def _bars(ratio: Mapping[str, list[float]], prefix: str, colour: str) -> list[tuple[str, list[float], str]]:
    return [(prefix + name, values, colour) for name, values in ratio.items()]


def _draw_measured(axes: Any, bars: Sequence[tuple[str, list[float], str]], cores: int) -> None:
    for row, (_, values, colour) in enumerate(bars):
        middle = statistics.median(values)
        axes.barh(row, middle, color=colour, height=0.65)
        axes.plot([min(values), max(values)], [row, row], color="black", linewidth=1)
        axes.text(max(values) + 0.04, row, f"{middle:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, _, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(max(values) for _, values, _ in bars))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("times one process with one thread (line: min to max)", fontsize=8)
    axes.set_title(f"Measured, {cores} cores: bare engine blue, product green", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_simulated(axes: Any, settings: Mapping[str, Mapping[str, list[float]]]) -> None:
    ways = ((PLAIN, GREY), (OVERLAPPED, BLUE), (HALF, ORANGE))
    height = 0.8 / len(ways)
    for row, found in enumerate(settings.values()):
        for number, (way, colour) in enumerate(ways):
            middle = statistics.median(found[way])
            at = row + (number - 1) * height
            axes.barh(at, middle, color=colour, height=height, label=way if not row else None)
            axes.text(middle + 0.05, at, f"{middle:.2f}", va="center", fontsize=6)
    names = [
        f"{count(int(workers), 'worker')}, {count(int(gpus), 'device')}"
        for workers, _, gpus in map(str.split, settings)
    ]
    axes.set_yticks(range(len(settings)), names, fontsize=7)
    axes.invert_yaxis()
    most = max(statistics.median(found[way]) for found in settings.values() for way, _ in ways)
    axes.set_xlim(0, 1.15 * most)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("times one worker, one after the other", fontsize=8)
    axes.set_title(f"SIMULATED, {SPEEDS[1]:g} × real time", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=6.0, help="of the talk for the bare engine (default 6)")
    parser.add_argument("--product-minutes", type=float, default=4.0, help="of the talk for the product (default 4)")
    parser.add_argument("--model", default="demo", help="name or folder (default demo)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")


BENCHMARK = Benchmark(
    name="workers",
    about=__doc__,
    measure=measure,
    draw=draw,
    caveats=(
        "The demo model is small (16 MB): with a large one computing weighs more against Python's own work, which "
        "num_workers' threads share, and another process costs another model's memory.",
        "Peak memory is resident memory, summed: pages that processes share (libraries) are counted for each.",
        "The product's figures have a whole job in them: plan, split, join and stitch, on the same cores; and its "
        "workers work for each other's benefit: a second process splits while the first one hears.",
        "The devices are simulated, with fair sharing, no contention for memory bandwidth, and no limit of memory; "
        "only the processor's part of a chunk is measured.",
    ),
    packages=("faster-whisper", "ctranslate2", "numpy"),
    options=options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
