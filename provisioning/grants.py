"""Which objects of a job the holder of one of its tasks may touch, and what of them it gets to see. Pure.

The stages themselves say what they need: a test runs them over a storage that keeps a record, and holds this module to
that, so that a machine of strangers may read exactly what its task reads and nothing beside it. Where an object holds
more than the task needs, `shown` takes the rest away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.chunking import SEARCH_MS
from workers.messages import ChunkResult, JobInput, JobKeys, JobPlan, SpeakerPlan, SpeakerResult
from workers.spans import Span

KINDS = ("transcribe_chunk", "detect_language", "diarize_chunk")
"""What a rented machine may do: all that starts with audio in storage and ends with an object there."""

GE2E_WINDOW_MS = 1_615  # a test holds it to the diarizer's own; importing that would bring more than numbers here

LONGEST_WINDOW_MS = 30_000
"""How far beyond its own stretch a diarizer may hear whose window the gateway does not know. pyannote's segmentation
hears 10 s at a time; three times that leaves room for another, and is a tenth of a chunk at most."""

WITHHELD = "withheld"
"""Stands where a field is needed and its value is not the machine's to know."""


@dataclass(frozen=True)
class Grant:
    """What one task's holder may do. Keys are whole names; `own` is how the names begin that it may list and delete.

    audio: those of `reads` that are large and never change, and may as well be fetched from the store itself.
    """

    reads: frozenset[str]
    audio: frozenset[str]
    writes: frozenset[str] = frozenset()
    own: str | None = None

    def may_read(self, key: str) -> bool:
        return key in self.reads or self.is_own(key)

    def may_write(self, key: str) -> bool:
        return key in self.writes or self.is_own(key)

    def may_delete(self, key: str) -> bool:
        return self.is_own(key)

    def may_list(self, prefix: str) -> bool:
        return self.own is not None and prefix.startswith(self.own)

    def is_own(self, key: str) -> bool:
        """Whether `key` is a name that `JobKeys.windows` gives; `own` ends in a dash, so no other index begins so."""
        if self.own is None or not key.startswith(self.own) or not key.endswith(".npz"):
            return False
        digest = key[len(self.own) : -len(".npz")]
        return len(digest) == 16 and set(digest) <= set("0123456789abcdef")


class NoGrant(ValueError):
    """The task's input does not fit its job: there is nothing that its holder may touch."""


def granted(kind: str, data: dict[str, Any], plan: JobPlan, speakers: SpeakerPlan | None = None) -> Grant:
    """What the holder of a task may touch.

    data is the task's input as Conductor has it, speakers the speaker plan that `data` names (diarize_chunk only).
    Raises NoGrant where the input names no such part of the job.
    """
    keys = JobKeys(plan.job)
    if data.get("job") != plan.job:
        raise NoGrant("The task's input is of another job than its plan.")
    if kind == "detect_language":
        return _detecting(keys, plan)
    index = data.get("index")
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise NoGrant(f"The task's input has the index {index!r}.")
    if kind == "transcribe_chunk":
        if index >= plan.chunk_count:
            raise NoGrant(f"The job has no chunk {index}.")
        return _transcribing(keys, index)
    if kind == "diarize_chunk":
        if speakers is None or data.get("speakers") != speakers.key or index >= speakers.chunk_count:
            raise NoGrant(f"The job has no such speaker plan, or no part {index} in it.")
        return _diarizing(keys, plan, speakers, index)
    raise NoGrant(f"No object is granted to a task of the kind {kind!r}.")


def _transcribing(keys: JobKeys, index: int) -> Grant:
    """Its result is read too: an earlier attempt may have left it whole."""
    result, audio = keys.result(index), keys.audio(index)
    reads = {keys.plan, keys.chunk(index), audio, keys.language, result}
    return Grant(frozenset(reads), frozenset({audio}), frozenset({result}))


def _detecting(keys: JobKeys, plan: JobPlan) -> Grant:
    samples = frozenset(keys.language_sample(number) for number in range(plan.language_samples))
    return Grant(samples | {keys.plan, keys.language}, samples, frozenset({keys.language}))


