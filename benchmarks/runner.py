"""How a benchmark is run: the options that all share, its table, its record, its picture, its errors in a sentence.

A benchmark is a module with a `BENCHMARK`; `python -m benchmarks.NAME` and `whisperfleet bench NAME` both come here.
"""

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import result as results
from benchmarks.result import Result, Table, Target
from benchmarks.surroundings import machine, working_folder
from workers.errors import OptionError, WhisperfleetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPEAT = 5
OUT = "bench-results"


@dataclass(frozen=True)
class Findings:
    """What measuring brought: the parts of a Result that only the benchmark knows."""

    repetitions: Sequence[dict[str, Any]]
    tables: Sequence[Table]
    figures: dict[str, Any]
    shows: Sequence[str]
    targets: Sequence[Target] = ()
    caveats: Sequence[str] = ()
    """Those that depend on the run; the benchmark's own are always told."""


@dataclass(frozen=True)
class Benchmark:
    """measure: (options, an empty folder to work in) -> Findings; draw: the picture of a whole result.

    packages: whose versions belong to the figures; absent ones are told as None. options: adds its own to the parser.
    repeat: repetitions unless told otherwise; --quick makes one.
    """

    name: str
    about: str
    measure: Callable[[argparse.Namespace, Path], Findings]
    draw: Callable[[Result, "Figure"], None]
    caveats: tuple[str, ...]
    packages: tuple[str, ...] = ()
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    repeat: int = REPEAT


def run(benchmark: Benchmark, arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write NAME.json and NAME.png into --out. Raises WhisperfleetError in one sentence."""
    options = _options(benchmark, arguments)
    before = machine(*benchmark.packages)
    began, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
    with working_folder(options.folder) as folder:
        findings = benchmark.measure(options, folder)
    seconds = round(time.monotonic() - clock, 1)
    found = Result(
        benchmark=benchmark.name,
        quick=options.quick,
        began=began,
        seconds=seconds,
        machine={**before, "load_after": os.getloadavg()},
        options={name: value for name, value in vars(options).items() if name not in ("out", "folder", "quick")},
        repetitions=tuple(findings.repetitions),
        tables=tuple(findings.tables),
        figures=findings.figures,
        targets=tuple(findings.targets),
        shows=tuple(findings.shows),
        caveats=(*findings.caveats, *benchmark.caveats),
    )
    # what is kept is what is drawn: JSON knows no tuples and no integer keys
    found = Result.model_validate_json(found.model_dump_json())
    for line in told(found):
        print(line)
    out = Path(options.out)
    results.write(found, out / f"{benchmark.name}.json")
    save_picture(benchmark.draw, found, out / f"{benchmark.name}.png")
    print(f"Written: {out / benchmark.name}.json and .png")


def main(benchmark: Benchmark) -> None:
    """`python -m benchmarks.NAME`."""
    try:
        run(benchmark)
    except WhisperfleetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        sys.exit(130)


def told(found: Result) -> Iterator[str]:
    """The result in words, for a terminal; lines of tables are as long as they need to be."""
    if found.quick:
        yield "A quick run: it shows that the benchmark works, its figures mean nothing."
    for table in found.tables:
        yield ""
        yield from table_lines(table)
    yield ""
    for target in found.targets:
        word = {True: "reached", False: "MISSED", None: "not measured"}[target.reached]
        yield f"{word}: {target.name}: wanted {target.wanted}, found {target.found}"
    yield from (f"* {sentence}" for sentence in found.shows)
    yield from (f"Caveat: {sentence}" for sentence in found.caveats)


def table_lines(table: Table) -> Iterator[str]:
    """The table with columns of even width: words to the left, numbers to the right."""
    cells = [table.columns, *([_cell(value) for value in row] for row in table.rows)]
    widths = [max(len(str(row[at])) for row in cells) for at in range(len(table.columns))]
    numeric = [all(not isinstance(row[at], str) for row in table.rows) for at in range(len(table.columns))]
    yield table.title
    for row in cells:
        aligned = (
            f"{text:>{width}}" if right else f"{text:<{width}}"
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        yield "  ".join(aligned).rstrip()


def interleaved(names: Sequence[str], repeat: int, seed: int = 1) -> Iterator[tuple[int, str]]:
    """(repetition, name), every name once in each repetition, in an order that is drawn anew each time.

    So that whatever else the machine does meanwhile, and whatever the one before leaves warm, meets all alike.
    """
    dice = random.Random(seed)
    for number in range(repeat):
        order = list(names)
        dice.shuffle(order)
        yield from ((number, name) for name in order)


def progress(text: str) -> None:
    """A line on standard error: what is being measured now."""
    print(text, file=sys.stderr, flush=True)


def save_picture(draw: Callable[[Result, "Figure"], None], found: Result, path: Path) -> None:
    """A PNG drawn by `draw`, written whole. matplotlib's object interface: no display, no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    draw(found, figure)
    if found.quick:
        figure.text(0.5, 0.5, "quick run", rotation=30, ha="center", va="center", alpha=0.15, fontsize=48)
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _options(benchmark: Benchmark, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"whisperfleet bench {benchmark.name}",
        description=benchmark.about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="small and once: whether it runs, not what it measures")
    parser.add_argument("--repeat", type=int, help=f"repetitions (default {benchmark.repeat}; five or more to publish)")
    parser.add_argument("--out", default=OUT, help=f"folder for NAME.json and NAME.png (default {OUT})")
    parser.add_argument("--folder", help="an existing folder to work in and leave as it is (default: a temporary one)")
    benchmark.options(parser)
    options = parser.parse_args(arguments)
    if options.repeat is not None and options.repeat < 1:
        raise OptionError(f"--repeat is {options.repeat}: write 1 or more.")
    if options.folder is not None and not Path(options.folder).is_dir():
        raise OptionError(f"--folder {options.folder} is no folder: make it first, or leave the option out.")
    options.repeat = options.repeat or (1 if options.quick else benchmark.repeat)
    json.dumps(vars(options))  # every option is to be written down
    return options
