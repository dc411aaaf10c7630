"""Workers whose inference is a sleep: the product's own lanes, leases and storage around a recognizer that waits.

`python -m benchmarks.simulated JSON` is a nursery: it imports everything once and forks a real process for each
worker, which shares its memory until one writes. So 64 of them start in a second on two cores, and a kill is a
real SIGKILL of a process that holds tasks. It hears orders as JSON lines on its standard input, tells on its standard
output who is ready, and ends with all workers when that input ends.

Two things are replaced, because a GPU machine does them by itself and two cores cannot do them for 64:
the recognizer, which sleeps `audio / speed` seconds and says words that nobody would suspect, and
`workers.stages.recognize.speech_of`, the voice activity before it, which sleeps 3 ms for each second of audio. All
else is real: polling, fetching, decoding FLAC, storing, handing in, leases and signs of life.
"""

import gc
import json
import os
import random
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from workers import lanes, settings
from workers.diarizers import Diarizer
from workers.errors import EngineError
from workers.messages import Engine, RecognizeOptions
from workers.recognizers import Audio, DecodeSettings, Recognition
from workers.seat import EngineSeat
from workers.spans import SAMPLE_RATE, Span
from workers.tasks import PolledTask, TaskClient
from workers.transcript import Segment, Word

ENGINE: Engine = "faster-whisper-sequential"  # the length of its sleep is that of one window after the other
MODEL = "small.en"
SPEED = 13.0
"""Seconds of audio in a second: small.en of openai-whisper on an RTX 2080 Ti, 94 min 30 s in 432.4 s (13.1)."""

SPEECH_S = 0.003  # of one core for a second of audio, as measured with Silero's model on this kind of machine
STEP_S = 0.25  # how often a sleeping recognizer looks whether it is wanted, about as often as a real one
WORD_MS = 400  # 2.5 words a second
SENTENCE_WORDS = 8


@dataclass(frozen=True)
class Nursery:
    """What all workers of one nursery have in common. journal: a file that gets a line for each inference."""

    server: str
    journal: str


@dataclass(frozen=True)
class Simulated:
    """One worker. speed: seconds of audio in a second; jitter: sigma of the log-normal factor (of mean 1) by which a
    chunk takes longer; the factor depends on the seed and the chunk's sound alone, so not on who gets it."""

    name: str
    speed: float = SPEED
    jitter: float = 0.0
    seed: int = 1


@dataclass
class SleepingRecognizer:
    """As fast as it is told to be, and sure of what it heard. note is told of each inference's begin and end."""

    worker: Simulated
    note: Callable[[str, float, float], None]
    engine: str = ENGINE
    model: str = MODEL

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition:
        seconds = len(audio) / SAMPLE_RATE
        began = time.monotonic()
        factor = jitter_factor(self.worker.jitter, self.worker.seed, zlib.crc32(audio.tobytes()))
        lasts = seconds / self.worker.speed * factor
        self.note("begins", seconds, factor)
        while (left := began + lasts - time.monotonic()) > 0:
            time.sleep(min(STEP_S, left))
            wanted()
            progress(min(1.0, (time.monotonic() - began) / lasts))
        self.note("ends", seconds, factor)
        return Recognition(plausible(round(seconds * 1000)), "en")

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        return {"en": 1.0}


def jitter_factor(sigma: float, seed: int, chunk: int) -> float:
    """Log-normal with mean 1: what is slower here is faster there, so the work stays the same."""
    return random.Random(f"{seed} {chunk}").lognormvariate(-sigma * sigma / 2, sigma) if sigma else 1.0


def plausible(length_ms: int) -> tuple[Segment, ...]:
    """Sentences of random words over the whole length: as much text, words and bytes as speech has."""
    dice = random.Random(length_ms)
    words = ["".join(dice.choices("abcdefghiklmnoprstuvw", k=dice.randint(2, 9))) for _ in range(400)]
    segments = []
    for start in range(0, length_ms - WORD_MS, WORD_MS * SENTENCE_WORDS):
        said = tuple(
            Word(start_ms=at, end_ms=at + WORD_MS - 50, text=dice.choice(words), probability=0.9)
            for at in range(start, min(start + WORD_MS * SENTENCE_WORDS, length_ms - WORD_MS), WORD_MS)
        )
        text = " ".join(word.text for word in said)
        segments.append(Segment(start_ms=said[0].start_ms, end_ms=said[-1].end_ms, text=text, words=said))
    return tuple(segments)


