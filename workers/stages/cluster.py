"""cluster_speakers: the windows of all chunks to one answer, who speaks when, over the whole recording."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.context import Context
from workers.diarizers import Clustered, Diarizer, DiarizerSpec, Windows
from workers.diarizers.grid import count_windows, owned
from workers.diarizers.naming import name_speakers
from workers.diarizers.packing import joined, unpack
from workers.errors import EngineError, JobError, OptionError, StorageUnavailable
from workers.messages import (
    ClusterSpeakersInput,
    ClusterSpeakersOutput,
    DiarizeChunkOutput,
    JobKeys,
    JobPlan,
    SpeakerPlan,
    SpeakerResult,
    SpeechMap,
    TaskFailure,
)
from workers.recording import Recording, read_flac
from workers.spans import SAMPLES_PER_MS, Span, clock
from workers.stages.recognize import read_plan
from workers.stages.speakers import complete_answer, read_speaker_plan
from workers.storage import Storage

READS_AT_ONCE = 8
LOSSES_NAMED = 3


@dataclass(frozen=True)
class _Branch:
    """What the chunks of the branch have left."""

    storage: Storage
    keys: JobKeys
    plan: JobPlan
    speakers: SpeakerPlan
    duration_ms: int


def cluster_speakers(task: ClusterSpeakersInput, context: Context) -> ClusterSpeakersOutput:
    """Store who speaks when, from the first to the last millisecond of the wanted span.

    A part whose windows are not its own, or not of the diarizer's shape, counts as lost: nobody is asked to believe a
    machine, and one part must not spoil the others. With gaps allowed one of another version does too.

    Raises JobError where parts were lost and gaps are not allowed, where nothing is left, or where chunks were
    diarized by different versions; EngineError where they all were by another version than this worker's.
    """
    began = time.monotonic()
    storage = context.open_storage(task.storage)
    keys = JobKeys(task.job)
    earlier = complete_answer(storage, keys, task.speakers)
    if earlier is not None:
        return _output(earlier, task, keys, seconds={})
    plan = read_plan(storage, keys)
    speakers = read_speaker_plan(storage, keys, task.speakers)
    branch = _Branch(storage, keys, plan, speakers, Recording(storage, keys, plan).duration_ms())
    diarizer = context.diarizer(speakers.diarizer, speakers.model)
    failures = task.failures()
    _check_losses(failures, task, branch)
    done = {
        name: DiarizeChunkOutput.model_validate(task.chunks[name]) for name in _voices(task.chunks, without=failures)
    }
    unusable = _of_another_version(done, diarizer, task.allow_gaps)
    parts = _read({name: output for name, output in done.items() if name not in unusable}, storage)
    unusable |= _not_its_own(parts, branch, diarizer.spec)
    storage.discard(done[name].key for name in unusable)  # a later run must not find them done
    failures |= unusable
    _check_losses(failures, task, branch)
    windows = joined([part for name, part in parts.items() if name not in unusable])
    context.check_wanted()
    clustered = diarizer.cluster(
        windows, _speech(branch, diarizer), branch.duration_ms, speakers.hints, context.check_wanted
    )
    clips, unheard = _clips(branch, diarizer)
    result = _result(clustered, clips, unheard, tuple(_lost(failures, branch)), branch, diarizer)
    data = result.model_dump_json().encode()
    storage.put_bytes(keys.speaker_result(task.speakers), data)
    return _output(data, task, keys, seconds={"cluster": round(time.monotonic() - began, 3)})


def _output(data: bytes, task: ClusterSpeakersInput, keys: JobKeys, seconds: dict[str, float]) -> ClusterSpeakersOutput:
    result = SpeakerResult.model_validate_json(data)
    return ClusterSpeakersOutput(
        key=keys.speaker_result(task.speakers),
        sha256=hashlib.sha256(data).hexdigest(),
        speakers=len(result.speakers),
        turns=len(result.turns),
        warnings=result.warnings,
        seconds=seconds,
    )


def _voices(chunks: Mapping[str, Any], without: Mapping[str, Any]) -> list[str]:
    return [name for name in chunks if name.startswith("voices_") and name not in without]


def _index(reference: str) -> int:
    return int(reference.rsplit("_", 1)[1])


def _check_losses(failures: Mapping[str, TaskFailure], task: ClusterSpeakersInput, branch: _Branch) -> None:
    """Raises JobError where what is left does not do."""
    if not failures:
        return
    nothing_left = "speech" in failures or not _voices(task.chunks, without=failures)
    if task.allow_gaps and not nothing_left:
        return
    named = "; ".join(
        f"{_place(name, branch)} ({failures[name].reason.rstrip('.')})" for name in list(failures)[:LOSSES_NAMED]
    )
    more = f"; and {len(failures) - LOSSES_NAMED} more" if len(failures) > LOSSES_NAMED else ""
    raise JobError(f"Diarization was lost for {named}{more}.")


def _place(reference: str, branch: _Branch) -> str:
    if reference == "speech":
        return "the speech map"
    part = _part(_index(reference), branch)
    return f"{clock(part.start_ms)[:-4]}–{clock(part.end_ms)[:-4]}"


def _part(index: int, branch: _Branch) -> Span:
    """What a chunk of the branch owns, on the media's clock."""
    length_ms = branch.speakers.chunk_seconds * 1000
    last = index + 1 == branch.speakers.chunk_count
    start_ms = min(index * length_ms, branch.duration_ms)
    end_ms = branch.duration_ms if last else min((index + 1) * length_ms, branch.duration_ms)
    return Span.of(start_ms, end_ms).shifted(branch.plan.span.start_ms)


