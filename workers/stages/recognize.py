"""What is said in one chunk: fetch its audio, recognize, look at the text twice, store the result."""

import logging
import time
from collections.abc import Callable, Sequence

from workers.context import Context
from workers.errors import ChunkNotReady, ObjectMissing
from workers.media import as_float
from workers.messages import (
    PER_CHUNK,
    Chunk,
    ChunkResult,
    JobKeys,
    JobPlan,
    LanguageVote,
    RecognizeOptions,
    TranscribeChunkInput,
    TranscribeChunkOutput,
)
from workers.recognizers import Audio, DecodeSettings, Recognition, Recognizer
from workers.recognizers.options import check_options
from workers.recognizers.windows import speech_of
from workers.recording import fetch_audio
from workers.rehearing import blamed, spliced
from workers.spans import SAMPLE_RATE, Span
from workers.storage import Storage
from workers.suspicion import Suspicion, suspect
from workers.transcript import Decode

log = logging.getLogger(__name__)

PLAIN = DecodeSettings()
HOLD_SECONDS = 5.0  # 94 minutes are cut in about that; beyond, the worker is free for other jobs
LOOK_SECONDS = 0.2


def transcribe_chunk(task: TranscribeChunkInput, context: Context) -> TranscribeChunkOutput:
    """Recognize chunk `task.index` of a job, or find it done.

    The engine is asked for only when the audio is here and its speech is found (3 ms of a processor a second of audio:
    a GPU of 50 times real time would stand still for a sixth of its time), so that this may run for the next chunk
    while the current one is still computed.

    Raises ChunkNotReady while the split has not written the chunk; StorageUnavailable where its audio
    is not what the split wrote; EngineError where the engine fails; WorkAborted when nobody wants it any more.
    """
    storage = context.open_storage(task.storage)
    keys = JobKeys(task.job)
    if storage.exists(keys.result(task.index)):
        done = ChunkResult.model_validate_json(storage.get_bytes(keys.result(task.index)))
        return _output(done, keys, reused=True, seconds={})
    plan = read_plan(storage, keys)
    chunk = _await_chunk(storage, keys, task.index, context.check_wanted)
    if not chunk.core.duration_ms:
        return _store(storage, keys, ChunkResult(
            index=task.index, chunk=chunk, language=None, segments=(), decodes=(),
            worker=context.worker, attempts=context.attempt, seconds={},
        ))  # fmt: skip
    began = time.monotonic()
    audio = as_float(fetch_audio(storage, keys, chunk))
    options = _options(plan, chunk, _language(storage, keys, plan))
    fetched = time.monotonic()
    speech = speech_of(audio)
    ready = time.monotonic()
    context.prepared(ready - began)
    recognizer = context.recognizer(options)
    seated = time.monotonic()
    recognition, decodes = recognize(recognizer, audio, speech, options, context.check_wanted)
    context.recognized()
    inferred = time.monotonic()
    return _store(storage, keys, ChunkResult(
        index=task.index,
        chunk=chunk,
        language=recognition.language,
        segments=tuple(segment.shifted(chunk.audio.start_ms) for segment in recognition.segments),
        decodes=decodes,
        worker=context.worker,
        attempts=context.attempt,
        seconds={
            "fetch": round(fetched - began, 3),
            "speech": round(ready - fetched, 3),
            "wait": round(seated - ready, 3),
            "inference": round(inferred - seated, 3),
        },
    ))  # fmt: skip


def recognize(
    recognizer: Recognizer,
    audio: Audio,
    speech: Sequence[Span],
    options: RecognizeOptions,
    wanted: Callable[[], None],
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Recognition, tuple[Decode, ...]]:
    """The text of `audio` and how it came about.

    After a suspicious pass the windows that are to blame are heard once more with care, and of each the better text
    is kept. Not the whole chunk: for one odd sentence in ten minutes that takes three times as long, and the careful
    pass hears worse where nothing was wrong (in chunks of five minutes 11.7 % of the words were wrong instead of 6.3).
    """
    audio_ms = len(audio) * 1000 // SAMPLE_RATE
    first = recognizer.recognize(audio, speech, options, PLAIN, wanted, progress)
    found = suspect(first.segments, speech, audio_ms)
    if not found.reasons:
        return first, (_decode(PLAIN, found, kept=True),)
    log.info("Suspicious text, decoding again: %s", "; ".join(found.reasons), extra={"action": "decoded_again"})
    windows = blamed(audio, speech, first.segments, audio_ms)
    again = [region for window in windows for region in window.speech]
    settings = careful(recognizer.engine)
    # half a minute by itself may be taken for another language than the chunk that it is a part of
    options = options.model_copy(update={"language": first.language})
    second = recognizer.recognize(audio, again, options, settings, wanted, progress)
    segments, replaced = spliced(first.segments, windows, second.segments, audio_ms)
    found_again = suspect(segments, speech, audio_ms) if replaced else suspect(second.segments, again, audio_ms)
    decodes = (_decode(PLAIN, found, kept=not replaced), _decode(settings, found_again, kept=bool(replaced)))
    return Recognition(segments, first.language), decodes


