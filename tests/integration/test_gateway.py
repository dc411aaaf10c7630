"""The gateway before a real Conductor: what a rented machine can do through it, with the SDK as it is."""

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from benchmarks import result
from benchmarks.speech import Script
from provisioning.demand import GatewayAdmin
from provisioning.gateway_desk import MOST_LOSSES
from provisioning.gateway_tokens import Tokens
from tests.conftest import Conductor, Studio
from tests.support.command import background, content, start, whisperfleet
from tests.support.gateways import BARE, SIGNING_KEY, OpenGateway, chunks, finish, objects, open_gateway, polled, update
from workers import settings as environment
from workers.errors import OptionError, StorageError
from workers.settings import Settings
from workflows.cli import cli

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def settings(folder: Path) -> Settings:
    return replace(environment.load(), home=folder)


@pytest.fixture(scope="module")
def gateway(conductor: Conductor, folder: Path, settings: Settings) -> Iterator[OpenGateway]:
    with open_gateway(conductor.url, folder / "gateway", settings) as opened:
        yield opened


def sdk(opened: OpenGateway, nonce: str):  # type: ignore[no-untyped-def]
    """The Conductor SDK's configuration of a machine."""
    from conductor.client.configuration.configuration import Configuration
    from conductor.client.configuration.settings.authentication_settings import AuthenticationSettings

    secret = AuthenticationSettings(key_id=nonce, key_secret=opened.admit(nonce))
    return Configuration(server_api_url=opened.api, authentication_settings=secret)


