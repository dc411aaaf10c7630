"""Which objects a rented machine may touch: exactly those that the stages do, found out by running them."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioning import grants
from provisioning.gateway_probes import MemoryStorage
from provisioning.grants import Grant, NoGrant, granted, reach_ms, shown
from tests.support.objects import (
    CUTS_MS,
    JOB,
    KEYS,
    LENGTH_MS,
    SECRETS,
    START_MS,
    Recorded,
    Scribe,
    fill,
    put_speakers,
    vote,
)
from tests.support.stages import ToneDiarizer, make_context
from workers.chunking import SEARCH_MS
from workers.diarizers import ge2e
from workers.messages import (
    DiarizeChunkInput,
    JobPlan,
    JobRef,
    SpeakerPlan,
    SpeakerResult,
    TranscribeChunkInput,
)
from workers.spans import SAMPLES_PER_MS, Span
from workers.stages.diarize import diarize_chunk
from workers.stages.language import detect_language
from workers.stages.recognize import transcribe_chunk
from workers.storage import Storage
from workers.transcript import SpeakerTurn


@pytest.fixture
def storage() -> Storage:
    return MemoryStorage({})


def transcribe(storage: Storage, index: int = 1) -> Recorded:
    seen = Recorded(storage)
    context = make_context(open_storage=lambda address: seen, recognizer=lambda options: Scribe())
    transcribe_chunk(TranscribeChunkInput(storage="x", job=JOB, index=index), context)
    return seen


def detect(storage: Storage) -> Recorded:
    seen = Recorded(storage)
    detect_language(
        JobRef(storage="x", job=JOB),
        make_context(open_storage=lambda address: seen, recognizer=lambda options: Scribe()),
    )
    return seen


def diarize(storage: Storage, speakers: SpeakerPlan, index: int, version: int = 1) -> Recorded:
    seen = Recorded(storage)
    diarizer = ToneDiarizer(version=version)
    context = make_context(open_storage=lambda address: seen, diarizer=lambda name, model: diarizer)
    diarize_chunk(DiarizeChunkInput(storage="x", job=JOB, speakers=speakers.key, index=index), context)
    return seen


def data(**more: Any) -> dict[str, Any]:
    return {"storage": "x", "job": JOB, **more}


def allows(grant: Grant, seen: Recorded) -> None:
    assert [key for key in seen.reads if not grant.may_read(key)] == []
    assert [key for key in seen.writes if not grant.may_write(key)] == []
    assert [prefix for prefix in seen.lists if not grant.may_list(prefix)] == []
    assert [key for key in seen.deletes if not grant.may_delete(key)] == []


# ---- the stages ----


def test_a_chunks_grant_is_what_transcribing_it_touches_in_one_case_or_another(storage: Storage) -> None:
    plan = fill(storage)
    vote(storage)
    grant = granted("transcribe_chunk", data(index=1), plan)

    first = transcribe(storage)
    again = transcribe(storage)  # finds its result

    for seen in (first, again):
        allows(grant, seen)
    assert first.reads | again.reads == grant.reads
    assert first.writes == grant.writes
    assert grant.own is None
    assert grant.audio == {KEYS.audio(1)}


def test_the_votes_grant_is_what_voting_touches(storage: Storage) -> None:
    plan = fill(storage)
    grant = granted("detect_language", data(), plan)

    first, again = detect(storage), detect(storage)

    for seen in (first, again):
        allows(grant, seen)
    assert first.reads | again.reads == grant.reads
    assert first.writes == grant.writes


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_voices_grant_is_what_diarizing_touches(storage: Storage, index: int) -> None:
    plan, speakers = fill(storage), put_speakers(storage)
    grant = granted("diarize_chunk", data(index=index, speakers=speakers.key), plan, speakers)

    first = diarize(storage, speakers, index)
    again = diarize(storage, speakers, index)
    storage.put_bytes(KEYS.speaker_result(speakers.key), SpeakerResult().model_dump_json().encode())
    answered = diarize(storage, speakers, index)
    storage.discard([KEYS.speaker_result(speakers.key)])
    other = diarize(storage, speakers, index, version=2)  # deletes what another version left

    everything = (first, again, answered, other)
    for seen in everything:
        allows(grant, seen)
    touched = set().union(*(seen.reads for seen in everything))
    fixed = {KEYS.plan, KEYS.speaker_plan(speakers.key), KEYS.speaker_result(speakers.key)}
    assert fixed <= touched
    assert {key for key in touched if grant.is_own(key)}
    assert other.deletes == first.writes
    records = {KEYS.chunk(number) for number in range(3)}
    assert grant.reads == fixed | records | grant.audio
    if index == 2:  # where the recording ends all records are read
        assert records <= touched


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moved=st.tuples(*[st.integers(-9_000, 9_000)] * 2),
    seconds=st.integers(10, 60),
    index=st.integers(0, 8),
)
def test_wherever_the_true_cuts_lie_the_audio_that_is_needed_is_granted(
    storage: Storage, moved: tuple[int, int], seconds: int, index: int
) -> None:
    storage.delete(KEYS.prefix)
    true_cuts = tuple(cut + by for cut, by in zip(CUTS_MS, moved, strict=True))
    plan, speakers = fill(storage, true_cuts, CUTS_MS), put_speakers(storage, seconds)
    index %= speakers.chunk_count

    grant = granted("diarize_chunk", data(index=index, speakers=speakers.key), plan, speakers)

    allows(grant, diarize(storage, speakers, index))


@given(
    cuts=st.lists(st.integers(1, 3_599_999), unique=True, max_size=30).map(sorted),
    seconds=st.integers(10, 3600),
    index=st.integers(0, 400),
)
def test_no_audio_is_granted_that_no_window_can_reach(cuts: list[int], seconds: int, index: int) -> None:
    plan = a_plan(cuts)
    count = -(-3_600_000 // (seconds * 1000))
    index %= count
    speakers = SpeakerPlan(diarizer="ge2e", chunk_seconds=seconds, chunk_count=count)

    grant = granted("diarize_chunk", data(index=index, speakers=speakers.key), plan, speakers)

    start, end = reach_ms(plan.span, speakers, index)
    end = plan.span.end_ms if end is None else end
    edges = [plan.span.start_ms, *plan.wanted_cuts_ms, plan.span.end_ms]
    near = {
        KEYS.audio(number)
        for number in range(plan.chunk_count)
        if edges[number] - SEARCH_MS < end and edges[number + 1] + SEARCH_MS > start
    }
    assert grant.audio <= near
    assert grant.audio, "whatever the cuts, some chunk holds it"


def a_plan(cuts: list[int]) -> JobPlan:
    return JobPlan.model_validate(
        {
            "job": JOB,
            "request": {"media": "x"},
            "media_name": "x",
            "media_identity": "x",
            "duration_ms": START_MS + 3_600_000,
            "span": {"start_ms": START_MS, "end_ms": START_MS + 3_600_000},
            "wanted_cuts_ms": [START_MS + cut for cut in cuts],
        }
    )


def test_the_longest_window_is_the_diarizers_own() -> None:
    assert -(-ge2e.WINDOW // SAMPLES_PER_MS) == grants.GE2E_WINDOW_MS


# ---- what is not granted ----


@pytest.mark.parametrize("kind", grants.KINDS)
def test_nothing_of_other_chunks_other_jobs_or_the_finished_text(storage: Storage, kind: str) -> None:
    plan, speakers = fill(storage), put_speakers(storage)
    grant = granted(kind, data(index=0, speakers=speakers.key), plan, speakers)
    other = KEYS.windows(speakers.voices, 1, "0" * 64)
    foreign = [
        KEYS.transcript("json"),
        KEYS.transcript("txt"),
        KEYS.speech,
        KEYS.split,
        KEYS.clip(SECRETS[5]),
        KEYS.result(1),
        KEYS.audio(2),
        other,
        "jobs/other/plan.json",
        "jobs/other/audio/00000.flac",
        KEYS.plan + "/..",
        "",
        "plan.json",
    ]
    for key in foreign:
        assert not grant.may_read(key), key
        assert not grant.may_write(key), key
        assert not grant.may_delete(key), key
    for key in (KEYS.plan, KEYS.chunk(0), KEYS.audio(0), KEYS.speaker_plan(speakers.key)):
        assert not grant.may_write(key)
        assert not grant.may_delete(key)
    for prefix in ("", "jobs/", KEYS.prefix, KEYS.speakers, KEYS.windows(speakers.voices, 1), f"{KEYS.prefix}voices/"):
        assert not grant.may_list(prefix)


@pytest.mark.parametrize("name", ["x", "0" * 15, "0" * 17, "A" * 16, "../../../plan", "0" * 16 + "/x", "0" * 15 + "\n"])
def test_windows_have_names_of_their_own_form_only(name: str) -> None:
    speakers = SpeakerPlan(diarizer="ge2e", chunk_seconds=30, chunk_count=3)
    grant = granted("diarize_chunk", data(index=0, speakers=speakers.key), a_plan([]), speakers)
    assert grant.own is not None
    assert grant.is_own(f"{grant.own}{'0' * 16}.npz")
    assert not grant.is_own(f"{grant.own}{name}.npz")
    assert not grant.is_own(f"{grant.own}{name}")


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("transcribe_chunk", {"index": 3}),
        ("transcribe_chunk", {"index": -1}),
        ("transcribe_chunk", {"index": True}),
        ("transcribe_chunk", {"index": "1"}),
        ("transcribe_chunk", {}),
        ("transcribe_chunk", {"index": 1, "job": "other"}),
        ("diarize_chunk", {"index": 1}),
        ("diarize_chunk", {"index": 1, "speakers": "other"}),
        ("diarize_chunk", {"index": 3, "speakers": "right"}),
        ("stitch_transcript", {"index": 1}),
        ("plan_media", {}),
        ("", {}),
    ],
)
def test_an_input_that_fits_no_job_is_granted_nothing(kind: str, wrong: dict[str, Any]) -> None:
    speakers = SpeakerPlan(diarizer="ge2e", chunk_seconds=30, chunk_count=3)
    if wrong.get("speakers") == "right":
        wrong = {**wrong, "speakers": speakers.key}
    with pytest.raises(NoGrant):
        granted(kind, data(**wrong), a_plan([1000, 2000]), speakers)


# ---- what is shown ----


@pytest.mark.parametrize("kind", grants.KINDS)
def test_what_is_shown_holds_no_secret_and_all_that_the_stage_needs(storage: Storage, kind: str) -> None:
    plan, speakers = fill(storage, model="turbo", language="es", beam_size=3), put_speakers(storage)
    answer = SpeakerResult(
        turns=(SpeakerTurn(start_ms=0, end_ms=5, speaker=SECRETS[3]),), missing=(Span.of(0, LENGTH_MS),)
    )
    storage.put_bytes(KEYS.speaker_result(speakers.key), answer.model_dump_json().encode())

    keys = [KEYS.plan, KEYS.speaker_plan(speakers.key), KEYS.speaker_result(speakers.key)]
    seen = [shown(kind, key, storage.get_bytes(key)) for key in keys]

    for told in seen:
        assert [secret for secret in SECRETS if secret.encode() in told] == []
    told_plan = JobPlan.model_validate_json(seen[0])
    assert told_plan.request.recognize_options() == plan.request.recognize_options()
    assert told_plan.language_samples == plan.language_samples
    told_speakers = SpeakerPlan.model_validate_json(seen[1])
    assert told_speakers.voices == speakers.voices
    assert (told_speakers.chunk_seconds, told_speakers.chunk_count) == (30, 3)
    assert SpeakerResult.model_validate_json(seen[2]).missing
    if kind == "diarize_chunk":
        assert (told_plan.span, told_plan.wanted_cuts_ms) == (plan.span, plan.wanted_cuts_ms)
    else:
        assert (told_plan.span, told_plan.wanted_cuts_ms) == (Span.of(0, 0), ())