def careful(engine: str) -> DecodeSettings:
    """The second pass of a suspicious chunk: other windows, and no way to repeat oneself for long.

    Phrases of ten tokens may not repeat in a window: that lets lists and short repetitions pass and ends
    every loop. Nothing is sampled: CTranslate2's generator cannot be reset, and the same audio must give the
    same text in any process. openai-whisper knows no such rule but can be reset; it gets its own ladder.
    """
    if engine == "openai-whisper":
        return DecodeSettings(one_by_one=True, temperatures=(0.2, 0.4, 0.6, 0.8, 1.0))
    return DecodeSettings(one_by_one=True, no_repeat_ngram_size=10, repetition_penalty=1.1)


def read_plan(storage: Storage, keys: JobKeys) -> JobPlan:
    """Raises ChunkNotReady where the plan is not written (yet)."""
    try:
        return JobPlan.model_validate_json(storage.get_bytes(keys.plan))
    except ObjectMissing as error:
        raise ChunkNotReady("The job's plan is not written yet.") from error


def _await_chunk(storage: Storage, keys: JobKeys, index: int, wanted: Callable[[], None]) -> Chunk:
    """The chunk's record, waited for a little.

    Given back at once, a long early chunk would queue behind all the short late ones. The worker loses
    nothing by it: no later chunk is cut earlier.
    """
    give_up = time.monotonic() + HOLD_SECONDS
    while True:
        try:
            return _read_chunk(storage, keys, index)
        except ChunkNotReady:
            if time.monotonic() >= give_up:
                raise
        wanted()
        time.sleep(LOOK_SECONDS)


def _read_chunk(storage: Storage, keys: JobKeys, index: int) -> Chunk:
    try:
        return Chunk.model_validate_json(storage.get_bytes(keys.chunk(index)))
    except ObjectMissing as error:
        raise ChunkNotReady(f"Chunk {index} is not cut yet.") from error


def _language(storage: Storage, keys: JobKeys, plan: JobPlan) -> str | None:
    """The recording's language; None where each chunk decides, or nobody could tell."""
    asked = plan.request.language
    if asked == PER_CHUNK:
        return None
    if asked != "auto":
        return asked
    try:
        return LanguageVote.model_validate_json(storage.get_bytes(keys.language)).language
    except ObjectMissing:
        if plan.language_samples:
            raise ChunkNotReady("The language is not decided yet.") from None
        return None


def _options(plan: JobPlan, chunk: Chunk, language: str | None) -> RecognizeOptions:
    """What the engine is asked; with word times where the audio overlaps a neighbour's, as joining needs them."""
    options = plan.request.recognize_options(language)
    check_options(options)
    if chunk.audio != chunk.core:
        options = options.model_copy(update={"word_timestamps": True})
    return options


def _decode(settings: DecodeSettings, found: Suspicion, kept: bool) -> Decode:
    return Decode(
        settings={
            "one_by_one": settings.one_by_one,
            "temperatures": ",".join(str(temperature) for temperature in settings.temperatures),
            "no_repeat_ngram_size": settings.no_repeat_ngram_size,
            "repetition_penalty": settings.repetition_penalty,
        },
        kept=kept,
        suspicions=found.reasons,
        score=found.score,
    )


def _store(storage: Storage, keys: JobKeys, result: ChunkResult) -> TranscribeChunkOutput:
    began = time.monotonic()
    storage.put_bytes(keys.result(result.index), result.model_dump_json().encode())
    seconds = {**result.seconds, "store": round(time.monotonic() - began, 3)}
    return _output(result, keys, reused=False, seconds=seconds)


def _output(result: ChunkResult, keys: JobKeys, reused: bool, seconds: dict[str, float]) -> TranscribeChunkOutput:
    return TranscribeChunkOutput(
        index=result.index,
        key=keys.result(result.index),
        worker=result.worker,
        attempts=result.attempts,
        audio_ms=result.chunk.audio.duration_ms,
        words=sum(len(segment.text.split()) for segment in result.segments),
        reused=reused,
        suspicious=any(decode.suspicions for decode in result.decodes),
        seconds=seconds,
    )