def test_the_sdks_own_runner_does_a_workflow_through_it(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    """Batch poll, update-v2 with the next task in its answer, objects below the address in the input."""
    from conductor.client.automator.task_runner import TaskRunner
    from conductor.client.worker.worker import Worker

    with chunks(conductor.url, folder / "home", 4) as job:

        def work(task):  # type: ignore[no-untyped-def]
            index = task.input_data["index"]
            where = f"{task.input_data['storage']}/{job.keys.result(index)}"
            BARE.put(where, content=job.result(index).model_dump_json().encode()).raise_for_status()
            return job.output(index)

        worker = Worker("transcribe_chunk", work, worker_id="sdk", poll_interval=0.05)
        runner = TaskRunner(worker, sdk(gateway, "sdkrunner1"))
        with runner:
            ends = time.monotonic() + 30
            while time.monotonic() < ends and job.state()["status"] == "RUNNING":
                runner.run_once()
        assert job.ended() == "COMPLETED"
        state = job.state()
        done = [task for task in state["tasks"] if task["taskType"] == "transcribe_chunk"]
        assert {task["workerId"] for task in done} == {"rented-sdkrunner1"}
        assert {task["retryCount"] for task in done} == {0}
        assert all(task["outputData"]["worker"] == "rented-sdkrunner1" for task in done)
    assert len(gateway.said("handed_out", "sdkrunner1")) == len(gateway.said("result", "sdkrunner1")) == 4


def test_the_sdk_polls_extends_looks_and_logs(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    from conductor.client.http.api.task_resource_api import TaskResourceApi
    from conductor.client.http.api_client import ApiClient
    from conductor.client.http.models.task_result import TaskResult

    with chunks(conductor.url, folder / "home", 1) as job:
        api = TaskResourceApi(ApiClient(sdk(gateway, "sdkcalls01")))
        assert api.poll("detect_language").task_id is None
        task = api.poll("transcribe_chunk", workerid="a")
        assert task.reference_task_name == "chunk_0"
        before = job.attempts("chunk_0")[0]["updateTime"]
        api.update_task(
            TaskResult(
                workflow_instance_id=task.workflow_instance_id, task_id=task.task_id, extend_lease=True,
                status="IN_PROGRESS",
            )
        )  # fmt: skip
        assert job.attempts("chunk_0")[0]["updateTime"] > before
        api.log("half done\nof it", task.task_id)
        logged = job.http.get(f"/tasks/{task.task_id}/log").json()
        assert [line["log"] for line in logged] == ["half done\\nof it"]
        assert api.get_task(task.task_id).status == "IN_PROGRESS"
        assert len(api.get_poll_data(task_type="transcribe_chunk")) >= 1


def test_a_task_shows_nothing_but_itself(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("showntask1") as machine:
        task = polled(machine)
        assert set(task["inputData"]) == {"storage", "job", "index"}
        assert task["inputData"]["storage"].startswith(f"{gateway.url}/objects/")
        assert "workflowTask" not in task
        assert "taskDefinition" not in task
        told = machine.get(f"/tasks/{task['taskId']}").json()
        assert told["inputData"] == task["inputData"]
        for text in (str(task), str(told)):
            assert str(folder) not in text
            assert "secret" not in text
        assert finish(machine, job, task).status_code == 200
        assert job.ended() == "COMPLETED"


def test_an_expired_session_is_renewed_by_the_sdk(
    gateway: OpenGateway, conductor: Conductor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conductor.client.http.api.task_resource_api import TaskResourceApi
    from conductor.client.http.api_client import ApiClient

    monkeypatch.setattr(gateway.gateway.tokens, "_session_s", -10.0)
    api = TaskResourceApi(ApiClient(sdk(gateway, "renewal001")))
    assert len(gateway.said("session", "renewal001")) == 1
    monkeypatch.undo()
    assert api.poll("detect_language").task_id is None  # 401 EXPIRED_TOKEN, the exchange, the poll again
    assert len(gateway.said("session", "renewal001")) == 2
    assert [line["reason"] for line in gateway.said("refused") if line["path"].endswith("detect_language")] == [
        "EXPIRED_TOKEN"
    ]


def test_a_wrong_machine_token_leaves_the_sdk_without_a_session_and_not_without_authentication(
    gateway: OpenGateway,
) -> None:
    from conductor.client.http.api.task_resource_api import TaskResourceApi
    from conductor.client.http.api_client import ApiClient
    from conductor.client.http.rest import ApiException

    configuration = sdk(gateway, "wrongone01")
    configuration.authentication_settings.key_secret = Tokens(b"x" * 32).machine(
        Tokens(SIGNING_KEY).read_machine(configuration.authentication_settings.key_secret)
    )
    client = ApiClient(configuration)
    assert configuration.authentication_settings is not None  # a 404 would have taken it away
    with pytest.raises(ApiException) as refused:
        TaskResourceApi(client).poll("transcribe_chunk")
    assert refused.value.status == 401


def polls_of_conductor(gateway: OpenGateway) -> float:
    name, labels = "whisperfleet_gateway_upstream_seconds_count", {"request": "poll"}
    return gateway.gateway.metrics.registry.get_sample_value(name, labels) or 0.0


def test_empty_polls_are_answered_without_asking_conductor_each_time(gateway: OpenGateway) -> None:
    before = polls_of_conductor(gateway)
    with gateway.machine("patient001") as machine, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: machine.get("/tasks/poll/diarize_chunk"), range(200)))
        took_s = time.monotonic() - began
    after = polls_of_conductor(gateway)
    assert {answer.status_code for answer in answers} == {204}
    assert all(50 <= int(answer.headers["X-Poll-After-Ms"]) <= 10_000 for answer in answers)
    assert after - before <= took_s / 0.05 + 1


def test_signs_of_life_reach_conductor_seldom_and_under_the_gateways_name(
    gateway: OpenGateway, conductor: Conductor
) -> None:
    with gateway.machine("lifesign02") as machine:
        for domain in ("", "rented-other", "../../x", "lifesign02"):
            answer = machine.get("/tasks/poll/transcribe_chunk", params={"workerid": "x", "domain": domain})
            assert answer.status_code == 204
        ends = time.monotonic() + 10
        mine: list[dict[str, object]] = []
        while not mine and time.monotonic() < ends:
            rows = BARE.get(f"{conductor.url}/tasks/queue/polldata?taskType=transcribe_chunk").json()
            mine = [row for row in rows if row.get("domain") and row.get("workerId") == "rented-lifesign02"]
        assert [str(row["domain"]).removeprefix("rented-").isdecimal() for row in mine] == [True]
        assert not any(row.get("domain") in ("rented-other", "lifesign02") for row in rows)
        told = machine.get("/tasks/queue/polldata", params={"taskType": "transcribe_chunk"}).json()
        assert all(str(row["workerId"]).isdecimal() for row in told)
        assert "lifesign02" not in str(told)


def test_a_lost_machines_tasks_are_anothers_at_once_and_cost_no_attempt(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with (
        chunks(conductor.url, folder / "home", 2) as job,
        gateway.machine("goesaway01") as first,
        gateway.machine("takesover1") as second,
    ):
        held = [polled(first), polled(first)]
        freed = gateway.admin.lose("goesaway01")
        assert sorted(freed) == sorted(task["taskId"] for task in held)
        assert first.get("/tasks/poll/transcribe_chunk").status_code == 401
        assert BARE.get(objects(held[0], job.keys.plan)).status_code == 403
        again = [polled(second), polled(second)]
        assert sorted(task["taskId"] for task in again) == sorted(freed)
        assert {task["retryCount"] for task in again} == {0}
        for task in again:
            assert finish(second, job, task).status_code == 200
        assert job.ended() == "COMPLETED"
    assert len(gateway.said("taken_back", "goesaway01")) == 2
    assert gateway.admin.lose("goesaway01") == ()
    assert gateway.admin.lose("neverseen1") == ()


def test_a_task_that_is_lost_again_and_again_costs_an_attempt(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with chunks(conductor.url, folder / "home", 1) as job:
        for number in range(MOST_LOSSES):
            with gateway.machine(f"unlucky00{number}") as machine:
                polled(machine)
                gateway.admin.lose(f"unlucky00{number}")
        first = job.attempts("chunk_0")[0]
        assert first["status"] == "FAILED"
        assert f"{MOST_LOSSES} machines" in first["reasonForIncompletion"]
        with gateway.machine("unlucky00x") as machine:
            task = polled(machine)
            assert task["retryCount"] == 1


def test_a_restarted_gateway_knows_who_holds_what_and_who_is_revoked(
    conductor: Conductor, folder: Path, settings: Settings, tmp_path: Path
) -> None:
    with chunks(conductor.url, folder / "home", 2) as job:
        with open_gateway(conductor.url, tmp_path, settings) as before:
            with before.machine("survivor01") as machine, before.machine("revoked001") as other:
                task, lost = polled(machine), polled(other)
                session = machine.headers["X-Authorization"]
                revoked = other.headers["X-Authorization"]
            before.admin.lose("revoked001")
        with open_gateway(conductor.url, tmp_path, settings) as after:
            gone = BARE.get(f"{after.api}/tasks/poll/transcribe_chunk", headers={"X-Authorization": revoked})
            assert (gone.status_code, gone.json()["error"]) == (401, "REVOKED_TOKEN")
            task["inputData"]["storage"] = task["inputData"]["storage"].replace(before.url, after.url)
            with httpx.Client(base_url=after.api, headers={"X-Authorization": session}, verify=False) as machine:
                assert finish(machine, job, task).status_code == 200
                again = polled(machine)
                assert again["taskId"] == lost["taskId"]
                assert finish(machine, job, again).status_code == 200
            assert job.ended() == "COMPLETED"
            assert [line["task"] for line in after.said("adopted")] == [task["taskId"]]


def test_a_gateway_that_forgot_everything_believes_conductor(
    conductor: Conductor, folder: Path, settings: Settings, tmp_path: Path
) -> None:
    with chunks(conductor.url, folder / "home", 1):
        with open_gateway(conductor.url, tmp_path / "one", settings) as before, before.machine("amnesia001") as machine:
            task = polled(machine)
            session = machine.headers["X-Authorization"]
        with open_gateway(conductor.url, tmp_path / "two", settings) as after:
            with httpx.Client(base_url=after.api, headers={"X-Authorization": session}, verify=False) as machine:
                answer = machine.post("/tasks", json=update(task, "IN_PROGRESS", extendLease=True))
                assert answer.status_code == 200
            with after.machine("another001") as other:
                assert other.post("/tasks", json=update(task, "IN_PROGRESS", extendLease=True)).status_code == 403


def test_draining_and_failing_machines_get_nothing_more(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with (
        chunks(conductor.url, folder / "home", 3) as job,
        gateway.machine("drains0001") as drains,
        gateway.machine("failstest1") as fails,
        gateway.machine("healthy001") as healthy,
    ):
        task = polled(drains)
        gateway.admin.drain("drains0001")
        assert drains.get("/tasks/poll/transcribe_chunk").status_code == 204
        assert drains.get("/tasks/poll/batch/transcribe_chunk?count=2").json() == []
        beat = drains.post(f"{gateway.url}/worker/heartbeat", json={"state": "working", "rtfx": 31.5, "version": "1"})
        assert (beat.json()["drain"], beat.json()["stop"]) == (True, False)
        assert finish(drains, job, task).status_code == 200
        failed = {"state": "testing", "self_test": {"ok": False, "reason": "no GPU"}}
        assert fails.post(f"{gateway.url}/worker/heartbeat", json=failed).json()["stop"] is True
        assert fails.get("/tasks/poll/transcribe_chunk").status_code == 204
        assert finish(healthy, job, polled(healthy)).status_code == 200
        _, news = gateway.admin.workers()
        assert news["drains0001"].draining
        assert news["drains0001"].rtfx == 31.5
        assert news["drains0001"].chunks_done == 1
        assert news["drains0001"].audio_done_ms == 60_000
        assert news["failstest1"].refused == "its self-test failed: no GPU"


def test_demand_and_news_follow_a_job(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with chunks(conductor.url, folder / "home", 3) as job, gateway.machine("counted001") as machine:
        waiting = gateway.admin.demand().queued_tasks
        assert waiting >= 3
        task = polled(machine)
        ends = time.monotonic() + 5
        while gateway.admin.demand().held_audio_ms < 60_000 and time.monotonic() < ends:
            time.sleep(0.05)  # the length is read beside
        demand = gateway.admin.demand()
        assert demand.known
        assert demand.queued_tasks == waiting - 1
        assert demand.held_tasks >= 1
        clock, news = gateway.admin.workers()
        assert news["counted001"].held_tasks == 1
        assert news["counted001"].held_audio_ms == 60_000
        assert 0 <= clock - (news["counted001"].last_task_ms or 0) < 60_000
        assert finish(machine, job, task).status_code == 200
        _, news = gateway.admin.workers()
        assert news["counted001"].held_tasks == 0
        metrics = BARE.get(f"{gateway.admin_url}/metrics", headers={"Authorization": "Bearer " + "a" * 32}).text
        assert 'whisperfleet_gateway_results_total{kind="transcribe_chunk",worker="counted001"} 1.0' in metrics
        assert 'whisperfleet_gateway_audio_seconds_total{kind="transcribe_chunk",worker="counted001"} 60.0' in metrics


def test_one_machine_holds_a_few_tasks_only(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with chunks(conductor.url, folder / "home", 10), gateway.machine("greedy0001") as machine:
        ends = time.monotonic() + 10
        held = 0
        while held < 8 and time.monotonic() < ends:
            held += len(machine.get("/tasks/poll/batch/transcribe_chunk", params={"count": "1000"}).json())
        assert held == 8
        assert machine.get("/tasks/poll/transcribe_chunk").status_code == 204


def test_polls_that_come_all_at_once_get_no_more_than_others(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with chunks(conductor.url, folder / "home", 12), gateway.machine("atoncepoll") as machine:
        ends = time.monotonic() + 10
        while gateway.admin.demand().queued_tasks < 12 and time.monotonic() < ends:
            time.sleep(0.05)
        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(lambda _: machine.get("/tasks/poll/transcribe_chunk"), range(24)))
        assert sum(answer.status_code == 200 for answer in answers) <= 8


def test_a_failure_costs_no_attempt_and_is_never_for_good(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with (
        chunks(conductor.url, folder / "home", 1) as job,
        gateway.machine("failing001") as machine,
        gateway.machine("helping001") as other,
    ):
        task = polled(machine)
        told = update(task, "FAILED_WITH_TERMINAL_ERROR", {"error": "EngineError", "reason": "out of memory"})
        assert machine.post("/tasks", json=told).status_code == 200
        assert [line["reason"] for line in gateway.said("failed", "failing001")] == ["out of memory"]
        again = polled(other)
        assert (again["taskId"], again["retryCount"]) == (task["taskId"], 0)
        assert finish(other, job, again).status_code == 200
        assert job.ended() == "COMPLETED"


def test_results_that_come_twice_at_once_are_taken_once(
    gateway: OpenGateway, conductor: Conductor, folder: Path
) -> None:
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("twiceatonc") as machine:
        task = polled(machine)
        barrier = threading.Barrier(4)
        result = job.result(0).model_dump_json().encode()
        assert BARE.put(objects(task, job.keys.result(0)), content=result).status_code == 204

        def send(extend: bool) -> int:
            barrier.wait()
            told = update(task, "IN_PROGRESS", extendLease=True) if extend else update(task, "COMPLETED", job.output(0))
            return machine.post("/tasks", json=told).status_code

        with ThreadPoolExecutor(4) as pool:
            codes = list(pool.map(send, (False, True, False, True)))
        assert sorted((codes[0], codes[2])) == [200, 403]
        assert job.attempts("chunk_0")[0]["status"] == "COMPLETED"


def test_machines_are_told_to_wait_while_conductor_is_away(folder: Path, settings: Settings, tmp_path: Path) -> None:
    with open_gateway("http://127.0.0.1:9/api", tmp_path, settings) as opened, opened.machine("waiting001") as machine:
        answer = machine.get("/tasks/poll/transcribe_chunk")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert "127.0.0.1:9" not in answer.text
        assert BARE.get(f"{opened.url}/health").status_code == 200
        assert not opened.admin.demand().known
        assert len(opened.heard) == 1  # whoever started it is told once, however long it lasts
        assert opened.heard[0].startswith("Waiting for the Conductor server at http://127.0.0.1:9:")


# ---- the command ----


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import IPv4Address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, secret = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, secret


def free_port() -> int:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def refusal(*arguments: object) -> str:
    """The sentence that `whisperfleet gateway` ends with."""
    ran = CliRunner().invoke(cli, ["gateway", *map(str, arguments)])
    assert isinstance(ran.exception, OptionError | StorageError), (ran.exception, ran.output)
    assert str(ran.exception).endswith(".")
    return str(ran.exception)


def test_the_command_says_what_is_wrong_in_a_sentence(
    tls: tuple[Path, Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = tls
    server = ("--server", "http://127.0.0.1:9")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        said = refusal(*server, "--listen", f"127.0.0.1:{port}", "--admin", "127.0.0.1:0")
        assert f"127.0.0.1:{port}" in said
        assert "--listen" in said
        assert "--admin" in refusal(*server, "--listen", "127.0.0.1:0", "--admin", f"127.0.0.1:{port}")
    assert "HOST:PORT" in refusal(*server, "--listen", "7401")
    assert "--public-url" in refusal(*server, "--listen", "0.0.0.0:7401")
    assert "https://HOST" in refusal(*server, "--public-url", "gateway.example.com")
    assert "belong together" in refusal(*server, "--certificate", chain)
    assert "cannot be read" in refusal(*server, "--certificate", chain, "--key", tmp_path / "none")
    assert "PEM" in refusal(*server, "--certificate", chain, "--key", chain)
    assert "--server" in refusal("--server", "nonsense")
    assert "no storage" in refusal(*server, "--storage", "ftp://somewhere")
    (home / "gateway" / "signing.key").chmod(0o644)
    assert "chmod 600" in refusal(*server)
    monkeypatch.setitem(sys.modules, "jwt", None)
    assert 'pip install "whisperfleet[gateway]"' in refusal(*server)


@pytest.mark.e2e
def test_a_whole_job_through_it_by_tls_is_what_the_direct_one_is(
    conductor: Conductor, studio: Studio, tls: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real commands: a trusted worker cuts and joins, a rented one that knows the gateway only does the chunks."""
    recorded = studio.recording(Script(seconds=60, speakers=1, seed=3))
    common = (
        *("transcribe", recorded.path, "--model", "demo", "--language", "en", "--no-diarize"),
        *("--chunk-seconds", 20, "--server", conductor.url),
    )
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    monkeypatch.setenv("WHISPERFLEET_HOME", str(tmp_path / "direct"))
    ran = whisperfleet(*common, "--processes", 1, "-o", tmp_path / "direct-out")
    assert ran.returncode == 0, ran.stderr

    monkeypatch.setenv("WHISPERFLEET_HOME", str(ours))
    url, admin = f"https://127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    opened = background(
        *("gateway", "--listen", url.removeprefix("https://"), "--admin", admin, "--server", conductor.url),
        *("--certificate", tls[0], "--key", tls[1]),
        log=tmp_path / "gateway.log",
    )
    trusted = background(
        *("worker", "--tasks", "plan_media,split_media,stitch_transcript", "--server", conductor.url),
        *("--processes", 1),
        log=tmp_path / "trusted.log",
    )
    with opened as process, trusted:
        wait_until(lambda: "is open at" in (tmp_path / "gateway.log").read_text())
        key = (ours / "gateway" / "admin.key").read_text()
        with closing(GatewayAdmin(f"http://{admin}", key)) as fleet:
            secret = fleet.admit("wholejob01", ("transcribe_chunk",), round(time.time() * 1000) + 3_600_000)
        with monkeypatch.context() as rented:
            rented.setenv("WHISPERFLEET_HOME", str(theirs))
            rented.setenv("SSL_CERT_FILE", str(tls[0]))
            rented.setenv("CONDUCTOR_AUTH_KEY", "wholejob01")
            rented.setenv("CONDUCTOR_AUTH_SECRET", secret)
            work = ("worker", "--tasks", "transcribe_chunk", "--model", "demo", "--processes", 1, "--server", url)
            machine = start(*work, log=tmp_path / "rented.log")
        try:
            ran = whisperfleet(*common, "-o", tmp_path / "through-out")
            assert ran.returncode == 0, (ran.stderr, (tmp_path / "rented.log").read_text())
        finally:
            machine.terminate()
            machine.wait(60)
        process.terminate()
        assert process.wait(30) == 0, (tmp_path / "gateway.log").read_text()
    assert content(tmp_path / "through-out", recorded.path.stem) == content(tmp_path / "direct-out", recorded.path.stem)
    lines = [json.loads(line) for line in (ours / "gateway" / "audit.jsonl").read_text().splitlines()]
    done = [line for line in lines if line["event"] == "result"]
    assert {line["instance"] for line in done} == {"wholejob01"}
    assert len(done) >= 3
    assert [line for line in lines if line["event"] in ("refused", "strike", "failed")] == []
    assert secret not in "".join(file.read_text() for file in tmp_path.glob("*.log"))


def test_the_benchmark_tells_what_it_was_measured_on(conductor: Conductor, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gateway", "--quick", "--server", conductor.url]
    ran = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = result.read(tmp_path / "gateway.json")
    assert {"cores", "load_before", "load_after", "uvicorn", "starlette"} <= set(found.machine)
    latencies, *idle = found.repetitions
    assert set(latencies) == {"poll with a task", "extension", "result", "empty poll", "answered itself"}
    assert all(figures["through_median"] > 0 < figures["direct_median"] for figures in latencies.values())
    assert [step["workers"] for step in idle] == [1, 20]
    assert all(step["errors"] == 0 < step["polls_per_s"] for step in idle)
    assert "added, p99" in ran.stdout
    assert (tmp_path / "gateway.png").read_bytes().startswith(b"\x89PNG")


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "it did not happen"
        time.sleep(0.05)