def _diarizing(keys: JobKeys, plan: JobPlan, speakers: SpeakerPlan, index: int) -> Grant:
    """All chunk records, which say where the recording was cut and end: where it ends, the last windows do.

    Of the audio only what can hold a sample of its windows, wherever the true cuts came to lie.
    """
    start_ms, end_ms = reach_ms(plan.span, speakers, index)
    cuts = plan.wanted_cuts_ms
    first = sum(cut + SEARCH_MS <= start_ms for cut in cuts)
    last = len(cuts) if end_ms is None else sum(cut - SEARCH_MS < end_ms for cut in cuts)
    audio = frozenset(keys.audio(number) for number in range(first, last + 1))
    records = {keys.chunk(number) for number in range(plan.chunk_count)}
    answers = {keys.speaker_plan(speakers.key), keys.speaker_result(speakers.key)}
    return Grant(
        frozenset({keys.plan, *records, *answers, *audio}), audio, own=keys.windows(speakers.voices, index)
    )  # fmt: skip


def reach_ms(span: Span, speakers: SpeakerPlan, index: int) -> tuple[int, int | None]:
    """[start, end) on the media's clock of all that the windows of part `index` can reach; end None: to the end.

    The windows that begin in [start, start + chunk_seconds) are its own, and the last of them ends a window later.
    """
    length_ms = speakers.chunk_seconds * 1000
    start_ms = span.start_ms + index * length_ms
    if index + 1 == speakers.chunk_count:
        return start_ms, None
    return start_ms, start_ms + length_ms + window_ms(speakers)


def window_ms(speakers: SpeakerPlan) -> int:
    """How long a window is at most."""
    return GE2E_WINDOW_MS if speakers.diarizer == "ge2e" else LONGEST_WINDOW_MS


def shown(kind: str, key: str, data: bytes) -> bytes:
    """What of the object `key` the holder of such a task gets to see: enough for the stage, and no more.

    Raises ValueError where the object is not what its name says.
    """
    cut = _cuts(kind).get(_ending(key))
    return data if cut is None else cut(data)


def _cuts(kind: str) -> dict[str, Callable[[bytes], bytes]]:
    return {
        "plan.json": lambda data: _shown_plan(kind, JobPlan.model_validate_json(data)),
        "speakers/plan.json": lambda data: _shown_speaker_plan(SpeakerPlan.model_validate_json(data)),
        "speakers/result.json": _shown_answer,
        "results": _shown_result,
    }


def _ending(key: str) -> str:
    """What sort of object a key of `JobKeys` names: jobs/<job>/plan.json, jobs/<job>/speakers/<key>/plan.json …"""
    parts = key.split("/")[2:]
    if parts and parts[0] == "speakers":
        return f"speakers/{parts[-1]}"
    return parts[0] if parts else ""


def shown_request(asked: JobInput) -> JobInput:
    """What was asked for, as far as it decides what an engine does: not which media it is, or who speaks there."""
    return JobInput(
        media=WITHHELD,
        model=asked.model,
        language=asked.language,
        task=asked.task,
        engine=asked.engine,
        prompt=asked.prompt,
        hotwords=asked.hotwords,
        beam_size=asked.beam_size,
        batch_size=asked.batch_size,
        word_timestamps=asked.word_timestamps,
    )


def _shown_plan(kind: str, plan: JobPlan) -> bytes:
    """Only who diarizes needs to know how long the recording is and where it is cut."""
    request = shown_request(plan.request)
    hidden: dict[str, Any] = {"request": request, "media_name": WITHHELD, "media_identity": WITHHELD}
    if kind != "diarize_chunk":
        hidden |= {"duration_ms": 0, "span": Span.of(0, 0), "wanted_cuts_ms": ()}
    return plan.model_copy(update=hidden).model_dump_json().encode()


def _shown_speaker_plan(plan: SpeakerPlan) -> bytes:
    """Without the names of people and the keys of their clips. Its key would be another then, but nobody asks it."""
    bare = SpeakerPlan(
        diarizer=plan.diarizer, model=plan.model, chunk_seconds=plan.chunk_seconds, chunk_count=plan.chunk_count
    )
    return bare.model_dump_json().encode()


def _shown_answer(data: bytes) -> bytes:
    """Who spoke when is not told: the stage asks only whether there is an answer that nothing is missing from."""
    missing = SpeakerResult.model_validate_json(data).missing
    return SpeakerResult(missing=(Span.of(0, 0),) if missing else ()).model_dump_json().encode()


def _shown_result(data: bytes) -> bytes:
    """Without the name of the machine that made it."""
    return ChunkResult.model_validate_json(data).model_copy(update={"worker": WITHHELD}).model_dump_json().encode()
