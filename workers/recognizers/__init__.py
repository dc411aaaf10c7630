"""Speech recognition engines behind one protocol; a model is loaded once per process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.messages import RecognizeOptions
from workers.spans import Span
from workers.transcript import Segment

Audio = NDArray[np.float32]  # shape (samples,), mono, 16 kHz, -1 to 1


@dataclass(frozen=True)
class Recognition:
    """What an engine heard; times in milliseconds from the start of the audio it was given."""

    segments: tuple[Segment, ...]
    language: str | None


@dataclass(frozen=True)
class DecodeSettings:
    """How one pass differs from the plain one: the second pass of a suspicious chunk changes these.

    one_by_one: the engine moves one window along instead of decoding many at once.
    """

    one_by_one: bool = False
    temperatures: tuple[float, ...] = (0.0,)
    no_repeat_ngram_size: int = 0
    repetition_penalty: float = 1.0


class Recognizer(Protocol):
    """A loaded model.

    recognize hears the stretches `speech` of the audio (milliseconds, ascending; see windows.speech_of: found by
    whoever fetches the audio, while the engine is still at the chunk before). It may be called by one thread at a
    time. It calls `wanted` between pieces of work
    (which raises to stop it) and `progress` with the share done, 0 to 1. It raises EngineError
    where the engine fails, and halves its batch by itself when memory runs out.
    """

    @property
    def engine(self) -> str: ...

    @property
    def model(self) -> str: ...

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition: ...

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        """Language code to probability for up to 30 s of voiced audio."""
        ...
