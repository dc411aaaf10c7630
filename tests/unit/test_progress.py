from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.jobs import SPEED, T0, Job, simulate
from workers.errors import JobError
from workflows.progress import JobView, from_workflow, stuck_tasks
from workflows.watch import ending

JOBS = {
    "one worker": simulate(chunks=12, workers=1, retried={3}),
    "eight workers": simulate(chunks=40, workers=8, retried={5, 9}, died={17}),
    "a gap": simulate(chunks=6, workers=2, lost={4}),
    "a chunk": simulate(chunks=1, workers=1),
    "slow speakers": simulate(chunks=20, workers=8, parts=6, part_ms=6_000),
    "quick speakers": simulate(chunks=20, workers=1, parts=6, part_ms=2_000),
    "no speakers": simulate(chunks=20, workers=8, parts=6, speakers=None),
}


def view_at(job: Job, now: int) -> JobView:
    return from_workflow(job.at(now), T0 + now)


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_finished_job_is_done_whole_and_counts_its_own_history(job: Job) -> None:
    view = from_workflow(job.end(), T0 + 10 * job.ended)
    chunks = {attempt.reference: attempt for attempt in job.attempts if attempt.type == "transcribe_chunk"}

    assert (view.stage, view.over, view.share_done) == ("done", True, 1.0)
    assert view.elapsed_ms == job.ended, "time goes on after the end, the job does not"
    assert view.chunks_total == len(chunks)
    assert view.chunks_done == sum(attempt.status == "COMPLETED" for attempt in chunks.values())
    assert view.chunks_failed == len(chunks) - view.chunks_done
    assert view.chunks_retried == sum(attempt.retry > 0 for attempt in chunks.values())
    assert (view.chunks_running, view.workers, view.eta_ms) == (0, (), None)
    assert view.rtfx == pytest.approx(view.audio_done_ms / job.ended)


@given(st.sampled_from(sorted(JOBS)), st.lists(st.integers(0, 120_000), min_size=2, max_size=8))
def test_at_every_moment_the_counts_fit_and_nothing_is_negative(name: str, moments: list[int]) -> None:
    job = JOBS[name]
    views = [view_at(job, now) for now in sorted(moments)]
    for view in views:
        assert view.eta_ms is None or view.eta_ms >= 0
        assert view.duration_ms is None or 0 <= view.audio_done_ms <= view.duration_ms
        assert view.chunks_done + view.chunks_running + view.chunks_failed <= (view.chunks_total or 0)
        assert view.chunks_running == sum(task.running for task in view.tasks if task.chunk is not None)
        assert 0 <= view.share_done <= 1
        assert view.parts_done + view.parts_failed <= (view.parts_total or 0)
    done = [view.chunks_done for view in views]
    assert done == sorted(done)


def stages(job: Job) -> list[str]:
    """Those that a watcher sees, one after the other."""
    return [stage for stage, _ in groupby(view_at(job, now).stage for now in [*range(0, job.ended, 50), job.ended])]


@pytest.mark.parametrize("name", ["eight workers", "quick speakers"])
def test_the_stages_come_in_the_order_of_the_flow(name: str) -> None:
    assert stages(JOBS[name]) == ["planning", "language", "splitting", "transcribing", "stitching", "done"]


@pytest.mark.parametrize("name", ["slow speakers", "no speakers"])
def test_speakers_that_are_late_are_a_stage_of_their_own(name: str) -> None:
    job = JOBS[name]
    assert stages(job) == ["planning", "language", "splitting", "transcribing", "speakers", "stitching", "done"]
    text_end = max(attempt.ended for attempt in job.attempts if attempt.type == "transcribe_chunk")
    late = [view_at(job, now) for now in range(text_end, job.ended, 100)]
    shares = [view.share_done for view in late if view.stage == "speakers"]
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] == 1.0
    assert {view.eta_ms for view in late} <= {None, 0}


def test_parts_of_the_diarization_are_no_chunks_of_the_text() -> None:
    view = from_workflow(JOBS["slow speakers"].end(), T0 + 10**6)
    assert (view.chunks_total, view.chunks_done, view.chunks_retried) == (20, 20, 0)
    assert (view.parts_total, view.parts_done, view.parts_failed, view.speakers) == (6, 6, 0, 3)
    assert {task.type for task in view.tasks if task.chunk is not None} == {"transcribe_chunk"}
    assert {task.type for task in view.tasks if task.part is not None} == {"diarize_chunk"}
    unasked = from_workflow(JOBS["eight workers"].end(), T0 + 10**6)
    assert (unasked.diarized, unasked.parts_total, unasked.speakers) == (False, None, None)
    unknown = from_workflow(JOBS["no speakers"].end(), T0 + 10**6)
    assert (unknown.diarized, unknown.stage, unknown.speakers) == (True, "done", None)


