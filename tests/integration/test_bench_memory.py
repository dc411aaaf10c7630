"""`bench memory` runs and leaves a whole record; how much memory that was, nobody asserts."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import result
from benchmarks.memory import PARTS, heard_as_said, speakers_of
from benchmarks.peak import largest_child, peak_bytes, resident_bytes
from benchmarks.speech import Sentence
from tests.support.services import require
from workers.errors import OptionError
from workers.messages import Chunk
from workers.spans import Span
from workers.stitching import stitch

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
TRUTH = (
    Sentence(500, 2_500, "speaker_0", "The queen lost her ticket."),
    Sentence(3_000, 4_900, "speaker_1", "Why did she lose it?"),
    Sentence(5_200, 7_800, "speaker_0", "Nobody knows."),
)


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_quick_run_is_whole(tmp_path: Path, test_cache: Path) -> None:
    require("ffmpeg", "espeak-ng", "flite")
    done = called("--quick", "--cache", str(test_cache / "corpus"), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = result.read(tmp_path / "memory.json")
    assert found.quick
    assert [one["part"] for one in found.repetitions] == 2 * list(PARTS)
    assert len({one["hours"] for one in found.repetitions}) == 2
    assert all(one["peak"] > 1_000_000 and one["seconds"] > 0 for one in found.repetitions)
    assert all(one["peak"] >= one["before"] for one in found.repetitions)
    (table,) = found.tables
    assert len(table.rows) == 2 * len(PARTS)
    assert all(math.isfinite(cell) for row in table.rows for cell in row if isinstance(cell, float))
    assert {target.reached for target in found.targets} == {None}, "minutes tell nothing of 10 hours"
    assert len(found.targets) == len(PARTS)
    assert found.shows
    assert found.caveats
    assert math.isfinite(found.figures["stitch_megabytes_an_hour"])
    sizes = found.figures["bytes_a_word"]
    assert sizes
    assert all(0.5 < each["made"] / each["heard"] < 2 for each in sizes), "made results are of the size of heard ones"
    png = (tmp_path / "memory.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 15_000


@pytest.mark.parametrize("hours", ["1", "1,eleven", "0,1", "1,11"])
def test_lengths_that_make_no_sense_are_refused_in_a_sentence(hours: str, tmp_path: Path) -> None:
    done = called("--hours", hours, "--out", str(tmp_path))
    assert done.returncode == OptionError.exit_code
    assert f"--hours is {hours}: write two lengths" in done.stderr
    assert "Traceback" not in done.stderr


def test_made_results_say_what_was_said() -> None:
    cores = (Span.of(0, 4_000), Span.of(4_000, 10_000))
    made = [heard_as_said(Chunk(index=at, core=core, audio=core), TRUTH) for at, core in enumerate(cores)]
    assert [len(one.segments) for one in made] == [2, 1]
    joined = stitch(made, (), Span.of(0, 10_000))
    words = [word for segment in joined.segments for word in segment.words]
    assert [word.text for word in words] == " ".join(said.text for said in TRUTH).split()
    assert all(earlier.end_ms <= later.start_ms for earlier, later in pairwise(words))
    assert made[0] == heard_as_said(made[0].chunk, TRUTH)


def test_made_speakers_are_those_who_spoke() -> None:
    found = speakers_of(TRUTH)
    assert [(one.name, one.spoken_ms) for one in found.speakers] == [
        ("SPEAKER_speaker_0", 4_600),
        ("SPEAKER_speaker_1", 1_900),
    ]
    assert [turn.span for turn in found.exclusive_turns] == [Span.of(said.start_ms, said.end_ms) for said in TRUTH]


def test_a_peak_is_of_the_program_itself_and_stays() -> None:
    """What a process took and gave back counts; what the process that started it took does not."""
    taken = bytearray(200_000_000)
    assert min(peak_bytes(), resident_bytes()) >= len(taken)
    ask = (
        "import json; from benchmarks.peak import *\n"
        "before = peak_bytes()\n"
        "taken = bytearray(80_000_000)\n"
        "del taken\n"
        "print(json.dumps([before, peak_bytes(), resident_bytes()]))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    before, peak, now = json.loads(done.stdout)
    assert before < 150_000_000
    assert peak >= before + 70_000_000
    assert now < peak


def test_the_largest_child_is_seen() -> None:
    ask = "import time; taken = bytearray(120_000_000); time.sleep(0.5)"
    with largest_child() as seen:
        subprocess.run([sys.executable, "-c", ask], check=True)
    assert max(seen) > 120_000_000
