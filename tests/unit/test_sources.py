"""Addresses to files, against a real HTTP server that misbehaves as it is told."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import workers.sources
from workers.errors import MediaError, SourceUnavailable
from workers.settings import Settings
from workers.sources import open_source

CONTENT = bytes(range(256)) * 4_000


@dataclass
class Site:
    """What the server does: answers `status`, gives `content` up to `break_off` bytes, hangs if told."""

    content: bytes = CONTENT
    tag: str | None = '"one"'
    status: int = 200
    break_off: int | None = None
    hang: bool = False
    requests: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    address: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.requests.append(dict(self.headers))
            if site.hang:
                site.released.wait(30)
                return
            if site.tag and self.headers["If-None-Match"] == site.tag:
                self.send_response(304)
                self.end_headers()
                return
            body, status = site.content, site.status
            begins = self.headers["Range"]
            if begins and self.headers["If-Range"] == site.tag and status == 200:
                body, status = body[int(begins.removeprefix("bytes=").rstrip("-")) :], 206
            self.send_response(status)
            if site.tag:
                self.send_header("ETag", site.tag)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: site.break_off])

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_port}/media/a%20talk.mp3?token=secret"
    yield site
    site.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, server=None, storage="", s3_endpoint=None, ui=None, server_jar=None)


def test_a_download_is_whole_and_happens_once(site: Site, settings: Settings, tmp_path: Path) -> None:
    cache = tmp_path / "media"
    first = open_source(site.address, settings, cache)
    assert first.path.read_bytes() == CONTENT
    assert first.identity == hashlib.sha256(CONTENT).hexdigest()
    assert first.name == "a talk.mp3"
    assert open_source(site.address, settings, cache) == first  # the server says: unchanged
    assert len(site.requests) == 2
    site.status = 500
    site.tag = '"other"'
    assert open_source(site.address, settings, cache, identity=first.identity) == first  # not even asked
    assert len(site.requests) == 2


def test_a_changed_file_is_fetched_again(site: Site, settings: Settings, tmp_path: Path) -> None:
    open_source(site.address, settings, tmp_path)
    site.content, site.tag = b"other", '"two"'
    assert open_source(site.address, settings, tmp_path).path.read_bytes() == b"other"


def test_a_download_that_broke_off_goes_on(site: Site, settings: Settings, tmp_path: Path) -> None:
    site.break_off = 300_000
    with pytest.raises(SourceUnavailable, match="broke off"):
        open_source(site.address, settings, tmp_path)
    site.break_off = None
    assert open_source(site.address, settings, tmp_path).path.read_bytes() == CONTENT
    assert site.requests[-1]["Range"].startswith("bytes=")
    assert site.requests[-1]["Range"] != "bytes=0-"


def test_a_download_starts_over_when_the_file_changed(site: Site, settings: Settings, tmp_path: Path) -> None:
    site.break_off = 300_000
    with pytest.raises(SourceUnavailable):
        open_source(site.address, settings, tmp_path)
    site.break_off, site.content, site.tag = None, CONTENT[::-1], '"two"'
    assert open_source(site.address, settings, tmp_path).path.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, MediaError, "does not exist"),
        (410, MediaError, "does not exist"),
        (403, MediaError, "may not be read"),
        (429, SourceUnavailable, "try again later"),
        (503, SourceUnavailable, "try again later"),
        (418, MediaError, "answers 418"),
    ],
)
def test_refusals(
    status: int, kind: type[Exception], words: str, site: Site, settings: Settings, tmp_path: Path
) -> None:
    site.status = status
    with pytest.raises(kind, match=words) as refused:
        open_source(site.address, settings, tmp_path)
    assert "secret" not in str(refused.value)


def test_a_hanging_server_is_given_up(
    site: Site, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.sources, "READ_SECONDS", 0.1)
    site.hang = True
    with pytest.raises(SourceUnavailable, match="does not answer"):
        open_source(site.address, settings, tmp_path)


def test_a_refused_connection(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        open_source("http://127.0.0.1:9/talk.mp3", settings, tmp_path)


def test_an_empty_download_is_refused(site: Site, settings: Settings, tmp_path: Path) -> None:
    site.content = b""
    with pytest.raises(MediaError, match="is empty"):
        open_source(site.address, settings, tmp_path)


def test_a_download_nobody_wants_stops(site: Site, settings: Settings, tmp_path: Path) -> None:
    def unwanted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_source(site.address, settings, tmp_path, unwanted)


def test_paths_and_file_addresses_are_the_same(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "a talk.wav"
    path.write_bytes(CONTENT)
    by_path = open_source(str(path), settings, tmp_path / "media")
    assert open_source(path.as_uri(), settings, tmp_path / "media") == by_path
    assert by_path.identity == hashlib.sha256(CONTENT).hexdigest()


@pytest.mark.parametrize("address", ["gopher://host/talk", "file://elsewhere/talk.wav", "s3://bucket", "http:///x"])
def test_addresses_that_are_none(address: str, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(MediaError):
        open_source(address, settings, tmp_path)
