"""Dollars for an hour of audio on rented GPUs, all in: boot, waiting, disk and traffic, and not inference alone.

    python -m benchmarks.cost [--quick] [--repeat 5] [--model large-v3] [--speed 1.0] [--outbids 2.0]

Each run is a whole fleet's life in virtual time: the real controller and the real client of Vast.ai rent machines of
an emulated market for one job, which they finish, and give everything back. What is billed is the emulator's truth to
the second, by the market's documented rules. A repetition is another seed of the market (which cards, which prices,
which lines); within it every job meets every kind of fleet on that same market, in an order drawn anew. Where machines
are taken away they are so on the same markets on which the fleet beside it keeps them: these are pairs.

Its shape: jobs of 94.5 minutes, 10 hours and 100 hours; up to 1, 4 or 16 machines, by bids or on demand. The
controller is asked to be done within five minutes, so that it wants many, and rents none that would not pay its boot:
a short job has one machine however many it may have.

What it cannot tell is how fast a GPU is. Speeds are the guesses that `whisperfleet fleet offers` works with, from the
makers' memory bandwidth and one published measurement; --speed multiplies them all.
"""

import argparse
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cost_prices
from benchmarks.cost_bill import PARTS, TOLD, middle, shares, slowest, spread
from benchmarks.cost_market import UNPACK_S, Plan, ran
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, interleaved, main, progress, run
from provisioning.fleet import Speeds
from provisioning.offers import LOAD_S, speed_of
from workers.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JOBS = {"94.5 min": 1.575, "10 h": 10.0, "100 h": 100.0}
SHORT, LARGE = "94.5 min", "100 h"
MOST = (1, 4, 16)
BIDS, ON_DEMAND, TAKEN = "interruptible", "on demand", "outbid"
TARGET_USD = 0.005
TARGET_USE = 0.7
OUTBIDS = 2.0  # an hour for each machine: a guess to the bad side, as nobody publishes any
KINDS = ("RTX 3060", "RTX 3090", "RTX 4090", "RTX A5000")  # what the emulated market has
COLOURS = {
    "work": "#0067a8",
    "idle": "#c3cad2",
    "lost": "#cf4500",
    "boot": "#d98200",
    "image": "#f0c27a",
    "audio": "#56b4e9",
    "disk": "#b8659a",
}

CAVEATS = (
    "No dollar was spent: the market is emulated. Its rules of billing are the documented ones, its offers are made up "
    "in the likeness of four consumer cards (prices on demand around $0.08 to $0.40 an hour, the lowest bid at half), "
    "and traffic at up to one cent a GB is drawn alike for all hosts.",
    f"Speeds of GPUs are guesses until somebody measures them (see the table). Loading the model takes {LOAD_S:.0f} s, "
    f"unpacking the image {UNPACK_S:.0f} s, and a worker has the next chunk at once.",
    "Fleets are in a hurry here (done within five minutes if that pays), which is dear: many machines boot for a few "
    "minutes of work, and each is kept for up to two minutes after the last chunk, as it is by default.",
    "No host fails here, none is slower than its kind, and every chunk brings a result: the tests break all of that, "
    "and look at what leaks, not at what an hour costs.",
    "Not in it: whatever runs the server, the gateway and the controller, traffic at that end, storage of the media, "
    "and speakers.",
    f"Prices of others are second-hand unless marked, were gathered in {cost_prices.GATHERED} and age fast; services "
    "have no boot, no waiting and no machine to look after, and most do more than transcribe.",
)


