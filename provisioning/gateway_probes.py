"""Questions whose answers are known, put among a rented machine's real tasks: does it compute what it says?

A *canary* is a chunk whose words are known: from the packaged demo recording, or one that a trusted worker did, or on
which two machines agreed. A *duplicate* is a chunk that one rented machine did and another is given once more; where
the two differ a third decides, and where it agrees with neither the audio is taken for the cause. To the machine both
are tasks like any other: in the form of Conductor's, of the job it has just worked for where the question fits that job
(else of a made-up one), with objects that exist in this process only, times and audio moved by a little so that no hash
is ever seen twice. None of them reaches Conductor.

What is known is kept in memory only and goes with its job: no recording outlives its deletion, or this process.

For several threads. Off unless shares are given: each costs machine time, and whoever rents from one trusted
datacenter may not want it.
"""

import hashlib
import io
import json
import logging
import random
import statistics
import threading
import unicodedata
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from provisioning.gateway_leases import OWNER, Lease, owner_of
from provisioning.grants import WITHHELD, shown_request
from workers.chunking import SEARCH_MS
from workers.errors import ObjectMissing, WhisperfleetError
from workers.messages import Chunk, ChunkResult, JobInput, JobKeys, JobPlan, LanguageVote
from workers.models import DEMO, demo_recording
from workers.recording import fetch_audio
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.storage import Storage

log = logging.getLogger(__name__)

KIND = "transcribe_chunk"

SAME_WORDS = 0.15
"""Share of the words that may differ. Two GPUs with the same model, in other precisions and batches, differ in one to
three words of a hundred where speech is clear; the next smaller model in five to fifteen; silence, noise or another
chunk's text in nearly all. FEW_WORDS may always differ: in a short chunk a name is a tenth of the text."""

FEW_WORDS = 2

SPOKEN_ANYHOW = 0.5
"""The same for the demo recording and a model that was not made for it: large models get most of a synthetic voice's
words right, and whoever invents text gets one in ten."""

SAME_TIME_MS = 500
"""How far the median word may be moved: engines differ by tens of milliseconds, windows cut elsewhere by two hundred;
half a second puts a word into another's mouth."""

FEWEST_WORDS = 12  # of a chunk that can tell anything
LONGEST_MS = 600_000
MOST_KEPT_BYTES = 96 << 20
MOST_KEPT = 64
RESPONSE_TIMEOUT_S = 10  # as the task definitions have it
FORGOTTEN_MS = 1_800_000  # after which a question is over: so long a task may be held
BOOKED_MS = 5_000  # from which on a question that nobody holds is over; before, it may not be booked yet
MOST_UNANSWERED = 3
MOST_REMEMBERED = 10_000  # machines
ENOUGH_SURE = 8  # canaries from real jobs: no machine gets one twice in a hundred chunks
HEARS_SYNTHETIC = ("small", "medium", "large", "turbo", "distil-")
"""How the models are called that surely understand the demo recording; of others too little is known."""

_LATEST_INDEX = 40
_LATEST_MS = 3_600_000

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Shares:
    """How often a machine is asked, as shares of its real tasks. With canaries on, its first task is one."""

    canary: float = 0.0
    duplicate: float = 0.0

    @property
    def any(self) -> bool:
        return self.canary > 0 or self.duplicate > 0


@dataclass(frozen=True)
class Said:
    """A word, and when it begins in ms from the start of the audio; None where only its segment's time is known."""

    word: str
    at_ms: int | None


@dataclass
class Known:
    """Audio and what is said in it.

    by: the machines that said so; empty for trusted workers and for the demo. sure: it is a canary; else a duplicate
    that waits for another machine. other: what a second machine said otherwise. tolerance: share of words that may
    differ. name: which chunk it is. origin: the object whose deletion ends this too.
    """

    samples: Samples
    request: JobInput
    language: LanguageVote | None
    said: tuple[Said, ...]
    sure: bool
    by: tuple[str, ...] = ()
    other: tuple[Said, ...] = ()
    other_by: str = ""
    tolerance: float = SAME_WORDS
    name: str = ""
    origin: tuple[Storage, str] | None = None
    failed: set[str] = field(default_factory=set)
    passed: int = 0

    @property
    def bytes(self) -> int:
        return int(self.samples.nbytes)

    def may_ask(self, nonce: str) -> bool:
        return nonce not in self.by and nonce != self.other_by


