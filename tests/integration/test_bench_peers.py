"""The peers' benchmark runs on the real server beside real peers; who is ahead is nobody's assertion."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import result as results
from tests.support.services import require

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

MEASURED = {
    *("openai-whisper", "faster-whisper", "faster-whisper-batched"),
    *("whisperfleet-1-worker", "whisperfleet-2-workers"),
}


def test_a_quick_run_is_whole(tmp_path: Path) -> None:
    require("ffmpeg", "espeak-ng", "flite", "java")
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = results.read(tmp_path / "peers.json")
    absent = found.figures["absent"]
    assert {"whisperx", "whisperx-on-ray"} <= set(absent), "they have an environment of their own"
    measured = {row["name"] for row in found.repetitions}
    assert measured <= MEASURED
    assert measured | set(absent) >= MEASURED - {"whisperfleet-2-workers"}
    speeds = [row for row in found.repetitions if row["pass"] == "speed"]
    for name in measured:
        assert sorted(row["shape"] for row in speeds if row["name"] == name) == ["long", "short"]
    for row in speeds:
        numbers = [row[key] for key in ("wall_s", "load_s", "processor_s", "peak_mib", "audio_s")]
        assert all(math.isfinite(number) and number > 0 for number in numbers), row
    timed = {row["name"] for row in found.repetitions if row["pass"] == "words"}
    assert {"faster-whisper", "faster-whisper-batched", "whisperfleet-1-worker"} <= timed
    for shape in ("long", "short"):
        assert set(found.figures["rtfx"][shape]) == measured
        assert all(wrong < 50 for wrong in found.figures["wer_percent"][shape].values()), "all heard what was said"
    assert len(found.tables) == 5
    assert len(found.targets) == 15, "long, short and words, for each of five peers"
    assert {target.reached for target in found.targets} == {None}, "half a minute is no measure"
    assert found.shows
    assert found.caveats
    picture = (tmp_path / "peers.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
