"""The stages that recognize, on real storage and the demo model."""

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
import soundfile

from benchmarks.speech import Script
from tests.conftest import Studio
from tests.support.stages import make_context
from workers import settings as environment
from workers.context import Context
from workers.errors import ChunkNotReady, StorageUnavailable
from workers.messages import (
    Chunk,
    ChunkResult,
    JobInput,
    JobKeys,
    JobPlan,
    JobRef,
    LanguageVote,
    RecognizeOptions,
    TranscribeChunkInput,
)
from workers.models import demo_recording
from workers.recognizers import Audio, DecodeSettings, Recognition, Recognizer
from workers.recognizers.loading import load
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.stages.language import detect_language, tally
from workers.stages.recognize import transcribe_chunk
from workers.storage import Storage, open_storage
from workers.transcript import Segment

pytestmark = pytest.mark.integration

KEYS = JobKeys("job")
START_MS = 600_000


@pytest.fixture(scope="module")
def demo() -> Recognizer:
    return load("faster-whisper", "demo", device="cpu", threads=1)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    folder = tmp_path / "objects"
    folder.mkdir()
    return open_storage(str(folder), environment.load())


def context(storage: Storage, recognizer: Callable[[RecognizeOptions], Recognizer]) -> Context:
    return make_context(attempt=2, open_storage=lambda address: storage, recognizer=recognizer)


def flac(audio: Audio) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def put_plan(storage: Storage, language: str = "en", samples: int = 0) -> None:
    plan = JobPlan(
        job="job",
        request=JobInput(media="talk.mp3", model="demo", language=language, word_timestamps=False),
        media_name="talk",
        media_identity="0",
        duration_ms=3_600_000,
        span=Span.of(0, 3_600_000),
        wanted_cuts_ms=(),
        language_samples=samples,
    )
    storage.put_bytes(KEYS.plan, plan.model_dump_json().encode())


