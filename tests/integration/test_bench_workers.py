"""The benchmark of workers and threads runs with real engines and workers and says all it promises."""

import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result
from tests.support.services import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_quick_run_leaves_a_whole_result(tmp_path: Path) -> None:
    require("ffmpeg", "java")
    command = [sys.executable, "-m", "benchmarks.workers", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = result.read(tmp_path / "workers.json")
    parts: dict[str, list[str]] = {}
    for one in found.repetitions:
        parts.setdefault(one["part"], []).append(one["setting"])
        assert math.isfinite(one["seconds"])
        assert one["seconds"] > 0
        if one["part"] != "simulated":
            assert one["rtfx"] == pytest.approx(one["audio_s"] / one["seconds"])
            assert one["peak_mb"] > 0
    assert len(parts["engine"]) == 3
    assert len(parts["product"]) == 2
    assert {"1 on 1", "6 on 3"} <= set(parts["simulated"])
    for measured in ("engine", "product"):
        for name, ratios in found.figures[measured].items():
            assert all(ratio > 0 for ratio in ratios), name
        base = next(iter(found.figures[measured].values()))
        assert statistics.median(base) == 1, "others are compared to the first"
    assert len(found.tables) == 4
    assert any("SIMULATED" in table.title for table in found.tables)
    assert any("num_workers" in sentence for sentence in found.shows)
    assert any("6 workers on 3 devices" in sentence for sentence in found.shows)
    assert found.caveats
    assert [target.reached for target in found.targets] == [True]
    assert "MISSED" not in ran.stdout
    assert is_drawn(tmp_path / "workers.png")


def is_drawn(path: Path) -> bool:
    """A PNG of more than one colour."""
    from matplotlib.image import imread

    pixels = imread(path)
    return path.read_bytes().startswith(b"\x89PNG") and float(pixels.std()) > 0.01
