"""The gateway's outermost layer: who may come in at all, how often, how much and how slowly. Pure ASGI.

Whatever passes has a path of plain characters, and a session that is signed, not expired and not revoked; the routes
behind find its machine in `request.state.machine`. Objects are the exception: their address is their credential.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioning.gateway_desk import Desk
from provisioning.gateway_limits import Allowance, TokenBucket
from provisioning.gateway_tokens import Machine, TokenRefused, Tokens
from provisioning.gateway_upstream import UpstreamSilent

MOST_BODY_BYTES = 64 << 10  # of a task's result, ours have four kilobytes at most (provisioning.gateway_results)
MOST_OBJECT_BYTES = 128 << 20  # of any object; the routes behind know better of each
MOST_TOKEN_BYTES = 4 << 10
PATIENCE_S = 10.0  # for a body to begin, and for every
SLOWEST_BYTES_PER_S = 32_000.0  # of it
SWALLOW_S = 1.0  # for the rest of a body that nobody wants
STRANGER_PER_S, STRANGER_BURST = 500.0, 2_000.0
"""Exchanges of tokens and guesses of grants from one address, and as many sessions that are none. Behind a front that
hides addresses that is everybody's: a thousand machines that start together, and an SDK gives up for ever after five
exchanges that failed."""

_CLEAN = re.compile(rb"/[A-Za-z0-9._~/-]{0,1000}")
_SILENT = "The server behind the gateway does not answer now."
_SESSIONS = 20_000  # that are remembered as good


class Guard:
    """Lets through to `app` what may pass."""

    def __init__(self, app: ASGIApp, desk: Desk, tokens: Tokens) -> None:
        self._app = app
        self._desk = desk
        self._tokens = tokens
        self._allowances: dict[str, Allowance] = {}
        self._strangers: dict[tuple[str, str], TokenBucket] = {}
        self._sessions: dict[str, tuple[Machine, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # a websocket: the server answers 403 where nobody accepts
        body = _Body(receive, send, whole=not _has_body(scope))
        try:
            most = await self._admit(scope)
        except HTTPException as refusal:
            self._refuse(scope, refusal)
            await problem(refusal)(scope, receive, body.send)
            return
        allowance = scope["state"].get("allowance")
        body.most = most
        body.sent = allowance.sent if allowance is not None else None
        await self._app(scope, body.receive, body.send)

    async def _admit(self, scope: Scope) -> int:
        """The most bytes its body may have. Raises HTTPException where it may not pass."""
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        clean = _CLEAN.fullmatch(raw) is not None and not _climbs(raw)
        path = scope["path"] if clean else ""
        if path == "/health" or path == "/api/token" or path.startswith("/objects/"):
            return await self._admit_without_session(scope, path)
        try:
            machine = self._session(scope)
        except HTTPException:
            self._take_from_strangers(scope, "session")
            raise
        state["machine"] = machine
        self._allow(scope, machine.nonce)
        self._desk.meet(machine)
        if not clean:
            raise HTTPException(403, "the path is no plain one")
        return MOST_BODY_BYTES

    async def _admit_without_session(self, scope: Scope, path: str) -> int:
        """Health, the exchange of tokens, and objects: below a grant their lease's machine is meant."""
        grant = path.removeprefix("/objects/").partition("/")[0] if path.startswith("/objects/") else ""
        try:
            lease = await self._desk.book.granted(grant) if grant else None
        except UpstreamSilent:
            raise HTTPException(503, _SILENT, {"Retry-After": "1"}) from None
        if lease is not None:
            scope["state"]["machine_nonce"] = lease.nonce
            self._allow(scope, lease.nonce)
        else:
            self._take_from_strangers(scope, "exchange")
        return MOST_OBJECT_BYTES if lease is not None else MOST_TOKEN_BYTES

    def _take_from_strangers(self, scope: Scope, purpose: str) -> None:
        """Raises HTTPException 429. By purpose: forged sessions must not use up what exchanges of tokens need."""
        address = (scope.get("client") or ("",))[0]
        if len(self._strangers) > _SESSIONS:
            self._strangers.clear()
        bucket = self._strangers.setdefault((purpose, address), TokenBucket(STRANGER_PER_S, STRANGER_BURST))
        if not bucket.take(1.0, time.monotonic()):
            raise HTTPException(429, "asks too often", {"Retry-After": "1"})

    def _session(self, scope: Scope) -> Machine:
        """Raises HTTPException 401, whose text is the code that an SDK looks for."""
        headers = dict(scope["headers"])
        token = headers.get(b"x-authorization") or b""
        scheme, _, bearer = (headers.get(b"authorization") or b"").partition(b" ")
        if not token and scheme.lower() == b"bearer":
            token = bearer
        if not token:
            raise HTTPException(401, "MISSING_TOKEN")
        try:
            machine = self._read(token.decode("latin-1").strip())
        except TokenRefused as error:
            raise HTTPException(401, error.code) from error
        scope["state"]["machine_nonce"] = machine.nonce
        if self._desk.revoked(machine.nonce):
            raise HTTPException(401, "REVOKED_TOKEN")
        return machine

    def _read(self, token: str) -> Machine:
        """A session is read once: after that its text is known to be ours until it expires."""
        now = time.time()
        known = self._sessions.get(token)
        if known is not None and known[1] > now:
            return known[0]
        machine = self._tokens.read_session(token)
        if len(self._sessions) >= _SESSIONS:
            self._sessions.clear()
        self._sessions[token] = (machine, now + 1.0)
        return machine

    def _allow(self, scope: Scope, nonce: str) -> None:
        if len(self._allowances) > _SESSIONS:
            self._allowances.clear()
        allowance = self._allowances.setdefault(nonce, Allowance())
        wait_s = allowance.request(time.monotonic())
        if wait_s:
            raise HTTPException(429, "asks too often", {"Retry-After": str(max(1, round(wait_s)))})
        scope["state"]["allowance"] = allowance

    def _refuse(self, scope: Scope, refusal: HTTPException) -> None:
        address = (scope.get("client") or ("",))[0]
        self._desk.metrics.refusals.labels(str(refusal.status_code)).inc()
        raw = scope.get("raw_path") or scope["path"].encode()
        self._desk.audit.refuse(
            str(refusal.detail), scope["state"].get("machine_nonce"), address, status=refusal.status_code,
            method=scope["method"], path=raw.decode("latin-1"),
        )  # fmt: skip


