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

BATCHED_MS = 120_000
"""The shortest chunk for an engine that decodes many windows at once, which takes nearly as long for one as for four:
faster-whisper's figures (large-v2, RTX 3070 Ti) give 12 times real time for one window after the other and 46 for
eight; ten minutes took the demo model 18.5 s of a processor in three chunks (one worker) and 28.7 in eighteen (two)."""

LONGEST_MS = 600_000
"""Twenty of Whisper's windows, which fill a batch on a GPU: beyond that a longer chunk is not faster, only
more to lose with a killed worker and more to wait for while watching."""

GROWTH = 2.0
"""From one round to the next at the beginning. A splitter makes 700 s of sound and more in a second, a GPU reads 13:
even 16 workers are done with a round later than the next one, twice as long, is cut."""

SHARE = 6
"""A chunk is this part of what remains for its worker. Factoring (Hummel, Schonberg and Flynn, Communications of the
ACM 35(8), 1992) hands out half of what remains in one batch. But what a killed worker held comes back ten seconds
later, behind all others in the queue, and is then what everybody waits for. Of 16 workers with 94.5 minutes five were
killed halfway: the last chunk ended after 36.7 s with a quarter, after 34.4 with a sixth (one run each of `bench
scaling`; the ideal is 30.4). The price is a quarter more chunks."""

WASTE_SHARE = 0.05
"""An unfilled last round may leave so much of all workers' time unused, for chunks that are a third shorter."""

SEARCH_MS = 15_000
"""How far from the wanted cut a silence is looked for: people breathe several times in 30 s."""

SEARCH_PART = 6
"""Nor farther than this part of the way to the next cut: five seconds either side of a chunk of thirty. With a third
the last round's chunks were ten to fifty seconds long, and the fleet waited for whoever had got the longest."""

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


def plan_cuts(
    span: Span, chunk_seconds: Literal["auto"] | int, workers: int, shortest_ms: int = SHORTEST_MS
) -> tuple[int, ...]:
    """Wanted cuts, ascending, strictly inside `span`; one chunk more than cuts, none when one chunk will do.

    A number of `chunk_seconds` is a ceiling: the span is divided evenly into as few chunks as that
    allows, so that none is a tiny rest. "auto" is made for `workers` that run at once and for an engine to which
    chunks below `shortest_ms` are not worth while: they are cut only where some workers would have none.
    """
    if chunk_seconds == "auto":
        lengths = _in_rounds(span.duration_ms, max(1, workers), shortest_ms)
    else:
        lengths = _even(span.duration_ms, math.ceil(span.duration_ms / (chunk_seconds * 1000)))
    cuts: list[int] = []
    reached = float(span.start_ms)
    for length in lengths[:-1]:
        reached += length
        cuts.append(round(reached))
    return tuple(cuts)


def _in_rounds(total_ms: float, workers: int, shortest_ms: int) -> list[float]:
    """Chunk lengths in ms, in rounds of one equal chunk for each worker: short, then longer, then short again.

    One worker has nobody to be even with: it gets few long chunks (see `_growing`). For others

    * the first round is as short as can be and each next at most GROWTH times as long: chunks come off the
      tape one after the other, so all workers but the first wait for theirs, the last one for a whole round;
    * then a round is a quarter of what remains, down to the shortest (see SHARE), so that all finish together
      although one is slower than thought or died;
    * rounds are whole: a last one for half of the workers would let the other half go home early. Where there is
      room for a few rounds only, they are all alike.
    """
    if workers == 1:
        return _growing(total_ms, shortest_ms)
    fair_ms = total_ms / workers
    if fair_ms < SHARE * shortest_ms:
        return _even(total_ms, _count_of_alike(total_ms, workers, shortest_ms))
    return [length for length in _tapered(fair_ms, shortest_ms) for _ in range(workers)]


def _growing(total_ms: float, shortest_ms: int) -> list[float]:
    """One worker's chunks: it begins with the first one or two minutes while the rest is cut, and ends with even ones.

    Of ten minutes at once it would have to wait for all to be cut and its speech to be found, while the engine stands
    still: two seconds and more, of the sixty that a lecture takes a fast GPU.
    """
    lengths: list[float] = []
    grown_ms = float(max(2 * SHORTEST_MS, shortest_ms))
    while grown_ms < LONGEST_MS and total_ms >= 3 * grown_ms:
        lengths.append(grown_ms)
        total_ms -= grown_ms
        grown_ms *= GROWTH
    return [*lengths, *_even(total_ms, math.ceil(total_ms / LONGEST_MS))]


def _tapered(fair_ms: float, shortest_ms: int) -> list[float]:
    """One worker's chunk of each round, at least SHARE of them; the sum is `fair_ms`."""
    lengths: list[float] = []
    remaining_ms, grown_ms = fair_ms, float(shortest_ms)
    while remaining_ms >= 2 * shortest_ms:
        lengths.append(min(max(remaining_ms / SHARE, shortest_ms), grown_ms, LONGEST_MS))
        remaining_ms -= lengths[-1]
        grown_ms *= GROWTH
    # what is left beyond the shortest goes to rounds that can take it; the first is to stay short
    roomy = [at for at, length in enumerate(lengths) if at and length <= LONGEST_MS - shortest_ms]
    for at in roomy:
        lengths[at] += (remaining_ms - shortest_ms) / len(roomy)
    return [*lengths, float(shortest_ms)]


def _count_of_alike(total_ms: float, workers: int, shortest_ms: int) -> int:
    """How many chunks, where each worker gets less than SHARE of them."""
    rounds = total_ms / workers / shortest_ms
    if rounds < 1:
        return max(1, min(workers, int(total_ms // SHORTEST_MS)))
    not_quite_whole = math.ceil(rounds) <= rounds * (1 + WASTE_SHARE)
    return int(total_ms // shortest_ms) if not_quite_whole else workers * int(rounds)


def _even(total_ms: float, count: int) -> list[float]:
    return [total_ms / max(1, count)] * max(1, count)


def search_windows(cuts: Sequence[int], span: Span) -> tuple[Span, ...]:
    """For each wanted cut, the stretch around it that may be searched: disjoint, inside `span`, centred.

    A part of the way to the next cut at most, so that chunks stay in order and about as long as they were planned.
    """
    edges = (span.start_ms, *cuts, span.end_ms)
    windows = []
    for before, cut, after in zip(edges, cuts, edges[2:], strict=False):
        reach = max(0, min(SEARCH_MS, (cut - before) // SEARCH_PART, (after - cut) // SEARCH_PART))
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
