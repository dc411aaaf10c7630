"""`whisperfleet jobs report`: a job's timeline as a picture (PNG) and as a page that needs nothing else (HTML)."""

import os
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.errors import StorageError
from workflows import timeline
from workflows.display import printable, short_time
from workflows.progress import JobView, from_workflow
from workflows.report_page import COLOURS, STRIPED, THIN, headline, page, what_it_means
from workflows.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH_INCHES = 14.0
LANE_INCHES = (0.17, 0.36)  # of many lanes and of few
MOST_LANES_HIGH = 20
DPI = 110
FACTS_LENGTH = 168  # characters of 9.5 points that go into a line
LEGEND_COLUMNS = 6
LABEL_SHARE = 0.0085  # of the axis' width that a digit takes: a bar gets its number where it has the room
LEAST = {"failed": 0.003}  # share of the axis that a bar takes at least: what went wrong must be seen
INK, FAINT = "#1b1f24", "#d5d9de"


def draw(job: JobView | Mapping[str, Any], out_dir: Path, stem: str) -> tuple[Path, Path]:
    """Write STEM.png and STEM.html into out_dir and return their paths.

    job is a view, or a workflow as Conductor returns it. Each file appears whole or not at all.
    Raises StorageError where out_dir cannot be written.
    """
    view = job if isinstance(job, JobView) else from_workflow(job, round(time.time() * 1000))
    lines = timeline.from_view(view)
    picture, html = out_dir / f"{stem}.png", out_dir / f"{stem}.html"
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        _whole(picture, lambda path: _save(_figure(lines), path))
        _whole(html, lambda path: path.write_text(page(lines), encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"The report cannot be written to {out_dir}: {reason}; choose another folder.") from error
    return picture, html


def _whole(path: Path, write: Callable[[Path], Any]) -> None:
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _save(figure: "Figure", path: Path) -> None:
    with warnings.catch_warnings():
        # a name in a script that the font lacks is drawn as boxes here, and right on the page
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        figure.savefig(path, dpi=DPI, facecolor="white")


def _figure(lines: Timeline) -> "Figure":
    """Header, waiting chunks, lanes, legend; as high as the lanes need, never two labels in one place."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lanes = max(1, len(lines.lanes))
    lane = LANE_INCHES[0] if lanes > MOST_LANES_HIGH else LANE_INCHES[1]
    legend_rows = -(-len(lines.phases) // LEGEND_COLUMNS)
    top, bottom, waiting, gap = 1.3 if lines.view.reason else 1.0, 1.35 + 0.21 * max(0, legend_rows - 2), 0.5, 0.08
    height = top + waiting + gap + lanes * lane + bottom
    figure = Figure(figsize=(WIDTH_INCHES, height))
    FigureCanvasAgg(figure)
    left, right = 0.155, 0.985
    width = right - left
    above = figure.add_axes((left, (height - top - waiting) / height, width, waiting / height))
    below = figure.add_axes((left, bottom / height, width, lanes * lane / height))
    _draw_waiting(above, lines)
    _draw_lanes(below, lines, label_size=8.5 if lanes <= MOST_LANES_HIGH else 7)
    _draw_words(figure, lines, height)
    return figure


def _draw_words(figure: "Figure", lines: Timeline, height: float) -> None:
    from matplotlib.patches import Patch

    title, facts = headline(lines)
    style: dict[str, Any] = {"parse_math": False, "color": INK, "va": "top"}
    figure.text(0.015, 1 - 0.22 / height, _shortened(title, 110), fontsize=15, fontweight="bold", **style)
    figures = " · ".join(f"{name} {value}" for name, value in facts)
    size = 9.5 if len(figures) < FACTS_LENGTH else 9.5 * FACTS_LENGTH / len(figures)
    figure.text(0.015, 1 - 0.60 / height, figures, fontsize=size, **style)
    if lines.view.reason:
        colour = {**style, "color": COLOURS["failed"][0]}
        figure.text(0.015, 1 - 0.88 / height, _shortened(printable(lines.view.reason), 190), fontsize=9.5, **colour)
    handles = [
        Patch(
            facecolor=COLOURS[phase][0],
            hatch=STRIPED.get(phase),
            edgecolor="white" if phase in STRIPED else "none",
            linewidth=0,
            label=timeline.PHASES[phase],
        )
        for phase in lines.phases
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="lower left",
            bbox_to_anchor=(0.15, 0.42 / height),
            ncols=LEGEND_COLUMNS,
            frameon=False,
            fontsize=9,
        )
    figure.text(0.155, 0.36 / height, what_it_means(), fontsize=8, **{**style, "color": "#5b636d"})


def _draw_waiting(axes: "Axes", lines: Timeline) -> None:
    at = [when for when, _ in lines.waiting] + [lines.wall_ms]
    counts = [count for _, count in lines.waiting] + [lines.waiting[-1][1]]
    most = max(counts)
    axes.fill_between(at, counts, step="post", color=COLOURS["waiting"][0], linewidth=0)
    axes.set_xlim(0, lines.wall_ms)
    axes.set_ylim(0, max(1, most) * 1.05)
    axes.set_xticks([])
    axes.set_yticks([0, most] if most else [0])
    axes.tick_params(axis="y", labelsize=8, length=2, colors=INK)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.text(-0.03, 0.5, "chunks waiting", transform=axes.transAxes, ha="right", va="center", fontsize=8.5, color=INK)


def _draw_lanes(axes: "Axes", lines: Timeline, label_size: float) -> None:
    for row, lane in enumerate(lines.lanes):
        for phase in timeline.PHASES:
            spans = [
                (piece.start_ms, max(piece.end_ms - piece.start_ms, lines.wall_ms * LEAST.get(phase, 0.0005)))
                for bar in lane.bars
                for piece in bar.pieces
                if piece.phase == phase
            ]
            if not spans:
                continue
            striped = phase in STRIPED
            axes.broken_barh(
                spans,
                (row - 0.4, 0.8),
                facecolors=COLOURS[phase][0],
                hatch=STRIPED.get(phase),
                edgecolor="white" if striped else "none",
                linewidth=0,
            )
        _draw_edges(axes, lines, row)
    axes.set_xlim(0, lines.wall_ms)
    axes.set_ylim(max(1, len(lines.lanes)) - 0.5, -0.5)
    axes.set_yticks([])
    for row, lane in enumerate(lines.lanes):
        axes.text(
            -0.008,
            row,
            _shortened(printable(lane.name), 26),
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=label_size,
            color=INK,
            parse_math=False,
        )
    marks = timeline.ticks(lines.wall_ms)
    axes.set_xticks(marks, [short_time(mark) for mark in marks], fontsize=8.5, color=INK)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="x", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _draw_edges(axes: "Axes", lines: Timeline, row: int) -> None:
    """A line where a bar begins, so that neighbours of one colour are two; and its number, where there is room."""
    few = len(lines.lanes) <= MOST_LANES_HIGH
    for bar in lines.lanes[row].bars:
        width = bar.end_ms - bar.start_ms
        if width > THIN * lines.wall_ms:
            axes.plot([bar.start_ms] * 2, [row - 0.4, row + 0.4], color="white", linewidth=0.8, solid_capstyle="butt")
        digits = len(bar.label)
        phase = bar.pieces[-1].phase
        ground = {"boxstyle": "square,pad=0.15", "fc": COLOURS[phase][0], "lw": 0} if phase in STRIPED else None
        if digits and width > lines.wall_ms * LABEL_SHARE * (digits + 0.6):
            axes.text(
                (bar.start_ms + bar.end_ms) / 2,
                row,
                bar.label,
                ha="center",
                va="center",
                fontsize=7.5 if few else 6,
                color="white" if phase != "running" else INK,
                bbox=ground,
                clip_on=True,
            )


def _shortened(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    tail = characters // 3
    return f"{text[: characters - tail - 1]}…{text[-tail:]}"
