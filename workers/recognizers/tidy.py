"""What every engine's segments are held to before anyone else sees them. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workers.transcript import Segment, Word


@dataclass(frozen=True)
class HeardWord:
    """A word as an engine gives it: float seconds, spaces and all."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True)
class Heard:
    """A segment as an engine gives it."""

    start: float
    end: float
    text: str
    words: tuple[HeardWord, ...] = ()


def tidy(heard: Iterable[Heard], audio_ms: int) -> tuple[Segment, ...]:
    """Segments in integer milliseconds, ascending, inside [0, audio_ms], without the empty ones.

    A segment never begins before the one before it has ended, and its words lie in it, in order.
    No text is dropped for an odd time: it is moved to the nearest possible one. Nothing begins at
    the very end of the audio, because spans are half open and nobody's core would hold it.
    """
    segments: list[Segment] = []
    floor = 0
    for item in sorted(heard, key=lambda each: each.start):
        text = " ".join(item.text.split())
        if not text:
            continue
        start, end = _within(item.start, item.end, floor, audio_ms)
        words = _words(item.words, start, end)
        segments.append(Segment(start_ms=start, end_ms=end, text=text, words=words))
        floor = end
    return tuple(segments)


def _words(heard: Sequence[HeardWord], floor: int, ceiling: int) -> tuple[Word, ...]:
    words: list[Word] = []
    for item in heard:
        text = item.text.strip()
        if not text:
            continue
        start, end = _within(item.start, item.end, floor, ceiling)
        probability = min(1.0, max(0.0, round(float(item.probability), 4)))
        words.append(Word(start_ms=start, end_ms=end, text=text, probability=probability))
        floor = end
    return tuple(words)


def _within(start: float, end: float, floor: int, ceiling: int) -> tuple[int, int]:
    """The part of [start, end) seconds inside [floor, ceiling] ms, of no negative length."""
    last = max(0, ceiling - 1)
    start_ms = min(max(round(start * 1000), floor), last)
    return start_ms, min(max(round(end * 1000), start_ms), ceiling)