def plans(quick: bool, model: str, speed: float, outbids: float) -> dict[tuple[str, str, int], Plan]:
    """By job, kind and how many machines at most. Machines are taken away in the largest job only, in pairs."""
    jobs = (SHORT,) if quick else tuple(JOBS)
    found = {
        (job, kind, most): Plan(JOBS[job], most, kind == BIDS, model=model, speed=speed)
        for job in jobs
        for kind in (BIDS, ON_DEMAND)
        for most in (MOST[:1] if quick else MOST)
    }
    for most in () if quick else MOST:
        found[LARGE, TAKEN, most] = Plan(JOBS[LARGE], most, True, outbids, model=model, speed=speed)
    return found


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    wanted = plans(options.quick, options.model, options.speed, options.outbids)
    names = {f"{job}, {kind}, up to {most}": (job, kind, most) for job, kind, most in wanted}
    repetitions: list[dict[str, Any]] = []
    for number, name in interleaved(list(names), options.repeat):
        job, kind, most = names[name]
        seed = number + 1
        found = ran(wanted[job, kind, most], seed, folder / f"{seed}-{len(repetitions)}")
        audio_hour = found.usd / JOBS[job]
        repetitions.append(
            {"seed": seed, "job": job, "hours": JOBS[job], "kind": kind, "most": most, "usd_per_audio_hour": audio_hour}
            | found.told()
        )
        progress(f"market {seed}: {name}: ${audio_hour:.4f} an hour of audio")
    return findings(repetitions, options.model, options.speed, options.outbids)


def findings(repetitions: Sequence[dict[str, Any]], model: str, speed: float, outbids: float) -> Findings:
    """All that follows from the runs; pure."""
    fleets = [_fleet(runs) for runs in _grouped(repetitions).values()]
    pairs = _pairs(repetitions)
    ours = _best(fleets)
    return Findings(
        repetitions=repetitions,
        tables=(
            _costs(fleets),
            _parts(fleets),
            *((_outbids(pairs),) if pairs else ()),
            Table(
                title=f"Prices of others, dollars per hour of audio (ours: ${ours['usd'][1]:.4f} at {ours['job']})",
                columns=("service", "$ per hour", "times ours", "basis", "source", "read on"),
                rows=cost_prices.rows(ours["usd"][1]),
            ),
            _speeds(model, speed),
        ),
        figures={
            "fleets": fleets,
            "prices": cost_prices.drawn(),
            "pairs": pairs,
            "target_usd": TARGET_USD,
            "model": model,
            "speed": speed,
        },
        targets=_targets(fleets),
        shows=tuple(_shows(fleets, pairs, ours, outbids)),
    )


# ---- sums over the seeds ----


def _grouped(repetitions: Sequence[dict[str, Any]]) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """By job, kind and size, in the order of the jobs."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    order = (BIDS, ON_DEMAND, TAKEN)
    for one in sorted(repetitions, key=lambda one: (one["hours"], order.index(one["kind"]), one["most"], one["seed"])):
        found.setdefault((one["job"], one["kind"], one["most"]), []).append(one)
    return found


def _fleet(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table; usd and useful: minimum, median, maximum. parts: per hour of audio, of the middle run."""
    hours = runs[0]["hours"]
    bill = middle([one["parts"] for one in runs])
    return {
        "job": runs[0]["job"],
        "hours": hours,
        "kind": runs[0]["kind"],
        "most": runs[0]["most"],
        "usd": spread([one["usd_per_audio_hour"] for one in runs]),
        "useful": spread([one["useful_share"] for one in runs]),
        "minutes": statistics.median(one["seconds"] / 60 for one in runs),
        "machines": statistics.median(one["machines"] for one in runs),
        "parts": {part: bill[part] / hours for part in PARTS},
    }


