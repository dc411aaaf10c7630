"""A job whose objects are all there, a storage that keeps a record, and a gateway's objects served on this machine."""

import hashlib
import io
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from provisioning.gateway_audit import Audit
from provisioning.gateway_leases import Lease, LeaseBook
from provisioning.gateway_objects import Objects, _Known
from provisioning.grants import Grant
from workers.messages import Chunk, JobInput, JobKeys, JobPlan, LanguageVote, RecognizeOptions, SpeakerPlan
from workers.recognizers import Audio, DecodeSettings, Recognition
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.storage import Storage
from workers.transcript import Segment, Word

JOB = "0123456789abcdef0123456789abcdef"
KEYS = JobKeys(JOB)
START_MS = 60_000
LENGTH_MS = 90_000
CUTS_MS = (30_000, 60_000)  # from START_MS on
SECRETS = ("/home/ann/secret.wav", "secret.wav", "s3://private-bucket", "Ann Secret", "ann-clip.wav", "5ec2e7")
"""What of the job is nobody's business: no machine may ever see one of these."""


def request(**more: Any) -> JobInput:
    return JobInput(
        media=SECRETS[0], storage=SECRETS[2], speaker_names={SECRETS[3]: SECRETS[4]}, prompt="Names: Zoë.", **more
    )


