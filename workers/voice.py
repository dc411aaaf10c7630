"""Where somebody speaks: Silero's voice-activity model, as faster-whisper ships it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.media import as_float
from workers.spans import SAMPLES_PER_MS, Span

FRAME_MS = 20
SILENT_DB = -60.0  # below it a recording holds nothing but its own noise

# How Silero's model listens, and faster-whisper's rule for what is speech (faster_whisper/vad.py).
STEP = 512  # samples to a probability
CONTEXT = 64  # samples before them that the model hears again
STEPS = 256  # in one run of the model: 8 s
RUN = CONTEXT + STEPS * STEP  # samples that a run hears
SPEECH_FROM, SILENCE_BELOW = 0.5, 0.35  # between the two, whatever was before goes on
PAUSE_MS = 100  # pauses from here on part two regions


def speech_regions(audio: NDArray[np.float32], offset_ms: int = 0) -> list[Span]:
    """Stretches of speech in `audio` (mono, 16 kHz), ascending and apart, `offset_ms` added to each.

    Pauses of 100 ms and more part two regions; nothing is padded, because the caller looks for pauses.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps  # heavy: onnxruntime, ctranslate2

    if not len(audio):
        return []
    options = VadOptions(
        threshold=SPEECH_FROM, neg_threshold=SILENCE_BELOW, min_silence_duration_ms=PAUSE_MS, speech_pad_ms=0
    )
    return [
        Span.of(offset_ms + region["start"] // SAMPLES_PER_MS, offset_ms + region["end"] // SAMPLES_PER_MS)
        for region in get_speech_timestamps(audio, options)
    ]


class SpeechStream:
    """`speech_regions` of a recording of any length, heard block by block; memory does not grow with its sound.

    The model remembers what it heard, so it goes over the recording once, in order. Each run of it takes the same
    number of steps and begins at the same samples however the blocks are cut: no division changes the result.
    """

    def __init__(self) -> None:
        from faster_whisper.vad import get_vad_model  # heavy: onnxruntime, ctranslate2

        self._session = get_vad_model().session  # of one thread, loaded once in a process
        self._memory = [np.zeros((1, 1, 128), np.float32)] * 2
        self._waiting = np.zeros(CONTEXT, np.int16)  # begins with the last samples that were heard
        self._samples = 0
        self._regions = _Regions()

    def feed(self, samples: NDArray[np.int16]) -> None:
        """The next samples: mono, 16 kHz, any number of them."""
        self._samples += len(samples)
        waiting = np.concatenate([self._waiting, samples])
        while len(waiting) >= RUN:
            self._hear(waiting[:RUN], STEPS)
            waiting = waiting[RUN - CONTEXT :]
        self._waiting = waiting.copy()

    def finish(self) -> list[Span]:
        """Regions of speech in all that was fed, ascending and apart, on a clock that begins with its first sample.

        The last step is filled up with zeros, at least one, as faster-whisper does it. Nothing can be fed after this.
        """
        last = np.zeros(RUN, np.int16)
        last[: len(self._waiting)] = self._waiting
        self._hear(last, (len(self._waiting) - CONTEXT) // STEP + 1)
        return self._regions.until(self._samples)

    def _hear(self, samples: NDArray[np.int16], steps: int) -> None:
        """Run the model over STEPS steps, of which the first `steps` count."""
        heard = np.lib.stride_tricks.sliding_window_view(as_float(samples), CONTEXT + STEP)[::STEP]
        inputs = {"input": np.ascontiguousarray(heard), "h": self._memory[0], "c": self._memory[1]}
        probabilities, *self._memory = self._session.run(None, inputs)
        for probability in probabilities[:steps].tolist():
            self._regions.add(probability)


class _Regions:
    """What is speech, from probabilities that come step by step."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int]] = []  # in samples
        self._at = 0
        self._start: int | None = None  # of the region that goes on
        self._quiet_from: int | None = None  # where it ends if the quiet lasts

    def add(self, probability: float) -> None:
        if probability >= SPEECH_FROM:
            self._start = self._at if self._start is None else self._start
            self._quiet_from = None
        elif probability < SILENCE_BELOW and self._start is not None:
            self._quiet_from = self._at if self._quiet_from is None else self._quiet_from
            if self._at - self._quiet_from >= PAUSE_MS * SAMPLES_PER_MS:
                self._found.append((self._start, self._quiet_from))
                self._start = self._quiet_from = None
        self._at += STEP

    def until(self, end: int) -> list[Span]:
        """All regions; the one that goes on ends at `end`, the number of samples there were."""
        going_on = [] if self._start is None or self._start >= end else [(self._start, end)]
        return [Span.of(start // SAMPLES_PER_MS, stop // SAMPLES_PER_MS) for start, stop in self._found + going_on]


def voiced_ms(speech: Sequence[Span]) -> int:
    return sum(region.duration_ms for region in speech)


def quiet_stretches(audio: NDArray[np.float32], offset_ms: int = 0) -> list[Span]:
    """Stretches far below the speech around them, ascending: found by level alone, a hundred times faster than by
    the model, which then only has to listen to the ones that are wanted.

    20 dB below the loud tenth of `audio`, or below -60 dBFS, without a break of 20 ms: what is softer in
    speech (the closure of a plosive, an unvoiced end) does not last long enough to be taken for a pause.
    """
    levels = _levels_db(audio, FRAME_MS * SAMPLES_PER_MS)
    if not len(levels):
        return []
    quiet = levels < max(SILENT_DB, float(np.percentile(levels, 90)) - 20.0)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8))) * FRAME_MS + offset_ms
    return [Span.of(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def is_quiet(around: NDArray[np.float32], context: NDArray[np.float32]) -> bool:
    """Whether `around`, the sound at a cut, is clearly below what `context` around it holds.

    A second judge beside the model, which misses some voices (synthetic, distant, sung): 10 dB below
    the loud tenth of the context, or silent. A word's 300 ms together stay well above that.
    """
    level = _levels_db(around, len(around)).max(initial=-120.0)
    loud = float(np.percentile(_levels_db(context, len(around)), 90))
    return bool(level < max(SILENT_DB, loud - 10.0))


def _levels_db(audio: NDArray[np.float32], frame: int) -> NDArray[np.float64]:
    """Level in dBFS of each whole frame of `frame` samples."""
    whole = audio[: len(audio) // frame * frame].reshape(-1, frame)
    return np.asarray(10 * np.log10(np.einsum("ij,ij->i", whole, whole) / frame + 1e-12), np.float64)
