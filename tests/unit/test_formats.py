"""Files are read back by parsers that share nothing with the writers: ffmpeg's for subtitles, plain ones here."""

import csv
import html
import io
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.formats import LINE_WIDTH, LONGEST_CUE_MS, MAX_LINES, Cue, cues, render
from workers.transcript import Gap, Provenance, Segment, SpeakerTurn, Transcript, Word

NASTY = "a it's naïve word, end. Really? --> <b> &amp; 5 {x} supercalifragilistic Straße"
FIRST = "so -- we go on, and on; Tom & Jerry never stop at all. Or do they?"
SECOND = "the second says nothing"
HOSTILE = (
    "<b>bold</b>",
    "Ann --> Bob",
    "line\nbreak",
    "tab\tand  spaces",
    "مريم \u202e",
    "00:00:01.000 --> 00:00:02.000",
    "A & <v B>",
    'quo"te',
    "x" * 120,
    "今日は" * 12,
    "]: {\\an8}",
    "\u2028\x85",
)
"""Names that would end a field, a line, a cue or a tag somewhere."""

TEXTS = st.sampled_from(NASTY.split())


def transcript(
    segments: tuple[Segment, ...],
    gaps: tuple[Gap, ...] = (),
    turns: tuple[SpeakerTurn, ...] = (),
    media: str = "talk.mp3",
) -> Transcript:
    provenance = Provenance(whisperfleet="0", job="j", media=media, model="m", engine="e", options={})
    return Transcript(
        duration_ms=3_600_000, language="en", segments=segments, gaps=gaps, turns=turns, provenance=provenance
    )


def segment(words: list[tuple[str, int, int]], at_ms: int, speaker: str | None = None) -> Segment:
    """From (text, pause before, length) triples."""
    made = []
    for text, pause, length in words:
        made.append(
            Word(start_ms=at_ms + pause, end_ms=at_ms + pause + length, text=text, probability=1, speaker=speaker)
        )
        at_ms += pause + length
    return Segment(
        start_ms=made[0].start_ms,
        end_ms=at_ms,
        text=" ".join(w.text for w in made),
        words=tuple(made),
        speaker=speaker,
    )


@st.composite
def transcripts(draw: st.DrawFn, with_words: bool = True) -> Transcript:
    words = st.tuples(TEXTS, st.integers(0, 2_000), st.integers(0, 900))
    segments, at_ms = [], 0
    for said in draw(st.lists(st.lists(words, min_size=1, max_size=16), max_size=4)):
        one = segment(said, at_ms, draw(st.sampled_from([None, "Ann", "B <& C>", *HOSTILE[:9]])))
        segments.append(one if with_words else one.model_copy(update={"words": ()}))
        at_ms = one.end_ms
    gaps: tuple[Gap, ...] = ()
    if draw(st.booleans()):
        gaps = (Gap(start_ms=at_ms, end_ms=at_ms + 60_000, chunk=3, error="EngineError", reason="the\nengine broke"),)
    return transcript(tuple(segments), gaps)


def read_srt(text: str) -> list[Cue]:
    found = []
    for number, block in enumerate(re.split(r"\n\n", text.strip()) if text.strip() else [], 1):
        head, times, *lines = block.split("\n")
        assert head == str(number)
        start, end = times.split(" --> ")
        found.append(Cue(milliseconds(start, ","), milliseconds(end, ","), tuple(lines)))
    return found


def read_vtt(text: str) -> list[Cue]:
    head, *blocks = text.strip().split("\n\n")
    assert head == "WEBVTT"
    found = []
    for block in blocks:
        times, *lines = block.split("\n")
        voice = re.match(r"<v ([^>]*)>", lines[0])
        if voice:
            lines[0] = lines[0][voice.end() :]
        assert "-->" not in "".join(lines)
        assert not re.search(r"[<>]", "".join(lines))
        start, end = times.split(" --> ")
        speaker = html.unescape(voice.group(1)) if voice else None
        found.append(
            Cue(milliseconds(start, "."), milliseconds(end, "."), tuple(html.unescape(x) for x in lines), speaker)
        )
    return found


def milliseconds(text: str, separator: str) -> int:
    match = re.fullmatch(rf"(\d\d+):(\d\d):(\d\d){re.escape(separator)}(\d\d\d)", text)
    assert match is not None
    hours, minutes, seconds, millis = map(int, match.groups())
    return ((hours * 60 + minutes) * 60 + seconds) * 1000 + millis


def said(of: Transcript) -> list[str]:
    return [word for s in of.segments for word in s.text.split()]


