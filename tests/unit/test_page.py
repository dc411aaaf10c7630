"""The page as text: read back by an HTML parser that shares nothing with its writer."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conversation import interview, long_talk
from workers.messages import JobKeys
from workers.page import COLOURS, render_page
from workers.page.paragraphs import LONGEST_CHARS, Paragraph, one_line, paragraphs
from workers.settings import load
from workers.storage import open_storage
from workers.transcript import Gap, Provenance, Segment, SpeakerTurn, Transcript, Word
from workflows.outputs import deliver, link_to
from workflows.progress import from_workflow
from workflows.transcription import delivered

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]> \u2028 \u2029 & &amp; ' \" {{data}} {{script}} \\ \\u003c",
    '"><img src=x onerror=alert(1)>',
    "\u202egnol \x00 \x0b end",
)


class Reader(HTMLParser):
    """Elements with their attributes, and the text of each kind of element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    def attribute(self, tag: str, name: str, **where: str) -> list[str]:
        found = [attrs for kind, attrs in self.elements if kind == tag and where.items() <= attrs.items()]
        return [str(attrs[name]) for attrs in found if name in attrs]

    @property
    def data(self) -> Any:
        return json.loads(self.texts["script"][0])

    @property
    def policy(self) -> dict[str, list[str]]:
        (text,) = self.attribute("meta", "content", **{"http-equiv": "Content-Security-Policy"})
        return {name: values for name, *values in (part.split() for part in text.split(";"))}


def transcript(*segments: Segment, **more: Any) -> Transcript:
    media = more.pop("media", "talk.mp3")
    provenance = Provenance(whisperfleet="0", job="j", media=media, model="m", engine="e", options={})
    return Transcript(
        **{"duration_ms": 60_000, "language": "en", "segments": segments, "provenance": provenance, **more}
    )


def segment(text: str, start_ms: int = 0, speaker: str | None = None, **more: Any) -> Segment:
    return Segment(start_ms=start_ms, end_ms=start_ms + 1_000, text=text, speaker=speaker, **more)


def unpacked(data: Any) -> Transcript:
    """The transcript that the page's script saves while no name is changed."""
    whole = data["transcript"]
    for one in whole["segments"]:
        one["words"] = [dict(zip(data["word_fields"], row, strict=True)) for row in one["words"]]
    return Transcript.model_validate(whole)


# ---- the text ----


def test_every_word_stands_in_the_page_as_text_under_its_speaker() -> None:
    of = interview()
    page = Reader(render_page(of, None))

    said = [one_line(s.text) for s in of.segments]
    shown = " ".join(page.texts["p"])
    at = 0
    for text in said:
        at = shown.index(text, at) + len(text)
    turns = [turn.speaker for turn in of.turns]
    assert [name for name in page.texts["h3"] if not name.startswith("Speaker unknown")] == turns
    assert "Speaker unknown: no voice was recognized here" in page.texts["h3"]
    assert of.warnings[0] in page.texts["li"]


def test_a_gap_stands_between_what_was_said_before_and_later() -> None:
    gap = Gap(start_ms=5_000, end_ms=65_000, chunk=1, error="EngineError", reason="out of\nmemory")
    page = Reader(render_page(transcript(segment("first"), segment("second", 65_000), gaps=(gap,)), None))

    shown = " ".join(page.texts["p"])
    note = "[not transcribed 00:00:05–00:01:05: out of memory]"
    assert shown.index("first") < shown.index(note) < shown.index("second")
    assert "1:00 in 1 part could not be transcribed; see below." in page.texts["li"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("failed", "recognizing the speakers failed"), ("not diarized", "was lost"), ("off", None)],
)
def test_nobody_is_named_without_a_reason(reason: Any, told: str | None) -> None:
    page = Reader(render_page(transcript(segment("hello", no_speaker=reason)), None))

    heads = " ".join(page.texts.get("h3", []))
    assert told in heads if told else heads == ""


def test_a_transcript_of_nothing_is_a_page() -> None:
    page = Reader(render_page(transcript(duration_ms=0, language=None), None))

    assert "Nothing was said." in page.texts["p"]
    assert unpacked(page.data).segments == ()


def test_a_talk_of_one_person_is_cut_where_its_sentences_end() -> None:
    of = transcript(*(segment(f"This is sentence {n} of a long talk.", n * 1_000, "Ann") for n in range(200)))
    parts = [part for part in paragraphs(of) if isinstance(part, Paragraph)]

    assert 5 < len(parts) < 20
    assert all(len(part.text) < LONGEST_CHARS for part in parts)
    assert [n for part in parts for n in range(part.first, part.last + 1)] == list(range(200))
    assert all(part.continues(before) for before, part in pairwise(parts))
    assert len(Reader(render_page(of, None)).texts["h3"]) == 1


