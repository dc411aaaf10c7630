"""Segments to paragraphs: what one person says in one go, in pieces that can be read."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.transcript import Gap, NoSpeaker, Segment, Transcript

PAUSE_MS = 2_500  # a pause that begins a new paragraph, whoever speaks
LONG_CHARS = 600  # some ten lines: the next sentence's end ends the paragraph
LONGEST_CHARS = 1_500  # where no sentence ends (lower-case models, lists), a screen's height

_SENTENCE_END = re.compile(r"""[.?!…。？！]["'”’»)\]]*$""")


@dataclass(frozen=True)
class Paragraph:
    """The segments first to last (inclusive, by their index) as one text on one line."""

    first: int
    last: int
    start_ms: int
    end_ms: int
    speaker: str | None
    no_speaker: NoSpeaker | None
    text: str

    def continues(self, before: "Paragraph") -> bool:
        """Whether a reader needs no new name."""
        return (self.speaker, self.no_speaker) == (before.speaker, before.no_speaker)


def paragraphs(transcript: Transcript) -> Iterator[Paragraph | Gap]:
    """In the order of time. Every segment with text is in exactly one."""
    gaps = sorted(transcript.gaps, key=lambda gap: gap.start_ms)
    group: list[tuple[int, Segment]] = []
    for index, segment in enumerate(transcript.segments):
        if not segment.text.strip():
            continue
        lost = [gap for gap in gaps if gap.start_ms <= segment.start_ms]
        if group and (lost or _ends(group, segment)):
            yield _paragraph(group)
            group = []
        yield from lost
        gaps = gaps[len(lost) :]
        group.append((index, segment))
    if group:
        yield _paragraph(group)
    yield from gaps


def one_line(text: str) -> str:
    return " ".join(text.split())


def _ends(group: Sequence[tuple[int, Segment]], segment: Segment) -> bool:
    last = group[-1][1]
    if (last.speaker, last.no_speaker) != (segment.speaker, segment.no_speaker):
        return True
    if segment.start_ms - last.end_ms >= PAUSE_MS:
        return True
    length = sum(len(one.text) for _, one in group)
    ends_sentence = bool(_SENTENCE_END.search(last.text.rstrip()))
    return length >= LONGEST_CHARS or (length >= LONG_CHARS and ends_sentence)


def _paragraph(group: Sequence[tuple[int, Segment]]) -> Paragraph:
    text = ""
    for _, segment in group:
        said = one_line(segment.text)
        text += said if not text or (_is_wide(text[-1]) and _is_wide(said[0])) else f" {said}"
    first, last = group[0][1], group[-1][1]
    return Paragraph(group[0][0], group[-1][0], first.start_ms, last.end_ms, first.speaker, first.no_speaker, text)


def _is_wide(sign: str) -> bool:
    """East Asian scripts put no space between sentences."""
    return unicodedata.east_asian_width(sign) in "WF"
