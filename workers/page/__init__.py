"""The page to read a transcript on: one self-contained HTML file. Pure but for its own template files.

Nothing of the page comes from elsewhere, and a strict policy keeps it so: style and script are named by
their hashes, and the recording is the only thing it may load. The text stands in the page as plain
paragraphs, so it can be read, printed and searched where scripts are switched off (mail previews); the
script cuts a paragraph into words only when it comes near the screen.
"""

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from importlib.resources import files
from operator import attrgetter
from urllib.parse import quote, unquote, urlsplit

from workers.page.paragraphs import Paragraph, one_line, paragraphs
from workers.spans import clock
from workers.transcript import Gap, NoSpeaker, Transcript, Word

SCRIPT = ("basics", "words", "player", "place", "speakers", "timeline", "search", "subtitles", "saving", "begin")
COLOURS = 8  # page.css has so many for speakers; from the ninth on they come again with another mark before the name
MARKS = 4
VIDEO = frozenset({"mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "wmv", "flv", "3gp", "ogv"})

UNNAMED: dict[NoSpeaker, str] = {
    "off": "",
    "failed": "Speaker unknown: recognizing the speakers failed",
    "not diarized": "Speaker unknown: this part was lost to the recognition of speakers",
    "no turn near": "Speaker unknown: no voice was recognized here",
}
"""What a reader is told where nobody is named; nothing where nobody asked for speakers."""

_PLANES = 4 << 16  # nothing wide is, or is planned, above Unicode's third ideographic plane
_COLUMNS = {"W": "2", "F": "2", "Na": "1", "H": "1", "N": "1", "A": "1"}  # of Unicode's widths (UAX 11)
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "�")  # HTML cannot hold them


def render_page(transcript: Transcript, media: str | None) -> str:
    """The whole page.

    media is where the page finds the recording: a path relative to the page, or an http(s) address, both
    percent-encoded; None, or its bare name: beside the page. Where it is not there, the page says so, and its
    reader can choose a file.
    """
    style, script = _template("page.css"), _script()
    name = transcript.provenance.media
    source = _playable(quote(name) if media in (None, name) else media)
    slots = {
        "policy": _policy(style, script, source),
        "title": _text(transcript.provenance.media),
        "facts": "".join(_facts(transcript)),
        "notes": _notes(transcript),
        "player": _player(source),
        "language": _text(transcript.language or "und"),
        "shape": "named" if _names_somebody(transcript) else "plain",
        "transcript": "".join(_body(transcript)) or "<p>Nothing was said.</p>",
        "made": _text(f"whisperfleet {transcript.provenance.whisperfleet}, {transcript.provenance.model}"),
        "data": _embedded(transcript),
        "style": style,
        "script": script,
    }
    # one pass: what is filled in is never looked through for slots again
    return _SLOT.sub(lambda slot: slots[slot.group(1)], _template("page.html"))


@cache
def _script() -> str:
    """The parts in one scope, which nothing else in the page can reach into."""
    return '"use strict";\n(() => {\n' + "\n".join(_template(f"script/{part}.js") for part in SCRIPT) + "})();\n"


@cache
def _template(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str, media: str | None) -> str:
    """What the page may do: run its own script, show its own style, play the recording; nothing else."""
    parts = urlsplit(media or "")
    origin = f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return escape(
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        f"media-src 'self' file: blob:{origin}; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
        quote=True,
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _playable(media: str) -> str | None:
    """The address, if a page can play it: no other scheme, and no host that could end the policy's directive."""
    parts = urlsplit(media)
    if parts.scheme not in ("", "http", "https") or not re.fullmatch(r"[A-Za-z0-9.:\[\]_-]*", parts.netloc):
        return None
    return media


def _player(media: str | None) -> str:
    kind = "video" if media and urlsplit(media).path.rpartition(".")[2].lower() in VIDEO else "audio"
    name = unquote(urlsplit(media).path.rpartition("/")[2]) if media else ""
    source = f' src="{escape(media, quote=True)}"' if media else ""
    return f'<{kind} id="media" preload="metadata" data-name="{_text(name)}"{source}></{kind}>'


# ---- what the head says ----


def _facts(transcript: Transcript) -> Iterator[str]:
    yield f"<span>{_short(transcript.duration_ms)}</span>"
    if transcript.language:
        yield f'<span id="language">language: {_text(transcript.language)}</span>'
    if transcript.speakers:
        yield f"<span>{_count(len(transcript.speakers), 'speaker')}</span>"
    words = sum(len(segment.words) or len(segment.text.split()) for segment in transcript.segments)
    yield f"<span>{_count(words, 'word')}</span>"


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"


def _notes(transcript: Transcript) -> str:
    """What is missing or in doubt, before anybody reads."""
    notes = list(transcript.warnings)
    if transcript.gaps:
        missing = _short(sum(gap.end_ms - gap.start_ms for gap in transcript.gaps))
        notes.append(f"{missing} in {_count(len(transcript.gaps), 'part')} could not be transcribed; see below.")
    items = "".join(f"<li>{_text(note)}</li>" for note in notes)
    return f'<ul class="notes" aria-label="Notes">{items}</ul>' if items else ""


# ---- the text ----


def _body(transcript: Transcript) -> Iterator[str]:
    """Paragraphs and gaps in the order of time."""
    numbers = {name: number for number, name in enumerate(speaker_names(transcript))}
    before: Paragraph | None = None
    for part in paragraphs(transcript):
        if isinstance(part, Gap):
            yield _gap(part)
            before = None
        else:
            goes_on = before is not None and part.continues(before)
            yield _paragraph(part, None if part.speaker is None else numbers[part.speaker], goes_on)
            before = part


def speaker_names(transcript: Transcript) -> tuple[str, ...]:
    """Everybody who is named anywhere; the transcript's own list first, which gives the colours."""
    named = [speaker.name for speaker in transcript.speakers]
    named += [turn.speaker for turn in transcript.turns]
    named += [segment.speaker for segment in transcript.segments if segment.speaker is not None]
    return tuple(dict.fromkeys(named))


def _names_somebody(transcript: Transcript) -> bool:
    """Whether any paragraph says who speaks, or why nobody knows; else names need no room."""
    return any(s.speaker is not None or (s.no_speaker and UNNAMED[s.no_speaker]) for s in transcript.segments)


def _paragraph(part: Paragraph, speaker: int | None, goes_on: bool) -> str:
    look = "s-none" if speaker is None else f"s{speaker % COLOURS} m{speaker // COLOURS % MARKS}"
    known = "" if speaker is None else f' data-speaker="{speaker}"'
    return (
        f'<section class="block {look}{" more" if goes_on else ""}" data-from="{part.first}" data-to="{part.last}"'
        f'{known}><div class="by">{_who(part, goes_on)}<a class="time" href="#t={part.start_ms / 1000:g}">'
        f'{_short(part.start_ms)}</a></div><p dir="auto">{_text(part.text)}</p></section>\n'
    )


def _who(part: Paragraph, goes_on: bool) -> str:
    if goes_on:
        return ""
    if part.speaker is not None:
        return f'<h3 class="name">{_text(one_line(part.speaker))}</h3>'
    reason = UNNAMED[part.no_speaker] if part.no_speaker else ""
    return f'<h3 class="nobody">{_text(reason)}</h3>' if reason else ""


def _gap(gap: Gap) -> str:
    period = f"{clock(gap.start_ms)[:-4]}–{clock(gap.end_ms)[:-4]}"
    note = f"[not transcribed {period}: {one_line(gap.reason)}]"
    return (
        f'<section class="gap"><div class="by"><a class="time" href="#t={gap.start_ms / 1000:g}">'
        f"{_short(gap.start_ms)}</a></div><p>{_text(note)}</p></section>\n"
    )


def _short(ms: int) -> str:
    """H:MM:SS, or M:SS below an hour."""
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _text(text: str) -> str:
    return escape(text.translate(_CONTROLS), quote=True)


# ---- the data ----


def _embedded(transcript: Transcript) -> str:
    """The transcript as JSON that no HTML parser takes for anything else; a word is a row, which is a third of it."""
    fields = tuple(Word.model_fields)
    row = attrgetter(*fields)  # straight from the words, without a dict of each
    whole = transcript.model_dump(mode="json", exclude={"segments": {"__all__": {"words"}}})
    for told, segment in zip(whole["segments"], transcript.segments, strict=True):
        told["words"] = [row(word) for word in segment.words]
    data = {
        "transcript": whole,
        "word_fields": fields,
        "speakers": speaker_names(transcript),
        "subtitles": subtitle_rules(),
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029]", lambda sign: f"\\u{ord(sign.group()):04x}", text)


@cache
def subtitle_rules() -> Mapping[str, object]:
    """What subtitles.js must know to break lines as Python does."""
    from workers import formats  # which renders this page, and so cannot be imported before it

    return {
        "line_width": formats.LINE_WIDTH,
        "max_lines": formats.MAX_LINES,
        "longest_ms": formats.LONGEST_CUE_MS,
        "shortest_ms": formats.SHORTEST_CUE_MS,
        "cue_gap_ms": formats.CUE_GAP_MS,
        "breath_ms": formats.BREATH_MS,
        "long_pause_ms": formats.LONG_PAUSE_MS,
        "wide": tuple(_wide_ranges()),
    }


def _wide_ranges() -> Iterator[tuple[int, int]]:
    """First and last code point of each run of letters that take two columns, ascending: browsers cannot tell."""
    widths = map(unicodedata.east_asian_width, map(chr, range(_PLANES)))
    columns = "".join(map(_COLUMNS.__getitem__, widths))  # a quarter of a million letters, none looked at in Python
    for run in re.finditer("2+", columns):
        yield run.start(), run.end() - 1
