"""Whisperfleet beside openai-whisper, faster-whisper, whisperX and whisperX on Ray: same weights, cores, recordings.

Each peer is a process of its own with its model loaded; Whisperfleet is the real Conductor server with one worker that
has all cores as threads, and with workers of one thread each. Measured is the wall time of one long recording and
of ten short ones: all ten are submitted to Whisperfleet at once, the peers take them one after the other, as their
users' scripts do, and Ray pipelines them. Loading and starting is told apart and in no ratio. One repetition measures
everybody once, in an order drawn anew, and a ratio is of two walls of one repetition: above 1 Whisperfleet is ahead.

The condition is the same for all: English, no speakers, no word times (whisperX has none without the alignment
models of the hub), beam 5 and the compute type that Whisperfleet chooses, each peer with its own voice activity
detection and whether its text has time stamps as it is by default. Word times are looked at in a pass of its own.
openai-whisper decodes greedily, as its function does by default, hears an excerpt and less often: it is compared by
audio seconds per wall second. Every Whisperfleet job begins with empty storage, as results are found again by content.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fleet import Ground, ground, wait_until_counted
from benchmarks.peers_environment import PYTHON, WHISPERX_BATCH, absence, default_folder, make, python_of
from benchmarks.peers_fleet import Fleet, fleet, transcribe
from benchmarks.peers_process import Peer, TooSlow, Watch, running
from benchmarks.peers_scores import Heard, of_answer, time_errors, word_errors
from benchmarks.peers_tables import LONG, OURS, RAY, SHORT, Measured, draw, findings
from benchmarks.runner import Benchmark, Findings, interleaved, main, progress, run
from benchmarks.speech import Recorded
from workers.errors import EngineError, OptionError
from workers.models import demo_folder, demo_recording
from workers.spans import SAMPLES_PER_MS

BATCH = 8  # whisperX's and faster-whisper's own default
BEAM = 5
LONG_MINUTES = 10.0
OPENAI_MINUTES = 3.0
OPENAI_SHORTS = 3
OPENAI_REPEAT = 2
PATIENCE_S = 1800.0
QUICK_MINUTES = 0.25
OPENAI_WEIGHTS = Path(__file__).parents[1] / "tests" / "data" / "openai-demo.pt"
CAVEATS = (
    "The demo model is small and knows one grammar of synthetic speech: what surrounds the model weighs more here than "
    "with real weights, and nobody's text conditions the next (the model was not trained with it).",
    "openai-whisper hears an excerpt, in fewer repetitions, and is compared by audio seconds per wall second; "
    "its text above temperature 0 is sampled, with a fixed seed.",
    "whisperX transcribes only: its word times come from alignment models that a hub has. Its segments are whole "
    "windows of up to 30 s, so it has few sentence borders to be judged by.",
    "Whisperfleet's server idles while the peers are measured, and takes a few hundredths of a core from them; "
    "it works on the same cores while Whisperfleet is measured, and is in its wall time.",
    "A Ray run starts Ray and loads its model anew, as its command does; its wall counts from the loaded model to the "
    "last file written, so the loading of audio that runs beside it is not counted.",
    "The peers' waiting threads spin, as their libraries have it, unless --passive was given: by themselves on a quiet "
    "machine that costs processor seconds but little wall time; where others want the cores it costs both.",
    "Memory is the sum over a tree of processes with shared pages divided, looked at once a second.",
)


@dataclass(frozen=True)
class Kind:
    """A peer: the package that makes it one, whether it is in the other environment, whether it knows word times."""

    package: str
    elsewhere: bool
    words: bool
    versions: tuple[str, ...]


KINDS = {
    "openai-whisper": Kind("whisper", False, True, ("openai-whisper", "torch")),
    "faster-whisper": Kind("faster_whisper", False, True, ("faster-whisper", "ctranslate2")),
    "faster-whisper-batched": Kind("faster_whisper", False, True, ("faster-whisper", "ctranslate2")),
    "whisperx": Kind("whisperx", True, False, ("whisperx", "faster-whisper", "ctranslate2", "torch")),
    RAY: Kind("ray", True, False, ("ray", "whisperx", "faster-whisper", "ctranslate2", "torch")),
}


@dataclass
class Session:
    """What one run has up and has found so far."""

    options: argparse.Namespace
    folder: Path
    cores: int
    on: Ground
    shapes: dict[str, tuple[Recorded, ...]]
    excerpts: dict[str, tuple[Recorded, ...]]
    running: dict[str, Peer] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    heard: dict[tuple[str, str], tuple[Heard, ...]] = field(default_factory=dict)

    def recordings(self, name: str, shape: str) -> tuple[Recorded, ...]:
        return (self.excerpts if name == "openai-whisper" else self.shapes)[shape]


def _measure(options: argparse.Namespace, folder: Path) -> Findings:
    environment = Path(options.environment).expanduser() if options.environment else default_folder()
    if options.setup:
        make(environment, options.python, options.whisperx_batch)
    with ExitStack() as stack:
        cores = stack.enter_context(_on_cores(options.cores))
        shapes = _shapes(options, folder)
        on = stack.enter_context(ground(folder))
        session = Session(options, folder, cores, on, shapes, _excerpts(options, shapes, folder))
        for name, kind in KINDS.items():
            _start(session, stack, name, kind, environment)
        names = [*session.running, *(_ours(cores))]
        for number, name in interleaved(names, options.repeat):
            if name in session.running and (name != "openai-whisper" or number < OPENAI_REPEAT):
                _peer(session, name, number)
            elif name in OURS:
                _whisperfleet(session, name, number)
        _with_words(session)
    return findings(_measured(session))


def _measured(session: Session) -> Measured:
    """The rows, and every transcript of the first repetition scored, Whisperfleet's on the excerpts too."""
    scores = {
        (name, shape): word_errors(session.recordings(name, shape), heard)
        for (name, shape), heard in session.heard.items()
    }
    excerpted = {
        (name, shape): word_errors(recordings, session.heard[name, shape][: len(recordings)])
        for shape, recordings in session.excerpts.items()
        for name in _ours(session.cores)
    }
    return Measured(
        rows=tuple(session.rows),
        scores=scores,
        excerpted=excerpted,
        absent=session.absent,
        audio_s={shape: _seconds(recordings) for shape, recordings in session.shapes.items()},
        counts={shape: len(recordings) for shape, recordings in session.shapes.items()},
        cores=session.cores,
        quick=session.options.quick,
        notes={name: peer.note for name, peer in session.running.items()},
        versions={name: peer.versions for name, peer in session.running.items()},
    )


