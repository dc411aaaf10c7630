"""What a fleet's controller remembers: intents, dollars, strikes, speeds, wishes; and who the controller is.

One SQLite file a fleet, `<home>/fleet/<fleet>.db`, in WAL mode so that `status` reads while `run` writes. It may be
deleted at any time: what exists is told by the labels at the market, and only history is lost. A file that is damaged
or of another version is put aside, not mended.
"""

import json
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from provisioning.budget import Meter
from provisioning.fleet import Intent, Speeds, Strike
from provisioning.locks import FileLock
from workers.errors import StorageError, TerminalError, one_line
from workers.messages import DEFAULT_MODEL

VERSION = 2
OWNER_TTL_MS = 120_000  # an owner on another machine that said nothing for so long is gone: a tick takes 10 to 15 s
BOOTS_KEPT = 50
MOST_FIRST, MOST_STEP = 3.0, 2.0  # a GPU is no three times as fast as its memory says, nor changes by more at once
SPEED_WEIGHT = 0.3  # of the newest measure in the running mean of a GPU's speed: three chunks and it is most of it
REMEMBERED_MS = 7 * 24 * 3_600_000  # closed intents and strikes are history after a week

_SCHEMA = """
CREATE TABLE about(version INTEGER NOT NULL);
CREATE TABLE intents(
    nonce TEXT PRIMARY KEY, state TEXT NOT NULL, offer_id INTEGER NOT NULL, machine_id INTEGER NOT NULL,
    gpu_name TEXT NOT NULL, asked_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, usd_per_hour REAL NOT NULL,
    is_bid INTEGER NOT NULL, slot INTEGER NOT NULL, instance_id INTEGER, reason TEXT NOT NULL,
    lists_without INTEGER NOT NULL, last_missed_ms INTEGER, usd_per_gb REAL NOT NULL);
CREATE TABLE samples(at_ms INTEGER NOT NULL, live INTEGER NOT NULL, usd_per_hour REAL NOT NULL, usd REAL NOT NULL);
CREATE TABLE strikes(machine_id INTEGER NOT NULL, until_ms INTEGER NOT NULL, reason TEXT NOT NULL);
CREATE TABLE speeds(model TEXT NOT NULL, gpu_name TEXT NOT NULL, rtfx REAL NOT NULL, PRIMARY KEY (model, gpu_name));
CREATE TABLE boots(seconds REAL NOT NULL);
CREATE TABLE owner(who TEXT NOT NULL, host TEXT NOT NULL, since_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL);
CREATE TABLE notes(name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
_INTENT = ", ".join(field.name for field in fields(Intent))
_MARKS = ", ".join("?" for _ in fields(Intent))


class FleetTaken(TerminalError):
    """Somebody else controls this fleet, and two that rent for one fleet would each destroy what the other rents."""

    exit_code = 2


@dataclass(frozen=True)
class Wish:
    """What another command asks of the controller that runs: it looks at every tick.

    phase: run, drain (finish what is held, rent nothing) or close (destroy all). min_instances and max_instances
    replace those of its limits where they are not None. held_instances: machines to keep while there is work, and
    before there is any for a while from held_since_ms on (see `provisioning.fleet_control`).
    """

    phase: Literal["run", "drain", "close"] = "run"
    min_instances: int | None = None
    max_instances: int | None = None
    held_instances: int | None = None
    held_since_ms: int | None = None


@dataclass(frozen=True)
class Sample:
    """The fleet's burn at one moment: machines, dollars an hour, dollars so far."""

    at_ms: int
    live: int
    usd_per_hour: float
    usd: float


def database(home: Path, fleet: str) -> Path:
    return home / "fleet" / f"{fleet}.db"


