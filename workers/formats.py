"""json, srt, vtt, txt, tsv, rttm and html from a Transcript. Pure: a transcript in, the text of a file out.

Where only one person speaks, or nobody knows who, files to be read name nobody: a name on every line of a
lecture tells nothing. Files to be worked with (json, tsv, rttm) have it all the same.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePath

from workers.messages import Format
from workers.spans import clock
from workers.transcript import Gap, Segment, Transcript

LINE_WIDTH = 42  # characters; what broadcasters' guidelines and the EBU's teletext subtitles agree on, within a few
MAX_LINES = 2
LONGEST_CUE_MS = 7_000  # two full lines are read in six to seven seconds
SHORTEST_CUE_MS = 1_000  # below, a cue flashes by
CUE_GAP_MS = 80  # two frames at 25 per second: without it two cues look like one that changes
BREATH_MS = 300  # a pause that ends a cue where the engine ended a segment
LONG_PAUSE_MS = 1_500  # a pause that always ends a cue: nobody wants to read what is said after it

UNKNOWN = "Speaker unknown"

_SENTENCE_END = re.compile(r"""[.?!…。？！]["'”’»)\]]*$""")
_CLAUSE_END = re.compile(r"""[,;:–—、，；：]["'”’»)\]]*$""")


def render_all(
    transcript: Transcript, forms: Sequence[Format], *, media: str | None = None
) -> Iterator[tuple[Format, str]]:
    """`render` for several files; what they have in common is made once: the whole fleet waits for this at the end."""
    made = cues(transcript) if {"srt", "vtt"} <= set(forms) else None
    for form in forms:
        yield form, render(transcript, form, media=media, made=made)


def render(
    transcript: Transcript, form: Format, *, media: str | None = None, made: Sequence["Cue"] | None = None
) -> str:
    """The whole text of the file STEM.`form`; `media` is where the html page finds the recording to play.

    made: the transcript's cues, if they are known.
    """
    match form:
        case "json":
            return transcript.model_dump_json(indent=2) + "\n"  # fields in their order: provenance is the last
        case "srt":
            return _srt(made or cues(transcript))
        case "vtt":
            return _vtt(made or cues(transcript))
        case "txt":
            return _txt(_lines(transcript), _names_tell(transcript))
        case "tsv":
            return _tsv(_lines(transcript))
        case "rttm":
            return _rttm(transcript)
        case "html":
            from workers.page import render_page  # which makes its subtitles here

            return render_page(transcript, media)


@dataclass(frozen=True)
class Cue:
    """What a subtitle shows from start_ms to end_ms."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]
    speaker: str | None = None


def cues(transcript: Transcript) -> tuple[Cue, ...]:
    """Readable subtitles in order, none overlapping, with a cue for each gap; every word is in exactly one.

    Of several speakers each cue has one, or none where nobody is known; of one speaker no cue tells the name.
    """
    made = [_cue(group) for group in _groups(transcript.segments, _names_tell(transcript))]
    made += [Cue(gap.start_ms, gap.end_ms, _wrapped(_note(gap))) for gap in transcript.gaps]
    return tuple(_timed(sorted(made, key=lambda cue: cue.start_ms)))


def _names_tell(transcript: Transcript) -> bool:
    """Whether a reader learns something from names: two people or more speak."""
    said = {segment.speaker for segment in transcript.segments}
    said |= {word.speaker for segment in transcript.segments for word in segment.words}
    return len(said - {None}) > 1


# ---- lines: a segment each, for txt and tsv ----


@dataclass(frozen=True)
class _Line:
    start_ms: int
    end_ms: int
    text: str
    speaker: str | None = None
    is_note: bool = False


def _lines(transcript: Transcript) -> list[_Line]:
    lines = [_Line(s.start_ms, s.end_ms, _one_line(s.text), s.speaker) for s in transcript.segments]
    lines += [_Line(gap.start_ms, gap.end_ms, _note(gap), is_note=True) for gap in transcript.gaps]
    return sorted((line for line in lines if line.text), key=lambda line: line.start_ms)


def _txt(lines: Sequence[_Line], named: bool) -> str:
    """A line for each segment; where several people speak, in a paragraph for each turn, under the name."""
    if not named:
        return "".join(f"{line.text}\n" for line in lines)
    paragraphs = []
    for (speaker, is_note), turn in groupby(lines, key=lambda line: (line.speaker, line.is_note)):
        head = "" if is_note else f"{_one_line(speaker) if speaker else UNKNOWN}:\n"
        paragraphs.append(head + "".join(f"{line.text}\n" for line in turn))
    return "\n".join(paragraphs)


def _tsv(lines: Sequence[_Line]) -> str:
    """The speaker's column is the last, so that who counts columns finds the first three where they always were."""
    known = any(line.speaker for line in lines)
    rows = [("start", "end", "text", "speaker")]
    rows += [(str(line.start_ms), str(line.end_ms), line.text, _one_line(line.speaker or "")) for line in lines]
    return "".join("\t".join(row if known else row[:3]) + "\n" for row in rows)


