"""Storage as a rented machine has it: the few objects of the task it holds, through the gateway.

The address holds a grant, the name by which the gateway knows who asks for what. It is good for this one task, and as
it opens something it is shown in no error and no log.
"""

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx

from workers.errors import ObjectMissing, StorageError, StorageUnavailable
from workers.storage.local import arriving
from workers.storage.protocol import checked_doomed, checked_key, checked_prefix

ADDRESS = re.compile(r"(?i:https?)://[^/?#@\s]+(?:/[^?#\s]*)?/objects/([A-Za-z0-9_.~-]{16,512})/?")
"""A gateway's address of a task's objects."""

ATTEMPTS = 3
PAUSES_S = (0.5, 2.0)  # between them; a gateway's restart takes longer, and the task's own retry is for that
_CONNECT_S, _READ_S = 10.0, 60.0
_PIECE = 1 << 18
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_MOVED = frozenset({302, 307})

T = TypeVar("T")


class GatewayStorage:
    """What one task may touch; whatever else is asked for is refused with StorageError.

    Every call asks up to ATTEMPTS times, as each may be repeated: an object is written whole or not at all.
    """

    def __init__(self, address: str, client: httpx.Client | None = None, pause: Callable[[float], None] = time.sleep):
        self.address = address.rstrip("/")
        self._client = client or _shared_client()
        self._pause = pause
        grant = self.address.rpartition("/")[2]
        self._shown = f"{self.address[: -len(grant)]}{grant[:4]}…"

    def put_bytes(self, key: str, data: bytes) -> None:
        self._ask("PUT", checked_key(key), content=data)

    def put_file(self, key: str, path: Path) -> None:
        self._ask("PUT", checked_key(key), content=path.read_bytes())

    def get_bytes(self, key: str) -> bytes:
        return self._retried(lambda: self._read(checked_key(key)))

    def get_file(self, key: str, path: Path) -> None:
        self._retried(lambda: self._write_to(checked_key(key), path))

    def exists(self, key: str) -> bool:
        try:
            self._ask("HEAD", checked_key(key))
        except ObjectMissing:
            return False
        return True

    def keys(self, prefix: str) -> Iterator[str]:
        answer = self._ask("GET", "", params={"prefix": checked_prefix(prefix)})
        try:
            found = answer.json()["keys"]
            return iter(sorted(checked_key(key) for key in found))
        except (ValueError, KeyError, TypeError) as error:
            raise StorageUnavailable(f"{self._shown} answered with something that is no list of objects.") from error

    def delete(self, prefix: str) -> int:
        doomed = list(self.keys(checked_doomed(prefix)))
        self.discard(doomed)
        return len(doomed)

    def discard(self, keys: Iterable[str]) -> None:
        for key in [checked_key(key) for key in keys]:
            self._ask("DELETE", key)

    def url(self, key: str) -> str:
        return f"{self._shown}/{checked_key(key)}"

    def check_writable(self, needed_bytes: int = 0) -> None:
        raise StorageError(
            f"{self._shown} holds the objects of one task, and no jobs of its own: name a folder or s3://BUCKET/PREFIX."
        )

    # ---- requests ----

    def _ask(
        self, method: str, key: str, params: dict[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        def ask() -> httpx.Response:
            with self._translated(key):
                answer = self._client.request(method, self._url(key), params=params, content=content)
                self._check(answer, key)
                return answer

        return self._retried(ask)

    def _read(self, key: str) -> bytes:
        with self._translated(key), self._stream(key) as answer:
            return answer.read()

    def _write_to(self, key: str, path: Path) -> None:
        with self._translated(key), self._stream(key) as answer, arriving(path) as file:
            for piece in answer.iter_bytes(_PIECE):
                file.write(piece)

    @contextmanager
    def _stream(self, key: str) -> Iterator[httpx.Response]:
        """The object's body, from the gateway or, followed once and with nothing of ours, from where it sends us."""
        with self._client.stream("GET", self._url(key)) as answer:
            if answer.status_code not in _MOVED:
                if not answer.is_success:
                    answer.read()
                self._check(answer, key)
                yield answer
                return
            target = answer.headers.get("location", "")
        if urlsplit(target).scheme not in ("http", "https"):
            raise StorageUnavailable(f"{self._shown} sends elsewhere for '{key}', but not where.")
        with self._client.stream("GET", target) as answer:
            if answer.status_code == 404:
                raise ObjectMissing(f"'{key}' is not at {self._shown}.")
            if not answer.is_success:  # an address that expired on the way here is given anew
                raise StorageUnavailable(f"The store answered with {answer.status_code} for '{key}'.")
            yield answer

    def _url(self, key: str) -> str:
        return f"{self.address}/{key}" if key else self.address

    def _check(self, answer: httpx.Response, key: str) -> None:
        status = answer.status_code
        if answer.is_success:
            return
        said = _sentence(answer)
        if status == 404:
            raise ObjectMissing(f"'{key}' is not at {self._shown}.")
        if status in (401, 403):
            raise StorageError(f"{self._shown} refuses '{key}': {said or 'the task is in other hands by now'}")
        if status in _AGAIN:
            raise StorageUnavailable(f"{self._shown} could not answer now ({status}).")
        raise StorageError(f"{self._shown} does not take '{key}' ({status}): {said or 'it does not say why'}")

    def _retried(self, call: Callable[[], T]) -> T:
        for pause in PAUSES_S[: ATTEMPTS - 1]:
            try:
                return call()
            except StorageUnavailable:
                self._pause(pause)
        return call()

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """httpx's errors without the address, which has the grant in it."""
        try:
            yield
        except httpx.HTTPError as error:
            raise StorageUnavailable(
                f"{self._shown} did not answer, or not whole, for '{key}' ({type(error).__name__})."
            ) from None


def _sentence(answer: httpx.Response) -> str:
    """What the gateway says of its refusal."""
    try:
        said = answer.json().get("error", "")
    except (ValueError, AttributeError):
        return ""
    return " ".join(str(said).split())[:300]


@cache
def _shared_client() -> httpx.Client:
    """One for the process: each task has an address of its own, and all are on one connection."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells each address
    logging.getLogger("httpcore").setLevel(logging.WARNING)
    return httpx.Client(timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S), follow_redirects=False)
