"""The dashboard drawn without Grafana: its panels and layout, with what Prometheus answers to its queries."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Series = tuple[dict[str, str], list[tuple[float, float]]]
Ask = Callable[[str], list[Series]]
"""A query's series over the time to draw: labels, and (epoch seconds, value)."""

_DAY_S = 86_400  # matplotlib counts days since 1970
_ROW_INCHES, _COLUMN_INCHES = 0.34, 0.72
_UNITS: dict[str, Callable[[float], str]] = {
    "currencyUSD": lambda value: f"${value:,.4g}",
    "s": lambda value: f"{value * 1000:,.3g} ms" if value < 1 else f"{value:,.3g} s",
    "bytes": lambda value: f"{value / (1 << 20):,.0f} MiB",
    "ops": lambda value: f"{value:,.3g}/s",
    "reqps": lambda value: f"{value:,.3g}/s",
}


def draw(dashboard: dict[str, Any], ask: Ask, span: tuple[float, float], note: str, picture: Path) -> None:
    """Write a PNG. span: from when to when, epoch seconds; note: one line under it that says what it is."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * _COLUMN_INCHES, (rows + 2) * _ROW_INCHES), facecolor="#f4f5f5")
    for panel in panels:
        at = panel["gridPos"]
        left, width = (at["x"] + 0.55) / 24, (at["w"] - 0.85) / 24
        bottom, height = 1 - (at["y"] + at["h"] - 0.9 + 0.6) / (rows + 2), (at["h"] - 2.1) / (rows + 2)
        axes = figure.add_axes((left, bottom, width, height), facecolor="white")
        axes.set_title(panel["title"], fontsize=9, loc="left", fontweight="bold")
        {"stat": _stat, "table": _table}.get(panel["type"], _lines)(axes, panel, ask)
        if panel["type"] == "timeseries":
            axes.set_xlim(span[0] / _DAY_S, span[1] / _DAY_S)
    figure.text(0.01, 0.006, note, fontsize=8, color="#555555")
    figure.savefig(picture, dpi=80)


def shown(value: float, unit: str) -> str:
    return _UNITS[unit](value) if unit in _UNITS else f"{value:,.4g}"


def name_of(labels: dict[str, str], pattern: str) -> str:
    """The legend `pattern`, `{{worker}} {{gpu}}` say, of one series."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), pattern).strip() or "all"


def _last(series: list[Series]) -> float:
    return series[0][1][-1][1] if series and series[0][1] else 0.0


def _unit(panel: dict[str, Any]) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def _stat(axes: Any, panel: dict[str, Any], ask: Ask) -> None:
    axes.set_axis_off()
    text = shown(_last(ask(panel["targets"][0]["expr"])), _unit(panel))
    axes.text(0.5, 0.4, text, fontsize=22, color="#299c46", ha="center", va="center")


def _lines(axes: Any, panel: dict[str, Any], ask: Ask) -> None:
    from matplotlib.dates import DateFormatter
    from matplotlib.ticker import FuncFormatter

    drawn: list[Any] = []
    right: dict[str, Any] = {one["matcher"]["options"]: axes.twinx() for one in panel["fieldConfig"]["overrides"]}
    for target in panel["targets"]:
        for labels, points in ask(target["expr"]):
            name = name_of(labels, target["legendFormat"])
            times = [datetime.fromtimestamp(at, UTC) for at, _ in points]
            where = right.get(name, axes)
            style = {"linestyle": ":", "color": "#8f3bb8"} if where is not axes else {}
            (line,) = where.plot(times, [value for _, value in points], linewidth=1.3, label=name, **style)
            drawn.append(line)
            if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal":
                axes.fill_between(times, [value for _, value in points], alpha=0.25, color=line.get_color())
    unit = _unit(panel)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.1)
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.3)
    for other in right.values():
        other.set_ylim(bottom=0)
        other.tick_params(labelsize=6)
    if drawn:
        axes.legend(drawn, [line.get_label() for line in drawn], ncols=9, frameon=False,
                    fontsize=6 if len(drawn) < 8 else 5, loc="lower right", bbox_to_anchor=(1, 0.98),
                    columnspacing=1, handlelength=1)  # fmt: skip


def _table(axes: Any, panel: dict[str, Any], ask: Ask) -> None:
    """Rows by worker, a column for each query, as Grafana merges them."""
    axes.set_axis_off()
    rows: dict[str, list[str]] = {}
    for number, target in enumerate(panel["targets"]):
        for labels, points in ask(target["expr"]):
            if "worker" in labels and points:
                cells = rows.setdefault(labels["worker"], [""] * len(panel["targets"]))
                cells[number] = shown(points[-1][1], "currencyUSD" if number < 2 else "short")
    if rows:
        heads = ["worker", *(target["legendFormat"] for target in panel["targets"])]
        table = axes.table([[worker, *cells] for worker, cells in rows.items()], colLabels=heads, loc="upper center")
        table.set_fontsize(8)
