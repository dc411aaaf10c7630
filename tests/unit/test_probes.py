"""Known questions: they look like tasks, an honest machine passes, a lying one is found, nobody else suffers."""

import io
import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from provisioning import gateway_probes as probes_module
from provisioning.gateway_leases import Lease, owner_of
from provisioning.gateway_probes import (
    FORGOTTEN_MS,
    MemoryStorage,
    Probes,
    Said,
    Shares,
    demo_samples,
    demo_sentences,
    differs,
    heard,
    words_of,
)
from provisioning.gateway_results import check, check_object
from provisioning.grants import granted, shown
from tests.support.objects import JOB, KEYS, fill, lease
from workers.messages import Chunk, ChunkResult, JobKeys, JobPlan, RecognizeOptions
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS
from workers.storage import Storage
from workers.transcript import Segment, Word

A, B, C, D = "machine00a", "machine00b", "machine00c", "machine00d"
WORDS = [
    *("the", "queen", "and", "a", "farmer", "moved", "two", "yellow", "things"),
    *("before", "the", "singer", "followed", "an", "empty", "hammer", "home"),
]


def words(*replaced: int) -> tuple[Said, ...]:
    return tuple(Said(f"other{i}" if i in replaced else word, 300 * i) for i, word in enumerate(WORDS))


def new(**more: Any) -> Probes:
    return Probes(Shares(**{"canary": 0.01, "duplicate": 0.0, **more}), rng=random.Random(7))


def handed(task: dict[str, Any], nonce: str) -> Lease:
    return Lease.of(task, nonce, "grant", 0, probe=True)


def answer(probes: Probes, mine: Lease, said: Sequence[Said], at_ms: int = 0) -> str | None:
    """What an honest client does with a task: read, store, hand in; here with the words as given."""
    store = probes.store(mine)
    keys, index = JobKeys(mine.job), mine.index or 0
    plan = JobPlan.model_validate_json(store.get_bytes(keys.plan))
    grant = granted(mine.kind, mine.data, plan)
    for key in (keys.plan, keys.chunk(index), keys.audio(index)):
        assert grant.may_read(key)
        shown(mine.kind, key, store.get_bytes(key)) if key != keys.audio(index) else None
    chunk = Chunk.model_validate_json(store.get_bytes(keys.chunk(index)))
    segments = []
    reached = chunk.audio.start_ms
    for one in said:
        start = max(reached, min(chunk.audio.start_ms + (one.at_ms or 0) + at_ms, chunk.audio.end_ms))
        word = Word(start_ms=start, end_ms=start, text=one.word, probability=1)
        segments.append(Segment(start_ms=start, end_ms=start, text=one.word, words=(word,)))
        reached = start
    result = ChunkResult(
        index=index,
        chunk=chunk,
        language="en",
        segments=tuple(segments),
        decodes=(),
        worker="x",
        attempts=1,
        seconds={},
    )
    data = result.model_dump_json().encode()
    accepted = check_object(mine, keys.result(index), data, plan, store.get_bytes)
    store.put_bytes(keys.result(index), accepted.data)
    mine.written[keys.result(index)] = accepted.sha256
    output = {
        "index": index, "key": keys.result(index), "worker": "x", "attempts": 1, "words": len(said),
        "audio_ms": chunk.audio.duration_ms, "seconds": {},
    }  # fmt: skip
    verdict = check(mine, "COMPLETED", output, store.get_bytes)
    assert verdict.ok, verdict.reason
    return probes.judge(mine, verdict.output)


def known_job(worker: str, said: Sequence[Said] = words(), **asked: Any) -> tuple[Storage, JobPlan]:
    """A job whose chunk 1 this worker has done."""
    storage = MemoryStorage({})
    plan = fill(storage, **{"model": "some/model", "language": "en", **asked})
    chunk = Chunk.model_validate_json(storage.get_bytes(KEYS.chunk(1)))
    segments = []
    for one in said:
        at = chunk.audio.start_ms + (one.at_ms or 0)
        word = Word(start_ms=at, end_ms=at + 200, text=one.word, probability=1)
        segments.append(Segment(start_ms=at, end_ms=at + 200, text=one.word, words=(word,)))
    result = ChunkResult(
        index=1, chunk=chunk, language="en", segments=tuple(segments), decodes=(), worker=worker, attempts=1, seconds={}
    )
    storage.put_bytes(KEYS.result(1), result.model_dump_json().encode())
    return storage, plan


def canary_ready(**more: Any) -> tuple[Probes, Storage, JobPlan]:
    """Probes that know chunk 1 of a job from a trusted worker."""
    probes = new(**more)
    storage, plan = known_job("trusted-host-1")
    probes.handed(lease(nonce=D), plan)
    probes.stored(lease(nonce=D), plan, storage)
    return probes, storage, plan


