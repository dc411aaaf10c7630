"""Weights of real size: how fast each engine is with them, and how near the worker comes to the bare engine.

    whisperfleet bench engines [--shapes base,small] [--device cpu] [--minutes 4] [--batches 1,8] [--processes 1,2]

The models have the shape of published ones and random weights, and say the same 112 tokens of every window of up to
30 s (benchmarks/weights.py): speed and memory are those of the real ones, no hub is needed, and nobody is slowed down
by text that looks wrong. So only speed is measured here; `bench peers` and `bench accuracy` tell what is heard.

* faster-whisper one window after the other, and batched with its own voice activity detection and windows;
* the bare engine: the same pipeline, given the windows that the worker plans of the whole recording, so that it looks
  for no speech; with as many at once as the worker takes, and in several processes on the same device and cores;
* openai-whisper, where it is installed;
* the worker: a job through the real Conductor server and one `whisperfleet worker`. Its rate counts from the first
  chunk at the engine to the last result in storage; the whole job is told beside it.

Each is a process of its own, started anew, its model loaded and warm, in an order drawn anew in each repetition; a
ratio is of two of one repetition. With --device cuda all of it is on the GPU, with float16.
"""

import argparse
import importlib.util
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import weights
from benchmarks.engines_tables import BARE, OPENAI, WORKER, draw, findings
from benchmarks.fleet import Ground, ground, run_job, wait_until_counted, workers
from benchmarks.overhead import analysed
from benchmarks.peers_fleet import server_pid
from benchmarks.peers_process import Peer, Watch, running
from benchmarks.runner import Benchmark, Findings, interleaved, main, progress, run
from workers.errors import EngineError, JobError, OptionError
from workers.messages import JobInput
from workers.models import demo_recording, folder_bytes
from workers.recognizers.loading import compute_type_for
from workers.recognizers.memory import batch_for, free_mib
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span

BEAM = 5
WARM_S = 5  # of speech, heard before anything is measured
WARM = (Span.of(0, 1000),)
SHAPES = {"cpu": "base,small", "cuda": "turbo,large-v3"}
BATCHES = {"cpu": "1,8", "cuda": "1,8,16,32"}
PROCESSES = {"cpu": "1,2", "cuda": "1,2,4"}
MINUTES = {"cpu": 4.0, "cuda": 30.0}
LIMIT_S = 600.0


@dataclass(frozen=True)
class Way:
    """How a model is used: `engine` as peers_run has it, so many windows at once, so many processes."""

    name: str
    engine: str
    batch: int = 1
    processes: int = 1


@dataclass(frozen=True)
class Sound:
    """The recording as a FLAC file, its start for warming up, and the worker's windows of each, in seconds."""

    path: Path
    warm: Path
    seconds: float
    windows: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Model:
    """A written model; batch: windows at once where nobody says."""

    shape: str
    folder: Path
    compute_type: str
    batch: int


def _measure(options: argparse.Namespace, folder: Path) -> Findings:
    shapes, batches, processes = _wanted(options)
    sound = _sound(options, folder)
    rows: list[dict[str, Any]] = []
    with ground(folder) as on:
        for shape in shapes:
            with _model(shape, options.device, folder) as model:
                ways = {way.name: way for way in _ways(model, batches, processes, options.quick)}
                for number, name in interleaved(list(ways), options.repeat):
                    rows.append(_row(on, model, ways[name], number, sound, options))
    return findings(rows, options.device, options.quick)


def _wanted(options: argparse.Namespace) -> tuple[list[str], list[int], list[int]]:
    """Shapes, batches, processes. What was not given is set by the device, and so written down. Raises OptionError."""
    if options.device not in SHAPES:
        raise OptionError(f"--device is '{options.device}': write cpu or cuda.")
    if options.device == "cuda":
        import ctranslate2

        if not ctranslate2.get_cuda_device_count():
            raise OptionError("--device cuda, but this machine shows no usable GPU; `whisperfleet doctor` says why.")
    options.shapes = options.shapes or ("tiny" if options.quick else SHAPES[options.device])
    options.batches = options.batches or ("2" if options.quick else BATCHES[options.device])
    options.processes = options.processes or ("1" if options.quick else PROCESSES[options.device])
    if options.minutes is None:
        options.minutes = 0.5 if options.quick else MINUTES[options.device]
    shapes = [name.strip() for name in options.shapes.split(",")]
    for name in shapes:
        if name not in weights.SHAPES:
            raise OptionError(f"--shapes has '{name}': take of {', '.join(weights.SHAPES)}.")
    for name in ("minutes", "limit"):
        if getattr(options, name) <= 0:
            raise OptionError(f"--{name} is {getattr(options, name):g}: write more than 0.")
    return shapes, _numbers("batches", options.batches), _numbers("processes", options.processes)


