import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.jobs import T0, Job, simulate
from workers.errors import StorageError
from workflows import timeline
from workflows.progress import JobView, from_workflow
from workflows.report import draw
from workflows.report_page import COLOURS, headline, page
from workflows.timeline import union_ms

JOBS = {
    "one worker": simulate(chunks=12, workers=1, retried={3}),
    "eight workers": simulate(chunks=40, workers=8, retried={5}, died={17}, lost={9}),
    "speakers": simulate(chunks=20, workers=4, parts=6),
    "no speakers": simulate(chunks=20, workers=4, parts=6, speakers=None),
}


def view_at(job: Job, now: int) -> JobView:
    return from_workflow(job.at(now), T0 + now)


@given(st.sampled_from(sorted(JOBS)), st.integers(0, 100_000))
def test_bars_tell_the_history_and_never_lie_over_each_other(name: str, now: int) -> None:
    job = JOBS[name]
    now = min(now, job.ended)
    lines = timeline.from_view(view_at(job, now))
    bars = [bar for lane in lines.lanes for bar in lane.bars]
    held = [attempt for attempt in job.attempts if attempt.begun <= now]
    assert sorted((bar.task.reference, bar.task.attempt) for bar in bars) == sorted(
        (attempt.reference, attempt.retry + 1) for attempt in held
    )
    for lane in lines.lanes:
        for before, after in pairwise(lane.bars):
            assert before.end_ms <= after.start_ms
        for bar in lane.bars:
            assert 0 <= bar.start_ms <= bar.end_ms <= lines.wall_ms
            for left, right in pairwise(bar.pieces):
                assert left.end_ms == right.start_ms
    assert lines.waiting[-1][0] <= lines.wall_ms
    assert all(count >= 0 for _, count in lines.waiting)


def test_phases_are_where_the_simulation_put_them() -> None:
    job = JOBS["one worker"]
    lines = timeline.from_view(view_at(job, job.ended))
    bars = {(bar.task.reference, bar.task.attempt): bar for lane in lines.lanes for bar in lane.bars}
    for attempt in job.attempts:
        bar = bars[attempt.reference, attempt.retry + 1]
        assert (bar.end_ms, bar.task.worker) == (attempt.ended, attempt.worker)
        if attempt.status == "COMPLETED" and attempt.type == "transcribe_chunk":
            assert [piece.phase for piece in bar.pieces] == ["fetch", "inference", "store"]
            assert abs(bar.start_ms - attempt.begun) <= 2
            inference = bar.pieces[1].end_ms - bar.pieces[1].start_ms
            assert inference == pytest.approx(1000 * attempt.output["seconds"]["inference"], abs=1)
    assert [lane.name for lane in lines.lanes] == ["laptop-0", "gpu-00"]


def test_the_diarization_has_its_phases_in_a_lane_of_its_own_and_counts_for_no_inference() -> None:
    with_speakers, without = JOBS["speakers"], simulate(chunks=20, workers=4)
    lines = timeline.from_view(view_at(with_speakers, with_speakers.ended))
    assert [lane.name for lane in lines.lanes] == ["laptop-0", "gpu-00", "gpu-01", "gpu-02", "gpu-03", "voices"]
    phases = [[piece.phase for piece in bar.pieces] for bar in lines.lanes[-1].bars]
    speech = next(attempt for attempt in with_speakers.attempts if attempt.type == "map_speech")
    assert lines.lanes[-1].bars[0].start_ms == speech.begun, "not when it was first asked for"
    assert phases == [["speech"], *[["fetch", "diarize", "store"]] * 6, ["cluster"]]
    assert [bar.label for bar in lines.lanes[-1].bars] == ["", "0", "1", "2", "3", "4", "5", ""]
    assert {"speech", "diarize", "cluster"} <= set(lines.phases)
    plain = timeline.from_view(view_at(without, without.ended))
    assert lines.busy == pytest.approx((plain.busy or 0) * without.ended / with_speakers.ended)
    facts = dict(headline(lines)[1])
    assert facts["speakers"] == "3 (6 of 6 parts)"
    failed = timeline.from_view(view_at(JOBS["no speakers"], JOBS["no speakers"].ended))
    assert dict(headline(failed)[1])["speakers"] == "unknown (6 of 6 parts)"
    assert (failed.lanes[-1].name, failed.phases[-3:]) == ("(the text)", ("await", "failed", "waiting"))
    assert "speakers" not in dict(headline(plain)[1])


def test_voices_of_a_worker_that_hears_words_too_have_a_row_of_their_own() -> None:
    workflow = JOBS["speakers"].end()
    for raw in workflow["tasks"]:
        if raw.get("workerId") == "voices":
            raw["workerId"] = "gpu-02"
    rows = {lane.name: lane.bars for lane in timeline.from_view(from_workflow(workflow, T0)).lanes}
    assert list(rows) == ["laptop-0", "gpu-00", "gpu-01", "gpu-02", "gpu-02 · 2", "gpu-03"]
    assert {bar.task.type for bar in rows["gpu-02"]} == {"transcribe_chunk"}
    assert {bar.task.type for bar in rows["gpu-02 · 2"]} == {"map_speech", "diarize_chunk", "cluster_speakers"}


def test_every_phase_of_the_legend_has_a_colour() -> None:
    assert set(timeline.PHASES) == set(COLOURS)


def test_the_share_that_is_not_inference_is_the_wall_without_the_union_of_inference() -> None:
    job = JOBS["eight workers"]
    covered: set[int] = set()  # the second implementation: one millisecond after the other
    total = 0
    for attempt in job.attempts:
        if attempt.type == "transcribe_chunk" and attempt.status == "COMPLETED":
            end = attempt.ended - 60
            start = end - round(1000 * attempt.output["seconds"]["inference"])
            covered.update(range(start, end))
            total += end - start
    lines = timeline.from_view(view_at(job, job.ended))
    assert lines.not_inference == pytest.approx(1 - len(covered) / job.ended, abs=0.001)
    assert lines.busy == pytest.approx(total / (8 * job.ended), abs=0.001)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12))
