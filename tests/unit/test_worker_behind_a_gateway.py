"""What a worker does where a gateway stands before the server: it waits as asked, and ends where it is not admitted."""

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.stages import make_context
from workers import lanes, tasks
from workers import settings as environment
from workers.errors import AudioMissing, ServerError, StorageUnavailable
from workers.seat import EngineSeat
from workers.stages.speakers import BLIND_WAIT_S, audio_awaited
from workers.tasks import NotAdmitted, ServerSilent, TaskClient

TASKS = b'[{"taskId": "t", "workflowInstanceId": "w", "inputData": {}}]'


class Gateway:
    """Answers every request in the same way, and counts them."""

    def __init__(self) -> None:
        self.status = 204
        self.headers: dict[str, str] = {}
        self.body = b""
        self.asked: list[str] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gateway.asked.append(self.path.partition("?")[0])
                self.send_response(gateway.status)
                for name, value in {"Content-Length": str(len(gateway.body)), **gateway.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(gateway.body)

            do_GET = do_POST = answer

            def log_message(self, format: str, *args: object) -> None:
                """The test's output is no place for a server's log."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/api"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    one = Gateway()
    thread = threading.Thread(target=one.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of workers.tasks."""
    at = [1000.0]
    monkeypatch.setattr("workers.tasks.time", SimpleNamespace(monotonic=lambda: at[0], time=time.time))
    return at


def test_after_an_empty_poll_it_waits_as_long_as_it_was_asked_to(gateway: Gateway, now: list[float]) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.headers = {"X-Poll-After-Ms": "6700"}
    for _ in range(5):
        assert client.poll("transcribe_chunk") is None
    assert len(gateway.asked) == 1
    assert client.poll("detect_language") is None, "of one kind nothing is said of another"
    assert len(gateway.asked) == 2
    now[0] += 6.8
    gateway.status, gateway.headers, gateway.body = 200, {"Content-Type": "application/json"}, TASKS
    assert client.poll("transcribe_chunk") is not None
    assert client.poll("transcribe_chunk") is not None, "after a task there is no pause"


def test_a_server_is_asked_what_waits_and_a_gateway_never(gateway: Gateway) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.status, gateway.body = 200, b"[]"
    assert not client.counts, "before anybody has answered"
    gateway.headers = {"X-Poll-After-Ms": "0"}
    assert client.poll("a") is None
    assert not client.counts
    gateway.headers = {}
    assert client.poll("a") is None
    assert client.counts


@pytest.mark.parametrize(
    ("status", "body"), [(403, b""), (404, b""), (204, b""), (200, b'{"a": 0}'), (200, b'{"a,b": 0}'), (200, b"[3]")]
)
def test_who_does_not_tell_what_waits_of_every_kind_is_polled_for_all(
    gateway: Gateway, status: int, body: bytes
) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.headers = {"Content-Type": "application/json"}
    gateway.status, gateway.body = 200, b'{"a": 2, "b": 0}'
    assert client.waiting(("a", "b")) == {"a": 2, "b": 0}
    gateway.status, gateway.body = status, body
    assert client.waiting(("a", "b")) == {}
    gateway.status, gateway.body = 204, b""
    assert client.poll("a") is None
    assert not client.counts, "and is not asked again"


@pytest.mark.parametrize("told", ["", "soon", "-1", "1e9", "٣", "0"])
def test_a_pause_that_is_none_is_none(gateway: Gateway, told: str) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.headers = {"X-Poll-After-Ms": told} if told.isascii() else {}
    assert client.poll("a") is None
    assert client.poll("a") is None
    assert len(gateway.asked) == 2


def test_no_pause_is_so_long_that_the_worker_seems_dead(gateway: Gateway, now: list[float]) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.headers = {"X-Poll-After-Ms": "999999999"}
    assert client.poll("a") is None
    now[0] += tasks.LONGEST_PAUSE_S
    assert client.poll("a") is None
    assert len(gateway.asked) == 2


def test_a_session_that_is_refused_for_a_while_may_be_renewed_and_is_then_given_up(
    gateway: Gateway, now: list[float]
) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.status = 401
    with pytest.raises(ServerSilent, match="session"):
        client.poll("a")
    now[0] += tasks.LOCKED_OUT_S / 2
    gateway.status = 204
    assert client.poll("a") is None
    gateway.status = 401
    for _ in range(3):
        with pytest.raises(ServerSilent):
            client.poll("a")
        now[0] += tasks.LOCKED_OUT_S / 4
    now[0] += tasks.LOCKED_OUT_S / 2
    with pytest.raises(NotAdmitted, match=r"does not admit this worker any more: .*token was revoked"):
        client.poll("a")


def test_a_session_that_was_not_had_at_the_start_is_asked_for_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDUCTOR_AUTH_KEY", "nonce")
    monkeypatch.setenv("CONDUCTOR_AUTH_SECRET", "secret")
    gateway.status = 503
    client = TaskClient(gateway.url, "here")
    gateway.status, gateway.body = 401, b'{"error": "MISSING_TOKEN"}'
    with pytest.raises(ServerSilent):
        client.poll("a")
    assert gateway.asked[-2:] == ["/api/tasks/poll/batch/a", "/api/token"]


def test_a_kind_that_is_not_its_own_ends_it_and_a_result_that_is_refused_does_not(gateway: Gateway) -> None:
    client = TaskClient(gateway.url, "here")
    gateway.status, gateway.body = 403, b'{"error": "REFUSED"}'
    with pytest.raises(NotAdmitted, match="no tasks of the kind plan_media for this worker"):
        client.poll("plan_media")
    with pytest.raises(ServerError) as refused:
        client.live_workers("a")
    assert not isinstance(refused.value, NotAdmitted)


def test_who_is_not_admitted_takes_nothing_more_and_drops_what_it_has() -> None:
    class Client:
        worker = "here"
        counts = False

        def poll(self, kind: str) -> None:
            raise NotAdmitted("the gateway does not admit this worker any more.")

    def nothing_to_load(*_: Any) -> Any:
        raise AssertionError("nothing is loaded")

    desk = lanes.Desk(
        client=cast(TaskClient, Client()),
        settings=environment.load(),
        seat=EngineSeat(nothing_to_load),
        shelf=lanes.DiarizerShelf(nothing_to_load),
        kinds=("transcribe_chunk",),
    )
    held = desk.held["t"] = lanes.Held(tasks.PolledTask("t", "w", "transcribe_chunk", "chunk_0", {}, 1, 0, 10))
    lanes.run_lane(desk, desk.kinds)
    assert held.lost.is_set()
    assert str(desk.dismissed) == "the gateway does not admit this worker any more."


@pytest.mark.parametrize(("waited_s", "error"), [(0, AudioMissing), (BLIND_WAIT_S + 1, StorageUnavailable)])
def test_audio_that_is_gone_is_waited_for_without_a_look_at_the_other_tasks(
    waited_s: float, error: type[Exception]
) -> None:
    def refused() -> Any:
        raise ServerError("The server refused GET /workflow (403).")

    with pytest.raises(error), audio_awaited(make_context(siblings=refused, waited_s=waited_s)):
        raise AudioMissing("The audio of chunk 1 is not there yet.")
