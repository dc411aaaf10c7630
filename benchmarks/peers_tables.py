"""What the peers' figures come to: tables, targets, sentences and the picture. Pure but for drawing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.peers_scores import Errors, percentile
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Findings
from benchmarks.surroundings import spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONG, SHORT = "long", "short"
RAY = "whisperx-on-ray"
OURS = {"whisperfleet-1-worker": 1, "whisperfleet-2-workers": 2}
PEERS = ("openai-whisper", "faster-whisper", "faster-whisper-batched", "whisperx", RAY)
NO_WORSE_POINTS = 0.1  # of a percent of words, by which a transcript may be worse and still count as no worse


@dataclass(frozen=True)
class Measured:
    """rows: every measurement; scores: word errors by peer and shape; excerpted: Whisperfleet's where openai-whisper
    heard; absent: peer to reason; audio_s and counts: of each shape; notes and versions: of the peers
    that ran; quick: no target is judged by it."""

    rows: tuple[dict[str, Any], ...]
    scores: Mapping[tuple[str, str], Errors]
    excerpted: Mapping[tuple[str, str], Errors]
    absent: Mapping[str, str]
    audio_s: Mapping[str, float]
    counts: Mapping[str, int]
    cores: int
    quick: bool
    notes: Mapping[str, str]
    versions: Mapping[str, Mapping[str, str]]

    def speed(self, name: str, shape: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["name"] == name and row["shape"] == shape and row["pass"] == "speed"]

    def names(self) -> list[str]:
        """Those with a measurement, peers first."""
        return [name for name in (*PEERS, *OURS) if any(row["wall_s"] for row in self.speeds(name))]

    def speeds(self, name: str) -> list[dict[str, Any]]:
        return [*self.speed(name, LONG), *self.speed(name, SHORT)]


def findings(found: Measured) -> Findings:
    tables = [_speed_table(found, LONG), _speed_table(found, SHORT), _accuracy_table(found), _cost_table(found)]
    tables += [_notes_table(found)]
    return Findings(
        repetitions=found.rows,
        tables=tables,
        figures=_figures(found),
        shows=_shows(found),
        targets=[target.model_copy(update={"reached": None}) for target in _targets(found)]
        if found.quick
        else _targets(found),
    )


def ratios(found: Measured, peer: str, ours: str, shape: str) -> list[float]:
    """How many times as long the peer takes for a second of audio, each time within one repetition.

    A peer that was not done counts with its limit, so that its ratio is a lower bound.
    """
    mine = {row["number"]: row for row in found.speed(ours, shape)}
    return [
        _pace(row) / _pace(mine[row["number"]])
        for row in found.speed(peer, shape)
        if row["number"] in mine and (row["wall_s"] or "at_least_s" in row)
    ]


def _pace(row: Mapping[str, Any]) -> float:
    return float(row["wall_s"] or row["at_least_s"]) / float(row["audio_s"])


def _values(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [row[key] for row in rows if row.get(key) is not None]


def _middle(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _title(found: Measured, shape: str) -> str:
    if shape == LONG:
        return f"One long recording ({found.audio_s[shape] / 60:.1f} minutes)"
    return f"{found.counts[shape]} short recordings ({found.audio_s[shape] / 60:.1f} minutes together)"


def _speed_table(found: Measured, shape: str) -> Table:
    """Wall times, and each peer's against both of Whisperfleet's."""
    ours = [name for name in OURS if found.speed(name, shape)]
    rows: list[tuple[str | int | float | None, ...]] = []
    for name in [*PEERS, *ours]:
        walls = _values(found.speed(name, shape), "wall_s")
        paces = [_pace(row) for row in found.speed(name, shape) if row["wall_s"]]
        against = [ratios(found, name, one, shape) for one in ours] if name not in ours else [[] for _ in ours]
        audio = [row["audio_s"] for row in found.speed(name, shape)]
        rows.append((
            name,
            round(audio[0] / 60, 1) if audio else None,
            len(walls),
            spread(walls) if walls else found.absent.get(name, "not measured"),
            round(1 / statistics.median(paces), 1) if paces else None,
            *(spread(each) if each else "–" for each in against),
        ))  # fmt: skip
    columns = ("who", "minutes", "times", "wall seconds (min / median / max)", "RTFx")
    return Table(
        title=f"{_title(found, shape)} on {found.cores} cores, models loaded",
        columns=(*columns, *(f"wall / {name}'s (min / median / max)" for name in ours)),
        rows=tuple(rows),
    )


def _accuracy_table(found: Measured) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for name in found.names():
        times = [row for row in found.rows if row["name"] == name and row["pass"] == "words"]
        words, borders = (list(times[0][key]) if times else [] for key in ("word_ms", "border_ms"))
        wrong = [found.scores.get((name, shape)) for shape in (LONG, SHORT)]
        rows.append((
            name,
            *(round(one.percent, 2) if one else None for one in wrong),
            *(percentile(values, share) for values in (words, borders) for share in (0.5, 0.95)),
        ))  # fmt: skip
    of_words, of_borders = "word times off by ms", "sentence borders off by ms"
    return Table(
        title="Accuracy: wrong words, and |heard - true| of words heard rightly (long recording, with word times)",
        columns=(
            *("who", "WER % long", "WER % short"),
            *(f"{of_words}: median", "95 %", f"{of_borders}: median", "95 % "),
        ),
        rows=tuple(rows),
    )


def _cost_table(found: Measured) -> Table:
    rows: list[tuple[str | int | float | None, ...]] = []
    for name in found.names():
        long, short = found.speed(name, LONG), found.speed(name, SHORT)
        rows.append((
            name,
            _rounded(_middle(_values(found.speeds(name), "load_s")), 1),
            *(_rounded(_per_hour(rows_, "processor_s"), 0) for rows_ in (long, short)),
            *(_rounded(_per_hour(rows_, "server_processor_s"), 0) for rows_ in (long, short)),
            _rounded(max(_values(found.speeds(name), "peak_mib"), default=None), 0),
            _rounded(max(_values(found.speeds(name), "server_peak_mib"), default=None), 0),
        ))  # fmt: skip
    return Table(
        title="What it costs: starting and loading, processor seconds per hour of audio, memory (whole process trees)",
        columns=(
            *("who", "start s", "processor s/h long", "short", "server's s/h long", "server's short"),
            *("peak MiB", "server's peak MiB"),
        ),
        rows=tuple(rows),
    )


def _rounded(value: float | None, digits: int) -> float | int | None:
    return None if value is None else round(value, digits) if digits else round(value)


def _per_hour(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return _middle([3600 * row[key] / row["audio_s"] for row in rows if row.get(key) is not None])


def _notes_table(found: Measured) -> Table:
    told = {name: f"absent: {reason}" for name, reason in found.absent.items()}
    told = {name: found.notes[name] for name in found.notes} | told
    rows = [
        (name, told[name], ", ".join(f"{package} {version}" for package, version in found.versions[name].items()))
        if name in found.versions
        else (name, told[name], None)
        for name in PEERS
        if name in told
    ]
    rows += [
        (name, f"the Conductor server and {name.partition('-')[2].replace('-', ' ')}, all on these cores", None)
        for name in OURS
        if found.speeds(name)
    ]
    return Table(title="How each was used", columns=("who", "how", "versions"), rows=tuple(rows))


def _targets(found: Measured) -> list[Target]:
    ours = [name for name in OURS if found.speeds(name)]
    targets = []
    for peer in PEERS:
        for shape, thing in ((LONG, "one long recording"), (SHORT, "short ones")):
            middles = {one: _middle(ratios(found, peer, one, shape)) for one in ours}
            known = {one: value for one, value in middles.items() if value is not None}
            words = ", ".join(
                f"{value:.2f} with {one.partition('-')[2].replace('-', ' ')}" for one, value in known.items()
            )
            targets.append(
                Target(
                    name=f"ahead of {peer} on {thing}",
                    wanted="median of wall / Whisperfleet's wall above 1",
                    found=words or f"{peer} was not measured ({found.absent.get(peer, 'no reason told')})",
                    reached=all(value > 1 for value in known.values()) if known else None,
                )
            )
        targets.append(_accuracy_target(found, peer, ours))
    return targets


def _accuracy_target(found: Measured, peer: str, ours: Sequence[str]) -> Target:
    """Over long and short together, the worst of Whisperfleet's against the peer's, on what the peer heard."""
    mine = found.excerpted if peer == "openai-whisper" else found.scores
    shapes = [shape for shape in (LONG, SHORT) if (peer, shape) in found.scores]
    name, wanted = f"words no worse than {peer}'s", f"WER at most {NO_WORSE_POINTS} points higher"
    if not shapes:
        reason = found.absent.get(peer, "no reason told")
        return Target(name=name, wanted=wanted, found=f"{peer} was not measured ({reason})", reached=None)
    theirs = sum((found.scores[peer, shape] for shape in shapes), Errors(0, 0)).percent
    worst = max(sum((mine[one, shape] for shape in shapes), Errors(0, 0)).percent for one in ours)
    words = f"{worst:.2f} % against {theirs:.2f} %"
    return Target(name=name, wanted=wanted, found=words, reached=worst <= theirs + NO_WORSE_POINTS)


def _shows(found: Measured) -> list[str]:
    shows = []
    for shape, thing in ((LONG, "the long recording"), (SHORT, "the short ones together")):
        for one in (name for name in OURS if found.speed(name, shape)):
            middles = {peer: _middle(ratios(found, peer, one, shape)) for peer in PEERS}
            known = {peer: value for peer, value in middles.items() if value is not None}
            if known:
                nearest = min(known, key=lambda peer: known[peer])
                furthest = max(known, key=lambda peer: known[peer])
                shows.append(
                    f"On {thing} {nearest}, the fastest peer, took {known[nearest]:.2f} times the wall time of "
                    f"{one.replace('-', ' ')}, and {furthest}, the slowest, {known[furthest]:.2f} times (medians)."
                )
    shows += [f"{peer} was not measured: {reason}." for peer, reason in found.absent.items()]
    return shows or ["Nobody but Whisperfleet was measured."]


def _figures(found: Measured) -> dict[str, Any]:
    """By shape and name: RTFx as minimum, median, maximum, and WER; and the ratios."""
    figures: dict[str, Any] = {"titles": {shape: _title(found, shape) for shape in (LONG, SHORT)}, "rtfx": {}}
    for shape in (LONG, SHORT):
        figures["rtfx"][shape] = {
            name: {"min": min(fast), "median": statistics.median(fast), "max": max(fast)}
            for name in (*PEERS, *OURS)
            if (fast := [1 / _pace(row) for row in found.speed(name, shape) if row["wall_s"]])
        }
    figures["wer_percent"] = {
        shape: {name: one.percent for (name, of), one in found.scores.items() if of == shape} for shape in (LONG, SHORT)
    }
    figures["ratios"] = {
        shape: {one: {peer: ratios(found, peer, one, shape) for peer in PEERS} for one in OURS}
        for shape in (LONG, SHORT)
    }
    figures["absent"] = dict(found.absent)
    return figures


def draw(found: Result, figure: "Figure") -> None:
    """Who transcribes how many times faster than one listens: bars, the spread of the repetitions as whiskers."""
    figure.suptitle("Same weights, same cores, same recordings: audio seconds per wall second")
    names = [name for name in (*PEERS, *OURS) if any(name in found.figures["rtfx"][shape] for shape in (LONG, SHORT))]
    axes = figure.subplots(1, 2, sharey=True)
    for each, shape in zip(axes, (LONG, SHORT), strict=True):
        _bars(each, names, found.figures["rtfx"][shape], found.figures["wer_percent"][shape])
        each.set_title(found.figures["titles"][shape], fontsize=9)
    axes[0].set_yticks(range(len(names)), [_label(name) for name in names], fontsize=8)
    axes[0].invert_yaxis()


def _bars(axes: "Axes", names: Sequence[str], fast: Mapping[str, Any], wrong: Mapping[str, float]) -> None:
    top = max((one["max"] for one in fast.values()), default=1.0)
    for at, name in enumerate(names):
        if name not in fast:
            axes.text(0, at, " not measured", va="center", fontsize=7, color="0.4")
            continue
        one = fast[name]
        whisker = [[one["median"] - one["min"]], [one["max"] - one["median"]]]
        color = "tab:orange" if name in OURS else "tab:blue"
        axes.barh(at, one["median"], color=color, xerr=whisker, error_kw={"ecolor": "0.3", "capsize": 2})
        axes.text(
            one["max"] + 0.02 * top,
            at,
            f"{one['median']:.0f}x · {wrong[name]:.1f} % wrong",
            va="center",
            fontsize=7,
        )
    axes.set_xlim(0, 1.55 * top)
    axes.set_xlabel("times real time (median, min to max) · words wrong", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _label(name: str) -> str:
    words = {"faster-whisper-batched": "faster-whisper\nbatched", RAY: "whisperX on Ray", "whisperx": "whisperX"}
    words |= {"whisperfleet-1-worker": "Whisperfleet\n1 worker", "whisperfleet-2-workers": "Whisperfleet\n2 workers"}
    return words.get(name, name)
