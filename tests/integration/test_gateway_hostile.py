"""Machines of strangers that want more than their task: each is refused, and each refusal is in the audit log.

What they try with objects and results is in test_gateway_objects.py.
"""

import base64
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from provisioning import gateway_desk, gateway_guard, gateway_leases
from provisioning.gateway_faults import MOST_ASIDES
from provisioning.gateway_limits import Allowance, TokenBucket
from provisioning.gateway_protocol import PatientProtocol
from provisioning.gateway_tokens import Machine, Tokens
from tests.conftest import Conductor
from tests.support.gateways import (
    BARE,
    SIGNING_KEY,
    OpenGateway,
    chunks,
    finish,
    objects,
    open_gateway,
    polled,
    update,
)
from workers import settings as environment

pytestmark = pytest.mark.integration

KINDS = ("transcribe_chunk", "detect_language", "diarize_chunk")
SOON = int(time.time()) + 3600


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def gateway(conductor: Conductor, folder: Path) -> Iterator[OpenGateway]:
    settings = replace(environment.load(), home=folder)
    with open_gateway(conductor.url, folder / "gateway", settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def stranger(gateway: OpenGateway) -> Iterator[httpx.Client]:
    with gateway.machine("stranger01") as machine:
        yield machine


class Refusals:
    """The audit log's refusals from here on."""

    def __init__(self, gateway: OpenGateway) -> None:
        self._gateway = gateway
        self._before = len(gateway.said("refused"))

    def told(self) -> list[dict[str, Any]]:
        return self._gateway.said("refused")[self._before :]

    def one(self) -> dict[str, Any]:
        found = self.told()
        assert len(found) == 1, found
        return found[0]


def unsigned(claims: dict[str, Any]) -> str:
    """A token with alg none, made by hand: no library would."""

    def part(data: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part(claims)}."


def forged() -> dict[str, tuple[str | None, str]]:
    """Sessions that are none, and what the answer says."""
    good = {"sub": "stranger01", "k": ",".join(KINDS), "exp": SOON, "x": SOON * 1000, "aud": "s"}
    machine = Machine("stranger01", KINDS, SOON * 1000)
    genuine = Tokens(SIGNING_KEY).session(machine)
    head, body, tail = genuine.split(".")
    other = base64.urlsafe_b64encode(json.dumps({**good, "sub": "another001"}).encode()).rstrip(b"=").decode()
    return {
        "none at all": (None, "MISSING_TOKEN"),
        "empty": ("", "MISSING_TOKEN"),
        "no token": ("nonsense", "INVALID_TOKEN"),
        "alg none": (unsigned(good), "INVALID_TOKEN"),
        "another key": (jwt.encode(good, b"o" * 32, algorithm="HS256"), "INVALID_TOKEN"),
        "another algorithm": (jwt.encode(good, SIGNING_KEY * 2, algorithm="HS512"), "INVALID_TOKEN"),
        "tampered claims": (f"{head}.{other}.{tail}", "INVALID_TOKEN"),
        "tampered signature": (f"{head}.{body}.{tail[:-4]}AAAA", "INVALID_TOKEN"),
        "without expiry": (jwt.encode({**good, "exp": None}, SIGNING_KEY, algorithm="HS256"), "INVALID_TOKEN"),
        "without audience": (jwt.encode({"sub": "a", "exp": SOON}, SIGNING_KEY, algorithm="HS256"), "INVALID_TOKEN"),
        "the machine's own token": (Tokens(SIGNING_KEY).machine(machine), "INVALID_TOKEN"),
        "expired": (jwt.encode({**good, "exp": SOON - 7200}, SIGNING_KEY, algorithm="HS256"), "EXPIRED_TOKEN"),
        "very long": ("A" * 30_000, "INVALID_TOKEN"),
    }


@pytest.mark.parametrize("name", forged())
def test_without_a_good_session_nothing_opens(gateway: OpenGateway, name: str) -> None:
    token, code = forged()[name]
    refusals = Refusals(gateway)
    headers = {} if token is None else {"X-Authorization": token}
    answer = BARE.get(f"{gateway.api}/tasks/poll/transcribe_chunk", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, code)
    assert refusals.one()["reason"] == code
    assert not token or len(token) < 20 or token[:20] not in json.dumps(refusals.told())


def test_a_revoked_session_opens_nothing_and_is_not_renewed(gateway: OpenGateway) -> None:
    token = gateway.admit("revoked002")
    secret = {"keyId": "revoked002", "keySecret": token}
    session = BARE.post(f"{gateway.api}/token", json=secret).json()["token"]
    gateway.admin.lose("revoked002")
    refusals = Refusals(gateway)
    answer = BARE.get(f"{gateway.api}/tasks/poll/transcribe_chunk", headers={"Authorization": f"Bearer {session}"})
    assert (answer.status_code, answer.json()["error"]) == (401, "REVOKED_TOKEN")
    assert BARE.post(f"{gateway.api}/token", json=secret).status_code == 401
    assert [line["reason"] for line in refusals.told()] == ["REVOKED_TOKEN", "token exchange: the token was revoked"]
    with pytest.raises(Exception, match="409"):
        gateway.admit("revoked002")


def exchanges() -> dict[str, object]:
    tokens, machine = Tokens(SIGNING_KEY), Machine("exchange01", KINDS, SOON * 1000)
    return {
        "another's token": {"keyId": "exchange02", "keySecret": tokens.machine(machine)},
        "a session": {"keyId": "exchange01", "keySecret": tokens.session(machine)},
        "alg none": {"keyId": "exchange01", "keySecret": unsigned({"sub": "exchange01", "exp": SOON, "aud": "m"})},
        "another key": {"keyId": "exchange01", "keySecret": Tokens(b"o" * 32).machine(machine)},
        "expired": {"keyId": "exchange01", "keySecret": tokens.machine(replace(machine, expires_ms=1_000_000))},
        "no strings": {"keyId": ["exchange01"], "keySecret": {"a": 1}},
        "nothing": {},
    }


@pytest.mark.parametrize("name", exchanges())
def test_only_its_own_token_is_exchanged(gateway: OpenGateway, name: str) -> None:
    refusals = Refusals(gateway)
    answer = BARE.post(f"{gateway.api}/token", json=exchanges()[name])
    assert answer.status_code == 401  # never 404: an SDK would go on without authentication
    assert refusals.one()["reason"].startswith("token exchange:")


OTHER_APIS = [
    ("GET", "/api/metadata/taskdefs"),
    ("POST", "/api/metadata/workflow"),
    ("PUT", "/api/metadata/taskdefs"),
    ("DELETE", "/api/metadata/taskdefs/transcribe_chunk"),
    ("POST", "/api/workflow/transcribe_media"),
    ("GET", "/api/workflow/6592b37e-33b7-4073-bbcc-13400a108cd0"),
    ("POST", "/api/workflow/bulk/terminate"),
    ("GET", "/api/tasks/search"),
    ("GET", "/api/tasks/queue/all"),
    ("GET", "/api/tasks/queue/sizes"),
    ("GET", "/api/tasks/queue/polldata/all"),
    ("POST", "/api/tasks/queue/requeue/transcribe_chunk"),
    ("GET", "/api/tasks/externalstoragelocation"),
    ("POST", "/api/tasks/6592b37e/chunk_0/COMPLETED"),
    ("GET", "/api/tasks/6592b37e/log"),
    ("DELETE", "/api/tasks/6592b37e"),
    ("PATCH", "/api/tasks"),
    ("GET", "/api/admin/config"),
    ("GET", "/admin/instances"),
    ("POST", "/admin/instances"),
    ("GET", "/metrics"),
    ("GET", "/"),
    ("GET", "/swagger-ui/index.html"),
    ("GET", "/api/token"),
    ("TRACE", "/api/tasks"),
]


@pytest.mark.parametrize(("method", "path"), OTHER_APIS)
def test_every_other_api_is_closed(gateway: OpenGateway, stranger: httpx.Client, method: str, path: str) -> None:
    refusals = Refusals(gateway)
    body = {"name": "evil"} if method in ("POST", "PUT", "PATCH") else None
    answer = stranger.request(method, f"{gateway.url}{path}", json=body)
    assert answer.status_code == 403
    assert (refusals.one()["method"], refusals.one()["path"]) == (method, path)
    assert BARE.request(method, f"{gateway.url}{path}", json=body).status_code in (401, 403)


PATHS = [
    "/api/tasks/poll/..%2f..%2fmetadata%2ftaskdefs",
    "/api/tasks/poll/../../metadata/taskdefs",
    "/api/tasks/poll/%2e%2e/%2e%2e/metadata/taskdefs",
    "/api/tasks/poll/%252e%252e%252fmetadata",
    "/api/tasks/poll/transcribe_chunk%00",
    "/api/tasks/poll/transcribe_chunk%3fdomain=x",
    "/api/tasks/poll/transcribe_chunk;a=b",
    "/api/tasks/poll/transcribe_chunk%0d%0aX:y",
    "/api/tasks/poll//transcribe_chunk",
    "/api/tasks//poll/transcribe_chunk",
    "//api/tasks/poll/transcribe_chunk",
    "/api/./tasks/poll/transcribe_chunk",
    "/api/tasks/poll/transcribe_chunk/",
    "/api/tasks/poll\\transcribe_chunk",
    "/api/tasks/..%5c..%5cmetadata",
    "/health/../api/metadata/taskdefs",
    "/objects/../api/metadata/taskdefs",
    "/API/tasks/poll/transcribe_chunk",
    "http://127.0.0.1:1/api/metadata/taskdefs",
    "/api/tasks/poll/" + "a" * 2_000,
]


@pytest.mark.parametrize("path", PATHS)
def test_tricks_with_paths_lead_nowhere(gateway: OpenGateway, stranger: httpx.Client, path: str) -> None:
    """As they are, by a socket: a client would tidy them."""
    refusals = Refusals(gateway)
    head = f"GET {path} HTTP/1.1\r\nHost: x\r\nX-Authorization: {stranger.headers['X-Authorization']}\r\n\r\n"
    assert spoken(gateway, head.encode()).startswith(b"HTTP/1.1 403")
    assert refusals.one()["status"] == 403
    bare = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"
    assert spoken(gateway, bare.encode())[9:12] in (b"401", b"403")


def spoken(gateway: OpenGateway, said: bytes, pieces: tuple[bytes, ...] = (), pause_s: float = 0.0) -> bytes:
    """What the gateway answers to these bytes: all it sends until it falls silent or hangs up."""
    with closing(socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=5)) as line:
        line.sendall(said)
        for piece in pieces:
            time.sleep(pause_s)
            try:
                line.sendall(piece)
            except OSError:
                break
        try:
            return line.recv(65_536)
        except ConnectionResetError:
            return b""


