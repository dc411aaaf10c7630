"""Chunk results to segments: every word once, in order, and what is missing named. Pure.

Cores tile the wanted span, and a word belongs to the chunk whose core holds its midpoint. Where a
cut found no silence, both neighbours heard the seconds around it, each with its own idea of when a
word was said: by times alone, a word at the cut could be lost (both put it on the other side) or
doubled. So the two word sequences are aligned, and the seam is laid at a word that both heard.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from workers.chunking import OVERLAP_MS
from workers.errors import JobError
from workers.messages import ChunkResult
from workers.spans import Span, clock
from workers.transcript import Gap, Segment, Word

SPREADS_MS = (250, 1000)
"""How far apart (standard deviation) two engines put the same word: cross-attention times are good to
about 200 ms. Only where nothing matches so closely is a systematic shift allowed for."""

SAME_WORD = 2.0
"""Gain, in nats, of matching two equal words; dt*dt / (2 spread²) is taken off. So equal words match up
to 2 spreads apart. More would let "no, no, no" match one word late for the sake of one match more."""

OTHER_WORD = 0.5
"""Gain of matching two different words, one of them misheard: only when at nearly the same time."""

LONE_MATCH_MS = 1_000
"""A match without a matching neighbour may be chance ("the"): worth going this much farther from the cut to avoid."""


@dataclass(frozen=True)
class Stitched:
    """Segments in order, none overlapping the next; gaps in order."""

    segments: tuple[Segment, ...]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class _Unit:
    """What a seam cannot divide: a word of a segment, or a segment that came without words."""

    segment: int
    word: Word | None
    start_ms: int
    end_ms: int
    heard: str  # the word without case and punctuation; "" matches nothing

    @property
    def middle_ms(self) -> int:
        return (self.start_ms + self.end_ms) // 2


@dataclass(frozen=True)
class _Part:
    """A chunk's units, and the range of them that goes into the transcript."""

    result: ChunkResult
    units: tuple[_Unit, ...]
    first: int
    last: int  # exclusive


def stitch(results: Iterable[ChunkResult], gaps: Iterable[Gap], span: Span, keep_words: bool = True) -> Stitched:
    """Join chunk results over `span`; without `keep_words` the segments lose theirs at the end.

    Raises JobError naming the seconds that neither a result nor a gap accounts for, or that two do.
    """
    present = sorted((result for result in results if result.chunk.core.duration_ms), key=_core_start)
    lost = tuple(sorted(gaps, key=lambda gap: (gap.start_ms, gap.end_ms)))
    _check_coverage([result.chunk.core for result in present], lost, span)
    segments = _ordered([segment for part in _joined(present) for segment in _segments(part)])
    if not keep_words:
        segments = [segment.model_copy(update={"words": ()}) for segment in segments]
    return Stitched(tuple(segments), lost)


def final_prefix(results: Mapping[int, ChunkResult], keep_words: bool = True) -> tuple[Segment, ...]:
    """The segments that no later result can change, from chunk 0 up to the first one that is not there yet.

    Their texts and number are final; a time may still move by the jitter of one word at a seam.
    """
    contiguous: list[ChunkResult] = []
    while len(contiguous) in results:
        contiguous.append(results[len(contiguous)])
    contiguous = [result for result in contiguous if result.chunk.core.duration_ms]
    if not contiguous:
        return ()
    *done, last = _joined(contiguous)
    segments = [segment for part in done for segment in _segments(part)] + _segments(_undisputed(last))
    if not keep_words:
        segments = [segment.model_copy(update={"words": ()}) for segment in segments]
    return tuple(_ordered(segments))


def _core_start(result: ChunkResult) -> int:
    return result.chunk.core.start_ms


def _check_coverage(cores: Sequence[Span], gaps: Sequence[Gap], span: Span) -> None:
    pieces = sorted([*cores, *(Span.of(gap.start_ms, gap.end_ms) for gap in gaps)], key=lambda piece: piece.start_ms)
    reached = span.start_ms
    for piece in [*pieces, Span.of(span.end_ms, span.end_ms)]:
        if piece.start_ms > reached:
            raise JobError(f"Nothing is known of {clock(reached)} to {clock(piece.start_ms)}: run the job again.")
        if piece.start_ms < reached:
            raise JobError(
                f"{clock(piece.start_ms)} to {clock(reached)} was cut twice: delete the job's objects and run it again."
            )
        reached = piece.end_ms


def _joined(results: Sequence[ChunkResult]) -> list[_Part]:
    """Parts in order, with a seam between neighbours; beside a gap the core rule alone decides."""
    parts = [_by_core(result) for result in results]
    for index in range(len(parts) - 1):
        left, right = parts[index], parts[index + 1]  # the left one's first words are already decided
        chunk, other = left.result.chunk, right.result.chunk
        if chunk.core.end_ms == other.core.start_ms and chunk.audio.overlap_ms(other.audio):
            end, begin = _seam(left, right)
            parts[index] = replace(left, last=end)
            parts[index + 1] = replace(right, first=begin, last=max(begin, right.last))
    return parts