@dataclass
class _Worked:
    """The job that a machine last had a real task of: its ids, its plan, and the chunks the machine was given."""

    job: str
    workflow_id: str
    plan: JobPlan
    had: set[int] = field(default_factory=set)


@dataclass
class _Asked:
    """One question in a machine's hands: the made-up job's objects."""

    known: Known
    store: "MemoryStorage"
    trimmed_ms: int
    nonce: str
    since_ms: int


class Probes:
    """shares: how often. model: of canaries from the demo recording while no job was seen yet; None: wait for one.

    rng: a test's, for the same questions again. held: whether a task is still in a machine's hands, by its id: a
    question that is not, and was not judged, counts as not answered.
    """

    def __init__(
        self,
        shares: Shares,
        model: str | None = None,
        rng: random.Random | None = None,
        held: Callable[[str], bool] = lambda task_id: True,
    ) -> None:
        self._shares = shares
        self._rng = rng or random.SystemRandom()
        self._request = JobInput(media=WITHHELD, model=model) if model else None
        self._kept: list[Known] = []
        self._asked: dict[str, _Asked] = {}  # by task id
        self._due: dict[str, str] = {}  # nonce to "canary" or "duplicate"
        self._met: set[str] = set()
        self._unanswered: dict[str, int] = {}
        self._held = held
        self._worked: OrderedDict[str, _Worked] = OrderedDict()  # by nonce
        self._owed: dict[str, str] = {}  # nonce to what two others found it wrong in
        self._lock = threading.Lock()

    # ---- asked by the desk ----

    def offer(self, nonce: str, kind: str, now_ms: int) -> dict[str, Any] | None:
        """A task in the form of Conductor's poll that only seems to be one; None: give a real one. May ask storage."""
        if kind != KIND or not self._shares.any:
            return None
        while True:
            with self._lock:
                known = self._chosen(nonce, now_ms)
            if known is None or known.origin is None or _is_there(*known.origin):
                break
            with self._lock:
                self._drop(known)  # its job was deleted
        return self._made_up(known, nonce, now_ms) if known is not None else None

    def store(self, lease: Lease) -> Storage:
        """The objects of a made-up job. Raises ObjectMissing where the question is over."""
        with self._lock:
            asked = self._asked.get(lease.task_id)
        if asked is None:
            raise ObjectMissing("The task is over.")
        return asked.store

    def judge(self, lease: Lease, output: dict[str, Any]) -> str | None:
        """What is wrong with a machine's answer, in a sentence; None where nothing is, or nobody can tell yet.

        What is stored is judged, as `gateway_results.check` has held the output to that. Where nothing is, the task
        failed: that may happen, but not again and again.
        """
        with self._lock:
            asked = self._asked.pop(lease.task_id, None)
            if asked is None:
                return None
            try:
                data = asked.store.get_bytes(JobKeys(lease.job).result(lease.index or 0))
            except ObjectMissing:
                return self._not_answered(lease.nonce, output)
            self._unanswered.pop(lease.nonce, None)
            answer = heard(ChunkResult.model_validate_json(data), asked.trimmed_ms)
            return self._judge(asked.known, answer, lease.nonce) or self._owed.pop(lease.nonce, None)

    # ---- told by the objects ----

    def handed(self, lease: Lease, plan: JobPlan) -> None:
        """A real task is in a machine's hands: now and then a question follows it."""
        if lease.kind != KIND or lease.probe:
            return
        with self._lock:
            self._request = shown_request(plan.request)
            self._remember(lease, plan)
            drawn = self._rng.random()
            if drawn < self._shares.canary:
                self._due[lease.nonce] = "canary"
            elif drawn < self._shares.canary + self._shares.duplicate:
                self._due[lease.nonce] = "duplicate"

    def _remember(self, lease: Lease, plan: JobPlan) -> None:
        worked = self._worked.get(lease.nonce)
        if worked is None or worked.job != lease.job:
            worked = self._worked[lease.nonce] = _Worked(lease.job, lease.workflow_id, plan)
        worked.workflow_id = lease.workflow_id
        worked.had.add(lease.index or 0)
        self._worked.move_to_end(lease.nonce)
        while len(self._worked) > MOST_REMEMBERED:
            self._worked.popitem(last=False)

    def stored(self, lease: Lease, plan: JobPlan, store: Storage) -> None:
        """A real result was stored: keep it for another machine to do again, and look for one of a trusted worker.

        Blocking; nothing is raised, as nothing of it is the machine's business.
        """
        if lease.kind != KIND or lease.probe or not self._shares.any:
            return
        keeping = self._rng.random() < max(0.05, 4 * self._shares.duplicate)  # some are never asked for
        indexes = [lease.index or 0] if self._shares.duplicate and keeping else []
        if self._shares.canary and sum(known.sure for known in self._kept) < ENOUGH_SURE:
            indexes += self._rng.sample(range(plan.chunk_count), min(3, plan.chunk_count))
        for index in indexes:
            try:
                self._keep(plan, index, store)
            except (WhisperfleetError, ValueError) as error:
                log.info("Chunk %d is no probe: %s", index, error, extra={"action": "no_probe"})

    # ---- choosing ----

    def _chosen(self, nonce: str, now_ms: int) -> Known | None:
        """What this machine is to be asked now, if anything: one question at a time."""
        self._forget(now_ms)
        first = self._shares.canary > 0 and nonce not in self._met
        wanted = "canary" if first else self._due.get(nonce)
        if wanted is None or any(asked.nonce == nonce for asked in self._asked.values()):
            return None
        if wanted == "duplicate":
            waiting = [known for known in self._kept if not known.sure and known.may_ask(nonce)]
            disputed = [known for known in waiting if known.other_by]
            return self._rng.choice(self._fitting(disputed or waiting, nonce)) if waiting else None
        if self._request is None:
            return None
        model = self._request.model
        sure = [known for known in self._kept if known.sure and known.may_ask(nonce) and known.request.model == model]
        if sure and model != DEMO:
            return self._rng.choice(self._fitting(sure, nonce))
        return self._from_demo(self._request) if model == DEMO or model.startswith(HEARS_SYNTHETIC) else None

    def _forget(self, now_ms: int) -> None:
        """Questions that are over without an answer: put aside, kept in silence, broken off. Else who holds one for
        ever would never be asked another."""
        for task_id, asked in list(self._asked.items()):
            age_ms = now_ms - asked.since_ms
            if age_ms >= FORGOTTEN_MS or (age_ms >= BOOKED_MS and not self._held(task_id)):
                del self._asked[task_id]
                wrong = self._not_answered(asked.nonce, {"reason": "it was not handed in"})
                if wrong is not None:
                    self._owed[asked.nonce] = wrong

    def _fitting(self, found: list[Known], nonce: str) -> list[Known]:
        """Those that can be asked as part of the job that this machine works for; all, where none can."""
        return [known for known in found if self._borrowed(known, nonce) is not None] or found

    def _borrowed(self, known: Known, nonce: str) -> tuple[_Worked, int] | None:
        """The job that the machine works for and an index of it that it was not given, if this can be a chunk of it:
        recognized with the same settings, in the same language."""
        worked = self._worked.get(nonce)
        if worked is None:
            return None
        asked, same_job = shown_request(worked.plan.request), known.origin is not None and (
            known.origin[1] == JobKeys(worked.job).plan
        )  # fmt: skip
        from_demo = known.origin is None and asked.model == known.request.model
        if from_demo:
            fits = asked.language == "en" and asked.task == "transcribe"
        else:
            fits = known.request == asked and (same_job or asked.language != "auto")
        left = sorted(set(range(worked.plan.chunk_count)) - worked.had) if fits else []
        if not left:
            return None
        own = next((index for index in left if same_job and known.name == JobKeys(worked.job).result(index)), None)
        return worked, self._rng.choice(left) if own is None else own

    def _from_demo(self, request: JobInput) -> Known:
        """Some sentences in a row, another stretch each time: of 21 there are a hundred stretches of three to eight."""
        sentences = demo_sentences()
        count = self._rng.randint(3, 8)
        first = self._rng.randrange(len(sentences) - count)
        chosen = sentences[first : first + count]
        before = sentences[first - 1].end_ms if first else 0
        start = (before + chosen[0].start_ms) // 2
        end = (chosen[-1].end_ms + sentences[first + count].start_ms) // 2
        samples = demo_samples()[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS]
        said = tuple(_timed((sentence.text, sentence.start_ms - start) for sentence in chosen))
        tolerance = SAME_WORDS if request.model == DEMO else SPOKEN_ANYHOW
        plain = {"language": "auto", "task": "transcribe", "prompt": None, "hotwords": None}
        vote = LanguageVote(language="en", votes={"en": round(self._rng.uniform(0.9, 0.999), 4)})
        return Known(samples, request.model_copy(update=plain), vote, said, sure=True, tolerance=tolerance)

    def _keep(self, plan: JobPlan, index: int, store: Storage) -> None:
        """Raises ObjectMissing where the chunk is not done, or its audio is gone."""
        keys = JobKeys(plan.job)
        result = ChunkResult.model_validate_json(store.get_bytes(keys.result(index)))
        said = heard(result)
        doubtful = any(decode.suspicions for decode in result.decodes) or len(said) < FEWEST_WORDS
        if doubtful or result.chunk.audio.duration_ms > LONGEST_MS:
            return
        trusted = not result.worker.startswith(OWNER)
        known = Known(
            samples=fetch_audio(store, keys, Chunk.model_validate_json(store.get_bytes(keys.chunk(index)))),
            request=shown_request(plan.request),
            language=_vote(store, keys),
            said=said,
            sure=trusted,
            by=() if trusted else (result.worker.removeprefix(OWNER),),
            name=keys.result(index),
            origin=(store, keys.plan),
        )
        with self._lock:
            self._kept = [other for other in self._kept if other.name != known.name] + [known]
            while sum(other.bytes for other in self._kept) > MOST_KEPT_BYTES or len(self._kept) > MOST_KEPT:
                self._kept.pop(0)

    # ---- asking ----

    def _made_up(self, known: Known, nonce: str, now_ms: int) -> dict[str, Any]:
        trimmed = self._rng.randrange(10, 60)  # ms of the pause at the start; nothing is the same as the last time
        samples = known.samples[trimmed * SAMPLES_PER_MS :]
        length_ms = len(samples) // SAMPLES_PER_MS
        with self._lock:
            borrowed = self._borrowed(known, nonce)
            if borrowed is not None:
                borrowed[0].had.add(borrowed[1])
        if borrowed is None:
            job = self._rng.getrandbits(128).to_bytes(16, "big").hex()
            workflow_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
            index = self._rng.randrange(_LATEST_INDEX)
            start_ms = self._rng.randrange(_LATEST_MS) if index else 0
            plan = _plan(job, index, Span.of(start_ms, start_ms + length_ms), known)
        else:
            worked, index = borrowed
            job, workflow_id = worked.job, worked.workflow_id
            hidden = {"request": shown_request(worked.plan.request), "media_name": WITHHELD, "media_identity": WITHHELD}
            plan = worked.plan.model_copy(update=hidden)
            moved_ms = self._rng.randrange(-SEARCH_MS // 4, SEARCH_MS // 4)  # a cut is near where it was wanted
            cuts = plan.wanted_cuts_ms
            start_ms = max(plan.span.start_ms, cuts[index - 1] + moved_ms) if index else plan.span.start_ms
        task_id = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        objects = _objects(plan, index, Span.of(start_ms, start_ms + length_ms), samples, known)
        with self._lock:
            self._asked[task_id] = _Asked(known, objects, trimmed, nonce, now_ms)
            self._met.add(nonce)
            self._due.pop(nonce, None)
        return {
            "taskType": KIND,
            "taskDefName": KIND,
            "taskId": task_id,
            "workflowInstanceId": workflow_id,
            "referenceTaskName": f"chunk_{index}",
            "status": "IN_PROGRESS",
            "workerId": owner_of(nonce),
            "inputData": {"storage": WITHHELD, "job": job, "index": index},
            "retryCount": 0,
            "seq": self._rng.randrange(8, 8 + 2 * _LATEST_INDEX),
            "pollCount": 1,
            "scheduledTime": now_ms - self._rng.randrange(200, 20_000),
            "startTime": now_ms,
            "endTime": 0,
            "updateTime": now_ms,
            "startDelayInSeconds": 0,
            "retried": False,
            "executed": False,
            "callbackFromWorker": True,
            "callbackAfterSeconds": 0,
            "responseTimeoutSeconds": RESPONSE_TIMEOUT_S,
        }

    # ---- judging ----

    def _judge(self, known: Known, answer: tuple[Said, ...], nonce: str) -> str | None:
        difference = differs(known.said, answer, known.tolerance)
        if known.sure:
            return self._judge_canary(known, difference, nonce)
        if difference is None:
            if known.other_by:
                self._owed[known.other_by] = "two other machines agree on a chunk that it heard otherwise"
                self._due[known.other_by] = "canary"
            known.sure, known.other, known.other_by = True, (), ""
            known.by = (*known.by, nonce)
        elif not known.other_by:
            known.other, known.other_by = answer, nonce
        elif differs(known.other, answer, known.tolerance) is None:
            wrong = known.by[0]
            self._owed[wrong] = "two other machines agree on a chunk that it heard otherwise"
            self._due[wrong] = "canary"
            known.said, known.sure, known.by, known.other = known.other, True, (known.other_by, nonce), ()
            known.other_by = ""
            log.warning("A stored chunk is not what two machines hear in it", extra={"action": "chunk_disputed"})
        else:
            self._drop(known)  # three answers: nobody can tell what is said there
        return None

    def _judge_canary(self, known: Known, difference: str | None, nonce: str) -> str | None:
        """Audio that two machines fail at and none gets right says more of itself than of the second."""
        if difference is None:
            known.passed += 1
            return None
        known.failed.add(nonce)
        if len(known.failed) > 1 and not known.passed and known.origin is not None:
            self._drop(known)
            return None
        return f"a chunk whose words are known came back otherwise: {difference}"

    def _not_answered(self, nonce: str, output: dict[str, Any]) -> str | None:
        self._due[nonce] = "canary"
        times = self._unanswered[nonce] = self._unanswered.get(nonce, 0) + 1
        if times < MOST_UNANSWERED:
            return None
        self._unanswered.pop(nonce)
        return (
            f"{times} chunks in a row that can be done were not; the last: {output.get('reason') or 'without a reason'}"
        )

    def _drop(self, known: Known) -> None:
        self._kept = [other for other in self._kept if other is not known]


# ---- comparing ----


def differs(known: Sequence[Said], answer: Sequence[Said], tolerance: float = SAME_WORDS) -> str | None:
    """How `answer` differs from what is known, in a few words; None where it is the same but for what may differ."""
    ours, theirs = [said.word for said in known], [said.word for said in answer]
    allowed = max(FEW_WORDS, int(tolerance * len(ours)))
    if abs(len(theirs) - len(ours)) > allowed:  # also what would take long to compare
        return f"{len(theirs)} words for {len(ours)}"
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    wrong = max(len(ours), len(theirs)) - sum(block.size for block in blocks)
    if wrong > allowed:
        return f"{wrong} of {len(ours)} words are others"
    pairs = [(known[block.a + i], answer[block.b + i]) for block in blocks for i in range(block.size)]
    moved = [abs(a.at_ms - b.at_ms) for a, b in pairs if a.at_ms is not None and b.at_ms is not None]
    if len(moved) >= 3 and statistics.median(moved) > SAME_TIME_MS:
        return f"its words are {statistics.median(moved):.0f} ms off"
    return None


def heard(result: ChunkResult, trimmed_ms: int = 0) -> tuple[Said, ...]:
    """The words of a result, with their times from the start of the audio before so much of it was cut off."""
    start = result.chunk.audio.start_ms - trimmed_ms
    said: list[Said] = []
    for segment in result.segments:
        if segment.words:
            said += [Said(word, part.start_ms - start) for part in segment.words for word in words_of(part.text)]
        else:
            said += _timed([(segment.text, segment.start_ms - start)])
    return tuple(said)


def words_of(text: str) -> list[str]:
    """Lower case, letters and digits only: how a word is written is not how it is heard."""
    kept = (character if unicodedata.category(character)[0] in "LNM" else " " for character in text.casefold())
    return "".join(kept).replace("'", "").split()


def _timed(texts: Iterable[tuple[str, int]]) -> Iterator[Said]:
    for text, at_ms in texts:
        for number, word in enumerate(words_of(text)):
            yield Said(word, at_ms if number == 0 else None)


# ---- made-up jobs ----


class MemoryStorage:
    """Objects in memory: what a made-up job needs of a storage. For several threads, as a dict is."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.address = WITHHELD
        self._objects = objects

    def put_bytes(self, key: str, data: bytes) -> None:
        self._objects[key] = data

    def put_file(self, key: str, path: Path) -> None:
        self.put_bytes(key, path.read_bytes())

    def get_bytes(self, key: str) -> bytes:
        try:
            return self._objects[key]
        except KeyError:
            raise ObjectMissing(f"'{key}' is not there.") from None

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get_bytes(key))

    def exists(self, key: str) -> bool:
        return key in self._objects

    def keys(self, prefix: str) -> Iterator[str]:
        return iter(sorted(key for key in self._objects if key.startswith(prefix)))

    def delete(self, prefix: str) -> int:
        doomed = list(self.keys(prefix))
        self.discard(doomed)
        return len(doomed)

    def discard(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    def url(self, key: str) -> str:
        return f"memory:{key}"

    def check_writable(self, needed_bytes: int = 0) -> None:
        """There is always room for a result."""


def _plan(job: str, index: int, span: Span, known: Known) -> JobPlan:
    """Of a made-up job."""
    return JobPlan(
        job=job,
        request=known.request,
        media_name=WITHHELD,
        media_identity=WITHHELD,
        duration_ms=span.end_ms,
        span=Span.of(0, span.end_ms),
        wanted_cuts_ms=(span.start_ms,) * index,
        language_samples=1 if known.request.language == "auto" and known.language else 0,
    )


def _objects(plan: JobPlan, index: int, span: Span, samples: Samples, known: Known) -> MemoryStorage:
    keys = JobKeys(plan.job)
    audio = _flac(samples)
    chunk = Chunk(index=index, core=span, audio=span, audio_sha256=hashlib.sha256(audio).hexdigest())
    objects = {
        keys.plan: plan.model_dump_json().encode(),
        keys.chunk(index): chunk.model_dump_json().encode(),
        keys.audio(index): audio,
    }
    if known.language is not None:
        objects[keys.language] = known.language.model_dump_json().encode()
    return MemoryStorage(objects)


def _flac(samples: Samples) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16", compression_level=0.0)
    return file.getvalue()


def _vote(store: Storage, keys: JobKeys) -> LanguageVote | None:
    try:
        return LanguageVote.model_validate_json(store.get_bytes(keys.language))
    except ObjectMissing:
        return None


def _is_there(store: Storage, key: str) -> bool:
    try:
        return store.exists(key)
    except WhisperfleetError:
        return False


# ---- the packaged recording ----


@dataclass(frozen=True)
class Sentence:
    start_ms: int
    end_ms: int
    text: str


@cache
def demo_sentences() -> tuple[Sentence, ...]:
    told = json.loads(demo_recording().with_suffix(".json").read_text(encoding="utf-8"))
    return tuple(Sentence(item["start_ms"], item["end_ms"], item["text"]) for item in told["segments"])


@cache
def demo_samples() -> Samples:
    import soundfile

    samples, _ = soundfile.read(demo_recording(), dtype="int16")
    return np.asarray(samples, np.int16)
