"""The samples that come back from a recording's chunks are those that were cut, wherever the cuts are."""

import hashlib
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers import settings as environment
from workers.chunking import SEARCH_MS
from workers.errors import AudioMissing, ChunkNotReady, StorageUnavailable
from workers.messages import Chunk, JobInput, JobKeys, JobPlan
from workers.recording import Recording
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.storage import Storage, open_storage

KEYS = JobKeys("job")
START_MS = 7_000  # as with --start
LENGTH_MS = 4_000
SAMPLES = np.random.default_rng(1).integers(-3000, 3000, LENGTH_MS * SAMPLES_PER_MS).astype(np.int16)


def stored(storage: Storage, cuts_ms: list[int], overlap_ms: int = 0, planned_ms: int = LENGTH_MS) -> JobPlan:
    """The recording cut at `cuts_ms` (from its start), as the split leaves it; later plans may have wanted more."""
    edges = [0, *cuts_ms, LENGTH_MS]
    chunks = list(itertools.pairwise(edges))
    wanted = list(cuts_ms)
    if planned_ms > LENGTH_MS:  # the media ended before its container said: a last chunk is left with nothing
        chunks.append((LENGTH_MS, LENGTH_MS))
        wanted.append(LENGTH_MS + 10)
    for index, (start, end) in enumerate(chunks):
        audio = (
            Span.of(max(0, start - overlap_ms), min(LENGTH_MS, end + overlap_ms)) if end > start else Span.of(end, end)
        )
        sha = None
        if audio.duration_ms:
            file = io.BytesIO()
            part = SAMPLES[audio.start_ms * SAMPLES_PER_MS : audio.end_ms * SAMPLES_PER_MS]
            soundfile.write(file, part, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            storage.put_bytes(KEYS.audio(index), file.getvalue())
            sha = hashlib.sha256(file.getvalue()).hexdigest()
        chunk = Chunk(
            index=index, core=Span.of(start, end).shifted(START_MS), audio=audio.shifted(START_MS), audio_sha256=sha
        )
        storage.put_bytes(KEYS.chunk(index), chunk.model_dump_json().encode())
    return JobPlan(
        job="job",
        request=JobInput(media="a.wav"),
        media_name="a.wav",
        media_identity="0",
        duration_ms=START_MS + planned_ms,
        span=Span.of(START_MS, START_MS + planned_ms),
        wanted_cuts_ms=tuple(START_MS + cut for cut in wanted),
    )


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    folder = tmp_path / "objects"
    folder.mkdir()
    return open_storage(str(folder), environment.load())


def expected(start_ms: int, end_ms: int | None) -> np.ndarray:
    return SAMPLES[start_ms * SAMPLES_PER_MS : None if end_ms is None else end_ms * SAMPLES_PER_MS]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.sets(st.integers(1, LENGTH_MS - 1), max_size=4).map(sorted),
    overlap=st.sampled_from([0, 300]),
    late=st.booleans(),
    start=st.integers(0, LENGTH_MS),
    length=st.one_of(st.none(), st.integers(0, 5_000)),
)
def test_any_stretch_comes_back_whatever_the_cuts(
    storage: Storage, cuts: list[int], overlap: int, late: bool, start: int, length: int | None
) -> None:
    storage.delete(KEYS.prefix)
    recording = Recording(storage, KEYS, stored(storage, cuts, overlap, LENGTH_MS + (500 if late else 0)))
    end = None if length is None else start + length
    assert np.array_equal(recording.read(start, end), expected(start, end))
    assert recording.duration_ms() == LENGTH_MS
    assert np.array_equal(np.concatenate(list(recording.pieces(lambda: None))), SAMPLES)


def test_only_chunks_near_the_stretch_are_fetched(storage: Storage) -> None:
    """A cut may lie SEARCH_MS from where it was wanted, so a long recording is not read whole for a part of it."""
    plan = stored(storage, [1000, 2000, 3000])
    storage.delete(KEYS.chunk(3))
    assert np.array_equal(Recording(storage, KEYS, plan).read(0, 3000), expected(0, 3000))
    early = plan.model_copy(update={"wanted_cuts_ms": (START_MS + 1000 - SEARCH_MS, *plan.wanted_cuts_ms[1:])})
    storage.delete(KEYS.chunk(0))
    assert np.array_equal(Recording(storage, KEYS, early).read(1000, 3000), expected(1000, 3000))
    with pytest.raises(ChunkNotReady):
        Recording(storage, KEYS, plan).read(1000, 3000)  # as far as the plan tells, the first one may hold some


def test_what_is_not_cut_yet_is_waited_for(storage: Storage) -> None:
    plan = stored(storage, [1000, 2000])
    storage.delete(KEYS.audio(1))
    with pytest.raises(AudioMissing, match="audio of chunk 1"):
        Recording(storage, KEYS, plan).read(0, None)
    storage.delete(KEYS.chunk(2))
    with pytest.raises(ChunkNotReady, match="Chunk 2"):  # before any audio is fetched, or the first would be missed
        Recording(storage, KEYS, plan).read(0, None)
    recording = Recording(storage, KEYS, plan)
    assert not recording.is_whole()
    with pytest.raises(ChunkNotReady, match="Chunk 2"):
        recording.duration_ms()


def test_audio_of_other_bytes_is_refused(storage: Storage) -> None:
    plan = stored(storage, [1000])
    storage.put_bytes(KEYS.audio(0), storage.get_bytes(KEYS.audio(1)))
    with pytest.raises(StorageUnavailable, match="checksum"):
        Recording(storage, KEYS, plan).read(0, None)
