"""The overhead benchmark runs on the real server and says all it promises; the times are nobody's assertion."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.overhead_times import GROUPS, PHASES
from tests.support.services import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_quick_run_leaves_a_whole_result(tmp_path: Path) -> None:
    require("ffmpeg", "java")
    command = [sys.executable, "-m", "benchmarks.overhead", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = result.read(tmp_path / "overhead.json")
    assert found.quick
    assert {one["kind"] for one in found.repetitions} == {"demo model", "sleep"}
    for one in found.repetitions:
        assert set(one["phases_ms"]) == set(PHASES)
        assert sum(one["phases_ms"].values()) == one["wall_ms"] > 0
        assert one["phases_ms"]["inference"] > 0
        assert one["phases_ms"]["plan"] + one["phases_ms"]["stitch"] > 0
        assert 0 <= one["not_inference"] <= 1
        assert one["chunks"] == len(one["gaps_ms"]) - 1 > 0
    for kind in found.figures["kinds"].values():
        assert set(kind["groups_ms"]) == set(GROUPS)
        assert math.isclose(sum(kind["groups_ms"].values()), kind["wall_ms"])
    assert found.figures["load_s"] > 0, "the worker's log told what loading took"
    assert [target.reached for target in found.targets] == [None, None], "a minute is no 94.5 minutes"
    assert len(found.tables) == 3
    assert found.shows
    assert found.caveats
    assert "Where 1.0 minutes" in ran.stdout
    assert is_drawn(tmp_path / "overhead.png")


def is_drawn(path: Path) -> bool:
    """A PNG of more than one colour."""
    from matplotlib.image import imread

    pixels = imread(path)
    return path.read_bytes().startswith(b"\x89PNG") and float(pixels.std()) > 0.01
