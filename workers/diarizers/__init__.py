"""Diarizers behind one protocol: who speaks when, found chunk by chunk with the answer of the whole recording.

The work is divided as in pyannote's pipelines: per window of a few seconds, what is heard in it (who is
active, and an embedding of each voice); over the whole recording, which embeddings are the same person.
Windows lie on one global grid and each is computed by exactly one chunk from exactly its own samples, so
the chunks' windows together are those of the undivided recording, and clustering sees the same input.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from workers.messages import SpeakerHints
from workers.spans import Span

Pcm = NDArray[np.int16]  # shape (samples,), mono, 16 kHz

SPEECH_MAPPED = frozenset({"ge2e"})
"""Diarizers that cannot tell speech from the rest themselves: the plan adds the task that maps it."""


@dataclass(frozen=True)
class DiarizerSpec:
    """All that decides what comes out of a window; two windows can be compared only if this is equal.

    version counts changes of our code that change a number; model_sha256 is of the weights. window and
    step are in samples at 16 kHz. activity of a window has the shape (frames, local_speakers),
    embeddings (local_speakers, dimension).
    """

    name: str
    version: int
    model_sha256: str
    window: int
    step: int
    frames: int
    local_speakers: int
    dimension: int

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Windows:
    """What was found in some windows of the grid; n of them.

    index: (n,) numbers on the grid, ascending, each once. activity: (n, frames, local_speakers), bool.
    embedding: (n, local_speakers, dimension), float32; a row of NaN where nothing could be embedded.
    """

    spec_hash: str
    index: NDArray[np.int32]
    activity: NDArray[np.bool_]
    embedding: NDArray[np.float32]


@dataclass(frozen=True)
class ClusterTurn:
    """A stretch in which the person of one cluster speaks; milliseconds from the first sample of the grid."""

    start_ms: int
    end_ms: int
    cluster: int


@dataclass(frozen=True)
class Clustered:
    """Who speaks when, people still numbered in any order.

    turns may overlap, exclusive_turns never do; both ascending. centroids: (clusters, dimension), float32.
    """

    turns: tuple[ClusterTurn, ...]
    exclusive_turns: tuple[ClusterTurn, ...]
    centroids: NDArray[np.float32]
    diagnostics: dict[str, str | int | float | bool | list[float] | None] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Diarizer(Protocol):
    """A loaded diarizer; one thread at a time. Long work calls `wanted` now and then, which raises to stop it.

    same_person: cosine from which on two voices are taken for the same person (reference clips).
    needs_speech: whether `cluster` wants the speech map.
    """

    @property
    def spec(self) -> DiarizerSpec: ...

    @property
    def same_person(self) -> float: ...

    @property
    def needs_speech(self) -> bool: ...

    def hear(self, audio: Pcm, windows: range, wanted: Callable[[], None]) -> Windows:
        """The windows of that range; `audio` begins with the first sample of the first one.

        Where audio ends before the last window does, the recording ends: zeros follow. The result for a window
        depends on its own samples alone, to the last bit on a processor, up to float noise on a GPU.
        Raises EngineError where the model fails.
        """
        ...

    def cluster(
        self,
        windows: Windows,
        speech: Sequence[Span] | None,
        duration_ms: int,
        hints: SpeakerHints,
        wanted: Callable[[], None],
    ) -> Clustered:
        """Turns over [0, duration_ms) from all windows of a recording; windows that are missing are nobody's.

        speech: ascending regions on the same clock, for those who need them. Deterministic: the same
        windows give the same turns, in whatever chunks they came. With no voice at all: no turns.
        """
        ...

    def embed(self, audio: Pcm) -> NDArray[np.float32]:
        """The voice in a reference clip, shape (dimension,), of length 1.

        Raises OptionError where nobody speaks in it.
        """
        ...
