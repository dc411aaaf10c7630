"""The published schema is current, takes what is written, and refuses what is not a transcript."""

import json
from typing import Any

import jsonschema
import pytest

from workers.formats import render
from workers.schemas import TRANSCRIPT_SCHEMA, transcript_schema
from workers.spans import Span
from workers.transcript import ChunkRecord, Decode, Gap, Provenance, Segment, Speaker, SpeakerTurn, Transcript, Word

FULL = Transcript(
    duration_ms=60_000,
    language="en",
    segments=(
        Segment(
            start_ms=0,
            end_ms=900,
            text="Hello.",
            speaker="Ann",
            words=(
                Word(start_ms=0, end_ms=900, text="Hello.", probability=0.5, speaker="Ann", speaker_confidence=0.9),
            ),
        ),
        Segment(start_ms=2_000, end_ms=2_500, text="Who?", no_speaker="no turn near"),
    ),
    speakers=(Speaker(name="Ann", spoken_ms=900, similarity=0.9), Speaker(name="SPEAKER_00", spoken_ms=0)),
    turns=(SpeakerTurn(start_ms=0, end_ms=900, speaker="Ann"),),
    gaps=(Gap(start_ms=30_000, end_ms=60_000, chunk=None, error="MediaError", reason="cut off"),),
    warnings=("a warning",),
    provenance=Provenance(
        whisperfleet="0.1.0",
        job="0123",
        media="talk.mp3",
        model="demo",
        engine="faster-whisper",
        options={"beam_size": 5, "prompt": None},
        chunks=(
            ChunkRecord(
                index=0,
                core=Span.of(0, 30_000),
                audio=Span.of(0, 33_000),
                decodes=(Decode(settings={"one_by_one": False}, kept=True, score=0.1),),
            ),
        ),
        seconds={"plan": 0.5},
        diarization={"diarizer": "ge2e", "speakers": 2, "eigenvalues": [0.0, 0.1], "asked": None},
    ),
)


def validator() -> Any:
    schema = json.loads(TRANSCRIPT_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_published_schema_is_current() -> None:
    assert TRANSCRIPT_SCHEMA.read_text(encoding="utf-8") == transcript_schema(), "run: python -m workers.schemas"


@pytest.mark.parametrize("transcript", [FULL, Transcript(duration_ms=0, language=None, provenance=FULL.provenance)])
def test_what_is_written_is_valid(transcript: Transcript) -> None:
    assert [fault.message for fault in validator().iter_errors(json.loads(render(transcript, "json")))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("duration_ms",), 1.5),
        (("duration_ms",), -1),
        (("segments", 0, "start_ms"), "0"),
        (("segments", 0, "words", 0, "probability"), 1.5),
        (("segments", 0, "surprise"), 1),
        (("schema_version",), 1),
        (("segments", 0, "no_speaker"), "forgot"),
        (("segments", 0, "words", 0, "speaker_confidence"), 1.5),
        (("speakers", 0, "spoken_ms"), -1),
        (("turns", 0, "speaker"), None),
        (("gaps", 0, "reason"), None),
    ],
)
def test_what_is_no_transcript_is_refused(path: tuple[Any, ...], value: Any) -> None:
    document = json.loads(render(FULL, "json"))
    part = document
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value

    assert not validator().is_valid(document)
