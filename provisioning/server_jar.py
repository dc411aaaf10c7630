"""The Conductor server's program: one jar, pinned by version and hash, found, brought by hand or downloaded once."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from provisioning.locks import FileLock
from workers.errors import ServerError
from workers.settings import Settings

VERSION = "3.32.1"
SHA256 = "f3699a34bb72c35c10469a063392e5de4900bc4568c8a4357a711186d6269d3f"
SIZE = 457_974_967
"""Bytes of the jar."""

Report = Callable[[str], None]

_BLOCK = 1 << 20
_ATTEMPTS = 6
"""Connections tried in a row without a single new byte before the download is given up."""
_BRING = "bring conductor-server-3.32.1-boot.jar by hand and name it by WHISPERFLEET_SERVER_JAR"


@dataclass(frozen=True)
class Artifact:
    """A file on the net: where, its SHA-256 and its size in bytes."""

    url: str
    sha256: str
    size: int


class WrongHash(Exception):
    """The file came whole and is not the one that was asked for."""


class Unreachable(Exception):
    """The file did not come; the text says why."""


def obtain(settings: Settings, report: Report) -> Path:
    """The jar on this machine, its hash checked: brought by hand, kept earlier, the local Maven repository's, or new.

    Raises ServerError when it is not to be had, saying how to bring it.
    """
    if settings.server_jar:
        return _brought(settings.server_jar)
    kept = settings.home / "server" / f"conductor-server-{VERSION}.jar"
    if _known_good(kept):
        return kept
    with FileLock(kept.with_suffix(".lock")):
        if _known_good(kept):  # another command downloaded it while this one waited
            return kept
        url, local = _coordinates()
        if local.is_file() and _known_good(local, marks=kept.parent):
            return local
        _download(Artifact(url, SHA256, SIZE), kept, report)
        _mark(kept, kept.parent)
    return kept


def download(artifact: Artifact, target: Path, progress: Callable[[int, int], None], *, pause: float = 1.0) -> None:
    """Bring `artifact` to `target`: what is there of an earlier try is kept and gone on with.

    progress gets bytes done and bytes in all, at most three times a second. pause: seconds before the second
    try, doubled for each further one. Raises WrongHash or Unreachable; OSError when the disk refuses.
    """
    part = target.with_name(target.name + ".part")
    failures, reason = 0, ""
    while (have := part.stat().st_size if part.exists() else 0) != artifact.size:
        if have > artifact.size:
            part.unlink()
            continue
        if failures >= _ATTEMPTS:
            raise Unreachable(reason)
        if failures:
            time.sleep(pause * 2 ** (failures - 1))
        try:
            _fetch_rest(artifact, part, have, progress)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        grown = part.exists() and part.stat().st_size > have
        failures = 1 if grown else failures + 1
    if sha256(part) != artifact.sha256:
        part.unlink()
        raise WrongHash
    part.replace(target)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch_rest(artifact: Artifact, part: Path, have: int, progress: Callable[[int, int], None]) -> None:
    """One connection: append what is missing, or start over if the server does not know ranges."""
    # the first byte of a big file may take a repository's cache half a minute to find
    timeout = httpx.Timeout(30, read=90)
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with httpx.stream("GET", artifact.url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        done, told = (have, 0.0) if resumed else (0, 0.0)
        with part.open("ab" if resumed else "wb") as sink:
            for block in response.iter_bytes(_BLOCK):
                sink.write(block)
                done += len(block)
                if time.monotonic() - told > 0.3:
                    told = time.monotonic()
                    progress(done, artifact.size)
    progress(done, artifact.size)


def _download(artifact: Artifact, target: Path, report: Report) -> None:
    """Download with progress, and once more if what came is damaged; every failure is a sentence."""
    _check_space(target.parent, artifact.size)

    def progress(done: int, total: int) -> None:
        report(f"Downloading the Conductor server: {done // 10**6} of {total // 10**6} MB")

    try:
        try:
            download(artifact, target, progress)
        except WrongHash:
            report("The Conductor server arrived damaged: downloading it again")
            download(artifact, target, progress)
    except WrongHash:
        raise ServerError(
            f"The Conductor server downloaded from {artifact.url} is not the expected file "
            f"(its SHA-256 differs): {_BRING}."
        ) from None
    except Unreachable as error:
        raise ServerError(
            f"The Conductor server could not be downloaded from {artifact.url} ({error}): {_BRING}."
        ) from None
    except OSError as error:
        raise ServerError(
            f"The Conductor server could not be stored in {target.parent} ({error.strerror}): make room there, "
            "or name another folder by WHISPERFLEET_HOME."
        ) from None


def _check_space(folder: Path, size: int) -> None:
    part = folder / f"conductor-server-{VERSION}.jar.part"
    missing = size - (part.stat().st_size if part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise ServerError(
            f"The Conductor server needs {missing // 10**6} MB in {folder}, where {free // 10**6} MB are free: "
            "make room there, or name another folder by WHISPERFLEET_HOME."
        )


def _brought(jar: Path) -> Path:
    if not jar.is_file() or not os.access(jar, os.R_OK):
        raise ServerError(f"WHISPERFLEET_SERVER_JAR is '{jar}', which is no readable file: name the server's jar.")
    if sha256(jar) != SHA256:
        raise ServerError(
            f"WHISPERFLEET_SERVER_JAR is '{jar}', which is not Conductor server {VERSION}: its SHA-256 is not {SHA256}."
        )
    return jar


def _coordinates() -> tuple[str, Path]:
    """Address in the Maven repository, and the place in this user's local repository."""
    from jgo.maven import MavenContext  # here: only a first start needs it

    artifact = (
        MavenContext()
        .project("org.conductoross", "conductor-server")
        .at_version(VERSION)
        .artifact(classifier="boot", packaging="jar")
    )
    repository = str(next(iter(artifact.context.remote_repos.values()))).rstrip("/")
    path = f"{artifact.component.path_prefix}/{artifact.filename}"
    return f"{repository}/{path}", Path(artifact.context.repo_cache) / path


def _known_good(jar: Path, marks: Path | None = None) -> bool:
    """Is this the pinned jar? Hashed once; afterwards its size and time vouch for it."""
    if not jar.is_file():
        return False
    mark = (marks or jar.parent) / "jar.checked"
    if mark.exists() and mark.read_text("utf-8") == _identity(jar):
        return True
    if sha256(jar) != SHA256:
        return False
    _mark(jar, mark.parent)
    return True


def _mark(jar: Path, folder: Path) -> None:
    (folder / "jar.checked").write_text(_identity(jar), "utf-8")


def _identity(jar: Path) -> str:
    status = jar.stat()
    return f"{jar} {status.st_size} {status.st_mtime_ns} {SHA256}"
