"""Pure: a job's history as lanes of bars, from which the report's picture and page are drawn.

Times are integer milliseconds since the job's start, on the server's clock.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from workflows.progress import (
    AWAIT,
    CLUSTER,
    DIARIZATION,
    DIARIZE,
    LANGUAGE,
    PLAN,
    SPEECH,
    SPLIT,
    STITCH,
    TRANSCRIBE,
    JobView,
    TaskView,
)

# Phase to what the legend says of it, in the order of the legend.
PHASES = {
    "plan": "plan",
    "language": "language vote",
    "split": "split",
    "fetch": "fetch audio",
    "inference": "inference",
    "store": "store result",
    "speech": "speech map",
    "diarize": "voices",
    "cluster": "speakers",
    "stitch": "stitch",
    "await": "waits for the speakers",
    "running": "still running",
    "failed": "failed attempt",
    "cancelled": "cancelled",
    "waiting": "chunks waiting for audio or a worker",
}
STAGE_PHASES = {
    PLAN: "plan",
    LANGUAGE: "language",
    SPLIT: "split",
    SPEECH: "speech",
    CLUSTER: "cluster",
    STITCH: "stitch",
}
CHUNK_PHASES = {TRANSCRIBE: ("fetch", "inference", "store"), DIARIZE: ("fetch", "diarize", "store")}
NOBODY = "(no worker)"
THE_TEXT = "(the text)"  # in whose row its wait for the speakers is

# A worker's seconds and the server's times are of two clocks and of a network between them: bars of one
# worker that overlap by less are drawn one after the other, by more in two rows.
SLACK_MS = 500


@dataclass(frozen=True)
class Piece:
    """One phase of a bar."""

    phase: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Bar:
    """One attempt of one task on its worker."""

    task: TaskView
    pieces: tuple[Piece, ...]

    @property
    def start_ms(self) -> int:
        return self.pieces[0].start_ms

    @property
    def end_ms(self) -> int:
        return self.pieces[-1].end_ms

    @property
    def label(self) -> str:
        number = self.task.part if self.task.chunk is None else self.task.chunk
        return "" if number is None else str(number)


@dataclass(frozen=True)
class Lane:
    """A worker's bars, in order, none over another."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Timeline:
    """A job's lanes; waiting is a step function: from which time how many chunks were held by nobody.

    not_inference is 1 - (time in which at least one chunk was in inference) / wall: what a perfect
    system would not have spent. busy is inference summed over the workers, over wall times workers:
    how near N workers came to being N times as fast. Both are None before any chunk is done.
    """

    view: JobView
    wall_ms: int
    lanes: tuple[Lane, ...]
    waiting: tuple[tuple[int, int], ...]
    recognizing_workers: int
    not_inference: float | None
    busy: float | None

    @property
    def phases(self) -> tuple[str, ...]:
        """Those that occur, in the legend's order."""
        found = {piece.phase for lane in self.lanes for bar in lane.bars for piece in bar.pieces}
        if any(count for _, count in self.waiting):
            found.add("waiting")
        return tuple(phase for phase in PHASES if phase in found)


def from_view(view: JobView) -> Timeline:
    """The timeline of a job, finished or not."""
    wall = max(1, view.elapsed_ms)
    begun = [task for task in view.tasks if _held(task)]
    lanes = _lanes(view, begun)
    inference = [
        (piece.start_ms, piece.end_ms)
        for lane in lanes
        for bar in lane.bars
        for piece in bar.pieces
        if piece.phase == "inference"
    ]
    workers = len({task.worker for task in begun if task.type == TRANSCRIBE and task.worker})
    return Timeline(
        view=view,
        wall_ms=wall,
        lanes=lanes,
        waiting=_waiting(view),
        recognizing_workers=workers,
        not_inference=max(0.0, 1 - union_ms(inference) / wall) if inference else None,
        busy=sum(end - start for start, end in inference) / (wall * workers) if inference and workers else None,
    )


