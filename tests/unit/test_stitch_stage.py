"""stitch_transcript on a folder that holds what the other stages would have left there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.stages import make_context
from workers.context import Context
from workers.errors import JobError, WorkAborted
from workers.messages import (
    Chunk,
    ChunkResult,
    JobInput,
    JobKeys,
    JobPlan,
    LanguageVote,
    SplitMediaOutput,
    StitchTranscriptInput,
)
from workers.settings import Settings
from workers.spans import Span
from workers.stages.stitch import stitch_transcript
from workers.storage import Storage
from workers.transcript import Decode, Segment, Transcript, Word

JOB = "0123abcd"
KEYS = JobKeys(JOB)
CHUNK_MS = 10_000
COUNT = 4


@pytest.fixture
def context(tmp_path: Path) -> Context:
    settings = Settings(
        home=tmp_path, server=None, storage=str(tmp_path / "objects"), s3_endpoint=None, ui=None, server_jar=None
    )
    return make_context(settings)


@pytest.fixture
def storage(context: Context) -> Storage:
    return context.open_storage(context.settings.storage)


def fill(storage: Storage, lost: tuple[int, ...] = (), silent: bool = False, **request: Any) -> None:
    """A job of COUNT chunks of CHUNK_MS, each saying "word <index>", without the results of `lost`."""
    span = Span.of(0, COUNT * CHUNK_MS)
    plan = JobPlan(
        job=JOB,
        request=JobInput(media="https://host/talk.mp3?signature=secret", **request),
        media_name="talk.mp3",
        media_identity="x",
        duration_ms=span.end_ms,
        span=span,
        wanted_cuts_ms=tuple(range(CHUNK_MS, span.end_ms, CHUNK_MS)),
        language_samples=1,
    )
    put(storage, KEYS.plan, plan)
    put(storage, KEYS.language, LanguageVote(language="en", votes={"en": 1.5}))
    storage.put_bytes(KEYS.language_sample(0), b"flac")
    for index in range(COUNT):
        core = Span.of(index * CHUNK_MS, (index + 1) * CHUNK_MS)
        chunk = Chunk(index=index, core=core, audio=core, audio_sha256="00")
        storage.put_bytes(KEYS.audio(index), b"flac")
        put(storage, KEYS.chunk(index), chunk)
        if index not in lost:
            put(storage, KEYS.result(index), result(chunk, silent))


def result(chunk: Chunk, silent: bool = False, decodes: tuple[Decode, ...] = ()) -> ChunkResult:
    at_ms = chunk.core.start_ms
    words = tuple(
        Word(start_ms=at_ms + ms, end_ms=at_ms + ms + 400, text=text, probability=0.9)
        for ms, text in ((1_000, "word"), (1_500, str(chunk.index)))
    )
    said = Segment(start_ms=at_ms + 1_000, end_ms=at_ms + 1_900, text=f"word {chunk.index}", words=words)
    return ChunkResult(
        index=chunk.index,
        chunk=chunk,
        language="de" if chunk.index == 0 else "en",
        segments=() if silent else (said,),
        decodes=decodes,
        worker=f"w{chunk.index}",
        attempts=1,
        seconds={"fetch": 0.5, "inference": 2.0},
    )


def put(storage: Storage, key: str, message: Any) -> None:
    storage.put_bytes(key, message.model_dump_json().encode())


def task(storage: Storage, failed: tuple[int, ...] = (), **more: Any) -> StitchTranscriptInput:
    outputs: dict[str, Any] = {
        f"chunk_{index}": {"error": "EngineError", "reason": "the engine broke."}
        if index in failed
        else {"key": KEYS.result(index), "seconds": {"inference": 2.0, "store": 0.25}}
        for index in range(COUNT)
    }
    split = SplitMediaOutput(duration_ms=COUNT * CHUNK_MS, chunks=COUNT, seconds=1.0)
    data: dict[str, Any] = {
        "storage": storage.address,
        "job": JOB,
        "workflow_id": "wf-1",
        "chunks": outputs,
        "split": split,
        "stage_seconds": {"plan": 0.5, "language": None, "split": 1.0},
    }
    return StitchTranscriptInput.decode(data | more)


def written(storage: Storage) -> Transcript:
    return Transcript.model_validate_json(storage.get_bytes(KEYS.transcript("json")))


def test_a_whole_job_is_written_and_its_audio_freed(storage: Storage, context: Context) -> None:
    fill(storage)

    output = stitch_transcript(task(storage, formats="srt,txt"), context)

    transcript = written(storage)
    assert transcript.text == "word 0 word 1 word 2 word 3"
    assert (transcript.language, transcript.duration_ms, transcript.gaps) == ("en", 40_000, ())
    assert set(output.files) == {"srt", "txt"}
    assert Path(unquote(urlsplit(output.files["txt"]).path)).read_text() == "word 0\nword 1\nword 2\nword 3\n"
    assert (output.words, output.chunks, output.gaps, output.warnings) == (8, 4, 0, ())
    left = list(storage.keys(KEYS.prefix))
    assert not [key for key in left if key.endswith(".flac")]
    assert {KEYS.chunk(index) for index in range(COUNT)} | {KEYS.result(index) for index in range(COUNT)} <= set(left)


def test_provenance_says_where_each_chunk_came_from_and_nothing_secret(storage: Storage, context: Context) -> None:
    fill(storage)

    output = stitch_transcript(task(storage), context)

    provenance = written(storage).provenance
    assert [record.worker for record in provenance.chunks] == ["w0", "w1", "w2", "w3"]
    assert {record.rtfx for record in provenance.chunks} == {5.0}
    assert provenance.language_votes == {"en": 1.5}
    assert provenance.seconds.items() >= {"plan": 0.5, "split": 1.0, "inference": 8.0, "store": 1.0}.items()
    assert output.seconds.keys() == provenance.seconds.keys()
    assert "secret" not in provenance.model_dump_json()


def test_the_same_bytes_come_out_again_but_for_the_provenance(storage: Storage, context: Context) -> None:
    fill(storage)
    stitch_transcript(task(storage), context)
    first = {form: storage.get_bytes(KEYS.transcript(form)) for form in ("json", "srt", "vtt", "txt", "tsv")}

    stitch_transcript(task(storage, workflow_id="wf-2"), replace(context, worker="elsewhere"))

    for form, data in first.items():
        again = storage.get_bytes(KEYS.transcript(form))
        if form == "json":
            head, _, tail = again.partition(b'"provenance"')
            assert data.startswith(head)
            assert b"wf-2" in tail
        else:
            assert again == data


def test_lost_chunks_fail_the_job_by_name_and_keep_everything(storage: Storage, context: Context) -> None:
    fill(storage, lost=(1, 3))
    before = list(storage.keys(KEYS.prefix))

    with pytest.raises(JobError) as caught:
        stitch_transcript(task(storage, failed=(1, 3)), context)

    says = str(caught.value)
    assert says.startswith("2 of 4 chunks could not be transcribed: 00:00:10–00:00:20 (the engine broke); 00:00:30")
    assert "whisperfleet jobs retry wf-1" in says
    assert list(storage.keys(KEYS.prefix)) == before


def test_lost_chunks_are_gaps_where_that_is_allowed(storage: Storage, context: Context) -> None:
    fill(storage, lost=(1,))

    output = stitch_transcript(task(storage, failed=(1,), allow_gaps=True), context)

    (gap,) = written(storage).gaps
    assert (gap.start_ms, gap.end_ms, gap.chunk, gap.error) == (10_000, 20_000, 1, "EngineError")
    assert written(storage).text == "word 0 word 2 word 3"
    assert output.gaps == 1
    assert storage.exists(KEYS.audio(1)), "a retry needs it"


def test_a_result_counts_although_its_task_failed(storage: Storage, context: Context) -> None:
    fill(storage)

    stitch_transcript(task(storage, failed=(2,)), context)

    assert written(storage).text == "word 0 word 1 word 2 word 3"


def test_the_missing_end_of_a_truncated_media_is_a_gap_without_a_chunk(storage: Storage, context: Context) -> None:
    fill(storage)
    put(storage, KEYS.plan, plan_of(storage).model_copy(update={"span": Span.of(0, 60_000)}))
    split = SplitMediaOutput(duration_ms=40_000, chunks=COUNT, warnings=("broken",), missing_from_ms=40_000, seconds=1)

    output = stitch_transcript(task(storage, split=split, allow_gaps=True), context)

    (gap,) = written(storage).gaps
    assert (gap.start_ms, gap.end_ms, gap.chunk) == (40_000, 60_000, None)
    assert output.warnings == ("broken",)


def test_a_media_shorter_than_its_container_claims_is_whole(storage: Storage, context: Context) -> None:
    fill(storage)
    put(storage, KEYS.plan, plan_of(storage).model_copy(update={"span": Span.of(0, 40_700)}))

    assert stitch_transcript(task(storage), context).gaps == 0


def test_silence_succeeds_with_a_warning(storage: Storage, context: Context) -> None:
    fill(storage, silent=True)

    output = stitch_transcript(task(storage), context)

    assert written(storage).segments == ()
    assert written(storage).language is None
    assert output.warnings == ("No speech was found in 'talk.mp3': the transcript is empty.",)


@pytest.mark.parametrize(("asked", "language"), [("fr", "fr"), ("per-chunk", "en"), ("auto", "en")])
def test_the_language_is_the_given_the_voted_or_the_most_spoken(
    storage: Storage, context: Context, asked: str, language: str
) -> None:
    fill(storage, language=asked)

    assert stitch_transcript(task(storage), context).language == language


def test_words_are_left_out_where_they_were_not_asked_for(storage: Storage, context: Context) -> None:
    fill(storage, word_timestamps=False)

    output = stitch_transcript(task(storage), context)

    assert all(segment["words"] == [] for segment in json.loads(storage.get_bytes(KEYS.transcript("json")))["segments"])
    assert output.words == 8


def test_a_chunk_that_stayed_suspicious_is_a_warning(storage: Storage, context: Context) -> None:
    fill(storage)
    chunk = Chunk.model_validate_json(storage.get_bytes(KEYS.chunk(1)))
    decodes = (
        Decode(settings={}, kept=False, suspicions=("worse",), score=2),
        Decode(settings={}, kept=True, suspicions=("text over silence",), score=1),
    )
    put(storage, KEYS.result(1), result(chunk, decodes=decodes))

    (warning,) = stitch_transcript(task(storage), context).warnings

    assert warning.startswith("The text of 00:00:10–00:00:20 may be wrong")
    assert warning.endswith("text over silence.")


def test_a_cancelled_task_stops(storage: Storage, context: Context) -> None:
    fill(storage)

    with pytest.raises(WorkAborted):
        stitch_transcript(task(storage), replace(context, aborted=lambda: True))


def plan_of(storage: Storage) -> JobPlan:
    return JobPlan.model_validate_json(storage.get_bytes(KEYS.plan))
