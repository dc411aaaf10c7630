"""Showing a job while it runs: a live line a file on a terminal, plain lines elsewhere, JSON lines for programs.

The transcript (`--follow`) and the JSON lines are results and go to stdout; all else is talk and goes to
stderr, so that `whisperfleet … > file` holds results alone. rich is imported when a live display is
made, not before: `--help` and plain output do not pay for it.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from workers.errors import WhisperfleetError
from workers.spans import clock
from workers.transcript import Segment
from workflows.progress import JobView

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NAME_WIDTH = 20  # columns of a file's name; what is left of 80 columns beside the other fields
PLAIN_SECONDS = 5.0  # at most a line a file so often, unless the stage changes or …
PLAIN_STEP = 0.1  # … so much more of it is done
PLAIN_SILENCE_SECONDS = 30.0  # a log without a line for longer looks dead
JSON_SECONDS = 1.0  # what changes all the time is told no oftener; the rest at once
ALWAYS_MOVING = ("elapsed_ms", "eta_ms", "rtfx", "audio_done_ms")


class Display(Protocol):
    """Where a command shows its jobs; several jobs of one command share one display.

    update is called at every look at a job, text with segments in order as they become final, finish once
    per job, with format to address of what was written; failed for a file that got no job. close leaves
    the terminal as it was, also after an exception, and may be called twice.
    """

    def update(self, view: JobView, workers_alive: int) -> None: ...
    def text(self, segments: Iterable[Segment], job: str = "") -> None: ...
    def note(self, sentence: str) -> None: ...
    def warn(self, sentence: str) -> None: ...
    def failed(self, media: str, error: WhisperfleetError) -> None: ...
    def finish(self, view: JobView, files: Mapping[str, str] | None = None) -> None: ...
    def close(self) -> None: ...


def make_display(json: bool, is_terminal: bool) -> Display:
    """The display for a command; is_terminal says whether stderr, where the bars go, is one."""
    if json:
        return JsonDisplay()
    return LiveDisplay() if is_terminal else PlainDisplay()


class PlainDisplay:
    """Lines that read well in a log file."""

    def __init__(
        self, out: TextIO | None = None, err: TextIO | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._now = now
        self._said: dict[str, tuple[str, float, float]] = {}  # job to stage, share and time of its last line

    def update(self, view: JobView, workers_alive: int) -> None:
        if view.over:
            return
        now = self._now()
        stage, share, at = self._said.get(view.id, ("", 0.0, float("-inf")))
        moved = view.share_done > share
        due = (
            view.stage != stage
            or (moved and now - at >= PLAIN_SECONDS)
            or view.share_done - share >= PLAIN_STEP
            or now - at >= PLAIN_SILENCE_SECONDS
        )
        if due:
            self._said[view.id] = (view.stage, view.share_done, now)
            self._say(progress_line(view, workers_alive))

    def text(self, segments: Iterable[Segment], job: str = "") -> None:
        for segment in segments:
            print(text_line(segment), file=self._out)
        self._out.flush()

    def note(self, sentence: str) -> None:
        self._say(sentence)

    def warn(self, sentence: str) -> None:
        self._say(f"Warning: {sentence}")

    def failed(self, media: str, error: WhisperfleetError) -> None:
        self._say(failure_line(media, str(error)))

    def finish(self, view: JobView, files: Mapping[str, str] | None = None) -> None:
        for line in summary_lines(view, files or {}):
            self._say(line)

    def close(self) -> None:
        self._err.flush()

    def _say(self, line: str) -> None:
        print(printable(line), file=self._err, flush=True)


class LiveDisplay:
    """One line a file that moves, below everything that is said meanwhile."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        from rich.console import Console

        self._out = out or sys.stdout
        self._console = Console(file=err, stderr=err is None, highlight=False, emoji=False)
        self._progress = _progress(self._console)
        self._lines: dict[str, TaskID] = {}
        self._progress.start()

    def update(self, view: JobView, workers_alive: int) -> None:
        if view.id not in self._lines:
            self._lines[view.id] = self._progress.add_task("", total=1.0, **_fields(view, workers_alive))
        self._progress.update(
            self._lines[view.id],
            total=1.0 if view.chunks_total else None,  # no total: the bar swings to and fro
            completed=view.share_done,
            **_fields(view, workers_alive),
        )

    def text(self, segments: Iterable[Segment], job: str = "") -> None:
        lines = "".join(f"{text_line(segment)}\n" for segment in segments)
        # The bars are taken away while a terminal gets the text: written through rich instead, it would
        # go where the bars go, and `2>/dev/null` or a pipe would lose or double it.
        bars = self._out.isatty()
        if bars:
            self._progress.stop()
        self._out.write(lines)
        self._out.flush()
        if bars:
            self._progress.start()

    def note(self, sentence: str) -> None:
        self._say(sentence, "")

    def warn(self, sentence: str) -> None:
        self._say(f"Warning: {sentence}", "yellow")

    def failed(self, media: str, error: WhisperfleetError) -> None:
        self._say(failure_line(media, str(error)), "red")

    def finish(self, view: JobView, files: Mapping[str, str] | None = None) -> None:
        line = self._lines.pop(view.id, None)
        if line is not None:
            self._progress.remove_task(line)
        first, *others = summary_lines(view, files or {})
        self._say(first, "green" if view.stage == "done" else "red")
        for other in others:
            self._say(other, "")

    def close(self) -> None:
        self._progress.stop()

    def _say(self, line: str, style: str) -> None:
        from rich.text import Text

        self._console.print(Text(printable(line), style=style), soft_wrap=True)