@dataclass
class _Born:
    """The nursery's side of its workers. spent: processor seconds of those that are gone."""

    nursery: Nursery
    journal: int
    orphaned: tuple[int, int]
    pids: dict[str, int] = field(default_factory=dict)
    spent: float = 0.0

    def start(self, worker: Simulated) -> None:
        pid = os.fork()
        if not pid:
            try:
                os.close(self.orphaned[1])
                _work(worker, self.nursery, self.journal, self.orphaned[0])
            finally:
                os._exit(1)  # whatever happened, this is no nursery
        self.pids[worker.name] = pid

    def kill(self, names: Sequence[str]) -> None:
        for name in names:
            os.kill(self.pids[name], signal.SIGKILL)
        for name in names:
            _, _, usage = os.wait4(self.pids.pop(name), 0)
            self.spent += usage.ru_utime + usage.ru_stime

    def processor_seconds(self) -> float:
        living = (psutil.Process(pid).cpu_times() for pid in self.pids.values())
        return self.spent + sum(float(times.user + times.system) for times in living)


def main() -> None:
    import numpy  # noqa: F401
    import soundfile  # noqa: F401

    from workers import recording  # noqa: F401  what a worker imports at its first chunk, once for all
    from workers.stages import recognize
    from workers.storage import local  # noqa: F401

    vars(recognize)["speech_of"] = heard_elsewhere
    nursery = Nursery(**json.loads(sys.argv[1]))
    journal = os.open(nursery.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    born = _Born(nursery, journal, os.pipe())
    gc.collect()
    gc.freeze()  # else each worker's collector would touch, and so copy, all that they share
    tell(event="nursery")
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "start":
            for worker in order["workers"]:
                born.start(Simulated(**worker))
        elif order["do"] == "kill":
            born.kill(order["names"])
            tell(event="killed")
        else:
            tell(event="used", seconds=born.processor_seconds())
    born.kill(list(born.pids))


def tell(**event: Any) -> None:
    """One line, whole: the nursery and its workers share the pipe."""
    os.write(sys.stdout.fileno(), (json.dumps(event) + "\n").encode())


def heard_elsewhere(audio: Audio) -> list[Span]:
    """In place of the voice activity: the time it takes on a core of the worker's own machine; all is speech."""
    time.sleep(len(audio) / SAMPLE_RATE * SPEECH_S)
    return [Span.of(0, len(audio) * 1000 // SAMPLE_RATE)]


def _work(worker: Simulated, nursery: Nursery, journal: int, orphaned: int) -> None:
    """A worker process, as `workers.process` makes one, for recognizer tasks; never returns."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def note(event: str, seconds: float, factor: float) -> None:
        line = {"at": time.time(), "worker": worker.name, "event": event, "seconds": seconds, "factor": factor}
        os.write(journal, (json.dumps(line) + "\n").encode())

    def no_diarizer(name: str, model: str | None) -> Diarizer:
        raise EngineError(f"A simulated worker has no diarizer ({name}).")

    desk = lanes.Desk(
        client=TaskClient(nursery.server, worker.name),
        settings=settings.load(),
        seat=EngineSeat(lambda engine, model: SleepingRecognizer(worker, note)),
        shelf=lanes.DiarizerShelf(no_diarizer),
        kinds=lanes.RECOGNIZER_TASKS,
    )
    desk.seat.warm(ENGINE, MODEL)
    lanes.announce(desk)
    keeper = (desk, threading.Event(), _hung, _no_news)
    threading.Thread(target=lanes.keep_leases, args=keeper, daemon=True).start()
    for ahead_only in (False, True):
        lane = (desk, lanes.RECOGNIZER_TASKS, ahead_only)
        threading.Thread(target=lanes.recognizer_lane, args=lane, daemon=True).start()
    tell(event="ready", name=worker.name)
    os.read(orphaned, 1)  # returns when the nursery is gone, however it went
    os._exit(0)


def _hung(task: PolledTask) -> None:
    os._exit(75)


def _no_news(task: PolledTask, share: float) -> None:
    return


def encoded(workers: Sequence[Simulated]) -> list[dict[str, Any]]:
    return [asdict(worker) for worker in workers]


def journal_of(home: Path) -> Path:
    return home / "inferences.jsonl"


if __name__ == "__main__":
    main()
