"""`whisperfleet jobs`."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from workers.settings import Settings
    from workflows.client import Client
    from workflows.display import Display

server_option = click.option("--server", metavar="URL", help="The Conductor server.  [default: the embedded one]")
json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
folder_option = click.option(
    "-o", "--output-dir", type=click.Path(path_type=Path), default=Path("transcripts"), show_default=True
)


@click.group(short_help="Jobs: list, show, watch, cancel, retry, report, delete.")
def jobs() -> None:
    """The jobs on a server."""


@jobs.command(name="list")
@click.option("-n", "count", type=click.IntRange(1, 1000), default=20, show_default=True)
@server_option
@json_option
def list_jobs(count: int, server: str | None, as_json: bool) -> None:
    """List the newest jobs."""
    from dataclasses import asdict

    with _client(server) as (client, _, _):
        rows = client.jobs(count)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    if not rows:
        print("No jobs yet.")
    for row in rows:
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime((row.started_ms or 0) / 1000))
        print(f"{row.id}  {row.status.lower():<10} {began}  {row.media}")


@jobs.command()
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def show(job_id: str, server: str | None, as_json: bool) -> None:
    """Show one job: how far it is, or how it ended."""
    from workflows.display import job_event, progress_line, summary_lines
    from workflows.progress import from_workflow
    from workflows.watch import awaited_lane

    with _client(server) as (client, _, _):
        workflow = client.workflow(job_id)
        view = from_workflow(workflow, int(time.time() * 1000))
        alive = client.live_workers(awaited_lane(view))
    output = workflow.get("output") or {}
    if as_json:
        print(json.dumps({**job_event(view), "output": output}, indent=1))
    elif view.over:
        print("\n".join(summary_lines(view, output.get("files") or {})))
        for warning in output.get("warnings") or ():
            print(f"  {warning}")
    else:
        print(progress_line(view, alive))


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--follow", is_flag=True, help="Print the transcript as it grows.")
@folder_option
@server_option
@json_option
def watch(job_id: str, follow: bool, output_dir: Path, server: str | None, as_json: bool) -> None:
    """Watch a job to its end; Ctrl-C leaves it running. Writes its files to OUTPUT_DIR."""
    from workflows.watch import watch as watch_jobs

    with _client(server, as_json) as (client, settings, display):
        job = _watched(client, job_id, settings, output_dir)
        watch_jobs(client, [job], display, follow)
    sys.exit(job.error.exit_code if job.error else 0)


@jobs.command()
@click.argument("job_id", metavar="ID")
@server_option
def cancel(job_id: str, server: str | None) -> None:
    """Cancel a running job; what its chunks have brought stays for a retry."""
    with _client(server) as (client, _, _):
        _ensure_state(client, job_id, running=True)
        client.cancel(job_id, "cancelled by its user")
    print(f"Cancelled {job_id}.")


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--processes", type=click.IntRange(1, 256), help="Worker processes here.")
@click.option("--threads", type=click.IntRange(1, 256), help="Processor threads of each.")
@click.option("--device", metavar="NAME", default="auto", show_default=True)
@click.option("--follow", is_flag=True, help="Print the transcript as it grows.")
@folder_option
@server_option
@json_option
def retry(
    job_id: str,
    processes: int | None,
    threads: int | None,
    device: str,
    follow: bool,
    output_dir: Path,
    server: str | None,
    as_json: bool,
) -> None:
    """Run an ended job again: only what is missing is done.

    Of a job whose speakers were lost the words are kept, and the speakers are added.
    """
    from workers.messages import JobInput
    from workflows.session import WorkerWish, interruptible, session

    settings, display = _surroundings(server, as_json)
    try:
        with interruptible(), _client(server, as_json) as (client, _, _):
            _ensure_state(client, job_id, running=False)
            asked = JobInput.decode(client.workflow(job_id, tasks=False).get("input") or {})
            wish = WorkerWish(asked.engine, asked.model, processes, threads, device)
            with session(settings, wish, display) as running:
                job = _watched(client, job_id, settings, output_dir)
                _forget_undone_audio(client, job_id, settings)
                client.restart(job_id)
                running.run([job], display, follow)
    finally:
        display.close()
    sys.exit(job.error.exit_code if job.error else 0)


@jobs.command()
@click.argument("job_id", metavar="ID")
@folder_option
@server_option
def report(job_id: str, output_dir: Path, server: str | None) -> None:
    """Draw a timeline of a job, words and speakers: a PNG and an HTML page in OUTPUT_DIR."""
    from workflows.outputs import check_folder
    from workflows.report import draw

    check_folder(output_dir)
    with _client(server) as (client, _, _):
        workflow = client.workflow(job_id)
    for path in draw(workflow, output_dir, f"job-{job_id}"):
        print(path)


@jobs.command()
@click.argument("job_id", metavar="ID")
@server_option
def delete(job_id: str, server: str | None) -> None:
    """Delete an ended job: its objects in storage and its record on the server."""
    from workers.messages import JobKeys
    from workers.storage import open_storage
    from workflows.watch import plan_output

    with _client(server) as (client, settings, _):
        _ensure_state(client, job_id, running=False)
        plan = plan_output(client.workflow(job_id))
        count = 0
        if plan is not None:
            count = open_storage(str(plan["storage"]), settings).delete(JobKeys(str(plan["job"])).prefix)
        client.forget(job_id)
    print(f"Deleted job {job_id} and {count} objects.")


def _forget_undone_audio(client: "Client", job_id: str, settings: "Settings") -> None:
    """Let the split write the audio of chunks without a result again: it may be what they failed on."""
    from workers.messages import JobKeys
    from workers.storage import open_storage
    from workflows.watch import plan_output

    plan = plan_output(client.workflow(job_id))
    if plan is None:
        return
    storage, keys = open_storage(str(plan["storage"]), settings), JobKeys(str(plan["job"]))
    for index in range(int(str(plan["chunk_count"]))):
        if not storage.exists(keys.result(index)):
            storage.delete(keys.chunk(index))
            storage.delete(keys.audio(index))


def _surroundings(server: str | None, as_json: bool) -> "tuple[Settings, Display]":
    from dataclasses import replace

    from workers import settings as environment
    from workflows.display import make_display

    settings = replace(environment.load(), server=environment.server_address(server))
    return settings, make_display(as_json, sys.stderr.isatty())


@contextmanager
def _client(server: str | None, as_json: bool = False) -> "Iterator[tuple[Client, Settings, Display]]":
    from workflows.session import connected

    settings, display = _surroundings(server, as_json)
    try:
        with connected(settings, display) as client:
            yield client, settings, display
    finally:
        display.close()


def _watched(client: "Client", job_id: str, settings: "Settings", folder: Path) -> Any:
    from functools import partial

    from workers.storage import open_storage
    from workflows.outputs import check_folder
    from workflows.progress import from_workflow
    from workflows.transcription import delivered
    from workflows.watch import Watched

    check_folder(folder)
    name = from_workflow(client.workflow(job_id), int(time.time() * 1000)).media_name
    return Watched(
        id=job_id,
        name=name,
        storage=lambda address: open_storage(address, settings),
        on_done=partial(delivered, settings=settings, folder=folder, stem=Path(name).stem),
    )


def _ensure_state(client: "Client", job_id: str, running: bool) -> None:
    """Raises JobError where the job runs although it must have ended, or the other way round."""
    from workers.errors import JobError

    status = client.workflow(job_id, tasks=False).get("status")
    if (status in ("RUNNING", "PAUSED")) != running:
        advice = "it is over already" if running else f"cancel it first: `whisperfleet jobs cancel {job_id}`"
        raise JobError(f"Job {job_id} is {str(status).lower()}: {advice}.")