def _note(gap: Gap) -> str:
    return f"[not transcribed {clock(gap.start_ms)[:-4]}–{clock(gap.end_ms)[:-4]}: {_one_line(gap.reason)}]"


def _one_line(text: str) -> str:
    """Tabs and line ends become spaces: they would end a field, a row or a cue."""
    return " ".join(text.split())


# ---- cues: for srt and vtt ----


@dataclass(frozen=True)
class _Token:
    """A word as a subtitle shows it: `text` brings the space before it along, where the script has one."""

    start_ms: int
    end_ms: int
    text: str
    speaker: str | None
    ends_segment: bool = False


def _groups(segments: Sequence[Segment], named: bool) -> Iterator[list[_Token]]:
    """The tokens of each cue; no cue mixes two speakers where they are `named`, else tokens have none."""
    group: list[_Token] = []
    for token in (token for segment in segments for token in _tokens(segment, named)):
        if group and group[-1].ends_segment and not (_is_wide(group[-1].text[-1]) and _is_wide(token.text[0])):
            token = replace(token, text=f" {token.text}")
        if group and _must_break(group[-1], token):
            yield group
            group = []
        while group and not _fits([*group, token]):
            at = _best_break(group)
            yield group[:at]
            group = group[at:]
        group.append(token)
    if group:
        yield group


def _tokens(segment: Segment, named: bool) -> list[_Token]:
    tokens = _from_words(segment, named) if segment.words else _spread(segment, named)
    if not tokens:
        return []
    tokens[0] = replace(tokens[0], text=tokens[0].text.lstrip())
    tokens[-1] = replace(tokens[-1], ends_segment=True)
    return tokens


def _from_words(segment: Segment, named: bool) -> list[_Token]:
    """The words, each with what stands between it and the word before in the segment's own text."""
    tokens, at, text = [], 0, _one_line(segment.text)
    for word in segment.words:
        shown = _one_line(word.text)
        found = text.find(shown, at)
        # between two words stand only spaces and stray punctuation: anything longer is a wrong place
        if 0 <= found <= at + 3:
            shown, at = text[at : found + len(shown)], found + len(shown)
        else:
            shown = f" {shown}"
        if shown.strip():
            speaker = word.speaker or segment.speaker if named else None
            tokens.append(_Token(word.start_ms, word.end_ms, shown, speaker))
    return tokens


def _spread(segment: Segment, named: bool) -> list[_Token]:
    """A segment without words, its time shared out among its text by length."""
    pieces = [piece for word in segment.text.split() for piece in _sliced(f" {word}")]
    total = sum(len(piece) for piece in pieces)
    tokens, reached = [], 0
    for piece in pieces:
        start = segment.start_ms + (segment.end_ms - segment.start_ms) * reached // total
        reached += len(piece)
        end = segment.start_ms + (segment.end_ms - segment.start_ms) * reached // total
        tokens.append(_Token(start, end, piece, segment.speaker if named else None))
    return tokens


def _sliced(word: str) -> list[str]:
    """A word that fills more than a line is a script without spaces, or an address: cut it into half lines."""
    step = LINE_WIDTH // 4 if _width(word) > len(word) else LINE_WIDTH // 2
    return [word] if _width(word) <= LINE_WIDTH else [word[at : at + step] for at in range(0, len(word), step)]


def _must_break(before: _Token, token: _Token) -> bool:
    pause_ms = token.start_ms - before.end_ms
    ends_here = before.ends_segment and (pause_ms >= BREATH_MS or bool(_SENTENCE_END.search(before.text)))
    return ends_here or pause_ms >= LONG_PAUSE_MS or token.speaker != before.speaker


def _fits(group: Sequence[_Token]) -> bool:
    if group[-1].end_ms - group[0].start_ms > LONGEST_CUE_MS:
        return False
    return _second_line(group)[1] <= LINE_WIDTH


