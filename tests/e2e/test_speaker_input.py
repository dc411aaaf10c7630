"""Recordings and wishes that no speakers can be told from, as a user meets them: a sentence each, and no harm done."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import soundfile
from numpy.typing import NDArray

from tests.conftest import Conductor
from tests.e2e.test_faults import wait_until
from tests.support.command import Ran, transcript, whisperfleet
from workers.models import demo_recording
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS
from workers.transcript import Transcript

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DEMO = ("--model", "demo", "--language", "en")
NOBODY = ("silence", "music")
MEDIA = (*NOBODY, "one", "short")


def said_by(speaker: str) -> NDArray[np.int16]:
    """All that one of the two people of the demo recording says."""
    samples, _ = soundfile.read(demo_recording(), dtype="int16")
    sentences = json.loads(demo_recording().with_suffix(".json").read_text())["segments"]
    own = [(one["start_ms"] - 150, one["end_ms"] + 150) for one in sentences if one["speaker"] == speaker]
    return np.concatenate([samples[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS] for start, end in own])


def music(seconds: int) -> NDArray[np.int16]:
    """Four chords in turn over hiss."""
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    root = 220 * 2 ** (np.array([0, 5, 7, 0])[(time // 2 % 4).astype(int)] / 12)
    chord = sum(np.sin(2 * np.pi * root * ratio * time) for ratio in (1, 5 / 4, 3 / 2, 2))
    return np.asarray(1500 * chord + np.random.default_rng(1).normal(0, 600, len(time)), np.int16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings to transcribe, `other.flac` with the second person's voice, a text file, and a folder of no model."""
    folder = tmp_path_factory.mktemp("recordings")
    one = said_by("speaker_0")
    recordings = {
        "silence": np.zeros(10 * SAMPLE_RATE, np.int16),
        "music": music(10),
        "one": one,
        "short": one[SAMPLE_RATE // 4 :][:SAMPLE_RATE],  # a window of the default diarizer is 1.6 s
        "other": said_by("speaker_1")[: 8 * SAMPLE_RATE],
    }
    for name, samples in recordings.items():
        soundfile.write(folder / f"{name}.flac", samples, SAMPLE_RATE)
    (folder / "text.wav").write_text("Dear diary, this is no voice.\n")
    (folder / "empty").mkdir()
    return folder


# ---- what the recording does not hold ----


class Told:
    """What a command over all of MEDIA said and wrote."""

    def __init__(self, ran: Ran, out: Path) -> None:
        assert ran.returncode == 0, ran.stderr
        self._ran, self.out = ran, out

    def of(self, name: str) -> Transcript:
        return transcript(self.out, name)

    def lines(self, name: str) -> list[str]:
        """Warnings on a recording, and the one line that sums it up."""
        lines = [line for line in self._ran.stderr.splitlines() if f"{name}.flac" in line]
        return [line for line in lines if line.startswith("Warning: ") or "of audio done in" in line]


@pytest.fixture(scope="module")
def home_of_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second command finds the words of the first."""
    return tmp_path_factory.mktemp("home")


def transcribed(conductor: Conductor, folder: Path, home: Path, *options: object) -> Told:
    out = home / f"out-{len(options)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHISPERFLEET_HOME", str(home))
        ran = whisperfleet(
            *("transcribe", *(folder / f"{name}.flac" for name in MEDIA), *DEMO, "--formats", "json,srt,html,rttm"),
            *("--server", conductor.url, "--processes", 1, "-o", out, *options),
        )
    return Told(ran, out)


@pytest.fixture(scope="module")
def plain(conductor: Conductor, folder: Path, home_of_all: Path) -> Told:
    return transcribed(conductor, folder, home_of_all)


@pytest.fixture(scope="module")
def asked(conductor: Conductor, folder: Path, home_of_all: Path, plain: Told) -> Told:
    """Three people asked for where one speaks, and somebody named who is not there."""
    name = f"Ann={folder / 'other.flac'}"
    return transcribed(conductor, folder, home_of_all, "--speakers", 3, "--speaker-names", name)


@pytest.mark.parametrize("name", NOBODY)
def test_without_speech_there_are_no_speakers_and_one_warning(plain: Told, name: str) -> None:
    found = plain.of(name)
    assert (found.segments, found.speakers, found.turns, found.gaps) == ((), (), (), ())
    warning, done = plain.lines(name)
    assert warning == f"Warning: No speech was found in '{name}.flac': the transcript is empty."
    assert "no speakers" in done
    assert (plain.out / f"{name}.rttm").read_text() == ""
    assert (plain.out / f"{name}.html").stat().st_size


@pytest.mark.parametrize("name", ["one", "short"])
def test_one_speaker_is_one_person_in_a_long_recording_and_in_less_than_a_window(plain: Told, name: str) -> None:
    found = plain.of(name)
    assert [speaker.name for speaker in found.speakers] == ["SPEAKER_00"]
    words = [word for segment in found.segments for word in segment.words]
    assert words
    assert {word.speaker for word in words} == {"SPEAKER_00"}
    assert 0 < found.turns[0].start_ms + 1 <= found.turns[-1].end_ms <= found.duration_ms
    (done,) = plain.lines(name)
    assert "1 speaker" in done


@pytest.mark.parametrize("name", ["one", "short"])
def test_more_speakers_than_there_are_is_a_warning(asked: Told, name: str) -> None:
    found = asked.of(name)
    assert all(word.speaker for segment in found.segments for word in segment.words)
    (doubt,) = [warning for warning in found.warnings if "asked for" in warning]
    assert re.match("3 speakers were asked for, but only 1 voice can be told apart", doubt)
    assert f"Warning: {name}.flac: {doubt}" in asked.lines(name)


def test_a_name_for_somebody_who_is_not_there_is_a_warning(asked: Told) -> None:
    assert "Warning: silence.flac: Nobody was named 'Ann': nobody speaks in the recording." in asked.lines("silence")
    (stranger,) = [warning for warning in asked.of("one").warnings if "Ann" in warning]
    assert re.match(r"Nobody was named 'Ann': the voice nearest to the clip is that of SPEAKER_0\d", stranger)


# ---- what cannot be done, told before any work ----


def without_pyannote(folder: Path) -> dict[str, str]:
    """What to add to the environment of a command for which pyannote.audio is not installed, whether it is or not."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import importlib.metadata, sys\n"
        "def version(name, known=importlib.metadata.version):\n"
        "    if name == 'pyannote.audio':\n"
        "        raise importlib.metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "importlib.metadata.version = version\n"
        "sys.modules['pyannote.audio'] = None\n"
    )
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(Path.cwd())])}


