"""What the figures of `bench engines` come to: tables, targets, sentences and the picture. Pure but for drawing."""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.result import Result, Table, Target
from benchmarks.runner import Findings
from benchmarks.surroundings import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BARE = "bare engine on the worker's windows"
OPENAI = "openai-whisper"
WORKER = "whisperfleet's worker"
JOB = "the whole job"
WANTED = 0.97  # of the bare engine's rate

Row = Mapping[str, Any]


def findings(rows: Sequence[dict[str, Any]], device: str, quick: bool) -> Findings:
    """Rows as engines.py makes them; a row without rtfx is a failure."""
    of = {
        shape: [row for row in rows if row["shape"] == shape] for shape in dict.fromkeys(row["shape"] for row in rows)
    }
    ratios = {shape: _ratios(ones) for shape, ones in of.items()}
    return Findings(
        repetitions=rows,
        tables=[*(_table(shape, ones, ratios[shape], device) for shape, ones in of.items()), _worker_table(of)],
        figures={"device": device, "wanted": WANTED, "ratios": ratios},
        shows=[*(_shape_shows(shape, ones, ratios[shape]) for shape, ones in of.items()), *_failures(rows)],
        targets=[_target(shape, ones, ratios[shape], quick) for shape, ones in of.items()],
    )


def _measured(ones: Sequence[Row], way: str) -> list[Row]:
    return [one for one in ones if one["way"] == way and one["rtfx"] is not None]


def _ratios(ones: Sequence[Row]) -> dict[str, list[float]]:
    """By way: its speed by the bare engine's in the same repetition. The worker's whole job is one more way."""
    bare = {one["number"]: float(one["rtfx"]) for one in _measured(ones, BARE)}
    found: dict[str, list[float]] = {}
    for way in dict.fromkeys(one["way"] for one in ones):
        for one in _measured(ones, way):
            if one["number"] in bare:
                found.setdefault(way, []).append(one["rtfx"] / bare[one["number"]])
                if way == WORKER:
                    found.setdefault(JOB, []).append(one["job_rtfx"] / bare[one["number"]])
    return found


def _table(shape: str, ones: Sequence[Row], ratios: Mapping[str, Sequence[float]], device: str) -> Table:
    rows = []
    for way in dict.fromkeys(one["way"] for one in sorted(ones, key=lambda one: -(one["rtfx"] or 0.0))):
        seen = _measured(ones, way)
        rows.append(
            (
                way,
                _middle(seen, "rtfx"),
                spread(ratios[way]) if way in ratios else "not measured",
                _middle(seen, "windows"),
                _middle(seen, "processor_s_per_hour"),
                _middle(seen, "peak_mib"),
                _middle(seen, "gpu_mib"),
            )
        )
    return Table(
        title=f"Weights of {shape}'s shape on {'the GPU' if device == 'cuda' else 'the processor'} (medians)",
        columns=(
            *("way", "times real time", "by the bare engine's (min / median / max)", "windows heard"),
            *("processor s an hour", "peak MiB", "GPU MiB"),
        ),
        rows=tuple(rows),
    )


def _middle(seen: Sequence[Row], key: str) -> float | None:
    values = [float(one[key]) for one in seen if one.get(key) is not None]
    return round(statistics.median(values), 1) if values else None


def _worker_table(of: Mapping[str, Sequence[Row]]) -> Table:
    rows = []
    for shape, ones in of.items():
        seen = _measured(ones, WORKER)
        keys = ("inference_rtfx", "rtfx", "job_rtfx", "chunks", "windows", "server_s_per_hour")
        rows.append((shape, *(_middle(seen, key) for key in keys)))
    return Table(
        title="One worker and the real server: times real time",
        columns=(
            *("weights", "while it infers", "first chunk to last result", "whole job", "chunks", "windows"),
            "server: processor s an hour",
        ),
        rows=tuple(rows),
    )


def _target(shape: str, ones: Sequence[Row], ratios: Mapping[str, Sequence[float]], quick: bool) -> Target:
    seen = ratios.get(WORKER)
    reason = next((str(one["failure"]) for one in ones if one["rtfx"] is None), "no repetition has both")
    return Target(
        name=f"The worker beside the bare engine on the same windows, weights of {shape}'s shape",
        wanted=f"{100 * WANTED:.0f} % of its rate, in the middle",
        found=f"{100 * statistics.median(seen):.1f} % ({spread(seen)})" if seen else f"not measured: {reason}",
        reached=None if quick or not seen else statistics.median(seen) >= WANTED,
    )


def _shape_shows(shape: str, ones: Sequence[Row], ratios: Mapping[str, Sequence[float]]) -> str:
    middles = {way: statistics.median(seen) for way, seen in ratios.items()}
    if WORKER not in middles:
        return f"{shape}: the worker was not measured."
    others = {way: value for way, value in middles.items() if way not in (WORKER, JOB, BARE)}
    shares = f"{100 * middles[WORKER]:.0f} % of the bare engine's rate, the whole job {100 * middles[JOB]:.0f} %"
    fastest = max(others, key=lambda way: others[way], default=None)
    beside = f"; the fastest of the others, {fastest}, {100 * others[fastest]:.0f} %" if fastest else ""
    return f"{shape}: the worker has {shares}{beside}."


def _failures(rows: Sequence[Row]) -> list[str]:
    return [f"{one['shape']}, {one['way']}: {one['failure']}" for one in rows if one["rtfx"] is None]


def draw(found: Result, figure: "Figure") -> None:
    """For each shape a panel of bars: speed by the bare engine's, and the line that the worker is to reach."""
    ratios: Mapping[str, Mapping[str, Sequence[float]]] = found.figures["ratios"]
    panels = figure.subplots(1, len(ratios), sharey=True, squeeze=False)[0]
    ways = list(dict.fromkeys(way for of in ratios.values() for way in of))
    for axes, (shape, of) in zip(panels, ratios.items(), strict=True):
        _bars(axes, ways, of)
        axes.axvline(found.figures["wanted"], color="0.3", linestyle="--", linewidth=1)
        axes.set_title(f"weights of {shape}'s shape", fontsize=9)
        axes.set_xlabel(f"by the bare engine's speed (dashed: {found.figures['wanted']:g})", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(ways)), ways, fontsize=8)
    panels[0].invert_yaxis()
    device = "a GPU" if found.figures["device"] == "cuda" else f"{found.machine['cores']} cores"
    figure.suptitle(f"Weights of real size on {device}: engines, and the worker beside them", fontsize=11)


def _bars(axes: "Axes", ways: Sequence[str], of: Mapping[str, Sequence[float]]) -> None:
    for at, way in enumerate(ways):
        if way not in of:
            axes.text(0, at, " not measured", va="center", fontsize=7, color="0.4")
            continue
        middle = statistics.median(of[way])
        whisker = [[middle - min(of[way])], [max(of[way]) - middle]]
        color = "tab:orange" if way in (WORKER, JOB) else "tab:blue"
        axes.barh(at, middle, color=color, xerr=whisker, error_kw={"ecolor": "0.3", "capsize": 2})
        axes.text(max(of[way]) + 0.02, at, f"{middle:.2f}", va="center", fontsize=7)
    axes.set_xlim(0, 1.2 * max((max(seen) for seen in of.values()), default=1.0))
