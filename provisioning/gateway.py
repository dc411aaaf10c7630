"""The gateway: the only thing a rented machine can reach. Conductor and the store stay private behind it.

Two listeners of one process: the public one, for machines of strangers, and the admin one, for the fleet's controller.
What passes is on a list; everything else is 403, and 401 to whoever has no session (never 404: an SDK would take that
for a server without authentication, and go on without).

    POST /api/token                        machine token for session token
    GET  /api/tasks/poll/{kind}            also with ?domain=, which is a sign of life and takes no task
    GET  /api/tasks/poll/batch/{kind}
    POST /api/tasks, /api/tasks/update-v2  results and extensions, of tasks that are held
    POST /api/tasks/{id}/log
    GET  /api/tasks/{id}                   of a task that is held
    GET  /api/tasks/queue/polldata         how many workers live; their names are numbers
    POST /worker/heartbeat
    GET  /health
    …    /objects/<grant>/…                provisioning.gateway_objects
"""

import asyncio
import contextlib
import hashlib
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from provisioning.gateway_admin import LONGEST_MS, admin_app
from provisioning.gateway_audit import Audit
from provisioning.gateway_deadman import Deadman
from provisioning.gateway_desk import SWEEP_S, Desk, Refused, now_ms
from provisioning.gateway_guard import Guard, problem
from provisioning.gateway_leases import Lease, LeaseBook
from provisioning.gateway_metrics import Metrics
from provisioning.gateway_objects import Objects
from provisioning.gateway_probes import Probes, Shares
from provisioning.gateway_protocol import patient
from provisioning.gateway_results import BrokenContract, check, decode_json, plain
from provisioning.gateway_state import State
from provisioning.gateway_tokens import Machine, TokenRefused, Tokens
from provisioning.gateway_upstream import Upstream, UpstreamSilent
from provisioning.grants import granted
from workers.errors import ObjectMissing, OptionError, WhisperfleetError, one_line
from workers.messages import Chunk, JobKeys, JobPlan, SpeakerPlan
from workers.settings import Settings
from workers.storage import Storage, open_storage

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 35  # longer than the 30 s after which the SDK's own pool drops a connection, so that it is the first
MOST_CONNECTIONS = 16_000
STOP_S = 10
RETRY_S = 1.0
_MOST_BATCH = 8


@dataclass(frozen=True)
class GatewaySpec:
    """What one gateway is to be. Addresses are host and port; canary_share, duplicate_share: of hand-outs, 0 to 1."""

    server: str
    public_url: str
    listen: tuple[str, int]
    admin: tuple[str, int]
    folder: Path
    signing_key: bytes
    admin_key: bytes
    public_s3: str | None = None
    certificate: Path | None = None
    certificate_key: Path | None = None
    canary_share: float = 0.0
    duplicate_share: float = 0.0


