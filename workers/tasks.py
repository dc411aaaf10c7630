"""Conductor as a worker sees it: poll a task, keep its lease, hand in its result.

The only importer of the Conductor SDK on this side. Its `TaskRunner` is not used: it gives up a
result after four failed tries, cannot hold a task back until an engine is free, and knows no
order among task types. Its transport and authentication are.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workers.errors import ServerError, TransientError, WhisperfleetError
from workers.messages import Message, TaskFailure

log = logging.getLogger(__name__)

PRESENCE_TTL_MS = 20_000  # a worker says "here" every 5 s; four missed beats and it is gone
_TERMINAL = frozenset({"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "CANCELED"})
_GONE = _TERMINAL | {"TIMED_OUT", "SKIPPED"}


_POLL_AFTER = "X-Poll-After-Ms"
LONGEST_PAUSE_S = 60.0  # that a server may ask for between two polls: who is asked to wait longer looks dead
LOCKED_OUT_S = 60.0
"""A session is renewed by the SDK, so one that is refused for so long is refused for good: its token was revoked or has
expired. Not at the first time: the gateway may have restarted in the middle of the renewal."""


class ServerSilent(TransientError):
    """The server did not answer: it may be restarting."""


class LockedOut(ServerError):
    """The server answered 401: who asks has not shown who that is."""


class Forbidden(ServerError):
    """The server answered 403: not for this worker."""


class NotAdmitted(ServerError):
    """The server will have nothing to do with this worker, and that will not change by itself."""


@dataclass(frozen=True)
class PolledTask:
    """A task this worker holds, for `response_timeout_s` seconds from its last sign of life."""

    task_id: str
    workflow_id: str
    kind: str
    reference: str
    data: dict[str, Any]
    attempt: int
    scheduled_ms: int
    response_timeout_s: int
    polls: int = 1


@dataclass(frozen=True)
class Sibling:
    """Another task of the same workflow execution: its latest attempt."""

    task_id: str
    workflow_id: str
    kind: str
    reference: str
    status: str

    @property
    def open(self) -> bool:
        """Somebody has it, or is to have it."""
        return self.status not in _GONE

    @property
    def decided(self) -> bool:
        """It is done, or lost for good; an optional task that failed may yet have another attempt."""
        return self.status in ("COMPLETED", "COMPLETED_WITH_ERRORS")


class TaskClient:
    """The task half of Conductor's API for one worker."""

    def __init__(self, server: str, worker: str) -> None:
        from conductor.client.configuration.configuration import Configuration
        from conductor.client.http.api_client import ApiClient

        logging.getLogger("conductor").setLevel(logging.ERROR)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._api = ApiClient(Configuration(server_api_url=server))
        self.server = server
        self.worker = worker
        self._not_before: dict[str, float] = {}  # by kind, on the monotonic clock
        self._refused_since: float | None = None
        # Whether the server may be asked what waits, known once a poll was in vain: not a gateway, which says how long
        # to wait instead and refuses all that no worker needs.
        self.counts = False
        self._tells_not = False

    def poll(self, kind: str) -> PolledTask | None:
        """A task, if there is one. Within the pause that the server has asked for it is not even asked.

        A gateway for a thousand workers says after an empty poll how long not to come back (X-Poll-After-Ms).
        Raises NotAdmitted where this kind is not for this worker.
        """
        if time.monotonic() < self._not_before.get(kind, 0.0):
            return None
        try:
            tasks, headers = self._look(kind)
        except Forbidden as error:
            raise NotAdmitted(
                f"{self.server.removesuffix('/api')} has no tasks of the kind {kind} for this worker: "
                "name others by --tasks, or give it another token."
            ) from error
        task = tasks[0] if isinstance(tasks, list) and tasks else None
        if not isinstance(task, dict):
            self._not_before[kind] = time.monotonic() + _asked_pause_s(headers)
            self.counts = _POLL_AFTER not in headers and not self._tells_not
            return None
        return PolledTask(
            task_id=task["taskId"],
            workflow_id=task["workflowInstanceId"],
            kind=kind,
            reference=task.get("referenceTaskName", kind),
            data=task.get("inputData") or {},
            attempt=int(task.get("retryCount") or 0) + 1,
            scheduled_ms=int(task.get("scheduledTime") or 0),
            response_timeout_s=int(task.get("responseTimeoutSeconds") or 60),
            polls=int(task.get("pollCount") or 1),
        )

    def waiting(self, kinds: Sequence[str]) -> dict[str, int]:
        """How many tasks wait, by kind, those included whose time is yet to come; a poll may still find none.

        A server that refuses, or does not tell of each of `kinds`, is not asked again: `counts` is off, and this empty.
        """
        try:
            sizes = self._call("GET", "/tasks/queue/sizes", query={"taskType": ",".join(kinds)})
        except NotAdmitted:
            raise
        except ServerError as error:
            sizes = str(error)
        if isinstance(sizes, dict) and set(kinds) <= set(sizes):
            return {kind: int(sizes[kind]) for kind in kinds}
        # whoever took a missing count for none would never poll that kind again
        log.info("The server does not tell what waits: %.200s", sizes, extra={"action": "not_counted"})
        self.counts, self._tells_not = False, True
        return {}

    def announce(self, kind: str) -> None:
        """Say that this worker is alive, also while it is too busy to poll.

        Conductor keeps the time of the last poll per task type *and domain*; a poll in a domain of
        one's own, where no task is ever put, is the one sign of life that every Conductor records
        and that does not take work.
        """
        self._look(kind, domain=self.worker)

    def _look(self, kind: str, **more: str) -> tuple[Any, Mapping[str, str]]:
        """A poll as a batch of one, which looks once.

        Conductor's plain poll of an empty queue looks twice, 100 ms apart, and a worker asks for several kinds one
        after the other (measured: 130 ms and 16 ms of the server's processor, against 13 and 7).
        """
        one_look = {"workerid": self.worker, "count": "1", "timeout": "0"}
        return self._ask("GET", "/tasks/poll/batch/{kind}", {"kind": kind}, {**one_look, **more})

    def live_workers(self, kind: str) -> int:
        """How many workers that serve `kind` gave a sign of life lately."""
        polls = self._call("GET", "/tasks/queue/polldata", query={"taskType": kind})
        return count_live(polls, int(time.time() * 1000))

    def complete(self, task: PolledTask, output: Message) -> None:
        self._update(task, "COMPLETED", output.model_dump(mode="json"))

    def fail(self, task: PolledTask, error: WhisperfleetError) -> None:
        """Hand in a failure: transient ones are retried as the task's definition says, terminal ones never."""
        status = "FAILED" if error.transient else "FAILED_WITH_TERMINAL_ERROR"
        failure = TaskFailure(error=type(error).__name__, reason=str(error))
        self._update(task, status, failure.model_dump(), reasonForIncompletion=str(error))

    def give_back(self, task: PolledTask, seconds: int) -> None:
        """Put the task back in its queue, to be polled again after `seconds`; it counts as no attempt."""
        self._update(task, "IN_PROGRESS", {"waiting": True}, callbackAfterSeconds=seconds)

    def extend_lease(self, task: PolledTask) -> None:
        self._update(task, "IN_PROGRESS", {}, extendLease=True)

    def is_wanted(self, task: PolledTask) -> bool:
        """False once the task was cancelled, timed out, or given to somebody else."""
        now = self._call("GET", "/tasks/{id}", {"id": task.task_id})
        return isinstance(now, dict) and now.get("status") not in _GONE

    def siblings(self, workflow_id: str) -> tuple[Sibling, ...]:
        """All tasks of a workflow that were scheduled so far, each once."""
        found = self._call("GET", "/workflow/{id}", {"id": workflow_id}, {"includeTasks": "true"})
        latest = {
            task["referenceTaskName"]: Sibling(
                task["taskId"], workflow_id, str(task.get("taskDefName")), task["referenceTaskName"], task["status"]
            )
            for task in sorted(found.get("tasks") or (), key=lambda task: int(task.get("retryCount") or 0))
        }
        return tuple(latest.values())

    def give_up(self, sibling: Sibling, error: WhisperfleetError) -> None:
        """End another task of the workflow as failed for good; whoever works on it finds its result unwanted."""
        self._update(
            sibling,
            "FAILED_WITH_TERMINAL_ERROR",
            TaskFailure(error=type(error).__name__, reason=str(error)).model_dump(),
            reasonForIncompletion=str(error),
        )

    def _update(self, task: PolledTask | Sibling, status: str, output: dict[str, Any], **more: Any) -> None:
        result = {
            "taskId": task.task_id,
            "workflowInstanceId": task.workflow_id,
            "workerId": self.worker,
            "status": status,
            "outputData": output,
            **more,
        }
        self._call("POST", "/tasks", body=result)

    def _call(
        self,
        method: str,
        path: str,
        path_params: dict[str, str] | None = None,
        query: dict[str, str] | None = None,
        body: object = None,
    ) -> Any:
        return self._ask(method, path, path_params, query, body)[0]

    def _ask(
        self,
        method: str,
        path: str,
        path_params: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
        body: object = None,
    ) -> tuple[Any, Mapping[str, str]]:
        """The answer and its headers. Raises NotAdmitted once 401 was the only answer for LOCKED_OUT_S."""
        try:
            answered = self._ask_again_with_a_session(method, path, path_params, query, body)
        except LockedOut as error:
            now = time.monotonic()
            self._refused_since = now if self._refused_since is None else self._refused_since
            if now - self._refused_since < LOCKED_OUT_S:
                raise ServerSilent(f"The server does not accept this worker's session: {error}") from error
            raise NotAdmitted(
                f"{self.server.removesuffix('/api')} does not admit this worker any more: its token was revoked or has "
                "expired; rent the machine anew, or give the worker another token."
            ) from error
        self._refused_since = None
        return answered

    def _ask_again_with_a_session(self, *request: Any) -> tuple[Any, Mapping[str, str]]:
        """The SDK renews a session that has expired, but never asks again for one that it did not get at its start."""
        try:
            return ask(self._api, *request)
        except LockedOut:
            if not self._api.force_refresh_auth_token():
                raise
        return ask(self._api, *request)


