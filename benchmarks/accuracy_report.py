"""The figures of `bench accuracy`: each transcript scored, put together by chunk length, judged, and drawn."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy_runs import SERIAL, Heard, Length
from benchmarks.accuracy_scores import (
    Difference,
    Pair,
    by_block,
    by_cut,
    covered,
    difference,
    sentence_time_errors,
)
from benchmarks.accuracy_speed import Pace, cut_lengths_s, efficiency, shift_of
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Findings
from benchmarks.scoring import WordError, align, heard_words, said_words
from benchmarks.speech import Recorded
from workers.attribution import attribute
from workers.chunking import search_windows
from workers.spans import Span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLEET_SIZES = (4, 16, 64)
LECTURE_MS = 5_670_000  # the length of the recording that the project began with
DRAWS = 21
DEFAULTS = ("auto for 1", "auto for 16")
MOST_POINTS = 0.1  # of WER that the fleet may be worse
FEWEST_CUTS = 10  # of fewer places a bootstrap says too little to judge by


@dataclass(frozen=True)
class Talk:
    """A recording; kind: with pauses, or without."""

    name: str
    kind: str
    recorded: Recorded


@dataclass(frozen=True)
class Scored:
    """One recording in one division, against the truth and against the serial run.

    control: the serial run's errors; again_ms: the length of each chunk some of whose text looked wrong and was heard
    again, again_kept: how many of them kept something of it; der, wder: None where nobody was told apart.
    """

    talk: Talk
    length: Length
    chunks_ms: tuple[int, ...]
    shifts: tuple[float, ...]
    overlapping: int
    words: int
    errors: tuple[WordError, ...]
    control: tuple[WordError, ...]
    unlike_serial: float
    blocks: tuple[Pair, ...]
    cuts: tuple[Pair, ...]
    time_errors_ms: tuple[int, ...]
    covered: bool
    again_ms: tuple[int, ...]
    again_kept: int
    same_samples: bool
    der: float | None
    wder: float | None
    same_turns: bool | None

    @property
    def wer(self) -> float:
        return len(self.errors) / self.words

    @property
    def serial_wer(self) -> float:
        return len(self.control) / self.words

    def told(self) -> dict[str, Any]:
        """As a repetition of the result."""
        kinds = [error.kind for error in self.errors]
        return {
            "recording": self.talk.name,
            "kind": self.talk.kind,
            "seconds": self.talk.recorded.duration_ms / 1000,
            "length": self.length.label,
            "chunks_s": [ms / 1000 for ms in self.chunks_ms],
            "cuts_with_overlap": self.overlapping,
            "words": self.words,
            "errors": {kind: kinds.count(kind) for kind in ("substitution", "deletion", "insertion")},
            "wer": self.wer,
            "serial_wer": self.serial_wer,
            "unlike_serial": self.unlike_serial,
            "near_cuts": {
                name: sum(getattr(cut, name) for cut in self.cuts) for name in ("errors", "control", "words")
            },
            "time_errors_ms": {
                "count": len(self.time_errors_ms),
                "median": _percentile(self.time_errors_ms, 50),
                "p95": _percentile(self.time_errors_ms, 95),
            },
            "covered": self.covered,
            "decoded_again": {
                "chunks": len(self.again_ms),
                "seconds": sum(self.again_ms) / 1000,
                "kept": self.again_kept,
            },
            "same_samples_as_serial": self.same_samples,
            "der": self.der,
            "wder": self.wder,
            "same_turns_as_serial": self.same_turns,
        }


def score(talk: Talk, length: Length, heard: Heard, serial: Heard) -> Scored:
    """Compare one transcript with what was said, and with the serial run's."""
    recorded, chunks = talk.recorded, heard.transcript.provenance.chunks
    said = said_words(recorded.truth)
    words, serial_words = heard_words(heard.transcript), heard_words(serial.transcript)
    errors, control, unlike = align(said, words), align(said, serial_words), align(serial_words, words)
    cores = [chunk.core for chunk in chunks]
    cuts = [core.start_ms for core in cores[1:]]
    wanted = length.cuts(recorded.duration_ms)
    windows = search_windows(wanted, Span.of(0, recorded.duration_ms))
    der, wder = _speakers(talk, heard, serial)
    return Scored(
        talk=talk,
        length=length,
        chunks_ms=tuple(core.duration_ms for core in cores),
        shifts=tuple(shift_of(*placed) for placed in zip(cuts, wanted, windows, strict=True)),
        overlapping=sum(one.audio.overlap_ms(two.audio) > 0 for one, two in pairwise(chunks)),
        words=len(said),
        errors=errors,
        control=control,
        unlike_serial=len(unlike) / max(1, len(serial_words)),
        blocks=tuple(by_block(errors, control, said, recorded.duration_ms)),
        cuts=tuple(by_cut(errors, control, said, cuts)),
        time_errors_ms=tuple(sentence_time_errors(recorded.truth, heard.transcript)),
        covered=covered(cores, recorded.duration_ms) and not heard.transcript.gaps,
        again_ms=tuple(chunk.audio.duration_ms for chunk in chunks if len(chunk.decodes) > 1),
        again_kept=sum(chunk.decodes[-1].kept for chunk in chunks if len(chunk.decodes) > 1),
        same_samples=heard.samples_sha256 == serial.samples_sha256,
        der=der,
        wder=wder,
        same_turns=heard.turns == serial.turns if heard.task.diarize else None,
    )


