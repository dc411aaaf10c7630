"""How far "who spoke when" and "who said what" are from the truth.

Always say with a DER which collar and whether overlapping speech was scored: the same result differs by several
percent otherwise. Here a collar is what is left out on EACH side of every end of a reference turn, as NIST and
meeteval count it; pyannote.metrics' collar is the whole width, so twice ours.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import jiwer
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks.scoring import normal_words


class Turn(Protocol):
    """A SpeakerTurn of a transcript, or a Sentence of a recording's truth."""

    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int: ...
    @property
    def speaker(self) -> str: ...


@dataclass(frozen=True)
class DiarizationError:
    """Milliseconds of speaker time: where two people speak at once, each instant counts twice."""

    spoken_ms: int
    miss_ms: int
    false_alarm_ms: int
    confusion_ms: int

    @property
    def rate(self) -> float:
        """DER: 0.05 is 5 %."""
        return (self.miss_ms + self.false_alarm_ms + self.confusion_ms) / self.spoken_ms

    @property
    def confusion_rate(self) -> float:
        return self.confusion_ms / self.spoken_ms

    def __str__(self) -> str:
        parts = {"miss": self.miss_ms, "false alarm": self.false_alarm_ms, "confusion": self.confusion_ms}
        shares = ", ".join(f"{name} {share / self.spoken_ms:.2%}" for name, share in parts.items())
        return f"DER {self.rate:.2%} ({shares})"


def diarization_error(
    truth: Sequence[Turn], found: Sequence[Turn], collar_ms: int = 0, overlap: bool = True
) -> DiarizationError:
    """DER under the one-to-one map of speakers that is best for it.

    collar_ms on each side of both ends of every true turn is not scored; with overlap=False neither is
    what several true speakers say at once. A speaker's own turns may overlap; they count once.
    """
    collars = [(end - collar_ms, end + collar_ms) for turn in truth for end in (turn.start_ms, turn.end_ms)]
    edges = sorted({edge for turn in (*truth, *found) for edge in (turn.start_ms, turn.end_ms)} | set(_flat(collars)))
    lengths = np.array([end - start for start, end in pairwise(edges)], np.int64)
    true, heard = _who(truth, edges), _who(found, edges)
    scored = ~_covered(collars, edges) if collar_ms else np.ones(len(lengths), np.bool_)
    if not overlap:
        scored &= true.sum(axis=0) < 2
    lengths = lengths * scored
    together = (true * lengths) @ heard.T
    right = together[linear_sum_assignment(together, maximize=True)].sum()
    speaking, named = true.sum(axis=0), heard.sum(axis=0)
    return DiarizationError(
        spoken_ms=int(speaking @ lengths),
        miss_ms=int(np.maximum(speaking - named, 0) @ lengths),
        false_alarm_ms=int(np.maximum(named - speaking, 0) @ lengths),
        confusion_ms=int(np.minimum(speaking, named) @ lengths - right),
    )


def _flat(pairs: Iterable[tuple[int, int]]) -> list[int]:
    return [edge for pair in pairs for edge in pair]


def _who(turns: Sequence[Turn], edges: Sequence[int]) -> NDArray[np.int64]:
    """(speakers, stretches between edges): 1 where that one speaks."""
    speakers = sorted({turn.speaker for turn in turns})
    rows = [
        _covered([(turn.start_ms, turn.end_ms) for turn in turns if turn.speaker == speaker], edges)
        for speaker in speakers
    ]
    return np.array(rows, np.int64).reshape(len(speakers), max(len(edges) - 1, 0))


def _covered(spans: Sequence[tuple[int, int]], edges: Sequence[int]) -> NDArray[np.bool_]:
    """Of each stretch between neighbouring edges, whether a span covers it; spans begin and end at edges."""
    change = np.zeros(max(len(edges), 1), np.int64)
    for start, end in spans:
        change[np.searchsorted(edges, start)] += 1
        change[np.searchsorted(edges, end)] -= 1
    return np.asarray(np.cumsum(change)[:-1] > 0, np.bool_)


# ---- words ----


@dataclass(frozen=True)
class SaidWord:
    """A word and who is thought to have said it; nobody is never right."""

    text: str
    speaker: str | None


def word_diarization_error(truth: Sequence[SaidWord], found: Sequence[SaidWord]) -> float:
    """WDER: of the words that were heard, rightly or as another word, the share given to the wrong person.

    Words are aligned by jiwer after normalising; the speakers are mapped one to one as is best for the result.
    Words left out or made up count for nothing here: say the word error rate with it.
    """
    said, heard = _normal(truth), _normal(found)
    pairs = [(said[mine].speaker, heard[theirs].speaker) for mine, theirs in _aligned(said, heard)]
    if not pairs:
        return 0.0
    table = _counts([(true, given) for true, given in pairs if given is not None])
    right = table[linear_sum_assignment(table, maximize=True)].sum()
    return 1 - float(right) / len(pairs)


def speaker_word_error(truth: Sequence[SaidWord], found: Sequence[SaidWord]) -> float:
    """cpWER: word errors when all words of a person stand together, under the best one-to-one map of people.

    Words of nobody are one more person's.
    """
    said, heard = _by_speaker(truth), _by_speaker(found)
    size = max(len(said), len(heard))
    said += [[]] * (size - len(said))
    heard += [[]] * (size - len(heard))
    errors = np.array([[_distance(mine, theirs) for theirs in heard] for mine in said]).reshape(size, size)
    return float(errors[linear_sum_assignment(errors)].sum()) / sum(len(words) for words in said)


def _normal(words: Sequence[SaidWord]) -> list[SaidWord]:
    return [SaidWord(part, word.speaker) for word in words for part in normal_words(word.text)]


def _by_speaker(words: Sequence[SaidWord]) -> list[list[str]]:
    streams: dict[str | None, list[str]] = {}
    for word in _normal(words):
        streams.setdefault(word.speaker, []).append(word.text)
    return list(streams.values())


def _aligned(said: Sequence[SaidWord], heard: Sequence[SaidWord]) -> list[tuple[int, int]]:
    """Places of the words that were heard, right or wrong: (in the truth, in what was heard)."""
    if not said or not heard:
        return []
    result = jiwer.process_words(_text(said), _text(heard))
    return [
        (chunk.ref_start_idx + step, chunk.hyp_start_idx + step)
        for chunk in result.alignments[0]
        if chunk.type in ("equal", "substitute")
        for step in range(chunk.ref_end_idx - chunk.ref_start_idx)
    ]


def _text(words: Sequence[SaidWord]) -> str:
    return " ".join(word.text for word in words)


def _distance(said: Sequence[str], heard: Sequence[str]) -> int:
    if not said or not heard:
        return len(said) + len(heard)
    result = jiwer.process_words(" ".join(said), " ".join(heard))
    return int(result.substitutions + result.deletions + result.insertions)


def _counts(pairs: Sequence[tuple[Hashable, Hashable]]) -> NDArray[np.int64]:
    """How often each left one stands beside each right one."""
    left, right = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
    table = np.zeros((len(left), len(right)), np.int64)
    for one, other in pairs:
        table[left.index(one), right.index(other)] += 1
    return table
