"""A gateway in this process, at real sockets, before a real Conductor; and jobs of a few chunks to do through it."""

import asyncio
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from provisioning.demand import GatewayAdmin
from provisioning.gateway import Gateway, GatewaySpec, running
from provisioning.grants import KINDS
from workers.messages import Chunk, ChunkResult, JobInput, JobKeys, JobPlan, TranscribeChunkOutput
from workers.settings import Settings
from workers.spans import Span
from workers.storage import LocalStorage
from workers.transcript import Decode, Segment

BARE = httpx.Client(timeout=20, trust_env=False, verify=False)
"""Without a session. One for all: a client reads the system's certificates when it is made, which takes a while."""

SIGNING_KEY, ADMIN_KEY = b"s" * 32, b"a" * 32
HOUR_MS = 3_600_000
CHUNK_MS = 60_000


@dataclass
class OpenGateway:
    """url and admin_url are where it listens; heard is what it said to whoever started it."""

    url: str
    admin_url: str
    folder: Path
    gateway: Gateway
    heard: list[str]
    admin: GatewayAdmin = field(init=False)

    def __post_init__(self) -> None:
        self.admin = GatewayAdmin(self.admin_url, ADMIN_KEY.decode())

    @property
    def api(self) -> str:
        return f"{self.url}/api"

    def admit(self, nonce: str, kinds: tuple[str, ...] = KINDS, expires_ms: int | None = None) -> str:
        """A machine token."""
        return self.admin.admit(nonce, kinds, expires_ms or round(time.time() * 1000) + HOUR_MS)

    def machine(self, nonce: str, kinds: tuple[str, ...] = KINDS) -> httpx.Client:
        """A machine with a session, as a plain HTTP client; close it."""
        token = self.admit(nonce, kinds)
        answer = BARE.post(f"{self.api}/token", json={"keyId": nonce, "keySecret": token})
        assert answer.status_code == 200, answer.text
        session = {"X-Authorization": answer.json()["token"]}
        return httpx.Client(base_url=self.api, headers=session, timeout=20, trust_env=False, verify=False)

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    def said(self, event: str, nonce: str | None = None) -> list[dict[str, Any]]:
        """Lines of the audit log about an event, of one machine or all."""
        return [line for line in self.audit() if line["event"] == event and nonce in (None, line.get("instance"))]


@contextmanager
def open_gateway(server: str, folder: Path, settings: Settings, **more: Any) -> Iterator[OpenGateway]:
    """A gateway whose state lies in `folder`; more: of its spec. Its loop runs in a thread until the block ends."""
    sockets = (_bound(), _bound())
    addresses = [listener.getsockname()[:2] for listener in sockets]
    spec = GatewaySpec(
        **{
            "server": server,
            "public_url": f"http://127.0.0.1:{addresses[0][1]}",
            "listen": addresses[0],
            "admin": addresses[1],
            "folder": folder,
            "signing_key": SIGNING_KEY,
            "admin_key": ADMIN_KEY,
            **more,
        }
    )
    opened: list[Gateway | BaseException] = []
    loops: list[asyncio.AbstractEventLoop] = []
    heard: list[str] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        try:
            async with running(spec, settings, sockets, heard.append) as gateway:
                opened.append(gateway)
                ready.set()
                await stop.wait()
        except BaseException as error:
            opened.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    ready.wait(30)
    assert opened, "the gateway did not start"
    if isinstance(opened[0], BaseException):
        for listener in sockets:
            listener.close()
        raise opened[0]
    scheme = "https" if spec.certificate else "http"
    found = OpenGateway(
        f"{scheme}://127.0.0.1:{addresses[0][1]}", f"http://127.0.0.1:{addresses[1][1]}", folder, opened[0], heard
    )
    try:
        yield found
    finally:
        found.admin.close()
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(30)
        for listener in sockets:
            listener.close()


def _bound() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    return listener


@dataclass
class Chunks:
    """A workflow of some transcribe_chunk tasks, whose job lies in `storage`, cut and not yet heard."""

    workflow_id: str
    job: str
    storage: LocalStorage
    http: httpx.Client

    @property
    def keys(self) -> JobKeys:
        return JobKeys(self.job)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/workflow/{self.workflow_id}?includeTasks=true").json()
        return found

    def ended(self, within_s: float = 15) -> str:
        """The workflow's status once it is over, or when the time is."""
        ends = time.monotonic() + within_s
        while (status := str(self.state()["status"])) == "RUNNING" and time.monotonic() < ends:
            time.sleep(0.05)
        return status

    def attempts(self, reference: str) -> list[dict[str, Any]]:
        """All attempts of a task, the first one first."""
        tasks = [task for task in self.state()["tasks"] if task["referenceTaskName"] == reference]
        return sorted(tasks, key=lambda task: int(task["retryCount"]))

    def result(self, index: int, **changes: Any) -> ChunkResult:
        """What an honest machine would store."""
        chunk = Chunk.model_validate_json(self.storage.get_bytes(self.keys.chunk(index)))
        start = chunk.audio.start_ms
        said = Segment(start_ms=start + 100, end_ms=start + 900, text="so it is")
        told: dict[str, Any] = {
            "index": index,
            "chunk": chunk,
            "language": "en",
            "segments": (said,),
            "decodes": (Decode(settings={"beam_size": 5}, score=-0.2, kept=True),),
            "worker": "whoever",
            "attempts": 1,
            "seconds": {"inference": 0.5},
        }
        return ChunkResult(**(told | changes))

    def output(self, index: int, **changes: Any) -> dict[str, Any]:
        """What it would then hand in."""
        told: dict[str, Any] = {
            "index": index,
            "key": self.keys.result(index),
            "worker": "whoever",
            "attempts": 1,
            "audio_ms": CHUNK_MS,
            "words": 3,
            "seconds": {"fetch": 0.1, "inference": 0.5},
        }
        return TranscribeChunkOutput(**(told | changes)).model_dump(mode="json")


