"""Benchmarks run and say what they promise; what they measure is nobody's assertion."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from workers.diarizers import ge2e
from workers.spans import SAMPLE_RATE

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_the_cost_of_speakers_is_told_with_all_it_was_measured_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.speakers", "--quick", "--json", str(tmp_path / "found.json")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"platform", "cores", "load_before", "python", "onnxruntime", "numpy"} <= set(found["machine"])
    (spent,) = found["repetitions"]
    parts = [spent[part] for part in ("hearing", "speech_map", "clustering")]
    assert min(parts) > 0
    assert spent["people"] == 2, "of the demo recording"
    per_hour = found["processor_seconds_per_hour"]["total"]["median"]
    assert per_hour == pytest.approx(sum(parts) / found["hours"])
    (clustered,) = found["clustering"]
    assert clustered["megabytes"] > 0
    assert clustered["turns"] > 1, "the voices of the long recording were not found again"
    margin = (ge2e.WINDOW - ge2e.STEP) / SAMPLE_RATE  # of each chunk but the last
    assert found["heard_twice"]["ge2e"]["300"] == pytest.approx(11 * margin / 3600)
    assert "target 60" in ran.stdout
