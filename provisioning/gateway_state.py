"""What a gateway must still know after a restart: machines and their revocation, who holds what, who must not have it.

SQLite beside the keys. Losing the file loses statistics, and the revocation of tokens that have not expired: whoever
loses it deletes the signing key too, and every token is worth nothing.
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from provisioning.fleet import WorkerNews
from workers.errors import StorageError, one_line

_SCHEMA = """
CREATE TABLE IF NOT EXISTS machines (nonce TEXT PRIMARY KEY, expires_ms INTEGER NOT NULL, told TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS leases (
    task_id TEXT PRIMARY KEY, nonce TEXT NOT NULL, grant_name TEXT NOT NULL UNIQUE, since_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS losers (
    task_id TEXT NOT NULL, nonce TEXT NOT NULL, last_ms INTEGER NOT NULL, PRIMARY KEY (task_id, nonce)
);
CREATE TABLE IF NOT EXISTS bans (
    nonce TEXT NOT NULL, workflow_id TEXT NOT NULL, reference TEXT NOT NULL, until_ms INTEGER NOT NULL,
    PRIMARY KEY (nonce, workflow_id, reference)
);
"""
FOR_EVER_MS = 2**53
_KEPT_MS = 7 * 24 * 3_600_000  # losses of a task that nobody came back for
MEASURED_CHUNKS = 3  # from so many on a machine's speed is that of its work, and not of its self-test


@dataclass
class Rented:
    """What the gateway knows of one machine; times are epoch milliseconds, its own clock."""

    nonce: str
    expires_ms: int
    kinds: tuple[str, ...] = ()
    first_seen_ms: int | None = None
    last_seen_ms: int | None = None
    last_task_ms: int | None = None
    chunks_done: int = 0
    audio_done_ms: int = 0
    busy_ms: int = 0
    tested_rtfx: float | None = None
    state: str = ""
    version: str = ""
    draining: bool = False
    strikes: list[str] = field(default_factory=list)
    failures: int = 0  # points: a failure gives some, a success takes one (provisioning.gateway_desk)
    refused: str | None = None
    revoked_ms: int | None = None

    @property
    def rtfx(self) -> float | None:
        if self.chunks_done >= MEASURED_CHUNKS and self.busy_ms:
            return self.audio_done_ms / self.busy_ms
        return self.tested_rtfx

    def news(self, held_tasks: int, held_audio_ms: int) -> WorkerNews:
        return WorkerNews(
            nonce=self.nonce,
            first_seen_ms=self.first_seen_ms,
            last_seen_ms=self.last_seen_ms,
            last_task_ms=self.last_task_ms,
            held_tasks=held_tasks,
            held_audio_ms=held_audio_ms,
            chunks_done=self.chunks_done,
            audio_done_ms=self.audio_done_ms,
            busy_ms=self.busy_ms,
            rtfx=self.rtfx,
            draining=self.draining,
            strikes=tuple(self.strikes),
            refused=self.refused,
        )


@dataclass(frozen=True)
class HeldRow:
    """A lease as it was written down."""

    task_id: str
    nonce: str
    grant: str
    since_ms: int


class State:
    """Machines in memory and on disk; leases, losses and bans on disk alone. For one thread.

    Raises StorageError where the file cannot be used.
    """

    def __init__(self, path: Path, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last second, no crash of ours
            self._db.executescript(_SCHEMA)
            path.chmod(0o600)
            self._forget_the_old()
            self.machines = {rented.nonce: rented for rented in self._read()}
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"The gateway cannot use {path} ({one_line(error)}): correct its rights, or move it away; with it goes "
                "what was revoked, so delete the signing key too."
            ) from error

    def _forget_the_old(self) -> None:
        now = self._now_ms()
        self._db.execute("DELETE FROM machines WHERE expires_ms < ?", (now - _KEPT_MS,))
        self._db.execute("DELETE FROM losers WHERE last_ms < ?", (now - _KEPT_MS,))
        self._db.execute("DELETE FROM bans WHERE until_ms < ? OR nonce NOT IN (SELECT nonce FROM machines)", (now,))

    def _read(self) -> list[Rented]:
        known = {one.name for one in fields(Rented)}
        rows = self._db.execute("SELECT told FROM machines").fetchall()
        decoded = [json.loads(told) for (told,) in rows]
        found = [Rented(**{name: value for name, value in row.items() if name in known}) for row in decoded]
        for rented in found:
            rented.kinds = tuple(rented.kinds)
        return found

    def machine(self, nonce: str, kinds: tuple[str, ...] = (), expires_ms: int = 0) -> Rented:
        """The machine of this nonce; one with a good token that is not known is new here."""
        rented = self.machines.get(nonce)
        if rented is None:
            rented = self.machines[nonce] = Rented(nonce, expires_ms, kinds)
            self.write(rented)
        return rented

    def write(self, rented: Rented) -> None:
        told: dict[str, Any] = asdict(rented)
        self._db.execute(
            "INSERT OR REPLACE INTO machines VALUES (?, ?, ?)", (rented.nonce, rented.expires_ms, json.dumps(told))
        )

    def write_all(self) -> None:
        """Statistics, which are worth a write now and then only."""
        self._db.execute("BEGIN")
        try:
            for rented in self.machines.values():
                self.write(rented)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # left open, it would take all later writes with it when the process ends
                self._db.execute("ROLLBACK")
            raise

    def hold(self, row: HeldRow) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO leases VALUES (?, ?, ?, ?)", (row.task_id, row.nonce, row.grant, row.since_ms)
        )

    def let_go(self, task_id: str, nonce: str) -> None:
        """This machine's lease of the task is over; another's, booked meanwhile, is not."""
        self._db.execute("DELETE FROM leases WHERE task_id = ? AND nonce = ?", (task_id, nonce))

    def held(self, *, nonce: str | None = None, grant: str | None = None) -> list[HeldRow]:
        """Leases that were written down: all, those of one machine, or that of one grant."""
        rows = self._db.execute(
            "SELECT task_id, nonce, grant_name, since_ms FROM leases"
            " WHERE (?1 IS NULL OR nonce = ?1) AND (?2 IS NULL OR grant_name = ?2)",
            (nonce, grant),
        )
        return [HeldRow(*row) for row in rows]

    def losers(self, task_id: str) -> set[str]:
        """The machines with which a task was lost, or failed."""
        rows = self._db.execute("SELECT nonce FROM losers WHERE task_id = ?", (task_id,))
        return {nonce for (nonce,) in rows}

    def lose(self, task_id: str, nonce: str) -> None:
        """A task was lost with this machine, or failed there; how often it was the same machine does not count."""
        self._db.execute("INSERT OR REPLACE INTO losers VALUES (?, ?, ?)", (task_id, nonce, self._now_ms()))

    def ban(self, nonce: str, workflow_id: str, reference: str, until_ms: int = FOR_EVER_MS) -> None:
        """This machine is not to have this task again, whatever attempt it is."""
        self._db.execute("INSERT OR REPLACE INTO bans VALUES (?, ?, ?, ?)", (nonce, workflow_id, reference, until_ms))

    def banned_until(self, nonce: str, workflow_id: str, reference: str) -> int:
        """Epoch milliseconds; FOR_EVER_MS or more: for good; 0: it may have the task."""
        found = self._db.execute(
            "SELECT until_ms FROM bans WHERE nonce = ? AND workflow_id = ? AND reference = ?",
            (nonce, workflow_id, reference),
        ).fetchone()
        return 0 if found is None else int(found[0])

    def close(self) -> None:
        self.write_all()
        self._db.close()