def put_chunk(storage: Storage, seconds: int = 12, overlap_ms: int = 0, damaged: bool = False) -> Chunk:
    audio = cast(Audio, soundfile.read(demo_recording(), dtype="float32")[0])[: seconds * SAMPLE_RATE]
    data = flac(audio)
    span = Span.of(START_MS, START_MS + len(audio) // SAMPLES_PER_MS)
    chunk = Chunk(
        index=0,
        core=Span.of(span.start_ms + overlap_ms, span.end_ms),
        audio=span,
        audio_sha256="0" * 64 if damaged else hashlib.sha256(data).hexdigest(),
    )
    storage.put_bytes(KEYS.audio(0), data)
    storage.put_bytes(KEYS.chunk(0), chunk.model_dump_json().encode())
    return chunk


def task(storage: Storage) -> TranscribeChunkInput:
    return TranscribeChunkInput(storage=storage.address, job="job", index=0)


def result(storage: Storage) -> ChunkResult:
    return ChunkResult.model_validate_json(storage.get_bytes(KEYS.result(0)))


def no_engine(options: RecognizeOptions) -> Recognizer:
    pytest.fail("the engine was asked for")


def test_a_chunk_is_recognized_on_the_medias_clock(storage: Storage, demo: Recognizer) -> None:
    put_plan(storage)
    chunk = put_chunk(storage)
    output = transcribe_chunk(task(storage), context(storage, lambda options: demo))
    heard = result(storage)
    assert heard.segments[0].text == "The lawyer carried this mountain."
    assert abs(heard.segments[0].start_ms - START_MS - 831) <= 100
    assert all(chunk.audio.holds(segment.start_ms) for segment in heard.segments)
    assert [decode.kept for decode in heard.decodes] == [True]
    assert (output.words, output.attempts, output.reused) == (
        sum(len(s.text.split()) for s in heard.segments),
        2,
        False,
    )
    assert {"fetch", "wait", "inference", "store"} <= set(output.seconds)
    assert not any(segment.words for segment in heard.segments)


def test_an_overlapping_chunk_has_words_for_the_join(storage: Storage, demo: Recognizer) -> None:
    put_plan(storage)
    put_chunk(storage, overlap_ms=2000)
    transcribe_chunk(task(storage), context(storage, lambda options: demo))
    assert all(segment.words for segment in result(storage).segments)


def test_a_done_chunk_is_not_done_again(storage: Storage, demo: Recognizer) -> None:
    put_plan(storage)
    put_chunk(storage)
    first = transcribe_chunk(task(storage), context(storage, lambda options: demo))
    again = transcribe_chunk(task(storage), context(storage, no_engine))
    assert again.reused
    assert again.words == first.words


def test_a_chunk_without_length_needs_no_engine(storage: Storage) -> None:
    put_plan(storage)
    end = Span.of(START_MS, START_MS)
    storage.put_bytes(KEYS.chunk(0), Chunk(index=0, core=end, audio=end).model_dump_json().encode())
    assert transcribe_chunk(task(storage), context(storage, no_engine)).words == 0


def test_what_is_not_written_yet_is_waited_for(storage: Storage) -> None:
    with pytest.raises(ChunkNotReady, match="plan"):
        transcribe_chunk(task(storage), context(storage, no_engine))
    put_plan(storage, language="auto", samples=1)
    with pytest.raises(ChunkNotReady, match="not cut"):
        transcribe_chunk(task(storage), context(storage, no_engine))
    put_chunk(storage)
    with pytest.raises(ChunkNotReady, match="language"):
        transcribe_chunk(task(storage), context(storage, no_engine))


def test_audio_that_is_not_what_was_cut_is_refused(storage: Storage) -> None:
    put_plan(storage)
    put_chunk(storage, damaged=True)
    with pytest.raises(StorageUnavailable, match="checksum"):
        transcribe_chunk(task(storage), context(storage, no_engine))


class Looping:
    """An engine that loops at first; the careful pass of the real one follows."""

    engine = "faster-whisper"
    model = "demo"

    def __init__(self, inner: Recognizer) -> None:
        self.inner = inner
        self.languages: list[str | None] = []

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition:
        self.languages.append(options.language)
        if settings == DecodeSettings():
            return Recognition((Segment(start_ms=0, end_ms=12_000, text="thank you " * 15),), "en")
        return self.inner.recognize(audio, speech, options, settings, wanted, progress)

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        return self.inner.language_probabilities(audio)


def test_what_is_heard_again_stays_in_the_chunks_language(storage: Storage, demo: Recognizer) -> None:
    put_plan(storage, language="per-chunk")
    put_chunk(storage)
    looping = Looping(demo)
    transcribe_chunk(task(storage), context(storage, lambda options: looping))
    assert looping.languages == [None, "en"]


def test_a_suspicious_pass_is_followed_by_a_careful_one(storage: Storage, demo: Recognizer) -> None:
    put_plan(storage)
    put_chunk(storage)
    output = transcribe_chunk(task(storage), context(storage, lambda options: Looping(demo)))
    heard = result(storage)
    assert output.suspicious
    assert [decode.kept for decode in heard.decodes] == [False, True]
    assert heard.decodes[0].suspicions == ("'thank you' 15 times in a row",)
    assert heard.decodes[0].score > heard.decodes[1].score
    assert heard.segments[0].text == "The lawyer carried this mountain."


def test_the_language_is_voted_once(storage: Storage, demo: Recognizer, studio: Studio) -> None:
    spanish = soundfile.read(studio.recording(Script(20, speakers=1, language="es")).path, dtype="float32")[0]
    put_plan(storage, language="auto", samples=2)
    for number in range(2):
        storage.put_bytes(KEYS.language_sample(number), flac(spanish[number * 8 * SAMPLE_RATE :][: 8 * SAMPLE_RATE]))
    ref = JobRef(storage=storage.address, job="job")
    output = detect_language(ref, context(storage, lambda options: demo))
    assert output.language == "es"
    assert output.votes["es"] == pytest.approx(2, abs=0.4)
    assert LanguageVote.model_validate_json(storage.get_bytes(KEYS.language)).language == "es"
    assert detect_language(ref, context(storage, no_engine)).language == "es"


def test_without_samples_nobody_votes(storage: Storage) -> None:
    put_plan(storage, language="auto")
    assert detect_language(JobRef(storage=storage.address, job="job"), context(storage, no_engine)).language is None


def test_the_sum_wins_and_not_the_loudest() -> None:
    assert tally([{"en": 0.9, "es": 0.1}, {"es": 0.6, "en": 0.4}, {"es": 0.8, "en": 0.2}]).language == "en"
    assert tally([{"en": 0.5, "es": 0.5}]).language == "en"
    assert tally([]).language is None
