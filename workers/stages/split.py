"""split_media: decode once, cut in silence, store chunk after chunk while the decode goes on."""

import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from workers.chunking import (
    CANDIDATES,
    CONTEXT_MS,
    SILENCE_MS,
    Cut,
    cut_without_silence,
    longest_first,
    near_part,
    search_windows,
    silences,
)
from workers.context import Context
from workers.errors import MediaError, StorageError
from workers.media import BLOCK_SAMPLES, Decoding, Samples, as_float, describe_truncation, last_packet_ms
from workers.messages import Chunk, JobKeys, JobPlan, SplitMediaInput, SplitMediaOutput
from workers.recognizers import Audio
from workers.sources import Source, identity_of, open_source
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.stages.speakers import needs_audio
from workers.storage import Storage
from workers.voice import is_quiet, quiet_stretches, speech_regions

FLAC_LEVEL = 0.0  # fastest: 10 minutes in 0.2 s; higher levels save a tenth of the bytes for twice the time
SLACK_MS, SLACK_SHARE = 2_000, 0.01  # a decode shorter than the container's claim by both is a media cut off
STORES_AT_ONCE = 2  # finished chunks on their way to storage; more would pile up on disk when it is slow


def split_media(ref: SplitMediaInput, context: Context) -> SplitMediaOutput:
    """Write the job's chunks to storage, each as soon as its end is decided.

    Chunks that an earlier attempt wrote are kept, with their cuts; where all that is needed is there nothing is
    decoded. Audio is needed of chunks without a result, and of all while a voice is not heard yet.
    Raises MediaError where the media is damaged, or breaks off before its end (without allow_gaps).
    """
    began = time.monotonic()
    storage = context.open_storage(ref.storage)
    keys = JobKeys(ref.job)
    plan = JobPlan.model_validate_json(storage.get_bytes(keys.plan))
    there = set(storage.keys(keys.prefix))
    known = _known_chunks(storage, keys, there, plan.chunk_count)
    speakers_open = ref.speakers is not None and needs_audio(storage, keys, ref.speakers, there)
    wanted = {
        index
        for index in range(plan.chunk_count)
        if (speakers_open or keys.result(index) not in there) and _lacks_audio(index, known, keys, there)
    }
    output = _earlier(storage, keys, there) if not wanted else None
    output = output or _split(plan, storage, keys, known, wanted, context)
    if output.missing_from_ms is not None and not plan.request.allow_gaps:
        raise MediaError(describe_truncation(plan.media_name, output.missing_from_ms, plan.duration_ms))
    return output.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


def _lacks_audio(index: int, known: dict[int, Chunk], keys: JobKeys, there: set[str]) -> bool:
    """Whether the chunk is not cut, or its audio is gone; a chunk planned past the media's end never has any."""
    return index not in known or (known[index].audio_sha256 is not None and keys.audio(index) not in there)


def _earlier(storage: Storage, keys: JobKeys, there: set[str]) -> SplitMediaOutput | None:
    """The summary of an earlier split."""
    if keys.split not in there:
        return None
    return SplitMediaOutput.model_validate_json(storage.get_bytes(keys.split))


def _split(
    plan: JobPlan, storage: Storage, keys: JobKeys, known: dict[int, Chunk], wanted: set[int], context: Context
) -> SplitMediaOutput:
    request = plan.request
    source = open_source(
        request.media, context.settings, context.media_cache, context.check_wanted, plan.media_identity
    )
    limit_ms = request.end_ms if request.end_ms is not None and request.end_ms < plan.duration_ms else None
    with ThreadPoolExecutor(1, "identity") as side:
        # beside the decode, which reads the same pages: the file must still be the one that was planned
        identity = side.submit(identity_of, source.path, context.check_wanted)
        with Decoding(source.path, request.audio_track - 1) as decoding:
            tape = Tape(decoding.blocks(), plan.span.start_ms, limit_ms, context)
            with ChunkStore(storage, keys) as store:
                _cut(plan, tape, store, known, wanted)
        if identity.result() != plan.media_identity:
            raise MediaError(f"'{plan.media_name}' changed while it was transcribed: start the command again.")
    output = _summary(plan, source, decoding, tape, limit_ms)
    storage.put_bytes(keys.split, output.model_dump_json().encode())
    return output