def asked(probes: Probes, nonce: str, now_ms: int = 1_000_000) -> Lease | None:
    task = probes.offer(nonce, "transcribe_chunk", now_ms)
    return handed(task, nonce) if task else None


# ---- canaries ----


def test_off_asks_nothing() -> None:
    probes = Probes(Shares())
    storage, plan = known_job("trusted-host-1")
    probes.handed(lease(), plan)
    probes.stored(lease(), plan, storage)
    assert probes.offer(A, "transcribe_chunk", 0) is None


def test_the_first_task_of_a_machine_has_a_known_answer_and_not_the_second() -> None:
    probes, _, plan = canary_ready()
    mine = asked(probes, A)
    assert mine is not None
    assert asked(probes, A) is None, "one question at a time"
    assert answer(probes, mine, words()) is None
    assert asked(probes, A) is None
    assert probes.offer(B, "diarize_chunk", 0) is None
    assert asked(probes, B) is not None
    del plan


@pytest.mark.parametrize("wrong", [(), (1, 2)])
def test_words_that_may_differ_are_forgiven(wrong: tuple[int, ...]) -> None:
    probes, _, _ = canary_ready()
    mine = asked(probes, A)
    assert mine is not None
    assert answer(probes, mine, words(*wrong), at_ms=200) is None


@pytest.mark.parametrize(
    ("said", "at_ms", "says"),
    [
        ((), 0, "0 words for 17"),
        (words(*range(17)), 0, "17 of 17 words"),
        (words(1, 2, 3, 4), 0, "4 of 17 words"),
        (words() * 2, 0, "34 words for 17"),
        (words(), 1500, "ms off"),
        (tuple(reversed(words())), 0, "words are others"),
    ],
)
def test_a_lying_machine_gets_a_strike(said: tuple[Said, ...], at_ms: int, says: str) -> None:
    probes, _, _ = canary_ready()
    mine = asked(probes, A)
    assert mine is not None
    told = answer(probes, mine, said, at_ms)
    assert told is not None
    assert "came back otherwise" in told
    assert says in told


def test_a_canary_goes_with_its_job() -> None:
    probes, storage, _ = canary_ready()
    storage.delete(KEYS.prefix)
    assert asked(probes, A) is None


def test_audio_at_which_two_fail_and_nobody_passes_is_no_canary() -> None:
    probes, _, _ = canary_ready()
    first, second = asked(probes, A), asked(probes, B)
    assert first is not None
    assert second is not None
    assert answer(probes, first, ()) is not None
    assert answer(probes, second, ()) is None, "the audio may be to blame"
    assert asked(probes, C) is None


def test_a_machine_that_never_answers_known_questions_gets_a_strike() -> None:
    probes, _, _ = canary_ready()
    told = []
    for _ in range(3):
        mine = asked(probes, A)
        assert mine is not None
        told.append(probes.judge(mine, {"error": "EngineError", "reason": "no memory"}))
    assert told[:2] == [None, None]
    assert told[2] is not None
    assert "no memory" in told[2]


def test_a_question_that_was_forgotten_is_asked_again() -> None:
    probes, _, _ = canary_ready(canary=1.0)
    lost = asked(probes, A, 0)
    assert lost is not None
    probes.handed(lease(nonce=A), fill(MemoryStorage({}), model="some/model", language="en"))
    assert asked(probes, A, FORGOTTEN_MS - 1) is None
    assert asked(probes, A, FORGOTTEN_MS + 1) is not None
    assert probes.judge(lost, {}) is None


def test_a_question_that_is_over_without_an_answer_counts_and_blocks_no_other() -> None:
    """Put aside, taken back for silence, broken: whatever ended it, nobody holds it any more."""
    held: set[str] = set()
    probes, _, plan = canary_ready(canary=1.0)
    probes._held = held.__contains__
    for turn in range(4):
        probes.handed(lease(nonce=A, index=0), plan)
        mine = asked(probes, A, turn * 10_000)
        assert mine is not None
        assert asked(probes, A, turn * 10_000 + 4_000) is None, "it may not be booked yet"
        held.add(mine.task_id)
        assert asked(probes, A, turn * 10_000 + 8_000) is None, "one question at a time"
        held.clear()
    assert "3 chunks in a row" in probes._owed[A]