def _speakers(talk: Talk, heard: Heard, serial: Heard) -> tuple[float | None, float | None]:
    """(DER, WDER). A run without diarization has the turns of the serial one, whose samples are the same."""
    from benchmarks.speaker_scoring import SaidWord, diarization_error, word_diarization_error

    turns = heard.turns if heard.task.diarize else serial.turns
    if not turns:
        return None, None
    said = [SaidWord(word, one.speaker) for one in talk.recorded.truth for word in one.text.split()]
    given = [
        SaidWord(word.text, word.speaker)
        for segment in attribute(heard.transcript.segments, turns)
        for word in segment.words
    ]
    told = diarization_error(talk.recorded.truth, turns).rate if heard.task.diarize else None
    return told, word_diarization_error(said, given)


# ---- by chunk length ----


@dataclass(frozen=True)
class Row:
    """All recordings of one kind in one chunk length."""

    kind: str
    label: str
    of: tuple[Scored, ...]

    @property
    def more(self) -> Difference:
        """Errors for each word, more than serial."""
        return difference([block for one in self.of for block in one.blocks])

    @property
    def near(self) -> Difference:
        return difference([cut for one in self.of for cut in one.cuts])

    @property
    def chunk_s(self) -> float:
        return statistics.median([ms / 1000 for one in self.of for ms in one.chunks_ms])

    @property
    def cuts(self) -> int:
        return sum(len(one.cuts) for one in self.of)

    @property
    def times_ms(self) -> list[int]:
        return [ms for one in self.of for ms in one.time_errors_ms]

    def each(self, value: Callable[[Scored], float | None]) -> list[float]:
        return [found for one in self.of if (found := value(one)) is not None]

    def away(self, control: bool) -> float:
        """Errors for each word said farther from the cuts than the others."""
        errors = sum(len(one.control if control else one.errors) for one in self.of)
        near = self.near
        close = round((near.control_rate if control else near.rate) * near.words)
        return (errors - close) / max(1, sum(one.words for one in self.of) - near.words)


def _rows(scored: Sequence[Scored]) -> list[Row]:
    names = dict.fromkeys((one.talk.kind, one.length.label) for one in scored)
    kinds = list(dict.fromkeys(kind for kind, _ in names))
    ordered = sorted(names, key=lambda name: kinds.index(name[0]))
    return [
        Row(kind, label, tuple(one for one in scored if (one.talk.kind, one.length.label) == (kind, label)))
        for kind, label in ordered
    ]


def findings(scored: Sequence[Scored]) -> Findings:
    rows = _rows(scored)
    lengths = tuple(dict.fromkeys(one.length for one in scored if one.length.chunk_seconds != "auto"))
    speeds = _speeds([length for length in lengths if length is not SERIAL], scored)
    return Findings(
        repetitions=[one.told() for one in scored],
        tables=[_words(rows), _beside_cuts(rows), _times_and_speakers(rows), _speed_table(speeds)],
        figures={"curve": [_point(row) for row in rows], "speed": speeds},
        targets=[*_targets(rows), _coverage(scored), _speaker_target(scored)],
        shows=_shows(rows, speeds),
    )


def _point(row: Row) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "length": row.label,
        "chunk_s": row.chunk_s,
        "cuts": row.cuts,
        "points": 100 * row.more.value,
        "low": 100 * row.more.low,
        "high": 100 * row.more.high,
        "each": [100 * (one.wer - one.serial_wer) for one in row.of],
        "near_points": 100 * row.near.value,
        "near_low": 100 * row.near.low,
        "near_high": 100 * row.near.high,
    }


