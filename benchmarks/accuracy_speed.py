"""How long a job of given chunks takes on workers of known speed: list scheduling in order. Pure, nothing is measured.

Chunks come off the tape one after the other and are handed out in order, each to the worker that is free first, as
the queue does it. The server hands out one at a time.
"""

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.accuracy_runs import Length
from workers.chunking import SHORTEST_MS, search_windows
from workers.spans import Span


@dataclass(frozen=True)
class Pace:
    """rate: audio seconds a worker hears in a second (small.en on the original's RTX 2080 Ti); split_rate: audio
    seconds a splitter cuts in a second (5670 s in 7.3 s on one busy core of the machine this was written on);
    chunk_s: of a worker between two chunks, fetching and storing that is not hidden; hand_out_s: of the server for
    each task (25 to 40 ms); begin_s and end_s: before the first chunk is being cut, and after the last one is heard.
    """

    rate: float = 13.0
    split_rate: float = 777.0
    chunk_s: float = 0.1
    hand_out_s: float = 0.033
    begin_s: float = 0.5
    end_s: float = 0.5


def makespan(chunks_s: Sequence[float], workers: int, pace: Pace) -> float:
    """Seconds from the job's start to its end."""
    free = [pace.begin_s] * workers
    cut_at = handed_at = pace.begin_s
    last = 0.0
    for length in chunks_s:
        cut_at += length / pace.split_rate
        handed_at = max(handed_at, heapq.heappop(free)) + pace.hand_out_s
        done = max(handed_at, cut_at) + length / pace.rate + pace.chunk_s
        heapq.heappush(free, done)
        last = max(last, done)
    return last + pace.end_s


def efficiency(chunks_s: Sequence[float], workers: int, pace: Pace) -> float:
    """Of the time that `workers` take who never wait: 1 is all of it."""
    return sum(chunks_s) / pace.rate / workers / makespan(chunks_s, workers, pace)


def cut_lengths_s(length: Length, duration_ms: int, shifts: Sequence[float], seed: int) -> list[float]:
    """The chunks of a recording as they would be cut: each cut moved from where it was wanted by one of `shifts`,
    drawn at random (in parts of what the search for a pause may reach, -1 to 1)."""
    span, dice = Span.of(0, duration_ms), random.Random(seed)
    wanted = length.cuts(duration_ms, SHORTEST_MS)  # at 13 times real time: one window after the other
    edges = [0.0]
    for window in search_windows(wanted, span):
        edges.append(window.midpoint_ms + window.duration_ms / 2 * (dice.choice(shifts) if shifts else 0.0))
    edges.append(float(duration_ms))
    return [(after - before) / 1000 for before, after in pairwise(edges)]


def shift_of(at_ms: int, wanted_ms: int, window: Span) -> float:
    """Where a cut came to lie, as `cut_lengths_s` takes it."""
    reach_ms = window.duration_ms / 2
    return (at_ms - wanted_ms) / reach_ms if reach_ms else 0.0
