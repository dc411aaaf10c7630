"""The recording as one stretch of samples, read back from the chunks that the split stored.

Chunks are FLAC, cut at whole milliseconds, and their cores tile the wanted span, so the samples that come
out are exactly those that were decoded, wherever the cuts are: the media need not be decoded again, and two
chunk plans give the same samples. Times here are milliseconds from the start of the wanted span.
"""

import hashlib
import io
from collections.abc import Callable, Iterator

import numpy as np

from workers.chunking import SEARCH_MS
from workers.errors import AudioMissing, ChunkNotReady, MediaError, ObjectMissing, StorageUnavailable
from workers.media import Samples
from workers.messages import Chunk, JobKeys, JobPlan
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.storage import Storage


class Recording:
    """A job's audio as the split wrote it, or has written so far."""

    def __init__(self, storage: Storage, keys: JobKeys, plan: JobPlan) -> None:
        self._storage = storage
        self._keys = keys
        self._plan = plan
        self._origin_ms = plan.span.start_ms
        self._chunks: dict[int, Chunk] = {}

    def duration_ms(self) -> int:
        """Length of what was really cut. Raises ChunkNotReady while the split is at it."""
        return max(self._chunk(index).core.end_ms for index in range(self._plan.chunk_count)) - self._origin_ms

    def read(self, start_ms: int, end_ms: int | None) -> Samples:
        """The samples of [start_ms, end_ms), without end_ms all there are; fewer where the recording ends before.

        Raises ChunkNotReady while a chunk of it is not cut, AudioMissing where it is cut and its audio is gone,
        StorageUnavailable where the audio is not what the split wrote.
        """
        chunks = list(self._holding(start_ms, end_ms))  # all of them are cut before any is fetched
        pieces = [self._part(chunk, start_ms, end_ms) for chunk in chunks]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int16)

    def pieces(self, wanted: Callable[[], None]) -> Iterator[Samples]:
        """All samples in order, a chunk's core at a time. `wanted` is asked before each."""
        for index in range(self._plan.chunk_count):
            wanted()
            chunk = self._chunk(index)
            if chunk.core.duration_ms:
                yield self._part(chunk, 0, None)

    def is_whole(self) -> bool:
        """Whether every chunk is cut."""
        return all(self._storage.exists(self._keys.chunk(index)) for index in reversed(range(self._plan.chunk_count)))

    def _holding(self, start_ms: int, end_ms: int | None) -> Iterator[Chunk]:
        """The chunks whose cores hold some of it, in order, without a look at those after them."""
        start = start_ms + self._origin_ms
        # a true cut lies within SEARCH_MS of a wanted one, so the chunks before these surely end too early
        first = sum(cut + SEARCH_MS <= start for cut in self._plan.wanted_cuts_ms)
        for index in range(first, self._plan.chunk_count):
            chunk = self._chunk(index)
            if chunk.core.duration_ms and chunk.core.end_ms > start:
                yield chunk
            if end_ms is not None and chunk.core.end_ms >= end_ms + self._origin_ms:
                return

    def _part(self, chunk: Chunk, start_ms: int, end_ms: int | None) -> Samples:
        """What of a chunk's core lies in [start_ms, end_ms)."""
        core = chunk.core.shifted(-self._origin_ms)
        start = max(core.start_ms, start_ms)
        end = core.end_ms if end_ms is None else min(core.end_ms, end_ms)
        if start >= end:
            return np.zeros(0, np.int16)
        audio_start = chunk.audio.start_ms - self._origin_ms
        samples = self._samples(chunk)
        return samples[(start - audio_start) * SAMPLES_PER_MS : (end - audio_start) * SAMPLES_PER_MS]

    def _chunk(self, index: int) -> Chunk:
        if index not in self._chunks:
            try:
                data = self._storage.get_bytes(self._keys.chunk(index))
            except ObjectMissing as error:
                raise ChunkNotReady(f"Chunk {index} is not cut yet.") from error
            self._chunks[index] = Chunk.model_validate_json(data)
        return self._chunks[index]

    def _samples(self, chunk: Chunk) -> Samples:
        try:
            return fetch_audio(self._storage, self._keys, chunk)
        except ObjectMissing as error:  # an earlier run has freed it; the split writes it again
            raise AudioMissing(f"The audio of chunk {chunk.index} is not there yet.") from error


def fetch_audio(storage: Storage, keys: JobKeys, chunk: Chunk) -> Samples:
    """All samples of a chunk, its overlaps included.

    Raises ObjectMissing where there are none, StorageUnavailable where they are not what the split wrote.
    """
    data = storage.get_bytes(keys.audio(chunk.index))
    if hashlib.sha256(data).hexdigest() != chunk.audio_sha256:
        raise StorageUnavailable(f"The audio of chunk {chunk.index} is not what was stored: its checksum differs.")
    return read_flac(data, f"the audio of chunk {chunk.index}")


def read_flac(data: bytes, name: str) -> Samples:
    """Samples of a FLAC file of this project's making.

    Raises StorageUnavailable where it is damaged: what was written was whole.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    except soundfile.LibsndfileError as error:
        raise StorageUnavailable(f"Storage gave {name} damaged: {error}") from error
    if rate != SAMPLE_RATE or samples.ndim != 1:
        raise MediaError(
            f"The audio of {name} is not mono at {SAMPLE_RATE} Hz: delete the job's objects and start anew."
        )
    return np.asarray(samples, np.int16)


def lost_part(start_ms: int, end_ms: int, span: Span) -> Span:
    """[start_ms, end_ms) of the wanted span, on the media's clock."""
    return Span.of(min(span.start_ms + start_ms, span.end_ms), min(span.start_ms + end_ms, span.end_ms))