# ---- what is measured ----


def _peer(session: Session, name: str, number: int) -> None:
    peer = session.running[name]
    for shape in (LONG, SHORT):
        recordings = session.recordings(name, shape)
        limit = session.options.limit if name == "openai-whisper" else PATIENCE_S
        audio_s = _seconds(recordings)
        row = {"name": name, "shape": shape, "number": number, "pass": "speed", "audio_s": audio_s}
        try:
            cost, heard = _asked(peer, recordings, words=False, limit_s=limit)
        except TooSlow as slow:
            session.rows.append({**row, "wall_s": None, "at_least_s": limit, "failure": str(slow)})
            _lose(session, name, f"{shape} recordings: {slow}")
            return
        except EngineError as error:
            session.rows.append({**row, "wall_s": None, "failure": str(error)})
            _lose(session, name, f"it failed on the {shape} recordings: {error}")
            return
        session.rows.append({**row, **cost, "load_s": peer.load_s + cost["start_s"]})
        session.heard.setdefault((name, shape), heard)
        progress(f"{number + 1}: {name}, {shape}: {audio_s / cost['wall_s']:.1f} times real time")


def _lose(session: Session, name: str, reason: str) -> None:
    session.absent[name] = reason
    del session.running[name]
    progress(f"{name} is out: {reason}")


def _asked(
    peer: Peer, recordings: Sequence[Recorded], words: bool, limit_s: float
) -> tuple[dict[str, float], tuple[Heard, ...]]:
    with Watch({"peer": peer.pid}) as watch:
        answer = peer.transcribe([recorded.path for recorded in recordings], words, limit_s)
    spent = watch.cost("peer", answer["began"], answer["ended"])
    cost = {
        "wall_s": answer["ended"] - answer["began"],
        "start_s": answer["start_s"],
        "processor_s": spent.processor_s,
        "peak_mib": spent.peak_mib,
    }
    return cost, tuple(of_answer(segments) for segments in answer["recordings"])