def test_scripts_without_spaces_stay_without() -> None:
    (part,) = paragraphs(transcript(segment("今日は。", 0), segment("いい天気。", 1_000)))
    assert isinstance(part, Paragraph)
    assert part.text == "今日は。いい天気。"


# ---- the data ----


@pytest.mark.parametrize("of", [interview(), long_talk(0.1), transcript()], ids=["interview", "long", "empty"])
def test_the_page_holds_the_whole_transcript(of: Transcript) -> None:
    assert unpacked(Reader(render_page(of, None)).data) == of


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)), min_size=4, max_size=4))
def test_no_text_is_taken_for_markup(texts: list[str]) -> None:
    text, name, media, warning = texts
    word = Word(start_ms=0, end_ms=900, text=text, probability=0.5, speaker=name)
    of = transcript(
        segment(text or "-", 0, name, words=(word,)),
        turns=(SpeakerTurn(start_ms=0, end_ms=900, speaker=name),),
        warnings=(warning,),
        gaps=(Gap(start_ms=1_000, end_ms=2_000, chunk=0, error="E", reason=text),),
        media=media,
        language="en",
    )
    plain = Reader(render_page(transcript(segment("a", 0, "b"), warnings=("c",), gaps=of.gaps[:1]), None))
    page = Reader(render_page(of, None))

    if text.strip():
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert len(page.texts["script"]) == 2
    assert page.texts["script"][1] == plain.texts["script"][1]
    assert unpacked(page.data) == of


def test_what_is_filled_in_is_not_filled_in_again() -> None:
    page = render_page(transcript(segment("{{script}} {{data}}"), media="{{style}}"), None)

    assert '<p dir="auto">{{script}} {{data}}</p>' in page
    assert "<title>{{style}}</title>" in page


# ---- the policy ----


def test_the_policy_lets_nothing_in_but_the_pages_own_script_and_style_and_the_recording() -> None:
    page = Reader(render_page(interview(), "https://media.example/a%20b.mp3"))

    def hashed(text: str) -> list[str]:
        return [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"]

    assert page.policy["default-src"] == ["'none'"]
    assert page.policy["style-src"] == hashed(page.texts["style"][0])
    assert page.policy["script-src"] == hashed(page.texts["script"][1])
    assert page.policy["media-src"] == ["'self'", "file:", "blob:", "https://media.example"]
    assert page.attribute("audio", "src") == ["https://media.example/a%20b.mp3"]
    addresses = [attrs[name] for _, attrs in page.elements for name in ("src", "href", "action") if name in attrs]
    assert {str(address).partition(",")[0].partition("=")[0] for address in addresses} == {
        "https://media.example/a%20b.mp3",
        "#t",
        "data:",
    }
    assert not [name for _, attrs in page.elements for name in attrs if name.startswith("on") or name == "style"]


@pytest.mark.parametrize(
    "media", ["javascript:alert(1)", "data:text/html,x", "https://a;script-src *//x.mp3", "file:///x"]
)
def test_no_other_address_is_played(media: str) -> None:
    page = Reader(render_page(interview(), media))

    assert page.attribute("audio", "src") == []
    assert page.policy["media-src"] == ["'self'", "file:", "blob:"]


@pytest.mark.parametrize(("media", "tag"), [("a/talk.MP4?x", "video"), ("talk.mkv", "video"), ("talk.m4a", "audio")])
def test_films_are_shown(media: str, tag: str) -> None:
    assert Reader(render_page(interview(), media)).attribute(tag, "src") == [media]


@pytest.mark.parametrize("media", [None, "50% #1: a?.mp3"])
def test_a_bare_name_is_looked_for_beside_the_page(media: str | None) -> None:
    page = Reader(render_page(interview("50% #1: a?.mp3"), media))

    assert page.attribute("audio", "src") == ["50%25%20%231%3A%20a%3F.mp3"]
    assert page.attribute("audio", "data-name") == ["50% #1: a?.mp3"]


# ---- colours ----


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_names_can_be_read_and_told_apart(scheme: int) -> None:
    style = Path("workers/page/page.css")
    text = (Path(__file__).parents[2] / style).read_text(encoding="utf-8")
    colours = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})\b", block)) for block in text.split(":root {")[1:3]][scheme]
    names = [colours[f"c{n}"] for n in range(COLOURS)]

    for ground in ("ground", "card"):
        for name in (*names, colours["none"], colours["soft"], colours["ink"]):
            assert contrast(name, colours[ground]) >= 4.5, (name, ground)
    assert contrast(colours["warn"], colours["warn-ground"]) >= 4.5
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
    for lit in ("word", "hit", "hit-now"):
        assert contrast(colours["ink"], colours[lit]) >= 4.5, lit
    for one, other in combinations(names, 2):
        assert distance(one, other) >= 20, (one, other)


def linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def contrast(one: str, other: str) -> float:
    """WCAG 2: from 1 to 21."""
    light = sorted(sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear(c), strict=True)) for c in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def distance(one: str, other: str) -> float:
    """CIE 1976: 2.3 can just be seen."""

    def lab(colour: str) -> tuple[float, float, float]:
        r, g, b = linear(colour)
        x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
        y = 0.2126 * r + 0.7152 * g + 0.0722 * b
        z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
        fx, fy, fz = (v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
        return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)

    return float(sum((p - q) ** 2 for p, q in zip(lab(one), lab(other), strict=True)) ** 0.5)


