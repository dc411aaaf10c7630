"""The one seat at the engine: who runs, who may fetch ahead, and when a chunk is overdue."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from workers.errors import DeadlineExceeded
from workers.messages import RecognizeOptions
from workers.recognizers import Audio, DecodeSettings, Recognition, Recognizer
from workers.recognizers.deadline import deadline_seconds
from workers.spans import SAMPLE_RATE, Span

POLL_SECONDS = 0.5  # until a task that is there is in hand: two looks of a lane, and the server's answer
LONGEST_LEAD_SECONDS = 10.0  # ten minutes of audio from a slow store; whoever takes longer keeps the engine waiting
FIRST_LEAD_SECONDS = 2.0  # before anything is known


@dataclass
class _Run:
    """A task at the engine; audio_ms is known once it starts to recognize."""

    began: float
    audio_ms: int = 0
    share: float = 0.0
    deadline: float = float("inf")


@dataclass
class EngineSeat:
    """A loaded model that one task at a time may use, and what is known of its speed.

    load makes a recognizer for (engine, model). At most one is kept: two large models do not fit
    one GPU, and a fleet's jobs mostly ask for the model its workers were started with.
    """

    load: Callable[[str, str], Recognizer]
    clock: Callable[[], float] = time.monotonic
    rtfx: float | None = None
    lead_seconds: float = FIRST_LEAD_SECONDS
    _free: threading.Lock = field(default_factory=threading.Lock)
    _recognizer: Recognizer | None = None
    _run: _Run | None = None

    def warm(self, engine: str, model: str) -> None:
        """Load before any work is taken, so that no task's time holds a model's loading."""
        with self._free:
            self._recognizer = self.load(engine, model)

    def take(self, options: RecognizeOptions) -> "SeatedRecognizer":
        """Wait for the seat; whoever has it must `leave`."""
        self._free.acquire()
        try:
            loaded = self._recognizer
            if loaded is None or (loaded.engine, loaded.model) != (options.engine, options.model):
                loaded = self._recognizer = None  # freed before the next is loaded: both at once may not fit
                loaded = self._recognizer = self.load(options.engine, options.model)
        except BaseException:
            self._free.release()
            raise
        self._run = _Run(self.clock())
        return SeatedRecognizer(self, loaded, self._run)

    def leave(self, finished: bool) -> None:
        """Give the seat back; `finished` says whether the run's speed is worth remembering."""
        run, self._run = self._run, None
        if run is not None and finished and run.audio_ms:
            latest = run.audio_ms / 1000 / max(self.clock() - run.began, 1e-3)
            self.rtfx = latest if self.rtfx is None else (self.rtfx + latest) / 2
        self._free.release()

    def prepared(self, seconds: float) -> None:
        """How long a chunk took from its worker's hand to the seat: audio fetched, speech found.

        The next is taken three times as much before the engine is free: at a job's beginning it is twice as long and
        more, and the engine may need the same processor. Later, and the engine waits; earlier, and a chunk lies here
        that an idle worker elsewhere could have had, which is felt at a job's end.
        """
        self.lead_seconds = min(LONGEST_LEAD_SECONDS, POLL_SECONDS + 3 * seconds)

    def remaining_seconds(self) -> float | None:
        """Until the running task is done; None when nobody sits or nothing is known yet."""
        run = self._run
        if run is None:
            return None
        elapsed = self.clock() - run.began
        if self.rtfx is not None and run.audio_ms:
            return max(0.0, run.audio_ms / 1000 / self.rtfx - elapsed)
        if run.share > 0.05:
            return max(0.0, elapsed * (1 - run.share) / run.share)
        return None

    def may_fetch_ahead(self) -> bool:
        """Whether the running task is so near its end that the next one should be fetched now.

        While nobody sits the task in hand is still being fetched, or about to sit down: then it is too early.
        """
        remaining = self.remaining_seconds()
        return remaining is not None and remaining <= self.lead_seconds

    def share_done(self) -> float:
        """0 to 1, as the engine last told; 0 while nobody sits."""
        run = self._run
        return run.share if run is not None else 0.0

    def overdue_seconds(self) -> float:
        """How far the running task is past its deadline; negative while it is in time."""
        run = self._run
        return self.clock() - run.deadline if run is not None else float("-inf")


@dataclass
class SeatedRecognizer:
    """The engine for the one who sits: it reports progress to the seat and keeps the deadline."""

    seat: EngineSeat
    inner: Recognizer
    run: _Run

    @property
    def engine(self) -> str:
        return self.inner.engine

    @property
    def model(self) -> str:
        return self.inner.model

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition:
        audio_ms = len(audio) * 1000 // SAMPLE_RATE
        allowed = deadline_seconds(audio_ms, self.seat.rtfx)
        self.run.audio_ms = audio_ms  # a second pass over some of it is part of what a chunk takes
        self.run.deadline = self.seat.clock() + allowed

        def wanted_in_time() -> None:
            wanted()
            if self.seat.overdue_seconds() > 0:
                raise DeadlineExceeded(f"{audio_ms / 1000:.0f} s of audio were not done within {allowed:.0f} s.")

        def seen(share: float) -> None:
            self.run.share = share
            progress(share)

        return self.inner.recognize(audio, speech, options, settings, wanted_in_time, seen)

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        return self.inner.language_probabilities(audio)