def _indent(group: Sequence[_Token]) -> int:
    """Columns that the name takes of the first line; a very long name leaves half of the line, and stands out."""
    speaker = group[0].speaker
    return min(_width(_label(speaker)), LINE_WIDTH // 2) if speaker else 0


def _label(speaker: str) -> str:
    return f"[{_one_line(speaker)}] "


def _best_break(group: Sequence[_Token]) -> int:
    """Where a group that is full ends: after a sentence, a clause, or at its longest pause, not in its first third."""
    first = max(1, len(group) // 3)

    def score(at: int) -> tuple[int, int]:
        before = group[at - 1].text
        mark = 2 if _SENTENCE_END.search(before) else 1 if _CLAUSE_END.search(before) else 0
        # the end of the group counts as no pause: the next word is what did not fit
        pause_ms = group[at].start_ms - group[at - 1].end_ms if at < len(group) else 0
        return mark, pause_ms // 100 * 100 + at

    return max(range(first, len(group) + 1), key=score)


def _cue(group: Sequence[_Token]) -> Cue:
    end_ms = max(token.end_ms for token in group)
    return Cue(group[0].start_ms, min(end_ms, group[0].start_ms + LONGEST_CUE_MS), _broken(group), group[0].speaker)


def _broken(group: Sequence[_Token]) -> tuple[str, ...]:
    """One line, or two about as long as each other."""
    at, _ = _second_line(group)
    lines = (group[:at], group[at:]) if at else (group,)
    return tuple("".join(token.text for token in line).strip() for line in lines)


def _second_line(group: Sequence[_Token]) -> tuple[int, int]:
    """(at, columns): which token begins the second line, 0 where one is enough; how long the longer line gets.

    Of the columns alone, without making a line of text: subtitles try it for each word of the transcript, and at
    the end of a job the whole fleet stands by.
    """
    columns = [_width(token.text) for token in group]
    blanks = [token.text[0] == " " for token in group]  # at most one, and at a line's begin it is not shown
    upper = _indent(group) - blanks[0]
    lower = sum(columns)
    if upper + lower <= LINE_WIDTH or len(group) == 1:
        return 0, upper + lower
    best = (0, upper + lower)
    for at in range(1, len(group)):
        upper += columns[at - 1]
        lower -= columns[at - 1]
        longer = max(upper, lower - blanks[at])
        if longer < best[1]:
            best = (at, longer)
    return best


def _width(text: str) -> int:
    """Columns: East Asian letters take two."""
    if text.isascii():  # a lecture's cues ask for the width of 15 million letters, one by one three seconds of a core
        return len(text)
    return sum(2 if _is_wide(sign) else 1 for sign in text)


@functools.lru_cache(maxsize=4096)
def _is_wide(sign: str) -> bool:
    return unicodedata.east_asian_width(sign) in "WF"


def _wrapped(text: str) -> tuple[str, ...]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE_WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return tuple(lines)


def _timed(made: Sequence[Cue]) -> Iterator[Cue]:
    """Cues that can be read: none overlaps the next or touches it, short ones stay where there is room."""
    reached_ms = 0
    for index, cue in enumerate(made):
        start_ms = max(cue.start_ms, reached_ms)
        end_ms = max(cue.end_ms, start_ms + SHORTEST_CUE_MS)
        if index + 1 < len(made):
            end_ms = min(end_ms, made[index + 1].start_ms - CUE_GAP_MS)
        reached_ms = max(end_ms, start_ms + 1)  # a cue without length is not allowed in either format
        yield replace(cue, start_ms=start_ms, end_ms=reached_ms)


def _srt(all_cues: Sequence[Cue]) -> str:
    return "\n".join(
        f"{number}\n{clock(cue.start_ms, ',')} --> {clock(cue.end_ms, ',')}\n{_srt_text(cue)}\n"
        for number, cue in enumerate(all_cues, 1)
    )


def _srt_text(cue: Cue) -> str:
    """SRT knows no escapes: an arrow in the text would look like a cue's times to simple readers."""
    name = _label(cue.speaker) if cue.speaker else ""
    return (name + "\n".join(cue.lines)).replace("-->", "→")


def _vtt(all_cues: Sequence[Cue]) -> str:
    return "WEBVTT\n" + "".join(
        f"\n{clock(cue.start_ms)} --> {clock(cue.end_ms)}\n{_vtt_text(cue)}\n" for cue in all_cues
    )


def _vtt_text(cue: Cue) -> str:
    voice = f"<v {_escaped(_one_line(cue.speaker))}>" if cue.speaker else ""
    return voice + "\n".join(_escaped(line) for line in cue.lines)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# ---- turns: for rttm ----


def _rttm(transcript: Transcript) -> str:
    """NIST's Rich Transcription Time Marked format (RT-09 evaluation plan): a line for each turn.

    Fields are parted by spaces and may hold none; two names are never written alike.
    """
    file = _field(PurePath(transcript.provenance.media).stem)
    names = _distinct(dict.fromkeys(turn.speaker for turn in transcript.turns))
    return "".join(
        f"SPEAKER {file} 1 {turn.start_ms / 1000:.3f} {(turn.end_ms - turn.start_ms) / 1000:.3f} "
        f"<NA> <NA> {names[turn.speaker]} <NA> <NA>\n"
        for turn in transcript.turns
    )


def _distinct(names: Iterable[str]) -> dict[str, str]:
    """Each name as a field, with a number behind it where another one reads the same."""
    fields: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        field = _field(name)
        while field in taken:
            field += "_2"
        taken.add(field)
        fields[name] = field
    return fields


def _field(text: str) -> str:
    """Without spaces, and without the quotes in which table readers look for the rest of a field."""
    return "_".join(text.replace('"', "'").split()) or "_"
