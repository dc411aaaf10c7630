"""What a stage needs besides its input, and a diarizer whose every number can be foretold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers import settings as environment
from workers.context import Context
from workers.diarizers import Clustered, ClusterTurn, DiarizerSpec, Pcm, Windows
from workers.errors import OptionError
from workers.messages import SpeakerHints
from workers.settings import Settings
from workers.spans import SAMPLES_PER_MS, Span
from workers.storage import open_storage


def make_context(settings: Settings | None = None, **services: Any) -> Context:
    """A context whose services all refuse, but for storage and those that are given."""
    around = settings or environment.load()

    def refused(*_: object) -> Any:
        raise AssertionError("the stage has no business with this")

    usual: dict[str, Any] = {
        "worker": "tester",
        "attempt": 1,
        "open_storage": lambda address: open_storage(address, around),
        "recognizer": refused,
        "live_workers": lambda: 1,
        "aborted": lambda: False,
        "diarizer": refused,
        "live_diarizers": refused,
        "siblings": refused,
        "give_up": refused,
    }
    return Context(settings=around, **{**usual, **services})


VOICES = 5  # that the diarizer of the tests can tell apart: sample values of 1000, 2000 … 5000


@dataclass
class ToneDiarizer:
    """Hears a voice in a window by the value of its samples: 1000 is voice 0, 2000 voice 1; 0 is silence.

    Windows of 100 ms every 40 ms. A pure function of each window, as the protocol wants; it keeps what it heard.
    """

    version: int = 1
    needs_speech: bool = True
    same_person: float = 0.9
    heard: list[range] = field(default_factory=list)
    speech: Sequence[Span] | None = None
    hints: SpeakerHints | None = None

    @property
    def spec(self) -> DiarizerSpec:
        step, window = 40 * SAMPLES_PER_MS, 100 * SAMPLES_PER_MS
        return DiarizerSpec("tone", self.version, "0" * 64, window, step, 0, 1, VOICES)

    def hear(self, audio: Pcm, windows: range, wanted: Callable[[], None]) -> Windows:
        wanted()
        self.heard.append(windows)
        embedding = np.full((len(windows), 1, VOICES), np.nan, np.float32)
        for row in range(len(windows)):
            start = row * self.spec.step
            shares = _shares(audio[start : start + self.spec.window], self.spec.window)
            if shares.any():
                embedding[row, 0] = shares
        return Windows(
            self.spec.hash,
            np.array(windows, np.int32),
            np.zeros((len(windows), 0, 1), np.bool_),
            embedding,
        )

    def cluster(
        self,
        windows: Windows,
        speech: Sequence[Span] | None,
        duration_ms: int,
        hints: SpeakerHints,
        wanted: Callable[[], None],
    ) -> Clustered:
        """Each window's first 40 ms are the voice that most of it is."""
        wanted()
        self.speech, self.hints = speech, hints
        turns: list[ClusterTurn] = []
        for index, shares in zip(windows.index.tolist(), windows.embedding[:, 0], strict=True):
            if np.isnan(shares).any():
                continue
            start, cluster = index * 40, int(np.argmax(shares))
            end = min(start + 40, duration_ms)
            if turns and turns[-1].cluster == cluster and turns[-1].end_ms == start:
                turns[-1] = ClusterTurn(turns[-1].start_ms, end, cluster)
            elif end > start:
                turns.append(ClusterTurn(start, end, cluster))
        return Clustered(tuple(turns), tuple(turns), np.eye(VOICES, dtype=np.float32), {"windows": len(windows.index)})

    def embed(self, audio: Pcm) -> NDArray[np.float32]:
        shares = _shares(audio, len(audio))
        if not shares.any():
            raise OptionError("nobody speaks in it: give one with a few seconds of speech.")
        return np.asarray(shares / np.linalg.norm(shares), np.float32)


def _shares(samples: Pcm, length: int) -> NDArray[np.float32]:
    """How much of `length` samples each voice speaks."""
    counts = [np.count_nonzero(samples == 1000 * (voice + 1)) for voice in range(VOICES)]
    return np.asarray(np.array(counts) / length, np.float32)
