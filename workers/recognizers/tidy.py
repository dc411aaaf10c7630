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
        start = min(max(round(item.start * 1000), floor), max(floor, audio_ms - 1))
        end = min(max(round(item.end * 1000), start), max(start, audio_ms))
        words = _words(item.words, start, end)
        segments.append(Segment(start_ms=start, end_ms=end, text=text, words=words))
        floor = end
    return tuple(segments)


def _words(heard: Sequence[HeardWord], start_ms: int, end_ms: int) -> tuple[Word, ...]:
    """The words inside [start_ms, end_ms]; drawn together where they reach past it, so that none is crushed."""
    said = [item for item in heard if item.text.strip()]
    if not said:
        return ()
    first = min(item.start for item in said) * 1000
    last = max(item.end for item in said) * 1000
    apart = last <= start_ms or first >= end_ms
    low = start_ms if apart else max(start_ms, first)
    high = end_ms if apart else min(end_ms, last)
    scale = (high - low) / (last - first) if last > first else 0.0
    words: list[Word] = []
    floor = start_ms
    for item in said:
        start = min(max(round(low + (item.start * 1000 - first) * scale), floor), end_ms)
        end = min(max(round(low + (item.end * 1000 - first) * scale), start), end_ms)
        probability = min(1.0, max(0.0, round(float(item.probability), 4)))
        words.append(Word(start_ms=start, end_ms=end, text=item.text.strip(), probability=probability))
        floor = end
    return tuple(words)