def _numbers(name: str, given: str) -> list[int]:
    try:
        numbers = [int(one) for one in given.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise OptionError(f"--{name} is '{given}': write whole numbers from 1 with commas between, such as 1,8.")
    return numbers


def _sound(options: argparse.Namespace, folder: Path) -> Sound:
    import soundfile

    from workers.recognizers.windows import plan_windows, speech_of

    path = Path(options.recording) if options.recording else _recording(options.quick)
    try:
        audio, rate = soundfile.read(path, stop=round(60 * options.minutes * SAMPLE_RATE), dtype="float32")
    except (OSError, RuntimeError) as error:
        raise OptionError(f"--recording {path} cannot be read: give a FLAC, WAV or mp3 file.") from error
    if rate != SAMPLE_RATE or audio.ndim != 1:
        raise OptionError(f"--recording {path} is not mono with {SAMPLE_RATE} samples a second: convert it first.")
    speech = speech_of(audio)
    if not speech:
        raise OptionError(f"--recording {path} has no speech: give one that has.")
    warm = audio[speech[0].start_ms * SAMPLES_PER_MS :][: WARM_S * SAMPLE_RATE]
    files = (folder / "recording.flac", folder / "warm.flac")
    windows = {}
    for file, part, planned in zip(files, (audio, warm), (plan_windows(audio, speech), WARM), strict=True):
        soundfile.write(file, part, rate, format="FLAC", subtype="PCM_16")
        windows[str(file)] = [(span.start_ms / 1000, span.end_ms / 1000) for span in planned]
    return Sound(files[0], files[1], len(audio) / rate, windows)


def _recording(quick: bool) -> Path:
    if quick:
        return demo_recording()
    from benchmarks.corpus import cache_folder, recording

    return recording("lecture", cache_folder()).path


@contextmanager
def _model(shape: str, device: str, folder: Path) -> Iterator[Model]:
    """Written for as long as it is measured: large-v3 takes 6 GB."""
    progress(f"{shape}: writing weights")
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{shape}-") as place:
        path = Path(place)
        weights.write(shape, path)
        yield Model(shape, path, compute_type_for(device, path), batch_for(device, 0, folder_bytes(path)))


def _ways(model: Model, batches: Sequence[int], processes: Sequence[int], quick: bool) -> Iterator[Way]:
    yield Way("faster-whisper", "faster-whisper")
    for batch in batches:
        yield Way(f"faster-whisper, batches of {batch}", "faster-whisper-batched", batch)
    yield Way(BARE, "faster-whisper-windows", model.batch)
    for count in processes:
        if count > 1:
            yield Way(f"{BARE}, {count} processes", "faster-whisper-windows", model.batch, count)
    if not quick and importlib.util.find_spec("whisper") is not None:
        yield Way(OPENAI, OPENAI)
    yield Way(WORKER, WORKER, model.batch)


def _row(on: Ground, model: Model, way: Way, number: int, sound: Sound, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, or why there is none: the device's memory, say, does not hold four processes."""
    row = {"shape": model.shape, "way": way.name, "number": number, "batch": way.batch, "processes": way.processes}
    try:
        if way.engine == WORKER:
            row |= _worker(on, model, sound, options.device)
        else:
            row |= _bare(model, way, sound, options)
    except (EngineError, JobError) as error:
        progress(f"{model.shape}, {way.name}: {error}")
        return {**row, "rtfx": None, "failure": str(error)}
    progress(f"{number + 1}: {model.shape}, {way.name}: {row['rtfx']:.1f} times real time")
    return row


def _bare(model: Model, way: Way, sound: Sound, options: argparse.Namespace) -> dict[str, Any]:
    """So many processes that hear the whole recording each, at once."""
    cores = os.cpu_count() or 1
    wish = {
        "engine": way.engine,
        "model": str(model.folder),
        "openai_model": str(model.folder / weights.OPENAI),
        "threads": max(1, cores // way.processes) if options.device == "cpu" else cores,
        "batch": way.batch,
        "beam": BEAM,
        "language": "en",
        "packages": (),
        "compute_type": model.compute_type,
        "device": options.device,
        "windows": sound.windows,
        "passive": True,
    }
    free = _free(options.device)
    with ExitStack() as stack:
        peers = [stack.enter_context(running(None, wish, sound.path.parent / "logs")) for _ in range(way.processes)]
        for peer in peers:
            peer.transcribe([sound.warm], False, options.limit)
        with Watch({str(at): peer.pid for at, peer in enumerate(peers)}) as watch:
            answers = _together(peers, sound.path, options.limit)
        began, ended = min(one["began"] for one in answers), max(one["ended"] for one in answers)
        costs = [watch.cost(str(at), began, ended) for at in range(len(peers))]
        gpu_mib = _taken(free, options.device)
    words = [sum(len(part["text"].split()) for part in one["recordings"][0]) for one in answers]
    audio_s = sound.seconds * way.processes
    return {
        "rtfx": audio_s / (ended - began),
        "windows": round(words[0] / weights.WORDS_A_WINDOW),
        "processor_s_per_hour": 3600 * sum(cost.processor_s for cost in costs) / audio_s,
        "peak_mib": sum(cost.peak_mib for cost in costs),
        "gpu_mib": gpu_mib,
    }


def _together(peers: Sequence[Peer], path: Path, limit_s: float) -> list[dict[str, Any]]:
    """Each one's answer. Raises the first one's EngineError."""
    answers: list[dict[str, Any]] = []
    failed: list[EngineError] = []

    def ask(peer: Peer) -> None:
        try:
            answers.append(peer.transcribe([path], False, limit_s))
        except EngineError as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(peer,), daemon=True) for peer in peers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return answers


def _worker(on: Ground, model: Model, sound: Sound, device: str) -> dict[str, Any]:
    """A job from nothing through one worker with all cores as threads, alone on the server."""
    objects = Path(on.storage) / "jobs"
    shutil.rmtree(objects, ignore_errors=True)

    def job(media: Path) -> JobInput:
        return JobInput(
            media=str(media),
            model=str(model.folder),
            language="en",
            beam_size=BEAM,
            word_timestamps=False,
            diarize=False,
            formats=("json",),
        )

    free = _free(device)
    with workers(on, 1, os.cpu_count() or 1, "--device", device, model=str(model.folder)) as pid:
        wait_until_counted(on, 1)
        run_job(on, job(sound.warm))
        shutil.rmtree(objects)
        with Watch({WORKER: pid, "server": server_pid(on)}) as watch:
            ran = run_job(on, job(sound.path))
        ended = int(ran.workflow["endTime"]) / 1000
        cost, server = (watch.cost(name, ended - ran.seconds, ended) for name in (WORKER, "server"))
        gpu_mib = _taken(free, device)
    found = analysed(ran, objects)
    return {
        "rtfx": sound.seconds / ((found.wall_ms - found.once_ms) / 1000),
        "job_rtfx": sound.seconds / (found.wall_ms / 1000),
        "inference_rtfx": sound.seconds / (found.inference_ms / 1000),
        "chunks": len(found.gaps) - 1,
        "windows": round(ran.output["words"] / weights.WORDS_A_WINDOW),
        "processor_s_per_hour": 3600 * cost.processor_s / sound.seconds,
        "server_s_per_hour": 3600 * server.processor_s / sound.seconds,
        "peak_mib": cost.peak_mib,
        "gpu_mib": gpu_mib,
    }


def _free(device: str) -> int | None:
    """MiB of the GPU; None where it is none, or does not tell."""
    return free_mib(0) if device == "cuda" else None


def _taken(before: int | None, device: str) -> int | None:
    left = _free(device)
    return None if before is None or left is None else before - left


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", help=f"of {', '.join(weights.SHAPES)} (default {SHAPES['cpu']}; GPU {SHAPES['cuda']})"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--recording", help="mono, 16,000 samples a second (default: the corpus's lecture)")
    parser.add_argument("--minutes", type=float, help="of it to take (default 4; GPU 30)")
    parser.add_argument("--batches", help="of faster-whisper's own pipeline (default 1,8; GPU 1,8,16,32)")
    parser.add_argument("--processes", help="of the bare engine (default 1,2; GPU 1,2,4)")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help=f"seconds for each (default {LIMIT_S:g})")


BENCHMARK = Benchmark(
    name="engines",
    about=__doc__,
    measure=_measure,
    draw=draw,
    caveats=(
        "The weights are random: speed and memory are those of the shape, and nothing is heard. Real text of real "
        "weights has more or fewer than 112 tokens a window, and some of it is heard again.",
        "openai-whisper decodes greedily, as its function does by default; the others search with a beam of 5.",
        "The bare engines' waiting threads sleep, as the worker's soon do; their libraries would let them spin.",
        "The worker's rate leaves out what a job costs once (start, first chunk, join, stitch): the whole job has it.",
        "Several processes hear the recording once each, so their rate has no end at which one waits for another.",
    ),
    packages=("faster-whisper", "ctranslate2", "openai-whisper", "torch"),
    options=_options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
