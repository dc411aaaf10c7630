"""Who follows a job reads every word once, although segments are divided by speaker after they were told."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from workers.attribution import attribute
from workers.messages import Chunk, ChunkResult, JobKeys
from workers.settings import Settings
from workers.spans import Span
from workers.stitching import stitch
from workers.storage import Storage, open_storage
from workers.transcript import Provenance, Segment, SpeakerTurn, Transcript, Word
from workflows.follow import Follower, untold
from workflows.progress import JobView, from_workflow

KEYS = JobKeys("0123abcd")
CHUNK_MS = 10_000


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    settings = Settings(
        home=tmp_path, server=None, storage=str(tmp_path / "objects"), s3_endpoint=None, ui=None, server_jar=None
    )
    return open_storage(settings.storage, settings)


def result(index: int, words: bool = True) -> ChunkResult:
    core = Span.of(index * CHUNK_MS, (index + 1) * CHUNK_MS)
    said = tuple(
        Word(start_ms=core.start_ms + n * 900, end_ms=core.start_ms + n * 900 + 800, text=f"w{index}{n}", probability=1)
        for n in range(10)
    )
    segments = tuple(
        Segment(
            start_ms=part[0].start_ms,
            end_ms=part[-1].end_ms,
            text=" ".join(word.text for word in part),
            words=part if words else (),
        )
        for part in (said[:6], said[6:])
    )
    chunk = Chunk(index=index, core=core, audio=core)
    return ChunkResult(
        index=index, chunk=chunk, segments=segments, decodes=(), worker="w", attempts=1, seconds={"inference": 1.0}
    )


def finished(results: list[ChunkResult], keep_words: bool, changes_ms: int) -> Transcript:
    """As stitch_transcript leaves it: speakers take turns every `changes_ms`."""
    span = Span.of(0, len(results) * CHUNK_MS)
    turns = [
        SpeakerTurn(start_ms=at, end_ms=at + changes_ms, speaker=f"SPEAKER_0{at // changes_ms % 2}")
        for at in range(0, span.end_ms, changes_ms)
    ]
    return Transcript(
        duration_ms=span.end_ms,
        language="en",
        segments=attribute(stitch(results, (), span, keep_words).segments, turns),
        turns=tuple(turns),
        provenance=Provenance(whisperfleet="0", job="j", media="m", model="m", engine="e", options={}),
    )


def view(done: int, of: int, over: bool = False) -> JobView:
    tasks = [
        {
            "taskType": "transcribe_chunk",
            "taskDefName": "transcribe_chunk",
            "referenceTaskName": f"chunk_{index}",
            "status": "COMPLETED" if index < done else "SCHEDULED",
            "inputData": {"index": index},
        }
        for index in range(of)
    ]
    return from_workflow({"status": "COMPLETED" if over else "RUNNING", "tasks": tasks}, 1_000_000)


def told(segments: Sequence[Segment]) -> list[str]:
    return [word for segment in segments for word in segment.text.split()]


@pytest.mark.parametrize("keep_words", [True, False])
@pytest.mark.parametrize("changes_ms", [1_800, 3_600, 60_000])
@pytest.mark.parametrize("seen", [(), (0, 1, 2, 3), (2,), (1, 3), (4,)])
def test_every_word_is_told_once(storage: Storage, seen: tuple[int, ...], changes_ms: int, keep_words: bool) -> None:
    """Even chunks were heard without word timestamps where none were asked for."""
    results = [result(index, words=keep_words or index % 2 == 1) for index in range(4)]
    follower = Follower(storage, "0123abcd")
    heard: list[str] = []
    for done in seen:
        for index in range(done):
            storage.put_bytes(KEYS.result(index), results[index].model_dump_json().encode())
        fresh = told(follower.fresh(view(done, 4)))
        assert follower.fresh(view(done, 4)) == ()
        heard += fresh
        assert heard == [f"w{index}{n}" for index in range(done) for n in range(10)]
    transcript = finished(results, keep_words, changes_ms)
    assert len(transcript.segments) > 8 or changes_ms > 3_600 or not keep_words
    storage.put_bytes(KEYS.transcript("json"), transcript.model_dump_json().encode())
    rest = follower.fresh(view(4, 4, over=True))

    assert heard + told(rest) == told(transcript.segments)
    assert follower.fresh(view(4, 4, over=True)) == ()


def test_what_storage_does_not_give_now_comes_with_the_next_look(storage: Storage) -> None:
    follower = Follower(storage, "0123abcd")

    assert follower.fresh(view(1, 2)) == ()
    storage.put_bytes(KEYS.result(0), result(0).model_dump_json().encode())
    assert len(told(follower.fresh(view(1, 2)))) == 10


def test_a_text_that_changed_by_a_few_letters_is_not_told_again() -> None:
    """Where words are not found in a segment's text, the text of its parts is made of them."""
    first = Segment(start_ms=0, end_ms=900, text="five more")
    after = (Segment(start_ms=1_000, end_ms=1_900, text="and then"),)
    for moved in (-2, 2):
        assert untold([first, *after], 8 + moved) == (after, 15)
    assert untold([first, *after], 99) == ((), 99)
