"""Watch jobs to their end: look, show, notice that nobody works, tell what became of them."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from workers.errors import JobCancelled, JobError, NoWorkerError, WhisperfleetError, by_name
from workers.storage import Storage
from workers.tasks import ServerSilent
from workflows.client import Client
from workflows.display import Display, failure_line
from workflows.follow import Follower
from workflows.progress import DIARIZATION, JobView, fatal_task, from_workflow, stuck_tasks

LOOK_SECONDS = 0.5
LOOK_SECONDS_A_CHUNK = 0.004  # a look at 500 chunks is some 600 KB of JSON: every 2 s then
NO_WORKER_MS = 15_000  # longer than a worker's start, shorter than a person's patience
SILENT_SECONDS = 120.0  # a server's restart takes up to half a minute


@dataclass
class Watched:
    """A job of this command. on_done is called once with the finished view, and returns the files it wrote."""

    id: str
    name: str
    storage: Callable[[str], Storage]
    on_done: Callable[[JobView, Mapping[str, object]], Mapping[str, str]]
    error: WhisperfleetError | None = None
    view: JobView | None = None
    follower: Follower | None = None
    over: bool = field(default=False)


def watch(
    client: Client,
    jobs: list[Watched],
    display: Display,
    follow: bool,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Until every job is over; errors are put on the jobs. `check` is called at each look and may raise.

    progress tells what is done of running tasks, by id, where somebody knows.

    Raises NoWorkerError where a task waits that no live worker would take, and ServerSilent where
    the server was silent for SILENT_SECONDS.
    """
    heard = time.monotonic()
    silent, back = False, float("-inf")
    while any(not job.over for job in jobs):
        check()
        try:
            alive = cache(client.live_workers)  # asked once a round, whatever the number of jobs
            # who comes back after a silence has heard of no worker since before it: they have to announce themselves
            settled = not silent and time.monotonic() - back > NO_WORKER_MS / 1000
            for job in jobs:
                if not job.over:
                    _look(client, job, display, follow, alive, progress(), settled)
            heard = time.monotonic()
            silent, back = False, heard if silent else back
        except ServerSilent:
            silent = True
            if time.monotonic() - heard > SILENT_SECONDS:
                raise
        time.sleep(_pause(jobs))


def _pause(jobs: list[Watched]) -> float:
    chunks = sum(len(job.view.tasks) for job in jobs if job.view is not None and not job.over)
    return max(LOOK_SECONDS, LOOK_SECONDS_A_CHUNK * chunks)


def _look(
    client: Client,
    job: Watched,
    display: Display,
    follow: bool,
    alive: Callable[[str], int],
    progress: Mapping[str, float],
    settled: bool,
) -> None:
    workflow = client.workflow(job.id)
    for task in workflow.get("tasks") or ():
        if task.get("status") == "IN_PROGRESS" and task.get("taskId") in progress:
            task["outputData"] = {**(task.get("outputData") or {}), "progress": progress[task["taskId"]]}
    now_ms = int(time.time() * 1000)
    view = job.view = from_workflow(workflow, now_ms)
    display.update(view, alive(awaited_lane(view)))
    if follow:
        _tell(workflow, job, display)
    if view.over:
        job.over = True
        _end(job, workflow, display)
    elif settled:
        _check_workers(client, view, now_ms)


def awaited_lane(view: JobView) -> str:
    """The task type under which the workers give signs of life that the job now needs most."""
    return "diarize_chunk" if view.stage == "speakers" else "transcribe_chunk"


def _tell(workflow: Mapping[str, object], job: Watched, display: Display) -> None:
    if job.follower is None:
        plan = plan_output(workflow)
        if plan is None or job.view is None:
            return
        job.follower = Follower(job.storage(str(plan["storage"])), str(plan["job"]))
    assert job.view is not None
    fresh = job.follower.fresh(job.view)
    if fresh:
        display.text(fresh, job.id)


def _end(job: Watched, workflow: Mapping[str, object], display: Display) -> None:
    assert job.view is not None
    files: Mapping[str, str] = {}
    if job.view.stage == "done":
        output = workflow.get("output")
        for warning in (output.get("warnings") if isinstance(output, dict) else None) or ():
            display.warn(failure_line(job.name, str(warning)))
        try:
            files = job.on_done(job.view, workflow)
        except WhisperfleetError as error:
            job.error = error
            display.failed(job.name, error)
            return
    else:
        job.error = ending(job.view)
    display.finish(job.view, files)


def ending(view: JobView) -> WhisperfleetError:
    """The error of a job that ended badly: that of the task that ended it, where one did."""
    if view.stage == "cancelled":
        return JobCancelled(view.reason or "The job was cancelled.")
    culprit = fatal_task(view.tasks)
    kind = by_name(culprit.error or "") if culprit else JobError
    sentence = view.reason or "The job failed and gave no reason."
    return kind(sentence) if kind is not WhisperfleetError else JobError(sentence)


def plan_output(workflow: Mapping[str, object]) -> Mapping[str, object] | None:
    """What plan_media of this execution put out, once it has."""
    tasks = workflow.get("tasks")
    for task in tasks if isinstance(tasks, list) else ():
        if task.get("taskDefName") == "plan_media" and task.get("status") == "COMPLETED":
            return dict(task.get("outputData") or {})
    return None


def _check_workers(client: Client, view: JobView, now_ms: int) -> None:
    for kind in stuck_tasks(view, now_ms, NO_WORKER_MS):
        if client.live_workers(kind) == 0:
            address = client.server.removesuffix("/api")
            raise NoWorkerError(
                f"No worker takes {kind} on {address}: start one with `whisperfleet worker --server {address}`, "
                f"or add {'--no-diarize' if kind in DIARIZATION else '--processes 1 to work here'}."
            )