def _known_chunks(storage: Storage, keys: JobKeys, there: set[str], count: int) -> dict[int, Chunk]:
    return {
        index: Chunk.model_validate_json(storage.get_bytes(keys.chunk(index)))
        for index in range(count)
        if keys.chunk(index) in there
    }


def _cut(plan: JobPlan, tape: "Tape", store: "ChunkStore", known: dict[int, Chunk], wanted: set[int]) -> None:
    """Cut what the tape holds into the planned number of chunks, and store those that are wanted.

    Cores tile the tape from its start to its end; known chunks keep their cuts.
    """
    windows = search_windows(plan.wanted_cuts_ms, plan.span)
    core_start_ms = audio_start_ms = plan.span.start_ms
    for index in range(plan.chunk_count):
        with store.chunk(index, audio_start_ms, write=index in wanted) as chunk:
            cut = None
            if index < len(windows):
                chunk.extend(tape, windows[index].start_ms)
                cut = _known_cut(index, known) or _decide(tape, windows[index])
            if cut is None or not tape.reaches(cut.at_ms):  # the last chunk, or the media ends before the cut
                chunk.extend(tape, None)
                cut = Cut(tape.end_ms)
            else:
                chunk.extend(tape, cut.at_ms + cut.overlap_ms)
            chunk.finish(Span.of(core_start_ms, cut.at_ms))
        core_start_ms, audio_start_ms = cut.at_ms, cut.at_ms - cut.overlap_ms


def _known_cut(index: int, known: dict[int, Chunk]) -> Cut | None:
    """The cut behind chunk `index` as an earlier attempt made it: another ffmpeg may hear a few samples otherwise."""
    if index in known:
        return Cut(known[index].core.end_ms, known[index].audio.end_ms - known[index].core.end_ms)
    if index + 1 in known:
        return Cut(known[index + 1].core.start_ms, known[index + 1].core.start_ms - known[index + 1].audio.start_ms)
    return None


def _decide(tape: "Tape", window: Span) -> Cut | None:
    """The true cut near the middle of `window`; None where the media ends before it."""
    wanted_ms = window.midpoint_ms
    if not tape.reaches(wanted_ms):
        return None
    audio = as_float(tape.stretch(window.start_ms, window.end_ms))
    return (
        _by_level(audio, window.start_ms, wanted_ms)
        or _by_voice(audio, window)
        or cut_without_silence(wanted_ms, window)
    )


