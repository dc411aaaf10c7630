"""Is this what the contract says? Whatever a stranger's machine wrote or claims, before anybody else sees it. Pure.

Two questions: may these bytes become that object (`check_object`, when they are written), and does the output that
comes with "done" say of the stored object what is true (`check`, before Conductor hears of it)? Whoever answers
strangely is told no in one sentence; nothing is repaired but what the gateway knows better anyway.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pydantic_core
from pydantic import ValidationError

from provisioning.gateway_leases import Lease, owner_of
from provisioning.gateway_windows import BadWindows, read_windows
from workers.errors import ObjectMissing
from workers.messages import (
    Chunk,
    ChunkResult,
    DetectLanguageOutput,
    DiarizeChunkOutput,
    JobKeys,
    JobPlan,
    LanguageVote,
    SpeakerPlan,
    TaskFailure,
    TranscribeChunkOutput,
)
from workers.recognizers.options import LANGUAGES
from workers.transcript import Decode, Segment, Word

MOST_OUTPUT_BYTES = 64 << 10
"""Of a task's output, or of a whole update of a task: ours have one to four kilobytes."""

RESULT_BYTES_BASE, RESULT_BYTES_A_SECOND = 256 << 10, 4 << 10
"""Of a chunk's result: a word takes some 120 bytes, and an engine that runs wild says some twenty a second."""

CHARACTERS_BASE, CHARACTERS_A_SECOND = 5_000, 200
"""Of a chunk's text. People speak 15 a second. A decoder gives at most 448 tokens for each stretch of 30 s it hears,
about 75 characters a second; but stretches may be shorter, and tokens longer."""

MOST_VOTE_BYTES = 16 << 10
MOST_SECONDS = 7 * 86_400.0  # that any stage can have taken
MOST_DECODES = 8
MOST_SUSPICION = 500  # characters
MOST_REASON = 500
MOST_SCORE = 1e6

ReadObject = Callable[[str], bytes]
"""The object of the lease's storage by its key; raises ObjectMissing."""


class BrokenContract(ValueError):
    """What a machine handed in is not what the contract says; the text is one sentence of the reason."""


@dataclass(frozen=True)
class Verdict:
    """ok: `status` and `output` are what Conductor is to hear. Not ok: `reason` says in a sentence what is wrong."""

    ok: bool
    status: str = ""
    output: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Accepted:
    """The bytes that are to be stored, and their SHA-256: ours may differ from what was sent."""

    data: bytes
    sha256: str


# ---- updates of tasks ----


def decode_json(body: bytes, most_bytes: int = MOST_OUTPUT_BYTES) -> Any:
    """What a stranger's JSON says.

    Raises BrokenContract where it is too large, nested deeper than 200, has numbers that are none, or is no JSON.
    """
    if len(body) > most_bytes:
        raise BrokenContract(f"It has {len(body)} bytes where {most_bytes} are the most.")
    try:
        decoded = pydantic_core.from_json(body, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        raise BrokenContract(f"It is no JSON: {plain(str(error), 100)}.") from None
    if not _is_finite(decoded):  # 1e999 is read as infinity even so
        raise BrokenContract("It has a number that is too large to be one.")
    return decoded


def _is_finite(decoded: Any) -> bool:
    waiting = [decoded]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, float) and not math.isfinite(part):
            return False
    return True


def check(lease: Lease, status: str, output: Any, read_object: ReadObject) -> Verdict:
    """What Conductor is to hear of an update of a task that a rented machine holds.

    Blocking, as read_object is. Raises StorageUnavailable, StorageError where the store does not answer: then nobody
    can tell, and the machine may hand in again.

    A failure is never for good, whatever the machine says: what it cannot do, another one may.
    """
    if status == "IN_PROGRESS":
        return Verdict(True, status, {"waiting": True} if isinstance(output, dict) and output.get("waiting") else {})
    if status in ("FAILED", "FAILED_WITH_TERMINAL_ERROR"):
        return Verdict(True, "FAILED", _failure(output).model_dump())
    if status != "COMPLETED":
        return Verdict(False, reason=f"There is no status '{plain(str(status), 40)}' that a worker may give a task.")
    try:
        if not isinstance(output, dict):
            raise BrokenContract("The output is no object.")
        return Verdict(True, status, _JUDGES[lease.kind](lease, output, read_object))
    except BrokenContract as error:
        return Verdict(False, reason=str(error))
    except KeyError:
        return Verdict(False, reason=f"No rented machine does tasks of the kind '{plain(lease.kind, 40)}'.")


