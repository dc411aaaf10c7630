"""stitch_transcript: chunk results and failures to one transcript, written in every format that was asked for."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib.metadata import version

from workers.attribution import attribute, without_speakers
from workers.context import Context
from workers.errors import JobError, ObjectMissing
from workers.formats import render_all
from workers.messages import (
    PER_CHUNK,
    SPEAKER_OPTIONS,
    Chunk,
    ChunkResult,
    JobKeys,
    JobPlan,
    LanguageVote,
    SpeakerResult,
    StitchTranscriptInput,
    StitchTranscriptOutput,
    TaskFailure,
)
from workers.spans import Span, clock
from workers.stages.speakers import any_needs_audio, complete_answer
from workers.stitching import Stitched, stitch
from workers.storage import Storage
from workers.transcript import ChunkRecord, Gap, Provenance, Segment, Transcript

READS_AT_ONCE = 8  # objects are small and S3 takes some 50 ms for each: a hundred chunks one by one would take 10 s
GAPS_NAMED = 5  # in the sentence of a failed job; the rest is counted


@dataclass(frozen=True)
class _Job:
    """What storage knows of the job, read once."""

    plan: JobPlan
    vote: LanguageVote
    chunks: tuple[Chunk, ...]
    results: tuple[ChunkResult | None, ...]

    @property
    def span(self) -> Span:
        """What was wanted and is there: the plan only knew the length that the container claims."""
        return Span.of(self.plan.span.start_ms, max(chunk.core.end_ms for chunk in self.chunks))

    def without_text(self) -> "_Job":
        """The same without what was heard, of which the transcript has a copy."""
        results = tuple(result and result.model_copy(update={"segments": ()}) for result in self.results)
        return replace(self, results=results)


def stitch_transcript(task: StitchTranscriptInput, context: Context) -> StitchTranscriptOutput:
    """Write the job's transcript, as JSON and in the formats asked for; free the audio once nobody needs it.

    Raises JobError where chunks or the speakers were lost for good and gaps are not allowed; everything else is
    kept, so that a retry runs only what is missing.
    """
    began = time.monotonic()
    storage = context.open_storage(task.storage)
    keys = JobKeys(task.job)
    job = _read(storage, keys, context.check_wanted)
    gaps = _gaps(job, task)
    if gaps and not task.allow_gaps:
        raise JobError(_loss(gaps, job, task))
    who = _speakers(task, storage, keys)
    if who.failure and not task.allow_gaps:
        raise JobError(_speakerless(who.failure, task))
    stitched = stitch(_heard(job), gaps, _covered(job.span, gaps), job.plan.request.word_timestamps)
    language, warnings = _language(job), (*_warnings(job, task, stitched), *_speaker_warnings(who))
    job = job.without_text()
    transcript = Transcript(
        duration_ms=task.split.duration_ms,
        language=language,
        segments=_attributed(stitched.segments, who),
        speakers=who.result.speakers,
        turns=who.result.turns,
        gaps=stitched.gaps,
        warnings=warnings,
        provenance=_provenance(job, task, who, _seconds(task, time.monotonic() - began)),
    )
    del stitched  # the transcript has copies of its words, and what is written next takes as much again
    _write(transcript, task, storage, keys)
    if not gaps and not any_needs_audio(storage, keys):
        storage.discard(_audio(keys, job))
    return _output(transcript, task, job, who, storage, keys, _seconds(task, time.monotonic() - began))


def _read(storage: Storage, keys: JobKeys, check_wanted: Callable[[], None]) -> _Job:
    plan = JobPlan.model_validate_json(storage.get_bytes(keys.plan))

    def read(index: int) -> tuple[Chunk, ChunkResult | None]:
        check_wanted()
        record = _optional(storage, keys.result(index))
        result = ChunkResult.model_validate_json(record) if record is not None else None
        # a result knows its chunk; the record alone tells what was lost with a result
        chunk = result.chunk if result else Chunk.model_validate_json(storage.get_bytes(keys.chunk(index)))
        return chunk, result

    with ThreadPoolExecutor(READS_AT_ONCE, "stitch-read") as pool:
        pairs = list(pool.map(read, range(plan.chunk_count)))
    vote = _optional(storage, keys.language)
    return _Job(
        plan=plan,
        vote=LanguageVote.model_validate_json(vote) if vote is not None else LanguageVote(),
        chunks=tuple(chunk for chunk, _ in pairs),
        results=tuple(result for _, result in pairs),
    )


def _optional(storage: Storage, key: str) -> bytes | None:
    try:
        return storage.get_bytes(key)
    except ObjectMissing:
        return None


@dataclass(frozen=True)
class _Who:
    """What the diarization branch brought. failure: why it brought nothing; wanted False: nobody asked."""

    wanted: bool
    result: SpeakerResult = field(default_factory=SpeakerResult)
    failure: str | None = None


def _speakers(task: StitchTranscriptInput, storage: Storage, keys: JobKeys) -> _Who:
    """The stored answer. A complete one counts although its task failed: an attempt may store it and then time out."""
    if task.speakers is None:
        return _Who(wanted=False)
    answer = complete_answer(storage, keys, task.speakers)
    if answer is None and "key" in task.clustered:
        answer = storage.get_bytes(keys.speaker_result(task.speakers))
    if answer is not None:
        return _Who(wanted=True, result=SpeakerResult.model_validate_json(answer))
    failure = TaskFailure.model_validate(task.clustered)
    return _Who(wanted=True, failure=failure.reason.rstrip("."))


def _speakerless(failure: str, task: StitchTranscriptInput) -> str:
    return (
        f"The text is complete, but the speakers could not be told apart: {failure}. Everything else is kept: "
        f"`whisperfleet jobs retry {task.workflow_id or task.job}` adds the speakers, "
        "and --allow-gaps or --no-diarize takes the transcript without them."
    )


def _attributed(segments: tuple[Segment, ...], who: _Who) -> tuple[Segment, ...]:
    if not who.wanted:
        return without_speakers(segments, "off")
    if who.failure:
        return without_speakers(segments, "failed")
    return attribute(segments, who.result.exclusive_turns, who.result.missing)


def _speaker_warnings(who: _Who) -> tuple[str, ...]:
    if who.failure:
        return (f"The transcript names no speakers, because they could not be told apart: {who.failure}.",)
    return who.result.warnings


def _heard(job: _Job) -> list[ChunkResult]:
    return [result for result in job.results if result is not None]


def _gaps(job: _Job, task: StitchTranscriptInput) -> list[Gap]:
    """What is missing: chunks without a result, whatever their task said, and what the media itself lacks.

    A result counts although its task failed: its last attempt may have stored it and then lost its lease.
    """
    failures = task.chunk_failures()
    unknown = TaskFailure(error="JobError", reason="the chunk has no result")
    gaps = []
    for chunk, result in zip(job.chunks, job.results, strict=True):
        if result is None and chunk.core.duration_ms:
            failure = failures.get(chunk.index, unknown)
            gaps.append(_gap(chunk.core, chunk.index, failure.error, failure.reason))
    missing_from_ms = task.split.missing_from_ms
    if missing_from_ms is not None and missing_from_ms < job.plan.span.end_ms:
        rest = Span.of(max(missing_from_ms, job.span.end_ms), job.plan.span.end_ms)
        gaps.append(_gap(rest, None, "MediaError", "the media breaks off here"))
    return gaps


def _gap(span: Span, chunk: int | None, error: str, reason: str) -> Gap:
    return Gap(start_ms=span.start_ms, end_ms=span.end_ms, chunk=chunk, error=error, reason=reason)


def _covered(span: Span, gaps: Sequence[Gap]) -> Span:
    """The span that results and gaps must tile: a truncated media's missing end is part of it."""
    return Span.of(span.start_ms, max([span.end_ms, *(gap.end_ms for gap in gaps)]))


