"""The objects of a task, for the machine that holds it and for nobody else: `/objects/<grant>/<key>`.

The grant is the credential, as the signature of a presigned address is: unguessable, good for one task, worth nothing
once the task is over. What it opens `provisioning.grants` says; anything else is refused and written down. What is read
is streamed, a few objects at a time and not for ever; what is written comes whole to this process, is judged, and only
then stored, a few times for each task.

    GET, HEAD  /objects/<grant>/<key>      an object; audio in S3 with a public endpoint: 307 to a presigned address
    PUT        /objects/<grant>/<key>      204; 422 where the contract is broken, and the task is lost to the machine
    DELETE     /objects/<grant>/<key>      204, also where there was none
    GET        /objects/<grant>?prefix=…   {"keys": […]}, only of what the task itself has to find again
"""

import asyncio
import io
import logging
import os
import tempfile
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from provisioning.gateway_audit import Audit
from provisioning.gateway_leases import Lease, LeaseBook
from provisioning.gateway_protocol import hang_up
from provisioning.gateway_results import BrokenContract, ReadObject, check_object, most_bytes, plain
from provisioning.grants import Grant, NoGrant, granted, shown
from workers.errors import ObjectMissing, StorageError, StorageUnavailable
from workers.messages import Chunk, JobKeys, JobPlan, SpeakerPlan
from workers.storage import Storage

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Calls to the store at a time, each in a thread. Who reads slowly holds none: the object is open by then."""

UPLOAD_S = 120.0
"""For a whole upload, however it trickles: a result of 5 MB takes that at 0.3 Mbit/s, and offers start at 300."""

UPLOADS = 4
"""Of one task: a worker's storage tries a write three times (workers.storage.gateway), and a task writes one object."""

DOWNLOADS = 4
"""Of one machine at a time: two recognizer lanes and a diarizer's read one object each."""

DOWNLOAD_S, SLOWEST_BYTES_PER_S = 30.0, 32_000.0
"""How long a download may take: so long, and as if it came so slowly; offers start at a thousand times that."""

IN_MEMORY = 1 << 20  # of an upload; what is longer is kept in a temporary file until it is whole
SIGNED_S = 600
"""A presigned address is good for so long: a chunk of an hour is 80 MB, which takes a minute at 10 Mbit/s."""

_PIECE = 1 << 18
_KEPT = 4096  # leases whose grants are remembered


@runtime_checkable
class Presigning(Protocol):
    """A storage that can hand out addresses of single objects."""

    def presigned(self, key: str, seconds: int, endpoint: str | None) -> str: ...


@runtime_checkable
class Streaming(Protocol):
    """A storage whose objects can be read piece by piece. Raises ObjectMissing; in `opened` and in reading, too,
    StorageUnavailable and StorageError."""

    def opened(self, key: str) -> "tuple[int, Readable]":
        """How many bytes it has, and the object."""
        ...


class Readable(Protocol):
    """For one thread at a time."""

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


@dataclass
class _Known:
    """What was looked up for a lease: its job's plan, and so what it opens. uploads: how many were begun."""

    plan: JobPlan
    allowed: Grant
    writing: bool = False
    uploads: int = 0
    stored: bool = False


class _Refused(Exception):
    """status and sentence for the machine; loud: it is more than bad luck, and is written down."""

    def __init__(self, status: int, sentence: str, loud: bool = True) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.loud = loud


