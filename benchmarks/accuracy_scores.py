"""What a division into chunks did to a transcript: errors beside cuts and elsewhere, times, what is covered. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scoring import HasSegments, TimedWord, WordError, normal_words
from benchmarks.speech import Sentence
from benchmarks.surroundings import bench_extra
from workers.spans import Span

NEAR_MS = 2_000
BLOCK_MS = 30_000  # one of Whisper's windows: errors come in windows, so what is drawn again and again is these
DRAWS = 2_000
SEED = 6


@dataclass(frozen=True)
class Pair:
    """Errors of two transcripts in the same place, and the words that were said there."""

    errors: int
    control: int
    words: int


@dataclass(frozen=True)
class Difference:
    """Errors more than the control's, for each word said; low and high: 95 of 100 draws of the places lie between.

    All are 0 where there are no places.
    """

    value: float
    low: float
    high: float
    rate: float
    control_rate: float
    words: int


def by_block(
    errors: Iterable[WordError], control: Iterable[WordError], said: Iterable[TimedWord], duration_ms: int
) -> list[Pair]:
    """The recording in stretches of BLOCK_MS."""
    count = duration_ms // BLOCK_MS + 1
    found = [[0, 0, 0] for _ in range(count)]
    times = ([one.at_ms for one in errors], [one.at_ms for one in control], [one.at_ms for one in said])
    for column, timed in enumerate(times):
        for at_ms in timed:
            found[min(at_ms // BLOCK_MS, count - 1)][column] += 1
    return [Pair(*block) for block in found]


def by_cut(
    errors: Sequence[WordError],
    control: Sequence[WordError],
    said: Sequence[TimedWord],
    cuts_ms: Iterable[int],
    within_ms: int = NEAR_MS,
) -> list[Pair]:
    """Within `within_ms` of each cut, both ends included. Cuts must be more than twice that apart to count no word
    twice."""

    def near(timed: Sequence[WordError] | Sequence[TimedWord], cut_ms: int) -> int:
        return sum(abs(one.at_ms - cut_ms) <= within_ms for one in timed)

    return [Pair(near(errors, cut), near(control, cut), near(said, cut)) for cut in cuts_ms]


def difference(places: Sequence[Pair]) -> Difference:
    """Of all places together, and how far it might have come out otherwise by chance (a bootstrap over the places)."""
    words = sum(place.words for place in places)
    if not words:
        return Difference(0.0, 0.0, 0.0, 0.0, 0.0, 0)
    table = np.array([(place.errors - place.control, place.words) for place in places], np.int64)
    drawn = np.random.default_rng(SEED).integers(0, len(places), (DRAWS, len(places)))
    sums = table[drawn].sum(axis=1)
    values = sums[:, 0] / np.maximum(sums[:, 1], 1)
    low, high = np.percentile(values, (2.5, 97.5))
    errors, control = (sum(getattr(place, name) for place in places) for name in ("errors", "control"))
    return Difference((errors - control) / words, float(low), float(high), errors / words, control / words, words)


def sentence_time_errors(truth: Iterable[Sentence], transcript: HasSegments) -> list[int]:
    """|heard - true| in ms of each sentence's start and end.

    Those are the times that the truth has exactly: where the sentence's first word was heard rightly, its start is
    compared with that word's start, and where the last one was, its end with that word's end.
    """
    with bench_extra():
        import jiwer
    said = [
        (word, sentence.start_ms if at == 0 else None, sentence.end_ms if at == len(words) - 1 else None)
        for sentence in truth
        for words in [normal_words(sentence.text)]
        for at, word in enumerate(words)
    ]
    heard = [
        (part, word.start_ms, word.end_ms)
        for segment in transcript.segments
        for word in segment.words
        for part in normal_words(word.text)
    ]
    if not said or not heard:
        return []
    aligned = jiwer.process_words(" ".join(word for word, *_ in said), " ".join(word for word, *_ in heard))
    found: list[int] = []
    for part in aligned.alignments[0]:
        if part.type != "equal":
            continue
        mine, theirs = said[part.ref_start_idx : part.ref_end_idx], heard[part.hyp_start_idx : part.hyp_end_idx]
        for (_, start, end), (_, heard_start, heard_end) in zip(mine, theirs, strict=True):
            found += [abs(heard_start - start)] if start is not None else []
            found += [abs(heard_end - end)] if end is not None else []
    return found


def covered(cores: Sequence[Span], duration_ms: int) -> bool:
    """Whether the cores tile the recording: none overlaps another, nothing is left out, to the millisecond."""
    edges = [0]
    for core in cores:
        if core.start_ms != edges[-1]:
            return False
        edges.append(core.end_ms)
    return edges[-1] == duration_ms and sum(core.duration_ms for core in cores) == duration_ms
