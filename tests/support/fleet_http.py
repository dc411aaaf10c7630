"""What `whisperfleet fleet` reaches besides the market, over http on this machine: both sides of a gateway, Conductor.

Gateway and queue are those that `tests.support.fleet` plays; tests/integration/test_gateway.py and the end-to-end
test have the true ones.
"""

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from provisioning.demand import GatewaySilent
from tests.support.fleet import ADMIN_KEY, PlayedGateway


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        parts = urlsplit(self.path)
        try:
            status, answer = self._answer(
                parts.path, {name: each[0] for name, each in parse_qs(parts.query).items()}, body
            )
        except GatewaySilent:
            status, answer = 503, {}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_DELETE = do_HEAD = _serve

    def _answer(self, path: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        gateway = self.server.gateway
        if path == "/health":
            return (503 if self.server.sick else 200), {"healthy": not self.server.sick}
        if path == "/api/tasks/queue/size":
            waits = len(gateway.queue) if query.get("taskType") == "transcribe_chunk" else 0
            return 200, waits
        if path.startswith("/api/workflow/running/"):
            return 200, []
        if not path.startswith("/admin/"):
            return 403, {}
        if self.headers.get("Authorization") != f"Bearer {ADMIN_KEY}":
            return 401, {}
        return self._admin(path.removeprefix("/admin/").split("/"), body)

    def _admin(self, path: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        gateway = self.server.gateway
        match self.command, path:
            case "POST", ["instances"]:
                return 200, {"token": gateway.admit(body["nonce"], body["kinds"], body["expires_ms"])}
            case "DELETE", ["instances", nonce]:
                return 200, {"freed": list(gateway.lose(nonce))}
            case "POST", ["instances", nonce, "drain"]:
                gateway.drain(nonce)
                return 200, {}
            case "GET", ["instances"]:
                time_ms, news = gateway.workers()
                return 200, {"time_ms": time_ms, "instances": [asdict(one) for one in news.values()]}
            case "GET", ["demand"]:
                return 200, asdict(gateway.look())
        return 404, {}

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(self.server.now()) if timestamp is None else int(timestamp))

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, gateway: PlayedGateway, now: Callable[[], float]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.gateway, self.now, self.sick = gateway, now, False


class Desk:
    """All of it at one address while it is entered. sick: /health says so. ahead_s: of the Date it answers."""

    def __init__(self, gateway: PlayedGateway, now: Callable[[], float]) -> None:
        self.ahead_s = 0.0
        self._server = _Server(gateway, lambda: now() + self.ahead_s)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="fleet-desk", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def sick(self) -> bool:
        return self._server.sick

    @sick.setter
    def sick(self, value: bool) -> None:
        self._server.sick = value

    def __enter__(self) -> "Desk":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
