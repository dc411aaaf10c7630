"""The stages of the diarization branch, on real storage with a diarizer of known numbers."""

import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.stages import ToneDiarizer, make_context
from workers.context import Context
from workers.diarizers.packing import joined, pack, unpack
from workers.errors import ChunkNotReady, EngineError, JobError, ServerError, SpeakersPending, StorageUnavailable
from workers.messages import (
    AwaitSpeakersInput,
    Chunk,
    ClusterSpeakersInput,
    ClusterSpeakersOutput,
    DiarizeChunkInput,
    DiarizeChunkOutput,
    JobInput,
    JobKeys,
    JobPlan,
    SpeakerHints,
    SpeakerPlan,
    SpeakerRef,
    SpeakerResult,
    SpeechMap,
)
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.stages.cluster import cluster_speakers
from workers.stages.diarize import diarize_chunk
from workers.stages.patience import CLUSTERING_S, NOBODY_S, SHORTEST_WAIT_S, await_speakers
from workers.stages.speakers import any_needs_audio, needs_audio
from workers.stages.speech import map_speech
from workers.storage import Storage
from workers.tasks import Sibling

JOB = "job"
KEYS = JobKeys(JOB)
START_MS = 60_000
LENGTH_MS = 30_000
# who speaks in which second of the 30: 0 nobody, else 1 + the number of the voice
SAID = [0, 2, 2, 2, 1, 1, 0, 3, 3, 3, 2, 2, 2, 2, 0, 1, 1, 1, 3, 3, 3, 3, 2, 0, 0, 1, 1, 2, 2, 2]


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return make_context()


@pytest.fixture
def storage(context: Context) -> Storage:
    return context.open_storage(context.settings.storage)


def fill(storage: Storage, cuts_ms: Sequence[int] = (12_345, 20_001)) -> None:
    """A job whose split is done: the recording in chunks, and its speech map."""
    audio = np.repeat(np.array(SAID, np.int16) * 1000, SAMPLE_RATE)
    edges = [0, *cuts_ms, LENGTH_MS]
    for index, (start, end) in enumerate(itertools.pairwise(edges)):
        data = flac(audio[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS])
        span = Span.of(start, end).shifted(START_MS)
        chunk = Chunk(index=index, core=span, audio=span, audio_sha256=hashlib.sha256(data).hexdigest())
        storage.put_bytes(KEYS.audio(index), data)
        storage.put_bytes(KEYS.chunk(index), chunk.model_dump_json().encode())
    plan = JobPlan(
        job=JOB,
        request=JobInput(media="talk.wav"),
        media_name="talk.wav",
        media_identity="0",
        duration_ms=START_MS + LENGTH_MS,
        span=Span.of(START_MS, START_MS + LENGTH_MS),
        wanted_cuts_ms=tuple(START_MS + cut for cut in cuts_ms),
    )
    storage.put_bytes(KEYS.plan, plan.model_dump_json().encode())
    speech = SpeechMap(regions=(Span.of(START_MS + 1000, START_MS + 6000),))
    storage.put_bytes(KEYS.speech, speech.model_dump_json().encode())