class Objects:
    """book, audit: the gateway's. open_storage: from a lease to the storage its objects are in (blocking calls).

    broken is told that a machine tried to store what breaks the contract: lease and reason.
    public_s3: where the S3 store is to be reached from outside; None: its objects go through here.
    learn hears of each lease whose objects are asked for, with its job's plan (`Probes.handed`), stored of each whose
    result was stored, once, in a thread (`Probes.stored`).
    """

    def __init__(
        self,
        book: LeaseBook,
        audit: Audit,
        open_storage: Callable[[Lease], Storage],
        broken: Callable[[Lease, str], Awaitable[None]],
        public_s3: str | None = None,
        learn: Callable[[Lease, JobPlan], None] = lambda lease, plan: None,
        stored: Callable[[Lease, JobPlan, Storage], None] = lambda lease, plan, storage: None,
    ) -> None:
        self._book = book
        self._audit = audit
        self._open = open_storage
        self._broken = broken
        self._public_s3 = public_s3
        self._learn = learn
        self._stored = stored
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._threads: anyio.CapacityLimiter | None = None
        self._downloads: Counter[str] = Counter()

    def routes(self) -> list[Route]:
        return [
            Route("/objects/{grant}", self._listing, methods=["GET"]),
            Route("/objects/{grant}/{key:path}", self._object, methods=["GET", "HEAD", "PUT", "DELETE"]),
        ]

    def reader(self, lease: Lease) -> ReadObject:
        """Reads objects of the lease's job, for `gateway_results.check`; blocking."""
        return self._open(lease).get_bytes

    async def in_thread(self, call: Callable[[], Any]) -> Any:
        """A blocking call to the store, beside the event loop; at most AT_ONCE of them run."""
        if self._threads is None:  # made here, as it belongs to the running loop
            self._threads = anyio.CapacityLimiter(AT_ONCE)
        return await anyio.to_thread.run_sync(call, limiter=self._threads)

    # ---- requests ----

    async def _listing(self, request: Request) -> Response:
        return await self._guarded(request, "", self._list)

    async def _object(self, request: Request) -> Response:
        handlers: Mapping[str, _Handler] = {
            "GET": self._get, "HEAD": self._head, "PUT": self._put, "DELETE": self._delete,
        }  # fmt: skip
        return await self._guarded(request, request.path_params["key"], handlers[request.method])

    async def _guarded(self, request: Request, key: str, handler: "_Handler") -> Response:
        """Find the lease, do it, make an answer of what is refused. Of the store's own errors nothing is told."""
        lease = await self._book.granted(request.path_params["grant"])
        about: dict[str, Any] = {"method": request.method, "key": plain(key, 200)}
        if lease is None:
            source = request.client.host if request.client else ""
            self._audit.refuse("objects: the address is of no task that is held", source=source, **about)
            return _problem(403, "This address is not, or no longer, of a task that a machine holds.")
        try:
            return await handler(request, lease, key)
        except _Refused as refusal:
            if refusal.loud:
                self._audit.refuse(f"objects: {refusal.sentence}", lease.nonce, task=lease.task_id, **about)
            return _problem(refusal.status, refusal.sentence)
        except ObjectMissing:
            return _problem(404, "There is no such object (yet).")
        except (StorageUnavailable, StorageError, ValidationError) as error:
            log.warning("The store did not serve %s: %s", key, error, extra={"action": "store_failed"})
            return _problem(503, "The store does not answer now.")

    async def _list(self, request: Request, lease: Lease, _: str) -> Response:
        prefix = request.query_params.get("prefix", "")
        known = await self._look_up(lease)
        if not known.allowed.may_list(prefix):
            raise _Refused(403, f"Nothing that begins with '{plain(prefix, 200)}' is this task's to list.")
        store = self._open(lease)
        keys = await self.in_thread(lambda: [key for key in store.keys(prefix) if known.allowed.is_own(key)])
        return JSONResponse({"keys": keys})

    async def _head(self, _: Request, lease: Lease, key: str) -> Response:
        await self._readable(lease, key)
        store = self._open(lease)
        return Response(status_code=200 if await self.in_thread(lambda: store.exists(key)) else 404)

    async def _get(self, _: Request, lease: Lease, key: str) -> Response:
        known = await self._readable(lease, key)
        store = self._open(lease)
        if key in known.allowed.audio and self._public_s3 is not None and isinstance(store, Presigning):
            address = store.presigned(key, SIGNED_S, self._public_s3)
            return RedirectResponse(address, 307, {"Cache-Control": "no-store"})
        if self._downloads[lease.nonce] >= DOWNLOADS:
            raise _Refused(429, f"{DOWNLOADS} objects are on their way to this machine already.", loud=False)
        self._downloads[lease.nonce] += 1
        try:
            size, file = await self._opened(store, lease, key, whole=key not in known.allowed.audio)
        except BaseException:
            self._ended(lease.nonce)
            raise
        return _Download(size, file, lambda: self._ended(lease.nonce))

    async def _opened(self, store: Storage, lease: Lease, key: str, whole: bool) -> tuple[int, Readable]:
        """whole: it is small, and what of it is shown has to be chosen."""
        if not whole:
            opened: tuple[int, Readable] = await self.in_thread(lambda: _opened(store, key))
            return opened
        data = await self.in_thread(lambda: store.get_bytes(key))
        if key == JobKeys(lease.job).chunk(lease.index or 0) and lease.kind == "transcribe_chunk":
            lease.audio_ms = Chunk.model_validate_json(data).audio.duration_ms
        chosen = shown(lease.kind, key, data)
        return len(chosen), io.BytesIO(chosen)

    def _ended(self, nonce: str) -> None:
        self._downloads[nonce] -= 1
        if not self._downloads[nonce]:
            del self._downloads[nonce]

    async def _put(self, request: Request, lease: Lease, key: str) -> Response:
        known = await self._look_up(lease)
        if not known.allowed.may_write(key):
            raise _Refused(403, f"'{plain(key, 200)}' is not this task's to write.")
        if known.writing:
            raise _Refused(429, "Another upload for this task is on its way.", loud=False)
        if known.uploads >= UPLOADS:
            await self._broken(lease, f"it was stored more than {UPLOADS} times")
            raise _Refused(403, f"A task's object is stored {UPLOADS} times at most.")
        known.writing = True
        try:
            most = await self._most(lease)
            known.uploads += 1
            await self._store(lease, key, await _received(request, most), known.plan)
            if not known.stored:
                known.stored = True
                store = self._open(lease)
                await self.in_thread(lambda: self._stored(lease, known.plan, store))
        finally:
            known.writing = False
        return Response(status_code=204)

    async def _delete(self, _: Request, lease: Lease, key: str) -> Response:
        known = await self._look_up(lease)
        if not known.allowed.may_delete(key):
            raise _Refused(403, f"'{plain(key, 200)}' is not this task's to delete.")
        store = self._open(lease)
        async with lease.telling:
            if await self._book.granted(lease.grant) is not lease:
                raise _Refused(403, "The task was handed in or taken back meanwhile.")
            await self.in_thread(lambda: store.discard([key]))
            lease.written.pop(key, None)
        return Response(status_code=204)

    # ---- what they need ----

    async def _readable(self, lease: Lease, key: str) -> _Known:
        known = await self._look_up(lease)
        if not known.allowed.may_read(key):
            raise _Refused(403, f"'{plain(key, 200)}' is not this task's to read.")
        return known

    async def _look_up(self, lease: Lease) -> _Known:
        """Raises ObjectMissing while the job has no plan; _Refused where the task's input fits no job."""
        known = self._known.get(lease.grant)
        if known is not None:
            self._known.move_to_end(lease.grant)
            return known
        store = self._open(lease)
        try:
            known = await self.in_thread(lambda: _look_up(lease, store))
        except NoGrant as error:
            raise _Refused(403, str(error)) from None
        self._learn(lease, known.plan)
        known = self._known.setdefault(lease.grant, known)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return known

    async def _most(self, lease: Lease) -> int:
        """Bytes that this task's object may have. Raises _Refused where nothing can have been heard yet."""
        store = self._open(lease)
        try:
            return most_bytes(lease.kind, await self.in_thread(lambda: _audio_ms(lease, store)))
        except ObjectMissing:
            raise _Refused(409, "The chunk is not cut yet, so there can be no result of it.") from None

    async def _store(self, lease: Lease, key: str, data: bytes, plan: JobPlan) -> None:
        store = self._open(lease)
        try:
            accepted = await self.in_thread(lambda: check_object(lease, key, data, plan, store.get_bytes))
        except BrokenContract as error:
            self._audit.refuse(f"result: {error}", lease.nonce, task=lease.task_id, key=key)
            await self._broken(lease, str(error))
            raise _Refused(422, str(error), loud=False) from None
        async with lease.telling:  # neither handed in nor taken back before it is stored, and never replaced after
            if await self._book.granted(lease.grant) is not lease:
                raise _Refused(403, "The task was handed in or taken back meanwhile.")
            await self.in_thread(lambda: store.put_bytes(key, accepted.data))
            lease.written[key] = accepted.sha256
        self._audit.say("stored", lease.nonce, task=lease.task_id, key=key, bytes=len(accepted.data))


