"""The audit log: a JSON line for every refusal, grant, hand-out, result, strike and revocation; never a token.

A stranger that is refused a thousand times a second must not fill the disk, and no machine may wash out what is said
of the others: lines are limited by whom they are about, how many were left out is said in the next one, and the file is
rotated. What the gateway has decided of a machine is always said.
"""

import json
import logging
import logging.handlers
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from provisioning.gateway_limits import TokenBucket
from workers.errors import StorageError, one_line

FILE_BYTES, FILES = 16 * 1024 * 1024, 8
REFUSALS_PER_S, REFUSALS_BURST = 5.0, 100.0
LINES_PER_S, LINES_BURST = 3.0, 3_000.0  # of one machine: a chunk has three, and takes a second and a half at least
STRANGERS_PER_S, STRANGERS_BURST = 50.0, 2_000.0  # of all together that are no machine, as addresses are many
ALWAYS = ("strike", "disqualified", "revoked", "draining")  # a few of each machine
_CUT = 300  # characters of anything a stranger has said
_SOURCES = 10_000  # machines and addresses that are told apart
_GRANT = re.compile(r"([A-Za-z0-9_%-]{4})[A-Za-z0-9_%-]{20,}")


class Audit:
    """Appends to `path`. Raises StorageError where that cannot be written.

    heard is called with each line that is written, for tests and metrics.
    """

    def __init__(self, path: Path, heard: Callable[[dict[str, Any]], None] = lambda line: None) -> None:
        self._heard = heard
        self._measures: OrderedDict[str, _Measure] = OrderedDict()
        self._strangers = TokenBucket(STRANGERS_PER_S, STRANGERS_BURST)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = _PrivateFiles(path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8")
        except OSError as error:
            raise StorageError(f"Cannot write the audit log {path} ({one_line(error)}): make it writable.") from error

    def say(self, event: str, nonce: str | None = None, **more: Any) -> None:
        """One line. Nothing that is said may be a token or a part of one."""
        now = time.monotonic()
        left_out = None
        if nonce is not None and event not in ALWAYS:
            measure = self._measure(nonce)
            if not measure.lines.take(1.0, now):
                measure.left_out += 1
                return
            left_out, measure.left_out = measure.left_out or None, 0
        self._write(event, nonce, left_out=left_out, **more)

    def _write(self, event: str, nonce: str | None, **more: Any) -> None:
        line: dict[str, Any] = {"time_ms": round(time.time() * 1000), "event": event}
        if nonce is not None:
            line["instance"] = _cut(nonce)
        line.update({name: _cut(value) for name, value in more.items() if value is not None})
        text = json.dumps(line, ensure_ascii=True)
        self._handler.emit(logging.LogRecord("audit", logging.INFO, "", 0, "%s", (text,), None))
        self._heard(line)

    def refuse(self, reason: str, nonce: str | None = None, source: str = "", **more: Any) -> None:
        """A refusal; source: who was refused where no machine is known, an address say."""
        measure, now = self._measure(nonce or source), time.monotonic()
        all_lines = self._strangers if nonce is None else measure.lines
        if not measure.refusals.take(1.0, now) or not all_lines.take(1.0, now):
            measure.left_out += 1
            return
        left_out, measure.left_out = measure.left_out or None, 0
        self._write("refused", nonce, reason=reason, source=source or None, left_out=left_out, **more)

    def _measure(self, whom: str) -> "_Measure":
        """The one that was not heard of for longest is forgotten, with what was left out of it."""
        measure = self._measures.get(whom)
        if measure is None:
            measure = self._measures[whom] = _Measure(
                TokenBucket(REFUSALS_PER_S, REFUSALS_BURST), TokenBucket(LINES_PER_S, LINES_BURST)
            )
            if len(self._measures) > _SOURCES:
                self._measures.popitem(last=False)
        self._measures.move_to_end(whom)
        return measure

    def close(self) -> None:
        self._handler.close()


@dataclass
class _Measure:
    """How much may be said of one machine or address, and how much was not."""

    refusals: TokenBucket
    lines: TokenBucket
    left_out: int = 0


class _PrivateFiles(logging.handlers.RotatingFileHandler):
    """Each file is for its owner only, also those that rotation begins."""

    def _open(self) -> TextIOWrapper:
        file = open(  # noqa: SIM115  # the handler closes it
            self.baseFilename, self.mode, encoding=self.encoding, opener=lambda path, how: os.open(path, how, 0o600)
        )
        os.chmod(self.baseFilename, 0o600)  # also one that an earlier version has made
        assert isinstance(file, TextIOWrapper)
        return file


def _cut(value: Any) -> Any:
    """Short, and of the grant in an object's path four characters: it is good as long as its lease is."""
    if not isinstance(value, str):
        return value
    head, found, rest = value.partition("objects")
    return (head + found + _GRANT.sub(r"\1…", rest))[:_CUT]
