"""`bench report`: one page of whatever there is, whole, self-contained and escaped; or one sentence and no page."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import cost, report, result
from benchmarks.cost_bill import PARTS
from benchmarks.report_page import cell
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings
from workers.errors import OptionError, StorageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results"
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'too'"


def made(name: str, *, quick: bool = False, reached: bool | None = True, figures: object = None) -> Result:
    """A result of that benchmark, with markup in every text."""
    return Result(
        benchmark=name,
        quick=quick,
        began="2026-11-21T22:15:00+00:00",
        seconds=12.5,
        machine={"platform": HOSTILE, "cores": 2, "load_before": [0.5, 0.25, 0.125], "numpy": None},
        options={"repeat": 5, "shape": HOSTILE, "nested": {"a": [1, 2.5]}},
        repetitions=({"seconds": 1.0},),
        tables=(Table(title=f"Table of {name}", columns=("what", "how much"), rows=((HOSTILE, 1.23456), ("b", None))),),
        figures={} if figures is None else {"x": figures},
        targets=(Target(name=f"target of {name}", wanted=f"< {HOSTILE}", found="0.5", reached=reached),),
        shows=(f"{name} shows {HOSTILE}",),
        caveats=(f"{name} does not tell {HOSTILE}",),
    )


def drawn(found: Result, figure: "Figure") -> None:
    figure.subplots().plot([1, 2, 3], label=found.benchmark)


def stand_in(name: str) -> Benchmark:
    def measured(*_: object) -> Findings:
        raise AssertionError("a report measures nothing")

    return Benchmark(name, "", measured, drawn, ("none",))


class Seen(HTMLParser):
    """Tags, what they refer to, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def cost_result() -> Result:
    """A real one of its kind: two seeds of made runs."""
    runs = [
        {
            "seed": seed, "job": "100 h", "hours": 100.0, "kind": kind, "most": most,
            "usd_per_audio_hour": 0.002 * seed, "usd": 0.2 * seed,
            "parts": dict.fromkeys(PARTS, 0.2 * seed / len(PARTS)), "seconds": 600.0, "machines": most, "outbid": 2,
            "useful_share": 0.8, "lost_gpu_s": 60.0, "billed_gpu_s": 6000.0, "again": 3, "chunks": 6000,
            "gpus": {"RTX 3090": most},
        }
        for kind in (cost.BIDS, cost.ON_DEMAND, cost.TAKEN) for most in (1, 4) for seed in (1, 2)
    ]  # fmt: skip
    found = cost.findings(runs, "large-v3", 1.0, 2.0)
    return made("cost").model_copy(
        update={"figures": found.figures, "tables": tuple(found.tables), "targets": tuple(found.targets)}
    )


def test_a_page_of_every_benchmark_has_all_of_it_and_loads_nothing() -> None:
    found = {name: made(name, quick=name == "peers", reached=name != "cost") for name in report.ORDER}
    files = report.made(found, stand_in)
    html = files["report.html"].decode()
    seen = Seen(html)
    for name in report.ORDER:
        for text in (
            f"target of {name}",
            f"{name} shows <script>",
            f"{name} does not tell <script>",
            f"Table of {name}",
        ):
            assert text in seen.text
    assert "script" not in seen.tags
    assert seen.tags.count("img") == len(report.ORDER)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in seen.links)
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in seen.links if link.startswith("#")} == set(ids)
    assert not re.search(r"url\(|@import|https?://", html)
    assert f"{len(report.ORDER) - 2} of {len(report.ORDER)} targets reached; 1 missed; 1 not measured" in seen.text
    assert "A quick run" in seen.text
    assert "quick runs, whose figures mean nothing: peers" in seen.text
    assert "Not measured" not in seen.text
    assert "default-src 'none'" in html


