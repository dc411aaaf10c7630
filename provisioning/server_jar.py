"""The Conductor server's program: one jar, pinned by version and hash, brought by hand, found or downloaded, unpacked.

It is kept unpacked in the user's cache folder, once for all data folders: started from a jar of jars the server
needs a third more processor time (28 s instead of 20 s), most of it for opening jars inside the jar.
"""

import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import platformdirs

from provisioning.locks import FileLock
from workers.errors import ServerError
from workers.settings import Settings

VERSION = "3.32.1"
SHA256 = "f3699a34bb72c35c10469a063392e5de4900bc4568c8a4357a711186d6269d3f"
SIZE = 457_974_967
"""Bytes of the jar."""

Report = Callable[[str], None]

_BLOCK = 1 << 20
_ATTEMPTS = 4
"""Connections tried in a row without a single new byte before the download is given up."""
_BRING = "bring conductor-server-3.32.1-boot.jar by hand and name it by WHISPERFLEET_SERVER_JAR"
_ROOM = "make it writable and make room there, or name another cache folder by XDG_CACHE_HOME"
_CONTENT = "BOOT-INF/"
_BUILD_INFO = "META-INF/build-info.properties"
_MARK = "unpacked.sha256"


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
    """The folder of the unpacked server, made from a jar whose hash was checked.

    The jar is the one that was brought by hand, else the local Maven repository's, else it is downloaded.
    Raises ServerError when it is not to be had, saying how to bring it.
    """
    if settings.server_jar:
        if _whole(settings.server_jar):  # a folder that was unpacked by this function
            return settings.server_jar
        _check_brought(settings.server_jar)
    program = _cache() / f"conductor-server-{VERSION}"
    if _whole(program):
        return program
    with _refusals(program.parent):
        program.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(program.with_name(f"{program.name}.lock"))
    if not lock.acquire(timeout=0):
        report("Waiting for another command that fetches the Conductor server")
        lock.acquire()
    try:
        if not _whole(program):
            _install(settings.server_jar, program, report)
    finally:
        lock.release()
    return program


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
            for block in response.iter_raw():
                sink.write(block)
                done += len(block)
                if time.monotonic() - told > 0.3:
                    told = time.monotonic()
                    progress(done, artifact.size)
    progress(done, artifact.size)


def _install(brought: Path | None, program: Path, report: Report) -> None:
    """Find or fetch the jar and unpack it; a jar that was downloaded for this is deleted, its parts are enough."""
    url, local = _coordinates()
    fetched = program.parent / f"conductor-server-{VERSION}.jar"
    with _refusals(program.parent):
        if brought:
            jar = brought
        elif local.is_file() and sha256(local) == SHA256:
            jar = local
        else:
            jar = fetched
            _check_space(program.parent, 2 * SIZE, fetched)
            if not jar.exists() or sha256(jar) != SHA256:
                _download(Artifact(url, SHA256, SIZE), jar, report)
        _check_space(program.parent, SIZE)
        report("Unpacking the Conductor server")
        unpack(jar, program)
        fetched.unlink(missing_ok=True)


def _download(artifact: Artifact, target: Path, report: Report) -> None:
    """Download with progress, and once more if what came is damaged."""

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


def unpack(jar: Path, program: Path) -> None:
    """Unpack the classes and libraries of a Spring Boot jar to `program`, whole or not at all."""
    fresh = program.with_name(program.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)  # of an unpacking that was cut off
    with zipfile.ZipFile(jar) as archive:
        for member in archive.infolist():
            if member.filename.startswith(_CONTENT) and not member.is_dir():
                inside = fresh / member.filename.removeprefix(_CONTENT)
                inside.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, inside.open("wb") as sink:
                    shutil.copyfileobj(source, sink, _BLOCK)
        build = fresh / "classes" / _BUILD_INFO  # the server reads its version there and does not start without
        build.parent.mkdir(parents=True, exist_ok=True)
        build.write_bytes(archive.read(_BUILD_INFO))
    (fresh / _MARK).write_text(_inventory(fresh), "utf-8")
    shutil.rmtree(program, ignore_errors=True)
    fresh.rename(program)


def _whole(program: Path) -> bool:
    """Is everything there that was unpacked? By names and sizes: hashing half a gigabyte takes longer than a start."""
    mark = program / _MARK
    return mark.is_file() and mark.read_text("utf-8") == _inventory(program)


def _inventory(folder: Path) -> str:
    parts = sorted(
        f"{path.relative_to(folder)} {path.stat().st_size}"
        for path in folder.rglob("*")
        if path.is_file() and path.name != _MARK
    )
    return hashlib.sha256("\n".join([SHA256, *parts]).encode()).hexdigest()


def _check_space(folder: Path, size: int, begun: Path | None = None) -> None:
    """Raise ServerError unless `size` bytes fit, less what an earlier download left of `begun`."""
    part = begun.with_name(begun.name + ".part") if begun else None
    missing = size - (part.stat().st_size if part and part.exists() else 0)
    free = shutil.disk_usage(folder).free
    if free < missing:
        raise ServerError(
            f"The Conductor server needs {missing // 10**6} MB in {folder}, where {free // 10**6} MB are free: {_ROOM}."
        )


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """What the disk refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        raise ServerError(
            f"The Conductor server could not be stored in {folder} ({error.strerror or error}): {_ROOM}."
        ) from None


def _check_brought(jar: Path) -> None:
    if not jar.is_file() or not os.access(jar, os.R_OK):
        raise ServerError(f"WHISPERFLEET_SERVER_JAR is '{jar}', which is no readable file: name the server's jar.")
    if sha256(jar) != SHA256:
        raise ServerError(
            f"WHISPERFLEET_SERVER_JAR is '{jar}', which is not Conductor server {VERSION}: its SHA-256 is not {SHA256}."
        )


def _cache() -> Path:
    return platformdirs.user_cache_path("whisperfleet")


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
