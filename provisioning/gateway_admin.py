"""The gateway's own side: machines are admitted, drained and lost here, by whoever has the admin key.

POST   /admin/instances {"nonce", "kinds", "expires_ms"} -> {"token"}
DELETE /admin/instances/{nonce}         -> {"freed": [task ids]}
POST   /admin/instances/{nonce}/drain   -> {}
GET    /admin/instances                 -> {"time_ms", "instances": [WorkerNews]}
GET    /admin/demand                    -> Demand
GET    /metrics                         for Prometheus, with the key as well
GET    /health                          without it
"""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from provisioning.fleet import ONLY_LOOKING
from provisioning.gateway_desk import Desk, now_ms
from provisioning.gateway_guard import problem
from provisioning.gateway_tokens import Machine, Tokens
from provisioning.gateway_upstream import UpstreamSilent
from provisioning.grants import KINDS
from workers.errors import OptionError

_NONCE = re.compile(r"[0-9a-z]{4,32}")
_MOST_BYTES = 16 << 10
LONGEST_MS = 30 * 24 * 3_600_000  # that any token is good for


def admin_app(desk: Desk, tokens: Tokens, key: bytes, asked: Callable[[], None] = lambda: None) -> Starlette:
    """The ASGI application of the admin listener. asked: called when a controller looks at its machines."""
    admin = _Admin(desk, tokens, key, asked)
    return Starlette(
        routes=[
            Route("/admin/instances", admin.instances, methods=["GET"]),
            Route("/admin/instances", admin.admit, methods=["POST"]),
            Route("/admin/instances/{nonce}", admin.lose, methods=["DELETE"]),
            Route("/admin/instances/{nonce}/drain", admin.drain, methods=["POST"]),
            Route("/admin/demand", admin.demand, methods=["GET"]),
            Route("/metrics", admin.metrics, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _refused, UpstreamSilent: _silent},
    )


class _Admin:
    def __init__(self, desk: Desk, tokens: Tokens, key: bytes, asked: Callable[[], None]) -> None:
        self._asked = asked
        self._desk = desk
        self._tokens = tokens
        self._key = key

    async def instances(self, request: Request) -> Response:
        self._check(request)
        if ONLY_LOOKING not in request.headers:
            self._asked()
        return JSONResponse({"time_ms": now_ms(), "instances": [asdict(one) for one in self._desk.news()]})

    async def admit(self, request: Request) -> Response:
        self._check(request)
        machine = _machine(await _json(request))
        if self._desk.revoked(machine.nonce):
            raise HTTPException(409, f"Machine '{machine.nonce}' was revoked: take another nonce.")
        try:
            token = self._tokens.machine(machine)
        except OptionError as error:
            raise HTTPException(400, str(error)) from error
        rented = self._desk.state.machine(machine.nonce, machine.kinds, machine.expires_ms)
        rented.kinds, rented.expires_ms = machine.kinds, max(rented.expires_ms, machine.expires_ms)
        self._desk.state.write(rented)
        self._desk.audit.say("admitted", machine.nonce, kinds=",".join(machine.kinds), expires_ms=machine.expires_ms)
        return JSONResponse({"token": token})

    async def lose(self, request: Request) -> Response:
        self._check(request)
        freed = await self._desk.lose(_nonce(request.path_params["nonce"]), now_ms() + LONGEST_MS)
        return JSONResponse({"freed": freed})

    async def drain(self, request: Request) -> Response:
        self._check(request)
        if not self._desk.drain(_nonce(request.path_params["nonce"])):
            raise HTTPException(404, "There is no such machine.")
        return JSONResponse({})

    async def demand(self, request: Request) -> Response:
        self._check(request)
        return JSONResponse(asdict(await self._desk.demand()))

    async def metrics(self, request: Request) -> Response:
        self._check(request)
        desk = self._desk
        desk.metrics.look(desk.state.machines.values(), desk.book.all(), now_ms())
        await desk.demand()  # queue sizes are asked for when somebody wants to know
        return Response(desk.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _check(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(given.strip().encode(), self._key):
            source = request.client.host if request.client else ""
            self._desk.audit.refuse("admin: wrong key", source=source, method=request.method, path=request.url.path)
            raise HTTPException(401, "The admin key is missing or wrong.")


async def _json(request: Request) -> dict[str, Any]:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, "That is too much.")
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "That is no JSON.") from error
    if not isinstance(decoded, dict):
        raise HTTPException(400, "That is no object.")
    return decoded


def _machine(told: dict[str, Any]) -> Machine:
    kinds, expires_ms = told.get("kinds"), told.get("expires_ms")
    if not isinstance(kinds, list) or not kinds or not set(map(str, kinds)) <= set(KINDS):
        raise HTTPException(400, f"kinds must be some of {', '.join(KINDS)}: a rented machine may do no others.")
    if not isinstance(expires_ms, int) or not now_ms() < expires_ms < now_ms() + LONGEST_MS:
        raise HTTPException(
            400, f"expires_ms must be in the next 30 days, and this clock says {now_ms()}: compare the clocks."
        )
    return Machine(_nonce(told.get("nonce")), tuple(dict.fromkeys(map(str, kinds))), expires_ms)


def _nonce(given: Any) -> str:
    if not isinstance(given, str) or not _NONCE.fullmatch(given):
        raise HTTPException(400, "A nonce has 4 to 32 small letters and digits.")
    return given


async def _health(request: Request) -> Response:
    return JSONResponse({"healthy": True})


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error)


async def _silent(request: Request, error: Exception) -> Response:
    return problem(HTTPException(503, str(error), {"Retry-After": "1"}))
