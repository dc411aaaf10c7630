"""One recording through the stages of a job, in one process, and many of them in several processes at once."""

import hashlib
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.surroundings import make_context
from workers.chunking import BATCHED_MS, plan_cuts
from workers.context import Context
from workers.diarizers import Diarizer
from workers.messages import (
    ClusterSpeakersInput,
    DiarizeChunkInput,
    JobInput,
    JobKeys,
    PlanMediaOutput,
    SpeakerRef,
    SpeakerResult,
    SplitMediaInput,
    StitchTranscriptInput,
    TranscribeChunkInput,
)
from workers.recognizers import Recognizer
from workers.recording import Recording
from workers.spans import Span
from workers.stages.cluster import cluster_speakers
from workers.stages.diarize import diarize_chunk
from workers.stages.plan import plan_media
from workers.stages.recognize import read_plan, transcribe_chunk
from workers.stages.speech import map_speech
from workers.stages.split import split_media
from workers.stages.stitch import stitch_transcript
from workers.transcript import SpeakerTurn, Transcript

LONGEST_CHUNK_S = 3600  # what --chunk-seconds takes at most: a recording of up to that is one chunk
HANGS_S = 1800.0  # a process that was killed tells nobody: nothing takes so long here


@dataclass(frozen=True)
class Length:
    """How a recording is divided: the label of a row, and what the plan is made of."""

    label: str
    chunk_seconds: Literal["auto"] | int
    workers: int = 1

    def cuts(self, duration_ms: int, shortest_ms: int = BATCHED_MS) -> tuple[int, ...]:
        """shortest_ms: of an engine as it has it; the default is that of the engine that hears here."""
        return plan_cuts(Span.of(0, duration_ms), self.chunk_seconds, self.workers, shortest_ms)


SERIAL = Length("serial", LONGEST_CHUNK_S)


@dataclass(frozen=True)
class Task:
    """A recording to hear in this division. voices_s: length of the diarization chunks; home: a folder that is made
    for the job's objects, and deleted once it is heard."""

    recording: str
    media: Path
    length: Length
    diarize: bool
    voices_s: int
    home: Path


@dataclass(frozen=True)
class Heard:
    """The finished transcript; the hash of all samples read back from the chunks, as the diarizer reads them; and
    who speaks when, never two at once (empty without diarization)."""

    task: Task
    transcript: Transcript
    samples_sha256: str
    turns: tuple[SpeakerTurn, ...]


def hear(task: Task, recognizer: Recognizer, diarizer: Callable[[], Diarizer]) -> Heard:
    """plan, split, every chunk, the speakers where they are wanted, stitch: the stages as the workers call them."""
    context = make_context(
        task.home,
        task.length.workers,
        recognizer=lambda options: recognizer,
        diarizer=lambda name, model: diarizer(),
    )
    job = JobInput(
        media=str(task.media),
        model=recognizer.model,
        language="en",
        chunk_seconds=task.length.chunk_seconds,
        diarize=task.diarize,
        speaker_chunk_seconds=task.voices_s,
    )
    plan = plan_media(job, context)
    ref = {"storage": plan.storage, "job": plan.job}
    split = split_media(SplitMediaInput(**ref, speakers=plan.speakers), context)
    storage, keys = context.open_storage(plan.storage), JobKeys(plan.job)
    samples = _samples_sha256(Recording(storage, keys, read_plan(storage, keys)), context)
    chunks = {
        name: transcribe_chunk(TranscribeChunkInput.decode(given), context).model_dump()
        for name, given in plan.fork_inputs.items()
    }
    clustered = _speakers(plan, context) if task.diarize else {}
    stitch_transcript(
        StitchTranscriptInput(
            **ref, formats=("json",), chunks=chunks, split=split, speakers=plan.speakers, clustered=clustered
        ),
        context,
    )
    turns: tuple[SpeakerTurn, ...] = ()
    if plan.speakers:
        turns = SpeakerResult.model_validate_json(storage.get_bytes(keys.speaker_result(plan.speakers))).exclusive_turns
    transcript = Transcript.model_validate_json(storage.get_bytes(keys.transcript("json")))
    return Heard(task, transcript, samples, turns)


def _speakers(plan: PlanMediaOutput, context: Context) -> dict[str, object]:
    voices = {
        name: diarize_chunk(DiarizeChunkInput.decode(given), context).model_dump()
        for name, given in plan.speaker_inputs.items()
        if name.startswith("voices_")
    }
    mapped = plan.speaker_inputs["speech"]
    speech = map_speech(SpeakerRef.decode(mapped), context).model_dump()
    task = ClusterSpeakersInput(**mapped, chunks={"speech": speech, **voices})
    return cluster_speakers(task, context).model_dump()


def _samples_sha256(recording: Recording, context: Context) -> str:
    found = hashlib.sha256()
    for samples in recording.pieces(context.check_wanted):
        found.update(samples.tobytes())
    return found.hexdigest()


# ---- in several processes ----

_recognizer: Recognizer | None = None
_diarizer: Diarizer | None = None


def hear_all(tasks: Sequence[Task], model: str, processes: int) -> Iterator[Heard]:
    """Each task once, in any order, in `processes` processes of one thread each; all end with the iteration."""
    with multiprocessing.get_context("spawn").Pool(min(processes, len(tasks)), _begin, (model,)) as pool:
        answers = pool.imap_unordered(_hear, tasks)
        for _ in tasks:
            yield answers.next(HANGS_S)
        pool.close()
        pool.join()  # or what the processes share is reported as leaked


def _begin(model: str) -> None:
    from workers.recognizers.loading import load

    global _recognizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    _recognizer = load("faster-whisper", model, threads=1)


def _hear(task: Task) -> Heard:
    assert _recognizer is not None
    heard = hear(task, _recognizer, _ge2e)
    shutil.rmtree(task.home)  # the audio in all lengths would fill a disk
    return heard


def _ge2e() -> Diarizer:
    from workers.diarizers.loading import load

    global _diarizer
    _diarizer = _diarizer or load("ge2e", None)
    return _diarizer
