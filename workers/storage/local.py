"""Storage in a folder of this machine, or of a network file system that all workers mount."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workers.errors import ObjectMissing, StorageError, StorageUnavailable, WhisperfleetError
from workers.storage.protocol import checked_doomed, checked_key, checked_prefix

_PART_SUFFIX = ".part"
_PROBE_BYTES = 1 << 20  # about what the results of an hour take; a full disk has less
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN, errno.ENODEV, errno.ENOTCONN}


class LocalStorage:
    """A folder as storage: one file an object, its path the key.

    Atomic by a temporary name and a rename. No checksums beside the files: two files cannot change in
    one step, so two writers of one key could leave an object that never verifies; disks check
    themselves, and a chunk's record holds the SHA-256 of its audio.
    """

    def __init__(self, folder: Path, own: bool) -> None:
        """`own`: the folder is this program's and is made with its parents; others are made in a parent that is there.

        Raises StorageError where neither it nor, if not own, its parent is on this machine.
        """
        self.address = str(folder)
        self._folder = folder
        self._own = own
        if not own and not folder.parent.is_dir():
            raise self._not_here()

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._replacing(key) as file:
            file.write(data)

    def put_file(self, key: str, path: Path) -> None:
        with path.open("rb") as source, self._replacing(key) as file:
            shutil.copyfileobj(source, file, 1 << 20)

    def get_bytes(self, key: str) -> bytes:
        path = self._readable(key)
        with self._translated(key, reading=True):
            return path.read_bytes()

    def get_file(self, key: str, path: Path) -> None:
        source = self._readable(key)
        with self._translated(key, reading=True), source.open("rb") as file, arriving(path) as target:
            shutil.copyfileobj(file, target, 1 << 20)

    def exists(self, key: str) -> bool:
        path = self._path(key)
        with self._translated(key):
            return path.is_file()

    def keys(self, prefix: str) -> Iterator[str]:
        checked_prefix(prefix)
        with self._translated(prefix):
            return iter(sorted(key for key, _ in self._files(prefix) if key.startswith(prefix)))

    def delete(self, prefix: str) -> int:
        checked_doomed(prefix)
        gone = 0
        with self._translated(prefix):
            for key, path in list(self._files(prefix, temporaries=prefix.endswith("/"))):
                if not key.startswith(prefix):
                    continue
                with _absent_is_fine():
                    path.unlink()
                    gone += not _is_temporary(path.name)
            self._prune(prefix)
        return gone

    def discard(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        for path in paths:
            with self._translated(path.name), _absent_is_fine():
                path.unlink()
        for folder in {path.parent for path in paths}:
            with self._translated(folder.name):
                self._prune(folder.relative_to(self._folder).as_posix() + "/")

    def url(self, key: str) -> str:
        return self._path(key).as_uri()

    def check_writable(self, needed_bytes: int = 0) -> None:
        with self._translated("a new file"):
            self._make_root()
            free = shutil.disk_usage(self._folder).free
            if free < needed_bytes:
                raise StorageError(
                    f"The storage folder {self._folder} has {free >> 20} MB left and this job takes about "
                    f"{needed_bytes >> 20} MB: free some, or choose another by WHISPERFLEET_STORAGE."
                )
            probe = self._folder / f".probe-{uuid.uuid4().hex}{_PART_SUFFIX}"
            try:
                with probe.open("xb") as file:
                    file.write(bytes(_PROBE_BYTES))
                    _to_disk(file)
            finally:
                probe.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder.joinpath(*checked_key(key).split("/"))

    def _readable(self, key: str) -> Path:
        """Raises StorageError where the whole folder is absent: waiting for the object would wait for ever."""
        path = self._path(key)
        if not self._own and not self._folder.is_dir():
            raise self._not_here()
        return path

    def _make_root(self) -> None:
        if self._own:
            self._folder.mkdir(parents=True, exist_ok=True)
        elif self._folder.parent.is_dir():
            self._folder.mkdir(exist_ok=True)
        else:
            raise self._not_here()

    @contextmanager
    def _replacing(self, key: str) -> Iterator[IO[bytes]]:
        """A file that becomes the object when the block ends well, and leaves no trace when it does not."""
        path = self._path(key)
        with self._translated(key):
            self._make_root()
            file = self._open_temporary(path)
            temporary = Path(file.name)
            try:
                with file:
                    yield file
                    _to_disk(file)
                try:
                    os.replace(temporary, path)
                except FileNotFoundError as error:
                    raise StorageUnavailable(f"'{key}' was deleted while it was being written.") from error
                with _absent_is_fine():
                    _sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def _open_temporary(self, path: Path) -> IO[bytes]:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PART_SUFFIX}")
        for _ in range(100):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                return temporary.open("xb")
            except FileNotFoundError:
                continue  # somebody's delete pruned a folder that the line above made or saw
        raise StorageUnavailable(f"'{path.parent}' is being deleted again and again while it is written to.")

    def _files(self, prefix: str, temporaries: bool = False) -> Iterator[tuple[str, Path]]:
        """Keys and files below the deepest folder that `prefix` names."""
        top = self._folder.joinpath(*prefix.split("/")[:-1])
        for folder, _, names in os.walk(top):
            for name in names:
                if temporaries or not name.startswith("."):
                    path = Path(folder, name)
                    yield path.relative_to(self._folder).as_posix(), path

    def _prune(self, prefix: str) -> None:
        """Remove the folders that the deletion emptied, up to but without the storage folder itself."""
        top = self._folder.joinpath(*prefix.split("/")[:-1])
        emptied = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
        parents = [parent for parent in top.parents if parent.is_relative_to(self._folder)]
        for folder in [*emptied, *parents]:
            if folder != self._folder:
                with _absent_is_fine():
                    try:
                        folder.rmdir()
                    except OSError as error:
                        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                            raise

    @contextmanager
    def _translated(self, what: str, reading: bool = False) -> Iterator[None]:
        """Turn the system's errors into ours, naming the folder."""
        try:
            yield
        except OSError as error:
            # A folder on the way, or at the end of it, is no object either.
            if reading and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
                raise ObjectMissing(f"'{what}' is not in the storage folder {self._folder}.") from error
            raise self._refusal(what, error) from error

    def _refusal(self, what: str, error: OSError) -> WhisperfleetError:
        where = f"the storage folder {self._folder}"
        if error.errno in _FULL:
            return StorageError(f"No space is left in {where}: free some, or choose another by WHISPERFLEET_STORAGE.")
        if error.errno == errno.EROFS:
            return StorageError(
                f"Cannot write to {where}, which is on a read-only file system: choose another by WHISPERFLEET_STORAGE."
            )
        if isinstance(error, PermissionError):
            return StorageError(f"No permission for '{what}' in {where}: change its rights, or choose another folder.")
        if error.errno in _PASSING:
            return StorageUnavailable(f"Could not reach '{what}' in {where}: {error.strerror}.")
        return StorageError(f"Cannot use {where} ({error.strerror or error}): choose another by WHISPERFLEET_STORAGE.")

    def _not_here(self) -> StorageError:
        return StorageError(
            f"The storage folder {self._folder} is not on this machine: create or mount it here, "
            "or use a storage that all workers reach, such as s3://BUCKET/PREFIX."
        )


@contextmanager
def arriving(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path` that becomes `path` when the block ends well, and is gone when it does not.

    Raises StorageError where `path` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PART_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        why = "no space is left" if error.errno in _FULL else error.strerror
        raise StorageError(f"Cannot write {path}: {why}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _to_disk(file: IO[bytes]) -> None:
    """Without it, a power cut after the rename can leave an empty file under the final name."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last; only POSIX opens folders."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_temporary(name: str) -> bool:
    return name.startswith(".")


@contextmanager
def _absent_is_fine() -> Iterator[None]:
    """Somebody else deleting the same thing is no error of ours."""
    try:
        yield
    except FileNotFoundError:
        return