_Handler = Callable[[Request, Lease, str], Awaitable[Response]]


def _look_up(lease: Lease, store: Storage) -> _Known:
    keys = JobKeys(lease.job)
    plan = JobPlan.model_validate_json(store.get_bytes(keys.plan))
    speakers = None
    if lease.kind == "diarize_chunk":
        speakers = SpeakerPlan.model_validate_json(store.get_bytes(keys.speaker_plan(str(lease.data.get("speakers")))))
    return _Known(plan, granted(lease.kind, lease.data, plan, speakers))


def _audio_ms(lease: Lease, store: Storage) -> int:
    """How much audio the object is about that a lease may write. Raises ObjectMissing."""
    keys = JobKeys(lease.job)
    if lease.kind == "transcribe_chunk":
        return Chunk.model_validate_json(store.get_bytes(keys.chunk(lease.index or 0))).audio.duration_ms
    if lease.kind == "diarize_chunk":
        plan = store.get_bytes(keys.speaker_plan(str(lease.data.get("speakers"))))
        return SpeakerPlan.model_validate_json(plan).chunk_seconds * 1000
    return 0


async def _received(request: Request, most: int) -> bytes:
    """The whole body. Raises _Refused where it is longer than `most`, too slow, or breaks off."""
    told = request.headers.get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise _Refused(413, f"The object has {told[:20]} bytes where {most} are the most.")
    received = 0
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as file:
        try:
            async with asyncio.timeout(UPLOAD_S):
                async for piece in request.stream():
                    received += len(piece)
                    if received > most:
                        raise _Refused(413, f"The object has more than {most} bytes, which are the most.")
                    file.write(piece)
        except TimeoutError:
            raise _Refused(408, f"The upload was not whole after {UPLOAD_S:.0f} s.") from None
        except ClientDisconnect:
            raise _Refused(400, "The upload broke off.", loud=False) from None
        except OSError as error:
            raise StorageUnavailable(f"An upload cannot be kept here meanwhile: {error.strerror}.") from error
        file.seek(0)
        return file.read()


