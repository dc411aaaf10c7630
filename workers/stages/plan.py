"""plan_media: what the media is, how many chunks it will be, and a few voiced seconds to tell the language by."""

import hashlib
import io
import time
from pathlib import Path
from typing import Any

from workers.chunking import BATCHED_MS, SHORTEST_MS, plan_cuts
from workers.context import Context
from workers.diarizers import SPEECH_MAPPED
from workers.diarizers import loading as diarizers
from workers.errors import MediaError, OptionError, SourceUnavailable
from workers.media import MediaInfo, Samples, as_float, count_duration, decode_excerpt, probe
from workers.messages import (
    JobInput,
    JobKeys,
    JobPlan,
    LanguageVote,
    PlanMediaOutput,
    SpeakerHints,
    SpeakerPlan,
    job_key,
)
from workers.models import check_anywhere
from workers.recognizers.options import check_options
from workers.sources import Source, open_source
from workers.spans import SAMPLE_RATE, Span, clock
from workers.storage import Storage
from workers.voice import speech_regions, voiced_ms

LANGUAGE_SAMPLES = 5  # so that one song, quotation or jingle is outvoted
SAMPLE_MS = 30_000  # Whisper decides a language on one window of 30 s
TRIES = 3  # places looked at for each sample before it is given up
FLAC_BYTES_A_MS = 22  # of 32 as plain samples: speech with music under it, lively
BASE_BYTES = 8 << 20
CLIP_MS = 60_000  # of a reference clip: a voice is known after a few seconds, and a whole lecture may be given
VOICED_MS = 3_000  # about two phrases; on less the model guesses


def plan_media(job: JobInput, context: Context) -> PlanMediaOutput:
    """Probe the media, fix the chunks, store the plan and the samples for the language vote.

    A job that was planned before keeps its cuts, whatever the number of workers is now, so that what is
    done is found again. Raises MediaError, OptionError, StorageError with one sentence each, and
    SourceUnavailable where the media's server does not answer.
    """
    began = time.monotonic()
    check_options(job.recognize_options())  # a job may come from a form, which checks nothing
    check_anywhere(job.model, job.engine)
    if job.diarize:
        diarizers.check_anywhere(job.diarizer, job.diarizer_model)
    source = open_source(job.media, context.settings, context.media_cache, context.check_wanted)
    duration_ms, span = look_into(job, source)
    storage = context.open_storage(job.storage or context.settings.storage)
    storage.check_writable(needed_bytes(span))
    workers = max(1, context.live_workers())
    keys = JobKeys(job_key(source.identity, job))
    plan = _earlier(storage, keys, job, source) or JobPlan(
        job=job_key(source.identity, job),
        request=job,
        media_name=source.name,
        media_identity=source.identity,
        duration_ms=duration_ms,
        span=span,
        wanted_cuts_ms=plan_cuts(span, job.chunk_seconds, workers, shortest_chunk(job)),
    )
    vote_open = job.language == "auto" and not storage.exists(keys.language)
    if vote_open and not plan.language_samples:
        count = _store_samples(plan, source.path, storage, context)
        plan = plan.model_copy(update={"language_samples": count})
        if not count:
            storage.put_bytes(keys.language, LanguageVote().model_dump_json().encode())
    storage.put_bytes(keys.plan, plan.model_dump_json().encode())
    output = _output(plan, storage, vote_open and plan.language_samples > 0, workers)
    if job.diarize:
        output = _with_speakers(output, plan, storage, context)
    return output.model_copy(update={"seconds": round(time.monotonic() - began, 3)})


def look_into(job: JobInput, source: Source) -> tuple[int, Span]:
    """Length in ms of the media as its container tells it, and the span that is wanted of it.

    Raises MediaError where there is no such track or nothing to hear, OptionError where start and end do not fit.
    """
    duration_ms = _duration(probe(source.path), source, job.audio_track - 1)
    return duration_ms, _wanted_span(job, duration_ms)


def clip_samples(source: Source) -> Samples:
    """The beginning of a reference clip.

    Raises MediaError where it cannot be decoded, or nobody speaks in it: found out after the clustering, it would
    cost the job its speakers.
    """
    samples = decode_excerpt(source.path, 0, 0, min(_duration(probe(source.path), source, 0), CLIP_MS))
    if not speech_regions(as_float(samples)):
        raise MediaError(
            f"nobody speaks in '{source.name}' (its first minute counts): give some seconds in which only that "
            "person speaks."
        )
    return samples


def shortest_chunk(job: JobInput) -> int:
    """Milliseconds below which a chunk is not worth while to the job's engine."""
    return BATCHED_MS if job.engine == "faster-whisper" else SHORTEST_MS


def needed_bytes(span: Span) -> int:
    """Room in storage for a job: its chunks as FLAC, and some for results."""
    return BASE_BYTES + FLAC_BYTES_A_MS * span.duration_ms


def _duration(info: MediaInfo, source: Source, track: int) -> int:
    """Length in ms of the media as heard on audio track `track` (0 is the first)."""
    if not info.audio_tracks:
        held = "only video" if info.has_video else "no audio"
        raise MediaError(f"'{source.name}' has no sound: it holds {held}; give a recording with an audio track.")
    if track >= info.audio_tracks:
        there = "only one audio track" if info.audio_tracks == 1 else f"{info.audio_tracks} audio tracks"
        raise MediaError(f"'{source.name}' has {there}, so there is no track {track + 1}: choose with --audio-track.")
    claimed = info.tracks[track].end_ms or info.duration_ms
    duration_ms = claimed or count_duration(source.path, track)
    if duration_ms <= 0:
        raise MediaError(f"'{source.name}' holds no sound: its audio track is empty.")
    return duration_ms


