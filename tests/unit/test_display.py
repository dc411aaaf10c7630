import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.jobs import T0, Job, simulate
from workers.errors import MediaError
from workers.transcript import Segment
from workflows.display import Display, JsonDisplay, LiveDisplay, PlainDisplay, make_display, short_time, summary_lines
from workflows.progress import JobView, from_workflow

JOB = simulate(chunks=40, workers=8, retried={5}, lost={9})
LONG_NAME = simulate(chunks=400, workers=1, media="/media/a lecture with a very long name, part two.mkv")
SEGMENT = Segment(start_ms=3_723_900, end_ms=3_725_000, text=" Good [bold] morning.\x1b[31m ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def view_at(job: Job, now: int, name: str = "") -> JobView:
    workflow = job.at(now)
    return from_workflow(workflow | {"workflowId": name or workflow["workflowId"]}, T0 + now)


def shown(make: Callable[[io.StringIO, io.StringIO], Display], job: Job = JOB, step: int = 500) -> tuple[str, str]:
    """Stdout and stderr of a display that follows a whole job."""
    out, err = Terminal(), Terminal()
    display = make(out, err)
    for now in range(0, job.ended, step):
        display.update(view_at(job, now), workers_alive=8)
    display.text([SEGMENT])
    display.warn("The recording is silent.")
    display.failed("gone.mp3", MediaError("gone.mp3 does not exist: check the path."))
    display.finish(view_at(job, job.ended), {"json": "out/talk.json", "srt": "out/talk.srt"})
    display.close()
    display.close()
    return out.getvalue(), err.getvalue()


def test_plain_lines_say_each_stage_once_and_then_each_tenth() -> None:
    _, err = shown(lambda out, err: PlainDisplay(out, err, Clock()))
    lines = [line for line in err.splitlines() if line.startswith("lecture.mp4: ")]
    stages = [re.split(r"[ ,]", line)[1] for line in lines[:-1]]
    assert list(dict.fromkeys(stages)) == ["planning", "language", "splitting", "transcribing", "stitching"]
    shares = [int(found[1]) for line in lines if (found := re.search(r"transcribing, .*\((\d+)%\)", line))]
    assert 9 <= len(shares) <= 11
    assert shares == sorted(shares)


def test_plain_lines_go_on_while_a_job_moves_slowly_and_while_it_does_not() -> None:
    clock, err = Clock(), io.StringIO()
    display = PlainDisplay(io.StringIO(), err, clock)
    for number in range(60):
        clock.seconds = number
        display.update(view_at(LONG_NAME, 20_000 + number * 10), 1)
    assert len(err.getvalue().splitlines()) == 12, "every five seconds, not every update"
    for number in range(60, 180):
        clock.seconds = number
        display.update(view_at(LONG_NAME, 20_590), 1)
    assert len(err.getvalue().splitlines()) == 12 + 4, "and every thirty when nothing moves"


def test_plain_text_goes_to_stdout_and_talk_to_stderr() -> None:
    out, err = shown(lambda out, err: PlainDisplay(out, err))
    assert out == "[01:02:03] Good [bold] morning. [31m\n"
    assert err.endswith(
        "Warning: The recording is silent.\ngone.mp3 does not exist: check the path.\n"
        "lecture.mp4: 40:00 of audio done in 0:33, 72 times real time (40 chunks, 2 tried again, 1 lost).\n"
        "  out/talk.{json,srt}\n"
    )


def test_plain_lines_tell_the_parts_once_the_text_is_complete() -> None:
    job = simulate(chunks=20, workers=8, parts=6)
    _, err = shown(lambda out, err: PlainDisplay(out, err, Clock()), job)
    lines = [line for line in err.splitlines() if "telling the speakers apart" in line]
    counts = [int(found[1]) for line in lines if (found := re.search(r"apart, (\d) of 6 parts, ", line))]
    assert len(counts) == len(lines) >= 4
    assert counts == sorted(set(counts))
    assert counts[-1] == 6


@pytest.mark.parametrize(
    ("speakers", "said"),
    [(3, ", 3 speakers ("), (1, ", 1 speaker ("), (0, ", no speakers ("), (None, ", speakers unknown (")],
)
def test_the_end_of_a_job_says_how_many_speak(speakers: int | None, said: str) -> None:
    job = simulate(chunks=20, workers=8, parts=6, speakers=speakers)
    line = summary_lines(view_at(job, job.ended), {})[0]
    assert said in line
    assert "speaker" not in summary_lines(view_at(JOB, JOB.ended), {})[0]


def test_no_worker_is_said() -> None:
    err = io.StringIO()
    PlainDisplay(io.StringIO(), err).update(view_at(JOB, 500), workers_alive=0)
    assert err.getvalue() == "lecture.mp4: planning, no worker alive\n"


def test_json_is_an_object_a_line_on_stdout_and_nothing_else() -> None:
    out, err = shown(lambda out, err: JsonDisplay(out, Clock()))
    events: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    kinds = list(dict.fromkeys(event["event"] for event in events))
    assert kinds == ["progress", "text", "warning", "failed", "finished"]
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["chunks_done"] for event in progress] == sorted(event["chunks_done"] for event in progress)
    assert progress[-1]["stage"] == "stitching"
    text = next(event for event in events if event["event"] == "text")
    assert (text["start_ms"], text["text"]) == (3_723_900, SEGMENT.text), "programs get what was heard, whole"
    assert events[-2] | {"event": ""} == {
        "event": "",
        "media": "gone.mp3",
        "error": "MediaError",
        "reason": "gone.mp3 does not exist: check the path.",
        "exit_code": 3,
    }
    assert events[-1]["files"] == {"json": "out/talk.json", "srt": "out/talk.srt"}


