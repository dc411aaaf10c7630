"""How a machine ends itself: patiently, with its own key, and it believes only what the market says."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from workers import instance
from workers.settings import Container

Heard = list[tuple[str, str, str, object]]


@contextmanager
def market(*answers: tuple[int, Any]) -> Iterator[tuple[Container, Heard]]:
    """It gives these answers in turn, the last one for ever; yields a container of it and what it heard."""
    left, heard = list(answers), Heard()

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append((self.command, self.path, self.headers["Authorization"], body))
            status, said = left.pop(0) if len(left) > 1 else left[0]
            data = json.dumps(said).encode() if said is not None else b"<html>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_DELETE = do_PUT = serve

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Container("4711", "the-key", f"http://127.0.0.1:{server.server_port}"), heard
        server.shutdown()
        thread.join()


NO = (500, {"error": "oops"})
YES = (200, {"success": True})


def end(container: Container, given_up: bool = False) -> tuple[bool, list[float], str]:
    slept: list[float] = []
    said: list[str] = []
    gone = instance.destroy(container, said.append, slept.append, lambda: given_up)
    return gone, slept, "\n".join(said)


@pytest.mark.parametrize("answer", [YES, (404, {"success": False, "error": "no_such_instance"})])
def test_it_asks_for_its_own_end_with_its_own_key(answer: tuple[int, Any]) -> None:
    with market(answer) as (container, heard):
        gone, slept, said = end(container)
    assert gone
    assert slept == []
    assert heard == [("DELETE", "/api/v0/instances/4711/", "Bearer the-key", {})]
    assert "the-key" not in said + repr(container)


@pytest.mark.parametrize(
    "no", [NO, (404, {"error": "auth_error"}), (200, {"success": False}), (200, None), (429, None), (200, [])]
)
def test_it_asks_again_until_the_market_says_that_it_is_done(no: tuple[int, Any]) -> None:
    with market(no, no, YES) as (container, heard):
        gone, slept, _ = end(container)
    assert gone
    assert [call[0] for call in heard] == ["DELETE"] * 3
    assert slept == [3.0, 4.5]


def test_after_twenty_tries_it_asks_to_be_stopped() -> None:
    with market(*[NO] * 20, YES) as (container, heard):
        gone, slept, said = end(container)
    assert not gone
    assert [call[0] for call in heard] == ["DELETE"] * 20 + ["PUT"]
    assert heard[-1][3] == {"state": "stopped"}
    assert max(slept) == instance.LAST_PAUSE
    assert min(slept) >= 3, "the market takes one such request in three seconds"
    assert 300 < sum(slept) < 900
    assert "stopped" in said


def test_who_loses_patience_is_not_kept() -> None:
    with market(NO, YES) as (container, heard):
        gone, slept, _ = end(container, given_up=True)
    assert not gone
    assert [call[0] for call in heard] == ["DELETE", "PUT"]
    assert slept == []


def test_a_market_that_is_not_there_is_no_error() -> None:
    gone, slept, said = end(Container("1", "k", "http://127.0.0.1:9"))
    assert not gone
    assert len(slept) == instance.TRIES - 1
    assert "cannot even be stopped" in said