# ---- tables ----


def _words(rows: Sequence[Row]) -> Table:
    return Table(
        title="Words: errors of 100 said, and points more than the serial run (95 % interval)",
        columns=(
            *("recordings", "chunks", "of s", "cuts", "WER %", "least", "most", "minus serial", "interval"),
            *("unlike serial %", "in part heard twice %"),
        ),
        rows=tuple(
            (
                row.kind,
                row.label,
                round(row.chunk_s, 1),
                row.cuts,
                *_percents(row.each(lambda one: one.wer)),
                _signed(100 * row.more.value),
                _interval(row.more),
                round(100 * statistics.median(row.each(lambda one: one.unlike_serial)), 2),
                round(_doubtful_share(row), 1),
            )
            for row in rows
        ),
    )


def _doubtful_share(row: Row) -> float:
    """Percent of the audio that is in chunks of which something was heard again."""
    return 100 * sum(sum(one.again_ms) for one in row.of) / sum(one.talk.recorded.duration_ms for one in row.of)


def _beside_cuts(rows: Sequence[Row]) -> Table:
    return Table(
        title="Errors of 100 words within 2 s of a cut, in the same places of the serial run, and elsewhere",
        columns=(
            *("recordings", "chunks", "cuts", "with overlap", "words there", "fleet", "serial there", "minus serial"),
            *("interval", "fleet elsewhere", "serial elsewhere"),
        ),
        rows=tuple(
            (
                row.kind,
                row.label,
                row.cuts,
                sum(one.overlapping for one in row.of),
                row.near.words,
                round(100 * row.near.rate, 2),
                round(100 * row.near.control_rate, 2),
                _signed(100 * row.near.value),
                _interval(row.near),
                round(100 * row.away(control=False), 2),
                round(100 * row.away(control=True), 2),
            )
            for row in rows
            if row.cuts
        ),
    )


def _times_and_speakers(rows: Sequence[Row]) -> Table:
    """The DER of the recording whose voices were heard anew for every length; for the others the serial run's holds."""
    told = [one.talk for row in rows for one in row.of if one.der is not None and one.length is not SERIAL]
    return Table(
        title="Times of sentences' first and last words against the truth (ms), and who is said to speak (%): the DER "
        "of one recording, WDER as median",
        columns=("recordings", "chunks", "times", "median", "95th percentile", "DER", "WDER"),
        rows=tuple(
            (
                row.kind,
                row.label,
                len(row.times_ms),
                round(_percentile(row.times_ms, 50)),
                round(_percentile(row.times_ms, 95)),
                _median_percent([one.der for one in row.of if one.der is not None and one.talk in told]),
                _median_percent(row.each(lambda one: one.wder)),
            )
            for row in rows
        ),
    )


def _speed_table(speeds: dict[str, dict[str, float]]) -> Table:
    return Table(
        title="Computed, not measured: efficiency of a job of 94.5 minutes on workers of 13 times real time",
        columns=("chunks", *(f"{workers} workers" for workers in FLEET_SIZES)),
        rows=tuple(
            (label, *(round(found[str(workers)], 3) for workers in FLEET_SIZES)) for label, found in speeds.items()
        ),
    )