class JsonDisplay:
    """One JSON object a line on stdout; README, "For programs", lists the events."""

    def __init__(self, out: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._out = out or sys.stdout
        self._now = now
        self._said: dict[str, tuple[dict[str, Any], float]] = {}

    def update(self, view: JobView, workers_alive: int) -> None:
        event = {**job_event(view), "workers_alive": workers_alive}
        steady = {name: value for name, value in event.items() if name not in ALWAYS_MOVING}
        before, at = self._said.get(view.id, ({}, float("-inf")))
        if steady != before or self._now() - at >= JSON_SECONDS:
            self._said[view.id] = (steady, self._now())
            self._say("progress", event)

    def text(self, segments: Iterable[Segment], job: str = "") -> None:
        for segment in segments:
            self._say("text", {"job": job, **segment.model_dump(mode="json", exclude={"words"})})

    def note(self, sentence: str) -> None:
        self._say("note", {"message": sentence})

    def warn(self, sentence: str) -> None:
        self._say("warning", {"message": sentence})

    def failed(self, media: str, error: WhisperfleetError) -> None:
        details = {"media": media, "error": type(error).__name__, "reason": str(error), "exit_code": error.exit_code}
        self._say("failed", details)

    def finish(self, view: JobView, files: Mapping[str, str] | None = None) -> None:
        self._say("finished", {**job_event(view), "files": dict(files or {})})

    def close(self) -> None:
        self._out.flush()

    def _say(self, event: str, details: Mapping[str, Any]) -> None:
        print(json.dumps({"event": event, **details}, ensure_ascii=False), file=self._out, flush=True)


def job_event(view: JobView) -> dict[str, Any]:
    """What programs are told of a job; also what `jobs show --json` prints."""
    return {
        "job": view.id,
        "media": view.media_name,
        "status": view.status,
        "stage": view.stage,
        "duration_ms": view.duration_ms,
        "audio_done_ms": view.audio_done_ms,
        "chunks_total": view.chunks_total,
        "chunks_done": view.chunks_done,
        "chunks_running": view.chunks_running,
        "chunks_failed": view.chunks_failed,
        "chunks_retried": view.chunks_retried,
        "parts_total": view.parts_total,
        "parts_done": view.parts_done,
        "parts_failed": view.parts_failed,
        "speakers": view.speakers,
        "elapsed_ms": view.elapsed_ms,
        "eta_ms": view.eta_ms,
        "rtfx": None if view.rtfx is None else round(view.rtfx, 2),
        "workers": list(view.workers),
        "reason": view.reason,
    }


def progress_line(view: JobView, workers_alive: int) -> str:
    """`talk.mp4: transcribing, 12 of 40 chunks (30 %), 3:12 left, 104 times real time, 8 workers alive`.

    With the text complete: `talk.mp4: telling the speakers apart, 7 of 12 parts, …`.
    """
    parts: list[str] = ["telling the speakers apart" if view.stage == "speakers" else view.stage]
    if view.parts_total and view.stage == "speakers":
        parts.append(f"{view.parts_done} of {_count(view.parts_total, 'part')}")
    if view.chunks_total and view.stage in ("splitting", "transcribing"):
        parts.append(f"{view.chunks_done} of {_count(view.chunks_total, 'chunk')} ({view.share_done:.0%})")
    if view.chunks_failed:
        parts.append(f"{view.chunks_failed} lost")
    if view.eta_ms is not None and view.stage == "transcribing":
        parts.append(f"{short_time(view.eta_ms)} left")
    if view.rtfx is not None:
        parts.append(f"{speed(view.rtfx)} times real time")
    parts.append("no worker alive" if workers_alive == 0 else f"{_count(workers_alive, 'worker')} alive")
    return f"{view.media_name}: {', '.join(parts)}"


def summary_lines(view: JobView, files: Mapping[str, str]) -> list[str]:
    """How a job ended, and what it left."""
    if view.stage == "cancelled":
        return [f"{view.media_name}: cancelled after {short_time(view.elapsed_ms)}."]
    if view.stage != "done":
        return [failure_line(view.media_name, view.reason or "The job failed and gave no reason.")]
    length = "" if view.duration_ms is None else f"{short_time(view.duration_ms)} of audio "
    faster = "" if view.rtfx is None else f", {speed(view.rtfx)} times real time"
    parts = [_count(view.chunks_total or 0, "chunk")]
    if view.chunks_retried:
        parts.append(f"{view.chunks_retried} tried again")
    if view.chunks_failed:
        parts.append(f"{view.chunks_failed} lost")
    people = f", {speakers_found(view)}" if view.diarized else ""
    line = f"{view.media_name}: {length}done in {short_time(view.elapsed_ms)}{faster}{people} ({', '.join(parts)})."
    return [line, *(f"  {address}" for address in _gathered(files.values()))]


def speakers_found(view: JobView) -> str:
    """`3 speakers`, or that nobody knows; of a finished job."""
    if view.speakers is None:
        return "speakers unknown"
    return _count(view.speakers, "speaker") if view.speakers else "no speakers"


def failure_line(media: str, sentence: str) -> str:
    """The sentence, after the name of the file it is about where it does not tell it."""
    named = not media or sentence.startswith(media) or re.search(rf"'[^']*{re.escape(media)}'", sentence)
    return sentence if named else f"{media}: {sentence}"


def text_line(segment: Segment) -> str:
    """`[00:01:02] text`, the media's clock to the second."""
    speaker = f"{segment.speaker}: " if segment.speaker else ""
    return f"[{clock(segment.start_ms)[:-4]}] {printable(speaker + segment.text.strip())}"


def short_time(ms: int) -> str:
    """`3:12`, or `1:03:12` from an hour on; rounded to the nearest second."""
    minutes, seconds = divmod(round(ms / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def speed(rtfx: float) -> str:
    """Two digits that matter."""
    return f"{rtfx:.0f}" if rtfx >= 10 else f"{rtfx:.1f}"


def printable(text: str) -> str:
    """Without the control characters by which a file's name or a server's sentence could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _gathered(addresses: Iterable[str]) -> list[str]:
    """`out/talk.{json,srt}` for files that differ in their extension alone; others as they are."""
    by_stem: dict[str, list[str]] = {}
    for address in addresses:
        suffix = Path(address).suffix
        by_stem.setdefault(address.removesuffix(suffix), []).append(suffix.lstrip("."))
    return [
        f"{stem}.{suffixes[0]}" if len(suffixes) == 1 else f"{stem}.{{{','.join(suffixes)}}}"
        for stem, suffixes in by_stem.items()
    ]


def _progress(console: Any) -> "Progress":
    """The table of bars: name, stage, bar, chunks, ETA, RTFx, workers; 80 columns suffice."""
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    def text(name: str, width: int, style: str = "", justify: Any = "left") -> TextColumn:
        column = Column(width=width, no_wrap=True, overflow="ellipsis")
        return TextColumn(f"{{task.fields[{name}]}}", style, justify, markup=False, table_column=column)

    return Progress(
        text("name", NAME_WIDTH, "bold"),
        text("stage", 12, "cyan"),
        BarColumn(None, "bright_black", "cyan", "green", "cyan", table_column=Column(ratio=1, min_width=6)),
        text("chunks", 9, justify="right"),
        text("eta", 7, justify="right"),
        text("speed", 5, "green", "right"),
        text("alive", 9, justify="right"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
        redirect_stdout=False,  # text() writes there itself
    )


def _fields(view: JobView, workers_alive: int) -> dict[str, Any]:
    name = printable(view.media_name)
    eta = view.eta_ms if view.stage in ("splitting", "transcribing") else None
    done, total = (
        (view.parts_done, view.parts_total) if view.stage == "speakers" else (view.chunks_done, view.chunks_total)
    )
    return {
        "name": name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 9]}…{name[-8:]}",
        "stage": view.stage,
        "chunks": f"{done}/{total}" if total else "",
        "eta": "" if eta is None else short_time(eta),
        "speed": "" if view.rtfx is None else f"{speed(view.rtfx)}×",
        "alive": "no worker" if workers_alive == 0 else f"{workers_alive} alive",
    }