def shown(all_cues: list[Cue]) -> list[str]:
    lines = " ".join(line for cue in all_cues for line in cue.lines)
    return re.sub(r"\[not transcribed .*", "", lines).split()


@settings(max_examples=50, deadline=None)
@given(of=st.one_of(transcripts(), transcripts(with_words=False)))
def test_subtitles_come_back_with_every_word_once(of: Transcript) -> None:
    made = list(cues(of))
    from_srt, from_vtt = read_srt(render(of, "srt")), read_vtt(render(of, "vtt"))

    assert shown(made) == said(of)
    assert from_vtt == [replace(c, speaker=" ".join(c.speaker.split()) if c.speaker else None) for c in made]
    assert [(c.start_ms, c.end_ms) for c in from_srt] == [(c.start_ms, c.end_ms) for c in made]
    assert [len(c.lines) for c in from_srt] == [len(c.lines) for c in made]


@settings(max_examples=50, deadline=None)
@given(of=st.one_of(transcripts(), transcripts(with_words=False)))
def test_subtitles_can_be_read(of: Transcript) -> None:
    made = cues(of)

    for cue in made:
        assert cue.start_ms < cue.end_ms
        if not cue.lines[0].startswith("[not transcribed"):
            assert len(cue.lines) <= MAX_LINES
            assert all(line and len(line) <= LINE_WIDTH for line in cue.lines)
            assert cue.end_ms - cue.start_ms <= LONGEST_CUE_MS
    for before, after in pairwise(made):
        assert before.end_ms <= after.start_ms


@settings(max_examples=40, deadline=None)
@given(of=transcripts())
def test_a_cue_is_on_while_its_words_are_said(of: Transcript) -> None:
    words = iter([w for s in of.segments for w in s.words])
    several = len({s.speaker for s in of.segments} - {None}) > 1
    for cue in cues(of):
        if not cue.lines[0].startswith("[not transcribed"):
            for _ in " ".join(cue.lines).split():
                word = next(words)
                assert word.start_ms <= cue.end_ms + 100
                assert word.end_ms >= cue.start_ms - 100
                assert cue.speaker == (word.speaker if several else None)


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_ffmpeg_reads_the_same_cues(form: str, tmp_path: Path) -> None:
    import av

    first = segment([(w, 60, 300) for w in FIRST.split()], 500)
    second = segment([(w, 60, 300) for w in SECOND.split()], 9_000)
    of = transcript((first, second))
    (tmp_path / f"talk.{form}").write_text(render(of, form), encoding="utf-8")  # type: ignore[arg-type]

    with av.open(str(tmp_path / f"talk.{form}")) as container:
        packets = [packet for packet in container.demux(subtitles=0) if packet.size]
        found = [
            (round(p.pts * p.time_base * 1000), round((p.pts + p.duration) * p.time_base * 1000), bytes(p).decode())
            for p in packets
        ]

    assert [(start, end) for start, end, _ in found] == [(c.start_ms, c.end_ms) for c in cues(of)]
    assert [html.unescape(text).split() for _, _, text in found] == [" ".join(c.lines).split() for c in cues(of)]


@settings(max_examples=30, deadline=None)
@given(of=transcripts())
def test_tsv_has_whole_milliseconds_and_a_row_for_each_segment_and_gap(of: Transcript) -> None:
    rows = list(csv.reader(io.StringIO(render(of, "tsv")), delimiter="\t", quoting=csv.QUOTE_NONE))

    named = any(s.speaker for s in of.segments)
    assert rows[0] == ["start", "end", "text", "speaker"][: 3 + named]
    assert len(rows) == 1 + len(of.segments) + len(of.gaps)
    spans = [(s.start_ms, s.end_ms) for s in of.segments] + [(g.start_ms, g.end_ms) for g in of.gaps]
    assert [(int(start), int(end)) for start, end, *_ in rows[1:]] == spans
    assert [row[2] for row in rows[1 : 1 + len(of.segments)]] == [" ".join(s.text.split()) for s in of.segments]
    if named:
        speakers = [" ".join((s.speaker or "").split()) for s in of.segments] + [""] * len(of.gaps)
        assert [row[3] for row in rows[1:]] == speakers


def test_tabs_and_line_ends_in_the_text_do_not_break_a_row() -> None:
    of = transcript((Segment(start_ms=1, end_ms=2, text=" a\tb\nc\r\nd "),))

    assert render(of, "tsv") == "start\tend\ttext\n1\t2\ta b c d\n"
    assert render(of, "txt") == "a b c d\n"