def test_two_requests_in_one_and_broken_http_are_no_way_in(gateway: OpenGateway, stranger: httpx.Client) -> None:
    session = stranger.headers["X-Authorization"]
    smuggled = (
        "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
        f"X-Authorization: {session}\r\n\r\n0\r\n\r\nGET /api/metadata/taskdefs HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert b"HTTP/1.1 200" not in spoken(gateway, smuggled.encode())
    assert spoken(gateway, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").startswith(b"HTTP/1.1 400")
    assert spoken(gateway, b"GET /api/tasks HTTP/1.1\r\n" + b"X: " + b"a" * 200_000).startswith(b"HTTP/1.1 400")


def test_kinds_that_are_not_in_the_token_are_not_given(gateway: OpenGateway) -> None:
    with gateway.machine("onlylang01", ("detect_language",)) as machine:
        for kind in ("transcribe_chunk", "plan_media", "stitch_transcript", "cluster_speakers", "evil"):
            for path in (f"/tasks/poll/{kind}", f"/tasks/poll/batch/{kind}", f"/tasks/queue/polldata?taskType={kind}"):
                refusals = Refusals(gateway)
                assert machine.get(path).status_code == 403
                assert refusals.one()["kind"] == kind
            assert machine.get(f"/tasks/poll/{kind}?domain=x").status_code == 403
    with pytest.raises(Exception, match="400"):
        gateway.admit("mediakind1", ("plan_media",))


def test_a_domain_takes_no_task_whatever_it_is(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with chunks(conductor.url, folder / "home", 1), gateway.machine("domainer01") as machine:
        for domain in ("", "NO_DOMAIN", "trusted", "rented-other00001", "*"):
            assert machine.get("/tasks/poll/transcribe_chunk", params={"domain": domain}).status_code == 204
            assert machine.get("/tasks/poll/batch/transcribe_chunk", params={"domain": domain, "count": 5}).json() == []
        assert polled(machine)["referenceTaskName"] == "chunk_0"


def test_another_machines_task_is_out_of_reach(
    gateway: OpenGateway, conductor: Conductor, folder: Path, stranger: httpx.Client
) -> None:
    with chunks(conductor.url, folder / "home", 2) as job, gateway.machine("honest0001") as honest:
        task = polled(honest)
        waiting = next(one for one in job.state()["tasks"] if one["status"] == "SCHEDULED")
        for target in (task, waiting):
            for body in (
                update(target, "COMPLETED", job.output(0)),
                update(target, "FAILED"),
                update(target, "IN_PROGRESS", extendLease=True),
                update(target, "IN_PROGRESS", callbackAfterSeconds=5),
                {**update(target, "COMPLETED", job.output(0)), "workerId": "rented-honest0001"},
            ):
                for path in ("/tasks", "/tasks/update-v2"):
                    refusals = Refusals(gateway)
                    assert stranger.post(path, json=body).status_code == 403
                    assert refusals.one()["task"] == target["taskId"]
            assert stranger.get(f"/tasks/{target['taskId']}").status_code == 403
            assert stranger.post(f"/tasks/{target['taskId']}/log", content="hello").status_code == 403
        assert job.http.get(f"/tasks/{task['taskId']}/log").content in (b"", b"[]")
        assert finish(honest, job, task).status_code == 200


def test_a_result_for_a_task_that_is_not_held(gateway: OpenGateway, stranger: httpx.Client) -> None:
    for task_id in ("6592b37e-33b7-4073-bbcc-13400a108cd0", "../../workflow/x", "a" * 65, "", None, 7, ["x"], {"$": 1}):
        refusals = Refusals(gateway)
        body = {"taskId": task_id, "workflowInstanceId": "w", "status": "COMPLETED", "outputData": {}}
        assert stranger.post("/tasks", json=body).status_code in (400, 403)
        refusals.one()
    assert stranger.get("/tasks/6592b37e-33b7-4073-bbcc-13400a108cd0").status_code == 403


def test_a_completed_task_cannot_be_played_again(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with chunks(conductor.url, folder / "home", 2) as job, gateway.machine("replayer01") as machine:
        task = polled(machine)
        assert finish(machine, job, task).status_code == 200
        before = job.attempts(task["referenceTaskName"])[0]
        for body in (
            update(task, "COMPLETED", job.output(task["inputData"]["index"], words=99)),
            update(task, "FAILED"),
            update(task, "IN_PROGRESS", extendLease=True),
        ):
            refusals = Refusals(gateway)
            assert machine.post("/tasks", json=body).status_code == 403
            assert refusals.one()["task"] == task["taskId"]
        key = job.keys.result(task["inputData"]["index"])
        assert BARE.put(objects(task, key), content=b"{}").status_code == 403
        assert BARE.get(objects(task, job.keys.plan)).status_code == 403
        assert job.attempts(task["referenceTaskName"])[0] == before


def test_a_task_is_not_moved_to_another_workflow_or_state(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("twister001") as machine:
        task = polled(machine)
        elsewhere = {**update(task, "COMPLETED", job.output(0)), "workflowInstanceId": "6592b37e"}
        assert machine.post("/tasks", json=elsewhere).status_code == 403
        for status in ("SKIPPED", "CANCELED", "TIMED_OUT", "SCHEDULED", "COMPLETED_WITH_ERRORS", None, 1):
            refusals = Refusals(gateway)
            assert machine.post("/tasks", json=update(task, status)).status_code == 400  # type: ignore[arg-type]
            assert "status" in refusals.one()["reason"]
        held = {"extendLease": True, "externalOutputPayloadStoragePath": "s3://evil/x", "subWorkflowId": "evil"}
        assert machine.post("/tasks", json=update(task, "IN_PROGRESS", {"planted": 1}, **held)).status_code == 200
        told = job.http.get(f"/tasks/{task['taskId']}").json()
        assert told["workerId"] == "rented-twister001"
        assert "evil" not in json.dumps(told)
        assert "planted" not in json.dumps(told)


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"",
        b"[]",
        b'"text"',
        b"[" * 20_000,
        b'{"taskId": NaN}',
        b'{"taskId": "\xff\xfe"}',
        b'{"taskId": ' + b"9" * 5_000 + b"}",
    ],
)
def test_what_is_no_json_is_no_result(gateway: OpenGateway, stranger: httpx.Client, body: bytes) -> None:
    refusals = Refusals(gateway)
    assert stranger.post("/tasks", content=body).status_code == 400
    assert refusals.one()["status"] == 400


def test_a_result_that_breaks_the_contract_is_for_others_and_never_again_for_it(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with (
        chunks(conductor.url, folder / "home", 1) as job,
        gateway.machine("cheater001") as cheater,
        gateway.machine("honest0002") as honest,
    ):
        task = polled(cheater)
        refusals = Refusals(gateway)
        claimed = cheater.post("/tasks", json=update(task, "COMPLETED", job.output(0)))  # nothing was stored
        assert claimed.status_code == 400
        assert "breaks the contract" in refusals.one()["reason"]
        assert [line["task"] for line in gateway.said("strike", "cheater001")] == [task["taskId"]]
        ends = time.monotonic() + 1.5
        while time.monotonic() < ends:  # the task waits, and this machine does not get it
            assert cheater.get("/tasks/poll/transcribe_chunk").status_code == 204
            time.sleep(0.2)
        again = polled(honest)
        assert (again["taskId"], again["retryCount"]) == (task["taskId"], 0)
        assert finish(honest, job, again).status_code == 200
        assert job.ended() == "COMPLETED"
        _, news = gateway.admin.workers()
        assert len(news["cheater001"].strikes) == 1


def test_three_strikes_end_a_machine_and_free_what_it_holds(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with (
        chunks(conductor.url, folder / "home", 4) as job,
        gateway.machine("threestrik") as machine,
        gateway.machine("honest0003") as honest,
    ):
        tasks = [polled(machine) for _ in range(4)]
        for task in tasks[:3]:
            assert machine.post("/tasks", json=update(task, "COMPLETED", {"words": 1})).status_code == 400
        assert machine.post(f"{gateway.url}/worker/heartbeat", json={"state": "working"}).json()["stop"] is True
        assert machine.get("/tasks/poll/transcribe_chunk").status_code == 204
        assert {polled(honest, within_s=20)["taskId"] for _ in range(4)} == {task["taskId"] for task in tasks}
        assert job.state()["status"] == "RUNNING"
        _, news = gateway.admin.workers()
        assert (news["threestrik"].refused or "").startswith("3 strikes")


def test_a_task_cannot_be_kept_for_ever(
    gateway: OpenGateway, conductor: Conductor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gateway_desk.LONGEST_HOLD_MS, "transcribe_chunk", 1)
    with chunks(conductor.url, folder / "home", 1), gateway.machine("hoarder001") as machine:
        task = polled(machine)
        refusals = Refusals(gateway)
        assert machine.post("/tasks", json=update(task, "IN_PROGRESS", extendLease=True)).status_code == 403
        assert "too long" in refusals.one()["reason"]
        assert gateway.said("taken_back", "hoarder001")


def test_a_silent_machine_costs_a_task_no_attempt_and_does_not_get_it_again(
    gateway: OpenGateway, conductor: Conductor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_leases, "SILENT_SHARE", 0.1)
    with (
        chunks(conductor.url, folder / "home", 1) as job,
        gateway.machine("saynothing") as silent,
        gateway.machine("honest0004") as honest,
    ):
        task = polled(silent)
        again = polled(honest)
        assert (again["taskId"], again["retryCount"]) == (task["taskId"], 0)
        assert finish(honest, job, again).status_code == 200
        assert silent.post("/tasks", json=update(task, "COMPLETED", job.output(0))).status_code == 403
        assert job.ended() == "COMPLETED"
        assert {one["retryCount"] for one in job.attempts("chunk_0")} == {0}
        assert len(gateway.said("handed_out", "saynothing")) == 1


def test_a_task_is_not_hidden_by_putting_it_aside(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with (
        chunks(conductor.url, folder / "home", 1) as job,
        gateway.machine("hider00001") as hider,
        gateway.machine("honest0005") as honest,
    ):
        for _ in range(MOST_ASIDES):
            task = polled(hider)
            aside = update(task, "IN_PROGRESS", {"waiting": True}, callbackAfterSeconds=1)
            assert hider.post("/tasks", json=aside).status_code == 200
        again = polled(honest)
        assert (again["taskId"], again["retryCount"]) == (task["taskId"], 0)
        assert [line["seconds"] for line in gateway.said("put_aside", "hider00001")] == [1, 1, 0]
        assert finish(honest, job, again).status_code == 200


def test_a_task_whose_chunk_is_not_cut_may_be_put_aside_again_and_again(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("early00001") as machine:
        job.storage.discard([job.keys.chunk(0)])
        for _ in range(MOST_ASIDES + 1):
            aside = update(polled(machine), "IN_PROGRESS", {"waiting": True}, callbackAfterSeconds=1)
            assert machine.post("/tasks", json=aside).status_code == 200
        assert {line["seconds"] for line in gateway.said("put_aside", "early00001")} == {1}


def test_what_a_liar_has_stored_is_not_what_the_next_machine_finds(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with (
        chunks(conductor.url, folder / "home", 1) as job,
        gateway.machine("planter001") as planter,
        gateway.machine("honest0006") as honest,
    ):
        task = polled(planter)
        key = job.keys.result(0)
        planted = job.result(0, language="de").model_dump_json().encode()
        assert BARE.put(objects(task, key), content=planted).status_code == 204
        assert planter.post("/tasks", json=update(task, "COMPLETED", job.output(0, audio_ms=1))).status_code == 400
        assert not job.storage.exists(key)
        again = polled(honest)
        assert BARE.get(objects(again, key)).status_code == 404
        assert finish(honest, job, again).status_code == 200


def test_an_upload_that_comes_after_the_task_was_handed_in_replaces_nothing(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("latecomer1") as machine:
        task, key = polled(machine), job.keys.result(0)
        first, second = (job.result(0, seconds={"inference": took}).model_dump_json().encode() for took in (1.0, 2.0))
        assert BARE.put(objects(task, key), content=first).status_code == 204
        before = job.storage.get_bytes(key)

        def late() -> Iterator[bytes]:
            yield second[:10]
            assert machine.post("/tasks", json=update(task, "COMPLETED", job.output(0))).status_code == 200
            yield second[10:]

        assert BARE.put(objects(task, key), content=late()).status_code == 403
        assert job.storage.get_bytes(key) == before
        assert job.ended() == "COMPLETED"


def test_a_body_that_is_too_large_is_not_read(gateway: OpenGateway, stranger: httpx.Client) -> None:
    """Nor is one without end: the gateway answers, and hangs up while it is still being told."""
    refusals = Refusals(gateway)
    head = (
        "POST /api/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"X-Authorization: {stranger.headers['X-Authorization']}\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=5)) as line:
        line.sendall(head.encode())
        taken = 0
        with contextlib.suppress(OSError):
            while taken < 10_000:
                line.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                taken += 1
        assert taken < 1_000  # what is on its way, and not 650 MB
    assert refusals.one()["status"] == 413
    for path, most in (("/tasks", 100_000), ("/tasks/x/log", 100_000), ("/token", 5_000)):
        refusals = Refusals(gateway)
        head = (
            f"POST /api{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {most}\r\n"
            f"X-Authorization: {stranger.headers['X-Authorization']}\r\n\r\n"
        )
        answered = spoken(gateway, head.encode() + b"x" * most)
        assert answered.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answered
        assert refusals.one()["status"] == 413


def test_slow_headers_are_not_waited_for(
    gateway: OpenGateway, stranger: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientProtocol, "headers_s", 0.3)
    refusals = Refusals(gateway)
    head = b"GET /api/tasks/poll/transcribe_chunk HTTP/1.1\r\nHost: x\r\n"
    drops = tuple(f"X-{number}: y\r\n".encode() for number in range(40))
    began = time.monotonic()
    assert spoken(gateway, head, drops, pause_s=0.1) == b""  # hung up on
    assert time.monotonic() - began < 3.5
    assert spoken(gateway, b"") == b""  # not a byte
    assert [line["reason"] for line in refusals.told()] == ["the headers come too slowly"] * 2
    polite = (
        "GET /api/tasks/poll/diarize_chunk HTTP/1.1\r\nHost: x\r\n"
        f"X-Authorization: {stranger.headers['X-Authorization']}\r\n\r\n"
    )
    assert spoken(gateway, polite.encode(), (b"GET /api/tas",)).startswith(b"HTTP/1.1 204")


def test_a_slow_second_request_is_not_waited_for_either(gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "headers_s", 0.3)
    refusals = Refusals(gateway)
    with closing(socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=5)) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        heard = b""
        while not heard.endswith(b'{"healthy":true}'):
            heard += line.recv(4096)
        line.sendall(b"GET /hea")
        with contextlib.suppress(ConnectionResetError):
            assert line.recv(4096) == b""
    assert refusals.one()["reason"] == "the headers come too slowly"


def test_slow_bodies_are_not_waited_for(
    gateway: OpenGateway, stranger: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_guard, "PATIENCE_S", 0.3)
    refusals = Refusals(gateway)
    head = (
        "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        f"X-Authorization: {stranger.headers['X-Authorization']}\r\n\r\n"
    )
    answered = spoken(gateway, head.encode(), tuple(b"{" for _ in range(6)), pause_s=0.1)
    assert answered.startswith(b"HTTP/1.1 408")
    assert refusals.one()["status"] == 408


def test_an_answer_that_is_not_read_is_not_kept(
    gateway: OpenGateway, conductor: Conductor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientProtocol, "reading_s", 0.3)
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("lazyreader") as machine:
        task = polled(machine)
        job.storage.put_bytes(job.keys.audio(0), b"\0" * (32 << 20))
        refusals = Refusals(gateway)
        where = objects(task, job.keys.audio(0)).removeprefix(gateway.url)
        with closing(socket.socket()) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
            line.sendall(f"GET {where} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            ends = time.monotonic() + 5
            while not refusals.told() and time.monotonic() < ends:
                time.sleep(0.05)
        assert refusals.one()["reason"] == "the answer is not read"


def test_who_asks_too_often_waits(gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_guard, "Allowance", lambda: Allowance(TokenBucket(1.0, 20.0)))
    with gateway.machine("flooder001") as machine, gateway.machine("bystander1") as other:
        answers = [machine.get("/tasks/poll/diarize_chunk") for _ in range(60)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert int(refused[0].headers["Retry-After"]) >= 1
        assert other.get("/tasks/poll/diarize_chunk").status_code == 204
    told = [line for line in gateway.said("refused", "flooder001") if line["status"] == 429]
    assert 0 < len(told) < len(refused) + 1  # a flood fills no disk


def test_the_admin_side_wants_its_key(gateway: OpenGateway, stranger: httpx.Client) -> None:
    session = stranger.headers["X-Authorization"]
    for headers in (
        {},
        {"Authorization": f"Bearer {session}"},
        {"Authorization": "Bearer x"},
        {"Authorization": "a" * 32},
    ):
        for method, path in (
            ("GET", "/admin/instances"),
            ("DELETE", "/admin/instances/stranger01"),
            ("GET", "/metrics"),
        ):
            refusals = Refusals(gateway)
            assert BARE.request(method, f"{gateway.admin_url}{path}", headers=headers).status_code == 401
            assert refusals.one()["reason"] == "admin: wrong key"


def test_no_line_of_the_log_holds_a_token(gateway: OpenGateway, stranger: httpx.Client) -> None:
    """Last in this file: everything above has been written down by now."""
    text = (gateway.folder / "audit.jsonl").read_text()
    session = stranger.headers["X-Authorization"]
    assert session not in text
    assert session.split(".")[2] not in text
    assert SIGNING_KEY.decode() not in text
    assert "eyJ" not in text  # how every JWT begins