class _Body:
    """A request's body, of `most` bytes at most and not slower than is patient; and its answer.

    A short body is read also where the answer does not need it: a connection that is closed with something unread is
    reset, and the answer may be lost with it. An answer to a body that is not read whole ends the connection.
    """

    def __init__(self, receive: Receive, send: Send, whole: bool) -> None:
        self.most = 0
        self.sent: TokenBucket | None = None
        self._receive = receive
        self._send = send
        self._whole = whole
        self._received = 0
        self._began = time.monotonic()
        self._given_up = False

    async def receive(self) -> Message:
        """Raises HTTPException 413 and 408."""
        if self._whole:
            return await self._receive()  # waits for the connection's end
        left = self._began + PATIENCE_S + self._received / SLOWEST_BYTES_PER_S - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            self._given_up = True
            raise HTTPException(408, "the body comes too slowly") from None
        if message["type"] == "http.request":
            piece = len(message.get("body", b""))
            self._received += piece
            self._whole = not message.get("more_body", False)
            if self.sent is not None and piece:
                self.sent.drain(piece, time.monotonic())
            if self._received > self.most:
                self._given_up, self._whole = True, False
                raise HTTPException(413, f"the body has more than {self.most} bytes")
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not self._whole:
            await self._swallow()
        if message["type"] == "http.response.start" and not self._whole:
            message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        await self._send(message)

    async def _swallow(self) -> None:
        swallowed = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SWALLOW_S):
                while not self._whole and not self._given_up and swallowed < MOST_BODY_BYTES:
                    message = await self._receive()
                    swallowed += len(message.get("body", b""))
                    self._whole = not message.get("more_body", False)


def _has_body(scope: Scope) -> bool:
    """By HTTP/1.1's rule: only these two headers announce one."""
    told = dict(scope["headers"])
    return b"transfer-encoding" in told or told.get(b"content-length", b"0").strip() != b"0"


def _climbs(raw: bytes) -> bool:
    parts = raw.split(b"/")[1:]
    return any(part in (b".", b"..") for part in parts) or b"" in parts


def problem(refusal: HTTPException) -> JSONResponse:
    """In the shape of Conductor's own errors; `error` is what its SDKs look at."""
    told = str(refusal.detail)
    code = told if told.isupper() else "REFUSED"
    return JSONResponse(
        {"status": refusal.status_code, "error": code, "message": told, "retryable": refusal.status_code in (429, 503)},
        refusal.status_code,
        dict(refusal.headers or {}),
    )