def _opened(store: Storage, key: str) -> tuple[int, Readable]:
    """The object's size, and it, open for reading: nothing of it is copied. Raises ObjectMissing."""
    if isinstance(store, Streaming):
        return store.opened(key)
    parts = urlsplit(store.url(key))
    if parts.scheme == "file":
        try:
            file = Path(unquote(parts.path)).open("rb")  # noqa: SIM115
            return os.fstat(file.fileno()).st_size, file
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise ObjectMissing(f"'{key}' is not there.") from error
        except OSError as error:
            raise StorageUnavailable(f"'{key}' cannot be read: {error.strerror}.") from error
    data = store.get_bytes(key)  # of a made-up job, which is in memory anyway
    return len(data), io.BytesIO(data)


class _Download(StreamingResponse):
    """An object on its way: not longer than its size allows, and then at once over. ended is called once it is."""

    def __init__(self, size: int, file: Readable, ended: Callable[[], None]) -> None:
        headers = {"Content-Length": str(size)}
        super().__init__(_pieces(file, size), media_type="application/octet-stream", headers=headers)
        self._limit_s = DOWNLOAD_S + size / SLOWEST_BYTES_PER_S
        self._file = file
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                await super().__call__(scope, receive, send)
        except (TimeoutError, StorageError, StorageUnavailable) as error:
            slow = isinstance(error, TimeoutError)
            reason = "the object is read too slowly" if slow else "the store did not give the object whole"
            await hang_up(scope, receive, reason)
        finally:
            self._ended()
            self._file.close()


async def _pieces(file: Readable, size: int) -> AsyncIterator[bytes]:
    while piece := await anyio.to_thread.run_sync(file.read, _PIECE):
        size -= len(piece)
        yield piece
    if size:
        raise StorageUnavailable("The object ended before its end.")


def _problem(status: int, sentence: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse({"error": sentence}, status, headers)
