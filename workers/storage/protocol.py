"""What every storage does, and how its objects may be called."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from workers.errors import StorageError


class Storage(Protocol):
    """Objects by key. Keys are parts of letters, digits, '.', '_' and '-', joined by '/', none beginning with '.';
    no key may be another one's folder ("a" beside "a/b"), which a file system cannot hold.

    Writing is atomic: readers see the old object or the new one, never a part, and of two writers of one
    key both succeed and the last one stays. Safe to share between threads.

    Every method raises StorageError where storage refuses (rights, address, space, a bad key) and
    StorageUnavailable where it did not answer; reading an absent object raises ObjectMissing.
    """

    address: str
    """What `open_storage` takes to open the same storage again, in another process."""

    def put_bytes(self, key: str, data: bytes) -> None: ...

    def put_file(self, key: str, path: Path) -> None: ...

    def get_bytes(self, key: str) -> bytes: ...

    def get_file(self, key: str, path: Path) -> None:
        """Write the object to `path`, whole or not at all."""
        ...

    def exists(self, key: str) -> bool: ...

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin with `prefix`, sorted; "a/b" begins "a/bc" too, "a/b/" does not."""
        ...

    def delete(self, prefix: str) -> int:
        """Delete the objects whose keys begin with `prefix`, which must not be empty; returns how many went.

        A prefix that ends with "/" takes what interrupted writers left below it along.
        """
        ...

    def discard(self, keys: Iterable[str]) -> None:
        """Delete these objects; those that are not there are no error."""
        ...

    def url(self, key: str) -> str:
        """The object's address for people and other programs: file:///… or s3://bucket/…"""
        ...

    def check_writable(self, needed_bytes: int = 0) -> None:
        """Write and remove a probe, so that what is missing is known before the work and not after it.

        Where the place can tell how much room is left, that must be `needed_bytes`.
        """
        ...


_PART = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"  # shorter than any file system's limit, with room for a temp suffix
_KEY = re.compile(rf"{_PART}(/{_PART})*")
_BEGINNING = re.compile(rf"({_PART}/)*({_PART})?")


def checked_key(key: str) -> str:
    """`key`, if it is one.

    Raises StorageError: keys are built from fields of messages, so a bad one is not always our mistake.
    """
    if not _KEY.fullmatch(key):
        raise StorageError(f"'{key}' cannot be the name of an object in storage: the job's id is damaged or made up.")
    return key


def checked_prefix(prefix: str) -> str:
    """`prefix`, if keys can begin with it."""
    if not _BEGINNING.fullmatch(prefix):
        raise StorageError(f"'{prefix}' cannot begin the name of an object in storage: the job's id is wrong.")
    return prefix


def checked_doomed(prefix: str) -> str:
    """`prefix`, if deleting by it is no accident.

    Raises ValueError where it is empty, which would delete everybody's jobs.
    """
    if not prefix:
        raise ValueError("an empty prefix would delete everything in storage")
    return checked_prefix(prefix)