def test_a_question_is_of_the_job_the_machine_works_for() -> None:
    probes, _, plan = canary_ready(canary=1.0)
    probes.handed(real := lease(nonce=A, index=0), plan)
    mine = asked(probes, A)
    assert mine is not None
    assert (mine.job, mine.workflow_id) == (real.job, real.workflow_id)
    assert mine.index in (1, 2)
    store = probes.store(mine)
    there, here = (
        json.loads(shown("transcribe_chunk", KEYS.plan, data))
        for data in (store.get_bytes(KEYS.plan), plan.model_dump_json().encode())
    )
    assert there == here, "its plan is the job's"
    assert "secret" not in "".join(store.get_bytes(key).decode("latin-1") for key in store.keys(""))
    chunk = Chunk.model_validate_json(store.get_bytes(KEYS.chunk(mine.index)))
    assert abs(chunk.audio.start_ms - plan.wanted_cuts_ms[mine.index - 1]) < 15_000
    assert answer(probes, mine, words()) is None
    seen = {0, mine.index}
    probes.handed(lease(nonce=A, index=0), plan)
    second = asked(probes, A)
    assert second is not None
    assert second.index not in seen
    answer(probes, second, words())
    probes.handed(lease(nonce=A, index=0), plan)
    third = asked(probes, A)
    assert third is not None
    assert third.job != real.job, "all of its chunks were given: one of another job"


@pytest.mark.parametrize("other", [{"language": "de"}, {"task": "translate"}, {"beam_size": 2}, {"model": "an/other"}])
def test_a_question_that_the_job_would_answer_otherwise_is_of_a_made_up_one(other: dict[str, Any]) -> None:
    probes, _, plan = canary_ready(canary=1.0)
    request = plan.request.model_copy(update=other)
    real = lease(nonce=A, index=0)
    probes._request = plan.request
    probes._remember(real, plan.model_copy(update={"request": request}))
    mine = asked(probes, A)
    assert mine is not None
    assert mine.job != real.job


def test_shares_are_kept() -> None:
    probes, _, plan = canary_ready(canary=0.1)
    first = asked(probes, A)
    assert first is not None
    answer(probes, first, words())
    count = 0
    for _ in range(1000):
        probes.handed(lease(nonce=A), plan)
        mine = asked(probes, A)
        if mine is not None:
            count += 1
            answer(probes, mine, words())
    assert 60 < count < 140


# ---- duplicates ----


def duplicate(share: float = 1.0) -> tuple[Probes, Storage, JobPlan]:
    """Machine A did chunk 1; every task is followed by a duplicate."""
    probes = new(canary=0.0, duplicate=share)
    storage, plan = known_job(owner_of(A))
    probes.stored(lease(nonce=A), plan, storage)
    for nonce in (A, B, C, D):
        probes.handed(lease(nonce=nonce), plan)
    return probes, storage, plan


def test_what_one_machine_did_is_done_again_by_another_never_by_itself() -> None:
    probes, _, plan = duplicate()
    assert asked(probes, A) is None
    mine = asked(probes, B)
    assert mine is not None
    assert answer(probes, mine, words(3)) is None
    probes.handed(lease(nonce=C), plan)
    assert asked(probes, C) is None, "two agree: there is nothing to find out"


@pytest.mark.parametrize(("third", "wrong"), [(words(), B), (words(*range(9)), A)])
def test_where_two_differ_a_third_decides(third: tuple[Said, ...], wrong: str) -> None:
    probes, storage, plan = duplicate()
    second, third_machine = asked(probes, B), None
    assert second is not None
    assert answer(probes, second, words(*range(9))) is None, "nobody can tell yet"
    third_machine = asked(probes, C)
    assert third_machine is not None
    assert answer(probes, third_machine, third) is None
    probes._shares = Shares(canary=0.5, duplicate=1.0)
    storage2, plan2 = known_job("trusted-host-1", words())
    probes.stored(lease(nonce=D), plan2, storage2)
    loser = asked(probes, wrong)  # it is asked something else, and told then
    assert loser is not None
    told = answer(probes, loser, words())
    assert told is not None
    assert "two other machines agree" in told
    del storage, plan


def test_three_answers_are_nobodys_fault() -> None:
    probes, _, _ = duplicate()
    for nonce, said in ((B, words(*range(9))), (C, words(*range(5, 17)))):
        mine = asked(probes, nonce)
        assert mine is not None
        assert answer(probes, mine, said) is None
    assert asked(probes, D) is None


# ---- what a machine sees ----


def test_nothing_of_a_question_is_seen_twice_and_nothing_is_the_jobs() -> None:
    probes, storage, _ = canary_ready()
    seen: list[tuple[Any, ...]] = []
    for number in range(6):
        nonce = f"machine{number:03d}"
        task = probes.offer(nonce, "transcribe_chunk", 1_000_000)
        assert task is not None
        mine = handed(task, nonce)
        store = probes.store(mine)
        keys = JobKeys(mine.job)
        chunk = Chunk.model_validate_json(store.get_bytes(keys.chunk(mine.index or 0)))
        seen.append((mine.task_id, mine.workflow_id, mine.job, chunk.audio_sha256, chunk.audio.start_ms))
        assert task["referenceTaskName"] == f"chunk_{mine.index}"
        text = json.dumps(task) + "".join(store.get_bytes(key).decode("latin-1") for key in store.keys(""))
        assert JOB not in text
        assert "secret" not in text
    for column in list(zip(*seen, strict=True))[:4]:
        assert len(set(column)) == len(seen)
    real = Chunk.model_validate_json(storage.get_bytes(KEYS.chunk(1))).audio_sha256
    assert real not in {row[3] for row in seen}