def flac(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def recording() -> np.ndarray:
    """A hum that is another value each second, so that every stretch is told from every other."""
    return np.repeat(np.arange(LENGTH_MS // 1000, dtype=np.int16) % 5 * 1000 + 1000, SAMPLE_RATE)


def fill(
    storage: Storage, cuts_ms: Sequence[int] = CUTS_MS, wanted_ms: Sequence[int] | None = None, **asked: Any
) -> JobPlan:
    """A job whose split is done, with the language to be voted on. cuts_ms: true ones; wanted_ms: planned ones."""
    audio = recording()
    for index, (start, end) in enumerate(itertools.pairwise([0, *cuts_ms, LENGTH_MS])):
        data = flac(audio[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS])
        span = Span.of(start, end).shifted(START_MS)
        chunk = Chunk(index=index, core=span, audio=span, audio_sha256=hashlib.sha256(data).hexdigest())
        storage.put_bytes(KEYS.audio(index), data)
        storage.put_bytes(KEYS.chunk(index), chunk.model_dump_json().encode())
    for number in range(2):
        storage.put_bytes(KEYS.language_sample(number), flac(audio[:SAMPLE_RATE]))
    plan = JobPlan(
        job=JOB,
        request=request(**asked),
        media_name=SECRETS[1],
        media_identity=SECRETS[5],
        duration_ms=START_MS + LENGTH_MS,
        span=Span.of(START_MS, START_MS + LENGTH_MS),
        wanted_cuts_ms=tuple(START_MS + cut for cut in (cuts_ms if wanted_ms is None else wanted_ms)),
        language_samples=2,
    )
    storage.put_bytes(KEYS.plan, plan.model_dump_json().encode())
    return plan


def put_speakers(storage: Storage, chunk_seconds: int = 30, diarizer: str = "ge2e") -> SpeakerPlan:
    plan = SpeakerPlan.model_validate(
        {
            "diarizer": diarizer,
            "model": None if diarizer == "ge2e" else "some/model",
            "chunk_seconds": chunk_seconds,
            "chunk_count": -(-LENGTH_MS // (chunk_seconds * 1000)),
            "clips": {SECRETS[3]: KEYS.clip(SECRETS[5])},
        }
    )
    storage.put_bytes(KEYS.speaker_plan(plan.key), plan.model_dump_json().encode())
    return plan


def vote(storage: Storage) -> None:
    storage.put_bytes(KEYS.language, LanguageVote(language="en", votes={"en": 1.9}).model_dump_json().encode())


def lease(kind: str = "transcribe_chunk", index: int | None = 1, nonce: str = "nonce00001", **more: Any) -> Lease:
    """As the desk books it; the grant is unguessable enough for a test."""
    data = {"job": JOB, **({} if index is None else {"index": index}), **more}
    grant = f"grant-{kind}-{index}-{nonce}".replace("_", "-").ljust(24, "x")
    return Lease(
        task_id=f"task-{kind}-{index}-{nonce}",
        workflow_id="workflow",
        kind=kind,
        reference=f"chunk_{index}",
        nonce=nonce,
        storage="private",
        job=JOB,
        index=index,
        data=data,
        since_ms=0,
        grant=grant,
    )


class Scribe:
    """A recognizer that hears a word a second, named by the value of the samples: no model, always the same words."""

    engine = "faster-whisper"
    model = "turbo"

    def recognize(
        self,
        audio: Audio,
        speech: Sequence[Span],
        options: RecognizeOptions,
        settings: DecodeSettings,
        wanted: Callable[[], None],
        progress: Callable[[float], None],
    ) -> Recognition:
        wanted()
        segments = []
        for start in range(0, len(audio), SAMPLE_RATE):
            at_ms, end_ms = start // SAMPLES_PER_MS, min(start + SAMPLE_RATE, len(audio)) // SAMPLES_PER_MS
            text = ["zero", "one", "two", "three", "four", "five"][round(float(audio[start]) * 32.768)]
            word = Word(start_ms=at_ms, end_ms=end_ms, text=text, probability=0.9)
            segments.append(Segment(start_ms=at_ms, end_ms=end_ms, text=text, words=(word,)))
        return Recognition(tuple(segments), options.language)

    def language_probabilities(self, audio: Audio) -> dict[str, float]:
        return {"en": 0.9, "es": 0.1}


@dataclass
class Recorded:
    """A storage that writes down what was asked of it."""

    inner: Storage
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    lists: set[str] = field(default_factory=set)
    deletes: set[str] = field(default_factory=set)

    @property
    def address(self) -> str:
        return self.inner.address

    def put_bytes(self, key: str, data: bytes) -> None:
        self.writes.add(key)
        self.inner.put_bytes(key, data)

    def put_file(self, key: str, path: Path) -> None:
        self.writes.add(key)
        self.inner.put_file(key, path)

    def get_bytes(self, key: str) -> bytes:
        self.reads.add(key)
        return self.inner.get_bytes(key)

    def get_file(self, key: str, path: Path) -> None:
        self.reads.add(key)
        self.inner.get_file(key, path)

    def exists(self, key: str) -> bool:
        self.reads.add(key)
        return self.inner.exists(key)

    def keys(self, prefix: str) -> Iterator[str]:
        self.lists.add(prefix)
        return self.inner.keys(prefix)

    def delete(self, prefix: str) -> int:
        self.deletes.add(prefix)
        return self.inner.delete(prefix)

    def discard(self, keys: Iterable[str]) -> None:
        doomed = list(keys)
        self.deletes.update(doomed)
        self.inner.discard(doomed)

    def url(self, key: str) -> str:
        return self.inner.url(key)

    def check_writable(self, needed_bytes: int = 0) -> None:
        self.inner.check_writable(needed_bytes)


# ---- served ----


class OpenObjects(Objects):
    """Objects with everything granted and believed: the way of the bytes alone, for the storage contract."""

    async def _look_up(self, lease: Lease) -> _Known:
        plan = JobPlan(
            job=JOB,
            request=request(),
            media_name="x",
            media_identity="x",
            duration_ms=0,
            span=Span.of(0, 0),
            wanted_cuts_ms=(),
        )
        return _Known(plan, _Everything(frozenset(), frozenset()))

    async def _most(self, lease: Lease) -> int:
        return 1 << 30

    async def _store(self, lease: Lease, key: str, data: bytes, plan: JobPlan) -> None:
        store = self._open(lease)
        await self.in_thread(lambda: store.put_bytes(key, data))


class _Everything(Grant):
    def may_list(self, prefix: str) -> bool:
        return True

    def is_own(self, key: str) -> bool:
        return True


@dataclass
class Served:
    """A gateway's objects on 127.0.0.1, and what it wrote down."""

    url: str
    book: LeaseBook
    lines: list[dict[str, Any]]
    broken: list[tuple[Lease, str]]

    def add(self, one: Lease) -> str:
        """Book a lease; returns the address of its objects."""
        return f"{self.url}/objects/{self.book.add(one).grant}"

    def refusals(self) -> list[str]:
        return [line["reason"] for line in self.lines if line["event"] == "refused"]


@contextmanager
def serve(
    folder: Path, open_storage: Callable[[Lease], Storage], kind: type[Objects] = Objects, **more: Any
) -> Iterator[Served]:
    """Objects behind a real server. As the desk does, a lease whose result is broken is dropped."""
    import uvicorn
    from starlette.applications import Starlette

    lines: list[dict[str, Any]] = []
    broken: list[tuple[Lease, str]] = []
    book = LeaseBook()
    audit = Audit(folder / "audit.jsonl", lines.append)

    async def note(one: Lease, reason: str) -> None:
        broken.append((one, reason))
        book.drop(one.task_id)

    app = Starlette(routes=kind(book, audit, open_storage, note, **more).routes())
    listener = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio leaves Nagle on, at 40 ms an answer
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", book, lines, broken)
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
        audit.close()
