"""How much work waits for rented machines: queues of the real Conductor, and what the gateway's workers hold.

`GatewayAdmin` is the gateway's other side: it admits machines, says what it hears of them, and gives back at once what
a lost one held. Both answer with a sentence where nobody is there or the key is wrong.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

import httpx

from provisioning.fleet import ONLY_LOOKING, Demand, WorkerNews
from workers.errors import TerminalError, TransientError, one_line
from workflows import progress

log = logging.getLogger(__name__)

WORKFLOW = "transcribe_media"
SAMPLE_MS = 30_000  # what detect_language hears of each sample; a handful of seconds next to any job
GUESSED_CHUNK_MS = 60_000  # of a task whose execution is not to be read; a chunk is 30 to 120 s by default


LOOK_S = 10.0  # for all questions of one look: machines wait to be destroyed meanwhile
JOBS_A_LOOK = 10  # executions that are read at one look; each is read once

Lengths = dict[str, tuple[int, int]]
"""Of one execution, by kind of task: milliseconds of audio in all, and number of tasks."""


class GatewaySilent(TransientError):
    """The gateway did not answer, or with an error of its own."""

    exit_code = 4


class GatewayRefused(TerminalError):
    """The gateway does not take the admin key, or what answers there is no gateway."""

    exit_code = 4


class Gateway(Protocol):
    """What a controller asks of the gateway."""

    def admit(self, nonce: str, kinds: Sequence[str], expires_ms: int) -> str:
        """A token for the machine of that nonce, which it can use until `expires_ms`. The same nonce again: another."""
        ...

    def lose(self, nonce: str) -> tuple[str, ...]:
        """The machine is gone or goes: ids of the tasks that went back to the queue. Its token is worth nothing."""
        ...

    def drain(self, nonce: str) -> None:
        """It gets no more tasks, and finishes what it holds."""
        ...

    def workers(self) -> tuple[int, dict[str, WorkerNews]]:
        """The gateway's clock (epoch milliseconds), and by nonce what it knows of each machine."""
        ...


class DemandSource(Protocol):
    def look(self) -> Demand:
        """Never raises for a silent server: the demand is then not known."""
        ...


class GatewayAdmin:
    """The gateway's admin API. Raises GatewaySilent and GatewayRefused, each in one sentence."""

    def __init__(self, address: str, key: str, *, timeout_s: float = 10.0) -> None:
        self.address = address.rstrip("/")
        self._http = httpx.Client(
            base_url=self.address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout_s,
            trust_env=False,  # a proxy of the environment would get to see the key
        )

    def close(self) -> None:
        self._http.close()

    def admit(self, nonce: str, kinds: Sequence[str], expires_ms: int) -> str:
        body = {"nonce": nonce, "kinds": list(kinds), "expires_ms": expires_ms}
        return str(self._field(self._ask("POST", "/admin/instances", body), "token"))

    def lose(self, nonce: str) -> tuple[str, ...]:
        answer = self._ask("DELETE", f"/admin/instances/{nonce}", missing_ok=True)
        return tuple(str(task) for task in answer.get("freed") or ())

    def drain(self, nonce: str) -> None:
        self._ask("POST", f"/admin/instances/{nonce}/drain", missing_ok=True)

    def workers(self, only_looking: bool = False) -> tuple[int, dict[str, WorkerNews]]:
        """only_looking: by somebody who does not control them, and is no sign that a controller lives."""
        answer = self._ask("GET", "/admin/instances", headers={ONLY_LOOKING: "1"} if only_looking else None)
        rows = self._field(answer, "instances")
        try:
            news = [_news(row) for row in rows]
            return int(self._field(answer, "time_ms")), {one.nonce: one for one in news}
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange() from error

    def demand(self) -> Demand:
        """The gateway's own view; of it the held part is exact."""
        answer = self._ask("GET", "/admin/demand")
        try:
            return Demand(**{field.name: answer[field.name] for field in fields(Demand) if field.name in answer})
        except TypeError as error:
            raise self._strange() from error

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        missing_ok: bool = False,
    ) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise GatewaySilent(
                f"The gateway's admin side does not answer at {self.address} ({one_line(error)}): start it by "
                "`whisperfleet gateway`, or name it by WHISPERFLEET_GATEWAY_ADMIN."
            ) from error
        if answer.status_code in (401, 403):
            raise GatewayRefused(
                f"The gateway at {self.address} does not accept the admin key: "
                "WHISPERFLEET_GATEWAY_ADMIN_KEY_FILE must name the file that the gateway itself was started with."
            )
        if answer.status_code == 404 and missing_ok:
            return {}
        if answer.status_code >= 500 or answer.status_code == 429:
            raise GatewaySilent(f"The gateway at {self.address} answers with error {answer.status_code}: see its log.")
        if answer.status_code >= 400:
            raise GatewayRefused(f"The gateway at {self.address} refuses {method} {path} ({answer.status_code}).")
        if not answer.content:
            return {}
        try:
            decoded = answer.json()
        except ValueError as error:
            raise self._strange() from error
        if not isinstance(decoded, dict):
            raise self._strange()
        return decoded

    def _field(self, answer: Mapping[str, Any], name: str) -> Any:
        if name not in answer:
            raise self._strange()
        return answer[name]

    def _strange(self) -> GatewayRefused:
        return GatewayRefused(
            f"What answers at {self.address} is not the admin side of a Whisperfleet gateway: "
            "correct WHISPERFLEET_GATEWAY_ADMIN."
        )