def _loss(gaps: Sequence[Gap], job: _Job, task: StitchTranscriptInput) -> str:
    named = "; ".join(f"{_period(gap)} ({gap.reason.rstrip('.')})" for gap in gaps[:GAPS_NAMED])
    more = f"; and {len(gaps) - GAPS_NAMED} more" if len(gaps) > GAPS_NAMED else ""
    return (
        f"{len(gaps)} of {len(job.chunks)} chunks could not be transcribed: {named}{more}. Everything else is kept: "
        f"`whisperfleet jobs retry {task.workflow_id or task.job}` runs only what is missing, "
        "and --allow-gaps takes the transcript as it is."
    )


def _period(span: Gap | Span) -> str:
    return f"{clock(span.start_ms)[:-4]}–{clock(span.end_ms)[:-4]}"


def _language(job: _Job) -> str | None:
    """The language that was given; else the voted one; else the one most of the speech is in. None for silence."""
    asked = job.plan.request.language
    if asked not in ("auto", PER_CHUNK):
        return asked
    spoken: dict[str, int] = {}
    for result in _heard(job):
        if result.language is not None:
            said_ms = sum(segment.span.overlap_ms(result.chunk.core) for segment in result.segments)
            spoken[result.language] = spoken.get(result.language, 0) + said_ms
    most = max(spoken.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if not most[1]:
        return None
    return job.vote.language or most[0] if asked == "auto" else most[0]


def _warnings(job: _Job, task: StitchTranscriptInput, stitched: Stitched) -> tuple[str, ...]:
    warnings = list(task.split.warnings)
    if not stitched.segments and not stitched.gaps:
        warnings.append(f"No speech was found in '{job.plan.media_name}': the transcript is empty.")
    for result in _heard(job):
        for decode in result.decodes:
            if decode.kept and decode.suspicions:
                why = "; ".join(decode.suspicions)
                warnings.append(
                    f"The text of {_period(result.chunk.core)} may be wrong, also after a second try: {why}."
                )
    return tuple(warnings)


def _seconds(task: StitchTranscriptInput, stitching: float) -> dict[str, float]:
    """By stage, of this run: what reused chunks took in an earlier one is not counted again."""
    seconds = dict(task.stage_seconds)
    for output in (*task.chunks.values(), *task.voices.values(), task.clustered):
        for name, value in (output.get("seconds") or {}).items():
            seconds[name] = seconds.get(name, 0.0) + value
    seconds["stitch"] = stitching
    return {name: round(value, 3) for name, value in seconds.items()}


def _provenance(job: _Job, task: StitchTranscriptInput, who: _Who, seconds: dict[str, float]) -> Provenance:
    request = job.plan.request
    options = request.model_dump(exclude={"media", "model", "engine", "storage", "formats", *SPEAKER_OPTIONS})
    return Provenance(
        whisperfleet=version("whisperfleet"),
        job=task.job,
        workflow_id=task.workflow_id,
        media=job.plan.media_name,  # not the address, which may hold a signature
        model=request.model,
        engine=request.engine,
        options={**options, "formats": ",".join(task.formats), "allow_gaps": task.allow_gaps},
        language_votes=job.vote.votes,
        chunks=tuple(
            _record(chunk, result, task.chunks.get(f"chunk_{chunk.index}", {}))
            for chunk, result in zip(job.chunks, job.results, strict=True)
        ),
        seconds=seconds,
        diarization=who.result.diagnostics,
    )


def _record(chunk: Chunk, result: ChunkResult | None, output: dict[str, object]) -> ChunkRecord:
    if result is None:
        return ChunkRecord(index=chunk.index, core=chunk.core, audio=chunk.audio)
    inference = result.seconds.get("inference", 0.0)
    return ChunkRecord(
        index=chunk.index,
        core=chunk.core,
        audio=chunk.audio,
        language=result.language,
        worker=result.worker,
        attempts=result.attempts,
        reused=output.get("reused") is True,
        rtfx=round(chunk.audio.duration_ms / 1000 / inference, 2) if inference else None,
        decodes=result.decodes,
    )


def _write(transcript: Transcript, task: StitchTranscriptInput, storage: Storage, keys: JobKeys) -> None:
    """JSON always: who follows the job reads its end from it, whatever files were asked for."""
    forms = tuple(dict.fromkeys((*task.formats, "json")))
    # the page plays what lies beside it: the media's address may hold a signature, and its path means nothing there
    for form, text in render_all(transcript, forms, media=transcript.provenance.media):
        storage.put_bytes(keys.transcript(form), text.encode())


def _audio(keys: JobKeys, job: _Job) -> Iterable[str]:
    """What nobody needs once all is transcribed. Results and chunk records stay, for a second run to find."""
    yield from (keys.audio(chunk.index) for chunk in job.chunks)
    yield from (keys.language_sample(number) for number in range(job.plan.language_samples))


def _output(
    transcript: Transcript,
    task: StitchTranscriptInput,
    job: _Job,
    who: _Who,
    storage: Storage,
    keys: JobKeys,
    seconds: dict[str, float],
) -> StitchTranscriptOutput:
    wall = time.time() - task.started_at_ms / 1000 if task.started_at_ms else sum(seconds.values())
    return StitchTranscriptOutput(
        files={form: storage.url(keys.transcript(form)) for form in task.formats},
        duration_ms=transcript.duration_ms,
        language=transcript.language,
        chunks=len(job.chunks),
        words=_count_words(transcript.segments),
        gaps=len(transcript.gaps),
        speakers=len(transcript.speakers) if who.wanted and not who.failure else None,
        warnings=transcript.warnings,
        seconds=seconds,
        rtfx=round(job.span.duration_ms / 1000 / max(wall, 0.001), 2),
    )


def _count_words(segments: Iterable[Segment]) -> int:
    return sum(len(segment.words) or len(segment.text.split()) for segment in segments)
