"""Demand from a real Conductor and a real gateway, and what is said where one of them is not there."""

import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from provisioning.demand import ConductorDemand, GatewayAdmin, GatewayRefused, GatewaySilent
from provisioning.fleet import Demand
from tests.conftest import Conductor
from tests.support.deployment import wait_until
from tests.support.gateways import ADMIN_KEY, OpenGateway, open_gateway, polled
from workers import settings as environment
from workers.messages import JobInput, PlanMediaOutput
from workers.tasks import TaskClient
from workflows.client import Client

pytestmark = pytest.mark.integration

KINDS = ("transcribe_chunk", "detect_language")
CHUNKS, CHUNK_MS = 4, 90_000


@pytest.fixture
def gateway(conductor: Conductor, tmp_path: Path) -> Iterator[OpenGateway]:
    with open_gateway(conductor.url, tmp_path / "gateway", replace(environment.load(), home=tmp_path)) as opened:
        yield opened


@pytest.fixture
def planned(conductor: Conductor, tmp_path: Path) -> Iterator[str]:
    """A job whose plan is made by hand: four chunks wait, and nobody has cut them."""
    client = Client(conductor.url)
    client.register(force=True)
    job = client.start(JobInput(media="/nowhere.flac"), "demand")
    planner = TaskClient(conductor.url, "planner")
    task = next(task for _ in range(100) if (task := planner.poll("plan_media")) is not None)
    names = [f"chunk_{index}" for index in range(CHUNKS)]
    simple = {"name": "transcribe_chunk", "type": "SIMPLE", "optional": True}
    output = PlanMediaOutput(
        storage=str(tmp_path),
        job="0" * 32,
        media_name="nowhere",
        duration_ms=CHUNKS * CHUNK_MS,
        chunk_count=CHUNKS,
        detect_language=False,
        fork_tasks=tuple(simple | {"taskReferenceName": name} for name in names),
        fork_inputs={name: {"storage": str(tmp_path), "job": "0" * 32, "index": at} for at, name in enumerate(names)},
        workers=1,
        seconds=0,
    )
    planner.complete(task, output)
    wait_until(lambda: len(chunk_tasks(client, job)) == CHUNKS, lambda: f"its chunks are {chunk_tasks(client, job)}")
    yield job
    client.cancel(job, "the test is over")


def chunk_tasks(client: Client, job: str) -> list[str]:
    return [task["status"] for task in client.workflow(job)["tasks"] if task["taskType"] == "transcribe_chunk"]


def nobodys_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_demand_is_what_waits_and_what_rented_machines_hold(
    conductor: Conductor, gateway: OpenGateway, planned: str
) -> None:
    with closing(ConductorDemand(conductor.url, gateway.admin, KINDS)) as source:
        waiting = source.look()
        assert waiting == Demand(CHUNKS * CHUNK_MS, CHUNKS, 0, 0)
        with gateway.machine("demand0001") as machine:
            polled(machine)
            held = source.look()
            assert (held.queued_tasks, held.queued_audio_ms) == (CHUNKS - 1, (CHUNKS - 1) * CHUNK_MS)
            assert held.held_tasks == 1
            assert gateway.admin.workers()[1]["demand0001"].held_tasks == 1
            gateway.admin.lose("demand0001")
            assert source.look() == waiting
        assert "demand0001" not in gateway.admin.workers()[1]


def test_without_a_job_nothing_is_wanted(conductor: Conductor, gateway: OpenGateway) -> None:
    with closing(ConductorDemand(conductor.url, gateway.admin, ("diarize_chunk",))) as source:
        assert source.look() == Demand(0, 0, 0, 0)


def test_a_server_that_is_away_is_no_empty_queue(conductor: Conductor, gateway: OpenGateway) -> None:
    said: list[str] = []
    address = f"http://127.0.0.1:{nobodys_port()}"
    with closing(ConductorDemand(f"{address}/api", gateway.admin, KINDS, say=said.append)) as source:
        assert [source.look().known for _ in range(2)] == [False, False]
    assert len(said) == 1
    assert said[0].startswith(f"The Conductor server does not answer at {address} (")


def test_a_gateway_that_is_away_is_no_empty_fleet(conductor: Conductor) -> None:
    address = f"http://127.0.0.1:{nobodys_port()}"
    said: list[str] = []
    with closing(GatewayAdmin(address, "key")) as admin:
        for ask in (admin.workers, admin.demand, lambda: admin.admit("abcd", KINDS, 0), lambda: admin.lose("abcd")):
            with pytest.raises(GatewaySilent, match=f"The gateway's admin side does not answer at {address} "):
                ask()
        with closing(ConductorDemand(conductor.url, admin, KINDS, say=said.append)) as source:
            assert not source.look().known
    assert len(said) == 1


def test_a_wrong_key_and_a_wrong_address_are_told_apart(conductor: Conductor, gateway: OpenGateway) -> None:
    with (
        closing(GatewayAdmin(gateway.admin_url, "wrong")) as stranger,
        pytest.raises(GatewayRefused, match="does not accept the admin key: WHISPERFLEET_GATEWAY_ADMIN_KEY_FILE must"),
    ):
        stranger.workers()
    with (
        closing(GatewayAdmin(conductor.url.removesuffix("/api"), ADMIN_KEY.decode())) as elsewhere,
        pytest.raises(GatewayRefused),
    ):
        elsewhere.workers()


def test_the_key_goes_into_no_error(gateway: OpenGateway) -> None:
    with closing(GatewayAdmin(f"http://127.0.0.1:{nobodys_port()}", "secret-key")) as admin:
        with pytest.raises(GatewaySilent) as told:
            admin.workers()
        assert "secret-key" not in f"{told.value} {told.value.__cause__!r}"
    assert httpx.get(f"{gateway.admin_url}/admin/instances", timeout=5).status_code == 401
