"""Where transcripts land: one folder, `STEM.EXT`, checked before the work and written whole."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pydantic import ValidationError

from workers.errors import OptionError, StorageError
from workers.messages import JobKeys
from workers.page import render_page
from workers.storage import Storage
from workers.storage.local import arriving
from workers.transcript import Transcript

NEEDED_BYTES = 64 * 2**20  # a 10-hour transcript with words is some 20 MB in all formats together


def check_folder(folder: Path) -> None:
    """Make the folder and see that it takes files.

    Raises StorageError before any work is done, not after: the transcript of a night must not be
    lost to a folder that cannot be written.
    """
    probe = folder / f".whisperfleet-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageError(
            f"The output folder {folder} cannot be written ({error.strerror}): choose another with --output-dir."
        ) from error
    if free < NEEDED_BYTES:
        raise StorageError(
            f"The disk of the output folder {folder} has {free // 2**20} MB left: free some, "
            "or choose another with --output-dir."
        )


def stems(names: list[str]) -> list[str]:
    """The stem of each media's output files.

    Raises OptionError where two media of one command would write the same files.
    """
    found: dict[str, str] = {}
    for name in names:
        stem = Path(name).stem or name
        if stem in found:
            raise OptionError(
                f"{found[stem]} and {name} would both be written to {stem}.*: "
                "transcribe them in two commands with different --output-dir."
            )
        found[stem] = name
    return list(found)


def deliver(
    storage: Storage, job: str, formats: tuple[str, ...], folder: Path, stem: str, media: str | None = None
) -> Mapping[str, str]:
    """Copy a job's transcript files out of storage; returns format to path.

    `media` is the recording's path or address: the page in HTML is made anew, since the one in storage
    cannot know where the recording lies, seen from `folder`. Each file appears whole or not at all:
    storage writes to a temporary name and renames.
    """
    written = {}
    for extension in formats:
        path = folder / f"{stem}.{extension}"
        if extension == "html":
            _write_page(storage, job, path, link_to(media, folder))
        else:
            storage.get_file(JobKeys(job).transcript(extension), path)
        written[extension] = str(path)
    return written


def link_to(media: str | None, folder: Path) -> str | None:
    """How a page in `folder` finds `media`: a relative path, or its web address; percent-encoded.

    None where it has no such place: a bucket, a path of another machine, and an address with a query or a
    password, which may be a secret and must not travel with the page.
    """
    parts = urlsplit(media) if media and "://" in media else None
    if parts is not None and parts.scheme in ("http", "https"):
        secret = parts.query or "@" in parts.netloc
        # what is encoded already stays so
        return None if secret else parts._replace(path=quote(parts.path, safe="/%:=+,;@~!$&'()*"), fragment="").geturl()
    path = Path(unquote(parts.path) if parts is not None and parts.scheme == "file" else media or "")
    if not media or (parts is not None and parts.scheme != "file") or not path.is_file():
        return None
    try:
        return quote(Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix())
    except ValueError:  # on another drive, to which no relative path leads
        return None


def _write_page(storage: Storage, job: str, path: Path, link: str | None) -> None:
    record = storage.get_bytes(JobKeys(job).transcript("json"))
    try:
        transcript = Transcript.model_validate_json(record)
    except ValidationError:  # a worker of another version wrote it: its own page lacks nothing but the link
        storage.get_file(JobKeys(job).transcript("html"), path)
        return
    page = render_page(transcript, link)
    with arriving(path) as file:
        file.write(page.encode())
