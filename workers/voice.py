"""Where somebody speaks: Silero's voice-activity model, as faster-whisper ships it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from workers.spans import SAMPLES_PER_MS, Span

FRAME_MS = 20
SILENT_DB = -60.0  # below it a recording holds nothing but its own noise


def speech_regions(audio: NDArray[np.float32], offset_ms: int = 0) -> list[Span]:
    """Stretches of speech in `audio` (mono, 16 kHz), ascending and apart, `offset_ms` added to each.

    Pauses of 100 ms and more part two regions; nothing is padded, because the caller looks for pauses.
    """
    from faster_whisper.vad import VadOptions, get_speech_timestamps  # heavy: onnxruntime, ctranslate2

    if not len(audio):
        return []
    options = VadOptions(min_silence_duration_ms=100, speech_pad_ms=0)
    return [
        Span.of(offset_ms + region["start"] // SAMPLES_PER_MS, offset_ms + region["end"] // SAMPLES_PER_MS)
        for region in get_speech_timestamps(audio, options)
    ]


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
