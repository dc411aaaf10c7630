"""Conductor as a worker sees it: poll a task, keep its lease, hand in its result.

The only importer of the Conductor SDK on this side. Its `TaskRunner` is not used: it gives up a
result after four failed tries, cannot hold a task back until an engine is free, and knows no
order among task types. Its transport and authentication are.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any

from workers.errors import ServerError, TransientError, WhisperfleetError
from workers.messages import Message, TaskFailure

log = logging.getLogger(__name__)

PRESENCE_TTL_MS = 20_000  # a worker says "here" every 5 s; four missed beats and it is gone
_TERMINAL = frozenset({"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "FAILED_WITH_TERMINAL_ERROR", "CANCELED"})
_GONE = _TERMINAL | {"TIMED_OUT", "SKIPPED"}


class ServerSilent(TransientError):
    """The server did not answer: it may be restarting."""


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

    def poll(self, kind: str) -> PolledTask | None:
        task = self._call("GET", "/tasks/poll/{kind}", {"kind": kind}, {"workerid": self.worker})
        if not isinstance(task, dict):
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

    def announce(self, kind: str) -> None:
        """Say that this worker is alive, also while it is too busy to poll.

        Conductor keeps the time of the last poll per task type *and domain*; a poll in a domain of
        one's own, where no task is ever put, is the one sign of life that every Conductor records
        and that does not take work.
        """
        self._call("GET", "/tasks/poll/{kind}", {"kind": kind}, {"workerid": self.worker, "domain": self.worker})

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
        return call(self._api, method, path, path_params, query, body)


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

    Raises ServerSilent where there was no answer or a 5xx one, ServerError for every other refusal.
    """
    from conductor.client.http.rest import ApiException

    try:
        return api.call_api(
            path,
            method,
            path_params=path_params or {},
            query_params=list((query or {}).items()),
            header_params={"Accept": "*/*", "Content-Type": "application/json"},
            body=body,
            response_type="object",
            _return_http_data_only=True,
            _request_timeout=timeout_s,
        ) or None  # fmt: skip
    except ApiException as error:
        if not error.status or error.status >= 500:
            raise ServerSilent(f"The Conductor server did not answer: {error.reason or error.status}.") from error
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
