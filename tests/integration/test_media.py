"""Probing: what a container says, and one clear sentence for everything that is no usable media."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.media import bursts, context, ffmpeg, write_wav
from workers.errors import MediaError, SourceUnavailable
from workers.media import Decoding, count_duration, decode_excerpt, last_packet_ms, probe
from workers.messages import JobInput
from workers.spans import SAMPLE_RATE
from workers.stages.plan import plan_media

pytestmark = pytest.mark.integration


@pytest.fixture(scope="session")
def tone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("tone") / "tone.wav", bursts(12, [1_000, 7_000]))


def refusal(media: Path | str, home: Path) -> str:
    with pytest.raises(MediaError) as refused:
        plan_media(JobInput(media=str(media)), context(home))
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_probe_tells_tracks_and_duration(tone: Path, tmp_path: Path) -> None:
    media = tmp_path / "two.mkv"
    ffmpeg(
        "-i", tone, "-i", tone, "-map", "0:a", "-map", "1:a", "-c:a:0", "aac", "-c:a:1", "flac", "-ar", "48000", media
    )
    info = probe(media)
    assert [(track.rate, track.channels) for track in info.tracks] == [(48_000, 1), (48_000, 1)]
    assert not info.has_video
    assert info.duration_ms == pytest.approx(12_000, abs=60)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("m.aac", "-c:a aac"),
        ("m.mp3", "-c:a libmp3lame -q:a 7 -write_xing 0"),
        ("m.webm", "-c:a libopus -f webm -live 1"),
        ("m.flac", "-c:a flac"),
    ],
)
def test_a_duration_nobody_wrote_down_is_counted(file: str, options: str, tone: Path, tmp_path: Path) -> None:
    media = tmp_path / file
    ffmpeg("-i", tone, "-ar", "48000", *options.split(), media)
    if file == "m.flac":  # as a recorder leaves it that could not go back: no count of samples
        data = bytearray(media.read_bytes())
        data[21] &= 0xF0
        data[22:26] = bytes(4)
        media.write_bytes(bytes(data))
    assert probe(media).duration_ms is None
    assert count_duration(media, 0) == pytest.approx(12_000, abs=120)
    assert plan_media(JobInput(media=str(media)), context(tmp_path / "home")).duration_ms > 11_800


def test_excerpts_come_from_about_where_they_were_asked(tone: Path) -> None:
    excerpt = decode_excerpt(tone, 0, 6_500, 1_000)
    assert len(excerpt) == SAMPLE_RATE
    assert np.argmax(np.abs(excerpt) > 5_000) == pytest.approx(8_000, abs=400)
    assert len(decode_excerpt(tone, 0, 60_000, 1_000)) == 0


def test_how_far_a_file_goes(tone: Path) -> None:
    assert last_packet_ms(tone) == pytest.approx(12_000, abs=100)


def test_leaving_a_decode_early_ends_ffmpeg(tone: Path) -> None:
    with Decoding(tone, 0) as decoding:
        next(decoding.blocks())
    assert decoding.returncode is not None


def test_what_is_no_media_gets_a_sentence(tone: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (tmp_path / "text.mp4").write_text("This is only text.\n" * 200)
    (tmp_path / "noise.mp3").write_bytes(b"\x01\x02\x03" * 5_000)
    (tmp_path / "empty.wav").write_bytes(b"")
    ffmpeg("-f", "lavfi", "-i", "color=black:s=64x64:r=5:d=2", "-c:v", "mpeg4", tmp_path / "mute.mp4")
    write_wav(tmp_path / "header.wav", bursts(0, []))
    ffmpeg("-i", tone, "-c:a", "aac", tmp_path / "whole.mp4")
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])

    assert "does not exist" in refusal(tmp_path / "nothing.mp3", home)
    assert "is a folder" in refusal(tmp_path, home)
    assert "is empty" in refusal(tmp_path / "empty.wav", home)
    assert "'text.mp4' is no audio or video" in refusal(tmp_path / "text.mp4", home)
    assert "'noise.mp3' is no audio or video" in refusal(tmp_path / "noise.mp3", home)
    assert "'mute.mp4' has no sound: it holds only video" in refusal(tmp_path / "mute.mp4", home)
    assert "'header.wav' holds no sound" in refusal(tmp_path / "header.wav", home)
    assert "index (the moov atom) is missing" in refusal(tmp_path / "cut.mp4", home)
    with pytest.raises(MediaError, match="has only one audio track, so there is no track 2"):
        plan_media(JobInput(media=str(tone), audio_track=2), context(home))
    assert not (home / "objects").exists() or not any((home / "objects").rglob("plan.json"))


def test_a_playlist_cannot_make_this_machine_fetch(tmp_path: Path) -> None:
    playlist = tmp_path / "talk.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises((MediaError, SourceUnavailable)):
        plan_media(JobInput(media=str(playlist)), context(tmp_path / "home"))
