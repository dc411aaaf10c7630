"""Speakers through the real server: one answer however the work is divided, and text that does not depend on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
import soundfile

from benchmarks.speaker_scoring import SaidWord, diarization_error, word_diarization_error
from benchmarks.speech import Recorded, conversation
from tests.conftest import Conductor, Studio
from tests.e2e.test_faults import wait_until, workers_of
from tests.support.command import Ran, start, transcript, whisperfleet
from workers.messages import SpeakerResult
from workers.spans import SAMPLES_PER_MS, Span
from workers.transcript import Transcript

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DEMO = ("--model", "demo", "--language", "en")
SPEAKERS = 3
TEXT_TASKS = "plan_media,split_media,transcribe_chunk,await_speakers,stitch_transcript"


@pytest.fixture(scope="module")
def recorded(studio: Studio) -> Recorded:
    return studio.recording(conversation(SPEAKERS, seed=1, seconds=200))


@dataclass(frozen=True)
class Told:
    """What came of a job: the stored answer's bytes, and the transcript."""

    answer: bytes
    transcript: Transcript


def told(home: Path, folder: Path, stem: str) -> Told:
    (answer,) = home.glob("objects/jobs/*/speakers/*/result.json")
    return Told(answer.read_bytes(), transcript(folder, stem))


