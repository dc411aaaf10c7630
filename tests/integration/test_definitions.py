"""The definition files, given to the real server as curl gives them, and the client that finds them there."""

from typing import Any

import httpx
import pytest

from tests.conftest import Conductor
from workers.lanes import ALL_TASKS
from workers.messages import JobInput
from workflows.client import Client, definitions

pytestmark = pytest.mark.integration


def kept(file: Any, server: Any) -> bool:
    """Whether all that the file says came back; the server adds fields of its own."""
    if isinstance(file, dict):
        return all(kept(value, server.get(name)) for name, value in file.items())
    if isinstance(file, list):
        return len(file) == len(server) and all(kept(a, b) for a, b in zip(file, server, strict=True))
    return bool(file == server)


def test_the_files_load_unchanged(conductor: Conductor) -> None:
    tasks, workflow = definitions()
    metadata = f"{conductor.url}/metadata"
    assert httpx.post(f"{metadata}/taskdefs", json=tasks, timeout=30).status_code == 200
    # PUT where curl's first POST would do: other tests of this run have registered before
    assert httpx.put(f"{metadata}/workflow", json=[workflow], timeout=30).status_code == 200
    found = httpx.get(f"{metadata}/workflow/{workflow['name']}", timeout=30).json()
    assert kept(workflow, found)
    for task in tasks:
        assert kept(task, httpx.get(f"{metadata}/taskdefs/{task['name']}", timeout=30).json())


def test_every_task_of_the_workflow_is_defined_and_served() -> None:
    tasks, workflow = definitions()
    assert {task["name"] for task in tasks} == set(ALL_TASKS)
    assert all(task["responseTimeoutSeconds"] <= 10 and task["retryCount"] >= 1 for task in tasks)
    assert set(workflow["inputParameters"]) == set(JobInput.model_fields)


def test_a_shared_servers_definitions_are_left_alone_unless_asked(conductor: Conductor) -> None:
    client = Client(conductor.url)
    client.register(force=True)
    assert client.register() == ()
    assert "transcribe_media" in client.register(force=True)


def test_a_worker_is_counted_while_it_gives_signs_of_life(conductor: Conductor) -> None:
    from workers.tasks import TaskClient

    client = Client(conductor.url)
    before = client.live_workers("transcribe_chunk")
    for name in ("here-1", "here-2"):
        TaskClient(conductor.url, name).announce("transcribe_chunk")
    TaskClient(conductor.url, "here-1").announce("transcribe_chunk")
    assert client.live_workers("transcribe_chunk") == before + 2