ONLY_SHE = re.escape("(its first minute counts): give some seconds in which only that person speaks.")
REFUSED = {
    "--speaker-names Ann={folder}/silence.flac": (
        3,
        f"The reference clip of Ann: nobody speaks in 'silence.flac' {ONLY_SHE}",
    ),
    "--speaker-names Ann={folder}/text.wav": (
        3,
        "The reference clip of Ann: 'text.wav' is no audio or video that ffmpeg can read: check that .*",
    ),
    "--diarizer pyannote": (
        6,
        r'The diarizer pyannote is not installed here: pip install "whisperfleet\[pyannote\]", or take .* ge2e.',
    ),
    "--diarizer onnx --diarizer-model {folder}/empty": (
        6,
        "The model folder '.*/empty' lacks segmentation.onnx and embedding.onnx: give a folder with .*",
    ),
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_done_is_one_sentence_before_any_work(
    options: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in without_pyannote(tmp_path / "bare").items():
        monkeypatch.setenv(name, value)
    arguments = [argument.format(folder=folder) for argument in options.split()]
    ran = whisperfleet("transcribe", folder / "one.flac", *DEMO, "-o", tmp_path / "out", *arguments, timeout_s=100)
    code, sentence = REFUSED[options]
    assert ran.returncode == code, ran.stderr
    assert re.fullmatch(f"Error: {sentence}", ran.stderr.rstrip("\n")), ran.stderr
    assert ran.stdout == ""
    assert not list((tmp_path / "out").glob("*"))


def test_a_form_checks_nothing_so_the_plan_does(
    conductor: Conductor, folder: Path, worker: Callable[..., "psutil.Process"]
) -> None:
    wishes: dict[str, dict[str, object]] = {
        r"diarizer is 'siri': write ge2e, pyannote or onnx\.": {"diarizer": "siri"},
        r"min_speakers \(4\) is over max_speakers \(2\): change one of them\.": {
            "min_speakers": 4,
            "max_speakers": "2",
        },
        r"speakers is '0': write a number from 1 to 100\.": {"speakers": 0},
        r"The reference clip of Ann: '.*none\.wav' does not exist on this machine: check the path\.": {
            "speaker_names": f"Ann={folder / 'none.wav'}"
        },
        rf"The reference clip of Ann: nobody speaks in 'music\.flac' {ONLY_SHE}": {
            "speaker_names": {"Ann": str(folder / "music.flac")}
        },
        r"The diarizer onnx brings no models of its own: name a folder with .* by --diarizer-model\.": {
            "diarizer": "onnx"
        },
    }
    worker("--model", "demo", "--tasks", "plan_media")
    start = f"{conductor.url}/workflow/transcribe_media"
    given = {"media": str(folder / "one.flac"), "model": "demo", "language": "en"}
    jobs = {sentence: httpx.post(start, json=given | wish, timeout=30).text for sentence, wish in wishes.items()}

    def state(job: str) -> dict[str, object]:
        return dict(httpx.get(f"{conductor.url}/workflow/{job}", timeout=30).json())

    wait_until(lambda: all(state(job)["status"] != "RUNNING" for job in jobs.values()))
    for sentence, job in jobs.items():
        ended = state(job)
        assert ended["status"] == "FAILED", sentence
        assert re.search(sentence, str(ended["reasonForIncompletion"])), ended["reasonForIncompletion"]