@pytest.mark.parametrize("allow_gaps", [False, "", "false", True, "true"])
def test_without_a_diarizer_only_a_job_that_allows_gaps_goes_on(allow_gaps: bool | str) -> None:
    workflow = JOBS["slow speakers"].at(30_000)
    workflow["input"]["allow_gaps"] = allow_gaps
    workflow["tasks"] = [raw for raw in workflow["tasks"] if raw["taskType"] != "map_speech"]
    for raw in workflow["tasks"]:
        if raw["taskType"] == "diarize_chunk":
            raw |= {"status": "SCHEDULED", "startTime": 0, "endTime": 0, "pollCount": 0, "outputData": {}}
    view = from_workflow(workflow, T0 + 30_000)
    assert view.stage == "speakers"
    stuck = stuck_tasks(view, T0 + 30_000, 15_000)
    assert stuck == (() if allow_gaps in (True, "true") else ("diarize_chunk",))


def test_a_job_that_ends_for_want_of_speakers_gives_the_sentence_of_the_task_that_ended_it() -> None:
    sentence = "The speakers could not be told apart: restart the workers, or allow gaps."
    workflow = JOBS["no speakers"].end() | {"status": "FAILED", "reasonForIncompletion": "see the log"}
    stitch = next(raw for raw in workflow["tasks"] if raw["taskType"] == "stitch_transcript")
    stitch |= {"status": "FAILED_WITH_TERMINAL_ERROR", "outputData": {"error": "JobError", "reason": sentence}}
    voices = next(raw for raw in workflow["tasks"] if raw["taskType"] == "diarize_chunk")
    voices |= {"status": "FAILED", "endTime": T0 + 10**6, "outputData": {"error": "EngineError", "reason": "too late"}}
    view = from_workflow(workflow, T0 + 10**6)
    error = ending(view)
    assert (type(error), str(error), view.reason) == (JobError, sentence, sentence)


@pytest.mark.parametrize(
    ("status", "stage"),
    [("FAILED", "failed"), ("TIMED_OUT", "failed"), ("TERMINATED", "cancelled"), ("PAUSED", "done")],
)
def test_a_job_that_ends_otherwise_says_so(status: str, stage: str) -> None:
    workflow = JOBS["one worker"].at(20_000) | {"status": status, "endTime": T0 + 20_000}
    view = from_workflow(workflow, T0 + 99_000)
    assert view.stage == (stage if status != "PAUSED" else "transcribing")
    assert view.over == (status != "PAUSED")