def _failure(output: Any) -> TaskFailure:
    told = output if isinstance(output, dict) else {}
    error, reason = told.get("error"), told.get("reason")
    return TaskFailure(
        error=error if isinstance(error, str) and re.fullmatch(r"[A-Za-z]{1,60}", error) else "EngineError",
        reason=(plain(reason, MOST_REASON) if isinstance(reason, str) else "") or "the machine gave no reason",
    )


def _judge_transcribed(lease: Lease, output: dict[str, Any], read_object: ReadObject) -> dict[str, Any]:
    """The output is made anew from the stored result; what the machine says must be the same."""
    claimed = _decoded(TranscribeChunkOutput, output)
    key = JobKeys(lease.job).result(_index(lease))
    stored = ChunkResult.model_validate_json(_stored(key, read_object))
    true = TranscribeChunkOutput(
        index=_index(lease),
        key=key,
        worker=stored.worker,
        attempts=stored.attempts,
        audio_ms=stored.chunk.audio.duration_ms,
        words=sum(len(segment.text.split()) for segment in stored.segments),
        reused=key not in lease.written,
        suspicious=any(decode.suspicions for decode in stored.decodes),
        seconds=_durations(claimed.seconds),
    )
    _same(claimed, true, ("index", "key", "audio_ms", "words", "suspicious"))
    return true.model_dump(mode="json")


def _judge_detected(lease: Lease, output: dict[str, Any], read_object: ReadObject) -> dict[str, Any]:
    claimed = _decoded(DetectLanguageOutput, output)
    vote = LanguageVote.model_validate_json(_stored(JobKeys(lease.job).language, read_object))
    true = DetectLanguageOutput(
        language=vote.language, votes=vote.votes, seconds=_durations({"all": claimed.seconds})["all"]
    )
    _same(claimed, true, ("language", "votes"))
    return true.model_dump(mode="json")


def _judge_diarized(lease: Lease, output: dict[str, Any], read_object: ReadObject) -> dict[str, Any]:
    """What an earlier attempt left may be handed in too: it lies below the same name, and was checked then."""
    claimed = _decoded(DiarizeChunkOutput, output)
    keys, index = JobKeys(lease.job), _index(lease)
    plan = SpeakerPlan.model_validate_json(_stored(keys.speaker_plan(str(lease.data.get("speakers"))), read_object))
    if not claimed.key.startswith(keys.windows(plan.voices, index)):
        raise BrokenContract("The output names an object that is not this task's.")
    data = _stored(claimed.key, read_object)
    try:
        found = read_windows(data, index, plan)
    except BadWindows as error:
        raise BrokenContract(str(error)) from None
    true = DiarizeChunkOutput(
        index=index,
        key=claimed.key,
        sha256=hashlib.sha256(data).hexdigest(),
        spec=found.spec_hash,
        windows=len(found.index),
        worker=owner_of(lease.nonce),
        attempts=max(1, min(claimed.attempts, 99)),
        reused=claimed.key not in lease.written,
        seconds=_durations(claimed.seconds),
    )
    _same(claimed, true, ("index", "sha256", "spec", "windows"))
    return true.model_dump(mode="json")


_JUDGES: dict[str, Callable[[Lease, dict[str, Any], ReadObject], dict[str, Any]]] = {
    "transcribe_chunk": _judge_transcribed,
    "detect_language": _judge_detected,
    "diarize_chunk": _judge_diarized,
}


def _decoded(message: type[Any], output: dict[str, Any]) -> Any:
    try:
        return message.model_validate(output)
    except (ValidationError, RecursionError) as error:
        raise BrokenContract(f"The output is not of the contract: {_first(error)}.") from None


def _same(claimed: Any, true: Any, names: Iterable[str]) -> None:
    for name in names:
        said, stored = getattr(claimed, name), getattr(true, name)
        if said != stored:
            raise BrokenContract(
                f"The output's {name} is {plain(str(said), 60)}, and by what is stored {plain(str(stored), 60)}."
            )


def _stored(key: str, read_object: ReadObject) -> bytes:
    try:
        return read_object(key)
    except ObjectMissing:
        raise BrokenContract("Done is claimed, and nothing was stored.") from None


def _index(lease: Lease) -> int:
    if lease.index is None:
        raise BrokenContract("The task has no index.")
    return lease.index


def _durations(seconds: dict[str, float]) -> dict[str, float]:
    if len(seconds) > 8 or not all(re.fullmatch(r"[a-z_]{1,32}", name) for name in seconds):
        raise BrokenContract("The seconds have names that no stage has.")
    if not all(math.isfinite(value) and 0 <= value <= MOST_SECONDS for value in seconds.values()):
        raise BrokenContract("The seconds are none that a stage can have taken.")
    return seconds