def _asked_pause_s(headers: Mapping[str, str]) -> float:
    told = headers.get(_POLL_AFTER, "")
    return min(int(told) / 1000, LONGEST_PAUSE_S) if told.isascii() and told.isdecimal() else 0.0


def call(
    api: Any,
    method: str,
    path: str,
    path_params: dict[str, str] | None = None,
    query: dict[str, Any] | None = None,
    body: object = None,
    timeout_s: float = 30,
) -> Any:
    """One request through the SDK's client; returns the decoded JSON, text where it is none, None where empty.

    Raises ServerSilent where there was no answer, a 5xx one or 429, LockedOut for 401, Forbidden for 403,
    ServerError for every other refusal.
    """
    return ask(api, method, path, path_params, query, body, timeout_s)[0]


def ask(
    api: Any,
    method: str,
    path: str,
    path_params: dict[str, str] | None = None,
    query: dict[str, Any] | None = None,
    body: object = None,
    timeout_s: float = 30,
) -> tuple[Any, Mapping[str, str]]:
    """As `call`, with the answer's headers."""
    from conductor.client.http.rest import ApiException

    try:
        data, _, headers = api.call_api(
            path,
            method,
            path_params=path_params or {},
            query_params=list((query or {}).items()),
            header_params={"Accept": "*/*", "Content-Type": "application/json"},
            body=body,
            response_type="object",
            _return_http_data_only=False,
            _request_timeout=timeout_s,
        )
        return data or None, headers or {}
    except ApiException as error:
        if not error.status or error.status >= 500 or error.status == 429:
            raise ServerSilent(f"The Conductor server did not answer: {error.reason or error.status}.") from error
        if error.status == 401:
            raise LockedOut(f"{method} {path} was answered with 401.") from error
        if error.status == 403:
            raise Forbidden(f"The server refused {method} {path} (403): {error.body}") from error
        raise ServerError(f"The Conductor server refused {method} {path} ({error.status}): {error.body}") from error


def count_live(polls: Any, now_ms: int) -> int:
    """Distinct workers in Conductor's poll data with a sign of life within PRESENCE_TTL_MS."""
    return len(
        {
            poll["domain"]
            for poll in polls or ()
            if poll.get("domain") and now_ms - int(poll.get("lastPollTime") or 0) < PRESENCE_TTL_MS
        }
    )