class Gateway:
    """The two applications, and what they share. For one event loop; `close` when it ends.

    Raises StorageError where its folder cannot be used.
    """

    def __init__(self, spec: GatewaySpec, settings: Settings) -> None:
        self.metrics = Metrics()
        self.audit = Audit(spec.folder / "audit.jsonl")
        self.state = State(spec.folder / "state.db", now_ms)
        self.tokens = Tokens(spec.signing_key)
        self.upstream = Upstream(spec.server, self.metrics.timed)
        opened = lru_cache(256)(lambda address: open_storage(address, settings))
        shares = Shares(spec.canary_share, spec.duplicate_share)
        book = LeaseBook()
        probes = Probes(shares, held=lambda task_id: book.get(task_id) is not None) if shares.any else None

        def storage_of(lease: Lease) -> Storage:
            return probes.store(lease) if lease.probe and probes is not None else opened(lease.storage)

        self.objects = Objects(
            book,
            self.audit,
            storage_of,
            self._broken,
            None if shares.any else spec.public_s3,  # a made-up chunk comes from here, and so must every other then
            learn=probes.handed if probes is not None else lambda lease, plan: None,
            stored=probes.stored if probes is not None else lambda lease, plan, storage: None,
        )
        self.desk = Desk(
            upstream=self.upstream,
            state=self.state,
            audit=self.audit,
            metrics=self.metrics,
            public_url=spec.public_url.rstrip("/"),
            check=lambda lease, status, output: check(lease, status, output, self.objects.reader(lease)),
            measure=lambda lease: audio_ms(lease, storage_of(lease)),
            ready=lambda lease: is_ready(lease, storage_of(lease)),
            discard=lambda lease: discard_written(lease, storage_of(lease)),
            prober=probes,
            book=book,
        )
        self.public: ASGIApp = Guard(self._public_app(), self.desk, self.tokens)
        self.deadman = Deadman(_since_boot_ms())
        self.admin: ASGIApp = admin_app(
            self.desk, self.tokens, spec.admin_key, lambda: self.deadman.asked(_since_boot_ms())
        )

    def _public_app(self) -> Starlette:
        routes = _Routes(self.desk, self.tokens)
        app = Starlette(
            routes=[*routes.all(), *self.objects.routes()],
            exception_handlers={
                Refused: routes.refused,
                WhisperfleetError: routes.silent,
                HTTPException: routes.http_refused,
            },
        )
        app.router.redirect_slashes = False  # a redirect would tell strangers what there is
        return app

    async def _broken(self, lease: Lease, reason: str) -> None:
        await self.desk.broken(lease, reason)

    def slow(self, address: str, what: str) -> None:
        """A connection was ended for its slowness."""
        self.metrics.refusals.labels("slow").inc()
        self.audit.refuse(what, source=address)

    async def keep(self) -> None:
        """Look after leases, for ever: first those of the gateway before this one."""
        adopted = False
        while True:
            try:
                await self.deadman.look(self.desk, _since_boot_ms(), now_ms() + LONGEST_MS)
                if not adopted:
                    await self.desk.adopt_all()
                    adopted = True
                await self.desk.sweep()
            except UpstreamSilent as error:
                log.debug("Could not look after the leases: %s", error)  # whoever asks for a task is told
            except Exception:
                log.exception("Looking after the leases broke, and goes on", extra={"action": "sweep_failed"})
            await asyncio.sleep(SWEEP_S)

    async def close(self) -> None:
        await self.upstream.close()
        self.state.close()
        self.audit.close()


