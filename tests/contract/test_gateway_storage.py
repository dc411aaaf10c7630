"""What is particular to storage at a gateway: refusals as sentences, redirects, an address nobody sees."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workers.errors import ObjectMissing, StorageError, StorageUnavailable, WhisperfleetError
from workers.storage.gateway import ATTEMPTS, GatewayStorage

GRANT = "nobody-may-ever-see-this-grant"
Answer = tuple[int, dict[str, str], bytes]


class Service:
    """An HTTP server that gives prepared answers in turn, the last one again and again, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [(200, {}, b"")]
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                service.asked.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
                status, headers, body = service.answers.pop(0) if len(service.answers) > 1 else service.answers[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None:
                """The test's output is no place for a server's log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def storage(self) -> GatewayStorage:
        return GatewayStorage(f"{self.url}/objects/{GRANT}", pause=lambda seconds: None)


@pytest.fixture
def service() -> Iterator[Service]:
    one = Service()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


USES: dict[str, Callable[[GatewayStorage, Path], object]] = {
    "get_bytes": lambda storage, path: storage.get_bytes("a/b"),
    "get_file": lambda storage, path: storage.get_file("a/b", path / "target"),
    "put_bytes": lambda storage, path: storage.put_bytes("a/b", b"x"),
    "exists": lambda storage, path: storage.exists("a/b"),
    "keys": lambda storage, path: list(storage.keys("a/")),
    "discard": lambda storage, path: storage.discard(["a/b"]),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    ("status", "kind", "asked"),
    [
        (401, StorageError, 1),
        (403, StorageError, 1),
        (409, StorageError, 1),
        (413, StorageError, 1),
        (422, StorageError, 1),
        (429, StorageUnavailable, ATTEMPTS),
        (500, StorageUnavailable, ATTEMPTS),
        (503, StorageUnavailable, ATTEMPTS),
    ],
)
def test_refusals_are_sentences_without_the_grant(
    service: Service, tmp_path: Path, use: str, status: int, kind: type[WhisperfleetError], asked: int
) -> None:
    service.answers = [(status, {}, b'{"error": "the gateway says why"}')]
    with pytest.raises(kind) as caught:
        USES[use](service.storage(), tmp_path)
    assert type(caught.value) is kind
    assert GRANT not in str(caught.value)
    assert service.url in str(caught.value)
    assert len(service.asked) == asked
    if kind is StorageError and use != "exists":  # the answer to a HEAD has no body
        assert "the gateway says why" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there(service: Service, tmp_path: Path) -> None:
    service.answers = [(404, {}, b"")]
    storage = service.storage()
    assert not storage.exists("a/b")
    for use in ("get_bytes", "get_file"):
        with pytest.raises(ObjectMissing, match="a/b"):
            USES[use](storage, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_gateway_that_restarts_is_asked_again(service: Service) -> None:
    service.answers = [(503, {}, b""), (502, {}, b""), (200, {}, b"here")]
    assert service.storage().get_bytes("a/b") == b"here"


@pytest.mark.parametrize("use", ["get_bytes", "get_file"])
def test_what_breaks_off_does_not_arrive(service: Service, tmp_path: Path, use: str) -> None:
    service.answers = [(200, {"Content-Length": "1000"}, b"a part")]
    with pytest.raises(StorageUnavailable):
        USES[use](service.storage(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", USES)
def test_nobody_there(tmp_path: Path, use: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, never listening: refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/objects/{GRANT}"
        with pytest.raises(StorageUnavailable) as caught:
            USES[use](GatewayStorage(address, pause=lambda seconds: None), tmp_path)
    assert GRANT not in str(caught.value)
    assert caught.value.__cause__ is None, "the cause would show the address"


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"keys": 7}', b'{"keys": [7]}', b"<html>"])
def test_a_list_that_is_none(service: Service, body: bytes) -> None:
    service.answers = [(200, {}, body)]
    with pytest.raises(StorageUnavailable, match="no list"):
        list(service.storage().keys("a/"))


def test_keys_that_could_leave_the_storage_are_taken_from_nobody(service: Service) -> None:
    service.answers = [(200, {}, b'{"keys": ["../a"]}')]
    with pytest.raises(StorageError, match="cannot be the name"):
        list(service.storage().keys("a/"))


# ---- redirects ----


def test_an_object_is_fetched_from_where_the_gateway_sends(service: Service, tmp_path: Path) -> None:
    place = f"{service.url}/bucket/a/b?X-Amz-Signature=0123"
    for use, result in (("get_bytes", b"audio"), ("get_file", None)):
        service.answers = [(307, {"Location": place}, b""), (200, {}, b"audio")]
        assert USES[use](service.storage(), tmp_path) == result
    assert (tmp_path / "target").read_bytes() == b"audio"
    command, path, headers = service.asked[1]
    assert (command, path) == ("GET", "/bucket/a/b?X-Amz-Signature=0123")
    assert not any(GRANT in value for value in headers.values())


@pytest.mark.parametrize("place", ["", "file:///etc/passwd", "ftp://host/x", "/objects/other"])
def test_a_redirect_to_somewhere_strange_is_not_followed(service: Service, tmp_path: Path, place: str) -> None:
    service.answers = [(307, {"Location": place}, b"")]
    with pytest.raises(StorageUnavailable):
        service.storage().get_bytes("a/b")
    assert len(service.asked) == ATTEMPTS


def test_a_second_redirect_is_not_followed(service: Service) -> None:
    service.answers = [(307, {"Location": f"{service.url}/again"}, b"")]
    with pytest.raises(StorageUnavailable):
        service.storage().get_bytes("a/b")
    assert len(service.asked) == 2 * ATTEMPTS


def test_an_address_that_has_expired_is_asked_for_again(service: Service) -> None:
    place = {"Location": f"{service.url}/bucket/a"}
    service.answers = [(307, place, b""), (403, {}, b"<Error/>"), (307, place, b""), (200, {}, b"audio")]
    assert service.storage().get_bytes("a/b") == b"audio"


def test_audio_that_is_gone_from_the_store_is_missing(service: Service) -> None:
    service.answers = [(307, {"Location": f"{service.url}/bucket/a"}, b""), (404, {}, b"<Error/>")]
    with pytest.raises(ObjectMissing):
        service.storage().get_bytes("a/b")


# ---- the address ----


def test_the_grant_is_in_no_log_and_no_address_for_people(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    storage = service.storage()
    for use in ("get_bytes", "put_bytes", "exists", "discard"):
        USES[use](storage, tmp_path)
    assert GRANT not in storage.url("a/b")
    assert GRANT not in caplog.text
    assert GRANT in storage.address, "or no other process could open it"
