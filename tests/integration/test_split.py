"""plan_media and split_media on real files: planted bursts must be found where they were planted."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.speech import Script
from tests.conftest import Studio
from tests.support.media import Job, assert_tiled, bursts, context, ffmpeg, write_wav
from workers.errors import MediaError, OptionError, WorkAborted
from workers.messages import Chunk, JobInput, JobKeys, JobPlan, SplitMediaInput
from workers.spans import SAMPLE_RATE, Span
from workers.stages.plan import plan_media
from workers.stages.split import split_media

pytestmark = pytest.mark.integration

SECONDS = 150
PLANTED = [400, 9_000, 17_500, 31_000, 44_444, 58_000, 73_210, 90_001, 101_000, 118_750, 133_000, 149_500]
TOLERANCE_MS = 30  # a codec's frame and its pre-echo; drift would grow past it

# name: encoder and container options; "video" adds a small picture track
FORMATS: dict[str, tuple[str, str]] = {
    "mp4": ("m.mp4", "video -c:v mpeg4 -c:a aac -b:a 96k -ar 48000 -ac 2"),
    "mp4-audio": ("m.m4a", "-c:a aac -b:a 64k -ar 44100"),
    "mkv": ("m.mkv", "video -c:v mpeg4 -c:a libvorbis -ar 44100 -ac 2"),
    "mkv-late": ("m.mkv", "video late -c:v mpeg4 -c:a ac3 -ar 48000"),
    "webm": ("m.webm", "-c:a libopus -b:a 48k"),
    "mov": ("m.mov", "video -c:v mjpeg -c:a pcm_s16be -ar 44100"),
    "avi": ("m.avi", "video -c:v mpeg4 -c:a libmp3lame -b:a 128k -ar 44100"),
    "avi-vbr": ("m.avi", "video -c:v mpeg4 -c:a libmp3lame -q:a 5 -ar 44100"),
    "ts": ("m.ts", "video -c:v mpeg2video -c:a mp2 -ar 48000"),
    "mp3-cbr": ("m.mp3", "-c:a libmp3lame -b:a 64k -ar 44100"),
    "mp3-vbr": ("m.mp3", "-c:a libmp3lame -q:a 6 -ar 44100"),
    "mp3-vbr-without-xing": ("m.mp3", "-c:a libmp3lame -q:a 6 -ar 44100 -write_xing 0 -id3v2_version 0"),
    "aac-adts": ("m.aac", "-c:a aac -b:a 64k -ar 44100"),
    "ogg-opus": ("m.ogg", "-c:a libopus -b:a 32k"),
    "ogg-vorbis": ("m.ogg", "-c:a libvorbis -ar 44100"),
    "flac": ("m.flac", "-c:a flac -ar 48000"),
    "wav-8k": ("m.wav", "-ar 8000"),
    "wav-44k": ("m.wav", "-ar 44100 -ac 2"),
    "wav-48k-5.1": ("m.wav", "-ar 48000 -ac 6"),
    "mp4-5.1": ("m.mp4", "-c:a aac -ar 48000 -ac 6"),
    "mp4-late": ("m.mp4", "video late -c:v mpeg4 -c:a aac -ar 44100"),
}


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("planted") / "planted.wav", bursts(SECONDS, PLANTED))


def encode(planted: Path, folder: Path, name: str) -> Path:
    file, text = FORMATS[name]
    options = text.split()
    picture: list[str | Path] = []
    if "video" in options:
        picture = ["-f", "lavfi", "-i", f"color=black:s=64x64:r=5:d={SECONDS + 3}"]
    # the sound sets on 2.5 s late on the media's clock; what it holds comes that much later
    late = ["-itsoffset", "2.5"] if "late" in options else []
    kept = [option for option in options if option not in ("video", "late")]
    ffmpeg(*picture, *late, "-i", planted, *kept, folder / file)
    return folder / file


@pytest.mark.parametrize("name", FORMATS)
def test_bursts_are_found_where_they_were_planted(name: str, planted: Path, tmp_path: Path) -> None:
    media = encode(planted, tmp_path, name)
    job = Job(JobInput(media=str(media), chunk_seconds=30, language="en"), context(tmp_path / "home"))
    later = 2_500 if "late" in name else 0
    expected = [at + later for at in PLANTED]
    found = job.found(tmp_path)
    assert len(found) == len(expected), (found, expected)
    assert max(abs(at - true) for at, true in zip(found, expected, strict=True)) <= TOLERANCE_MS, (found, expected)
    assert_tiled(job.chunks, 0, job.split.duration_ms)
    assert abs(job.split.duration_ms - SECONDS * 1000 - later) <= 200
    assert abs(job.plan.duration_ms - job.split.duration_ms) <= 500
    assert job.split.warnings == ()
    assert job.split.missing_from_ms is None


def test_the_second_track_is_another(planted: Path, tmp_path: Path) -> None:
    other = write_wav(tmp_path / "other.wav", bursts(SECONDS, [20_000, 66_000]))
    media = tmp_path / "two.mkv"
    ffmpeg("-i", planted, "-i", other, "-map", "0:a", "-map", "1:a", "-c:a", "flac", media)
    job = Job(JobInput(media=str(media), chunk_seconds=60, language="en", audio_track=2), context(tmp_path / "home"))
    assert job.found(tmp_path) == [20_000, 66_000]
    with pytest.raises(MediaError, match="has 2 audio tracks, so there is no track 3"):
        plan_media(JobInput(media=str(media), audio_track=3), context(tmp_path / "home"))


@pytest.mark.parametrize("name", ["mp3-vbr", "mp4"])
def test_start_and_end_are_exact_by_counted_samples(name: str, planted: Path, tmp_path: Path) -> None:
    media = encode(planted, tmp_path, name)
    whole = Job(JobInput(media=str(media), chunk_seconds=3600, language="en"), context(tmp_path / "home"))
    part = Job(
        JobInput(media=str(media), chunk_seconds=20, language="en", start="17.123", end="1:13.004"),
        context(tmp_path / "home"),
    )
    assert_tiled(part.chunks, 17_123, 73_004)
    heard = np.concatenate([part.audio(chunk, tmp_path) for chunk in part.chunks])
    reference = whole.audio(whole.chunks[0], tmp_path)[17_123 * 16 : 73_004 * 16]
    assert all(chunk.core == chunk.audio for chunk in part.chunks)
    assert np.array_equal(heard, reference)
    assert abs(part.split.duration_ms - SECONDS * 1000) <= 200


def test_wrong_times_are_refused(planted: Path, tmp_path: Path) -> None:
    around = context(tmp_path / "home")
    with pytest.raises(OptionError, match="is not before --end"):
        plan_media(JobInput(media=str(planted), start="20", end="10"), around)
    with pytest.raises(OptionError, match="lies behind the end of the media"):
        plan_media(JobInput(media=str(planted), start="1:00:00"), around)


def test_where_there_is_no_silence_both_sides_hear_the_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sound = rng.normal(0, 0.1, 90 * SAMPLE_RATE).astype(np.float32)
    job = Job(
        JobInput(media=str(write_wav(tmp_path / "crowd.wav", sound)), chunk_seconds=30, language="en"),
        context(tmp_path / "home"),
    )
    chunks = job.chunks
    assert_tiled(chunks, 0, 90_000)
    assert [chunk.core.end_ms for chunk in chunks] == [30_000, 60_000, 90_000]
    assert [chunk.audio for chunk in chunks] == [Span.of(0, 33_000), Span.of(27_000, 63_000), Span.of(57_000, 90_000)]
    heard = [job.audio(chunk, tmp_path) for chunk in chunks]
    assert np.array_equal(heard[0][27_000 * 16 :], heard[1][: 6_000 * 16])


@pytest.mark.parametrize("noise_db", [-60.0, -35.0])
def test_cuts_in_speech_fall_between_its_words(noise_db: float, studio: Studio, tmp_path: Path) -> None:
    """Against the truth: no cut inside a sentence, unless both sides hear what is around it."""
    talk = studio.recording(Script(seconds=240, speakers=2, seed=11, noise_db=noise_db))
    job = Job(JobInput(media=str(talk.path), chunk_seconds=20, language="en"), context(tmp_path / "home"))
    chunks = job.chunks
    assert_tiled(chunks, 0, talk.duration_ms)
    clean = [chunk.core.end_ms for chunk in chunks[:-1] if chunk.audio.end_ms == chunk.core.end_ms]
    assert len(clean) >= 0.7 * (len(chunks) - 1)
    # a voice's recording fades in and out: the first and last 100 ms of a sentence's span may be silent
    spoken = [Span.of(said.start_ms + 100, said.end_ms - 100) for said in talk.truth]
    assert [at for at in clean if any(span.holds(at) for span in spoken) and not _in_a_breath(job, at, tmp_path)] == []


def _in_a_breath(job: Job, at_ms: int, folder: Path) -> bool:
    """Whether 200 ms around a cut are silent: sentences have commas."""
    before, after = next(
        (first, second) for first, second in itertools.pairwise(job.chunks) if first.core.end_ms == at_ms
    )
    around = np.concatenate([job.audio(before, folder)[-1600:], job.audio(after, folder)[:1600]])
    return float(np.sqrt(np.mean(around**2))) < 10 ** (-30 / 20)


def test_a_second_run_keeps_cuts_and_chunks(planted: Path, tmp_path: Path) -> None:
    request = JobInput(media=str(planted), language="en")
    first = Job(request, context(tmp_path / "home", workers=2))
    again = Job(request, context(tmp_path / "home", workers=5))
    assert again.chunks == first.chunks
    assert again.plan.job == first.plan.job
    assert again.split.duration_ms == first.split.duration_ms


def test_a_split_that_was_interrupted_goes_on_with_the_same_cuts(planted: Path, tmp_path: Path) -> None:
    around = context(tmp_path / "home")
    job = Job(JobInput(media=str(planted), language="en", chunk_seconds=30), around)
    whole = job.chunks
    # as another machine's ffmpeg might have cut: its cut counts, and what is missing is made to fit
    moved = whole[1].model_copy(update={"core": Span.of(whole[1].core.start_ms, whole[1].core.end_ms - 40)})
    moved = moved.model_copy(update={"audio": moved.core})
    job.storage.delete(job.keys.split)
    job.storage.delete(job.keys.prefix + "audio/00002")
    job.storage.put_bytes(job.keys.chunk(1), moved.model_dump_json().encode())
    split_media(job.ref, around)
    assert job.chunks[1] == moved
    assert job.chunks[2].core == Span.of(moved.core.end_ms, whole[2].core.end_ms)
    assert_tiled(job.chunks, 0, 150_000)


def test_chunks_planned_past_the_true_end_are_empty(planted: Path, tmp_path: Path) -> None:
    around = context(tmp_path / "home")
    plan = plan_media(JobInput(media=str(planted), language="en", chunk_seconds=30), around)
    storage, keys = around.open_storage(plan.storage), JobKeys(plan.job)
    wrong = JobPlan.model_validate_json(storage.get_bytes(keys.plan)).model_copy(
        update={"wanted_cuts_ms": (60_000, 120_000, 180_000, 240_000), "span": Span.of(0, 300_000)}
    )
    storage.put_bytes(keys.plan, wrong.model_dump_json().encode())
    split_media(SplitMediaInput(storage=plan.storage, job=plan.job), around)
    chunks = [Chunk.model_validate_json(storage.get_bytes(keys.chunk(index))) for index in range(5)]
    assert_tiled(chunks, 0, 150_000)
    assert [chunk.core.duration_ms for chunk in chunks[3:]] == [0, 0]
    assert [chunk.audio_sha256 for chunk in chunks[3:]] == [None, None]
    assert not storage.exists(keys.audio(3))


def test_media_that_changed_after_the_plan_is_refused(tmp_path: Path) -> None:
    media = write_wav(tmp_path / "talk.wav", bursts(40, [5_000]))
    around = context(tmp_path / "home")
    plan = plan_media(JobInput(media=str(media), language="en"), around)
    write_wav(media, bursts(40, [6_000]))
    with pytest.raises(MediaError, match="changed while it was transcribed"):
        split_media(SplitMediaInput(storage=plan.storage, job=plan.job), around)


def test_an_unwanted_split_stops(planted: Path, tmp_path: Path) -> None:
    plan = plan_media(JobInput(media=str(planted), language="en"), context(tmp_path / "home"))
    with pytest.raises(WorkAborted):
        split_media(SplitMediaInput(storage=plan.storage, job=plan.job), context(tmp_path / "home", aborted=True))


@pytest.mark.parametrize("name", ["mp3-vbr", "mkv", "wav-44k", "flac", "avi"])
def test_truncated_media_say_where_they_break_off(name: str, planted: Path, tmp_path: Path) -> None:
    media = encode(planted, tmp_path, name)
    media.write_bytes(media.read_bytes()[: media.stat().st_size * 6 // 10])
    with pytest.raises(MediaError, match=r"breaks off at 00:0\d:\d\d\.\d{3} although it says it is 00:02:[23]"):
        Job(JobInput(media=str(media), chunk_seconds=30, language="en"), context(tmp_path / "home"))
    job = Job(JobInput(media=str(media), chunk_seconds=30, language="en", allow_gaps=True), context(tmp_path / "home"))
    assert job.split.missing_from_ms == job.split.duration_ms
    assert len(job.split.warnings) == 1
    assert_tiled(job.chunks, 0, job.split.duration_ms)
    assert job.found(tmp_path)[:5] == pytest.approx(PLANTED[:5], abs=TOLERANCE_MS)
    with pytest.raises(MediaError, match="breaks off"):  # without --allow-gaps the stored summary does not help
        Job(JobInput(media=str(media), chunk_seconds=30, language="en"), context(tmp_path / "home"))


def test_truncated_mp4_with_its_index_in_front(planted: Path, tmp_path: Path) -> None:
    media = tmp_path / "talk.mp4"
    ffmpeg("-i", planted, "-c:a", "aac", "-movflags", "+faststart", media)
    media.write_bytes(media.read_bytes()[: media.stat().st_size * 6 // 10])
    with pytest.raises(MediaError, match=r"'talk\.mp4' breaks off at 00:0"):
        Job(JobInput(media=str(media), language="en"), context(tmp_path / "home"))


def test_sound_that_ends_before_its_picture_is_not_truncated(planted: Path, tmp_path: Path) -> None:
    media = tmp_path / "talk.mkv"
    ffmpeg(
        *("-f", "lavfi", "-i", "color=black:s=64x64:r=5:d=200", "-i", planted),
        *("-c:v", "mpeg4", "-c:a", "flac", "-bitexact", media),
    )
    job = Job(JobInput(media=str(media), language="en"), context(tmp_path / "home"))
    assert job.split.duration_ms == 150_000
    assert job.split.missing_from_ms is None


def test_damage_in_the_middle_is_a_warning(planted: Path, tmp_path: Path) -> None:
    media = encode(planted, tmp_path, "mp3-cbr")
    data = bytearray(media.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 6_000] = np.random.default_rng(2).bytes(6_000)
    media.write_bytes(bytes(data))
    job = Job(JobInput(media=str(media), chunk_seconds=30, language="en"), context(tmp_path / "home"))
    assert len(job.split.warnings) == 1
    assert "is damaged: ffmpeg complained" in job.split.warnings[0]


def test_a_silent_recording_has_no_language_and_all_its_chunks(tmp_path: Path) -> None:
    media = write_wav(tmp_path / "silent.wav", bursts(65, []))
    job = Job(JobInput(media=str(media)), context(tmp_path / "home"))
    assert not job.plan.detect_language
    assert job.storage.get_bytes(job.keys.language)
    assert_tiled(job.chunks, 0, 65_000)


_STUCK = """
import sys, time
from pathlib import Path
from workers.media import Decoding
decoding = Decoding(Path(sys.argv[1]), 0)
print(decoding.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ffmpeg_dies_with_its_parent(planted: Path) -> None:
    """Also where it waits and writes nothing: the decode is longer than what is buffered."""
    parent = subprocess.Popen([sys.executable, "-c", _STUCK, str(planted)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = Path("/proc") / parent.stdout.readline().decode().strip()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(1000):
        if not child.exists() or "State:\tZ" in (child / "status").read_text():
            return
        time.sleep(0.01)
    pytest.fail("ffmpeg outlived the process that started it")