def _since_boot_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class _Routes:
    """The public side's requests, decoded, and the desk's answers, encoded as Conductor does."""

    def __init__(self, desk: Desk, tokens: Tokens) -> None:
        self._desk = desk
        self._tokens = tokens

    def all(self) -> list[Route]:
        return [
            Route("/health", self.health, methods=["GET"]),
            Route("/api/token", self.token, methods=["POST"]),
            Route("/api/tasks", self.update, methods=["POST"]),
            Route("/api/tasks/update-v2", self.update_v2, methods=["POST"]),
            Route("/api/tasks/poll/{kind}", self.poll, methods=["GET"]),
            Route("/api/tasks/poll/batch/{kind}", self.poll_batch, methods=["GET"]),
            Route("/api/tasks/queue/polldata", self.poll_data, methods=["GET"]),
            Route("/api/tasks/{task}/log", self.log, methods=["POST"]),
            Route("/api/tasks/{task}", self.look, methods=["GET"]),
            Route("/worker/heartbeat", self.heartbeat, methods=["POST"]),
        ]

    async def health(self, request: Request) -> Response:
        return JSONResponse({"healthy": True})

    async def token(self, request: Request) -> Response:
        """Machine token for session token; wrong in any way is 401."""
        told = await _told(request)
        nonce, secret = told.get("keyId"), told.get("keySecret")
        try:
            if not isinstance(nonce, str) or not isinstance(secret, str):
                raise TokenRefused("INVALID_TOKEN", "keyId and keySecret are missing")
            machine = self._tokens.read_machine(secret)
            if machine.nonce != nonce:
                raise TokenRefused("INVALID_TOKEN", "the token is another machine's")
            if self._desk.revoked(nonce):
                raise TokenRefused("REVOKED_TOKEN", "the token was revoked")
        except TokenRefused as error:
            # not the code that makes an SDK renew its session: the renewal is what just failed
            code = "EXPIRED_MACHINE" if error.code == "EXPIRED_TOKEN" else "REFUSED_MACHINE"
            source = request.client.host if request.client else ""
            self._desk.audit.refuse(
                f"token exchange: {error.reason}",
                source=source,
                claimed=plain(nonce, 40) if isinstance(nonce, str) else None,
            )
            self._desk.metrics.refusals.labels("401").inc()
            return problem(HTTPException(401, code))
        self._desk.meet(machine)
        self._desk.audit.say("session", machine.nonce)
        return JSONResponse({"token": self._tokens.session(machine), "userId": machine.nonce})

    async def poll(self, request: Request) -> Response:
        machine, kind = _machine(request), request.path_params["kind"]
        if "domain" in request.query_params:
            return self._sign_of_life(machine, kind)
        tasks = await self._desk.hand_out(machine, kind, 1)
        return JSONResponse(tasks[0]) if tasks else self._nothing(Response(status_code=204))

    def _sign_of_life(self, machine: Machine, kind: str) -> Response:
        """A poll in a domain takes no task, whatever domain is named: there is one for each machine, its own."""
        if kind not in machine.kinds:
            raise Refused(403, "polls a kind of task that is not in its token", kind=kind)
        self._desk.upstream.announce(kind, machine.nonce)
        return Response(status_code=204)

    async def poll_batch(self, request: Request) -> Response:
        machine, kind = _machine(request), request.path_params["kind"]
        if "domain" in request.query_params:
            self._sign_of_life(machine, kind)
            return JSONResponse([])
        told = request.query_params.get("count", "1")
        count = max(1, min(int(told), _MOST_BATCH)) if told.isascii() and told.isdecimal() and len(told) < 5 else 1
        tasks = await self._desk.hand_out(machine, kind, count)
        return JSONResponse(tasks) if tasks else self._nothing(JSONResponse([]))

    def _nothing(self, answer: Response) -> Response:
        answer.headers["X-Poll-After-Ms"] = str(self._desk.pace.after_ms())
        return answer

    async def update(self, request: Request) -> Response:
        lease = await self._desk.update(_machine(request), _decoded(await request.body()))
        return PlainTextResponse(lease.task_id)

    async def update_v2(self, request: Request) -> Response:
        """The same, and the next task of that kind is the answer."""
        machine = _machine(request)
        lease = await self._desk.update(machine, _decoded(await request.body()))
        tasks = await self._desk.hand_out(machine, lease.kind, 1) if self._desk.book.get(lease.task_id) is None else []
        return JSONResponse(tasks[0]) if tasks else self._nothing(Response(status_code=204))

    async def log(self, request: Request) -> Response:
        text = (await request.body()).decode("utf-8", "replace")
        await self._desk.log(_machine(request), request.path_params["task"], text)
        return Response(status_code=200)

    async def look(self, request: Request) -> Response:
        return JSONResponse(await self._desk.look(_machine(request), request.path_params["task"]))

    async def poll_data(self, request: Request) -> Response:
        """Only of kinds in the token. How many others there are is told, who they are is not."""
        machine, kind = _machine(request), request.query_params.get("taskType", "")
        if kind not in machine.kinds:
            raise Refused(403, "asks who polls a kind of task that is not in its token", kind=plain(kind, 40))
        rows = await self._desk.upstream.poll_data(kind)
        numbers: dict[str, str] = {}

        def number(name: Any) -> str:
            return numbers.setdefault(str(name), str(len(numbers) + 1))

        return JSONResponse(
            [
                {"queueName": kind, "workerId": number(row.get("workerId")), "lastPollTime": row.get("lastPollTime")}
                | ({"domain": number(row["domain"])} if row.get("domain") else {})
                for row in rows
            ]
        )

    async def heartbeat(self, request: Request) -> Response:
        """A machine's supervisor says how it is, and hears whether it is to go on."""
        machine, told = _machine(request), await _told(request)
        rented = self._desk.meet(machine)
        rented.state, rented.version = plain(str(told.get("state", "")), 20), plain(str(told.get("version", "")), 40)
        rtfx, test = told.get("rtfx"), told.get("self_test")
        if isinstance(rtfx, int | float) and not isinstance(rtfx, bool) and 0 < rtfx < 10_000:
            rented.tested_rtfx = float(rtfx)
        if isinstance(test, dict) and test.get("ok") is False and rented.refused is None:
            self._desk.disqualify(rented, f"its self-test failed: {plain(str(test.get('reason', '')), 200)}")
        return JSONResponse(
            {
                "time_ms": now_ms(),
                "drain": rented.draining,
                "stop": rented.refused is not None,
                # what its supervisor ends an idle machine by, should nobody else do it
                "held": len(self._desk.book.of(machine.nonce)),
                "last_task_ms": rented.last_task_ms,
            }
        )

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        self._note(request, error.status, error.reason, **error.more)
        return problem(HTTPException(error.status, error.reason))

    async def http_refused(self, request: Request, error: Exception) -> Response:
        """No such route, no such method, a body that is too long or too slow."""
        assert isinstance(error, HTTPException)
        status = 403 if error.status_code in (404, 405) else error.status_code
        self._note(request, status, "this is not open to rented machines" if status == 403 else str(error.detail))
        return problem(HTTPException(status, "REFUSED" if status == 403 else error.detail))

    async def silent(self, request: Request, error: Exception) -> Response:
        """Conductor or the store does not answer: whoever asks is to try again, and hears nothing of where it is."""
        log.warning("Could not serve %s: %s", plain(request.url.path, 200), error, extra={"action": "silent"})
        return problem(HTTPException(503, "The server behind the gateway does not answer now.", {"Retry-After": "1"}))

    def _note(self, request: Request, status: int, reason: str, **more: Any) -> None:
        self._desk.metrics.refusals.labels(str(status)).inc()
        machine = getattr(request.state, "machine", None)
        source = request.client.host if request.client else ""
        self._desk.audit.refuse(
            reason, machine.nonce if machine else None, source, status=status, method=request.method,
            path=plain(request.url.path, 200), **more,
        )  # fmt: skip


