"""The audit log: a JSON line for every refusal, grant, hand-out, result, strike and revocation; never a token.

A stranger that is refused a thousand times a second must not fill the disk: lines about refusals are limited by who
was refused, how many were left out is said in the next one, and the file is rotated.
"""

import json
import logging
import logging.handlers
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provisioning.gateway_limits import TokenBucket
from workers.errors import StorageError, one_line

FILE_BYTES, FILES = 16 * 1024 * 1024, 8
REFUSALS_PER_S, REFUSALS_BURST = 5.0, 100.0
_CUT = 300  # characters of anything a stranger has said
_SOURCES = 10_000  # of refusals that are told apart


class Audit:
    """Appends to `path`. Raises StorageError where that cannot be written.

    heard is called with each line that is written, for tests and metrics.
    """

    def __init__(self, path: Path, heard: Callable[[dict[str, Any]], None] = lambda line: None) -> None:
        self._heard = heard
        self._buckets: dict[str, TokenBucket] = {}
        self._left_out: dict[str, int] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handler = logging.handlers.RotatingFileHandler(
                path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8"
            )
            path.chmod(0o600)
        except OSError as error:
            raise StorageError(f"Cannot write the audit log {path} ({one_line(error)}): make it writable.") from error

    def say(self, event: str, nonce: str | None = None, **more: Any) -> None:
        """One line. Nothing that is said may be a token or a part of one."""
        line = {"time_ms": round(time.time() * 1000), "event": event}
        if nonce is not None:
            line["instance"] = _cut(nonce)
        line.update({name: _cut(value) for name, value in more.items() if value is not None})
        text = json.dumps(line, ensure_ascii=True)
        self._handler.emit(logging.LogRecord("audit", logging.INFO, "", 0, "%s", (text,), None))
        self._heard(line)

    def refuse(self, reason: str, nonce: str | None = None, source: str = "", **more: Any) -> None:
        """A refusal; source: who was refused where no machine is known, an address say."""
        whom = nonce or source
        if len(self._buckets) > _SOURCES:
            self._buckets.clear()
        bucket = self._buckets.setdefault(whom, TokenBucket(REFUSALS_PER_S, REFUSALS_BURST))
        if not bucket.take(1.0, time.monotonic()):
            self._left_out[whom] = self._left_out.get(whom, 0) + 1
            return
        self.say(
            "refused", nonce, reason=reason, source=source or None, left_out=self._left_out.pop(whom, None), **more
        )

    def close(self) -> None:
        self._handler.close()


def _cut(value: Any) -> Any:
    return value[:_CUT] if isinstance(value, str) else value
