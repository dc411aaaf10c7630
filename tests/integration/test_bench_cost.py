"""`bench cost` runs, and what it leaves is whole; what it finds is nobody's assertion, but that the bill adds up."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.cost_bill import PARTS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.cost", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_quick_run_is_whole(tmp_path: Path) -> None:
    done = called("--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = result.read(tmp_path / "cost.json")
    assert found.quick
    assert {one["kind"] for one in found.repetitions} == {"interruptible", "on demand"}
    for one in found.repetitions:
        assert sum(one["parts"].values()) == pytest.approx(one["usd"], rel=1e-6)
        assert set(one["parts"]) == set(PARTS)
        assert min(one["parts"].values()) >= 0
        assert 0 < one["useful_share"] <= 1
        assert one["machines"] == sum(one["gpus"].values()) > 0
        assert one["usd_per_audio_hour"] * one["hours"] == pytest.approx(one["usd"])
    numbers = [cell for table in found.tables for row in table.rows for cell in row if isinstance(cell, float)]
    assert numbers
    assert all(map(math.isfinite, numbers))
    assert len(found.targets) == 3
    assert all(target.reached is None for target in found.targets), "a quick run has no large job"
    assert found.shows
    assert any("guesses" in caveat for caveat in found.caveats)
    assert any("second-hand" in caveat for caveat in found.caveats)
    png = (tmp_path / "cost.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 20_000
    assert "Dollars per hour of audio" in done.stdout


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [("--speed", "0", "--speed is 0: write a factor"), ("--outbids", "nan", "--outbids is nan: write more than 0")],
)
def test_an_option_that_makes_no_sense_is_refused_in_a_sentence(
    option: str, value: str, sentence: str, tmp_path: Path
) -> None:
    done = called("--quick", option, value, "--out", str(tmp_path))
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_repository_it_says_what_it_needs(tmp_path: Path) -> None:
    """As it is where only the packages were installed."""
    hide = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'tests':\n"
        "            raise ModuleNotFoundError('hidden', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from benchmarks.cost import BENCHMARK\n"
        "from benchmarks.runner import main\n"
        f"sys.argv[1:] = ['--quick', '--out', {str(tmp_path / 'out')!r}]\n"
        "main(BENCHMARK)\n"
    )
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert "needs the emulated market" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