def test_json_does_not_repeat_itself() -> None:
    out = io.StringIO()
    display = JsonDisplay(out, Clock())
    for _ in range(5):
        display.update(view_at(JOB, 12_000), 8)
    assert len(out.getvalue().splitlines()) == 1


def test_live_lines_fit_a_terminal_of_80_columns_and_each_file_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    err = Terminal()
    display = LiveDisplay(io.StringIO(), err)
    for now in (500, 3_050, 600_000):
        display.update(view_at(LONG_NAME, now, "a"), 1)
        display.update(view_at(JOB, min(now, 20_000), "b"), 8)
    err.truncate(0)
    display._progress.refresh()
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err.getvalue()).splitlines() if line.strip(" \0\r")]
    display.close()
    assert [len(line.strip("\0\r")) for line in lines] == [80, 80]
    first, second = (line.strip("\0\r") for line in lines)
    assert re.fullmatch(r"a lecture w….*\.mkv transcribing [━╸╺]+ +\d+/400 +[\d:]+ +\d+× +1 alive", first), first
    assert re.fullmatch(r"lecture\.mp4 +transcribing [━╸╺]+ +\d+/40 +0:\d\d +\d+× +8 alive", second), second


def test_the_live_line_counts_parts_once_the_text_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    err = Terminal()
    display = LiveDisplay(io.StringIO(), err)
    display.update(view_at(simulate(chunks=20, workers=8, parts=6), 30_000), 8)
    err.truncate(0)
    display._progress.refresh()
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err.getvalue()).strip("\0\r\n")
    display.close()
    assert re.fullmatch(r"lecture\.mp4 +speakers +[━╸╺]+ +3/6 +\d+× +8 alive", line), line


def test_live_text_is_on_stdout_whole_and_no_bar_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = shown(lambda out, err: LiveDisplay(out, err), step=3_000)
    assert out == "[01:02:03] Good [bold] morning. [31m\n"
    assert "lecture.mp4: 40:00 of audio done in 0:33" in err
    assert err.rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in err[-40:], "the cursor is back"


def test_the_end_of_a_job_is_one_sentence() -> None:
    failed = from_workflow(JOB.at(9_000) | {"status": "FAILED", "reasonForIncompletion": "lecture.mp4 is damaged."}, T0)
    assert summary_lines(failed, {}) == ["lecture.mp4 is damaged."]
    cancelled = from_workflow(JOB.at(9_000) | {"status": "TERMINATED", "endTime": T0 + 65_000}, T0)
    assert summary_lines(cancelled, {}) == ["lecture.mp4: cancelled after 1:05."]


@pytest.mark.parametrize(
    ("ms", "text"), [(0, "0:00"), (59_600, "1:00"), (3_599_600, "1:00:00"), (4_000_000, "1:06:40")]
)
def test_lengths_are_read_at_a_glance(ms: int, text: str) -> None:
    assert short_time(ms) == text


def test_the_display_fits_the_place() -> None:
    assert isinstance(make_display(json=True, is_terminal=True), JsonDisplay)
    assert isinstance(make_display(json=False, is_terminal=False), PlainDisplay)
    live = make_display(json=False, is_terminal=True)
    live.close()
    assert isinstance(live, LiveDisplay)


def test_importing_the_display_imports_neither_rich_nor_matplotlib() -> None:
    code = "import sys, workflows.display, workflows.report; print({*sys.modules} & {'rich', 'matplotlib'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.strip() == "set()"
