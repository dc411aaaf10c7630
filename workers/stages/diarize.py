"""diarize_chunk: the voices in the windows that one diarization chunk owns, stored with a hash."""

import contextlib
import hashlib
import time
from dataclasses import dataclass

from workers.context import Context
from workers.diarizers import DiarizerSpec, Windows
from workers.diarizers.grid import count_windows, owned, reach
from workers.diarizers.packing import pack, unpack
from workers.errors import ObjectMissing, StorageUnavailable
from workers.media import Samples
from workers.messages import DiarizeChunkInput, DiarizeChunkOutput, JobKeys, SpeakerPlan
from workers.recording import Recording
from workers.spans import SAMPLES_PER_MS
from workers.stages.recognize import read_plan
from workers.stages.speakers import audio_awaited, complete_answer, read_speaker_plan
from workers.storage import Storage


def diarize_chunk(task: DiarizeChunkInput, context: Context) -> DiarizeChunkOutput:
    """Hear the windows of chunk `task.index`, or find them done by the same version of the same diarizer.

    Raises ChunkNotReady while the split has not written all of the audio, EngineError where the model fails,
    ModelError where this worker has none.
    """
    storage = context.open_storage(task.storage)
    keys = JobKeys(task.job)
    plan = read_plan(storage, keys)
    speakers = read_speaker_plan(storage, keys, task.speakers)
    earlier = _earlier(storage, keys.windows(speakers.voices, task.index))
    if earlier and complete_answer(storage, keys, task.speakers) is not None:
        return _output(task, earlier[0], context, reused=True, seconds={})
    diarizer = context.diarizer(speakers.diarizer, speakers.model)
    done = next((stored for stored in earlier if stored.windows.spec_hash == diarizer.spec.hash), None)
    if done is not None:
        return _output(task, done, context, reused=True, seconds={})
    storage.discard(stored.key for stored in earlier)  # of another version: the split must not take them for done
    began = time.monotonic()
    with audio_awaited(context):
        audio, windows = _fetch(Recording(storage, keys, plan), speakers, task.index, diarizer.spec)
    fetched = time.monotonic()
    heard = diarizer.hear(audio, windows, context.check_wanted)
    diarized = time.monotonic()
    data = pack(heard)
    sha256 = hashlib.sha256(data).hexdigest()
    stored = _Stored(keys.windows(speakers.voices, task.index, sha256), sha256, heard)
    storage.put_bytes(stored.key, data)
    seconds = {
        "fetch_voices": round(fetched - began, 3),
        "diarize": round(diarized - fetched, 3),
        "store_voices": round(time.monotonic() - diarized, 3),
    }
    return _output(task, stored, context, reused=False, seconds=seconds)


@dataclass(frozen=True)
class _Stored:
    """Windows and the object that holds them."""

    key: str
    sha256: str
    windows: Windows


def _earlier(storage: Storage, beginning: str) -> list[_Stored]:
    """What earlier attempts have left whole, of whatever version."""
    found = []
    for key in storage.keys(beginning):
        with contextlib.suppress(ObjectMissing, StorageUnavailable):  # a damaged one is heard again
            data = storage.get_bytes(key)
            found.append(_Stored(key, hashlib.sha256(data).hexdigest(), unpack(data)))
    return found


def _fetch(recording: Recording, speakers: SpeakerPlan, index: int, spec: DiarizerSpec) -> tuple[Samples, range]:
    """The samples of the chunk's windows, from the first one's first, and which windows there really are."""
    first, stop = owned(index, speakers.chunk_count, speakers.chunk_seconds, spec)
    start, end = reach(first, stop, spec)
    start_ms = start // SAMPLES_PER_MS
    read = recording.read(start_ms, None if end is None else -(-end // SAMPLES_PER_MS))
    audio = read[start - start_ms * SAMPLES_PER_MS :][: None if end is None else end - start]
    if stop is None or end is None or len(audio) < end - start:  # the recording ends in this chunk, or before it
        there = count_windows(recording.duration_ms() * SAMPLES_PER_MS, spec)
        stop = there if stop is None else min(stop, there)
    return audio, range(first, max(first, stop))


def _output(
    task: DiarizeChunkInput, stored: _Stored, context: Context, reused: bool, seconds: dict[str, float]
) -> DiarizeChunkOutput:
    return DiarizeChunkOutput(
        index=task.index,
        key=stored.key,
        sha256=stored.sha256,
        spec=stored.windows.spec_hash,
        windows=len(stored.windows.index),
        worker=context.worker,
        attempts=context.attempt,
        reused=reused,
        seconds=seconds,
    )
