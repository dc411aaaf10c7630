"""The wire contract: what forms and old servers send, and what a job's key depends on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import OptionError
from workers.messages import DEFAULT_FORMATS, JobInput, StitchTranscriptInput, job_key
from workers.transcript import Segment, Word

UI_FIELDS = [name for name in JobInput.model_fields if name != "media"]


def test_empty_strings_of_the_form_read_as_the_defaults() -> None:
    assert JobInput.decode({"media": "a.mp3", **dict.fromkeys(UI_FIELDS, "")}) == JobInput(media="a.mp3")


def test_null_reads_as_the_default() -> None:
    assert JobInput.decode({"media": "a.mp3", **dict.fromkeys(UI_FIELDS)}) == JobInput(media="a.mp3")


def test_what_a_form_sends_as_text_is_understood() -> None:
    job = JobInput.decode(
        {"media": "a", "chunk_seconds": "90", "batch_size": "4", "allow_gaps": "true", "formats": "srt, JSON,srt"}
    )
    assert (job.chunk_seconds, job.batch_size, job.allow_gaps, job.formats) == (90, 4, True, ("srt", "json"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("formats", "json,pdf"),
        ("engine", "siri"),
        ("chunk_seconds", "2"),
        ("chunk_seconds", "soon"),
        ("batch_size", "0"),
        ("audio_track", "0"),
        ("beam_size", "99"),
        ("task", "sing"),
        ("formats", ","),
        ("start", "soon"),
        ("end", "1:99"),
    ],
)
def test_a_wrong_value_is_named_with_its_field(field: str, value: str) -> None:
    with pytest.raises(OptionError) as caught:
        JobInput.decode({"media": "a", field: value})
    assert str(caught.value).startswith(f"{field} is '{value.rpartition('json,')[2]}': write ")
    assert "\n" not in str(caught.value)


def test_media_must_be_given() -> None:
    with pytest.raises(OptionError, match="media is missing"):
        JobInput.decode({"media": ""})


def test_the_key_ignores_what_changes_no_word() -> None:
    plain = JobInput(media="a.mp3")
    same = JobInput(media="/else/a.mp3", formats=("srt",), allow_gaps=True, storage="s3://b")
    assert job_key("hash", plain) == job_key("hash", same)


@given(
    st.sampled_from(
        [
            {"model": "tiny"},
            {"language": "de"},
            {"start": "1"},
            {"beam_size": 1},
            {"chunk_seconds": 60},
            {"prompt": "x"},
        ]
    )
)
def test_the_key_changes_with_what_changes_a_word(change: dict[str, object]) -> None:
    assert job_key("hash", JobInput(media="a")) != job_key("hash", JobInput.decode({"media": "a", **change}))
    assert job_key("hash", JobInput(media="a")) != job_key("other", JobInput(media="a"))


def test_lost_chunks_are_told_from_done_ones() -> None:
    task = StitchTranscriptInput.decode(
        {
            "storage": "s",
            "job": "j",
            "chunks": {
                "chunk_0": {"key": "k"},
                "chunk_12": {"error": "ModelError", "reason": "no model"},
                "chunk_3": {},
            },
            "split": {"duration_ms": 1, "chunks": 3, "seconds": 0.1},
            "stage_seconds": {"plan": 1.0, "language": None},
            "formats": None,
        }
    )
    failures = task.chunk_failures()
    assert {index: failure.error for index, failure in failures.items()} == {12: "ModelError", 3: "EngineError"}
    assert task.stage_seconds == {"plan": 1.0}
    assert task.formats == DEFAULT_FORMATS


def test_shifting_a_segment_shifts_its_words() -> None:
    word = Word(start_ms=10, end_ms=20, text="a", probability=1)
    moved = Segment(start_ms=0, end_ms=30, text="a", words=(word,)).shifted(1000)
    assert (moved.start_ms, moved.end_ms) == (1000, 1030)
    assert (moved.words[0].start_ms, moved.words[0].end_ms) == (1010, 1020)