# ---- where the recording is ----


def test_a_local_recording_is_linked_from_the_folder_of_the_page(tmp_path: Path) -> None:
    media = tmp_path / "tapes" / "50% off #1 ü.mp3"
    media.parent.mkdir()
    media.touch()

    assert link_to(str(media), tmp_path / "out" / "deep") == "../../tapes/50%25%20off%20%231%20%C3%BC.mp3"
    assert link_to(media.as_uri(), media.parent) == "50%25%20off%20%231%20%C3%BC.mp3"
    assert link_to(str(media.with_name("gone.mp3")), tmp_path) is None
    assert link_to(str(tmp_path), tmp_path) is None


@pytest.mark.parametrize(
    ("media", "link"),
    [
        ("https://example.org/a/talk%201.mp3", "https://example.org/a/talk%201.mp3"),
        ("https://example.org/a b.mp3#t=3", "https://example.org/a%20b.mp3"),
        ("https://example.org/talk.mp3?X-Amz-Signature=abc", None),
        ("https://ann:secret@example.org/talk.mp3", None),
        ("s3://bucket/talk.mp3", None),
        ("", None),
        (None, None),
    ],
)
def test_a_web_address_is_linked_unless_it_may_hold_a_secret(media: str | None, link: str | None) -> None:
    assert link_to(media, Path("out")) == link


def test_the_page_is_delivered_with_the_way_to_its_recording(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "storage"), load())
    of = interview()
    storage.put_bytes(JobKeys("j1").transcript("json"), of.model_dump_json().encode())
    storage.put_bytes(JobKeys("j1").transcript("html"), b"the stage's own")
    (tmp_path / "tape.flac").touch()
    folder = tmp_path / "out"
    folder.mkdir()

    written = deliver(storage, "j1", ("html",), folder, "tape", str(tmp_path / "tape.flac"))

    assert written == {"html": str(folder / "tape.html")}
    assert (folder / "tape.html").read_text(encoding="utf-8") == render_page(of, "../tape.flac")
    assert [path.name for path in folder.iterdir()] == ["tape.html"]


@pytest.mark.parametrize("known", [True, False], ids=["its command knows the file", "only the job knows it"])
def test_a_finished_job_is_delivered_with_the_way_to_its_recording(tmp_path: Path, known: bool) -> None:
    here, stored = str(tmp_path / "tape.flac"), "s3://bucket/media/abc/tape.flac"
    Path(here).touch()
    address = str(tmp_path / "storage")
    open_storage(address, load()).put_bytes(JobKeys("j1").transcript("json"), interview().model_dump_json().encode())
    plan = {"taskDefName": "plan_media", "status": "COMPLETED", "outputData": {"job": "j1", "storage": address}}
    workflow = {
        "tasks": [plan],
        "input": {"media": stored if known else here},
        "output": {"files": {"html": "elsewhere"}},
    }

    delivered(
        from_workflow(workflow, 0),
        workflow,
        settings=load(),
        folder=tmp_path,
        stem="tape",
        media=here if known else None,
    )

    assert Reader((tmp_path / "tape.html").read_text(encoding="utf-8")).attribute("audio", "src") == ["tape.flac"]


def test_of_a_transcript_of_another_version_the_stages_own_page_is_delivered(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "storage"), load())
    storage.put_bytes(JobKeys("j1").transcript("json"), b'{"schema_version": 99}')
    storage.put_bytes(JobKeys("j1").transcript("html"), b"the stage's own")

    deliver(storage, "j1", ("html",), tmp_path, "tape", None)

    assert (tmp_path / "tape.html").read_bytes() == b"the stage's own"