def test_its_plan_is_shown_in_the_form_of_every_other() -> None:
    probes, storage, plan = canary_ready()
    mine = asked(probes, A)
    assert mine is not None
    key = JobKeys(mine.job).plan
    made_up = json.loads(shown("transcribe_chunk", key, probes.store(mine).get_bytes(key)))
    real = json.loads(shown("transcribe_chunk", KEYS.plan, storage.get_bytes(KEYS.plan)))
    made_up.pop("job"), real.pop("job")
    made_up.pop("language_samples"), real.pop("language_samples")
    assert made_up == real
    del plan


# ---- the packaged recording ----


def test_the_demo_recording_is_cut_where_nobody_speaks_and_known_word_by_word() -> None:
    probes = Probes(Shares(canary=1.0), model="demo", rng=random.Random(1))
    lengths, texts = set(), set()
    spoken = [words_of(sentence.text) for sentence in demo_sentences()]
    for number in range(30):
        mine = asked(probes, f"machine{number:03d}")
        assert mine is not None
        known = probes._asked[mine.task_id].known
        at = [said.at_ms for said in known.said if said.at_ms is not None]
        assert 3 <= len(at) <= 8
        assert at[0] > 0
        assert at == sorted(at)
        assert at[-1] < len(known.samples) // SAMPLES_PER_MS
        flat = [said.word for said in known.said]
        start = next(i for i in range(len(spoken)) if [*itertools.chain(*spoken[i : i + len(at)])] == flat)
        texts.add((start, len(at)))
        store = probes.store(mine)
        audio = store.get_bytes(JobKeys(mine.job).audio(mine.index or 0))
        samples, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
        assert rate == SAMPLE_RATE
        trimmed = probes._asked[mine.task_id].trimmed_ms
        np.testing.assert_array_equal(samples, known.samples[trimmed * SAMPLES_PER_MS :])
        lengths.add(len(samples))
    assert len(texts) > 15
    assert len(lengths) == 30


@pytest.mark.parametrize(("model", "there"), [("demo", True), ("turbo", True), ("tiny", False), ("/some/model", False)])
def test_the_demo_recording_is_asked_of_models_that_understand_it(model: str, there: bool) -> None:
    probes = Probes(Shares(canary=1.0), model=model)
    mine = asked(probes, A)
    assert (mine is not None) is there
    if mine is not None:
        plan = JobPlan.model_validate_json(probes.store(mine).get_bytes(JobKeys(mine.job).plan))
        assert plan.request.recognize_options("en") == RecognizeOptions(model=model, language="en")


def test_the_demo_recording_is_quiet_where_it_is_cut() -> None:
    samples, sentences = demo_samples(), demo_sentences()
    for before, after in itertools.pairwise(sentences):
        middle = (before.end_ms + after.start_ms) // 2 * SAMPLES_PER_MS
        assert np.abs(samples[middle - 160 : middle + 160].astype(int)).max() < 1000


# ---- comparing ----


@given(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"]), max_size=40),
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "g", "h"]), max_size=40),
)
def test_the_same_is_the_same_and_differences_are_counted(one: list[str], other: list[str]) -> None:
    ours, theirs = ([Said(word, None) for word in text] for text in (one, other))
    assert differs(ours, ours) is None
    if abs(len(one) - len(other)) > max(2, int(0.15 * len(one))):
        assert differs(ours, theirs) is not None
    if not set(one) & set(other) and len(one) > 2:
        assert differs(ours, theirs) is not None


def test_a_long_answer_is_not_compared_for_ever() -> None:
    many = [Said("a", None)] * 200_000
    assert differs(words(), many) == "200000 words for 17"


def test_how_a_word_is_written_is_not_how_it_is_heard() -> None:
    said = words_of("It's the Queen's — ten o’clock, “née” 42!")
    assert said == ["it", "s", "the", "queen", "s", "ten", "o", "clock", "née", "42"]
    assert probes_module.words_of("") == []


def test_words_without_times_count_by_their_segments() -> None:
    storage, _ = known_job("x", words()[:3])
    result = ChunkResult.model_validate_json(storage.get_bytes(KEYS.result(1)))
    bare = result.model_copy(
        update={"segments": tuple(replace_words(segment, f"{segment.text} more") for segment in result.segments)}
    )
    assert heard(bare)[:2] == (Said("the", 0), Said("more", None))
    assert heard(result) == words()[:3]


def replace_words(segment: Segment, text: str) -> Segment:
    return segment.model_copy(update={"words": (), "text": text})
