"""What was heard against what was said: word errors, and how far the times of words are off. Pure but for jiwer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.scoring import normal_words, said_words, word_error_rate
from benchmarks.speech import Recorded, Sentence
from benchmarks.surroundings import bench_extra
from workers.transcript import Segment


@dataclass(frozen=True)
class Part:
    """A segment of anybody's; words: start and end in milliseconds of the recording, and the text."""

    start_ms: int
    end_ms: int
    text: str
    words: tuple[tuple[int, int, str], ...] = ()


Heard = tuple[Part, ...]


@dataclass(frozen=True)
class Errors:
    errors: int
    words: int

    @property
    def percent(self) -> float:
        return 100 * self.errors / self.words if self.words else 0.0

    def __add__(self, other: "Errors") -> "Errors":
        return Errors(self.errors + other.errors, self.words + other.words)


@dataclass(frozen=True)
class TimeErrors:
    """|heard - true| in milliseconds. words: the middle of every word heard rightly; borders: the beginning of each
    sentence's first word and the end of its last."""

    words: tuple[int, ...]
    borders: tuple[int, ...]


def of_answer(segments: Sequence[dict[str, Any]]) -> Heard:
    """What a peer's process says of one recording."""
    return tuple(
        Part(one["start_ms"], one["end_ms"], one["text"], tuple((at, until, text) for at, until, text in one["words"]))
        for one in segments
    )


def of_transcript(segments: Sequence[Segment]) -> Heard:
    return tuple(
        Part(one.start_ms, one.end_ms, one.text, tuple((word.start_ms, word.end_ms, word.text) for word in one.words))
        for one in segments
    )


def word_errors(recordings: Sequence[Recorded], heard: Sequence[Heard]) -> Errors:
    """Over all the recordings; of what was heard, what lies beyond a recording's end does not count.

    So a longer recording's transcript is scored on an excerpt from its beginning.
    """
    total = Errors(0, 0)
    for recorded, parts in zip(recordings, heard, strict=True):
        within = [part.text for part in parts if (part.start_ms + part.end_ms) // 2 < recorded.duration_ms]
        words = len(normal_words(recorded.text))
        total += Errors(round(words * word_error_rate(recorded.text, " ".join(within))), words)
    return total


@dataclass(frozen=True)
class _Timed:
    """A word with its middle; start and end where they are exact."""

    text: str
    middle: int
    start: int | None
    end: int | None


def time_errors(truth: Sequence[Sentence], heard: Heard) -> TimeErrors:
    """Of the words that the alignment with the fewest errors matches. A true word's middle is spread by letters over
    its sentence, some 0.2 s off for everybody alike; a sentence's two ends are exact."""
    with bench_extra():
        import jiwer
    said, found = _said(truth), _found(heard)
    if not said or not found:
        return TimeErrors((), ())
    aligned = jiwer.process_words(" ".join(word.text for word in said), " ".join(word.text for word in found))
    pairs = [
        pair
        for part in aligned.alignments[0]
        if part.type == "equal"
        for pair in zip(
            said[part.ref_start_idx : part.ref_end_idx], found[part.hyp_start_idx : part.hyp_end_idx], strict=True
        )
    ]
    starts = [abs(a.start - b.start) for a, b in pairs if a.start is not None and b.start is not None]
    ends = [abs(a.end - b.end) for a, b in pairs if a.end is not None and b.end is not None]
    return TimeErrors(tuple(abs(a.middle - b.middle) for a, b in pairs), (*starts, *ends))


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all are not above; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))] if ordered else None


def _said(truth: Sequence[Sentence]) -> list[_Timed]:
    said = []
    for sentence in truth:
        words = said_words([sentence])
        for at, word in enumerate(words):
            start = sentence.start_ms if at == 0 else None
            end = sentence.end_ms if at == len(words) - 1 else None
            said.append(_Timed(word.text, word.at_ms, start, end))
    return said


def _found(heard: Heard) -> list[_Timed]:
    return [
        _Timed(word, (start + end) // 2, start, end)
        for part in heard
        for start, end, text in part.words
        for word in normal_words(text)
    ]
