"""Locks that the kernel takes back from a process that dies, even by `kill -9`: flock on files of the data folder.

A lock file is created and never deleted: deleting one would let two processes lock two files of one name.
"""

import os
import time
import weakref
from pathlib import Path
from types import TracebackType

from workers.errors import ServerError

try:
    import fcntl
except ImportError:  # Windows has no flock, and nothing else that a dying process gives back just as surely
    raise ServerError(
        "The embedded Conductor server runs on Linux and macOS: on Windows use WSL, or name a server by --server."
    ) from None


class FileLock:
    """One lock on `path`, shared or exclusive, held by this process from `acquire` to `release` or to its end."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._handle: int | None = None
        _open_locks.add(self)

    def acquire(self, timeout: float | None = None) -> bool:
        """Take the lock within `timeout` seconds (0: at once or never, None: wait for ever); False if not taken.

        True at once if this object holds it already.
        """
        if self._handle is not None:
            return True
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            taken = _lock(handle, self._mode, timeout)
        except BaseException:
            os.close(handle)
            raise
        if taken:
            self._handle = handle
        else:
            os.close(handle)
        return taken

    def release(self) -> None:
        """Give the lock back; nothing happens if it is not held."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def is_held(path: Path) -> bool:
    """Is somebody holding `path` exclusively? Asked by a shared lock, so that two who ask do not see each other."""
    if not path.exists():
        return False
    probe = FileLock(path, shared=True)
    free = probe.acquire(timeout=0)
    probe.release()
    return not free


def _lock(handle: int, mode: int, timeout: float | None) -> bool:
    if timeout is None:
        fcntl.flock(handle, mode)
        return True
    end = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.05)


def _forget_in_child() -> None:
    """A forked child shares the parent's lock; left open there, the lock would outlive the parent."""
    for lock in list(_open_locks):
        lock.release()


_open_locks: "weakref.WeakSet[FileLock]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_in_child)