def _by_core(result: ChunkResult) -> _Part:
    """By the core rule, but only on sides where somebody else heard the same seconds.

    Where audio and core end together, a word that the engine puts past the end has nowhere else to go.
    """
    units = _units(result)
    core, audio = result.chunk.core, result.chunk.audio
    first = _count_before(units, core.start_ms) if audio.start_ms < core.start_ms else 0
    last = _count_before(units, core.end_ms) if audio.end_ms > core.end_ms else len(units)
    return _Part(result, units, first, max(first, last))


def _units(result: ChunkResult) -> tuple[_Unit, ...]:
    """The chunk's words in order, times held to the audio they were heard in."""
    audio = result.chunk.audio

    def unit(segment: int, of: Word | Segment, heard: str) -> _Unit:
        start_ms = min(max(of.start_ms, audio.start_ms), audio.end_ms)
        end_ms = min(max(of.end_ms, start_ms), max(audio.end_ms, start_ms))
        return _Unit(segment, of if isinstance(of, Word) else None, start_ms, end_ms, heard)

    return tuple(
        unit(index, piece, _normal(piece.text) if isinstance(piece, Word) else "")
        for index, segment in enumerate(result.segments)
        for piece in (segment.words or (segment,))
    )


@lru_cache(maxsize=1 << 14)  # people use few words
def _normal(text: str) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LNM") or folded.strip()


def _count_before(units: Sequence[_Unit], at_ms: int) -> int:
    """How many units come before the first whose midpoint is at `at_ms` or later."""
    return next((index for index, unit in enumerate(units) if unit.middle_ms >= at_ms), len(units))


def _window(cut_ms: int, left: Span, right: Span, left_core: Span, right_core: Span) -> Span:
    """Where a seam may lie: both heard it, and no nearer to a chunk's other seam than to this one."""
    return Span.of(
        min(cut_ms, max(right.start_ms, left_core.midpoint_ms)), max(cut_ms, min(left.end_ms, right_core.midpoint_ms))
    )


def _seam(left: _Part, right: _Part) -> tuple[int, int]:
    """(end, begin): the left part keeps its units before `end`, the right one those from `begin`."""
    chunk, other = left.result.chunk, right.result.chunk
    cut_ms = chunk.core.end_ms
    window = _window(cut_ms, chunk.audio, other.audio, chunk.core, other.core)
    mine = [n for n in range(left.first, len(left.units)) if _near(left.units[n], window)]
    theirs = [n for n in range(len(right.units)) if _near(right.units[n], window)]
    for spread_ms in SPREADS_MS:
        pairs = _aligned([left.units[n] for n in mine], [right.units[n] for n in theirs], spread_ms)
        matches = [(mine[a], theirs[b]) for a, b in pairs]
        equal = [pair for pair in matches if left.units[pair[0]].heard == right.units[pair[1]].heard]
        if equal:
            return _at_nearest(equal, left.units, right.units, cut_ms)
    if matches:
        return _at_nearest(matches, left.units, right.units, cut_ms)
    return max(left.first, _count_before(left.units, cut_ms)), _count_before(right.units, cut_ms)


def _near(unit: _Unit, window: Span) -> bool:
    return window.start_ms - 2 * SPREADS_MS[0] <= unit.middle_ms <= window.end_ms + 2 * SPREADS_MS[0]


