"""What the commands and the keeper of the embedded server tell each other: files under <home>/server.

gate.lock      held for moments by whoever joins, starts or stops: decisions are made one at a time
instance.lock  held by the keeper for its life: there is one keeper, and it lives
users.lock     held shared by every command that uses the server
state.json     written by the keeper: where the server is and how it fares
keep, stop     a keeper's token: it shall stay without users; it shall stop
"""

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]

Phase = Literal["starting", "running", "stopping", "stopped", "failed"]


@dataclass(frozen=True)
class Files:
    """Paths of one embedded server."""

    root: Path

    @property
    def gate(self) -> Path:
        return self.root / "gate.lock"

    @property
    def instance(self) -> Path:
        return self.root / "instance.lock"

    @property
    def users(self) -> Path:
        return self.root / "users.lock"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def keep(self) -> Path:
        return self.root / "keep"

    @property
    def stop(self) -> Path:
        return self.root / "stop"

    @property
    def database(self) -> Path:
        return self.root / "conductor.db"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    @property
    def keeper_log(self) -> Path:
        return self.root / "keeper.log"


@dataclass(frozen=True)
class State:
    """One keeper's account. started values are seconds since 1970: with them a pid names one process for ever."""

    token: str
    phase: Phase
    version: str
    keeper_pid: int
    port: int = 0
    java_pid: int | None = None
    java_started: float = 0.0
    restarts: int = 0
    error: str = ""

    @property
    def url(self) -> str:
        """Address of the API."""
        return f"http://127.0.0.1:{self.port}/api"


def files(home: Path) -> Files:
    """The files of the embedded server whose data folder is `home`."""
    return Files(home / "server")


def read(where: Files) -> State | None:
    """The last keeper's state; None if there never was one, or if what is there cannot be read."""
    try:
        return State(**json.loads(where.state.read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write(where: Files, state: State) -> None:
    """Replace the state at once, so that no reader meets half of it."""
    write_text(where.state, json.dumps(asdict(state)))


def write_text(path: Path, text: str) -> None:
    """Write under another name, then rename."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)


def asks(path: Path, token: str) -> bool:
    """Does the request file `path` speak to the keeper with this token? An older keeper's does not count."""
    try:
        return path.read_text("utf-8") == token
    except FileNotFoundError:
        return False


def java_process(state: State) -> psutil.Process | None:
    """The server process of `state` if it lives: same pid and, within clock error, same start time."""
    if state.java_pid is None:
        return None
    try:
        process = psutil.Process(state.java_pid)
        same = abs(process.create_time() - state.java_started) < 5 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def return_messages(where: Files) -> None:
    """Give the queues of a server that is down back what it had taken out when it died.

    It takes a message out, works, and puts it back or deletes it; what it held when it was killed would come back
    after a minute, and a JOIN that it was looking at after an hour and a minute (it reserves a system task for its
    response timeout), while its workflow waits. Nobody can hold a message of a server that is not running. The
    table is the pinned version's.
    """
    if not where.database.exists():
        return
    with closing(sqlite3.connect(where.database, timeout=15)) as database, database:
        known = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'queue_message'").fetchone()[0]
        if known:
            database.execute(
                "UPDATE queue_message SET popped = 0, deliver_on = strftime('%Y-%m-%d %H:%M:%f', 'now') WHERE popped"
            )


def user_pids(where: Files) -> list[int]:
    """Processes of this user that hold the users' lock open."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(opened.path == str(where.users) for opened in process.open_files()):
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # somebody else's process, or gone meanwhile: no user of this server
    return found
