"""Conductor as somebody who wants a transcript sees it: register, start, watch, cancel, retry.

The only importer of the Conductor SDK on this side.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from workers.errors import JobError, ServerError
from workers.messages import JobInput
from workers.tasks import ServerSilent, call, count_live

WORKFLOW = "transcribe_media"


@dataclass(frozen=True)
class JobSummary:
    """One line of `jobs list`. started_ms: epoch milliseconds; ended_ms None while it runs."""

    id: str
    status: str
    started_ms: int | None
    ended_ms: int | None
    media: str


class Client:
    """The workflow half of Conductor's API."""

    def __init__(self, server: str) -> None:
        from conductor.client.configuration.configuration import Configuration
        from conductor.client.http.api_client import ApiClient

        logging.getLogger("conductor").setLevel(logging.ERROR)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._api = ApiClient(Configuration(server_api_url=server))
        self.server = server

    def check(self) -> None:
        """Raises ServerError in one sentence where no Conductor answers."""
        address = self.server.removesuffix("/api")
        advice = "correct --server, or leave it out to use the embedded one"
        try:
            found = self._call("GET", "/metadata/taskdefs", timeout_s=8)
        except ServerSilent as error:
            raise ServerError(f"No Conductor server answers at {address}: start it, {advice}.") from error
        except ServerError as error:
            raise ServerError(f"What answers at {address} is no Conductor server: {advice}.") from error
        if found is not None and not isinstance(found, list):  # None: an empty list, a Conductor without tasks yet
            raise ServerError(f"What answers at {address} is no Conductor server: {advice}.")

    def register(self, force: bool = False) -> tuple[str, ...]:
        """Put the task and workflow definitions on the server; returns the names that were put.

        Without `force` only where the workflow is missing: a server shared with others keeps theirs.
        """
        if not force and self._registered():
            return ()
        tasks, workflow = definitions()
        self._call("POST", "/metadata/taskdefs", body=tasks)
        self._call("PUT", "/metadata/workflow", body=[workflow])
        return (*(task["name"] for task in tasks), workflow["name"])

    def start(self, job: JobInput, name: str) -> str:
        """Start a job; returns the workflow's id. name: what `jobs list` and the UI's search show."""
        request = {"name": WORKFLOW, "input": wire_input(job), "correlationId": name[:200]}
        return str(self._call("POST", "/workflow", body=request))

    def workflow(self, job_id: str, tasks: bool = True) -> dict[str, Any]:
        """The execution as Conductor tells it. Raises JobError where there is none of that id."""
        try:
            found = self._call("GET", "/workflow/{id}", {"id": job_id}, {"includeTasks": str(tasks).lower()})
        except ServerError as error:
            if "(404)" in str(error):
                raise JobError(
                    f"There is no job {job_id} on this server; `whisperfleet jobs list` shows them."
                ) from error
            raise
        return dict(found)

    def jobs(self, size: int = 20, running_only: bool = False) -> tuple[JobSummary, ...]:
        """The newest jobs first."""
        query = f"workflowType IN ({WORKFLOW})" + (" AND status IN (RUNNING)" if running_only else "")
        found = self._call("GET", "/workflow/search", query={"query": query, "sort": "startTime:DESC", "size": size})
        return tuple(_summary(row) for row in (found or {}).get("results", ()))

    def running_like(self, job: JobInput) -> str | None:
        """Id of a running job with the same input: what a command that was killed has left behind."""
        for job_id in self._call("GET", "/workflow/running/{name}", {"name": WORKFLOW}) or ():
            if self.workflow(job_id, tasks=False).get("input") == wire_input(job):
                return str(job_id)
        return None

    def cancel(self, job_id: str, reason: str) -> None:
        self._call("DELETE", "/workflow/{id}", {"id": job_id}, {"reason": reason})

    def restart(self, job_id: str) -> None:
        """Run an ended job once more under its id; chunks whose results are in storage are not done again."""
        self._call("POST", "/workflow/{id}/restart", {"id": job_id}, {"useLatestDefinitions": "true"})

    def forget(self, job_id: str) -> None:
        """Remove the execution's record from the server."""
        self._call("DELETE", "/workflow/{id}/remove", {"id": job_id}, {"archiveWorkflow": "false"})

    def live_workers(self, kind: str) -> int:
        polls = self._call("GET", "/tasks/queue/polldata", query={"taskType": kind})
        return count_live(polls, int(time.time() * 1000))

    def _registered(self) -> bool:
        try:
            self._call("GET", "/metadata/workflow/{name}", {"name": WORKFLOW})
        except ServerError as error:
            if "(404)" in str(error):
                return False
            raise
        return True

    def _call(
        self,
        method: str,
        path: str,
        path_params: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
        body: object = None,
        timeout_s: float = 30,
    ) -> Any:
        return call(self._api, method, path, path_params, query, body, timeout_s)


def definitions() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The task definitions and the workflow definition: the same files the UI, curl and the Conductor CLI take."""
    folder = resources.files("workflows") / "definitions"
    tasks = json.loads((folder / "tasks.json").read_text())
    workflow = json.loads((folder / f"{WORKFLOW}.json").read_text())
    return tasks, workflow


def wire_input(job: JobInput) -> dict[str, Any]:
    """What of a job differs from the defaults: an execution shows what was asked for, and no more."""
    return job.model_dump(mode="json", exclude_defaults=True)


def _summary(row: Mapping[str, Any]) -> JobSummary:
    return JobSummary(
        id=row["workflowId"],
        status=row["status"],
        started_ms=_epoch_ms(row.get("startTime")),
        ended_ms=_epoch_ms(row.get("endTime")) if row["status"] != "RUNNING" else None,
        media=_media_of(row),
    )


def _media_of(row: Mapping[str, Any]) -> str:
    """The correlation id, or what the index's rendering of the input ("{media=…, …}") says."""
    if row.get("correlationId"):
        return str(row["correlationId"])
    text = str(row.get("input", ""))
    return text.split("media=", 1)[-1].split(", ", 1)[0].rstrip("}") if "media=" in text else "?"


def _epoch_ms(text: str | None) -> int | None:
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None