def _wanted_span(job: JobInput, duration_ms: int) -> Span:
    start_ms, end_ms = job.start_ms, job.end_ms
    if end_ms is not None and start_ms >= end_ms:
        raise OptionError(f"--start ({clock(start_ms)}) is not before --end ({clock(end_ms)}): change one of them.")
    if start_ms >= duration_ms:
        raise OptionError(
            f"--start ({clock(start_ms)}) lies behind the end of the media, which is {clock(duration_ms)} long: "
            "take an earlier one."
        )
    return Span.of(start_ms, duration_ms if end_ms is None else min(end_ms, duration_ms))


def _earlier(storage: Storage, keys: JobKeys, job: JobInput, source: Source) -> JobPlan | None:
    """The plan of an earlier run of the same job, for where the media is now."""
    if not storage.exists(keys.plan):
        return None
    plan = JobPlan.model_validate_json(storage.get_bytes(keys.plan))
    return plan.model_copy(update={"request": job, "media_name": source.name})


def _store_samples(plan: JobPlan, path: Path, storage: Storage, context: Context) -> int:
    """Store up to LANGUAGE_SAMPLES voiced stretches spread over the span; returns how many were found."""
    keys = JobKeys(plan.job)
    count = 0
    places = max(1, min(LANGUAGE_SAMPLES, plan.span.duration_ms // SAMPLE_MS))
    for place in range(places):
        for start_ms, length_ms in _tries(plan.span, place, places):
            context.check_wanted()
            samples = decode_excerpt(path, plan.request.audio_track - 1, start_ms, length_ms)
            speech = speech_regions(as_float(samples))
            if voiced_ms(speech) >= min(VOICED_MS, length_ms // 5):
                storage.put_bytes(keys.language_sample(count), _flac(samples))
                count += 1
                break
    return count


def _tries(span: Span, place: int, places: int) -> list[tuple[int, int]]:
    """(start, length) in ms of the stretches to try in part `place` of `places`: its middle, then either side."""
    part = span.duration_ms / places
    if part <= SAMPLE_MS:
        return [(span.start_ms + round(place * part), round(part))]
    room = part - SAMPLE_MS
    starts = (span.start_ms + place * part + room * share for share in (0.5, 0.0, 1.0)[:TRIES])
    return list(dict.fromkeys((round(start), SAMPLE_MS) for start in starts))


def _flac(samples: Samples) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _with_speakers(output: PlanMediaOutput, plan: JobPlan, storage: Storage, context: Context) -> PlanMediaOutput:
    """The same with the diarization branch: its plan stored, its tasks listed."""
    job, keys = plan.request, JobKeys(plan.job)
    speakers = SpeakerPlan(
        diarizer=job.diarizer,
        model=job.diarizer_model,
        chunk_seconds=job.speaker_chunk_seconds,
        chunk_count=max(1, -(-plan.span.duration_ms // (job.speaker_chunk_seconds * 1000))),
        hints=SpeakerHints(exactly=job.speakers, at_least=job.min_speakers, at_most=job.max_speakers),
        clips={name: _store_clip(name, clip, storage, keys, context) for name, clip in job.speaker_names.items()},
    )
    storage.put_bytes(keys.speaker_plan(speakers.key), speakers.model_dump_json().encode())
    ref = {"storage": storage.address, "job": plan.job, "speakers": speakers.key}
    inputs: dict[str, dict[str, Any]] = {f"voices_{i}": {**ref, "index": i} for i in range(speakers.chunk_count)}
    kinds = dict.fromkeys(inputs, "diarize_chunk")
    if job.diarizer in SPEECH_MAPPED:
        kinds, inputs = {"speech": "map_speech", **kinds}, {"speech": ref, **inputs}
    return output.model_copy(
        update={
            "diarize": True,
            "speakers": speakers.key,
            "await_speakers": job.allow_gaps,
            "speaker_tasks": tuple(_optional_task(kind, name) for name, kind in kinds.items()),
            "speaker_inputs": inputs,
        }
    )


def _store_clip(name: str, clip: str, storage: Storage, keys: JobKeys, context: Context) -> str:
    """Store the beginning of a reference clip where the workers that diarize find it; returns its key.

    Raises MediaError naming the person.
    """
    try:
        source = open_source(clip, context.settings, context.media_cache, context.check_wanted)
        data = _flac(clip_samples(source))
    except (MediaError, SourceUnavailable) as error:
        raise type(error)(f"The reference clip of {name}: {error}") from error
    key = keys.clip(hashlib.sha256(data).hexdigest()[:16])
    storage.put_bytes(key, data)
    return key


def _optional_task(kind: str, reference: str) -> dict[str, Any]:
    """A task of a dynamic fork. Optional: a lost one must not stop the others; who joins them counts the losses."""
    return {"name": kind, "taskReferenceName": reference, "type": "SIMPLE", "optional": True}


def _output(plan: JobPlan, storage: Storage, detect: bool, workers: int) -> PlanMediaOutput:
    tasks: list[dict[str, Any]] = []
    inputs: dict[str, dict[str, Any]] = {}
    for index in range(plan.chunk_count):
        name = f"chunk_{index}"
        tasks.append(_optional_task("transcribe_chunk", name))
        inputs[name] = {"storage": storage.address, "job": plan.job, "index": index}
    return PlanMediaOutput(
        storage=storage.address,
        job=plan.job,
        media_name=plan.media_name,
        duration_ms=plan.duration_ms,
        chunk_count=plan.chunk_count,
        detect_language=detect,
        fork_tasks=tuple(tasks),
        fork_inputs=inputs,
        workers=workers,
        seconds=0,
    )
