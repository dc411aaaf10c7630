"""HTTP/1.1 for strangers: uvicorn's protocol, and the patience that it does not have a limit for itself.

uvicorn ends an idle connection between two requests only. One that never finishes its headers, or never reads its
answer, it keeps for ever: a few thousand of those, and nobody else gets in. Bodies are `gateway_guard`'s.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import h11
from starlette.types import Receive, Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0  # from the connection's begin, or a request's first byte, to the end of its headers
_HANG_UP = "whisperfleet.hang_up"
READING_S = 60.0  # without taking a byte of an answer


class PatientProtocol(H11Protocol):
    """headers_s, reading_s: how long it waits, in seconds. slow hears of who was too slow: address, and in what."""

    headers_s = HEADERS_S
    reading_s = READING_S
    slow: Callable[[str, str], None] = staticmethod(lambda address, what: None)

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._headers_timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._headers_timer = self.loop.call_later(self.headers_s, self._end, "the headers come too slowly")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._let_hang_up()
        if self.conn.their_state is not h11.IDLE:  # the headers are whole, or wrong and answered so
            self._stop_headers()
        elif self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.headers_s, self._end, "the headers come too slowly")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._let_hang_up()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0] and self._headers_timer is None:
            self._headers_timer = self.loop.call_later(self.headers_s, self._end, "the headers come too slowly")

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_headers()
        self._stop_reading()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._reading_timer is None:
            self._reading_timer = self.loop.call_later(self.reading_s, self._end, "the answer is not read")

    def resume_writing(self) -> None:
        self._stop_reading()
        super().resume_writing()

    def _let_hang_up(self) -> None:
        """A request that is being answered can end its connection; see `hang_up`."""
        if self.scope is not None:
            told: dict[str, Any] = self.scope.setdefault("extensions", {})
            told[_HANG_UP] = self._end

    def _end(self, what: str) -> None:
        """At once and with what is still unsent: whoever is that slow would not read it."""
        self.slow(self.client[0] if self.client else "", what)
        self.transport.abort()

    def _stop_headers(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _stop_reading(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None


async def hang_up(scope: Scope, receive: Receive, what: str) -> None:
    """End the connection of a request in the midst of its answer, and what is unsent with it; `what` is for the log.

    A server of another protocol closes it when the application returns with its answer unfinished.
    """
    end = scope.get("extensions", {}).get(_HANG_UP)
    if end is not None:
        end(what)
        while (await receive())["type"] != "http.disconnect":
            pass


def patient(slow: Callable[[str, str], None]) -> type[PatientProtocol]:
    """The protocol for one server, which tells `slow`: uvicorn makes the objects itself."""
    return type("Patient", (PatientProtocol,), {"slow": staticmethod(slow)})