def put_plan(storage: Storage, chunk_seconds: int = 10, **more: Any) -> SpeakerPlan:
    plan = SpeakerPlan(
        diarizer="ge2e", chunk_seconds=chunk_seconds, chunk_count=-(-LENGTH_MS // (chunk_seconds * 1000)), **more
    )
    storage.put_bytes(KEYS.speaker_plan(plan.key), plan.model_dump_json().encode())
    return plan


def with_diarizer(diarizer: ToneDiarizer, **more: Any) -> Context:
    return make_context(diarizer=lambda name, model: diarizer, **more)


def diarize(storage: Storage, plan: SpeakerPlan, index: int, around: Context) -> DiarizeChunkOutput:
    return diarize_chunk(DiarizeChunkInput(storage=storage.address, job=JOB, speakers=plan.key, index=index), around)


def branch(storage: Storage, plan: SpeakerPlan, diarizer: ToneDiarizer, order: Sequence[int] = ()) -> dict[str, Any]:
    """The join's output after all chunks were diarized, in that order."""
    outputs: dict[str, Any] = {"speech": {"key": KEYS.speech}}
    for index in order or range(plan.chunk_count):
        outputs[f"voices_{index}"] = diarize(storage, plan, index, with_diarizer(diarizer)).model_dump()
    return outputs


def cluster(
    storage: Storage, plan: SpeakerPlan, chunks: dict[str, Any], diarizer: ToneDiarizer, allow_gaps: bool = False
) -> ClusterSpeakersOutput:
    task = ClusterSpeakersInput(
        storage=storage.address, job=JOB, speakers=plan.key, allow_gaps=allow_gaps, chunks=chunks
    )
    return cluster_speakers(task, with_diarizer(diarizer))


def answer(storage: Storage, plan: SpeakerPlan) -> SpeakerResult:
    return SpeakerResult.model_validate_json(storage.get_bytes(KEYS.speaker_result(plan.key)))


LOST = {"error": "EngineError", "reason": "the card caught fire."}


# ---- the answer ----


def test_speakers_are_named_by_first_appearance_on_the_medias_clock(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    diarizer = ToneDiarizer()

    output = cluster(storage, plan, branch(storage, plan, diarizer), diarizer)

    found = answer(storage, plan)
    assert output.speakers == 3
    assert [speaker.name for speaker in found.speakers] == ["SPEAKER_00", "SPEAKER_01", "SPEAKER_02"]
    for turn in found.turns:  # voices 1, 0, 2 appear in this order; a window that straddles a change is whose most is
        middle = (turn.span.midpoint_ms - START_MS) // 1000
        assert SAID[middle] == {"SPEAKER_00": 2, "SPEAKER_01": 1, "SPEAKER_02": 3}[turn.speaker]
    assert found.turns[0].start_ms == pytest.approx(START_MS + 1000, abs=100)
    assert diarizer.speech == [Span.of(1000, 6000)], "the speech map on the clock of the windows"


@pytest.mark.parametrize("seconds", [10, 11, 17, 30, 300])
@pytest.mark.parametrize("cuts", [(), (12_345, 20_001), (1, 15_000, 29_999)])
def test_neither_chunk_plan_changes_a_byte(storage: Storage, seconds: int, cuts: tuple[int, ...]) -> None:
    fill(storage, ())
    whole = put_plan(storage, 300)
    cluster(storage, whole, branch(storage, whole, ToneDiarizer()), ToneDiarizer())
    expected = storage.get_bytes(KEYS.speaker_result(whole.key))
    storage.delete(KEYS.prefix)

    fill(storage, cuts)
    plan = put_plan(storage, seconds)
    diarizer = ToneDiarizer()
    backwards = list(reversed(range(plan.chunk_count)))
    cluster(storage, plan, branch(storage, plan, diarizer, backwards), diarizer)

    assert storage.get_bytes(KEYS.speaker_result(plan.key)) == expected
    owned = sorted(index for windows in diarizer.heard for index in windows)
    assert owned == list(range(len(owned))), "every window was heard once"


def test_a_reference_clip_gives_its_name_and_hints_reach_the_diarizer(storage: Storage) -> None:
    fill(storage)
    storage.put_bytes(KEYS.clip("ann"), flac(np.full(SAMPLE_RATE, 3000, np.int16)))
    plan = put_plan(storage, clips={"Ann": KEYS.clip("ann")}, hints=SpeakerHints(exactly=3))
    diarizer = ToneDiarizer()
    cluster(storage, plan, branch(storage, plan, diarizer), diarizer)
    assert [speaker.name for speaker in answer(storage, plan).speakers] == ["SPEAKER_00", "SPEAKER_01", "Ann"]
    assert diarizer.hints == SpeakerHints(exactly=3)


def test_a_reference_clip_without_a_voice_is_told_and_costs_no_speaker(storage: Storage) -> None:
    fill(storage)
    storage.put_bytes(KEYS.clip("ann"), flac(np.zeros(SAMPLE_RATE, np.int16)))
    plan = put_plan(storage, clips={"Ann": KEYS.clip("ann")})
    output = cluster(storage, plan, branch(storage, plan, ToneDiarizer()), ToneDiarizer())
    assert output.speakers == 3
    assert output.warnings[0].startswith("Nobody was named Ann. The reference clip: nobody speaks in it")


# ---- running twice ----


def test_a_chunk_that_is_done_is_found_and_not_heard_again(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    first = diarize(storage, plan, 1, with_diarizer(ToneDiarizer()))
    again = ToneDiarizer()
    second = diarize(storage, plan, 1, with_diarizer(again))
    assert (second.reused, second.sha256, again.heard) == (True, first.sha256, [])


def test_other_hints_find_the_windows_done(storage: Storage) -> None:
    fill(storage)
    diarize(storage, put_plan(storage), 1, with_diarizer(ToneDiarizer()))
    assert diarize(storage, put_plan(storage, hints=SpeakerHints(exactly=2)), 1, with_diarizer(ToneDiarizer())).reused


def test_another_version_hears_again(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    diarize(storage, plan, 1, with_diarizer(ToneDiarizer()))
    assert not diarize(storage, plan, 1, with_diarizer(ToneDiarizer(version=2))).reused


def test_damaged_windows_are_heard_again(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    first = diarize(storage, plan, 1, with_diarizer(ToneDiarizer()))
    storage.put_bytes(first.key, b"half a file")
    second = diarize(storage, plan, 1, with_diarizer(ToneDiarizer()))
    assert (second.reused, second.sha256) == (False, first.sha256)


def test_a_complete_answer_stands_without_audio_and_whatever_the_version(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    first = cluster(storage, plan, chunks, ToneDiarizer())
    storage.discard([KEYS.audio(index) for index in range(3)])  # as the stitcher does
    newer = ToneDiarizer(version=2)
    assert all(output.get("reused") for name, output in branch(storage, plan, newer).items() if name != "speech")
    assert cluster(storage, plan, chunks, newer).sha256 == first.sha256
    assert newer.heard == []


def test_two_results_of_one_chunk_do_not_get_in_each_others_way(storage: Storage) -> None:
    """On a GPU, or processors of two kinds, a task that runs twice may end with other bits."""
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    heard = unpack(storage.get_bytes(chunks["voices_1"]["key"]))
    other = pack(replace(heard, embedding=heard.embedding + np.float32(1e-6)))
    storage.put_bytes(KEYS.windows(plan.voices, 1, hashlib.sha256(other).hexdigest()), other)
    assert cluster(storage, plan, chunks, ToneDiarizer()).speakers == 3
    assert diarize(storage, plan, 1, with_diarizer(ToneDiarizer())).reused


@pytest.mark.parametrize("split", ["IN_PROGRESS", "COMPLETED"])
def test_audio_that_another_run_freed_is_waited_for_only_while_it_may_come_back(storage: Storage, split: str) -> None:
    fill(storage)
    plan = put_plan(storage)
    storage.discard([KEYS.audio(index) for index in range(3)])
    around = with_diarizer(ToneDiarizer(), siblings=Board(split_media=split).siblings)
    expected = ChunkNotReady if split == "IN_PROGRESS" else StorageUnavailable
    with pytest.raises(expected, match="audio"):
        diarize(storage, plan, 1, around)
    storage.delete(KEYS.speech)
    with pytest.raises(expected, match="audio"):
        map_speech(SpeakerRef(storage=storage.address, job=JOB, speakers=plan.key), around)


def test_audio_is_needed_until_all_is_heard_and_of_any_run_until_all_are_told(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)

    def needed(plan: SpeakerPlan) -> bool:
        return needs_audio(storage, KEYS, plan.key, set(storage.keys(KEYS.prefix)))

    chunks = branch(storage, plan, ToneDiarizer(), order=[0, 2])
    assert needed(plan)
    chunks |= branch(storage, plan, ToneDiarizer())
    fewer = put_plan(storage, hints=SpeakerHints(exactly=2))
    assert not needed(plan)
    assert not needed(fewer), "its voices are the same"
    assert needed(put_plan(storage, 17))
    storage.delete(KEYS.speaker_plan(put_plan(storage, 17).key))
    assert any_needs_audio(storage, KEYS)
    cluster(storage, plan, chunks, ToneDiarizer())
    assert any_needs_audio(storage, KEYS), "the other run is not done"
    cluster(storage, fewer, chunks, ToneDiarizer())
    assert not any_needs_audio(storage, KEYS)


def test_a_chunk_waits_for_its_audio(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    storage.delete(KEYS.chunk(2))
    assert diarize(storage, plan, 0, with_diarizer(ToneDiarizer())).windows
    with pytest.raises(ChunkNotReady):
        diarize(storage, plan, 2, with_diarizer(ToneDiarizer()))


# ---- what was lost ----


def test_a_lost_part_fails_the_branch_and_says_where_and_why(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer()) | {"voices_1": LOST}
    with pytest.raises(JobError, match=r"lost for 00:01:10–00:01:20 \(the card caught fire\)\."):
        cluster(storage, plan, chunks, ToneDiarizer())


def test_with_gaps_allowed_a_lost_part_is_nobodys_and_named(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer()) | {"voices_1": LOST}
    output = cluster(storage, plan, chunks, ToneDiarizer(), allow_gaps=True)
    found = answer(storage, plan)
    assert found.missing == (Span.of(START_MS + 10_000, START_MS + 20_000),)
    assert "00:01:10–00:01:20 was not diarized" in output.warnings[0]
    assert all(turn.span.overlap_ms(found.missing[0]) <= 100 for turn in found.turns), "but for a window's length"


def test_after_a_retry_the_lost_part_is_there_and_the_answer_whole(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    cluster(storage, plan, chunks | {"voices_1": LOST}, ToneDiarizer(), allow_gaps=True)
    cluster(storage, plan, chunks, ToneDiarizer())
    assert answer(storage, plan).missing == ()


@pytest.mark.parametrize("lost", [("speech",), ("voices_0", "voices_1", "voices_2")])
def test_without_a_speech_map_or_any_part_nothing_can_be_told(storage: Storage, lost: tuple[str, ...]) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer()) | dict.fromkeys(lost, LOST)
    with pytest.raises(JobError, match="the card caught fire"):
        cluster(storage, plan, chunks, ToneDiarizer(), allow_gaps=True)


def test_chunks_of_two_versions_are_not_compared(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    chunks["voices_1"] = diarize(
        storage, plan, 1, with_diarizer(ToneDiarizer(version=2), worker="old-one")
    ).model_dump()
    with pytest.raises(JobError, match=r"different versions of tone .*bring all workers to one version"):
        cluster(storage, plan, chunks, ToneDiarizer())
    chunks = branch(storage, plan, ToneDiarizer())  # what a retry does: the odd one is heard again
    assert cluster(storage, plan, chunks, ToneDiarizer()).speakers == 3


def test_with_gaps_allowed_one_part_of_another_version_is_lost_and_no_more(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    other = diarize(storage, plan, 1, with_diarizer(ToneDiarizer(version=2), worker="rented-liar"))
    cluster(storage, plan, chunks | {"voices_1": other.model_dump()}, ToneDiarizer(), allow_gaps=True)
    assert answer(storage, plan).missing == (Span.of(START_MS + 10_000, START_MS + 20_000),)


@pytest.mark.parametrize("wrong", ["another part", "a window too few", "a window too many", "a shape", "a spec inside"])
def test_a_part_with_windows_that_are_not_its_own_is_lost_and_heard_again(storage: Storage, wrong: str) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    honest = unpack(storage.get_bytes(chunks["voices_1"]["key"]))
    data = pack(
        {
            "another part": lambda: unpack(storage.get_bytes(chunks["voices_0"]["key"])),
            "a window too few": lambda: replace(
                honest, index=honest.index[1:], activity=honest.activity[1:], embedding=honest.embedding[1:]
            ),
            "a window too many": lambda: joined([honest, replace(honest, index=honest.index + 1)]),
            "a shape": lambda: replace(honest, embedding=honest.embedding[:, :, :1]),
            "a spec inside": lambda: replace(honest, spec_hash="0" * 16),
        }[wrong]()
    )
    sha256 = hashlib.sha256(data).hexdigest()
    key = KEYS.windows(plan.voices, 1, sha256)
    storage.discard([chunks["voices_1"]["key"]])
    storage.put_bytes(key, data)
    lying = chunks | {"voices_1": chunks["voices_1"] | {"key": key, "sha256": sha256}}
    with pytest.raises(JobError, match=r"lost for 00:01:10–00:01:20 \(its windows are not those of that part\)"):
        cluster(storage, plan, lying, ToneDiarizer())
    assert not storage.exists(key), "it would be found done"
    storage.put_bytes(key, data)
    cluster(storage, plan, lying, ToneDiarizer(), allow_gaps=True)
    assert answer(storage, plan).missing == (Span.of(START_MS + 10_000, START_MS + 20_000),)
    cluster(storage, plan, branch(storage, plan, ToneDiarizer()), ToneDiarizer())
    assert answer(storage, plan).missing == ()


def test_a_clusterer_of_another_version_leaves_it_to_others(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    with pytest.raises(EngineError, match="another version of tone"):
        cluster(storage, plan, chunks, ToneDiarizer(version=2))


def test_windows_that_are_not_what_was_handed_in_are_refused(storage: Storage) -> None:
    fill(storage)
    plan = put_plan(storage)
    chunks = branch(storage, plan, ToneDiarizer())
    storage.put_bytes(chunks["voices_0"]["key"], storage.get_bytes(chunks["voices_1"]["key"]))
    with pytest.raises(StorageUnavailable, match="checksum"):
        cluster(storage, plan, chunks, ToneDiarizer())


# ---- how long the text waits ----


class Board:
    """The other tasks of a job as the server would tell them, and those that were given up."""

    def __init__(self, **statuses: str) -> None:
        self.statuses = statuses
        self.given_up: dict[str, str] = {}

    def siblings(self) -> tuple[Sibling, ...]:
        return tuple(
            Sibling(name, "wf", name.rstrip("_0123456789"), name, status) for name, status in self.statuses.items()
        )

    def give_up(self, sibling: Sibling, error: Exception) -> None:
        self.given_up[sibling.reference] = str(error)


def wait(
    storage: Storage, board: Board, waited_s: float, alive: int = 1, speaker_wait: str = "auto", old: bool = False
) -> float:
    chunks = {"chunk_0": {"key": "a", "reused": True}, "chunk_1": {"key": "b", "reused": old}}
    task = AwaitSpeakersInput.decode(
        {"storage": storage.address, "job": JOB, "speakers": "x", "speaker_wait": speaker_wait, "chunks": chunks}
    )
    around = make_context(
        siblings=board.siblings, give_up=board.give_up, live_diarizers=lambda: alive, waited_s=waited_s
    )
    return await_speakers(task, around).waited_seconds


@pytest.mark.parametrize("status", ["COMPLETED", "COMPLETED_WITH_ERRORS"])
def test_the_wait_ends_with_the_branch(storage: Storage, status: str) -> None:
    assert wait(storage, Board(cluster_speakers=status), 12.5) == 12.5


def test_a_failed_attempt_is_not_the_end(storage: Storage) -> None:
    fill(storage)
    with pytest.raises(SpeakersPending):
        wait(storage, Board(cluster_speakers="FAILED"), 1)


def test_while_it_waits_nothing_is_given_up(storage: Storage) -> None:
    fill(storage)
    board = Board(map_speech="COMPLETED", diarize_chunk_0="IN_PROGRESS", transcribe_chunk_0="COMPLETED")
    with pytest.raises(SpeakersPending):
        wait(storage, board, SHORTEST_WAIT_S - 1)
    assert board.given_up == {}


@pytest.mark.parametrize(
    ("waited_s", "alive", "speaker_wait", "reason"),
    [
        (SHORTEST_WAIT_S, 1, "auto", "within 60 s"),
        (5, 1, "5", "within 5 s"),
        (0, 1, "0", "within 0 s"),
        (NOBODY_S, 0, "auto", "no worker takes diarize_chunk"),
    ],
)
def test_after_the_wait_what_is_open_of_the_branch_is_given_up(
    storage: Storage, waited_s: float, alive: int, speaker_wait: str, reason: str
) -> None:
    fill(storage)
    board = Board(
        map_speech="COMPLETED", diarize_chunk_0="SCHEDULED", diarize_chunk_1="IN_PROGRESS", split_media="IN_PROGRESS"
    )
    with pytest.raises(SpeakersPending):
        wait(storage, board, waited_s, alive, speaker_wait)
    assert set(board.given_up) == {"diarize_chunk_0", "diarize_chunk_1"}
    assert all(reason in why for why in board.given_up.values())


def test_a_run_that_found_its_text_done_waits_for_the_speakers_while_anybody_is_at_them(storage: Storage) -> None:
    fill(storage)
    board = Board(diarize_chunk_0="IN_PROGRESS")
    with pytest.raises(SpeakersPending):
        wait(storage, board, 9_999, speaker_wait="2", old=True)
    assert board.given_up == {}
    with pytest.raises(SpeakersPending):
        wait(storage, board, NOBODY_S, alive=0, old=True)
    assert set(board.given_up) == {"diarize_chunk_0"}


def test_what_was_heard_in_time_is_still_clustered(storage: Storage) -> None:
    fill(storage)
    open_tasks = {"diarize_chunk_0": "COMPLETED", "diarize_chunk_1": "IN_PROGRESS", "cluster_speakers": "SCHEDULED"}
    board = Board(**open_tasks)
    with pytest.raises(SpeakersPending):
        wait(storage, board, SHORTEST_WAIT_S + CLUSTERING_S - 1)
    assert set(board.given_up) == {"diarize_chunk_1"}
    with pytest.raises(SpeakersPending):
        wait(storage, board, SHORTEST_WAIT_S + CLUSTERING_S)
    assert set(board.given_up) == {"diarize_chunk_1", "cluster_speakers"}


def test_a_task_that_cannot_be_given_up_does_not_fail_the_job(storage: Storage) -> None:
    fill(storage)
    board = Board(diarize_chunk_1="IN_PROGRESS")

    def refuse(sibling: Sibling, error: Exception) -> None:
        raise ServerError("it is over")

    around = make_context(siblings=board.siblings, give_up=refuse, live_diarizers=lambda: 1, waited_s=1e6)
    with pytest.raises(SpeakersPending):
        await_speakers(AwaitSpeakersInput(storage=storage.address, job=JOB, speakers="x"), around)


def test_a_long_recording_is_given_a_quarter_of_its_length(storage: Storage) -> None:
    fill(storage)
    plan = JobPlan.model_validate_json(storage.get_bytes(KEYS.plan))
    longer = plan.model_copy(update={"span": Span.of(0, 3_600_000)})
    storage.put_bytes(KEYS.plan, longer.model_dump_json().encode())
    board = Board(diarize_chunk_0="IN_PROGRESS")
    with pytest.raises(SpeakersPending):
        wait(storage, board, 899)
    assert board.given_up == {}
    with pytest.raises(SpeakersPending):
        wait(storage, board, 900)
    assert set(board.given_up) == {"diarize_chunk_0"}
