"""The keeper: a small process that starts the Conductor server, keeps it up, and ends it when nobody uses it.

It stands between the commands and the server so that no command's end, however sudden, leaves a server behind:
the commands hold a lock that the kernel takes back, the keeper watches that lock, and the server dies with the keeper.
"""

import argparse
import ctypes
import http.client
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from provisioning import server_state
from provisioning.locks import FileLock
from provisioning.server_java import command, environment
from provisioning.server_state import Files, State

START_SECONDS = 240
"""A start took 12 to 40 s on 2 cores, and 128 s where 18 other programs wanted them."""
STOP_SECONDS = 20
MAX_RESTARTS = 5
"""In a row; a server that then stayed up for a minute has them all again."""
LOG_BYTES = 16 << 20
_TICK = 0.25
_LINGER_SECONDS = 2.0
"""Between two commands of a script the server is not stopped."""
_PORTS = range(18080, 28080)
"""Below the range from which systems take the ports of outgoing connections: nobody grabs ours while it restarts."""


class StartFailed(Exception):
    """The server did not come up; the text says what is known."""


@dataclass(frozen=True)
class Order:
    """What a command asks of its new keeper."""

    home: Path
    program: Path
    java: Path
    token: str
    version: str
    ui: Path | None


class Keeper:
    """One server from its start to its end."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._files: Files = server_state.files(order.home)
        self._server: subprocess.Popen[bytes] | None = None
        self._told_to_stop = False
        self._state = State(order.token, "starting", order.version, os.getpid())

    def run(self) -> int:
        """Returns the exit code."""
        instance = FileLock(self._files.instance)
        if not instance.acquire(timeout=10):
            return 3  # another keeper is at work
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        before = server_state.read(self._files)
        self._put(port=_free_port(before.port if before else 0))
        if before:
            _end(server_state.java_process(before))  # a left-over, where the system did not end it with its keeper
        try:
            self._start()
            self._put(phase="running")
            self._watch()
        except StartFailed as error:
            self._put(phase="failed", error=str(error))
            return 1
        except BaseException as error:
            self._put(phase="failed", error=f"the keeper failed: {error!r}")
            raise
        finally:
            self._stop_server()
        self._put(phase="stopped")
        return 0

    def _watch(self) -> None:
        up_since, alone_since = time.monotonic(), None
        while not self._should_stop():
            time.sleep(_TICK)
            _limit(self._files.log)
            if self._server is None or self._server.poll() is not None:
                self._restart()
                up_since = time.monotonic()
            elif self._state.restarts and time.monotonic() - up_since > 60:
                self._put(restarts=0)
            if self._somebody():
                alone_since = None
            elif alone_since is None:
                alone_since = time.monotonic()
            elif time.monotonic() - alone_since > _LINGER_SECONDS and self._leave():
                return

    def _leave(self) -> bool:
        """Decide to stop, unless somebody came at this very moment: arrivals and this hold the same gate."""
        gate = FileLock(self._files.gate)
        if not gate.acquire(timeout=0):
            return False
        try:
            if self._somebody():
                return False
            self._put(phase="stopping")
            return True
        finally:
            gate.release()

    def _somebody(self) -> bool:
        if server_state.asks(self._files.keep, self._order.token):
            return True
        users = FileLock(self._files.users)
        alone = users.acquire(timeout=0)
        users.release()
        return not alone

    def _should_stop(self) -> bool:
        if not self._told_to_stop and not server_state.asks(self._files.stop, self._order.token):
            return False
        with FileLock(self._files.gate):
            self._put(phase="stopping")
        return True

    def _restart(self) -> None:
        """The server died, and jobs wait for it: the same port, the same database."""
        restarts = self._state.restarts + 1
        if restarts > MAX_RESTARTS:
            raise StartFailed(f"the server ended by itself {restarts} times in a row")
        _note(f"the server ended by itself (status {self._server.returncode if self._server else '?'}); starting it")
        self._put(phase="starting", restarts=restarts)
        self._start()
        self._put(phase="running")

    def _start(self) -> None:
        """Start the server and wait until it is healthy; on a port that somebody took meanwhile, try another."""
        for _ in range(5):
            begin = self._files.log.stat().st_size if self._files.log.exists() else 0
            self._launch()
            if self._wait_healthy():
                return
            if self._told_to_stop or server_state.asks(self._files.stop, self._order.token):
                raise StartFailed("it was stopped while it started")
            if b"already in use" not in _read_from(self._files.log, begin):
                break
            self._put(port=_free_port(0))
        raise StartFailed("it ended while it started")

    def _launch(self) -> None:
        try:
            server_state.return_messages(self._files)
        except sqlite3.DatabaseError as error:
            raise StartFailed(
                f"its database {self._files.database} cannot be used ({error}): move it away to begin with an empty one"
            ) from None
        parent = os.getpid()
        with self._files.log.open("ab") as log:
            self._server = subprocess.Popen(
                command(self._order.java, self._files, self._state.port, self._order.ui),
                cwd=self._files.root,
                env=environment(self._order.program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # this thread is the process's main thread and lives as long: the kernel ties the wish to the thread
                preexec_fn=lambda: die_with(parent),
            )
        self._put(java_pid=self._server.pid, java_started=psutil.Process(self._server.pid).create_time())

    def _wait_healthy(self) -> bool:
        assert self._server is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._server.poll() is None:
            if self._told_to_stop or server_state.asks(self._files.stop, self._order.token):
                return False
            if _healthy(self._state.port):
                return True
            time.sleep(_TICK)
        if self._server.poll() is None:
            raise StartFailed(f"it was not healthy within {START_SECONDS} seconds")
        return False

    def _stop_server(self) -> None:
        if self._server is None:
            return
        if self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
        self._put(java_pid=None)

    def _on_signal(self, number: int, frame: object) -> None:
        self._told_to_stop = True

    def _put(self, **changes: object) -> None:
        self._state = replace(self._state, **changes)  # type: ignore[arg-type]
        server_state.write(self._files, self._state)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port(wanted: int) -> int:
    """`wanted` if it is free (who still knows the old address finds the server again), else any of the range."""
    for port in [*([wanted] if wanted else []), *random.sample(_PORTS, 100), 0]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise StartFailed("no port of 127.0.0.1 is free")


def die_with(parent: int) -> None:
    """In the child before it becomes the server: ask the kernel (Linux) for SIGKILL when its parent dies."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the wish was heard
            os._exit(1)


def _end(process: psutil.Process | None) -> None:
    if process is not None:
        process.kill()
        process.wait(STOP_SECONDS)


def _limit(log: Path) -> None:
    """Keep the log small: the server writes in append mode, so its file can be copied and cut under it."""
    if log.exists() and log.stat().st_size > LOG_BYTES:
        shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)


def _read_from(log: Path, begin: int) -> bytes:
    with log.open("rb") as stream:
        stream.seek(begin)
        return stream.read()


def _note(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=sys.stderr, flush=True)


def _detach() -> None:
    """Leave the command that started us: no terminal, no session, no parent that would have to wait for us."""
    if os.fork():
        os._exit(0)
    os.setsid()


def main(arguments: list[str] | None = None) -> int:
    """`python -m provisioning.server_keeper`, started by provisioning.conductor."""
    parser = argparse.ArgumentParser()
    for name, kind in (
        ("home", Path),
        ("program", Path),
        ("java", Path),
        ("token", str),
        ("version", str),
        ("ui", Path),
    ):
        parser.add_argument(f"--{name}", type=kind, required=name != "ui")
    order = Order(**vars(parser.parse_args(arguments)))
    _detach()
    return Keeper(order).run()


if __name__ == "__main__":
    sys.exit(main())
