"""`whisperfleet bench report`: one page of all results there are, as HTML that loads nothing and as one picture.

    whisperfleet bench report [--results bench-results] [--out FOLDER]

The pictures are the benchmarks' own, drawn again from what they wrote: nothing is measured here, and nothing is drawn
a second way. What was not measured is named, and a quick run is marked as one.
"""

import argparse
import base64
import errno
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import result as results
from benchmarks.command import NAMES
from benchmarks.report_page import counted, page, verdicts
from benchmarks.result import Result
from benchmarks.runner import OUT, Benchmark, save_picture
from workers.errors import OptionError, StorageError, WhisperfleetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST = ("scaling", "peers", "overhead", "cost")  # the four of the one picture
ORDER = (*FIRST, *(name for name in NAMES if name not in (*FIRST, "report")))
DPI = 120
WIDTH, HEIGHT, HEAD = 8.0, 4.5, 1.0  # inches: of a benchmark's picture, and of the title above all four


def command(arguments: Sequence[str] | None = None) -> None:
    """Write report.html and report.png, whole or not at all. Raises OptionError, StorageError."""
    options = _options(arguments)
    found = _read(Path(options.results))
    out = Path(options.out or options.results)
    _write(out, made(found))
    for line in verdicts(found, ORDER):
        print(line)
    print(f"Written: {out / 'report.html'} and report.png")


def made(
    found: Mapping[str, Result], benchmark_of: Callable[[str], Benchmark | None] | None = None
) -> dict[str, bytes]:
    """The files by name. benchmark_of: whose picture is drawn for a name, None for one that has none."""
    pictures = _pictures(found, benchmark_of or _benchmark)
    return {
        "report.html": page(found, ORDER, {name: _embedded(png) for name, png in pictures.items()}).encode(),
        "report.png": _overview(found, pictures),
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="whisperfleet bench report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--results", default=OUT, help=f"folder of the results, NAME.json each (default {OUT})")
    parser.add_argument("--out", help="folder for report.html and report.png (default: where the results are)")
    return parser.parse_args(arguments)


def _read(folder: Path) -> dict[str, Result]:
    if not folder.is_dir():
        raise OptionError(f"--results {folder} is no folder: run a benchmark first, or name where its results are.")
    return results.read_all(folder)


# ---- pictures ----


def _pictures(found: Mapping[str, Result], benchmark_of: Callable[[str], Benchmark | None]) -> dict[str, bytes]:
    """Each benchmark's own PNG by name; none for a benchmark that this version does not have."""
    pictures: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="whisperfleet-report-") as folder:
        for name, one in found.items():
            benchmark = benchmark_of(name)
            if benchmark is not None:
                path = Path(folder) / f"{len(pictures)}.png"
                _draw(benchmark, one, path)
                pictures[name] = path.read_bytes()
    return pictures


def _benchmark(name: str) -> Benchmark | None:
    if name not in ORDER:  # a name from a file is no module to be imported
        return None
    found = getattr(importlib.import_module(f"benchmarks.{name}"), "BENCHMARK", None)
    return found if isinstance(found, Benchmark) else None


def _draw(benchmark: Benchmark, found: Result, path: Path) -> None:
    try:
        save_picture(benchmark.draw, found, path)
    except (LookupError, TypeError, ValueError, AttributeError) as error:  # written by another version
        raise OptionError(
            f"The result of {found.benchmark} ({found.began}) is not what this version draws: run it again."
        ) from error


def _embedded(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _overview(found: Mapping[str, Result], pictures: Mapping[str, bytes]) -> bytes:
    """The four pictures as they are, two by two, under one line of what was reached."""
    import io

    from matplotlib.figure import Figure
    from matplotlib.image import imread

    figure = Figure(figsize=(2 * WIDTH, 2 * HEIGHT + HEAD), dpi=DPI, facecolor="white")
    whole = 2 * HEIGHT + HEAD
    figure.text(0.015, 1 - 0.42 / whole, "Whisperfleet, measured", fontsize=22, weight="bold", va="center")
    figure.text(0.015, 1 - 0.8 / whole, counted(found, ORDER), fontsize=12, va="center", color="#5b636d")
    for place, name in enumerate(FIRST):
        column, row = place % 2, place // 2
        left, bottom = round(column * WIDTH * DPI), round((1 - row) * HEIGHT * DPI)
        if name in pictures:
            figure.figimage(imread(io.BytesIO(pictures[name])), left, bottom)
        else:
            _absent(figure, name, left / DPI, bottom / DPI)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()


def _absent(figure: "Figure", name: str, left: float, bottom: float) -> None:
    """A panel that says what is missing. In inches."""
    figure.text(
        (left + WIDTH / 2) / (2 * WIDTH),
        (bottom + HEIGHT / 2) / (2 * HEIGHT + HEAD),
        f"{name}: not measured\nwhisperfleet bench {name}",
        ha="center",
        va="center",
        fontsize=14,
        color="#5b636d",
    )


# ---- written ----


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """All of them, or none where one cannot be written."""
    temporary = {out / name: out / f".{name}.part" for name in files}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, part in temporary.items():
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            part.write_bytes(files[path.name])
        for path, part in temporary.items():
            part.replace(path)
    except OSError as error:
        for part in temporary.values():
            if part.is_file():
                part.unlink()
        raise StorageError(
            f"The report cannot be written to {out} ({error.strerror}): choose another --out."
        ) from error


def main() -> None:
    """`python -m benchmarks.report`."""
    try:
        command()
    except WhisperfleetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
