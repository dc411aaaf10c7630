"""The Conductor server on each of its databases, to be measured: as the embedded one is run, and as the deployment is.

Both are processes of the benchmark's own, so that their processor time can be told apart; all ends with the block.
"""

import http.client
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]

from benchmarks.runner import progress
from provisioning import conductor, server_jar, server_java, server_state
from provisioning.server_keeper import die_with
from workers.errors import ServerError
from workers.settings import bare_environment, load
from workflows.client import Client

SQLITE, POSTGRESQL = "SQLite", "PostgreSQL"
UP_S = 240.0
END_S = 30.0
LOOK_S = 0.1
_PROGRAMS = ("initdb", "postgres", "createdb")


@dataclass(frozen=True)
class Server:
    """A running server with our definitions. start_s: seconds from its launch to its first healthy answer."""

    name: str
    client: Client
    process: psutil.Process
    database: psutil.Process | None
    start_s: float

    @property
    def host(self) -> str:
        """HOST:PORT."""
        return urlsplit(self.client.server).netloc

    def spent_ms(self) -> tuple[float, float]:
        """Processor milliseconds since their start: of the server, and of its database's processes."""
        return _spent_ms([self.process]), _spent_ms(
            [self.database, *self.database.children(recursive=True)] if self.database else []
        )


def postgresql_lacks() -> str | None:
    """What is missing for a server on PostgreSQL, in words; None where all is here."""
    missing = [program for program in _PROGRAMS if _found(program) is None]
    if missing:
        return f"PostgreSQL is not installed ({', '.join(missing)} not found)"
    if not _deployed().is_file():
        return "the deployment's settings are not installed: run it from the repository"
    return None


@contextmanager
def servers(folder: Path, databases: Sequence[str], against: Sequence[str] = ()) -> Iterator[tuple[Server, ...]]:
    """Servers on `databases`, started one after the other.

    against: further properties (NAME=VALUE). With them each database has a second server, called "… changed".
    """
    variants = [(database, name, more) for database in databases for name, more in _variants(database, against)]
    with ExitStack() as stack:
        yield tuple(
            stack.enter_context(_server(database, name, folder / f"server-{number}", more))
            for number, (database, name, more) in enumerate(variants)
        )