def _whisperfleet(session: Session, name: str, number: int) -> None:
    with _fleet(session, name) as up:
        for shape in (LONG, SHORT):
            recordings = session.shapes[shape]
            ran = transcribe(up, [recorded.path for recorded in recordings], words=False)
            session.heard.setdefault((name, shape), ran.heard)
            row = {
                "name": name,
                "shape": shape,
                "number": number,
                "pass": "speed",
                "audio_s": _seconds(recordings),
                "wall_s": ran.wall_s,
                "start_s": 0.0,
                "load_s": up.load_s,
                "processor_s": ran.processor_s,
                "peak_mib": ran.peak_mib,
                "server_processor_s": ran.server_processor_s,
                "server_peak_mib": ran.server_peak_mib,
            }
            session.rows.append(row)
            progress(f"{number + 1}: {name}, {shape}: {_seconds(recordings) / ran.wall_s:.1f} times real time")


@contextmanager
def _fleet(session: Session, name: str) -> Iterator[Fleet]:
    """Its workers, loaded, with one recording heard that does not count, as every peer has."""
    processes = OURS[name]
    with fleet(session.on, processes, max(1, session.cores // processes)) as up:
        if not session.options.quick:
            wait_until_counted(session.on, processes)
        transcribe(up, [demo_recording()], words=False)
        yield up


def _with_words(session: Session) -> None:
    """The long recording once more with word times, by those who know them; its time does not count."""
    for name in [*(name for name in session.running if KINDS[name].words), *_ours(session.cores)[:1]]:
        (recorded,) = recordings = session.recordings(name, LONG)
        progress(f"{name}, {LONG}, with word times")
        try:
            if name in OURS:
                with _fleet(session, name) as up:
                    (heard,) = transcribe(up, [recorded.path], words=True).heard
            else:
                limit = session.options.limit if name == "openai-whisper" else PATIENCE_S
                _, (heard,) = _asked(session.running[name], recordings, words=True, limit_s=limit)
        except EngineError as error:
            progress(f"{name} gave no word times: {error}")
            continue
        times = time_errors(recorded.truth, heard)
        row = {"name": name, "shape": LONG, "number": 0, "pass": "words", "audio_s": _seconds(recordings)}
        session.rows.append({**row, "word_ms": times.words, "border_ms": times.borders})


# ---- what it is measured on ----


def _start(session: Session, stack: ExitStack, name: str, kind: Kind, environment: Path) -> None:
    """The peer with its model loaded and one recording heard; or the reason why there is none."""
    weights = Path(session.options.openai_model or OPENAI_WEIGHTS)
    place = environment if kind.elsewhere else None
    reason = "not in a quick run" if session.options.quick and kind.elsewhere else absence(kind.package, place)
    if reason is None and name == "openai-whisper" and not weights.is_file():
        reason = "its weights are not here: name them by --openai-model"
    if reason is not None:
        session.absent[name] = reason
        return
    progress(f"{name}: loading")
    from workers.recognizers.loading import compute_type_for

    wish = {
        "engine": name,
        "model": str(demo_folder()),
        "openai_model": str(weights),
        "threads": session.cores,
        "batch": session.options.batch,
        "beam": BEAM,
        "language": "en",
        "packages": kind.versions,
        "compute_type": compute_type_for("cpu", demo_folder()),
        "passive": session.options.quick or session.options.passive,
    }
    python = python_of(environment) if kind.elsewhere else None
    try:
        peer = stack.enter_context(running(python, wish, session.folder / "peers"))
        if name != RAY:  # which starts anew each time
            peer.transcribe([demo_recording()], False, PATIENCE_S)
    except EngineError as error:
        session.absent[name] = f"it does not start: {error}"
        return
    session.running[name] = peer


def _ours(cores: int) -> list[str]:
    return [name for name, processes in OURS.items() if processes == 1 or processes <= cores]


def _shapes(options: argparse.Namespace, folder: Path) -> dict[str, tuple[Recorded, ...]]:
    from benchmarks.corpus import SHORTS, cache_folder, recording

    progress("Recordings")
    long = recording(options.long, cache_folder(), options.quick)
    shorts = [recording(name, cache_folder(), options.quick) for name in (SHORTS[:2] if options.quick else SHORTS)]
    if options.quick:
        shorts = [_excerpt(short, QUICK_MINUTES, folder) for short in shorts]
    minutes = min(2 * QUICK_MINUTES, options.minutes) if options.quick else options.minutes
    return {LONG: (_excerpt(long, minutes, folder),), SHORT: tuple(shorts)}


def _excerpts(
    options: argparse.Namespace, shapes: dict[str, tuple[Recorded, ...]], folder: Path
) -> dict[str, tuple[Recorded, ...]]:
    (long,) = shapes[LONG]
    return {
        LONG: (_excerpt(long, options.openai_minutes, folder),),
        SHORT: shapes[SHORT][:OPENAI_SHORTS],
    }


def _excerpt(recorded: Recorded, minutes: float, folder: Path) -> Recorded:
    """The first `minutes`, ending in the pause before the sentence that would not end within them."""
    if recorded.duration_ms <= minutes * 60_000:
        return recorded
    import soundfile

    kept = tuple(sentence for sentence in recorded.truth if sentence.end_ms <= minutes * 60_000)
    later = [sentence.start_ms for sentence in recorded.truth if sentence.end_ms > minutes * 60_000]
    if not kept:
        raise OptionError(f"In {minutes} minutes nobody ends a sentence: make it longer.")
    end_ms = max(kept[-1].end_ms, (kept[-1].end_ms + min(later)) // 2)
    audio, rate = soundfile.read(recorded.path, stop=end_ms * SAMPLES_PER_MS, dtype="int16")
    path = folder / f"{recorded.path.stem}-{end_ms}.flac"
    soundfile.write(path, audio, rate, format="FLAC", subtype="PCM_16")
    return Recorded(path, end_ms, kept, recorded.made_in_s)


def _seconds(recordings: Sequence[Recorded]) -> float:
    return sum(recorded.duration_ms for recorded in recordings) / 1000


@contextmanager
def _on_cores(wanted: int | None) -> Iterator[int]:
    """This process and all that it starts on the first `wanted` of its cores; gives how many those are."""
    if not hasattr(os, "sched_setaffinity"):
        if wanted:
            raise OptionError("--cores needs Linux: leave it out to measure on all cores.")
        yield os.cpu_count() or 1
        return
    before = os.sched_getaffinity(0)
    if wanted is not None and not 1 <= wanted <= len(before):
        raise OptionError(f"--cores is {wanted}: write a number from 1 to {len(before)}.")
    os.sched_setaffinity(0, set(sorted(before)[:wanted]))
    try:
        yield wanted or len(before)
    finally:
        os.sched_setaffinity(0, before)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--setup", action="store_true", help="first install whisperX and Ray (8 GB) in --environment")
    parser.add_argument("--environment", help="folder of their environment (default: below the user's cache folder)")
    parser.add_argument("--python", default=PYTHON, help=f"with --setup: its Python, as uv takes it (default {PYTHON})")
    parser.add_argument(
        "--whisperx-batch",
        default=WHISPERX_BATCH,
        help="with --setup: whisperx-batch as pip takes it, such as a folder (default: a commit on GitHub)",
    )
    parser.add_argument("--openai-model", help="the same weights for openai-whisper (default: the repository's)")
    parser.add_argument("--long", default="talk", help="the long recording, by its name in the corpus (default talk)")
    parser.add_argument(
        "--minutes", type=float, default=LONG_MINUTES, help=f"of it to take at most (default {LONG_MINUTES:g})"
    )
    parser.add_argument(
        "--openai-minutes", type=float, default=OPENAI_MINUTES, help=f"for that peer (default {OPENAI_MINUTES:g})"
    )
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for openai-whisper (default 120)")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"windows at once, of the peers (default {BATCH})")
    parser.add_argument(
        "--passive",
        action="store_true",
        help="let the peers' waiting threads sleep, as Whisperfleet's do, and not spin: where the machine is not quiet",
    )
    parser.add_argument("--cores", type=int, help="how many cores everybody gets (default: all)")


BENCHMARK = Benchmark(
    name="peers",
    about=__doc__,
    measure=_measure,
    draw=draw,
    caveats=CAVEATS,
    packages=("faster-whisper", "ctranslate2", "openai-whisper", "torch", "onnxruntime", "conductor-python"),
    options=_options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
