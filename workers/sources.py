"""Media addresses to local files: a path, file://, http(s):// or s3://bucket/key.

What comes over a network is kept in a folder (`cache`) below a name made from its address, so that the
plan and the split on one machine fetch it once. A download goes on where it broke off when the server
can say that the file is still the same one.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from workers.errors import MediaError, SourceUnavailable, StorageError
from workers.settings import Settings

CONNECT_SECONDS = 10.0  # a server that takes longer to accept is down
READ_SECONDS = 15.0  # a server that is silent for longer hangs; with the plan's retries a minute goes by
BLOCK_BYTES = 1 << 20
KEPT_DAYS = 3  # downloads nobody used for so long are removed at the next one


@dataclass(frozen=True)
class Source:
    """A local file. identity: SHA-256 of its bytes; name: what people call it (its stem names the transcript)."""

    path: Path
    identity: str
    name: str


@dataclass(frozen=True)
class Answer:
    """A server's answer to a request for the bytes from some offset on.

    unchanged: what was asked about is still the same, there are no bytes. resumed: the bytes begin at the
    offset, not at the start. validator: the server's name for this version of the file, None where it gives none.
    """

    unchanged: bool
    resumed: bool
    validator: str | None
    blocks: Iterator[bytes]


Ask = Callable[[str | None, str | None, int], AbstractContextManager[Answer]]
"""(validator of a whole copy, validator of a part, offset of the part) to an answer."""


def open_source(
    media: str,
    settings: Settings,
    cache: Path,
    wanted: Callable[[], None] = lambda: None,
    identity: str | None = None,
) -> Source:
    """The media as a local file, downloaded first where it is not one.

    `wanted` is called between blocks and raises to stop. With `identity` a copy that was downloaded
    earlier and had that hash is taken without asking its server, and a local file is not hashed
    (`identity_of` checks what was promised).
    Raises MediaError where the media does not exist or is not ours to read, SourceUnavailable where its
    server does not answer, StorageError where the disk is full.
    """
    ask = _asking(media, settings)
    if ask is not None:
        return _downloaded(media, ask, cache, wanted, identity)
    path = _local_path(media)
    return Source(path, identity or identity_of(path, wanted), path.name)


def is_remote(media: str) -> bool:
    """Whether the media has to be downloaded.

    Raises MediaError where `media` is an address of no kind that this program knows.
    """
    return _scheme(media) not in ("", "file")


def check_remote(media: str, settings: Settings) -> None:
    """Ask the server of an address for the media, and download nothing.

    Raises what `open_source` would raise before the first byte.
    """
    ask = _asking(media, settings)
    if ask is not None:
        with ask(None, None, 0):
            return


def _asking(media: str, settings: Settings) -> Ask | None:
    """How to ask for the media; None where it is a file of this machine."""
    scheme = _scheme(media)
    if scheme in ("", "file"):
        return None
    return _s3(media, settings) if scheme == "s3" else _http(media)


def _scheme(media: str) -> str:
    if "://" not in media:
        return ""
    try:
        parts = urlsplit(media)
        scheme = parts.scheme.lower()
        whole = scheme == "file" or bool(parts.hostname)
    except ValueError as error:
        raise MediaError(f"'{media.partition('?')[0]}' is no address ({error}): check it.") from error
    if scheme not in ("file", "http", "https", "s3"):
        raise MediaError(
            f"'{_shown(media)}' is no address of media: give a path, file://, http(s):// or s3://BUCKET/KEY."
        )
    if not whole:
        raise MediaError(f"'{_shown(media)}' names no server: check the address.")
    return scheme


def identity_of(path: Path, wanted: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of the file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            wanted()
            digest.update(block)
    return digest.hexdigest()


def _local_path(media: str) -> Path:
    if media.lower().startswith("file://"):
        parts = urlsplit(media)
        if parts.netloc not in ("", "localhost"):
            raise MediaError(f"'{media}' names another machine: write file:///PATH for a file of this one.")
        path = Path(unquote(parts.path))
    else:
        path = Path(media).expanduser()
    path = path.absolute()
    try:
        if not path.exists():
            raise MediaError(f"'{path}' does not exist on this machine: check the path.")
        if path.is_dir():
            raise MediaError(f"'{path}' is a folder: name the media files in it.")
        if not path.is_file():
            raise MediaError(f"'{path}' is no file but a device or a pipe: save the recording to a file first.")
        if path.stat().st_size == 0:
            raise MediaError(f"'{path}' is empty: copy or record it again.")
        with path.open("rb"):
            pass
    except PermissionError as error:
        raise MediaError(f"'{path}' may not be read by this user: change its permissions.") from error
    except OSError as error:
        raise MediaError(f"'{path}' cannot be read: {error.strerror}.") from error
    return path


@dataclass(frozen=True)
class _Note:
    """What is known of a file in the cache."""

    validator: str | None
    sha256: str | None  # None while it is a part


def _downloaded(media: str, ask: Ask, cache: Path, wanted: Callable[[], None], identity: str | None) -> Source:
    name = Path(unquote(urlsplit(media).path)).name or urlsplit(media).hostname or "media"
    key = hashlib.sha256(media.encode()).hexdigest()[:32]
    whole, part = cache / key, cache / f"{key}.part"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f"{key}.lock", wanted):
            note = _read_note(whole)
            if note is None or note.sha256 is None or note.sha256 != identity:
                note = _refresh(_shown(media), ask, whole, part, note, wanted)
            os.utime(whole)
            _prune(cache, keep=key)
    except OSError as error:
        raise StorageError(f"The download of '{_shown(media)}' cannot be kept in {cache}: {error.strerror}.") from error
    if whole.stat().st_size == 0:
        raise MediaError(f"'{_shown(media)}' is empty: check the address.")
    return Source(whole, note.sha256 or "", name)


def _refresh(shown: str, ask: Ask, whole: Path, part: Path, note: _Note | None, wanted: Callable[[], None]) -> _Note:
    """Bring `whole` up to date, going on with `part` where there is one; returns what it now is."""
    begun = _read_note(part)
    offset = part.stat().st_size if begun and begun.validator else 0
    with ask(note.validator if note else None, begun.validator if begun and offset else None, offset) as answer:
        if answer.unchanged and note is not None:
            return note
        _write_note(part, _Note(answer.validator, None))
        with part.open("ab" if answer.resumed else "wb") as file:
            for block in answer.blocks:
                wanted()
                file.write(block)
        done = _Note(answer.validator, identity_of(part, wanted))
    _note_path(whole).unlink(missing_ok=True)  # never a note beside a file that it does not describe
    os.replace(part, whole)
    _write_note(whole, done)
    _note_path(part).unlink(missing_ok=True)
    return done


@contextlib.contextmanager
def _locked(path: Path, wanted: Callable[[], None]) -> Generator[None]:
    """Hold the lock file `path`; while another process has it, ask now and then whether the work is still wanted."""
    import filelock

    lock = filelock.FileLock(path)
    while True:
        wanted()
        try:
            lock.acquire(timeout=1.0)
            break
        except filelock.Timeout:
            continue
    try:
        yield
    finally:
        lock.release()


def _http(url: str) -> Ask:
    import httpx

    shown = _shown(url)

    @contextlib.contextmanager
    def ask(have: str | None, begun: str | None, offset: int) -> Generator[Answer]:
        headers = {"Accept-Encoding": "identity"}
        if have and not begun:
            headers |= {"If-None-Match": have} if have.startswith(('"', "W/")) else {"If-Modified-Since": have}
        if begun:
            headers |= {"Range": f"bytes={offset}-", "If-Range": begun}
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        try:
            with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
                _check_status(shown, response.status_code)
                # weak tags may not be used for ranges, so they do not count as a name of these very bytes
                tag = response.headers.get("etag")
                strong = tag if tag and not tag.startswith("W/") else None
                yield Answer(
                    unchanged=response.status_code == 304,
                    resumed=response.status_code == 206,
                    validator=strong or response.headers.get("last-modified"),
                    blocks=response.iter_raw(),
                )
        except httpx.TimeoutException as error:
            raise SourceUnavailable(
                f"The server of '{shown}' does not answer: try again later or download the file yourself."
            ) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise MediaError(f"'{shown}' is no address that can be asked ({error}): check it.") from error
        except httpx.TransportError as error:
            raise SourceUnavailable(
                f"The server of '{shown}' cannot be reached or broke off ({error}): check the address and the network, "
                "then try again."
            ) from error
        except httpx.HTTPError as error:
            raise MediaError(f"'{shown}' cannot be downloaded: {error}.") from error

    return ask


def _check_status(shown: str, status: int) -> None:
    if status in (200, 206, 304):
        return
    if status in (408, 425, 429) or status >= 500:
        raise SourceUnavailable(f"The server of '{shown}' answers {status}: try again later.")
    if status == 416:  # the part here is longer than the file there
        raise SourceUnavailable(f"The file at '{shown}' changed during its download: try again.")
    if status in (404, 410):
        raise MediaError(f"'{shown}' does not exist (the server answers {status}): check the address.")
    if status in (401, 403):
        raise MediaError(f"'{shown}' may not be read (the server answers {status}): give an address with access.")
    raise MediaError(f"'{shown}' cannot be downloaded: the server answers {status}.")


def _s3(address: str, settings: Settings) -> Ask:
    parts = urlsplit(address)
    bucket, key = parts.netloc, parts.path.lstrip("/")
    if not bucket or not key:
        raise MediaError(f"'{address}' names no object: write s3://BUCKET/KEY.")

    @contextlib.contextmanager
    def ask(have: str | None, begun: str | None, offset: int) -> Generator[Answer]:
        import boto3
        from botocore import exceptions
        from botocore.config import Config

        config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries={"total_max_attempts": 2})
        conditions = {"IfMatch": begun, "Range": f"bytes={offset}-"} if begun else {}
        if have and not begun:
            conditions = {"IfNoneMatch": have}
        try:
            client = boto3.session.Session().client("s3", endpoint_url=settings.s3_endpoint, config=config)
            response = client.get_object(Bucket=bucket, Key=key, **conditions)
            with contextlib.closing(response["Body"]) as body:
                yield Answer(
                    unchanged=False,
                    resumed=bool(begun),
                    validator=response["ETag"],
                    blocks=body.iter_chunks(BLOCK_BYTES // 16),
                )
        except exceptions.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 304:
                yield Answer(unchanged=True, resumed=False, validator=have, blocks=iter(()))
                return
            raise _s3_refusal(address, error.response) from error
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
            raise MediaError(
                f"'{address}' may not be read: there are no S3 credentials on this machine; set AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY or write ~/.aws/credentials."
            ) from error
        except (exceptions.ParamValidationError, exceptions.ProfileNotFound) as error:
            raise MediaError(f"'{address}' cannot be asked for: {' '.join(str(error).split())}.") from error
        except (exceptions.BotoCoreError, exceptions.HTTPClientError) as error:
            raise SourceUnavailable(
                f"The S3 service of '{address}' does not answer ({error}): check WHISPERFLEET_S3_ENDPOINT "
                "and the network, then try again."
            ) from error

    return ask


def _s3_refusal(address: str, response: dict[str, dict[str, object]]) -> MediaError | SourceUnavailable:
    status = int(str(response["ResponseMetadata"]["HTTPStatusCode"]))
    code = str(response["Error"].get("Code"))
    if status == 404:
        return MediaError(f"'{address}' does not exist ({code}): check bucket and key.")
    if status in (401, 403):
        return MediaError(f"'{address}' may not be read with these S3 credentials ({code}): give them the right to it.")
    if status in (412, 416):
        return SourceUnavailable(f"'{address}' changed during its download: try again.")
    if status >= 500 or status == 429:
        return SourceUnavailable(f"The S3 service of '{address}' answers {status} ({code}): try again later.")
    return MediaError(f"'{address}' cannot be read: the S3 service answers {status} ({code}).")


def _shown(media: str) -> str:
    """The address without user, password and query, which may be secrets."""
    parts = urlsplit(media)
    host = parts.hostname or ""
    with contextlib.suppress(ValueError):
        host += f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{parts.path}"


def _note_path(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _read_note(file: Path) -> _Note | None:
    """None where the file or its note is missing or unreadable: then it is downloaded anew."""
    try:
        if not file.exists():
            return None
        return _Note(**json.loads(_note_path(file).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write_note(file: Path, note: _Note) -> None:
    _note_path(file).write_text(json.dumps(asdict(note)))


def _prune(cache: Path, keep: str) -> None:
    """Remove what nobody used for KEPT_DAYS."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for path in cache.iterdir():
        # a lock file may be held however old it is, and is empty
        if not path.name.startswith(keep) and path.suffix != ".lock" and path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
