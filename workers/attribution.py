"""Words to speakers: every word gets the person who spoke then, or an explicit nobody with its reason. Pure.

Engines and diarizers put the same moment some 100 ms apart, so the edges of turns need rules: what a turn
covers goes first, then what is near, then what was said just before. Turns are compared by their edges,
never by their middles: a word right after a long turn belongs to it, and not to a short one further on.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise

from workers.spans import Span
from workers.stitching import word_places
from workers.transcript import NoSpeaker, Segment, SpeakerTurn, Word

LONGEST_WORD_MS = 1_500  # engines stretch the last word before a silence over it; no word is spoken for longer
SHORTEST_WORD_MS = 20  # one frame of Whisper's timestamps: a word without length is heard somewhere
TIE_MS = 20  # two speakers who cover a word equally, to one such frame
NEAR_MS = 500  # how far from a turn's edge its speaker's words are looked for
CARRY_MS = 1_000  # a pause inside a sentence; the speaker of the word before goes on after it
ISLAND_MS = 300  # a shorter word that alone changes the speaker is a turn's edge in the wrong place

_SENTENCE_MARKS = tuple(".?!…。？！")
_CLOSING = "\"'”’»)]"


@dataclass(frozen=True)
class _Heard:
    """What the turns say of a word: who speaks for how much of it, else who is nearest."""

    span: Span
    covered_ms: Mapping[str, int]  # in the order of the turns
    nearest: str | None  # within NEAR_MS, where nobody covers any of it
    lost: bool  # in a part of the recording that nobody diarized

    @property
    def reason(self) -> NoSpeaker:
        return "not diarized" if self.lost else "no turn near"


def attribute(
    segments: Sequence[Segment], turns: Sequence[SpeakerTurn], missing: Sequence[Span] = ()
) -> tuple[Segment, ...]:
    """The segments with speakers, divided where the speaker changes; no word and no text is lost or moved.

    `turns` must be exclusive (none overlaps another); `missing` are the parts whose diarization was lost.
    A word's confidence is the share of it that its speaker's turns cover: 0 where the speaker is only near.
    A segment without words gets one speaker as a whole. Takes time in proportion to words and turns.
    """
    pieces: list[Word | Segment] = [piece for segment in segments for piece in (segment.words or (segment,))]
    heard = iter(_heard([_interval(piece) for piece in pieces], turns, missing))
    attributed: list[Segment] = []
    previous: str | None = None
    for segment in segments:
        if not segment.words:
            attributed.append(_whole(segment, next(heard)))
            previous = attributed[-1].speaker
            continue
        own = [next(heard) for _ in segment.words]
        speakers = _without_islands(segment.words, own, _speakers(own, previous))
        words = [_said_by(*each) for each in zip(segment.words, own, speakers, strict=True)]
        attributed += _divided(segment, words)
        previous = speakers[-1]
    return tuple(attributed)


def without_speakers(segments: Sequence[Segment], reason: NoSpeaker) -> tuple[Segment, ...]:
    """The segments, undivided, with nobody named in any word, for `reason`."""
    nobody = {"speaker": None, "no_speaker": reason}
    return tuple(
        segment.model_copy(
            update={
                **nobody,
                "words": tuple(
                    word.model_copy(update={**nobody, "speaker_confidence": None}) for word in segment.words
                ),
            }
        )
        for segment in segments
    )


def _interval(piece: Word | Segment) -> Span:
    longest_ms = LONGEST_WORD_MS if isinstance(piece, Word) else piece.end_ms - piece.start_ms
    end_ms = min(piece.end_ms, piece.start_ms + longest_ms)
    return Span.of(piece.start_ms, max(end_ms, piece.start_ms + SHORTEST_WORD_MS))


def _heard(intervals: Sequence[Span], turns: Iterable[SpeakerTurn], missing: Iterable[Span]) -> list[_Heard]:
    """For each interval what the turns say of it: one sweep over both, in order of time.

    `first` only moves on, so a turn is met by the intervals that touch it and by no others.
    """
    ordered = sorted((turn for turn in turns if turn.end_ms > turn.start_ms), key=lambda turn: turn.start_ms)
    lost = sorted(missing, key=lambda span: span.start_ms)
    lost_from = [span.start_ms for span in lost]
    lost_until = list(accumulate((span.end_ms for span in lost), max))
    found: dict[int, _Heard] = {}
    first = 0
    for index in sorted(range(len(intervals)), key=lambda at: intervals[at].start_ms):
        span = intervals[index]
        while first < len(ordered) and ordered[first].end_ms <= span.start_ms:
            first += 1
        covered_ms: dict[str, int] = {}
        at = first
        while at < len(ordered) and ordered[at].start_ms < span.end_ms:
            turn = ordered[at]
            covered_ms[turn.speaker] = covered_ms.get(turn.speaker, 0) + span.overlap_ms(turn.span)
            at += 1
        before = bisect_left(lost_from, span.end_ms)
        found[index] = _Heard(
            span=span,
            covered_ms=covered_ms,
            nearest=None if covered_ms else _nearest(span, ordered[max(0, first - 1) : first + 1]),
            lost=before > 0 and lost_until[before - 1] > span.start_ms,
        )
    return [found[index] for index in range(len(intervals))]


def _nearest(span: Span, neighbours: Sequence[SpeakerTurn]) -> str | None:
    """Who of the turns on both sides is near; where both are as near, who spoke before."""
    near = [(_apart_ms(span, turn.span), turn.speaker) for turn in neighbours]
    distance, speaker = min(near, key=lambda each: each[0], default=(NEAR_MS + 1, ""))
    return speaker if distance <= NEAR_MS else None


def _apart_ms(one: Span, other: Span) -> int:
    return max(0, one.start_ms - other.end_ms, other.start_ms - one.end_ms)


def _speakers(heard: Sequence[_Heard], previous: str | None) -> list[str | None]:
    """The speaker of each word of a segment; `previous` is that of the word before the segment.

    A pause is bridged only inside a segment, and never into a part that nobody diarized: there, who goes
    on speaking is not known.
    """
    speakers: list[str | None] = []
    for at, word in enumerate(heard):
        speaker: str | None
        if word.covered_ms:
            speaker = _covering(word, previous)
        elif word.nearest is not None:
            speaker = word.nearest
        elif at and not word.lost and _apart_ms(heard[at - 1].span, word.span) <= CARRY_MS:
            speaker = previous
        else:
            speaker = None
        speakers.append(speaker)
        previous = speaker
    return speakers


def _covering(heard: _Heard, previous: str | None) -> str:
    """Who covers most; in a tie the speaker of the word before, else who spoke first."""
    most_ms = max(heard.covered_ms.values())
    tied = [speaker for speaker, ms in heard.covered_ms.items() if ms >= most_ms - TIE_MS]
    if previous is not None and previous in tied:
        return previous
    return max(heard.covered_ms, key=lambda speaker: heard.covered_ms[speaker])


def _without_islands(
    words: Sequence[Word], heard: Sequence[_Heard], speakers: Sequence[str | None]
) -> Sequence[str | None]:
    """One short word between two of another speaker, all in one sentence, goes to that one."""
    settled = list(speakers)
    for at in range(1, len(words) - 1):
        before, own, after = settled[at - 1], settled[at], settled[at + 1]
        alone = own is not None and before is not None and before == after != own
        short = heard[at].span.duration_ms < ISLAND_MS
        if alone and short and not _ends_sentence(words[at - 1]) and not _ends_sentence(words[at]):
            settled[at] = before
    return settled


def _ends_sentence(word: Word) -> bool:
    return word.text.rstrip(_CLOSING).endswith(_SENTENCE_MARKS)


def _said_by(word: Word, heard: _Heard, speaker: str | None) -> Word:
    share = None if speaker is None else round(heard.covered_ms.get(speaker, 0) / heard.span.duration_ms, 3)
    reason = heard.reason if speaker is None else None
    return word.model_copy(update={"speaker": speaker, "speaker_confidence": share, "no_speaker": reason})


def _whole(segment: Segment, heard: _Heard) -> Segment:
    """A segment that came without words: nothing says where in it a speaker would change."""
    speaker = _covering(heard, None) if heard.covered_ms else heard.nearest
    return segment.model_copy(update={"speaker": speaker, "no_speaker": None if speaker else heard.reason})


def _divided(segment: Segment, words: Sequence[Word]) -> list[Segment]:
    """A part for each stretch of words of one speaker, or of nobody for one reason."""
    runs = [tuple(run) for _, run in groupby(words, key=lambda word: (word.speaker, word.no_speaker))]
    texts = [segment.text] if len(runs) == 1 else _texts(segment.text, runs)
    return [
        segment.model_copy(
            update={
                "start_ms": segment.start_ms if len(runs) == 1 else min(word.start_ms for word in run),
                "end_ms": segment.end_ms if len(runs) == 1 else max(word.end_ms for word in run),
                "text": text,
                "speaker": run[0].speaker,
                "no_speaker": run[0].no_speaker,
                "words": run,
            }
        )
        for run, text in zip(runs, texts, strict=True)
    ]


def _texts(text: str, runs: Sequence[Sequence[Word]]) -> list[str]:
    """The text in parts, cut where the first word of a run begins: what stands between two words stays too."""
    places = word_places(text, [word for run in runs for word in run])
    if places is None:
        return [" ".join(word.text for word in run) for run in runs]
    firsts = list(accumulate((len(run) for run in runs[:-1]), initial=0))
    cuts = [0, *(places[first][0] for first in firsts[1:]), len(text)]
    return [text[start:end].strip() for start, end in pairwise(cuts)]
