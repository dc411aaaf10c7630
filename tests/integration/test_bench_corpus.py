"""The corpus is the same wherever it is made, its truth is true of its sound, and `bench corpus` leaves a record."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import corpus, result
from benchmarks.speech import Recorded, Sentence, join_recordings
from tests.support.services import require
from workers.errors import OptionError
from workers.media import probe
from workers.spans import SAMPLES_PER_MS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SPOKEN = ("short-0", "noisy", "overlapping", "bilingual", "hours")


@pytest.fixture(scope="module")
def quick(test_cache: Path) -> dict[str, Recorded]:
    require("espeak-ng", "flite")
    return {name: corpus.recording(name, test_cache / "corpus", quick=True) for name in SPOKEN}


def samples(path: Path) -> "np.ndarray[tuple[int], np.dtype[np.int16]]":
    audio, _ = soundfile.read(path, dtype="int16")
    return np.asarray(audio)


def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.corpus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_a_quick_run_is_whole(tmp_path: Path, test_cache: Path) -> None:
    require("espeak-ng", "flite")
    into = tmp_path / "into"
    done = called(
        *("--quick", "--names", "short-0,hours", "--seed", "1", "--into", str(into)),
        *("--cache", str(test_cache / "corpus"), "--out", str(tmp_path)),
    )
    assert done.returncode == 0, done.stderr
    found = result.read(tmp_path / "corpus.json")
    assert found.quick
    assert found.shows
    assert found.caveats
    assert [target.reached for target in found.targets] == [True]
    assert len(found.repetitions) == 3, "two recordings, and one of them again"
    (table,) = found.tables
    assert [row[0] for row in table.rows] == ["short-0", "hours"]
    assert all(math.isfinite(cell) for row in table.rows for cell in row if isinstance(cell, float))
    assert set(found.figures["timelines"]) == {"short-0", "hours"}
    png = (tmp_path / "corpus.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    assert len(png) > 15_000
    for told in found.repetitions[:2]:
        assert_written(into, told["name"], told["words"])


def assert_written(into: Path, name: str, words: int) -> None:
    """The three files agree with each other and with the record."""
    truth = json.loads((into / f"{name}.json").read_text(encoding="utf-8"))
    assert truth["words"] == words == sum(len(one["text"].split()) for one in truth["sentences"])
    assert soundfile.info(str(into / f"{name}.flac")).frames == truth["duration_ms"] * SAMPLES_PER_MS
    turns = [line.split() for line in (into / f"{name}.rttm").read_text(encoding="utf-8").splitlines()]
    assert [(turn[1], turn[7], round(float(turn[3]) * 1000), round(float(turn[4]) * 1000)) for turn in turns] == [
        (name, one["speaker"], one["start_ms"], one["end_ms"] - one["start_ms"]) for one in truth["sentences"]
    ]
    assert {len(turn) for turn in turns} == {10}
    assert sorted({turn[7] for turn in turns}) == truth["speakers"]


def test_equal_seeds_give_equal_bytes_and_others_do_not(quick: dict[str, Recorded], tmp_path: Path) -> None:
    same = corpus.recording("short-0", tmp_path / "same", quick=True)
    other = corpus.recording("short-0", tmp_path / "other", quick=True, seed=2)
    first = quick["short-0"]
    assert same.path != first.path
    assert same.path.read_bytes() == first.path.read_bytes()
    assert same.truth == first.truth
    assert other.truth != first.truth
    assert not np.array_equal(samples(other.path), samples(first.path))


@pytest.mark.parametrize("name", SPOKEN)
def test_the_truth_is_ascending_and_inside_its_audio(name: str, quick: dict[str, Recorded]) -> None:
    recorded = quick[name]
    audio = samples(recorded.path)
    assert len(audio) == recorded.duration_ms * SAMPLES_PER_MS
    starts = [said.start_ms for said in recorded.truth]
    assert starts == sorted(starts)
    assert all(0 <= said.start_ms < said.end_ms <= recorded.duration_ms for said in recorded.truth)
    for speaker in {said.speaker for said in recorded.truth}:
        own = [said for said in recorded.truth if said.speaker == speaker]
        assert all(said.end_ms < later.start_ms for said, later in pairwise(own)), "nobody talks over themselves"


@pytest.mark.parametrize("name", SPOKEN)
def test_it_sounds_where_somebody_speaks_and_nowhere_else(name: str, quick: dict[str, Recorded]) -> None:
    audio, speaking = samples(quick[name].path).astype(np.float64), spoken(quick[name])
    assert loudness(audio[speaking]) > loudness(audio[~speaking]) + 12
    quiet_db = corpus.NOISE_DB if name == "noisy" else -54
    assert loudness(audio[~speaking]) < quiet_db + 1


def spoken(recorded: Recorded) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    speaking = np.zeros(recorded.duration_ms * SAMPLES_PER_MS, np.bool_)
    for said in recorded.truth:
        speaking[said.start_ms * SAMPLES_PER_MS : said.end_ms * SAMPLES_PER_MS] = True
    return speaking


def loudness(audio: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """In dB of full scale."""
    return float(20 * np.log10(np.sqrt((audio**2).mean()) / 32768 + 1e-9))


def test_the_noise_is_15_db_below_the_speech(quick: dict[str, Recorded]) -> None:
    audio, speaking = samples(quick["noisy"].path).astype(np.float64), spoken(quick["noisy"])
    noise = (audio[~speaking] ** 2).mean()
    assert 10 * np.log10(((audio[speaking] ** 2).mean() - noise) / noise) == pytest.approx(15, abs=1.5)


def test_two_people_speak_at_once_and_never_three(quick: dict[str, Recorded]) -> None:
    assert most_at_once(quick["overlapping"].truth) == 2
    assert most_at_once(quick["short-0"].truth) == 1


def most_at_once(truth: Sequence[Sentence]) -> int:
    changes = sorted([(said.start_ms, 1) for said in truth] + [(said.end_ms, -1) for said in truth])
    now = [0]
    for _, change in changes:
        now.append(now[-1] + change)
    return max(now)


def test_a_joined_recording_is_its_parts(quick: dict[str, Recorded], tmp_path: Path) -> None:
    part, other = quick["short-0"], quick["bilingual"]
    joined = join_recordings([("one", part), ("two", other), ("one", part)], 65.0, tmp_path)
    audio, own = samples(joined.path), samples(part.path)
    assert joined.duration_ms == 65_000
    assert np.array_equal(audio[: len(own)], own)
    again = (part.duration_ms + other.duration_ms) * SAMPLES_PER_MS
    repeated = [said for said in joined.truth if said.start_ms >= again // SAMPLES_PER_MS]
    assert [said.text for said in repeated] == [said.text for said in part.truth[: len(repeated)]]
    cut = part.truth[len(repeated)].start_ms * SAMPLES_PER_MS  # of the sentence that does not fit nothing is heard
    assert np.array_equal(audio[again : again + cut], own[:cut])
    assert not audio[again + cut :].any()
    assert {said.speaker for said in joined.truth} == {
        *(f"one_{said.speaker}" for said in part.truth),
        *(f"two_{said.speaker}" for said in other.truth),
    }


@pytest.mark.parametrize("encoding", ["mp3", "m4a", "wav"])
def test_a_recording_is_had_in_the_formats_of_users(
    encoding: corpus.Encoding, quick: dict[str, Recorded], tmp_path: Path
) -> None:
    require("ffmpeg")
    recorded = quick["short-0"]
    path = corpus.encoded(recorded, encoding, tmp_path)
    assert path == corpus.encoded(recorded, encoding, tmp_path)
    assert path.suffix == f".{encoding}"
    info = probe(path)
    assert info.audio_tracks == 1
    if info.duration_ms is not None:
        assert info.duration_ms == pytest.approx(recorded.duration_ms, abs=100)
    assert corpus.encoded(recorded, "flac", tmp_path) == recorded.path


def test_an_unknown_name_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="There is no recording 'opera': the names are lecture, talk, short-0"):
        corpus.recording("opera", tmp_path)
    done = called("--names", "lecture,opera", "--out", str(tmp_path))
    assert done.returncode == OptionError.exit_code
    assert "There is no recording 'opera'" in done.stderr
    assert "Traceback" not in done.stderr
