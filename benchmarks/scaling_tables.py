"""What the scaling runs come to: tables, figures, sentences, targets and the picture."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.result import Result, Table, Target
from benchmarks.surroundings import spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
WANTED = {16: 0.95, 64: 0.8}
WANTED_OVER = 0.10
WANTED_OVER_AT = 16
COLOURS = {"plain": "C0", "jitter": "C1", "slow": "C2", "killed": "C3"}
BESIDE = {"plain": 1.0, "jitter": 0.88, "slow": 1.0, "killed": 1.14}  # so that no mark hides another
WORDS = {
    "plain": "without faults",
    "jitter": "with jitter",
    "slow": "a tenth at half speed",
    "killed": "30 % killed and replaced",
}


def by_case(found: Sequence[Row]) -> dict[str, list[Row]]:
    """Cases in the order of their workers, those without faults first."""
    cases: dict[str, list[Row]] = {}
    for row in sorted(found, key=lambda row: (row["workers"], list(WORDS).index(row["variant"]))):
        cases.setdefault(row["case"], []).append(row)
    return cases


def middle(rows: Sequence[Row]) -> Row:
    """The repetition of median wall time: one that was, and not a mixture."""
    return sorted(rows, key=lambda row: float(row["seconds"]))[(len(rows) - 1) // 2]


def tables(found: Sequence[Row]) -> list[Table]:
    cases = by_case(found)
    return [_speeds(cases), _shares(cases), _moments(cases), _processor(cases)]


def _speeds(cases: dict[str, list[Row]]) -> Table:
    columns = ("workers", "case", "audio min", "chunks", "runs", "ideal s", "wall s", "speedup", "efficiency")
    return Table(
        title="Speed (wall time and efficiency as min / median / max)",
        columns=columns,
        rows=tuple(
            (
                rows[0]["workers"],
                WORDS[rows[0]["variant"]],
                round(rows[0]["audio_s"] / 60, 1),
                rows[0]["chunks"],
                len(rows),
                round(statistics.median(row["ideal_s"] for row in rows), 2),
                spread([row["seconds"] for row in rows]),
                round(statistics.median(row["speedup"] for row in rows), 2),
                " / ".join(f"{value:.3f}" for value in _three([row["efficiency"] for row in rows])),
            )
            for rows in cases.values()
        ),
    )


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


PARTS = (
    ("inference", "in inference"),
    ("before", "before its first"),
    ("between", "between two"),
    ("after", "after its last"),
    ("ending", "join, stitch, end"),
    ("lost", "lost, dead"),
)


def _parts(row: Row) -> dict[str, float]:
    """Shares of an average worker's time from the submission to the end of the job; their sum is 1."""
    times = row["times"]
    seconds = {**{name: times[name] for name, _ in PARTS if name != "ending"}}
    seconds["ending"] = times["ended"] - times["heard_last"]
    return {name: seconds[name] / times["ended"] for name, _ in PARTS}


def _shares(cases: dict[str, list[Row]]) -> Table:
    return Table(
        title="Where an average worker's time went, percent of the wall time (median run)",
        columns=("workers", "case", *(words for _, words in PARTS)),
        rows=tuple(
            (
                rows[0]["workers"],
                WORDS[rows[0]["variant"]],
                *(round(100 * _parts(middle(rows))[name], 2) for name, _ in PARTS),
            )
            for rows in cases.values()
        ),
    )


MOMENTS = {
    "plan_started": "plan begins",
    "plan_ended": "plan ends",
    "chunks_scheduled": "chunks queued",
    "cut_first": "first cut",
    "heard_first": "first inference",
    "cut_last": "last cut",
    "heard_last": "last inference ends",
    "chunks_ended": "last chunk ends",
    "joined": "joined",
    "stitch_started": "stitch begins",
    "stitch_ended": "stitch ends",
    "ended": "end",
}


def _moments(cases: dict[str, list[Row]]) -> Table:
    return Table(
        title="When, in seconds after the submission (median run)",
        columns=("workers", "case", *MOMENTS.values()),
        rows=tuple(
            (
                rows[0]["workers"],
                WORDS[rows[0]["variant"]],
                *(round(middle(rows)["times"][name], 2) for name in MOMENTS),
            )
            for rows in cases.values()
        ),
    )


def _processor(cases: dict[str, list[Row]]) -> Table:
    return Table(
        title="Processor seconds (median run), and how much of this machine's that is",
        columns=("workers", "case", "chunks", "server", "media worker", "simulated workers", "used percent"),
        rows=tuple(
            (
                rows[0]["workers"],
                WORDS[rows[0]["variant"]],
                rows[0]["chunks"],
                *(middle(rows)["processor_s"][name] for name in ("server", "media", "workers")),
                round(100 * _busy(middle(rows))),
            )
            for rows in cases.values()
        ),
    )


def _busy(row: Row) -> float:
    return float(sum(row["processor_s"].values()) / row["processor_available_s"])