def _news(row: Mapping[str, Any]) -> WorkerNews:
    known = {field.name: row[field.name] for field in fields(WorkerNews) if field.name in row}
    known["strikes"] = tuple(known.get("strikes") or ())
    return WorkerNews(**known)


class ConductorDemand:
    """Demand as the real Conductor and the gateway tell it.

    Waiting tasks are counted by queue (a task that is polled leaves it), audio by the mean chunk of the executions that
    run; each of those is read once, when it has been planned, since its cuts do not change. say: gets a sentence when
    Conductor stops to answer.
    """

    def __init__(
        self,
        server: str,
        gateway: GatewayAdmin,
        kinds: Sequence[str],
        *,
        timeout_s: float = 15.0,
        say: Callable[[str], None] = log.warning,
    ) -> None:
        self._server = server.rstrip("/")
        self._http = httpx.Client(base_url=self._server, timeout=timeout_s, trust_env=False)
        self._say = say
        self._said: str | None = None
        self._gateway = gateway
        self._kinds = tuple(kinds)
        self._jobs: dict[str, Lengths] = {}
        self._timeout_s = timeout_s

    def close(self) -> None:
        self._http.close()

    def look(self) -> Demand:
        end = time.monotonic() + LOOK_S
        try:
            audio, tasks = self._queued(end)
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._tell(
                f"The Conductor server does not answer at {self._server.removesuffix('/api')} ({one_line(error)}): "
                "nothing is rented or given back for its queue until it does."
            )
            return Demand(known=False)
        try:
            held = self._gateway.demand()
        except (GatewaySilent, GatewayRefused) as error:
            self._tell(str(error))
            return Demand(known=False)
        self._said = None
        return Demand(audio, tasks, held.held_audio_ms, held.held_tasks, known=held.known)

    def _tell(self, text: str) -> None:
        if self._said != text:
            self._said = text
            self._say(text)

    def _queued(self, end: float) -> tuple[int, int]:
        """Audio (milliseconds) and number of the tasks that wait. Raises what odd answers do: then nothing is known."""
        sizes = {kind: self._size(kind, end) for kind in self._kinds}
        if not any(sizes.values()):
            return 0, 0
        means = self._means(end)
        return round(sum(size * means.get(kind, GUESSED_CHUNK_MS) for kind, size in sizes.items())), sum(sizes.values())

    def _size(self, kind: str, end: float) -> int:
        """Raises ValueError for what is no number: taken for none, it would end a fleet that has work."""
        answer = self._get("/tasks/queue/size", {"taskType": kind}, end)
        if not isinstance(answer, int) or isinstance(answer, bool) or answer < 0:
            raise ValueError(f"its queue of {kind} is said to be {str(answer)[:40]} long")
        return answer

    def _means(self, end: float) -> dict[str, float]:
        """Milliseconds of audio per task by kind, over the executions that run, each with as many tasks as it has.

        JOBS_A_LOOK of them are read at one time, and as far as the time goes: the others at the next.
        """
        running = [str(job) for job in self._get(f"/workflow/running/{WORKFLOW}", None, end) or ()]
        known = set(running)
        self._jobs = {job: lengths for job, lengths in self._jobs.items() if job in known}
        for job in [job for job in running if job not in self._jobs][:JOBS_A_LOOK]:
            if time.monotonic() >= end:
                break
            if lengths := self._lengths(job, end):
                self._jobs[job] = lengths
        return _means_of(self._jobs.values())

    def _lengths(self, job: str, end: float) -> Lengths:
        """Empty until the job is planned, so that it is read again."""
        raw = self._get(f"/workflow/{job}", {"includeTasks": "true"}, end)
        if not isinstance(raw, dict):
            return {}
        view = progress.from_workflow(raw, int(time.time() * 1000))
        if not view.duration_ms or not view.chunks_total:
            return {}
        found = {progress.TRANSCRIBE: (view.duration_ms, view.chunks_total), progress.LANGUAGE: (SAMPLE_MS, 1)}
        if view.parts_total:
            found[progress.DIARIZE] = (view.duration_ms, view.parts_total)
        return found

    def _get(self, path: str, query: Mapping[str, str] | None, end: float) -> Any:
        """None where there is no such thing. Raises httpx.TimeoutException once `end` is past: others wait, too."""
        left = min(self._timeout_s, end - time.monotonic())
        if left <= 0:
            raise httpx.ReadTimeout(f"no answers within {LOOK_S:.0f} s")
        answer = self._http.get(path, params=dict(query or {}), timeout=left)
        if answer.status_code == 404:  # an execution that ended and was removed while it was asked for
            return None
        answer.raise_for_status()
        return answer.json() if answer.content else None


def _means_of(jobs: Iterable[Lengths]) -> dict[str, float]:
    """A thousand short chunks of one job and one long of another are a thousand short ones."""
    audio: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for lengths in jobs:
        for kind, (audio_ms, count) in lengths.items():
            audio[kind] = audio.get(kind, 0) + audio_ms
            tasks[kind] = tasks.get(kind, 0) + count
    return {kind: audio[kind] / tasks[kind] for kind in audio}
