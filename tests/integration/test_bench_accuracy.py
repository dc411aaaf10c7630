"""`bench accuracy` runs, and what it leaves is whole; asserted is only what holds for any recording."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.accuracy_report import FLEET_SIZES
from tests.support.services import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
LENGTHS = {"20 s", "30 s", "auto for 1", "auto for 16", "serial"}


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.accuracy", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_quick_run_is_whole(tmp_path: Path, test_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("ffmpeg", "espeak-ng", "flite")
    monkeypatch.setenv("XDG_CACHE_HOME", str(test_cache))
    done = called("--quick", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    found = result.read(tmp_path / "accuracy.json")
    assert found.quick
    assert {one["length"] for one in found.repetitions} == LENGTHS
    assert len(found.repetitions) == 2 * len(LENGTHS)
    for one in found.repetitions:
        assert sum(one["chunks_s"]) == pytest.approx(one["seconds"])
        assert one["covered"]
        assert one["same_samples_as_serial"]
        assert one["same_turns_as_serial"] in (True, None)
        assert 0 <= sum(one["errors"].values()) == round(one["wer"] * one["words"])
        assert one["near_cuts"]["words"] <= one["words"]
    assert_serial_is_serial([one for one in found.repetitions if one["length"] == "serial"])
    numbers = [cell for table in found.tables for row in table.rows for cell in row if isinstance(cell, int | float)]
    assert len(found.tables) == 4
    assert all(map(math.isfinite, numbers))
    assert all(set(sizes) == {str(size) for size in FLEET_SIZES} for sizes in found.figures["speed"].values())
    assert {target.name: target.reached for target in found.targets if target.name in ("coverage", "speakers")} == {
        "coverage": True,
        "speakers": True,
    }
    assert found.shows
    assert found.caveats
    png = (tmp_path / "accuracy.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 20_000


def assert_serial_is_serial(runs: list[dict[str, object]]) -> None:
    assert [one["kind"] for one in runs] == ["with pauses", "without pauses"]
    for one in runs:
        assert one["chunks_s"] == [one["seconds"]]
        assert one["wer"] == one["serial_wer"]
        assert one["unlike_serial"] == 0
        assert one["near_cuts"] == {"errors": 0, "control": 0, "words": 0}
    assert [one["der"] is not None for one in runs] == [True, False]


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [("--minutes", "61", "--minutes is 61: write 1 to 60"), ("--processes", "0", "--processes is 0: write 1 or more")],
)
def test_an_option_that_makes_no_sense_is_refused_in_a_sentence(
    option: str, value: str, sentence: str, tmp_path: Path
) -> None:
    done = called(option, value, "--out", str(tmp_path))
    assert done.returncode != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