@settings(max_examples=30, deadline=None)
@given(of=transcripts())
@example(of=transcript(()))
def test_json_is_the_transcript_and_differs_from_run_to_run_only_at_its_end(of: Transcript) -> None:
    text = render(of, "json")
    other = render(of.model_copy(update={"provenance": of.provenance.model_copy(update={"job": "other"})}), "json")

    assert Transcript.model_validate_json(text) == of
    assert list(json.loads(text))[-1] == "provenance"
    at = text.index('"provenance"')
    assert other.startswith(text[:at])


@pytest.mark.parametrize("form", ["json", "srt", "vtt", "txt", "tsv"])
def test_a_gap_is_seen_in_every_format(form: str) -> None:
    gap = Gap(start_ms=600_000, end_ms=720_000, chunk=4, error="EngineError", reason="out of memory")
    of = transcript((segment([("before", 0, 500)], 1_000), segment([("after", 0, 500)], 730_000)), (gap,))
    text = render(of, form)  # type: ignore[arg-type]

    assert "out of memory" in " ".join(text.split())
    if form != "json":
        assert text.index("before") < text.index("[not transcribed 00:10:00–00:12:00:") < text.index("after")
        assert "[not transcribed 00:10:00–00:12:00: out of memory]" in " ".join(text.split())


def test_speakers_are_named() -> None:
    of = transcript((segment([("hello", 0, 500)], 0, "Ann"), segment([("hi", 0, 500)], 600, "B <C>")))

    assert "[Ann] hello" in render(of, "srt")
    assert "<v B &lt;C&gt;>hi" in render(of, "vtt")
    assert render(of, "txt") == "Ann:\nhello\n\nB <C>:\nhi\n"
    assert render(of, "tsv") == "start\tend\ttext\tspeaker\n0\t500\thello\tAnn\n600\t1100\thi\tB <C>\n"


def test_text_has_a_paragraph_for_each_turn_and_none_that_goes_on_over_a_gap() -> None:
    who = ["Ann", "Ann", None, "Bob", "Bob"]
    lines = tuple(segment([(f"s{n}", 0, 500)], n * 1_000, speaker) for n, speaker in enumerate(who))
    gap = Gap(start_ms=3_600, end_ms=3_900, chunk=4, error="EngineError", reason="out of memory")

    assert render(transcript(lines, (gap,)), "txt").split("\n\n") == [
        "Ann:\ns0\ns1",
        "Speaker unknown:\ns2",
        "Bob:\ns3",
        "[not transcribed 00:00:03–00:00:03: out of memory]",
        "Bob:\ns4\n",
    ]


@pytest.mark.parametrize("who", ["SPEAKER_00", "Ann", None])
def test_where_only_one_person_speaks_no_reader_is_told_so_on_every_line(who: str | None) -> None:
    """The table and the turns have the name all the same."""
    lines = (
        segment([("hello", 0, 500)], 0, who),
        segment([("world", 0, 500)], 600),
        segment([("so", 0, 500)], 3_000, who),
    )
    nobody = tuple(
        s.model_copy(update={"speaker": None, "words": tuple(w.model_copy(update={"speaker": None}) for w in s.words)})
        for s in lines
    )

    for form in ("srt", "vtt", "txt"):
        assert render(transcript(lines), form) == render(transcript(nobody), form)
    assert render(transcript(lines), "tsv").count(str(who)) == (2 if who else 0)


