"""A made history of a job has one right division of its time, and every history's parts add up."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.overhead_times import (
    GROUPS,
    INFERENCE,
    PHASES,
    UNEXPLAINED,
    Written,
    divide,
    grouped,
    predicted,
    where,
)
from workflows.progress import JobView, from_workflow

T = 1_700_000_000_000  # the submission


def task(kind: str, reference: str, scheduled: int, started: int, ended: int, **seconds: float) -> dict[str, Any]:
    return {
        "taskDefName": kind,
        "referenceTaskName": reference,
        "status": "COMPLETED",
        "scheduledTime": T + scheduled,
        "startTime": T + started,
        "endTime": T + ended,
        "updateTime": T + ended,
        "workerId": "one",
        "outputData": {"seconds": seconds},
    }


def job(*tasks: dict[str, Any], ended: int) -> JobView:
    return from_workflow({"status": "COMPLETED", "startTime": T, "endTime": T + ended, "tasks": list(tasks)}, T + ended)


def two_chunks() -> JobView:
    """Submitted at 0; planned 100 to 150, split from 300; chunks written at 500 and 700; stitched at 3000."""
    return job(
        task("plan_media", "plan_media", 10, 100, 150),
        task("split_media", "split_media", 160, 300, 720),
        task(
            "transcribe_chunk", "chunk_0", 160, 200, 1620, fetch=0.04, speech=0.05, wait=0.0, inference=1.0, store=0.01
        ),
        task(
            "transcribe_chunk", "chunk_1", 160, 1640, 2760, fetch=0.03, speech=0.02, wait=0.0, inference=1.0, store=0.02
        ),
        task("stitch_transcript", "stitch_transcript", 2800, 3000, 3100),
        ended=3150,
    )


def test_a_made_job_is_divided_to_the_millisecond() -> None:
    written = Written(chunks={0: T + 500, 1: T + 700}, results={0: T + 1600, 1: T + 2720})
    found = where(two_chunks(), written, T, T + 3150)
    first, between, last = found.gaps
    assert first == {
        "plan waits": 100, "plan": 50, "split waits": 150, "split": 200, "schedule": 10, "fetch": 40, "speech": 50,
    }  # fmt: skip
    assert between == {"store": 10, "schedule": 60, "fetch": 30, "speech": 20}
    assert last == {"store": 20, "join": 60, "stitch waits": 200, "stitch": 100, "deliver": 50}
    assert found.inference_ms == 2000
    assert found.wall_ms == 3150
    assert found.not_inference == pytest.approx(1150 / 3150)
    assert found.once_ms == 600 + 430
    assert found.between_ms == (120,)


def test_what_was_fetched_while_the_engine_was_busy_costs_nothing() -> None:
    """The second chunk waited 600 ms for the engine, which was given to it at once."""
    view = job(
        task("plan_media", "plan_media", 0, 0, 10),
        task("split_media", "split_media", 10, 10, 50),
        task("transcribe_chunk", "chunk_0", 10, 60, 1160, fetch=0.05, inference=1.0, store=0.01),
        task("transcribe_chunk", "chunk_1", 10, 400, 2200, fetch=0.1, speech=0.1, wait=0.6, inference=1.0, store=0.01),
        task("stitch_transcript", "stitch_transcript", 2200, 2200, 2300),
        ended=2300,
    )
    found = where(view, Written({0: T + 40, 1: T + 45}, {0: T + 1150, 1: T + 2150}), T, T + 2300)
    assert found.between_ms == (0,)
    assert found.inference_ms == 2000


def test_files_that_are_some_milliseconds_off_let_no_chunk_lie_over_another() -> None:
    written = Written(chunks={0: T + 500, 1: T + 700}, results={0: T + 1760, 1: T + 2720})
    found = where(two_chunks(), written, T, T + 3150)
    assert found.inference_ms == 2000
    assert found.wall_ms == 3150
    assert found.between_ms == (0,), "the first was moved to before the second"


def test_the_text_waits_for_the_speakers() -> None:
    voices = task("diarize_chunk", "voices_0", 10, 100, 2900)
    view = job(*two_chunks_raw(), voices, ended=3150)
    found = where(view, Written({0: T + 500, 1: T + 700}, {0: T + 1600, 1: T + 2640}), T, T + 3150)
    assert found.gaps[-1]["speakers"] == 2800 - 2660
    assert "join" not in found.gaps[-1]


def two_chunks_raw() -> list[dict[str, Any]]:
    return [
        task("plan_media", "plan_media", 10, 100, 150),
        task("split_media", "split_media", 160, 300, 720),
        task("transcribe_chunk", "chunk_0", 160, 200, 1620, inference=1.0, store=0.01),
        task("transcribe_chunk", "chunk_1", 160, 1640, 2680, inference=1.0, store=0.02),
        task("stitch_transcript", "stitch_transcript", 2800, 3000, 3100),
    ]


def test_a_job_of_which_nothing_is_told_is_not_explained() -> None:
    found = where(job(ended=1000), Written({}, {}), T, T + 1000)
    assert found.total[UNEXPLAINED] == found.wall_ms == 1000
    assert found.not_inference == 1


def test_each_phase_is_in_one_group() -> None:
    members = [phase for group in GROUPS.values() for phase in group]
    assert sorted(members) == sorted(PHASES)
    assert grouped(dict.fromkeys(PHASES, 1))["start"] == 4


def test_the_share_of_a_long_job_follows_from_its_parts() -> None:
    assert predicted(inference_s=9.0, chunks=11, once_ms=500, between_ms=50) == pytest.approx(0.1)


times = st.integers(min_value=0, max_value=10_000)


@given(times, times, st.lists(st.tuples(st.sampled_from(sorted(PHASES)), times, times), max_size=12))
def test_every_millisecond_of_a_stretch_is_counted_once(
    one: int, other: int, claims: list[tuple[str, int, int]]
) -> None:
    start, end = sorted((one, other))
    shares = divide(start, end, claims)
    assert sum(shares.values()) == end - start
    if start < end:
        first = next((name for name, since, until in claims if since <= start < until), UNEXPLAINED)
        assert shares[first] > 0, "the first millisecond is its first claimant's"


@given(
    st.lists(st.tuples(times, times, times, st.integers(0, 3000), st.integers(0, 300)), min_size=1, max_size=6),
    st.tuples(times, times),
    st.tuples(times, times),
    st.tuples(times, times),
    st.booleans(),
)
def test_the_phases_add_up_to_the_wall_whatever_the_records_say(
    chunks: list[tuple[int, int, int, int, int]],
    plan: tuple[int, int],
    split: tuple[int, int],
    stitch: tuple[int, int],
    files_there: bool,
) -> None:
    """Clocks that run backwards, files that are gone, tasks out of order: the sum stays the wall."""
    ended = 20_000
    tasks = [
        task("plan_media", "plan_media", 0, min(plan), max(plan)),
        task("split_media", "split_media", 0, min(split), max(split)),
        task("stitch_transcript", "stitch_transcript", min(stitch), min(stitch), max(stitch)),
        *(
            task(
                *("transcribe_chunk", f"chunk_{number}", 0, start, max(start, end)),
                fetch=other / 1000, speech=other / 1000, inference=inference / 1000, store=other / 1000,
            )
            for number, (start, end, _, inference, other) in enumerate(chunks)
        ),
    ]  # fmt: skip
    written = Written({}, {})
    if files_there:
        written = Written(
            {number: T + told[2] for number, told in enumerate(chunks)},
            {number: T + told[1] for number, told in enumerate(chunks)},
        )
    found = where(job(*tasks, ended=ended), written, T, T + ended)
    assert found.wall_ms == ended
    assert all(length >= 0 for length in found.total.values())
    assert found.inference_ms <= sum(inference for _, _, _, inference, _ in chunks)
    assert found.total[INFERENCE] + sum(sum(gap.values()) for gap in found.gaps) == ended
