"""How far a transcript is from the truth, and where in time it errs."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from benchmarks.speech import Sentence
from benchmarks.surroundings import bench_extra
from workers.transcript import Segment


class HasSegments(Protocol):
    """A Transcript, or whatever else has segments."""

    @property
    def segments(self) -> Sequence[Segment]: ...


@dataclass(frozen=True)
class TimedWord:
    """A normalised word and its midpoint in milliseconds of the recording."""

    text: str
    at_ms: int


@dataclass(frozen=True)
class WordError:
    """One word said or heard in error. said is None for an insertion, heard for a deletion."""

    kind: Literal["substitution", "deletion", "insertion"]
    at_ms: int
    said: str | None
    heard: str | None


def normal_words(text: str) -> list[str]:
    """Words without case and punctuation; an apostrophe inside a word stays."""
    return re.findall(r"\w+(?:'\w+)*", text.casefold().replace("’", "'"))


def word_error_rate(said: str, heard: str) -> float:
    """Word errors per word said, after normalising: 0.05 is 5 %."""
    with bench_extra():
        import jiwer
    return float(jiwer.wer(" ".join(normal_words(said)), " ".join(normal_words(heard))))


def said_words(truth: Iterable[Sentence]) -> list[TimedWord]:
    """The truth's words. A sentence's time is known exactly, a word's within it by its letters: off by some 0.2 s."""
    return [word for sentence in truth for word in _spread(sentence.text, sentence.start_ms, sentence.end_ms)]


def heard_words(transcript: HasSegments) -> list[TimedWord]:
    """The transcript's words at their own times; where a segment has none, spread over it."""
    heard: list[TimedWord] = []
    for segment in transcript.segments:
        if segment.words:
            for word in segment.words:
                heard += _spread(word.text, word.start_ms, word.end_ms)
        else:
            heard += _spread(segment.text, segment.start_ms, segment.end_ms)
    return heard


def _spread(text: str, start_ms: int, end_ms: int) -> list[TimedWord]:
    words = normal_words(text)
    letters = sum(len(word) for word in words)
    placed, before = [], 0
    for word in words:
        middle = (before + len(word) / 2) / letters
        placed.append(TimedWord(word, round(start_ms + (end_ms - start_ms) * middle)))
        before += len(word)
    return placed


def errors_by_time(truth: Iterable[Sentence], transcript: HasSegments) -> tuple[WordError, ...]:
    """Every word error with its time, in the order of the alignment with the fewest errors."""
    return align(said_words(truth), heard_words(transcript))


def align(said: Sequence[TimedWord], heard: Sequence[TimedWord]) -> tuple[WordError, ...]:
    """The errors of the alignment with the fewest; an insertion's time is the heard word's, else the said word's."""
    if not said or not heard:  # jiwer refuses an empty reference
        lost = tuple(WordError("deletion", word.at_ms, word.text, None) for word in said)
        return lost + tuple(WordError("insertion", word.at_ms, None, word.text) for word in heard)
    with bench_extra():
        import jiwer
    output = jiwer.process_words(" ".join(word.text for word in said), " ".join(word.text for word in heard))
    errors: list[WordError] = []
    for part in output.alignments[0]:
        refs = said[part.ref_start_idx : part.ref_end_idx]
        hyps = heard[part.hyp_start_idx : part.hyp_end_idx]
        if part.type == "substitute":
            errors += [WordError("substitution", r.at_ms, r.text, h.text) for r, h in zip(refs, hyps, strict=True)]
        elif part.type == "delete":
            errors += [WordError("deletion", word.at_ms, word.text, None) for word in refs]
        elif part.type == "insert":
            errors += [WordError("insertion", word.at_ms, None, word.text) for word in hyps]
    return tuple(errors)


@dataclass(frozen=True)
class Density:
    """Errors and words said close to the cuts, and everywhere else."""

    near_errors: int
    near_words: int
    far_errors: int
    far_words: int

    @property
    def near_rate(self) -> float:
        return self.near_errors / self.near_words if self.near_words else 0.0

    @property
    def far_rate(self) -> float:
        return self.far_errors / self.far_words if self.far_words else 0.0

    @property
    def p_denser(self) -> float:
        """How likely this much excess near the cuts is by chance alone (Fisher's exact test, one-sided).

        A handful of cuts has some hundred words near them, where two errors more or less mean
        nothing: compare this with 0.05, not the rates with each other.
        """
        with bench_extra():
            from scipy.stats import fisher_exact
        near = [self.near_errors, max(0, self.near_words - self.near_errors)]
        far = [self.far_errors, max(0, self.far_words - self.far_errors)]
        return float(fisher_exact([near, far], alternative="greater").pvalue)


def density(
    errors: Iterable[WordError], said: Iterable[TimedWord], cuts_ms: Sequence[int], within_ms: int = 2000
) -> Density:
    """Count errors and said words closer than `within_ms` to one of `cuts_ms`, and the others."""

    def near(at_ms: int) -> bool:
        return any(abs(at_ms - cut) <= within_ms for cut in cuts_ms)

    wrong = [near(error.at_ms) for error in errors]
    spoken = [near(word.at_ms) for word in said]
    return Density(sum(wrong), sum(spoken), len(wrong) - sum(wrong), len(spoken) - sum(spoken))
