"""The scaling benchmark runs, and its record is whole; its times are nobody's assertion."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result as results
from tests.support.services import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_quick_run_is_whole(tmp_path: Path) -> None:
    require("ffmpeg", "espeak-ng", "flite", "java")
    command = [sys.executable, "-m", "benchmarks.scaling", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = results.read(tmp_path / "scaling.json")
    assert found.quick
    assert [(row["workers"], row["variant"]) for row in found.repetitions] == [
        (1, "plain"),
        (2, "plain"),
        (4, "plain"),
        (4, "killed"),
    ]
    for row in found.repetitions:
        times = row["times"]
        assert all(math.isfinite(value) for value in (row["seconds"], row["ideal_s"], *times.values()))
        assert 0 < row["efficiency"] < 1, "no job is faster than the ideal"
        assert row["attempts"] >= row["chunks"]
        order = ("plan_started", "plan_ended", "cut_first", "heard_first", "heard_last", "stitch_started", "ended")
        assert [times[name] for name in order] == sorted(times[name] for name in order)
        parts = ("before", "between", "after", "inference", "lost")
        assert sum(times[part] for part in parts) == pytest.approx(times["heard_last"], abs=0.01)
    one = found.repetitions[0]
    assert one["times"]["inference"] >= 0.9 * one["ideal_s"], "it slept as long as it was to"
    assert [point["variant"] for point in found.figures["points"]] == ["plain", "plain", "plain", "killed"]
    assert len(found.tables) == 4
    assert all(len(table.rows) == 4 for table in found.tables)
    assert [target.reached for target in found.targets] == [None, None, None]
    assert found.shows
    assert found.caveats
    picture = (tmp_path / "scaling.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