# ---- objects ----


def most_bytes(kind: str, audio_ms: int) -> int:
    """How large the object may be that a task of this kind writes for that much audio."""
    if kind == "detect_language":
        return MOST_VOTE_BYTES
    if kind == "diarize_chunk":
        return (64 << 10) + (16 << 10) * (audio_ms // 1000 + 1)
    return RESULT_BYTES_BASE + RESULT_BYTES_A_SECOND * (audio_ms // 1000 + 1)


def check_object(lease: Lease, key: str, data: bytes, plan: JobPlan, read_object: ReadObject) -> Accepted:
    """Whether these bytes may become the object `key`, which the lease's grant lets its machine write.

    Raises BrokenContract with the reason; what read_object raises where the store does not answer.
    """
    if lease.kind == "transcribe_chunk":
        return _accepted(_checked_result(lease, data, read_object).model_dump_json().encode())
    if lease.kind == "detect_language":
        return _accepted(_checked_vote(data, plan).model_dump_json().encode())
    return _checked_windows(lease, key, data, plan, read_object)


def _accepted(data: bytes) -> Accepted:
    return Accepted(data, hashlib.sha256(data).hexdigest())


def _checked_result(lease: Lease, data: bytes, read_object: ReadObject) -> ChunkResult:
    """The result under the gateway's own name for the machine: what it calls itself is nobody's business."""
    index = _index(lease)
    chunk = Chunk.model_validate_json(_stored(JobKeys(lease.job).chunk(index), read_object))
    result: ChunkResult = _parsed(ChunkResult, data, most_bytes(lease.kind, chunk.audio.duration_ms))
    if result.index != index or result.chunk != chunk:
        raise BrokenContract("The result is of another chunk, or of one that was cut otherwise.")
    if result.language is not None and result.language not in LANGUAGES:
        raise BrokenContract(f"There is no language '{plain(result.language, 20)}'.")
    _check_segments(result.segments, chunk)
    _check_decodes(result.decodes)
    return result.model_copy(
        update={
            "worker": owner_of(lease.nonce),
            "attempts": max(1, min(result.attempts, 99)),
            "seconds": _durations(result.seconds),
        }
    )


def _check_segments(segments: Sequence[Segment], chunk: Chunk) -> None:
    """Ascending without overlap, inside the chunk's audio, words inside their segments: what `tidy` gives."""
    if segments and not chunk.core.duration_ms:
        raise BrokenContract("There is text in a chunk without audio.")
    reached = chunk.audio.start_ms
    characters = 0
    for segment in segments:
        if not reached <= segment.start_ms <= segment.end_ms <= chunk.audio.end_ms:
            raise BrokenContract(
                f"A segment is from {segment.start_ms} to {segment.end_ms} ms: before the one before it has ended, "
                f"or outside the chunk's audio, {chunk.audio.start_ms} to {chunk.audio.end_ms} ms."
            )
        _check_words(segment)
        _check_text(segment.text)
        _check_nobody(segment)
        characters += max(len(segment.text), sum(len(word.text) for word in segment.words))
        reached = segment.end_ms
    if characters > CHARACTERS_BASE + CHARACTERS_A_SECOND * chunk.audio.duration_ms // 1000:
        raise BrokenContract(f"{characters} characters in {chunk.audio.duration_ms / 1000:.0f} s of audio.")


def _check_words(segment: Segment) -> None:
    reached = segment.start_ms
    for word in segment.words:
        if not reached <= word.start_ms <= word.end_ms <= segment.end_ms:
            raise BrokenContract(
                f"A word is from {word.start_ms} to {word.end_ms} ms: before the one before it has ended, or outside "
                f"its segment, {segment.start_ms} to {segment.end_ms} ms."
            )
        if not math.isfinite(word.probability):
            raise BrokenContract("A word's probability is no number.")
        _check_text(word.text)
        _check_nobody(word)
        reached = word.end_ms


def _check_text(text: str) -> None:
    """Text as `tidy` leaves it. No control characters: the text will be shown in terminals and on pages."""
    if not text.strip():
        raise BrokenContract("A segment or word has no text.")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise BrokenContract("A text has control characters.")


def _check_nobody(part: Segment | Word) -> None:
    if part.speaker is not None or part.no_speaker is not None:
        raise BrokenContract("A speaker is named where only words were asked for.")
    if isinstance(part, Word) and part.speaker_confidence is not None:
        raise BrokenContract("A speaker is named where only words were asked for.")


def _check_decodes(decodes: Sequence[Decode]) -> None:
    if len(decodes) > MOST_DECODES:
        raise BrokenContract(f"{len(decodes)} passes over one chunk.")
    for decode in decodes:
        told = [*decode.settings, *(value for value in decode.settings.values() if isinstance(value, str))]
        numbers = [value for value in decode.settings.values() if isinstance(value, int | float)]
        if len(decode.settings) > 32 or len(decode.suspicions) > 32:
            raise BrokenContract("A pass has more settings or suspicions than there are.")
        for text in (*told, *decode.suspicions):
            if len(text) > MOST_SUSPICION or any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
                raise BrokenContract("A pass has a setting or suspicion that is no sentence.")
        if not all(math.isfinite(number) and abs(number) <= MOST_SCORE for number in (*numbers, decode.score)):
            raise BrokenContract("A pass has numbers that are none.")


def _checked_vote(data: bytes, plan: JobPlan) -> LanguageVote:
    """Probabilities summed over the samples: none over one each, and the winner is the one with the most."""
    vote: LanguageVote = _parsed(LanguageVote, data, MOST_VOTE_BYTES)
    if not set(vote.votes) <= set(LANGUAGES):
        raise BrokenContract("There are votes for languages that there are not.")
    most = max(1, plan.language_samples) + 0.01  # they are rounded
    if not all(math.isfinite(share) and 0 <= share <= most for share in vote.votes.values()):
        raise BrokenContract("There are votes that no probability can be.")
    if sum(vote.votes.values()) > most:
        raise BrokenContract("There are more votes than samples.")
    winner = max(vote.votes, key=lambda language: vote.votes[language], default=None)
    if (vote.language is None) != (winner is None) or (
        winner and vote.votes.get(vote.language or "", -1.0) < vote.votes[winner]
    ):
        raise BrokenContract("The language is not the one with the most votes.")
    return vote


def _checked_windows(lease: Lease, key: str, data: bytes, job: JobPlan, read_object: ReadObject) -> Accepted:
    keys, index = JobKeys(lease.job), _index(lease)
    plan = SpeakerPlan.model_validate_json(_stored(keys.speaker_plan(str(lease.data.get("speakers"))), read_object))
    if len(data) > most_bytes(lease.kind, plan.chunk_seconds * 1000):
        raise BrokenContract(f"The windows have {len(data)} bytes.")
    sha256 = hashlib.sha256(data).hexdigest()
    if key != keys.windows(plan.voices, index, sha256):
        raise BrokenContract("The windows are not what their name says.")
    try:
        read_windows(data, index, plan, _duration_ms(job, read_object))
    except BadWindows as error:
        raise BrokenContract(str(error)) from None
    return Accepted(data, sha256)


def _duration_ms(plan: JobPlan, read_object: ReadObject) -> int | None:
    """How long the recording is that was cut; None while it is being cut. Chunks after its end are empty."""
    keys = JobKeys(plan.job)
    try:
        for index in reversed(range(plan.chunk_count)):
            core = Chunk.model_validate_json(read_object(keys.chunk(index))).core
            if core.duration_ms:
                return core.end_ms - plan.span.start_ms
    except ObjectMissing:
        return None
    return 0


def _parsed(message: type[Any], data: bytes, most: int) -> Any:
    """Raises BrokenContract where the bytes are no such message: not JSON, too deep, too large, or otherwise shaped."""
    if len(data) > most:
        raise BrokenContract(f"The object has {len(data)} bytes where {most} are the most.")
    try:
        parsed = message.model_validate(decode_json(data, most))
        parsed.model_dump_json()  # what cannot be written again (half a surrogate pair) is refused here
    except (ValidationError, RecursionError, pydantic_core.PydanticSerializationError) as error:
        raise BrokenContract(f"The object is not of the contract: {_first(error)}.") from None
    return parsed


def _first(error: Exception) -> str:
    """The first thing that is wrong, without what was given for it: that may be anything."""
    if not isinstance(error, ValidationError):
        return type(error).__name__
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"][:6])
    return plain(f"{place}: {first['msg']}" if place else str(first["msg"]), 160).rstrip(".")


def plain(text: str, most: int) -> str:
    """A stranger's text in one line for logs and people: no control characters, `most` characters."""
    shown = "".join(" " if unicodedata.category(character)[0] == "C" else character for character in text[: 4 * most])
    return " ".join(shown.split())[:most]