def _variants(database: str, against: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    yield database, ()
    if against:
        yield f"{database} changed", against


@contextmanager
def _server(database: str, name: str, folder: Path, more: Sequence[str]) -> Iterator[Server]:
    progress(f"Starting a Conductor server on {name}")
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        if database == POSTGRESQL:
            store, address, password = stack.enter_context(_postgres(folder / "postgres.log"))
            running = stack.enter_context(_deployed_server(folder, address, password, more))
        else:
            store, running = None, stack.enter_context(_embedded_server(folder, more))
        process, port, start_s = running
        client = Client(f"http://127.0.0.1:{port}/api")
        client.register(force=True)
        yield Server(name, client, process, store, start_s)


@contextmanager
def _embedded_server(folder: Path, more: Sequence[str]) -> Iterator[tuple[psutil.Process, int, float]]:
    """With the command and the environment that the keeper of the embedded server gives it."""
    files, port, program = server_state.Files(folder), _free_port(), server_jar.obtain(load(), progress)
    names = tuple(f"--{pair.partition('=')[0]}=" for pair in more)  # a property that is given twice has both values
    command = [
        word for word in server_java.command(conductor.java(), files, port, None) if not word.startswith(names or "\0")
    ]
    environment = server_java.environment(program)
    with _healthy([*command, *(f"--{pair}" for pair in more)], environment, files.log, port) as running:
        yield running


@contextmanager
def _deployed_server(
    folder: Path, address: str, password: str, more: Sequence[str]
) -> Iterator[tuple[psutil.Process, int, float]]:
    """With the properties that docker-compose.yml gives it; only addresses and folders are this machine's."""
    port, program = _free_port(), server_jar.obtain(load(), progress)
    lines = [line for line in _deployed().read_text("utf-8").splitlines() if line and not line.startswith("#")]
    deployed = dict(line.split("=", 1) for line in lines)
    (folder / "spring.datasource.password").write_text(password)
    environment = server_java.environment(program) | deployed
    environment |= {
        "SERVER_PORT": str(port),
        "SERVER_ADDRESS": "127.0.0.1",
        "SPRING_CONFIG_IMPORT": f"configtree:{folder}/",
        "SPRING_DATASOURCE_URL": f"jdbc:postgresql://{address}/{deployed['SPRING_DATASOURCE_URL'].rsplit('/', 1)[1]}",
        "CONDUCTOR_FILESTORAGE_PARENTDIR": str(folder / "files"),
    }
    command = [str(conductor.java()), "com.netflix.conductor.Conductor", *(f"--{pair}" for pair in more)]
    with _healthy(command, environment, folder / "server.log", port) as running:
        yield running


@contextmanager
def _healthy(
    command: Sequence[str], environment: dict[str, str], log: Path, port: int
) -> Iterator[tuple[psutil.Process, int, float]]:
    began = time.monotonic()
    with _running(command, environment, log) as process:
        while not _answers(port):
            if process.poll() is not None or time.monotonic() - began > UP_S:
                raise ServerError(f"The Conductor server did not come up; its log ends: {_end_of(log)}")
            time.sleep(LOOK_S)
        yield psutil.Process(process.pid), port, time.monotonic() - began


@contextmanager
def _postgres(log: Path) -> Iterator[tuple[psutil.Process, str, str]]:
    """A cluster of its own with its defaults, as the deployment's image makes it: its process, address and password.

    In a folder of its own below the system's temporary one: PostgreSQL refuses to be root, so root runs it as the user
    postgres, who could not enter the benchmark's.
    """
    password, port = secrets.token_hex(16), _free_port()
    initdb, postgres, createdb = (str(_found(program)) for program in _PROGRAMS)
    with tempfile.TemporaryDirectory(prefix="whisperfleet-postgres-") as made:
        folder = Path(made)
        for name, text in (("password", password), ("pgpass", f"*:*:*:*:{password}")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        told: dict[str, Any] = {"cwd": folder, **_as_user([folder, *folder.iterdir()])}
        environment = bare_environment(PGPASSFILE=str(folder / "pgpass"))
        making = [initdb, "-D", str(folder / "data"), "-U", "conductor", f"--pwfile={folder / 'password'}", "--no-sync"]
        making += ["--data-checksums", "--encoding=UTF8", "--auth-host=scram-sha-256"]
        done = subprocess.run(making, capture_output=True, text=True, check=False, env=environment, **told)
        if done.returncode:
            raise ServerError(f"PostgreSQL cannot make its files in {folder}: {done.stderr.strip()}")
        listen = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(folder)}
        words = [word for name, value in listen.items() for word in ("-c", f"{name}={value}")]
        with _running([postgres, "-D", str(folder / "data"), *words], environment, log, **told) as process:
            creating = [createdb, "--host=127.0.0.1", f"--port={port}", "--no-password", "-U", "conductor", "conductor"]
            ends = time.monotonic() + UP_S
            while subprocess.run(creating, env=environment, capture_output=True, check=False, **told).returncode:
                if process.poll() is not None or time.monotonic() > ends:
                    raise ServerError(f"PostgreSQL did not come up; its log ends: {_end_of(log)}")
                time.sleep(LOOK_S)
            yield psutil.Process(process.pid), f"127.0.0.1:{port}", password


def _as_user(paths: Sequence[Path]) -> dict[str, Any]:
    """For root: the user postgres, who is given `paths`, in the words of subprocess; for others nothing."""
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam("postgres")
    for path in paths:
        os.chown(path, owner.pw_uid, owner.pw_gid)
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


@contextmanager
def _running(
    command: Sequence[str], environment: dict[str, str], log: Path, **more: Any
) -> Iterator["subprocess.Popen[bytes]"]:
    parent = os.getpid()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            preexec_fn=lambda: die_with(parent), **more,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _spent_ms(processes: Sequence[psutil.Process]) -> float:
    """Of these processes and of their children that have ended."""
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # a connection that was just closed: its time is its parent's now
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total * 1000


def _deployed() -> Path:
    return Path(str(resources.files("provisioning"))) / "deploy" / "conductor.env"


def _found(program: str) -> Path | None:
    """Debian keeps PostgreSQL's server off the path, in a folder for each version: the newest."""
    newest = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    path = shutil.which(program) or next(
        (found for folder in newest if (found := shutil.which(program, path=folder))), None
    )
    return Path(path) if path else None


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-400:].strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