def union_ms(intervals: Iterable[tuple[int, int]]) -> int:
    """Length of the time that at least one interval covers."""
    covered, reached = 0, 0
    for start, end in sorted(intervals):
        covered += max(0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def ticks(wall_ms: int, wanted: int = 8) -> tuple[int, ...]:
    """Round times for an axis: 0 and at most `wanted` more."""
    days = -(-wall_ms // (86_400_000 * wanted))
    seconds = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
    step = 1000 * next((step for step in seconds if wall_ms <= step * 1000 * wanted), 86_400 * days)
    return tuple(range(0, wall_ms + 1, step))


def _held(task: TaskView) -> bool:
    """Whether a worker was or is at it; the wait for the speakers is drawn although it holds nobody."""
    return task.started_ms is not None and (task.running or task.ended_ms is not None or task.type == AWAIT)


def _lanes(view: JobView, tasks: Iterable[TaskView]) -> tuple[Lane, ...]:
    """A lane a worker, those that only plan, split and stitch first, then those that hear words, then those that
    only hear voices, and last the wait of the text for the speakers.

    A worker's voices have rows of their own, and so has what overlaps.
    """

    def worker(task: TaskView) -> str:
        return THE_TEXT if task.type == AWAIT else task.worker or NOBODY

    lanes: list[tuple[tuple[int, list[str | int], int], Lane]] = []
    for name, held in groupby(sorted(tasks, key=worker), key=worker):
        mine = sorted(held, key=lambda task: (_end(task, view), task.scheduled_ms))
        voices = [task for task in mine if task.type in DIARIZATION]
        others = [task for task in mine if task.type not in DIARIZATION]
        hears = (
            3 if name == THE_TEXT else 2 if not others else 1 if any(task.type == TRANSCRIBE for task in others) else 0
        )
        for number, bars in enumerate([*_rows(others, view), *_rows(voices, view)], 1):
            title = name if number == 1 else f"{name} · {number}"
            lanes.append(((hears, _natural(name), number), Lane(title, bars)))
    return tuple(lane for _, lane in sorted(lanes, key=lambda entry: entry[0]))


def _rows(tasks: Iterable[TaskView], view: JobView) -> list[tuple[Bar, ...]]:
    """One worker's attempts, in order of their ends, in as few rows as hold them."""
    rows: list[list[Bar]] = []
    for task in tasks:
        pieces = _pieces(task, view)
        # only of what is done is the beginning known for sure: anything else was perhaps fetched ahead
        needs_ms = (pieces[_core(pieces)].start_ms if task.done else pieces[-1].end_ms) + SLACK_MS
        row = next((row for row in rows if row[-1].end_ms <= needs_ms), None)
        if row is None:
            rows.append([Bar(task, pieces)])
        else:
            row.append(Bar(task, _after(row[-1].end_ms, pieces)))
    return [tuple(row) for row in rows]


def _natural(name: str) -> list[str | int]:
    """Sorting key by which gpu-2 comes before gpu-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _pieces(task: TaskView, view: JobView) -> tuple[Piece, ...]:
    """The phases of an attempt, contiguous, from when its worker began in earnest."""
    start = max(0, (task.started_ms or view.started_ms) - view.started_ms)
    end = max(start, _end(task, view))
    if task.failed:
        return (Piece("failed", start, end),)
    if task.type == AWAIT:
        return (Piece("await", start, end),)
    if task.status == "CANCELED":
        return (Piece("cancelled", start, end),)
    if not task.done:
        return (Piece("running", start, end),)
    if task.type not in CHUNK_PHASES:
        begun = max(start, (task.busy_from_ms or 0) - view.started_ms)  # the speech map is given back, as chunks are
        return (Piece(STAGE_PHASES[task.type], begun, end),)
    if not task.seconds:  # an earlier run's result, or a chunk past the media's end: looked up, not heard
        return (Piece("fetch", max(start, end - SLACK_MS), end),)
    pieces: list[Piece] = []
    until = end
    for phase in reversed(CHUNK_PHASES[task.type]):  # the end is the one time that is sure
        since = max(start, until - round(1000 * task.seconds.get(phase, 0.0)))
        if since < until or phase in ("inference", "diarize"):
            pieces.append(Piece(phase, since, until))
        until = since
    return tuple(reversed(pieces))


def _end(task: TaskView, view: JobView) -> int:
    """When it ended; a running one reaches to now."""
    return task.ended_ms - view.started_ms if task.ended_ms is not None else view.elapsed_ms


def _core(pieces: tuple[Piece, ...]) -> int:
    """The piece that needs the worker for itself: audio is fetched while the chunk before is heard."""
    return next((number for number, piece in enumerate(pieces) if piece.phase != "fetch"), 0)


def _after(reached_ms: int, pieces: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """The pieces without what the bar before covers already; a bar never vanishes altogether."""
    cut = [
        Piece(piece.phase, max(piece.start_ms, reached_ms), piece.end_ms)
        for piece in pieces
        if piece.end_ms > reached_ms
    ]
    return tuple(cut) or (Piece(pieces[-1].phase, reached_ms, reached_ms),)


def _waiting(view: JobView) -> tuple[tuple[int, int], ...]:
    """How many chunks nobody held, as (from when, how many), from 0 to the end of the job."""
    changes: dict[int, int] = {0: 0}
    for task in view.tasks:
        if task.type != TRANSCRIBE:
            continue
        begun = None if task.waiting else task.busy_from_ms
        since = max(0, task.scheduled_ms - view.started_ms)
        until = (begun - view.started_ms) if begun is not None else _end(task, view)
        if until > since:
            changes[since] = changes.get(since, 0) + 1
            changes[until] = changes.get(until, 0) - 1
    steps: list[tuple[int, int]] = []
    count = 0
    for at in sorted(changes):
        count += changes[at]
        steps.append((at, count))
    return tuple(steps)