def test_a_union_is_the_count_of_what_is_covered(pairs: list[list[int]]) -> None:
    assert union_ms((a, b) for a, b in pairs) == len({ms for a, b in pairs for ms in range(a, b)})


def test_audio_fetched_ahead_stays_in_its_workers_lane() -> None:
    job = JOBS["one worker"]
    workflow = job.end()
    chunks = [
        raw for raw in workflow["tasks"] if raw["taskType"] == "transcribe_chunk" and raw["status"] == "COMPLETED"
    ]
    for before, after in pairwise(chunks):
        after["startTime"] = before["endTime"] - 2_000
        after["outputData"] = after["outputData"] | {"seconds": after["outputData"]["seconds"] | {"fetch": 2.0}}
    lines = timeline.from_view(from_workflow(workflow, T0 + job.ended))
    assert len(lines.lanes) == 2


def test_a_worker_that_hears_two_chunks_at_once_has_two_rows() -> None:
    workflow = JOBS["eight workers"].end()
    for raw in workflow["tasks"]:
        if raw.get("workerId") == "gpu-03":
            raw["workerId"] = "gpu-04"
    names = [lane.name for lane in timeline.from_view(from_workflow(workflow, T0)).lanes]
    assert [name for name in names if "04" in name] == ["gpu-04", "gpu-04 · 2"]


def test_workers_are_in_the_order_people_count() -> None:
    lines = timeline.from_view(view_at(simulate(chunks=60, workers=12), 30_000))
    assert [lane.name for lane in lines.lanes] == ["laptop-0", *(f"gpu-{number:02d}" for number in range(12))]
    workflow = simulate(chunks=60, workers=12).end()
    for raw in workflow["tasks"]:
        raw["workerId"] = str(raw.get("workerId")).replace("gpu-0", "gpu-")
    names = [lane.name for lane in timeline.from_view(from_workflow(workflow, T0)).lanes]
    assert names[1:] == [f"gpu-{number}" for number in range(12)]


@pytest.mark.parametrize("wall_ms", [1, 900, 14_000, 34_000, 600_000, 5_670_000, 36_000_000, 40 * 86_400_000])
def test_an_axis_has_a_few_round_times(wall_ms: int) -> None:
    marks = timeline.ticks(wall_ms)
    assert marks[0] == 0
    assert marks[-1] <= wall_ms
    assert len(marks) <= 9
    assert wall_ms < 5_000 or len(marks) >= 3


class Page(HTMLParser):
    """What a browser would build of a page; every element must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m $x_y$ 講義.mp4"


def hostile() -> dict[str, Any]:
    workflow = JOBS["eight workers"].end() | {"status": "FAILED", "reasonForIncompletion": HOSTILE}
    for raw in workflow["tasks"]:
        raw["workerId"] = HOSTILE + str(raw.get("workerId"))
        if raw.get("outputData"):
            raw["outputData"] = raw["outputData"] | {"media_name": HOSTILE}
    return workflow


def test_the_page_has_every_attempt_needs_nothing_else_and_believes_nobody() -> None:
    workflow = hostile()
    text = page(timeline.from_view(from_workflow(workflow, T0)))
    built = Page(text)
    tags = [tag for tag, _ in built.elements]

    assert built.open == []
    assert tags.count("script") == 1
    assert not {"link", "img", "iframe", "object"} & set(tags)
    assert not [name for _, attributes in built.elements for name in attributes if name in ("src", "href")]
    assert not re.search(r"https?:|url\(|@import", text)
    assert "\x1b" not in text
    assert any("講義.mp4" in word for word in built.words)
    attempts = [raw for raw in workflow["tasks"] if raw["taskType"] == "transcribe_chunk"]
    assert tags.count("tr") == 1 + len(attempts) + 4, "plan, language, split and stitch besides the chunks"
    labels = [str(attributes["aria-label"]) for tag, attributes in built.elements if tag == "button"]
    assert len(labels) == len([raw for raw in workflow["tasks"] if raw.get("startTime")])
    assert any("CUDA <error> & no more." in label and "given up" in label for label in labels)


def test_both_files_are_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    jobs = {"done": JOBS["one worker"].end(), "hostile": hostile(), "speakers": JOBS["no speakers"].end()}
    for stem, job in jobs.items():
        picture, html = draw(job, tmp_path / "reports", stem)
        with Image.open(picture) as image:
            image.load()
            assert image.width == 1540
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 10
        assert html.read_text(encoding="utf-8").endswith("</html>\n")
    names = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert names == sorted(f"{stem}.{kind}" for stem in jobs for kind in ("html", "png"))
    speakers = (tmp_path / "reports" / "speakers.html").read_text(encoding="utf-8")
    assert "voices of part 5" in speakers
    assert "await speakers" in speakers


@pytest.mark.parametrize("now", [0, 60, 2_000, 3_010, 9_000])
def test_a_job_that_has_hardly_begun_has_a_report(now: int, tmp_path: Path) -> None:
    view = view_at(JOBS["eight workers"], now)
    picture, html = draw(view, tmp_path, "early")
    assert picture.stat().st_size > 5_000
    assert "not inference" in html.read_text(encoding="utf-8")


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        StorageError, match=r"^The report cannot be written to .*/file/reports: .*choose another folder\.$"
    ):
        draw(JOBS["one worker"].end(), tmp_path / "file" / "reports", "x")
