"""Where transcripts land: one folder, `STEM.EXT`, checked before the work and written whole."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from workers.errors import OptionError, StorageError
from workers.messages import JobKeys
from workers.storage import Storage

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


def deliver(storage: Storage, job: str, formats: tuple[str, ...], folder: Path, stem: str) -> Mapping[str, str]:
    """Copy a job's transcript files out of storage; returns format to path.

    Each file appears whole or not at all: storage writes to a temporary name and renames.
    """
    written = {}
    for extension in formats:
        path = folder / f"{stem}.{extension}"
        storage.get_file(JobKeys(job).transcript(extension), path)
        written[extension] = str(path)
    return written