def figures(found: Sequence[Row]) -> dict[str, Any]:
    """For the picture and the report: by case the workers and the spread of speedup, efficiency, seconds and ideal."""
    points = []
    for rows in by_case(found).values():
        chosen = middle(rows)
        points.append(
            {
                "workers": rows[0]["workers"],
                "variant": rows[0]["variant"],
                "runs": len(rows),
                "speedup": _three([row["speedup"] for row in rows]),
                "efficiency": _three([row["efficiency"] for row in rows]),
                "seconds": _three([row["seconds"] for row in rows]),
                "over_ideal": _three([row["seconds"] / row["ideal_s"] - 1 for row in rows]),
                "parts": {name: round(share, 4) for name, share in _parts(chosen).items()},
                "processor_used": round(_busy(chosen), 3),
            }
        )
    return {"points": points}


def targets(found: Sequence[Row]) -> list[Target]:
    cases = by_case(found)
    aims = [_efficiency_target(cases.get(f"{workers} plain"), workers, wanted) for workers, wanted in WANTED.items()]
    return [*aims, _killed_target(cases.get(f"{WANTED_OVER_AT} killed"))]


def _efficiency_target(rows: list[Row] | None, workers: int, wanted: float) -> Target:
    name, aim = f"efficiency of {workers} workers", f"{wanted} at least (median)"
    if rows is None:
        return Target(name=name, wanted=aim, found=f"no run had {workers} workers without faults", reached=None)
    value = statistics.median(row["efficiency"] for row in rows)
    return Target(name=name, wanted=aim, found=f"{value:.3f}", reached=value >= wanted)


def _killed_target(rows: list[Row] | None) -> Target:
    name = f"{WANTED_OVER_AT} workers, 30 % of them killed halfway"
    aim = f"{WANTED_OVER:.0%} over the ideal at most (median)"
    if rows is None:
        return Target(name=name, wanted=aim, found=f"no run killed any of {WANTED_OVER_AT} workers", reached=None)
    over = statistics.median(row["seconds"] / row["ideal_s"] - 1 for row in rows)
    return Target(name=name, wanted=aim, found=f"{over:.1%} over", reached=over <= WANTED_OVER)


def shows(found: Sequence[Row]) -> list[str]:
    cases = by_case(found)
    plain = [rows for rows in cases.values() if rows[0]["variant"] == "plain"]
    most = plain[-1]
    sentences = [
        f"{most[0]['workers']} workers are {statistics.median(row['speedup'] for row in most):.1f} times as fast as "
        f"an ideal single one (median of {len(most)})."
    ]
    for rows in cases.values():
        chosen, (workers, variant) = middle(rows), (rows[0]["workers"], rows[0]["variant"])
        idle = {name: share for name, share in _parts(chosen).items() if name != "inference"}
        worst = max(idle, key=lambda name: idle[name])
        if variant == "plain" and workers >= 8:
            sentences.append(
                f"{workers} workers: {sum(idle.values()):.1%} of their time was no inference, most of it "
                f"{dict(PARTS)[worst]} ({idle[worst]:.1%}); all processes together kept the machine's cores "
                f"{_busy(chosen):.0%} busy."
            )
    killed = [rows for rows in cases.values() if rows[0]["variant"] == "killed"]
    sentences += [
        f"Of {rows[0]['workers']} workers with kills, {middle(rows)['lost_inferences']} chunks were lost in the middle "
        f"and done again; every job was complete."
        for rows in killed
    ]
    return sentences


def draw(found: Result, figure: "Figure") -> None:
    """Speedup against workers beside the ideal line; what an average worker's time went into beside it."""
    points = found.figures["points"]
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_speedup(left, points)
    _draw_parts(right, [point for point in points if point["variant"] == "plain"])
    figure.suptitle("Workers against speed: real server and workflow, inference a sleep", fontsize=11)


def _draw_speedup(axes: Any, points: Sequence[dict[str, Any]]) -> None:
    sizes = sorted({point["workers"] for point in points})
    axes.plot(sizes, sizes, color="0.6", linestyle="--", label="ideal")
    for variant, words in WORDS.items():
        own = [point for point in points if point["variant"] == variant]
        if not own:
            continue
        low, mid, high = zip(*(point["speedup"] for point in own), strict=True)
        errors = [[m - a for m, a in zip(mid, low, strict=True)], [b - m for m, b in zip(mid, high, strict=True)]]
        style = {"linestyle": "-", "marker": "o"} if variant == "plain" else {"linestyle": "", "marker": "D"}
        spots = [point["workers"] * BESIDE[variant] for point in own]
        axes.errorbar(spots, mid, yerr=errors, capsize=3, markersize=5, color=COLOURS[variant], label=words, **style)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_yticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("workers")
    axes.set_ylabel("speedup over one ideal worker")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_parts(axes: Any, points: Sequence[dict[str, Any]]) -> None:
    places = range(len(points))
    reached = [0.0] * len(points)
    for name, words in PARTS[1:]:
        shares = [100 * max(0.0, point["parts"][name]) for point in points]
        if max(shares) > 0.05:
            axes.bar(places, shares, bottom=reached, label=words, width=0.7)
        reached = [before + share for before, share in zip(reached, shares, strict=True)]
    axes.set_xticks(list(places), [str(point["workers"]) for point in points])
    axes.set_xlabel("workers")
    axes.set_ylabel("percent of the time without inference")
    axes.set_ylim(0, max(10.0, 1.35 * max(reached)))
    axes.legend(fontsize=8, loc="upper left")
