"""Benchmarks run and say what they promise; what they measure is nobody's assertion."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.result import Result
from tests.support.services import require
from workers.diarizers import ge2e
from workers.spans import SAMPLE_RATE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def quick(name: str, folder: Path, *options: str) -> tuple[Result, str]:
    """What a quick run wrote and said; it also drew a picture."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--out", str(folder), *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    found = result.read(folder / f"{name}.json")
    assert (found.benchmark, found.quick) == (name, True)
    assert all(len(row) == len(table.columns) for table in found.tables for row in table.rows)
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return found, ran.stdout


def test_the_cost_of_speakers_is_told_with_all_it_was_measured_on(tmp_path: Path) -> None:
    found, said = quick("speakers", tmp_path)
    assert {"platform", "cores", "load_before", "python", "onnxruntime", "numpy"} <= set(found.machine)
    spent, clustered = found.repetitions
    parts = [spent[part] for part in ("hearing", "speech_map", "clustering")]
    assert min(parts) > 0
    assert spent["people"] == 2, "of the demo recording"
    per_hour = found.figures["processor_seconds_per_hour"]["total"]["median"]
    assert per_hour == pytest.approx(sum(parts) / found.figures["hours"])
    assert clustered["megabytes"] > 0
    assert clustered["turns"] > 1, "the voices of the long recording were not found again"
    margin = (ge2e.WINDOW - ge2e.STEP) / SAMPLE_RATE  # of each chunk but the last
    assert found.figures["heard_twice"]["ge2e"]["300"] == pytest.approx(11 * margin / 3600)
    assert "wanted at most 60 s" in said


def test_the_cost_of_splitting_is_told_for_each_format(tmp_path: Path) -> None:
    require("espeak-ng", "flite")
    found, said = quick("split", tmp_path)
    assert {pair["format"] for pair in found.repetitions} == {"mp3", "m4a", "flac"}
    assert all(pair["ratio"] == pytest.approx(pair["split"] / pair["decode"]) for pair in found.repetitions)
    assert all(pair["chunks"] >= 1 for pair in found.repetitions)
    assert "not measured: splitting mp3" in said