def _aligned(left: Sequence[_Unit], right: Sequence[_Unit], spread_ms: int) -> list[tuple[int, int]]:
    """Index pairs of units that are the same word, in order: the alignment of the greatest total gain.

    Needleman and Wunsch's recurrence, without a penalty for what stays unmatched. At a pace of three
    words a second the table has some 20 by 20 cells.
    """
    best = [[0.0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for a, mine in enumerate(left):
        for b, theirs in enumerate(right):
            gain = _gain(mine, theirs, spread_ms)
            best[a + 1][b + 1] = max(best[a][b + 1], best[a + 1][b], best[a][b] + gain if gain > 0 else 0.0)
    pairs: list[tuple[int, int]] = []
    a, b = len(left), len(right)
    while a and b:
        if best[a][b] == best[a - 1][b]:
            a -= 1
        elif best[a][b] == best[a][b - 1]:
            b -= 1
        else:
            a, b = a - 1, b - 1
            pairs.append((a, b))
    return pairs[::-1]


def _gain(mine: _Unit, theirs: _Unit, spread_ms: int) -> float:
    if not mine.heard or not theirs.heard:
        return 0.0
    apart_ms = mine.middle_ms - theirs.middle_ms
    return (SAME_WORD if mine.heard == theirs.heard else OTHER_WORD) - apart_ms**2 / (2 * spread_ms**2)


def _at_nearest(
    matches: Sequence[tuple[int, int]], left: Sequence[_Unit], right: Sequence[_Unit], cut_ms: int
) -> tuple[int, int]:
    """The seam at the match nearest to the cut, which is where both sides had most context."""
    known = set(matches)

    def middle_ms(pair: tuple[int, int]) -> float:
        return (left[pair[0]].middle_ms + right[pair[1]].middle_ms) / 2

    def badness(pair: tuple[int, int]) -> float:
        a, b = pair
        lone = (a - 1, b - 1) not in known and (a + 1, b + 1) not in known
        return abs(middle_ms(pair) - cut_ms) + (LONE_MATCH_MS if lone else 0)

    pair = min(matches, key=badness)
    mine = int(middle_ms(pair) < cut_ms)  # the word itself by the core rule, at the mean of its two times
    return pair[0] + mine, pair[1] + mine


def _undisputed(part: _Part) -> _Part:
    """Without what a seam with the chunk after it might still take: whole segments only."""
    core, audio = part.result.chunk.core, part.result.chunk.audio
    if audio.end_ms <= core.end_ms:
        return part
    # the last chunk's neighbour reaches this far back, even where the media ends too soon to reach as far forward
    reach_ms = max(audio.end_ms - core.end_ms, OVERLAP_MS)
    disputed_ms = max(core.end_ms - reach_ms, core.midpoint_ms) - 2 * SPREADS_MS[0]
    last = min(part.last, _count_before(part.units, min(disputed_ms, core.end_ms)))
    while 0 < last < len(part.units) and part.units[last - 1].segment == part.units[last].segment:
        last -= 1
    return replace(part, last=max(part.first, last))


def _segments(part: _Part) -> list[Segment]:
    """The segments of a part, those that a seam divides cut down to the words that are kept."""
    kept: dict[int, list[_Unit]] = {}
    for unit in part.units[part.first : part.last]:
        kept.setdefault(unit.segment, []).append(unit)
    return [_cut_down(part.result.segments[index], units) for index, units in kept.items()]


def _cut_down(segment: Segment, units: Sequence[_Unit]) -> Segment:
    words = tuple(_timed(unit.word, unit.start_ms, unit.end_ms) for unit in units if unit.word is not None)
    if not words:
        return segment.model_copy(update={"start_ms": units[0].start_ms, "end_ms": units[0].end_ms})
    whole = len(words) == len(segment.words)
    first = next(index for index, word in enumerate(segment.words) if word is units[0].word)
    return segment.model_copy(
        update={
            "start_ms": min(segment.start_ms, words[0].start_ms) if whole else words[0].start_ms,
            "end_ms": max(segment.end_ms, words[-1].end_ms) if whole else words[-1].end_ms,
            "text": segment.text if whole else _text_of(segment, first, first + len(words)),
            "words": words,
        }
    )


def _timed(word: Word, start_ms: int, end_ms: int) -> Word:
    """The word at these times. Most have them already, and copying each word of a lecture takes a tenth of a second."""
    if (word.start_ms, word.end_ms) == (start_ms, end_ms):
        return word
    return word.model_copy(update={"start_ms": start_ms, "end_ms": end_ms})


def _text_of(segment: Segment, first: int, last: int) -> str:
    """The segment's text from word `first` to before `last`: cut out of it, so that scripts without spaces stay so."""
    words = segment.words[:last]
    places = word_places(segment.text, words)
    if places is None:
        return " ".join(word.text for word in words[first:])
    return segment.text[places[first][0] : places[-1][1]]


def word_places(text: str, words: Sequence[Word]) -> list[tuple[int, int]] | None:
    """Where in `text` each word begins and ends, one after the other; None where one is not found."""
    places: list[tuple[int, int]] = []
    at = 0
    for word in words:
        found = text.find(word.text, at)
        if found < 0:
            return None
        at = found + len(word.text)
        places.append((found, at))
    return places


def _ordered(segments: Sequence[Segment]) -> list[Segment]:
    """The same texts with times that never run backwards: what overlaps is divided in its middle."""
    words = iter(_no_overlap([word for segment in segments for word in segment.words]))
    timed = []
    for segment in segments:
        own = tuple(next(words) for _ in segment.words)
        start_ms = min(segment.start_ms, own[0].start_ms) if own else segment.start_ms
        end_ms = max(segment.end_ms, own[-1].end_ms) if own else segment.end_ms
        timed.append(segment.model_copy(update={"start_ms": start_ms, "end_ms": end_ms, "words": own}))
    for index in range(len(timed) - 1):
        earlier, later = timed[index], timed[index + 1]
        if earlier.end_ms > later.start_ms:
            lowest = earlier.words[-1].end_ms if earlier.words else earlier.start_ms
            highest = later.words[0].start_ms if later.words else max(later.end_ms, lowest)
            at_ms = max(lowest, min(highest, (earlier.end_ms + later.start_ms) // 2))
            timed[index] = earlier.model_copy(update={"end_ms": at_ms})
            timed[index + 1] = later.model_copy(update={"start_ms": at_ms, "end_ms": max(at_ms, later.end_ms)})
    return timed


def _no_overlap(words: Sequence[Word]) -> list[Word]:
    apart: list[Word] = []
    for word in words:
        if apart and word.start_ms < apart[-1].end_ms:
            before = apart[-1]
            at_ms = max(before.start_ms, min((word.start_ms + before.end_ms) // 2, word.end_ms))
            apart[-1] = before.model_copy(update={"end_ms": at_ms})
            word = word.model_copy(update={"start_ms": at_ms, "end_ms": max(at_ms, word.end_ms)})
        apart.append(word)
    return apart
