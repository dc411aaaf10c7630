"""Where a job's objects are: a local folder, S3, or a gateway to either, behind one protocol."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workers.errors import OptionError
from workers.settings import Settings
from workers.storage.local import LocalStorage
from workers.storage.protocol import Storage

__all__ = ["LocalStorage", "Storage", "open_storage"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?=//)")  # two letters or more: C:\ is a folder
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")  # S3's rule for old buckets, the widest there is
_PREFIX = re.compile(r"[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*")


def open_storage(address: str, settings: Settings) -> Storage:
    """The storage at `address`: a folder, file:///folder, s3://bucket[/prefix], or what a gateway gave for a task.

    Opening touches nothing: `check_writable` tells whether it can be used. A folder below
    `settings.home` is this program's own and is made when first needed; any other folder is made only
    in a parent that is there, so that a worker on another machine, or one whose share is not
    mounted, says so instead of starting an empty world of its own.

    Raises OptionError where the address is none of these, StorageError where the folder is not on this machine.
    """
    scheme = _SCHEME.match(address)
    if scheme is None:
        return _local(address, address, settings)
    match scheme.group(1).lower():
        case "file":
            return _local(_path_of_url(address), address, settings)
        case "s3":
            return _s3(address, settings)
        case "http" | "https":
            return _gateway(address)
        case _:
            raise _unusable(address)


def _local(folder: str, address: str, settings: Settings) -> LocalStorage:
    if not folder.strip() or "\0" in folder:
        raise _unusable(address)
    path = Path(folder).expanduser().absolute()
    return LocalStorage(path, own=path.is_relative_to(settings.home))


def _path_of_url(address: str) -> str:
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise OptionError(f"The storage '{address}' names another machine: write file:///FOLDER.")
    return unquote(parts.path)


def _s3(address: str, settings: Settings) -> Storage:
    bucket, _, prefix = address[len("s3://") :].partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket) or (prefix and not _PREFIX.fullmatch(prefix)):
        raise _unusable(address)
    from workers.storage.s3 import S3Storage  # here, because boto3 takes a third of a second to import

    return S3Storage(bucket, prefix, settings.s3_endpoint)


def _gateway(address: str) -> Storage:
    from workers.storage.gateway import (
        ADDRESS,
        GatewayStorage,
    )  # here, because httpx takes a tenth of a second to import

    if not ADDRESS.fullmatch(address):
        raise _unusable(address)
    return GatewayStorage(address)


def _unusable(address: str) -> OptionError:
    return OptionError(f"'{address}' is no storage: write a folder, file:///FOLDER or s3://BUCKET/PREFIX.")