def _lost(failures: Mapping[str, TaskFailure], branch: _Branch) -> list[Span]:
    parts = [_part(_index(name), branch) for name in failures if name.startswith("voices_")]
    return sorted((part for part in parts if part.duration_ms), key=lambda part: part.start_ms)


def _of_another_version(
    done: Mapping[str, DiarizeChunkOutput], diarizer: Diarizer, allow_gaps: bool
) -> dict[str, TaskFailure]:
    """The parts that cannot be compared with the others. Raises JobError or EngineError where that is the end."""
    specs = {output.spec for output in done.values()}
    if specs == {diarizer.spec.hash}:
        return {}
    if len(specs) > 1:
        if allow_gaps and diarizer.spec.hash in specs:
            reason = f"it was heard with another version of {diarizer.spec.name} or its model."
            strange = [name for name, output in done.items() if output.spec != diarizer.spec.hash]
            return {name: TaskFailure(error="EngineError", reason=reason) for name in strange}
        mine = [output.worker for output in done.values() if output.spec == diarizer.spec.hash]
        others = sorted({output.worker for output in done.values() if output.spec != diarizer.spec.hash})
        raise JobError(
            f"The voices were heard by workers with different versions of {diarizer.spec.name} or its model "
            f"({', '.join(others[:LOSSES_NAMED])} against {mine[0] if mine else 'others'}), and cannot be compared: "
            "bring all workers to one version."
        )
    raise EngineError(
        f"The voices were heard by workers with another version of {diarizer.spec.name} or its model than this "
        "worker has: bring all workers to one version."
    )


def _not_its_own(parts: Mapping[str, Windows], branch: _Branch, spec: DiarizerSpec) -> dict[str, TaskFailure]:
    """The parts whose windows are others than the recording has there, or of another shape than the diarizer's."""
    there = count_windows(branch.duration_ms * SAMPLES_PER_MS, spec)
    failures = {}
    for name, windows in parts.items():
        first, stop = owned(_index(name), branch.speakers.chunk_count, branch.speakers.chunk_seconds, spec)
        numbers = np.arange(first, max(first, there if stop is None else min(stop, there)))
        fits = (
            windows.spec_hash == spec.hash
            and np.array_equal(windows.index, numbers)
            and windows.activity.shape == (len(numbers), spec.frames, spec.local_speakers)
            and windows.embedding.shape == (len(numbers), spec.local_speakers, spec.dimension)
        )
        if not fits:
            failures[name] = TaskFailure(error="EngineError", reason="its windows are not those of that part.")
    return failures


def _read(done: Mapping[str, DiarizeChunkOutput], storage: Storage) -> dict[str, Windows]:
    def read(output: DiarizeChunkOutput) -> Windows:
        data = storage.get_bytes(output.key)
        if hashlib.sha256(data).hexdigest() != output.sha256:
            raise StorageUnavailable(
                f"The voices of part {output.index} are not what was stored: the checksum differs."
            )
        return unpack(data)

    with ThreadPoolExecutor(READS_AT_ONCE, "cluster-read") as pool:
        return dict(zip(done, pool.map(read, done.values()), strict=True))


def _speech(branch: _Branch, diarizer: Diarizer) -> list[Span] | None:
    if not diarizer.needs_speech:
        return None
    found = SpeechMap.model_validate_json(branch.storage.get_bytes(branch.keys.speech))
    return [region.shifted(-branch.plan.span.start_ms) for region in found.regions]


def _clips(branch: _Branch, diarizer: Diarizer) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """The voices of the reference clips, and a warning for each in which there is none: no reason to name nobody."""
    voices, warnings = {}, []
    for name, key in branch.speakers.clips.items():
        try:
            voices[name] = diarizer.embed(read_flac(branch.storage.get_bytes(key), f"the reference clip of {name}"))
        except OptionError as error:
            warnings.append(f"Nobody was named {name}. The reference clip: {error}")
    return voices, warnings


def _result(
    clustered: Clustered,
    clips: Mapping[str, NDArray[np.float32]],
    unheard: Sequence[str],
    missing: tuple[Span, ...],
    branch: _Branch,
    diarizer: Diarizer,
) -> SpeakerResult:
    turns, exclusive, people, warnings = name_speakers(
        clustered, clips, diarizer.same_person, branch.plan.span.start_ms
    )
    lost = tuple(
        f"{clock(part.start_ms)[:-4]}–{clock(part.end_ms)[:-4]} was not diarized: nobody is named there."
        for part in missing
    )
    return SpeakerResult(
        turns=turns,
        exclusive_turns=exclusive,
        speakers=people,
        missing=missing,
        warnings=(*clustered.warnings, *warnings, *unheard, *lost),
        diagnostics={
            "diarizer": diarizer.spec.name,
            "model_sha256": diarizer.spec.model_sha256,
            "spec": diarizer.spec.hash,
            **{f"asked_{name}": value for name, value in branch.speakers.hints.model_dump().items()},
            **clustered.diagnostics,
        },
    )
