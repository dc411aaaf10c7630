"""The API on 127.0.0.1, over plain http: what is on the wire, and the control endpoints below /_emu/."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.emulator.api import Answer, Call

Handle = Callable[[Call], Answer]


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one connection a call, as the client makes it anyway."""

    server: "_Server"

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        call = Call(
            method=self.command,
            path=parts.path,
            query=dict(parse_qsl(parts.query)),
            body=self.rfile.read(length),
            headers={name.lower(): value for name, value in self.headers.items()},
            at=self.server.now(),
        )
        try:
            given = self.server.handle(call)
        except Exception as error:  # told to the test when it leaves the emulator, not only to the client
            self.server.errors.append(error)
            given = Answer(500, repr(error).encode(), "text/plain")
        self._send(given)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, given: Answer) -> None:
        if given.hold_s:
            time.sleep(given.hold_s)
        if given.drop:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        try:
            self.send_response(given.status)
            self.send_header("Content-Type", given.content_type)
            self.send_header("Content-Length", str(len(given.body)))
            for name, value in given.headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(given.body)
        except ConnectionError:
            pass  # a client that has given up need not hear of it

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(int(self.server.server_time()) if timestamp is None else int(timestamp))

    def log_message(self, format: str, *args: Any) -> None:
        """Calls are kept by the API, not printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handle: Handle, now: Callable[[], float], server_time: Callable[[], float], port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.handle, self.now, self.server_time = handle, now, server_time
        self.errors: list[Exception] = []


class HttpServer:
    """Serves while it is entered; raises on leaving what went wrong in the emulator itself."""

    def __init__(self, handle: Handle, now: Callable[[], float], server_time: Callable[[], float], port: int) -> None:
        self._options = handle, now, server_time, port
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Raises RuntimeError where it is not entered."""
        if self._server is None:
            raise RuntimeError("the emulator has an address only while it is entered")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HttpServer":
        self._server = _Server(*self._options)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name="vast-emulator", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        server, thread = self._server, self._thread
        assert server is not None
        assert thread is not None
        server.shutdown()
        server.server_close()
        thread.join()
        if server.errors and error is None:
            raise server.errors[0]


def control_body(call: Call) -> dict[str, Any]:
    return dict(json.loads(call.body or b"{}"))