def _machine(request: Request) -> Machine:
    machine = request.state.machine
    assert isinstance(machine, Machine)
    return machine


async def _told(request: Request) -> dict[str, Any]:
    told = _decoded(await request.body())
    if not isinstance(told, dict):
        raise Refused(400, "sends JSON that is no object")
    return told


def _decoded(body: bytes) -> Any:
    try:
        return decode_json(body)
    except BrokenContract as error:
        raise Refused(400, f"sends what is no JSON: {error}") from error


def audio_ms(lease: Lease, storage: Storage) -> int:
    """How much audio a task is about, 0 where that means nothing; blocking.

    Raises ObjectMissing until the chunk is cut, and what reading the store raises.
    """
    keys = JobKeys(lease.job)
    if lease.kind == "transcribe_chunk":
        return Chunk.model_validate_json(storage.get_bytes(keys.chunk(lease.index or 0))).audio.duration_ms
    if lease.kind == "diarize_chunk":
        told = storage.get_bytes(keys.speaker_plan(str(lease.data.get("speakers"))))
        return SpeakerPlan.model_validate_json(told).chunk_seconds * 1000
    return 0


def is_ready(lease: Lease, storage: Storage) -> bool:
    """Whether all is there that a task takes, so that there is no reason to put it aside; blocking.

    No where nobody can tell, as at the end of a recording, whose last parts may be empty. Raises ObjectMissing while
    the job has no plan, and what reading the store raises.
    """
    keys = JobKeys(lease.job)
    plan = JobPlan.model_validate_json(storage.get_bytes(keys.plan))
    speakers, needed = None, []
    if lease.kind == "diarize_chunk":
        told = storage.get_bytes(keys.speaker_plan(str(lease.data.get("speakers"))))
        speakers, needed = SpeakerPlan.model_validate_json(told), [keys.chunk(at) for at in range(plan.chunk_count)]
    if lease.kind == "transcribe_chunk":
        if not Chunk.model_validate_json(storage.get_bytes(keys.chunk(lease.index or 0))).core.duration_ms:
            return True
        needed = [keys.language] if plan.request.language == "auto" and plan.language_samples else []
    return all(map(storage.exists, [*granted(lease.kind, lease.data, plan, speakers).audio, *needed]))