def test_no_cue_mixes_speakers_and_the_name_has_room_on_its_line() -> None:
    said = [(w, 20, 180) for w in (FIRST + " " + SECOND).split()]
    parts, at_ms = [], 0
    for number in range(12):
        parts.append(segment(said[: 3 + number], at_ms, f"SPEAKER_{number % 3:02d}"))
        at_ms = parts[-1].end_ms
    of = transcript(tuple(parts))

    truth = iter([w for s in of.segments for w in s.words])
    for cue in cues(of):
        assert {next(truth).speaker for _ in " ".join(cue.lines).split()} == {cue.speaker}
    for cue in read_srt(render(of, "srt")):
        assert re.match(r"\[SPEAKER_\d\d\] ", cue.lines[0])
        assert all(len(line) <= LINE_WIDTH for line in cue.lines)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_breaks_a_file(name: str) -> None:
    written = " ".join(name.split())
    lines = (segment([("hello", 0, 1_500), ("you", 0, 500)], 0, name), segment([("hi", 0, 1_500)], 2_600, "Bob"))
    of = transcript(lines, turns=(SpeakerTurn(start_ms=0, end_ms=2_000, speaker=name),))

    assert [cue.lines for cue in read_srt(render(of, "srt"))] == [
        (f"[{written.replace('-->', '→')}] hello you",),
        ("[Bob] hi",),
    ]
    assert [(cue.speaker, cue.lines) for cue in read_vtt(render(of, "vtt"))] == [
        (written, ("hello you",)),
        ("Bob", ("hi",)),
    ]
    assert render(of, "txt") == f"{written}:\nhello you\n\nBob:\nhi\n"
    rows = list(csv.reader(io.StringIO(render(of, "tsv")), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert [row[3] for row in rows] == ["speaker", written, "Bob"]
    assert Transcript.model_validate_json(render(of, "json")) == of
    assert [turn for _, turn in read_rttm(render(of, "rttm"))] == [
        SpeakerTurn(start_ms=0, end_ms=2_000, speaker="_".join(name.split()).replace('"', "'") or "_")
    ]


def read_rttm(text: str) -> list[tuple[str, SpeakerTurn]]:
    """File and turn of each line."""
    found = []
    for line in text.splitlines():
        kind, file, channel, start, length, *rest = line.split(" ")
        assert (kind, channel) == ("SPEAKER", "1")
        assert [*rest[:2], *rest[3:]] == ["<NA>"] * 4
        assert re.fullmatch(r"\d+\.\d{3} \d+\.\d{3}", f"{start} {length}")
        start_ms = round(float(start) * 1000)
        end_ms = start_ms + round(float(length) * 1000)
        found.append((file, SpeakerTurn(start_ms=start_ms, end_ms=end_ms, speaker=rest[2])))
    return found


@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.integers(0, 36_000_000), st.integers(0, 99_999), st.sampled_from(["Ann", "SPEAKER_00", "Žoë"]))
    )
)
def test_turns_come_back_from_rttm_overlaps_and_all(turns: list[tuple[int, int, str]]) -> None:
    made = tuple(SpeakerTurn(start_ms=start, end_ms=start + length, speaker=name) for start, length, name in turns)

    assert read_rttm(render(transcript((), turns=made), "rttm")) == [("talk", turn) for turn in made]


def test_rttm_is_written_as_nist_has_it() -> None:
    turns = (SpeakerTurn(start_ms=1_250, end_ms=4_000, speaker="Ann Lee"),)
    of = transcript((), turns=turns, media="my first talk.final.mp3")

    assert render(of, "rttm") == "SPEAKER my_first_talk.final 1 1.250 2.750 <NA> <NA> Ann_Lee <NA> <NA>\n"
    assert render(transcript(()), "rttm") == ""


def test_two_people_are_never_one_in_rttm() -> None:
    names = ["Ann Lee", "Ann_Lee", "Ann  Lee", "Ann_Lee_2"]
    turns = tuple(SpeakerTurn(start_ms=n, end_ms=n + 1, speaker=name) for n, name in enumerate(names * 2))
    found = [turn.speaker for _, turn in read_rttm(render(transcript((), turns=turns), "rttm"))]

    assert len(set(found)) == 4
    assert found[:4] == found[4:]


def test_the_page_is_told_where_the_recording_is() -> None:
    page = render(transcript((segment([("hello", 0, 500)], 0),)), "html", media="../talk.mp3")

    assert page.startswith("<!")
    assert '"../talk.mp3"' in page


def test_scripts_without_spaces_stay_without() -> None:
    said = ["今日", "は、", "天気", "が", "いい", "です。"] * 6
    words = tuple(Word(start_ms=n * 300, end_ms=n * 300 + 280, text=text, probability=1) for n, text in enumerate(said))
    with_words = Segment(start_ms=0, end_ms=10_800, text="".join(said), words=words)

    for one in (with_words, with_words.model_copy(update={"words": ()})):
        made = cues(transcript((one,)))
        assert "".join(line for cue in made for line in cue.lines) == one.text
        assert all(2 * len(line) <= LINE_WIDTH for cue in made for line in cue.lines)


def test_cues_end_where_sentences_do() -> None:
    said = "this is the first sentence of three. here comes the second one, with a clause; then the third one ends."
    of = transcript((segment([(w, 40, 260) for w in said.split()], 0),))

    assert [" ".join(cue.lines)[-1] for cue in cues(of)] == [".", "."]


def test_nothing_said_makes_files_that_are_empty_but_valid() -> None:
    of = transcript(())

    assert render(of, "srt") == ""
    assert render(of, "vtt") == "WEBVTT\n"
    assert render(of, "txt") == ""
    assert render(of, "tsv") == "start\tend\ttext\n"