def _by_level(audio: Audio, start_ms: int, wanted_ms: int) -> Cut | None:
    """A cut where it is quiet, and the voice-activity model hears nobody either."""
    for pause in longest_first(quiet_stretches(audio, start_ms), wanted_ms)[:CANDIDATES]:
        middle = Span.of(pause.midpoint_ms - SILENCE_MS // 2, pause.midpoint_ms + SILENCE_MS // 2)
        heard_ms = max(start_ms, middle.start_ms - CONTEXT_MS)
        heard = _part(audio, heard_ms - start_ms, middle.end_ms + CONTEXT_MS - start_ms)
        if not any(voiced.overlap_ms(middle) for voiced in speech_regions(heard, heard_ms)):
            return Cut(pause.midpoint_ms)
    return None


def _by_voice(audio: Audio, window: Span) -> Cut | None:
    """A cut in a pause of the speech over noise, if it is at all quieter there."""
    near = near_part(window)
    heard = _part(audio, near.start_ms - window.start_ms, near.end_ms - window.start_ms)
    whole = Span.of(near.start_ms, near.start_ms + len(heard) // SAMPLES_PER_MS)
    for pause in longest_first(silences(whole, speech_regions(heard, near.start_ms)), window.midpoint_ms):
        at_ms = pause.midpoint_ms - near.start_ms
        if is_quiet(_part(heard, at_ms - SILENCE_MS // 2, at_ms + SILENCE_MS // 2), heard):
            return Cut(pause.midpoint_ms)
    return None


def _part(audio: Audio, start_ms: int, end_ms: int) -> Audio:
    return audio[max(0, start_ms) * SAMPLES_PER_MS : end_ms * SAMPLES_PER_MS]


def _summary(plan: JobPlan, source: Source, decoding: Decoding, tape: "Tape", limit_ms: int | None) -> SplitMediaOutput:
    """What came out, compared with what the plan expected.

    Raises MediaError where ffmpeg gave up, or nothing was decoded.
    """
    expected_ms = plan.duration_ms if limit_ms is None else limit_ms
    missing = expected_ms - tape.end_ms
    broke_off = missing > max(SLACK_MS, expected_ms * SLACK_SHARE) and _file_is_short(source.path, plan.duration_ms)
    if not broke_off and decoding.finished and decoding.returncode:
        raise MediaError(f"'{plan.media_name}' cannot be decoded; ffmpeg says: {decoding.last_complaint}.")
    if tape.is_empty:
        raise MediaError(f"'{plan.media_name}' holds no sound where it should: nothing could be decoded from it.")
    warnings = []
    if broke_off:
        warnings.append(describe_truncation(plan.media_name, tape.end_ms, plan.duration_ms))
    elif decoding.complaint_count:
        warnings.append(
            f"'{plan.media_name}' is damaged: ffmpeg complained {decoding.complaint_count} times while decoding "
            f"(first: {decoding.complaints[0]}), so words may be missing there."
        )
    return SplitMediaOutput(
        duration_ms=max(tape.end_ms, plan.duration_ms) if limit_ms is not None and not broke_off else tape.end_ms,
        chunks=plan.chunk_count,
        warnings=tuple(warnings),
        missing_from_ms=tape.end_ms if broke_off else None,
        seconds=0,
    )


def _file_is_short(path: Path, claimed_ms: int) -> bool:
    """Whether the file itself ends early, and not only its sound before its picture."""
    return claimed_ms - last_packet_ms(path) > max(SLACK_MS, claimed_ms * SLACK_SHARE)


class Tape:
    """The decoded samples between two times of the media, read once, from front to back.

    It remembers the last minute before where it was read to, which is more than a search window is wide,
    so that a cut can be decided with the sound on both its sides; memory does not grow with the length.
    """

    REMEMBERED = 60 * SAMPLE_RATE

    def __init__(self, blocks: Iterator[Samples], start_ms: int, end_ms: int | None, context: Context) -> None:
        self._blocks = blocks
        self._context = context
        self._start = start_ms * SAMPLES_PER_MS
        self._limit = None if end_ms is None else end_ms * SAMPLES_PER_MS
        self._held: deque[tuple[int, Samples]] = deque()  # (index of the first sample, samples), without holes
        self._decoded = 0
        self._ended = False

    @property
    def end_ms(self) -> int:
        """Where the tape ends, in whole milliseconds; the end itself once it was reached."""
        return max(self._start, self._decoded) // SAMPLES_PER_MS

    @property
    def is_empty(self) -> bool:
        return self._decoded <= self._start

    def reaches(self, ms: int) -> bool:
        """Whether there is sound up to `ms`."""
        self._read_to(ms * SAMPLES_PER_MS)
        return self._decoded >= ms * SAMPLES_PER_MS

    def stretch(self, start_ms: int, end_ms: int) -> Samples:
        """The samples of [start_ms, end_ms), fewer at the tape's end."""
        start, end = start_ms * SAMPLES_PER_MS, end_ms * SAMPLES_PER_MS
        self._read_to(end)
        parts = [block[max(0, start - at) : max(0, end - at)] for at, block in self._held]
        return np.concatenate(parts) if parts else np.zeros(0, np.int16)

    def pieces(self, start_ms: int, end_ms: int | None) -> Iterator[Samples]:
        """The same in pieces of up to BLOCK_SAMPLES; without `end_ms`, whole milliseconds to the tape's end."""
        step_ms = BLOCK_SAMPLES // SAMPLES_PER_MS
        while end_ms is None or start_ms < end_ms:
            upto_ms = start_ms + step_ms if end_ms is None else min(end_ms, start_ms + step_ms)
            piece = self.stretch(start_ms, upto_ms)
            yield piece[: len(piece) // SAMPLES_PER_MS * SAMPLES_PER_MS]
            if len(piece) < (upto_ms - start_ms) * SAMPLES_PER_MS:
                return
            start_ms = upto_ms

    def _read_to(self, sample: int) -> None:
        while self._decoded < sample and not self._ended:
            self._context.check_wanted()
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                return
            at, self._decoded = self._decoded, self._decoded + len(block)
            if self._limit is not None and self._decoded >= self._limit:
                block, self._decoded, self._ended = block[: self._limit - at], self._limit, True
            if self._decoded > self._start:
                self._held.append((at, block))
            while self._held and self._held[0][0] + len(self._held[0][1]) < sample - self.REMEMBERED:
                self._held.popleft()


class ChunkStore:
    """Takes chunks as they are cut to storage: encoded here, hashed and stored by a thread beside."""

    def __init__(self, storage: Storage, keys: JobKeys) -> None:
        self._storage = storage
        self._keys = keys
        self._folder = tempfile.TemporaryDirectory(prefix="whisperfleet-split-")
        self._thread = ThreadPoolExecutor(1, "chunk-store")
        self._under_way: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._wait(0)
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
            self._folder.cleanup()

    def chunk(self, index: int, start_ms: int, write: bool) -> "OpenChunk":
        """A chunk whose audio begins at `start_ms`; with `write` false it is there already, and only read past."""
        return OpenChunk(self, index, start_ms, Path(self._folder.name) / f"{index:05d}.flac" if write else None)

    def store(self, chunk: Chunk, path: Path) -> None:
        """Put a finished chunk into storage, soon. Raises what went wrong with an earlier one."""
        self._under_way.append(self._thread.submit(self._put, chunk, path))
        self._wait(STORES_AT_ONCE)

    def _wait(self, allowed: int) -> None:
        while self._under_way and (len(self._under_way) > allowed or self._under_way[0].done()):
            self._under_way.popleft().result()

    def _put(self, chunk: Chunk, path: Path) -> None:
        if chunk.audio.duration_ms:
            chunk = chunk.model_copy(update={"audio_sha256": identity_of(path)})
            self._storage.put_file(self._keys.audio(chunk.index), path)
        path.unlink(missing_ok=True)
        # the record last: who finds it finds the audio whole
        self._storage.put_bytes(self._keys.chunk(chunk.index), chunk.model_dump_json().encode())


class OpenChunk:
    """A chunk being cut: its FLAC file grows as far as it was extended. Without a path nothing is written."""

    def __init__(self, store: ChunkStore, index: int, start_ms: int, path: Path | None) -> None:
        self._store = store
        self._index = index
        self._start_ms = self._reached_ms = start_ms
        self._path = path
        self._file: Any = None  # a soundfile.SoundFile, opened with the first samples

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def extend(self, tape: Tape, to_ms: int | None) -> None:
        """Take the tape up to `to_ms`, or its end."""
        for piece in tape.pieces(self._reached_ms, to_ms):
            self._write(piece)
            self._reached_ms += len(piece) // SAMPLES_PER_MS

    def finish(self, core: Span) -> None:
        """The chunk ends where it was extended to; hand it to the store."""
        if self._path is None:
            return
        if self._file is not None:
            self._file.close()
            self._file = None
        # nothing is left of the media for a chunk planned past its end, not even a neighbour's overlap
        audio = Span.of(self._start_ms, self._reached_ms) if core.duration_ms else core
        self._store.store(Chunk(index=self._index, core=core, audio=audio), self._path)

    def _write(self, samples: Samples) -> None:
        import soundfile

        if self._path is None or not len(samples):
            return
        try:
            if self._file is None:
                self._file = soundfile.SoundFile(
                    self._path, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC", compression_level=FLAC_LEVEL
                )
            self._file.write(samples)
        except (OSError, soundfile.SoundFileError) as error:
            raise StorageError(
                f"Chunk {self._index} cannot be written to {self._path.parent} ({error}): make room, or set TMPDIR."
            ) from error
