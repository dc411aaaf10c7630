"""What a job could have taken, and where its time went. Pure: tasks and inferences in, seconds out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from benchmarks.simulated_fleet import Inference


def ideal_seconds(work_s: float, capacity: Sequence[tuple[float, float]]) -> float:
    """When `work_s` (of one worker of usual speed) is done by a fleet that loses nothing and waits for nothing.

    capacity: (from this second on, so many workers' worth), ascending, the first from 0: the answer is where its
    integral reaches the work. Raises ValueError where it never does.
    """
    done = 0.0
    edges = [*(at for at, _ in capacity[1:]), float("inf")]
    for (at, workers), until in zip(capacity, edges, strict=True):
        if workers > 0 and done + workers * (until - at) >= work_s:
            return at + (work_s - done) / workers
        done += workers * max(0.0, until - at) if workers else 0.0
    raise ValueError(f"no capacity is left after {capacity[-1][0]} s, and {work_s - done} s of work are")


def capacity_with_kills(workers: int, killed: int, at_s: float, boot_s: float) -> list[tuple[float, float]]:
    """Of a fleet that loses `killed` workers at `at_s` and has others in their place `boot_s` later."""
    return [(0.0, workers), (at_s, workers - killed), (at_s + boot_s, workers)]


def killed_of(workers: int, share: float) -> int:
    """How many are killed, or slow: at least one."""
    return max(1, round(workers * share))


@dataclass(frozen=True)
class Times:
    """Seconds since the submission, and seconds of a worker on the average; None: there was none.

    cut_first, cut_last: when the first and the last chunk were in storage. heard_first: first inference begins;
    heard_last: last one ends. before, between, after: an average worker without inference until its own first,
    between two, and from its last to heard_last; inference: with one; lost: with one that came to nothing, and dead.
    """

    plan_scheduled: float
    plan_started: float
    plan_ended: float
    chunks_scheduled: float
    split_started: float
    cut_first: float
    cut_last: float
    split_ended: float
    heard_first: float
    heard_last: float
    chunks_ended: float
    chunks_joined: float
    joined: float
    stitch_started: float
    stitch_ended: float
    ended: float
    before: float
    between: float
    after: float
    inference: float
    lost: float

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def times_of(
    workflow: Mapping[str, Any], began: float, cut: Sequence[float], inferences: Sequence[Inference], workers: int
) -> Times:
    """began, cut: seconds since the epoch; cut: when each chunk came into storage."""
    last = {task["referenceTaskName"]: task for task in sorted(workflow["tasks"], key=lambda task: int(task["seq"]))}
    chunks = [task for name, task in last.items() if name.startswith("chunk_")]

    def at(name: str, moment: str) -> float:
        return float(last[name][moment]) / 1000 - began

    heard = [inference for inference in inferences if inference.ended is not None]
    heard_last = max(inference.ended or 0.0 for inference in heard) - began
    spent = _spent(inferences, began, heard_last)
    inference = sum(own["inference"] for own in spent.values()) / workers
    parts = {part: sum(own[part] for own in spent.values()) / workers for part in ("before", "between", "after")}
    return Times(
        plan_scheduled=at("plan_media", "scheduledTime"),
        plan_started=at("plan_media", "startTime"),
        plan_ended=at("plan_media", "endTime"),
        chunks_scheduled=min(float(task["scheduledTime"]) for task in chunks) / 1000 - began,
        split_started=at("split_media", "startTime"),
        cut_first=min(cut) - began,
        cut_last=max(cut) - began,
        split_ended=at("split_media", "endTime"),
        heard_first=min(inference.began for inference in inferences) - began,
        heard_last=heard_last,
        chunks_ended=max(float(task["endTime"]) for task in chunks) / 1000 - began,
        chunks_joined=at("join_chunks", "endTime"),
        joined=at("join_media", "endTime"),
        stitch_started=at("stitch_transcript", "startTime"),
        stitch_ended=at("stitch_transcript", "endTime"),
        ended=float(workflow["endTime"]) / 1000 - began,
        inference=inference,
        lost=heard_last - inference - sum(parts.values()),
        **parts,
    )


def _spent(inferences: Sequence[Inference], began: float, heard_last: float) -> dict[str, dict[str, float]]:
    """By worker: seconds of the job until heard_last. A killed one's time after its last inference is left out."""
    own: dict[str, list[Inference]] = {}
    for inference in inferences:
        own.setdefault(inference.worker, []).append(inference)
    found = {}
    for name, row in own.items():
        done = [(one.began - began, (one.ended or one.began) - began) for one in row]
        killed = any(one.ended is None for one in row)
        gaps = [max(0.0, after[0] - before[1]) for before, after in pairwise(done)]
        found[name] = {
            "before": done[0][0],
            "between": 0.0 if killed else sum(gaps),
            "after": 0.0 if killed else heard_last - done[-1][1],
            "inference": sum(end - start for start, end in done),
        }
    return found