@contextmanager
def chunks(server: str, folder: Path, count: int) -> Iterator[Chunks]:
    """Starts such a workflow, and ends it with the block, so that its tasks are nobody else's."""
    storage = LocalStorage(folder, own=True)
    job = hashlib.sha256(f"{folder}{time.time_ns()}".encode()).hexdigest()[:32]
    _write_job(storage, job, count)
    with httpx.Client(base_url=server, timeout=30, trust_env=False, verify=False) as http:
        _register(http, count)
        sent = http.post(f"/workflow/gateway_chunks_{count}", json={"storage": str(folder), "job": job})
        assert sent.status_code == 200, sent.text
        found = Chunks(sent.text.strip(), job, storage, http)
        try:
            yield found
        finally:
            http.delete(f"/workflow/{found.workflow_id}")  # refused where it is over, which is as well


def _write_job(storage: LocalStorage, job: str, count: int) -> None:
    keys, length = JobKeys(job), count * CHUNK_MS
    plan = JobPlan(
        job=job,
        request=JobInput(media="/home/somebody/secret recording.mp4", model="demo", language="en", prompt=""),
        media_name="secret recording",
        media_identity="f" * 64,
        duration_ms=length,
        span=Span.of(0, length),
        wanted_cuts_ms=tuple(range(CHUNK_MS, length, CHUNK_MS)),
    )
    storage.put_bytes(keys.plan, plan.model_dump_json().encode())
    for index in range(count):
        span = Span.of(index * CHUNK_MS, (index + 1) * CHUNK_MS)
        audio = b"fLaC" + bytes([index]) * 1000
        chunk = Chunk(index=index, core=span, audio=span, audio_sha256=hashlib.sha256(audio).hexdigest())
        storage.put_bytes(keys.audio(index), audio)
        storage.put_bytes(keys.chunk(index), chunk.model_dump_json().encode())


def _register(http: httpx.Client, count: int) -> None:
    task_defs = json.loads((Path(__file__).parents[2] / "workflows" / "definitions" / "tasks.json").read_text())
    wanted = [task for task in task_defs if task["name"] in KINDS]
    assert http.post("/metadata/taskdefs", json=wanted).status_code == 200
    names = [f"chunk_{index}" for index in range(count)]
    given = {"storage": "${workflow.input.storage}", "job": "${workflow.input.job}"}
    simple = [
        {
            "name": "transcribe_chunk", "taskReferenceName": name, "type": "SIMPLE",
            "inputParameters": given | {"index": index},
        }
        for index, name in enumerate(names)
    ]  # fmt: skip
    fork = {"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN", "forkTasks": [[task] for task in simple]}
    join = {"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": names, "joinMode": "SYNC"}
    definition = {
        "name": f"gateway_chunks_{count}", "version": 1, "schemaVersion": 2, "ownerEmail": "whisperfleet@localhost.org",
        "timeoutSeconds": 0, "timeoutPolicy": "ALERT_ONLY", "tasks": [fork, join],
    }  # fmt: skip
    assert http.put("/metadata/workflow", json=[definition]).status_code == 200


def polled(machine: httpx.Client, kind: str = "transcribe_chunk", within_s: float = 15) -> dict[str, Any]:
    """The next task that this machine gets."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        answer = machine.get(f"/tasks/poll/{kind}", params={"workerid": "somebody"})
        if answer.status_code == 200:
            found: dict[str, Any] = answer.json()
            return found
        assert answer.status_code == 204, answer.text
        time.sleep(0.06)
    raise AssertionError(f"no {kind} came within {within_s} s")


def update(task: dict[str, Any], status: str, output: object = None, **more: object) -> dict[str, Any]:
    """The body that hands a task in."""
    return {
        "taskId": task["taskId"],
        "workflowInstanceId": task["workflowInstanceId"],
        "workerId": "somebody",
        "status": status,
        "outputData": {} if output is None else output,
        **more,
    }


def objects(task: dict[str, Any], key: str) -> str:
    """The address of an object of a task."""
    return f"{task['inputData']['storage']}/{key}"


def finish(machine: httpx.Client, job: Chunks, task: dict[str, Any]) -> httpx.Response:
    """Do a task honestly: store its result, hand it in."""
    index = task["inputData"]["index"]
    stored = BARE.put(objects(task, job.keys.result(index)), content=job.result(index).model_dump_json().encode())
    assert stored.status_code == 204, stored.text
    return machine.post("/tasks", json=update(task, "COMPLETED", job.output(index)))