@pytest.mark.parametrize("name", ["one worker", "eight workers"])
def test_the_eta_is_near_the_truth_once_each_worker_has_done_a_chunk(name: str) -> None:
    job = JOBS[name]
    chunks_end = max(attempt.ended for attempt in job.attempts if attempt.type == "transcribe_chunk")
    for now in range(chunks_end // 2, chunks_end * 3 // 4, 500):
        eta = view_at(job, now).eta_ms
        assert eta is not None
        assert eta == pytest.approx(chunks_end - now, rel=0.35), f"at {now} ms"


def test_there_is_no_eta_before_there_is_a_speed() -> None:
    job = JOBS["one worker"]
    first = next(attempt for attempt in job.attempts if attempt.type == "transcribe_chunk")
    whole = first.ended - first.begun
    assert view_at(job, 2_000).eta_ms is None
    assert view_at(job, first.begun + whole // 20).eta_ms is None
    assert view_at(job, first.begun + whole // 4).eta_ms is not None


@pytest.mark.parametrize("name", ["one worker", "eight workers"])
def test_a_running_chunk_moves_on_also_where_its_worker_is_silent(name: str) -> None:
    job = JOBS[name]
    for now in range(job.ended // 2, job.ended * 9 // 10, 500):
        workflow = job.at(now)
        told = from_workflow(workflow, T0 + now)
        for raw in chunk_tasks(workflow):
            raw["outputData"].pop("progress", None)
        guessed = from_workflow(workflow, T0 + now)
        assert guessed.audio_done_ms == pytest.approx(told.audio_done_ms, rel=0.12)
        assert guessed.audio_done_ms < (told.duration_ms or 0)


def test_chunks_found_done_from_an_earlier_run_do_not_promise_a_speed() -> None:
    job = simulate(chunks=10, workers=1)
    now = next(attempt.ended for attempt in job.attempts if attempt.reference == "chunk_4") + 1
    workflow = job.at(now)
    honest = from_workflow(workflow, T0 + now).eta_ms
    for raw in chunk_tasks(workflow)[:3]:
        raw["startTime"] = raw["endTime"] - 20
        raw["outputData"] = raw["outputData"] | {"reused": True, "seconds": {"wait": 0, "fetch": 0, "inference": 0}}
    assert from_workflow(workflow, T0 + now).eta_ms == pytest.approx(honest, rel=0.2)


def test_fetching_ahead_does_not_halve_the_speed() -> None:
    """Second chunk polled when the first began: it took from end to end, not from its poll."""
    job = simulate(chunks=10, workers=1)
    now = next(attempt.ended for attempt in job.attempts if attempt.reference == "chunk_4") + 1
    workflow = job.at(now)
    before = from_workflow(workflow, T0 + now).eta_ms
    for earlier, later in zip(chunk_tasks(workflow), chunk_tasks(workflow)[1:], strict=False):
        if later["outputData"].get("seconds"):
            later["startTime"] = earlier["startTime"] + 10
            later["outputData"]["seconds"] |= {"fetch": 4.0}
    assert from_workflow(workflow, T0 + now).eta_ms == pytest.approx(before, rel=0.05)


def test_start_and_end_narrow_what_is_wanted() -> None:
    workflow = JOBS["one worker"].end()
    workflow["input"] |= {"start": "1:00", "end": "3:30.5"}
    assert from_workflow(workflow, T0).duration_ms == 150_500
    workflow["input"] |= {"start": "noon"}
    assert from_workflow(workflow, T0).duration_ms == 720_000


@pytest.mark.parametrize("status", ["SCHEDULED", "IN_PROGRESS"])
def test_a_chunk_given_back_holds_no_worker_and_is_not_stuck(status: str) -> None:
    job = JOBS["one worker"]
    waiting = next(attempt for attempt in job.attempts if attempt.begun > attempt.polled)
    now = waiting.polled + 1
    workflow = job.at(now)
    for raw in chunk_tasks(workflow):
        raw["status"] = status if raw["pollCount"] else "SCHEDULED"
        raw["scheduledTime"] -= 60_000
    view = from_workflow(workflow, T0 + now)
    assert stuck_tasks(view, T0 + now, 20_000) == (), "a worker asks for chunks, there are none to be had"
    assert stuck_tasks(view, T0 + now + 30_000, 20_000) == ("transcribe_chunk",)
    assert [task.waiting for task in view.tasks if task.reference == waiting.reference] == [True]
    assert (view.chunks_running, "gpu-00" in view.workers) == (0, False)


@pytest.mark.parametrize(
    ("media", "name"),
    [
        ("/a/b/talk.mp4", "talk.mp4"),
        ("file:///a/b/talk.mp4", "talk.mp4"),
        ("https://host/x/talk.mp3?X-Amz-Signature=secret", "talk.mp3"),
        ("s3://bucket/talk.ogg", "talk.ogg"),
        ("C:\\media\\talk.wav", "talk.wav"),
        ("", ""),
    ],
)
def test_the_media_has_a_name_before_it_is_planned(media: str, name: str) -> None:
    view = from_workflow({"workflowId": "1", "status": "RUNNING", "startTime": T0, "input": {"media": media}}, T0)
    assert (view.media_name, view.stage, view.chunks_total, view.eta_ms) == (name, "planning", None, None)


def test_a_failed_job_gives_the_sentence_of_the_task_that_ended_it() -> None:
    workflow = JOBS["one worker"].at(20_000)
    sentence = "talk.mp4 breaks off at 00:03:10: the file is truncated."
    split = next(raw for raw in workflow["tasks"] if raw["taskType"] == "split_media")
    split |= {"status": "FAILED_WITH_TERMINAL_ERROR", "outputData": {"error": "MediaError", "reason": sentence}}
    workflow |= {"status": "FAILED", "endTime": T0 + 20_000, "reasonForIncompletion": "Task failed: see the log"}
    view = from_workflow(workflow, T0 + 30_000)
    assert (view.stage, view.reason) == ("failed", sentence)


def test_a_task_nobody_polls_is_stuck_and_a_queue_behind_busy_workers_is_not() -> None:
    start = simulate().at(60)
    assert stuck_tasks(from_workflow(start, T0 + 10_000), T0 + 10_000, 9_000) == ("plan_media",)
    assert stuck_tasks(from_workflow(start, T0 + 10_000), T0 + 10_000, 11_000) == ()

    busy = JOBS["one worker"].at(30_000)
    assert stuck_tasks(from_workflow(busy, T0 + 30_000), T0 + 30_000, 5_000) == ()
    for raw in chunk_tasks(busy):
        if raw["status"] == "IN_PROGRESS":
            raw |= {"status": "TIMED_OUT", "endTime": T0 + 30_000}
    later = T0 + 50_000
    assert stuck_tasks(from_workflow(busy, later), later, 5_000) == ("transcribe_chunk",)


def test_one_worker_hears_at_its_speed() -> None:
    job = simulate(chunks=30, workers=1)
    view = view_at(job, job.ended - 20_000)
    assert view.rtfx == pytest.approx(SPEED, rel=0.15)


def chunk_tasks(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [raw for raw in workflow["tasks"] if raw["taskType"] == "transcribe_chunk"]