def _speeds(lengths: Sequence[Length], scored: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """By label and number of workers: the median over draws of where the cuts come to lie."""
    shifts = [shift for one in scored if one.talk.kind == "with pauses" for shift in one.shifts]
    pace = Pace()

    def median(length: Length, workers: int) -> float:
        drawn = (cut_lengths_s(length, LECTURE_MS, shifts, seed) for seed in range(DRAWS))
        return statistics.median(efficiency(chunks, workers, pace) for chunks in drawn)

    found = {length.label: {str(workers): median(length, workers) for workers in FLEET_SIZES} for length in lengths}
    found["auto"] = {str(workers): median(Length("auto", "auto", workers), workers) for workers in FLEET_SIZES}
    return found


# ---- judgement ----


def _targets(rows: Sequence[Row]) -> list[Target]:
    targets = []
    for kind in dict.fromkeys(row.kind for row in rows):
        defaults = [row for row in rows if row.kind == kind and row.label in DEFAULTS]
        targets.append(
            Target(
                name=f"fleet's word error rate, {kind}, default chunks",
                wanted=f"at most {MOST_POINTS} points over serial",
                found="; ".join(
                    f"{row.label}: {_signed(100 * row.more.value)} ({_interval(row.more)})" for row in defaults
                ),
                reached=all(100 * row.more.value <= MOST_POINTS for row in defaults),
            )
        )
        divided = [row for row in rows if row.kind == kind and row.cuts >= FEWEST_CUTS]
        targets.append(
            Target(
                name=f"no extra errors beside cuts, {kind}",
                wanted="within 2 s of cuts the interval of fleet minus serial reaches down to 0, at every chunk length "
                f"that has {FEWEST_CUTS} cuts",
                found="; ".join(f"{row.label}: {_interval(row.near)}" for row in divided) or "nowhere so many cuts",
                reached=all(row.near.low <= 0 for row in divided) if divided else None,
            )
        )
    return targets


def _coverage(scored: Sequence[Scored]) -> Target:
    whole = sum(one.covered for one in scored)
    return Target(
        name="coverage",
        wanted="the cores of all chunks are the recording, to the millisecond, and nothing is a gap",
        found=f"{whole} of {len(scored)} transcripts",
        reached=whole == len(scored),
    )


def _speaker_target(scored: Sequence[Scored]) -> Target:
    told = [one for one in scored if one.same_turns is not None and one.length is not SERIAL]
    same, samples = sum(one.same_turns is True for one in told), sum(one.same_samples for one in scored)
    return Target(
        name="speakers",
        wanted="the same turns, and so the same DER, as those of the undivided recording",
        found=f"{same} of {len(told)} divisions whose voices were heard again; "
        f"the same samples to the bit in {samples} of {len(scored)}",
        reached=same == len(told) and samples == len(scored),
    )


def _shows(rows: Sequence[Row], speeds: dict[str, dict[str, float]]) -> list[str]:
    said = []
    for row in rows:
        if row.label == DEFAULTS[-1]:
            said.append(
                f"Recordings {row.kind}: in the chunks of a fleet of 16 ({row.chunk_s:.0f} s) "
                f"{100 * _pooled(row, False):.2f} % of the words are wrong, in a serial run "
                f"{100 * _pooled(row, True):.2f} %; beside cuts {100 * row.near.rate:.2f} %, where the serial run, "
                f"which has no cut there, errs in {100 * row.near.control_rate:.2f} %."
            )
    return [*said, *_lengths_that_differ(rows), _shortest(rows, speeds), _automatic(speeds), _twice(rows)]


def _lengths_that_differ(rows: Sequence[Row]) -> list[str]:
    said = []
    for kind in dict.fromkeys(row.kind for row in rows):
        divided = [row for row in rows if row.kind == kind and row.cuts]
        apart = {
            "worse": [row.label for row in divided if row.more.low > 0],
            "better": [row.label for row in divided if row.more.high < 0],
        }
        told = " and ".join(f"{word} in {', '.join(labels)}" for word, labels in apart.items() if labels)
        said.append(
            f"Recordings {kind}: of {len(divided)} divisions the words are {told} than serially."
            if told
            else f"Recordings {kind}: none of {len(divided)} divisions has more or fewer word errors than the serial "
            "run beyond chance (95 %)."
        )
    return said


def _automatic(speeds: dict[str, dict[str, float]]) -> str:
    parts = []
    for size in map(str, FLEET_SIZES):
        best = max((label for label in speeds if label != "auto"), key=lambda label: speeds[label][size])
        parts.append(
            f"{speeds['auto'][size]:.2f} on {size} workers (the best fixed length, {best}: {speeds[best][size]:.2f})"
        )
    return f"The default, auto, chooses chunks for the workers that are there: an efficiency of {', '.join(parts)}."


def _shortest(rows: Sequence[Row], speeds: dict[str, dict[str, float]]) -> str:
    """Whether the shortest length is too short: its errors against the next longer one's, and what it gains."""
    short, longer = list(speeds)[:2]
    found = []
    for kind in dict.fromkeys(row.kind for row in rows):
        by_label = {row.label: row for row in rows if row.kind == kind}
        found.append((kind, _against(by_label[short], by_label[longer])))
    worse = [kind for kind, more in found if more.low > 0]
    told = "; ".join(f"{kind} {_signed(100 * more.value)} points ({_interval(more)})" for kind, more in found)
    sizes = ", ".join(
        f"{speeds[short][str(size)]:.2f} instead of {speeds[longer][str(size)]:.2f} on {size} workers"
        for size in FLEET_SIZES[1:]
    )
    verdict = (
        f"so the shortest chunk of {short} costs accuracy {' and '.join(worse)}"
        if worse
        else f"so nothing here says that the shortest chunk should be longer than {short}"
    )
    return f"Chunks of {short} against {longer}: {told}, and an efficiency of {sizes} (computed): {verdict}."


def _against(row: Row, other: Row) -> Difference:
    """The same recordings in two divisions."""
    return difference(
        [
            Pair(mine.errors, theirs.errors, mine.words)
            for one, two in zip(row.of, other.of, strict=True)
            for mine, theirs in zip(one.blocks, two.blocks, strict=True)
        ]
    )


def _twice(rows: Sequence[Row]) -> str:
    short, long = rows[0], next(row for row in rows if row.label == SERIAL.label)
    both = [one for row in (short, long) for one in row.of]
    return (
        "Of a text that looks wrong the half minutes that are to blame are heard again: some in chunks that hold "
        f"{_doubtful_share(short):.0f} % of the audio in chunks of {short.label}, {_doubtful_share(long):.0f} % of it "
        f"undivided (recordings {short.kind}); of {sum(len(one.again_ms) for one in both)} such chunks "
        f"{sum(one.again_kept for one in both)} kept what was heard the second time."
    )


def _pooled(row: Row, control: bool) -> float:
    return sum(len(one.control if control else one.errors) for one in row.of) / sum(one.words for one in row.of)


def _percentile(values: Sequence[int], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0


def _percents(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return tuple(round(100 * found, 2) for found in (statistics.median(values), min(values), max(values)))  # type: ignore[return-value]


def _median_percent(values: Sequence[float]) -> float | None:
    return round(100 * statistics.median(values), 2) if values else None


def _signed(points: float) -> str:
    return f"{points:+.2f}"


def _interval(found: Difference) -> str:
    return f"{100 * found.low:+.2f} to {100 * found.high:+.2f}"


# ---- the picture ----


def draw(found: Result, figure: "Figure") -> None:
    """Left what a shorter chunk costs, right what it gains."""
    cost, gain = figure.subplots(1, 2)
    for axes in (cost, gain):
        axes.set_xscale("log")  # before the ticks: it brings its own
        axes.set_xlabel("chunk length in seconds")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    _draw_cost(cost, found.figures["curve"])
    _draw_gain(gain, found.figures["speed"])


def _seconds(label: str) -> int:
    return int(label.removesuffix(" s"))


def _draw_cost(axes: "Axes", curve: Sequence[dict[str, Any]]) -> None:
    fixed = [point for point in curve if point["length"].endswith(" s")]
    for number, kind in enumerate(dict.fromkeys(point["kind"] for point in fixed)):
        points = [point for point in fixed if point["kind"] == kind]
        shift = 1.06 ** (2 * number - 1)  # so that the bars of both kinds can be told apart
        seconds = [shift * _seconds(point["length"]) for point in points]
        values = [point["points"] for point in points]
        bars = [
            [max(0.0, value - point["low"]) for value, point in zip(values, points, strict=True)],
            [max(0.0, point["high"] - value) for value, point in zip(values, points, strict=True)],
        ]
        axes.errorbar(seconds, values, bars, marker="o", markersize=4, capsize=3, label=kind, color=f"C{number}")
        for at, point in zip(seconds, points, strict=True):
            axes.plot([at] * len(point["each"]), point["each"], ".", color=f"C{number}", alpha=0.3, markersize=5)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axhline(MOST_POINTS, color="black", linewidth=0.8, linestyle=":")
    ticks = sorted({_seconds(point["length"]) for point in fixed})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylabel("WER, points more than serial")
    axes.set_title("What it costs: all recordings with 95 % interval,\neach as a dot; dotted: the target", fontsize=10)
    axes.legend(frameon=False, fontsize=8)


def _draw_gain(axes: "Axes", speeds: dict[str, dict[str, float]]) -> None:
    fixed = [label for label in speeds if label != "auto"]
    ticks = [_seconds(label) for label in fixed]
    for number, size in enumerate(FLEET_SIZES):
        axes.plot(
            ticks, [speeds[label][str(size)] for label in fixed], marker="o", markersize=4, color=f"C{number + 2}"
        )
        automatic = speeds["auto"][str(size)]
        axes.axhline(automatic, color=f"C{number + 2}", linestyle="--", linewidth=0.9)
        axes.plot([], [], color=f"C{number + 2}", marker="o", label=f"{size} workers (auto: {automatic:.2f})")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("efficiency, computed")
    axes.set_title("What it gains: 94.5 minutes on workers of\n13 times real time; dashed: auto", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
