"""The few answers of a gateway that a supervisor and an idle worker need, and what they said."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class GatewayStub:
    """On 127.0.0.1. orders: what a heartbeat is answered besides the time; refuses: it knows no token any more."""

    def __init__(self, nonce: str, token: str) -> None:
        self.nonce, self.token = nonce, token
        self.orders: dict[str, Any] = {"drain": False, "stop": False, "held": 1, "last_task_ms": None}
        self.refuses = False
        self.silent = False
        self.beats: list[dict[str, Any]] = []
        self.polls: list[str] = []
        self.seen = threading.Condition()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._serve(None)

            def do_POST(self) -> None:
                self._serve(json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))) or b"null"))

            def _serve(self, body: Any) -> None:
                status, answer = (503, None) if stub.silent else stub.answer(self.path, dict(self.headers), body)
                data = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "GatewayStub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/api/token":
            known = body == {"keyId": self.nonce, "keySecret": self.token} and not self.refuses
            return (200, {"token": "session"}) if known else (401, {"error": "INVALID"})
        if self.refuses or headers.get("X-Authorization") != "session":
            return 401, {"error": "EXPIRED_TOKEN"}
        with self.seen:
            self.seen.notify_all()
            if path == "/worker/heartbeat":
                self.beats.append(body)
                return 200, {"time_ms": int(time.time() * 1000), **self.orders}
            if path.startswith("/api/tasks/poll/"):
                self.polls.append(path)
                return 204, None
        return (200, []) if path.startswith("/api/tasks/queue/polldata") else (403, {"message": "refused"})

    def wait_for(self, what: Any, timeout_s: float = 60.0) -> None:
        """Until what() is true, looked at after each request. Raises AssertionError after timeout_s."""
        with self.seen:
            assert self.seen.wait_for(what, timeout_s), f"the gateway heard {self.beats[-3:]} and {self.polls[-3:]}"