def _pairs(repetitions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What being outbid changes on the same market, for each size of fleet."""
    kept = {(one["most"], one["seed"]): one for one in repetitions if one["kind"] == BIDS and one["job"] == LARGE}
    taken: dict[int, list[dict[str, Any]]] = {}
    for one in repetitions:
        if one["kind"] == TAKEN:
            taken.setdefault(one["most"], []).append(one)
    found = []
    for most, runs in sorted(taken.items()):
        beside = [(one, kept[most, one["seed"]]) for one in runs]
        found.append(
            {
                "most": most,
                "outbid": spread([one["outbid"] for one in runs]),
                "again": spread([one["again"] / one["chunks"] for one in runs]),
                "lost": spread([one["lost_gpu_s"] / one["billed_gpu_s"] for one in runs]),
                "usd": spread([one["usd"] / other["usd"] for one, other in beside]),
                "seconds": spread([one["seconds"] / other["seconds"] for one, other in beside]),
            }
        )
    return found


def _best(fleets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What others are compared with: bids, the largest job, the middle size that was run."""
    hours = max(one["hours"] for one in fleets)
    sizes = [one for one in fleets if one["hours"] == hours and one["kind"] == BIDS]
    return dict(sizes[len(sizes) // 2])


# ---- told ----


def _costs(fleets: Sequence[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            one["job"],
            one["kind"],
            one["most"],
            one["machines"],
            *(round(usd, 5) for usd in one["usd"]),
            round(one["minutes"], 1),
            *(round(share, 3) for share in one["useful"]),
        )
        for one in fleets
    )
    return Table(
        title="Dollars per hour of audio, all in (minimum, median, maximum over the seeds of the market)",
        columns=(
            *("audio", "fleet", "up to", "rented", "$/h min", "median", "max"),
            *("minutes", "useful min", "useful median", "useful max"),
        ),
        rows=rows,
    )


def _parts(fleets: Sequence[dict[str, Any]]) -> Table:
    rows = tuple(
        (
            one["job"],
            one["kind"],
            one["most"],
            round(sum(one["parts"].values()), 5),
            *(round(100 * share, 1) for share in shares(one["parts"]).values()),
        )
        for one in fleets
    )
    return Table(
        title="What the bill of the middle run consists of, percent",
        columns=("audio", "fleet", "up to", "$ per hour", *TOLD.values()),
        rows=rows,
    )


def _outbids(pairs: Sequence[dict[str, Any]]) -> Table:
    def told(values: Sequence[float], factor: float = 1.0) -> str:
        return " / ".join(f"{factor * value:.4g}" for value in values)

    rows = tuple(
        (
            pair["most"],
            told(pair["outbid"]),
            told(pair["again"], 100),
            told(pair["lost"], 100),
            told([round(value, 2) for value in pair["usd"]]),
            told([round(value, 2) for value in pair["seconds"]]),
        )
        for pair in pairs
    )
    return Table(
        title=f"What being outbid costs at {LARGE}, in pairs on the same market (minimum / median / maximum)",
        columns=("up to", "outbids", "chunks again %", "GPU s lost %", "bill, times", "duration, times"),
        rows=rows,
    )


def _speeds(model: str, factor: float) -> Table:
    rows = []
    for gpu in KINDS:
        guess = speed_of(gpu, Speeds(), model)
        rows.append((gpu, round(guess.rtfx * factor, 1), guess.source + (f", times {factor:g}" if factor != 1 else "")))
    return Table(
        title=f"Assumed seconds of audio per second, {model}",
        columns=("GPU", "times real time", "where from"),
        rows=tuple(rows),
    )


def _targets(fleets: Sequence[dict[str, Any]]) -> tuple[Target, ...]:
    large = [one for one in fleets if one["job"] == LARGE]
    return (
        *(_cheap(kind, [one for one in large if one["kind"] == kind]) for kind in (BIDS, ON_DEMAND)),
        _used([one for one in large if one["kind"] != TAKEN]),
    )


def _cheap(kind: str, fleets: Sequence[dict[str, Any]]) -> Target:
    found, reached = f"this run had no such job of {LARGE}", None
    if fleets:
        usd = [one["usd"][1] for one in fleets]
        dearest = max(fleets, key=lambda one: float(one["usd"][1]))
        most = max(one["usd"][2] for one in fleets)
        found = f"${_range(usd, '.4f')} (most: up to {dearest['most']}; dearest run ${most:.4f}), with guessed speeds"
        reached = max(usd) < TARGET_USD
    name = f"an hour's cost at {LARGE} of audio, all in, {kind}, median of each fleet"
    return Target(name=name, wanted=f"< ${TARGET_USD}", found=found, reached=reached)


def _used(fleets: Sequence[dict[str, Any]]) -> Target:
    found, reached = f"this run had no job of {LARGE}", None
    if fleets:
        share = [one["useful"][1] for one in fleets]
        least = min(fleets, key=lambda one: float(one["useful"][1]))
        found = f"{_range(share, '.2f')} (least: {_name(least)})"
        reached = min(share) >= TARGET_USE
    name = f"useful of billed GPU seconds at {LARGE}, nothing taken away, median of each fleet"
    return Target(name=name, wanted=f">= {TARGET_USE}", found=found, reached=reached)


def _name(fleet: Mapping[str, Any]) -> str:
    return f"{fleet['kind']}, up to {fleet['most']}"


def _shows(
    fleets: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], ours: Mapping[str, Any], outbids: float
) -> list[str]:
    told = []
    for job in dict.fromkeys(one["job"] for one in fleets):
        these = [one for one in fleets if one["job"] == job and one["kind"] == BIDS]
        usd = [one["usd"][1] for one in these]
        work = [shares(one["parts"])["work"] for one in these]
        told.append(
            f"{job} of audio on interruptible machines: ${_range(usd, '.4f')} an hour (medians), of which "
            f"{_range([100 * one for one in work], '.0f')} % is inference, the rest boot, waiting, traffic and disk."
        )
        first = these[0]
        part = shares(first["parts"])
        overhead = part["boot"] + part["image"] + part["idle"]
        if job == SHORT:
            word = "more" if overhead > part["work"] else "less"
            told.append(
                f"A single job of {job} pays {word} for boot, image and waiting ({100 * overhead:.0f} %) than for "
                f"inference ({100 * part['work']:.0f} %): machines that are up already would not."
            )
    reach = slowest(ours["parts"], TARGET_USD)
    if reach is not None:
        told.append(
            f"At {ours['job']} ({_name(ours)}) an hour stays under ${TARGET_USD} as long as GPUs reach "
            f"{100 * reach:.0f} % of the assumed speeds."
        )
    if pairs:
        told.append(_taken(pairs, outbids))
    told.append(_beside(ours))
    return told


def _taken(pairs: Sequence[dict[str, Any]], outbids: float) -> str:
    """Medians, over the sizes of fleets."""
    middle_of = {name: [pair[name][1] for pair in pairs] for name in ("again", "lost", "usd", "seconds")}
    return (
        f"With each machine outbid {outbids:g} times an hour on average, {100 * max(middle_of['again']):.2g} % of the "
        f"chunks are done again and {100 * max(middle_of['lost']):.2g} % of the billed GPU seconds are lost at most; "
        f"the bill is {_range(middle_of['usd'], '.2f')} times and the duration {_range(middle_of['seconds'], '.2f')} "
        "times what it is without (medians of each fleet): what is lost is the boot of another machine."
    )


def _range(values: Sequence[float], shape: str) -> str:
    least, most = f"{min(values):{shape}}", f"{max(values):{shape}}"
    return least if least == most else f"{least} to {most}"


def _beside(ours: Mapping[str, Any]) -> str:
    usd = ours["usd"][1]
    dearer = [price for price in cost_prices.PRICES if price.least_usd > usd]
    count = len(dearer)
    if not dearer:
        return f"None of the {len(cost_prices.PRICES)} published prices is above our ${usd:.4f}."
    least = min(dearer, key=lambda price: price.least_usd)
    most = max(dearer, key=lambda price: price.most_usd)
    return (
        f"{count} of the {len(cost_prices.PRICES)} published prices are above our ${usd:.4f} ({ours['job']}, "
        f"{_name(ours)}): from {least.least_usd / usd:.1f} times ({least.service}) to {most.most_usd / usd:.0f} times "
        f"({most.service})."
    )


# ---- drawn ----


def draw(result: Result, figure: "Figure") -> None:
    """Left: what an hour costs and what of; right, on a logarithmic scale: what others ask."""
    figure.suptitle("Dollars per hour of audio, all in (emulated market, guessed speeds)", fontsize=11)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_parts(left, result.figures)
    _draw_prices(right, result.figures)


def _draw_parts(axes: "Axes", figures: Mapping[str, Any]) -> None:
    fleets = [one for one in figures["fleets"] if one["kind"] == BIDS]
    demand = {(one["job"], one["most"]): one["usd"] for one in figures["fleets"] if one["kind"] == ON_DEMAND}
    rows = range(len(fleets))
    start = [0.0] * len(fleets)
    for part in PARTS:
        widths = [one["parts"][part] for one in fleets]
        if any(width > 0 for width in widths):
            axes.barh(rows, widths, left=start, color=COLOURS[part], label=TOLD[part], height=0.7)
        start = [before + width for before, width in zip(start, widths, strict=True)]
    for row, one in zip(rows, fleets, strict=True):
        least, _, most = one["usd"]
        axes.plot((least, most), (row, row), color="#1b1f24", linewidth=1, label="_")
        found = demand.get((one["job"], one["most"]))
        if found:
            axes.plot(found[1], row, "D", color="#1b1f24", markersize=4, label="on demand" if row == 0 else "_")
    axes.axvline(figures["target_usd"], color="#00875f", linestyle="--", linewidth=1, label="target")
    axes.set_yticks(rows, [f"{one['job']}, up to {one['most']}" for one in fleets], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("$ per hour of audio, bids; line: all seeds", fontsize=8)
    axes.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_prices(axes: "Axes", figures: Mapping[str, Any]) -> None:
    ours = _best(figures["fleets"])
    bars = [(price["service"], price["least_usd"], price["most_usd"], False) for price in figures["prices"]]
    bars.append((f"Whisperfleet, {ours['job']}", ours["usd"][1], ours["usd"][1], True))
    bars.sort(key=lambda bar: -bar[2])
    for row, (_, least, most, mine) in enumerate(bars):
        axes.barh(row, most, color="#0067a8" if mine else "#98a1ad", height=0.7)
        if most > least:
            axes.barh(row, most - least, left=least, color="#c3cad2", height=0.7)
        axes.text(most * 1.15, row, f"{most:.2f}" if most >= 0.1 else f"{most:.4f}", va="center", fontsize=7)
    axes.set_xscale("log")
    axes.set_xlim(0.0005, 10)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("$ per hour, logarithmic; mostly second-hand", fontsize=8, loc="right")
    axes.spines[["top", "right"]].set_visible(False)


# ---- how it is called ----


def _own_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="large-v3", help="what speeds are guessed for (default large-v3)")
    parser.add_argument("--speed", type=float, default=1.0, help="multiplies all guessed speeds (default 1)")
    parser.add_argument("--outbids", type=float, default=OUTBIDS, help=f"an hour and machine (default {OUTBIDS:g})")


def _checked(options: argparse.Namespace, folder: Path) -> Findings:
    if not (math.isfinite(options.speed) and 0.05 <= options.speed <= 20):
        raise OptionError(f"--speed is {options.speed:g}: write a factor from 0.05 to 20.")
    if not (math.isfinite(options.outbids) and 0 < options.outbids <= 20):
        raise OptionError(f"--outbids is {options.outbids:g}: write more than 0 and 20 at most.")
    return measure(options, folder)


BENCHMARK = Benchmark(
    name="cost",
    about=__doc__ or "",
    measure=_checked,
    draw=draw,
    caveats=CAVEATS,
    packages=("vastai", "whisperfleet"),
    options=_own_options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
