"""A worker whose engine only takes time: real in everything but the inference, which sleeps at a given speed.

    python -m benchmarks.overhead_paced SERVER RTFX

The process is the product's (lanes, seat, leases, stages, storage, voice activity); what is loaded for a model is a
`PacedRecognizer`. It says as many words as people do, so that results and transcripts have their real size.
"""

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

from benchmarks.fleet import Ground
from workers.errors import EngineError
from workers.messages import RecognizeOptions
from workers.settings import worker_environment
from workers.spans import SAMPLE_RATE, Span
from workers.transcript import Segment, Word

if TYPE_CHECKING:  # numpy: not for a look at --help
    from workers.recognizers import Audio, DecodeSettings, Recognition

UP_S = 120.0
STEPS = 50  # times that a chunk's progress is told
WORD_MS = 400  # 150 words a minute
NAME = "paced"


class PacedRecognizer:
    """Takes the audio's length over `rtfx`, and hears made-up words wherever there is speech."""

    def __init__(self, engine: str, model: str, rtfx: float) -> None:
        self.engine = engine
        self.model = model
        self._rtfx = rtfx

    def recognize(
        self,
        audio: "Audio",
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: "DecodeSettings",
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> "Recognition":
        from workers.recognizers import Recognition

        began = time.monotonic()
        seconds = len(audio) / SAMPLE_RATE / self._rtfx
        segments = tuple(_said(region, random.Random(region.start_ms)) for region in speech)
        for step in range(1, STEPS + 1):
            wanted()
            time.sleep(max(0.0, began + seconds * step / STEPS - time.monotonic()))
            progress(step / STEPS)
        return Recognition(segments, options.language or "en")

    def language_probabilities(self, audio: "Audio") -> dict[str, float]:
        time.sleep(min(30.0, len(audio) / SAMPLE_RATE) / self._rtfx)
        return {"en": 1.0}


def _said(region: Span, dice: random.Random) -> Segment:
    """One segment for a stretch of speech, of words that do not repeat."""
    count = max(1, region.duration_ms // WORD_MS)
    edges = [region.start_ms + region.duration_ms * number // count for number in range(count + 1)]
    words = tuple(Word(start_ms=start, end_ms=end, text=_word(dice), probability=0.9) for start, end in pairwise(edges))
    return Segment(
        start_ms=region.start_ms, end_ms=region.end_ms, text=" " + " ".join(word.text for word in words), words=words
    )


def _word(dice: random.Random) -> str:
    return "".join(dice.choice("bdfgklmnprst") + dice.choice("aeiou") for _ in range(dice.randint(1, 4)))


@contextmanager
def paced_worker(on: Ground, rtfx: float) -> Iterator[int]:
    """One such worker, up; gives its process id."""
    command = [sys.executable, "-m", "benchmarks.overhead_paced", on.url, str(rtfx)]
    environment = worker_environment(WHISPERFLEET_HOME=str(on.home), WHISPERFLEET_STORAGE=on.storage)
    log = on.home / f"paced-{time.time_ns()}.log"
    with log.open("w") as file:
        # it lives as long as its standard input stays open
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=environment, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ends = time.monotonic() + UP_S
        while '"ready"' not in (line := process.stdout.readline()):
            if not line or time.monotonic() > ends:
                raise EngineError(f"The benchmark's worker did not come up; its log ends: {log.read_text()[-400:]}")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def main() -> None:
    """The worker's process: what the pool runs, with another loader."""
    from workers import process
    from workers.lanes import ALL_TASKS
    from workers.recognizers import loading

    server, rtfx = sys.argv[1], float(sys.argv[2])

    def load(engine: str, model: str, **_: object) -> PacedRecognizer:
        return PacedRecognizer(engine, model, rtfx)

    loading.load = load  # type: ignore[assignment]  # where the product looks for it when it starts
    spec = process.ProcessSpec(server, f"{NAME}-1", ALL_TASKS, "faster-whisper", "demo", device="cpu", threads=1)
    sys.argv[1:] = [spec.encode()]
    process.main()


if __name__ == "__main__":
    main()
