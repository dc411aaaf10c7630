"""Where a recording is cut: how many chunks, about where, and exactly where. Pure: numbers in, numbers out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from workers.spans import Span

SHORTEST_MS = 30_000
"""Whisper hears 30 s at a time: a shorter chunk is padded to that, so it costs the same inference, and
every cut takes context away from the words beside it and costs a task of its own (25 to 40 ms of the
server's processor, and a poll)."""

LONGEST_MS = 600_000
"""Twenty of Whisper's windows, which fill a batch on a GPU: beyond that a longer chunk is not faster, only
more to lose with a killed worker and more to wait for while watching."""

SEARCH_MS = 15_000
"""How far from the wanted cut a silence is looked for: people breathe several times in 30 s."""

NEAR_MS = 5_000
"""How far the voice-activity model looks where the level alone finds no pause (noise, music): it costs three
milliseconds a second of audio, and five seconds either side hold a breath or there is none to be had."""

CONTEXT_MS = 1_000
"""What the model hears before and after a pause that it is to confirm: it needs some sound to warm up."""

SILENCE_MS = 300
"""Shortest pause that counts: a cut in its middle leaves 150 ms to both words, more than the voice-activity
model's frame (32 ms) and than the closure of a plosive (up to about 150 ms, which is no pause)."""

CANDIDATES = 3
"""Pauses shown to the model in turn: the longest are pauses, and a fourth would cost more than an overlap."""

OVERLAP_MS = 3_000
"""Where there is no silence each neighbour hears this much past the cut. Six seconds in common are some 15
words at 150 a minute; the second or so at either end that an engine garbles because the sound sets on
without context still leaves about ten words in a row for matching both sides."""


@dataclass(frozen=True)
class Cut:
    """Where one core ends and the next begins; both neighbours' audio reaches overlap_ms beyond it."""

    at_ms: int
    overlap_ms: int = 0


def plan_cuts(span: Span, chunk_seconds: Literal["auto"] | int, workers: int) -> tuple[int, ...]:
    """Wanted cuts, ascending, strictly inside `span`; one chunk more than cuts, none when one chunk will do.

    A number of `chunk_seconds` is a ceiling: the span is divided evenly into as few chunks as that
    allows, so that none is a tiny rest. "auto" is made for `workers` that run at once (see `_tapered`).
    """
    if chunk_seconds == "auto":
        lengths = _tapered(span.duration_ms, max(1, workers))
    else:
        count = max(1, math.ceil(span.duration_ms / (chunk_seconds * 1000)))
        lengths = [span.duration_ms / count] * count
    cuts: list[int] = []
    reached = float(span.start_ms)
    for length in lengths[:-1]:
        reached += length
        cuts.append(round(reached))
    return tuple(cuts)


def _tapered(remaining_ms: float, workers: int) -> list[float]:
    """Chunk lengths in ms, long first and short last, so that all workers finish together.

    Factoring (Hummel, Schonberg and Flynn, Communications of the ACM 35(8), 1992): hand out half of
    what remains in `workers` equal chunks, then half of the rest, and so on: a chunk is
    remaining / (2 * workers). Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on
    Computers C-36(12), 1987) takes remaining / workers: fewer chunks, but its first ones are each a
    whole fair share, so one that is slower than thought, or whose worker dies, delays the end by as
    much. The two agree for one worker, who has nobody to be even with: the whole, but for the bound.
    """
    share = 1 if workers == 1 else 2 * workers
    lengths: list[float] = []
    while remaining_ms >= 2 * SHORTEST_MS:
        batch = min(max(remaining_ms / share, SHORTEST_MS), LONGEST_MS)
        for _ in range(workers):
            if remaining_ms - batch < SHORTEST_MS:  # the rest would be tiny: it stays with this chunk, or halves it
                break
            lengths.append(batch)
            remaining_ms -= batch
        else:
            continue
        break
    if remaining_ms > LONGEST_MS:
        return [*lengths, remaining_ms / 2, remaining_ms / 2]
    return [*lengths, remaining_ms]


def search_windows(cuts: Sequence[int], span: Span) -> tuple[Span, ...]:
    """For each wanted cut, the stretch around it that may be searched: disjoint, inside `span`, centred.

    A third of the way to the next cut at most, so that chunks stay in order and keep some length.
    """
    edges = (span.start_ms, *cuts, span.end_ms)
    windows = []
    for before, cut, after in zip(edges, cuts, edges[2:], strict=False):
        reach = max(0, min(SEARCH_MS, (cut - before) // 3, (after - cut) // 3))
        windows.append(Span.of(cut - reach, cut + reach))
    return tuple(windows)


def near_part(window: Span) -> Span:
    """The middle of a search window, which the voice-activity model listens to."""
    reach = min(NEAR_MS, window.duration_ms // 2)
    return Span.of(window.midpoint_ms - reach, window.midpoint_ms + reach)


def silences(window: Span, speech: Sequence[Span]) -> list[Span]:
    """What of `window` no speech touches; `speech` is ascending."""
    found: list[Span] = []
    reached = window.start_ms
    for voiced in speech:
        if voiced.start_ms > reached:
            found.append(Span.of(reached, min(voiced.start_ms, window.end_ms)))
        reached = max(reached, voiced.end_ms)
        if reached >= window.end_ms:
            return found
    return [*found, Span.of(reached, window.end_ms)]


def longest_first(stretches: Sequence[Span], wanted_ms: int) -> list[Span]:
    """Those of at least SILENCE_MS, the longest first; of equal ones the nearest to the wanted cut."""
    pauses = (stretch for stretch in stretches if stretch.duration_ms >= SILENCE_MS)
    return sorted(pauses, key=lambda pause: (-pause.duration_ms, abs(pause.midpoint_ms - wanted_ms)))


def cut_without_silence(wanted_ms: int, window: Span) -> Cut:
    """Cut at the wanted place all the same; both sides hear as much of the other's as the window allows."""
    return Cut(wanted_ms, min(OVERLAP_MS, wanted_ms - window.start_ms, window.end_ms - wanted_ms))