def discard_written(lease: Lease, storage: Storage) -> None:
    """Delete the objects that a lease has stored, but none that somebody else wrote over it meanwhile; blocking."""
    for key, sha256 in lease.written.items():
        with contextlib.suppress(ObjectMissing):
            if hashlib.sha256(storage.get_bytes(key)).hexdigest() == sha256:
                storage.discard([key])


# ---- running it ----


def _allow_many_connections() -> None:
    """A thousand machines with four connections each are more than the 1,024 files a process may open by default."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS * 2)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """Without uvicorn's own taking of signals: two servers of a process would take them from each other."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(spec: GatewaySpec, settings: Settings, say: Callable[[str], None]) -> None:
    """Run until SIGTERM or SIGINT, then finish what is being answered.

    Raises OptionError for an address that cannot be listened at, StorageError for a folder that cannot be used.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _allow_many_connections()
    with contextlib.ExitStack() as stack:
        public = stack.enter_context(_listening(spec.listen, "--listen"))
        admin = stack.enter_context(_listening(spec.admin, "--admin"))
        asyncio.run(_serve(spec, settings, public, admin, say))


async def _serve(
    spec: GatewaySpec, settings: Settings, public: socket.socket, admin: socket.socket, say: Callable[[str], None]
) -> None:
    loop, asked = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    async with running(spec, settings, (public, admin), say):
        await asked.wait()
        say("Stopping: what is being answered is finished first.")


@contextlib.asynccontextmanager
async def running(
    spec: GatewaySpec,
    settings: Settings,
    sockets: tuple[socket.socket, socket.socket],
    say: Callable[[str], None] = lambda text: None,
) -> AsyncIterator[Gateway]:
    """A gateway that answers at these two sockets, public and admin, while the block runs."""
    gateway = Gateway(spec, settings)
    slow = gateway.slow
    servers = [_server(gateway.public, slow, spec), _server(gateway.admin, slow, None)]
    tasks = [
        asyncio.create_task(server.serve([listener])) for server, listener in zip(servers, sockets, strict=True)
    ]  # fmt: skip
    keeper = asyncio.create_task(gateway.keep())
    waiter = asyncio.create_task(_wait_for_conductor(gateway, spec, say))
    try:
        while not all(server.started for server in servers):
            await asyncio.sleep(0.01)
        yield gateway
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.gather(*tasks)
        for task in (keeper, waiter):
            task.cancel()
        await asyncio.gather(keeper, waiter, return_exceptions=True)
        await gateway.close()


async def _wait_for_conductor(gateway: Gateway, spec: GatewaySpec, say: Callable[[str], None]) -> None:
    """Machines may come before Conductor does: they are told to try again. It is said once that it is not there."""
    said = False
    while not await gateway.upstream.alive():
        if not said:
            address = spec.server.removesuffix("/api")
            say(f"Waiting for the Conductor server at {address}: machines are told to wait too.")
            said = True
        await asyncio.sleep(RETRY_S)
    say(
        f"The gateway is open at {spec.public_url} for rented machines, and at "
        f"http://{spec.admin[0]}:{spec.admin[1]} for the fleet."
    )


def _server(app: ASGIApp, slow: Callable[[str, str], None], spec: GatewaySpec | None) -> _Server:
    """spec: of the public side, which strangers reach."""
    return _Server(
        uvicorn.Config(
            app,
            http=patient(slow),
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            log_level="error",  # its warnings are of strangers' broken requests: as many as they like
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=STOP_S,
            limit_concurrency=MOST_CONNECTIONS,
            ssl_certfile=spec.certificate if spec else None,
            ssl_keyfile=spec.certificate_key if spec else None,
        )
    )


@contextlib.contextmanager
def _listening(address: tuple[str, int], option: str) -> Iterator[socket.socket]:
    """Raises OptionError where somebody else listens there, or nobody can."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # told that it is TCP, or asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for an acknowledgement
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)
        except OSError as error:
            raise OptionError(
                f"Cannot listen at {host}:{port} ({error.strerror or one_line(error)}): "
                f"stop what uses it, or name another by {option} HOST:PORT."
            ) from error
        yield listener