class Ledger:
    """One fleet's database. Every write is committed when it returns; safe to share between threads.

    notice: a sentence where a damaged file had to be put aside. Raises StorageError where nothing can be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notice: str | None = None
        self._gate = threading.RLock()
        self._lock = FileLock(path.with_suffix(".lock"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = self._open()
        except (OSError, sqlite3.OperationalError) as error:
            raise StorageError(f"The fleet's database {path} cannot be opened: {one_line(error)}.") from error

    def close(self) -> None:
        self._lock.release()
        with self._gate:
            self._db.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- who the controller is ----

    def take_ownership(self, now_ms: int) -> None:
        """Be the one controller of this fleet until `close`; the kernel takes that back from a process that dies.

        Raises FleetTaken where another one lives, on this machine (flock) or lately on another (the row).
        """
        me, host = f"process {os.getpid()}", socket.gethostname()
        taken = self._lock.acquire(timeout=1)  # others hold it for an instant, to see whether it is free
        row = self._rows("SELECT who, host, seen_ms FROM owner")
        elsewhere = bool(row) and row[0][1] != host and now_ms - row[0][2] < OWNER_TTL_MS
        if not taken or elsewhere:
            who = f"{row[0][0]} on {row[0][1]}" if row else "another process"
            self._lock.release()
            raise FleetTaken(
                f"Fleet '{self.path.stem}' already has a controller ({who}): stop that one, or give this fleet another "
                "name by --fleet."
            )
        with self._write() as db:
            db.execute("DELETE FROM owner")
            db.execute("INSERT INTO owner VALUES (?, ?, ?, ?)", (me, host, now_ms, now_ms))

    def stay_owner(self, now_ms: int) -> None:
        with self._write() as db:
            db.execute("UPDATE owner SET seen_ms = ?", (now_ms,))

    def give_up_ownership(self) -> None:
        with self._write() as db:
            db.execute("DELETE FROM owner")
        self._lock.release()

    # ---- intents ----

    def save(self, intent: Intent) -> None:
        """On the disk when it returns: an intent that a power cut takes back would be a machine nobody knows."""
        with self._write(durable=True) as db:
            db.execute(f"INSERT OR REPLACE INTO intents({_INTENT}) VALUES ({_MARKS})", astuple(intent))

    def intents(self) -> tuple[Intent, ...]:
        """All that are remembered, also closed ones: a machine that comes back late is known by them."""
        rows = self._rows(f"SELECT {_INTENT} FROM intents ORDER BY asked_ms, nonce")
        names = [field.name for field in fields(Intent)]
        found = (dict(zip(names, row, strict=True)) for row in rows)
        return tuple(Intent(**(each | {"is_bid": bool(each["is_bid"])})) for each in found)

    # ---- money ----

    def charge(self, meter: Meter, sample: Sample) -> None:
        """The bill of every machine so far, and the fleet's burn, in one commit."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO notes VALUES ('meter', ?)", (json.dumps(meter.to_json()),))
            db.execute("INSERT INTO samples VALUES (?, ?, ?, ?)", astuple(sample))

    def meter(self) -> Meter:
        """As it was charged last; an empty one where nothing was."""
        return Meter.from_json(self.noted("meter"))

    def samples(self, since_ms: int = 0) -> tuple[Sample, ...]:
        rows = self._rows(
            "SELECT at_ms, live, usd_per_hour, usd FROM samples WHERE at_ms >= ? ORDER BY at_ms", since_ms
        )
        return tuple(Sample(*row) for row in rows)

    # ---- what hosts and GPUs are like ----

    def strike(self, strike: Strike) -> None:
        with self._write() as db:
            db.execute("INSERT INTO strikes VALUES (?, ?, ?)", astuple(strike))

    def strikes(self, now_ms: int) -> tuple[Strike, ...]:
        """Those that still count."""
        return tuple(
            Strike(*row)
            for row in self._rows("SELECT machine_id, until_ms, reason FROM strikes WHERE until_ms > ?", now_ms)
        )

    def measured(self, gpu_name: str, rtfx: float, guess: float, model: str = DEFAULT_MODEL) -> None:
        """Audio seconds per second of one GPU with this model, into the running mean of its kind.

        One machine may lie: it moves what is known by a factor of MOST_STEP at most, and begins it at no more than
        MOST_FIRST times the guess.
        """
        with self._write() as db:
            row = db.execute("SELECT rtfx FROM speeds WHERE model = ? AND gpu_name = ?", (model, gpu_name)).fetchone()
            if row is None:
                mean = min(rtfx, MOST_FIRST * guess)
            else:
                bounded = min(max(rtfx, row[0] / MOST_STEP), row[0] * MOST_STEP)
                mean = row[0] + SPEED_WEIGHT * (bounded - row[0])
            db.execute("INSERT OR REPLACE INTO speeds VALUES (?, ?, ?)", (model, gpu_name, mean))

    def booted(self, seconds: float) -> None:
        with self._write() as db:
            db.execute("INSERT INTO boots VALUES (?)", (seconds,))
            db.execute(f"DELETE FROM boots WHERE rowid <= (SELECT max(rowid) FROM boots) - {BOOTS_KEPT}")

    def speeds(self, model: str = DEFAULT_MODEL) -> Speeds:
        """With this model: a small one is ten times as fast, and what it was would refuse all that run a large one."""
        return Speeds(
            rtfx=dict(self._rows("SELECT gpu_name, rtfx FROM speeds WHERE model = ?", model)),
            boot_s=tuple(row[0] for row in self._rows("SELECT seconds FROM boots ORDER BY rowid")),
        )

    # ---- what other commands wish and want to know ----

    def wish(self, wish: Wish) -> None:
        self.note("wish", {field.name: getattr(wish, field.name) for field in fields(Wish)})

    def wished(self) -> Wish:
        return Wish(**(self.noted("wish") or {}))

    def rewish(self, change: Callable[[Wish], Wish]) -> Wish:
        """Another wish that follows from the one there is, with nobody else's between the two."""
        with self._write() as db:
            wish = change(self.wished())
            db.execute("INSERT OR REPLACE INTO notes VALUES ('wish', ?)", (json.dumps(asdict(wish)),))
        return wish

    def note(self, name: str, value: Any) -> None:
        """Keep one JSON value by name, instead of the one before."""
        with self._write() as db:
            db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, json.dumps(value)))

    def noted(self, name: str) -> Any:
        rows = self._rows("SELECT value FROM notes WHERE name = ?", name)
        return json.loads(rows[0][0]) if rows else None

    def forget_history(self, now_ms: int) -> None:
        """Drop what has been over for a week; the meter stays, since the budget is of the whole fleet."""
        before = now_ms - REMEMBERED_MS
        with self._write() as db:
            db.execute("DELETE FROM intents WHERE state = 'closed' AND expires_ms < ?", (before,))
            db.execute("DELETE FROM strikes WHERE until_ms < ?", (before,))
            db.execute("DELETE FROM samples WHERE at_ms < ?", (before,))

    # ---- SQLite ----

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = self.path.with_suffix(f".{os.getpid()}.damaged")
            self.path.replace(aside)
            for rest in ("-wal", "-shm"):
                self.path.with_name(self.path.name + rest).unlink(missing_ok=True)
            self.notice = (
                f"The fleet's database was put aside as {aside} ({one_line(error)}): what is rented is known by its "
                "labels, only history is lost."
            )
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10, check_same_thread=False, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")  # what a dead process has written stays; see `save`
            db.execute("BEGIN IMMEDIATE")
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'about'").fetchone():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    db.execute(statement)
                db.execute("INSERT INTO about VALUES (?)", (VERSION,))
            found = db.execute("SELECT version FROM about").fetchone()
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        if found is None or found[0] != VERSION:
            db.close()
            raise sqlite3.DatabaseError(f"it is of version {found and found[0]}, this program writes {VERSION}")
        return db

    @contextmanager
    def _write(self, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with self._gate:
            try:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # a full disk has taken it back already, and says so
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise StorageError(f"The fleet's database {self.path} cannot be written: {one_line(error)}.") from error

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._gate:
            try:
                with closing(self._db.execute(query, values)) as cursor:
                    return cursor.fetchall()
            except sqlite3.Error as error:
                raise StorageError(f"The fleet's database {self.path} cannot be read: {one_line(error)}.") from error
