"""The benchmark of weights of real size runs with real engines, server and worker; nobody asserts who is faster."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result as results
from benchmarks.engines_tables import BARE, WORKER
from tests.support.services import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_quick_run_is_whole(tmp_path: Path) -> None:
    require("ffmpeg", "java")
    command = [sys.executable, "-m", "benchmarks.engines", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = results.read(tmp_path / "engines.json")
    ways = {row["way"]: row for row in found.repetitions}
    assert {"faster-whisper", "faster-whisper, batches of 2", BARE, WORKER} <= set(ways)
    for name, row in ways.items():
        assert row["windows"] == 1, f"{name} heard another text than the script, or a part of it twice"
        numbers = [row[key] for key in ("rtfx", "processor_s_per_hour", "peak_mib")]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
    worker = ways[WORKER]
    assert worker["job_rtfx"] < worker["rtfx"] <= worker["inference_rtfx"], "a job is more than its chunks"
    assert worker["server_s_per_hour"] > 0
    assert found.figures["ratios"]["tiny"][BARE] == [1.0]
    assert len(found.tables) == 2
    assert [target.reached for target in found.targets] == [None], "half a minute is no measure"
    assert found.shows
    assert found.caveats
    assert (tmp_path / "engines.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--shapes", "base,enormous"), "--shapes has 'enormous': take of tiny"),
        (("--device", "tpu"), "--device is 'tpu': write cpu or cuda."),
        (("--batches", "1,x"), "--batches is '1,x': write whole numbers from 1"),
        (("--processes", "0"), "--processes is '0': write whole numbers from 1"),
        (("--minutes", "0"), "--minutes is 0: write more than 0."),
        (("--limit", "-1"), "--limit is -1: write more than 0."),
        (("--recording", "nowhere.flac"), "--recording nowhere.flac cannot be read"),
    ],
)
def test_wrong_options_get_one_sentence(tmp_path: Path, options: tuple[str, ...], sentence: str) -> None:
    command = [sys.executable, "-m", "benchmarks.engines", *options, "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not list(tmp_path.iterdir())