def test_the_picture_holds_those_of_the_benchmarks() -> None:
    import io

    import numpy as np
    from matplotlib.image import imread

    def panels(files: dict[str, bytes]) -> list[float]:
        """How much ink there is in each quarter below the title."""
        pixels = np.asarray(imread(io.BytesIO(files["report.png"])))[..., :3]
        assert pixels.shape == (1200, 1920, 3)
        quarters = [pixels[120:660, :960], pixels[120:660, 960:], pixels[660:, :960], pixels[660:, 960:]]
        return [float((quarter < 0.5).any(axis=2).mean()) for quarter in quarters]

    every = panels(report.made({name: made(name) for name in report.FIRST}, stand_in))
    one = panels(report.made({"cost": made("cost")}, stand_in))
    assert min(every) > 0.004, "a curve and its axes"
    assert one[3] == pytest.approx(every[3])
    assert 0 < max(one[:3]) < min(every), "a sentence says what is missing"


def test_what_is_absent_or_unknown_is_said(tmp_path: Path) -> None:
    found = {"memory": made("memory", reached=None), "of another version": made("of another version")}
    files = report.made(found, lambda name: stand_in(name) if name == "memory" else None)
    seen = Seen(files["report.html"].decode())
    assert "scaling: speedup and efficiency" in seen.text
    assert "– not measured" in seen.text
    assert "Table of of another version" in seen.text
    assert seen.tags.count("img") == 1


def test_the_command_writes_both_and_says_what_was_reached(tmp_path: Path) -> None:
    result.write(cost_result(), tmp_path / "in" / "cost.json")
    done = called("--results", str(tmp_path / "in"), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "report.png"]
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert "data:image/png;base64," in (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"^reached +cost: an hour's cost at 100 h", done.stdout, re.MULTILINE)
    assert "Not measured: scaling, peers" in done.stdout


@pytest.mark.parametrize(("content", "sentence"), [
    (None, "is no folder"),
    ({}, "There are no results in"),
    ({"cost.json": b"{"}, "cost.json is no result of a benchmark"),
    ({"cost.json": b"\xff\xfe"}, "cost.json is no result of a benchmark"),
    ({"cost.json": made("cost").model_dump_json().encode()}, "is not what this version draws"),
    ({"cost.json": made("cost", figures={"fleets": 1}).model_dump_json().encode()}, "is not what this version draws"),
])  # fmt: skip
def test_what_cannot_be_read_is_a_sentence_and_no_page(
    content: dict[str, bytes] | None, sentence: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(OptionError, match=re.escape(sentence)):
        report.command(["--results", str(folder), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_an_error_is_one_line(tmp_path: Path) -> None:
    done = called("--results", str(tmp_path))
    assert done.returncode != 0
    assert re.fullmatch(r"Error: There are no results in [^\n]+\n", done.stderr)


@pytest.mark.parametrize("taken", ["out", "out/report.png"])
def test_a_folder_that_cannot_be_written_is_a_sentence(taken: str, tmp_path: Path) -> None:
    """Where the folder is a file, or where a folder stands in the place of one of the two."""
    result.write(cost_result(), tmp_path / "in" / "cost.json")
    out = tmp_path / "out"
    if taken == "out":
        out.write_text("in the way")
    else:
        (tmp_path / taken).mkdir(parents=True)
    with pytest.raises(StorageError, match="The report cannot be written to"):
        report.command(["--results", str(tmp_path / "in"), "--out", str(out)])
    if taken != "out":
        assert [path.name for path in out.iterdir()] == ["report.png"], "nothing half-written is left"


def test_what_was_published_can_be_drawn() -> None:
    found = {path.stem: result.read(path) for path in PUBLISHED.glob("*.json")}
    assert all(one.benchmark == name for name, one in found.items())
    if found:
        html = report.made(found)["report.html"].decode()
        assert Seen(html).tags.count("img") == len(found)


def test_a_name_from_a_file_is_no_module() -> None:
    found = made("os.path")
    assert "img" not in Seen(report.made({found.benchmark: found})["report.html"].decode()).tags


def test_a_result_of_another_version_is_told_by_its_name() -> None:
    with pytest.raises(OptionError, match=r"The result of cost .* run it again"):
        report.made({"cost": made("cost")})


@pytest.mark.parametrize(
    ("value", "told"), [(None, "–"), (0.123456, "0.1235"), (12345.6, "12,346"), (7, "7"), ("a", "a"), (0.0, "0")]
)
def test_a_cell_is_written_for_a_person(value: str | float | None, told: str) -> None:
    assert cell(value) == told
