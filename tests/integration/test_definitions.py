"""The definition files, given to the real server as curl gives them, and the client that finds them there."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Conductor
from tests.support.gateways import chunks
from workers.lanes import ALL_TASKS
from workers.messages import JobInput
from workers.tasks import TaskClient
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
    client = Client(conductor.url)
    before = client.live_workers("transcribe_chunk")
    for name in ("here-1", "here-2"):
        TaskClient(conductor.url, name).announce("transcribe_chunk")
    TaskClient(conductor.url, "here-1").announce("transcribe_chunk")
    assert client.live_workers("transcribe_chunk") == before + 2


def test_what_waits_is_counted_and_what_is_in_hand_is_not(conductor: Conductor, tmp_path: Path) -> None:
    """A worker that counted what others hold would poll in vain for as long as they do."""
    client = TaskClient(conductor.url, "counter")

    def waiting() -> int:
        found = client.waiting(ALL_TASKS)
        assert set(found) == set(ALL_TASKS)
        return found["transcribe_chunk"]

    assert client.poll("cluster_speakers") is None
    assert client.counts
    before = waiting()
    with chunks(conductor.url, tmp_path, 3):
        assert waiting() == before + 3
        held = client.poll("transcribe_chunk")
        assert held is not None
        assert waiting() == before + 2
        client.extend_lease(held)
        assert waiting() == before + 2
        client.give_back(held, 0)
        assert waiting() == before + 3