@pytest.fixture(scope="module")
def undivided(conductor: Conductor, recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One chunk of text, one of voices, one worker."""
    folder = tmp_path_factory.mktemp("undivided")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHISPERFLEET_HOME", str(folder / "home"))
        run = ("transcribe", recorded.path, *DEMO, "--server", conductor.url, "--processes", 1, "-o", folder)
        ran = whisperfleet(*run, "--chunk-seconds", 600, "--speaker-chunk-seconds", 3600)
    assert ran.returncode == 0, ran.stderr
    return told(folder / "home", folder, recorded.path.stem)


def test_the_undivided_answer_is_right(undivided: Told, recorded: Recorded) -> None:
    found = SpeakerResult.model_validate_json(undivided.answer)
    assert [speaker.name for speaker in found.speakers] == [f"SPEAKER_{n:02d}" for n in range(SPEAKERS)]
    assert undivided.transcript.turns == found.turns
    assert diarization_error(recorded.truth, found.turns).rate <= 0.06
    assert diarization_error(recorded.truth, found.turns, collar_ms=250).rate <= 0.01
    words = [word for segment in undivided.transcript.segments for word in segment.words]
    assert all((word.speaker is None) != (word.no_speaker is None) for word in words)
    said = [SaidWord(word, sentence.speaker) for sentence in recorded.truth for word in sentence.text.split()]
    # 1 % is asked of words whose times are known exactly; the engine's own are good to some 0.2 s
    assert word_diarization_error(said, [SaidWord(word.text, word.speaker) for word in words]) <= 0.03


def test_neither_chunks_nor_workers_nor_a_killed_one_change_a_byte(
    conductor: Conductor, recorded: Recorded, undivided: Told, home: Path, tmp_path: Path
) -> None:
    """Chunks of both kinds fall elsewhere, two workers take them as they come, and one is killed amid its voices."""
    run = ("transcribe", recorded.path, *DEMO, "--server", conductor.url, "--processes", 2, "-o", tmp_path)
    process = start(*run, "--chunk-seconds", 47, "--speaker-chunk-seconds", 23, log=tmp_path / "log")
    wait_until(lambda: len(list(home.glob("objects/jobs/*/voices/*/*.npz"))) >= 2)
    workers_of(process)[0].kill()
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    divided = told(home, tmp_path, recorded.path.stem)
    assert divided.answer == undivided.answer
    assert len(list(home.glob("objects/jobs/*/voices/*/*.npz"))) == 9


def test_speakers_are_added_later_without_transcribing_again(
    conductor: Conductor, recorded: Recorded, undivided: Told, home: Path, tmp_path: Path
) -> None:
    run = ("transcribe", recorded.path, *DEMO, "--server", conductor.url, "--processes", 1, "-o", tmp_path)
    without = whisperfleet(*run, "--chunk-seconds", 600, "--no-diarize")
    assert without.returncode == 0, without.stderr
    plain = transcript(tmp_path, recorded.path.stem)
    assert {word.no_speaker for segment in plain.segments for word in segment.words} == {"off"}
    before = results(home)

    ran = whisperfleet(*run, "--chunk-seconds", 600)

    assert ran.returncode == 0, ran.stderr
    assert told(home, tmp_path, recorded.path.stem).answer == undivided.answer
    assert results(home) == before, "no chunk was transcribed again"
    again = whisperfleet(*run, "--chunk-seconds", 600, "--speakers", 2)
    assert again.returncode == 0, again.stderr
    assert len(transcript(tmp_path, recorded.path.stem).speakers) == 2
    assert results(home) == before


def results(home: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in home.glob("objects/jobs/*/results/*.json")}


def test_a_text_without_diarizers_comes_all_the_same_and_a_retry_adds_the_speakers(
    conductor: Conductor,
    recorded: Recorded,
    undivided: Told,
    home: Path,
    tmp_path: Path,
    worker: Callable[..., "psutil.Process"],
) -> None:
    worker("--model", "demo", "--tasks", TEXT_TASKS)
    run = ("transcribe", recorded.path, *DEMO, "--server", conductor.url, "-o", tmp_path, "--json")
    ran = whisperfleet(*run, "--allow-gaps", "--speaker-wait", 2)
    assert ran.returncode == 0, ran.stderr
    late = transcript(tmp_path, recorded.path.stem)
    assert {word.no_speaker for segment in late.segments for word in segment.words} == {"failed"}
    assert {segment.speaker for segment in late.segments} == {None}
    assert any("names no speakers" in warning and "within 2 s" in warning for warning in late.warnings)
    before = results(home)

    worker("--model", "demo")
    retried = whisperfleet("jobs", "retry", ran.job_id(), "--server", conductor.url, "-o", tmp_path)

    assert retried.returncode == 0, retried.stderr
    assert told(home, tmp_path, recorded.path.stem).answer == undivided.answer
    assert results(home) == before, "no chunk was transcribed again"


def test_a_diarizer_that_fails_is_one_sentence_and_costs_no_text(
    conductor: Conductor, recorded: Recorded, home: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "models"
    broken.mkdir()
    for name in ("segmentation.onnx", "embedding.onnx"):
        (broken / name).write_bytes(b"no model")
    run = ("transcribe", recorded.path, *DEMO, "--server", conductor.url, "--processes", 1, "-o", tmp_path)
    diarizer = ("--diarizer", "onnx", "--diarizer-model", broken)

    ran = whisperfleet(*run, *diarizer)

    assert ran.returncode == 1
    (sentence,) = [line for line in ran.stderr.splitlines() if "the speakers could not be told apart" in line]
    assert "jobs retry" in sentence
    assert "--allow-gaps" in sentence
    before = results(home)
    assert before
    allowed = whisperfleet(*run, *diarizer, "--allow-gaps")
    assert allowed.returncode == 0, allowed.stderr
    assert "names no speakers" in allowed.stderr
    assert transcript(tmp_path, recorded.path.stem).text
    assert results(home) == before


def test_a_person_keeps_the_name_of_a_clip_over_two_recordings(
    conductor: Conductor, recorded: Recorded, tmp_path: Path
) -> None:
    samples, rate = soundfile.read(recorded.path, dtype="int16")
    half_ms = recorded.duration_ms // 2
    halves = []
    for number, (start_ms, end_ms) in enumerate(((0, half_ms), (half_ms, recorded.duration_ms))):
        path = tmp_path / f"half{number}.flac"
        soundfile.write(path, samples[start_ms * SAMPLES_PER_MS : end_ms * SAMPLES_PER_MS], rate)
        halves.append(path)
    said = max((s for s in recorded.truth if s.end_ms < half_ms), key=lambda s: s.end_ms - s.start_ms)
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, samples[said.start_ms * SAMPLES_PER_MS : said.end_ms * SAMPLES_PER_MS], rate)

    ran: Ran = whisperfleet(
        "transcribe", *halves, *DEMO, "--server", conductor.url, "--processes", 1, "-o", tmp_path,
        "--speaker-names", f"Ann={clip}", "--formats", "json,rttm,srt",
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    for path, half in zip(halves, ((0, half_ms), (half_ms, recorded.duration_ms)), strict=True):
        named = [turn.span.shifted(half[0]) for turn in transcript(tmp_path, path.stem).turns if turn.speaker == "Ann"]
        hers = [Span.of(s.start_ms, s.end_ms) for s in recorded.truth if s.speaker == said.speaker]
        spoken_ms = sum(turn.duration_ms for turn in named)
        assert spoken_ms
        assert sum(turn.overlap_ms(true) for turn in named for true in hers) > 0.9 * spoken_ms
        assert " Ann " in (tmp_path / f"{path.stem}.rttm").read_text()
        assert "[Ann]" in (tmp_path / f"{path.stem}.srt").read_text()
