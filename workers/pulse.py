"""A rented machine's talk with its gateway: a beat every some seconds, and what it was told in answer."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import httpx

from workers.errors import TerminalError, TransientError

BEAT_SECONDS = 20.0
REQUEST_SECONDS = 10.0


class GatewaySilent(TransientError):
    """The gateway did not answer, or not as a gateway does."""


class TokenRefused(TerminalError):
    """The gateway does not accept this machine's token: it is revoked, or expired."""


class Gateway:
    """The gateway as one machine sees it. Not safe to share between threads."""

    def __init__(self, address: str, nonce: str, token: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=REQUEST_SECONDS)
        self._credentials = {"keyId": nonce, "keySecret": token}
        self._session: str | None = None

    def beat(self, news: dict[str, Any]) -> dict[str, Any]:
        """Say how this machine is; returns what the gateway answers.

        Raises GatewaySilent, TokenRefused.
        """
        for _ in range(2):  # a session that has expired is asked for anew, once
            if self._session is None:
                self._session = self._open_session()
            response = self._post("/worker/heartbeat", news, {"X-Authorization": self._session})
            if response.status_code != 401:
                break
            self._session = None
        if response.status_code in (401, 403):
            raise TokenRefused(f"The gateway refuses this machine ({response.status_code}).")
        return _fields(response)

    def _open_session(self) -> str:
        response = self._post("/api/token", self._credentials, {})
        if response.status_code in (401, 403):
            raise TokenRefused(f"The gateway refuses this machine's token ({response.status_code}).")
        session = _fields(response).get("token")
        if not isinstance(session, str):
            raise GatewaySilent("The gateway gave no session.")
        return session

    def _post(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        try:
            return self._client.post(path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise GatewaySilent(f"The gateway did not answer ({type(error).__name__}).") from error


def _fields(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json() if response.status_code < 300 else None
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise GatewaySilent(f"The gateway did not answer as one ({response.status_code}).")
    return body


@dataclass(frozen=True)
class Heard:
    """What is known of the gateway. Times are this machine's monotonic seconds.

    busy_at: when a task was last in hand, as far as the gateway tells; None where it does not tell.
    """

    answered_at: float
    refusals: int = 0
    stop: bool = False
    drain: bool = False
    busy_at: float | None = None
    last_task_ms: int | None = None


def hear(before: Heard, answer: dict[str, Any], working: bool, now: float) -> Heard:
    """Pure: what is known after an answer. A stop or drain, once said, stays.

    The gateway's clock is only compared with itself: whatever it shows, a task that was not there before is news.
    """
    held, last_task = answer.get("held"), answer.get("last_task_ms")
    busy_at = before.busy_at
    if isinstance(held, int):
        busy = held > 0 or last_task != before.last_task_ms or not working or busy_at is None
        busy_at = now if busy else busy_at
    return Heard(
        answered_at=now,
        stop=before.stop or answer.get("stop") is True,
        drain=before.drain or answer.get("drain") is True,
        busy_at=busy_at,
        last_task_ms=last_task if isinstance(last_task, int) else None,
    )


class Pulse:
    """Beats in a thread of its own, so that a slow gateway keeps nobody from ending the machine in time.

    news: what to say, called in that thread. every_s: seconds between beats.
    """

    def __init__(
        self,
        gateway: Gateway,
        news: Callable[[], dict[str, Any]],
        every_s: float = BEAT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._gateway = gateway
        self._news = news
        self._every_s = every_s
        self._clock = clock
        self._say = say
        self._lock = threading.Lock()
        self._now = threading.Event()
        self._closed = threading.Event()
        self._beats = 0
        self._told = threading.Condition()
        self.heard = Heard(clock())
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def hurry(self) -> None:
        """Beat now, as there is news."""
        self._now.set()

    def tell(self, timeout_s: float) -> None:
        """Beat now, and wait until what is new by now was said, or timeout_s is over."""
        with self._told:
            wanted = self._beats + 2  # the beat under way may be older than the news
            self._now.set()
            deadline = self._clock() + timeout_s
            while self._beats < wanted and self._clock() < deadline:
                self._told.wait(0.05)
                self._now.set()

    def close(self) -> None:
        self._closed.set()
        self._now.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._now.clear()
            self._beat()
            with self._told:
                self._beats += 1
                self._told.notify_all()
            self._now.wait(self._every_s)

    def _beat(self) -> None:
        news = self._news()
        try:
            answer = self._gateway.beat(news)
        except TokenRefused as error:
            self.heard = replace(self.heard, refusals=self.heard.refusals + 1)
            self._say(str(error))
        except GatewaySilent as error:
            self._say(str(error))
        else:
            self.heard = hear(self.heard, answer, news.get("state") == "working", self._clock())
