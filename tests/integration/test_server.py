"""The embedded server as it is: started, shared, killed in every way, and gone when nobody needs it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

from provisioning import conductor
from provisioning.conductor import ServerStatus
from workers.errors import ServerError
from workers.settings import Settings
from workflows.commands.server import server as server_commands

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

USER = """
import sys
from provisioning import conductor
from workers import settings
with conductor.ensure(settings.load(), lambda text: None) as lease:
    print(lease.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    yield home
    conductor.stop(settings_of(home), print)


@pytest.fixture
def settings(home: Path) -> Settings:
    return settings_of(home)


def settings_of(home: Path) -> Settings:
    return Settings(home, None, str(home / "objects"), None, None, None)


def user(home: Path) -> subprocess.Popen[str]:
    """A command of its own that uses the server until its input ends."""
    environment = {**os.environ, "WHISPERFLEET_HOME": str(home)}
    for name in ("WHISPERFLEET_SERVER", "CONDUCTOR_SERVER_URL"):
        environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", USER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def leave(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)


def eventually(truth: Callable[[], bool], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not truth():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def gone(pid: int | None) -> bool:
    return pid is None or not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def register(url: str, name: str) -> None:
    task = {"name": "wait", "taskReferenceName": "wait", "type": "WAIT", "inputParameters": {"duration": "1 hour"}}
    definition = {"name": name, "version": 1, "schemaVersion": 2, "ownerEmail": "a@example.org", "tasks": [task]}
    httpx.put(f"{url}/metadata/workflow", json=[definition], timeout=30).raise_for_status()


def knows(url: str, name: str) -> bool:
    return httpx.get(f"{url}/metadata/workflow/{name}", timeout=30).status_code == 200


def test_many_commands_at_once_get_one_server_and_the_last_takes_it_away(home: Path, settings: Settings) -> None:
    users = [user(home) for _ in range(5)]
    urls = {url_of(process) for process in users}
    now = conductor.status(settings)
    assert urls == {now.url}
    assert now.users == 5
    assert not now.persistent
    assert only_on_loopback(now)
    for process in users[1:]:
        leave(process)
    assert conductor.status(settings).url == now.url
    register(str(now.url), "kept")
    users[0].kill()  # the only user, and no chance to say goodbye
    leave(users[0])
    assert eventually(lambda: gone(now.keeper_pid) and gone(now.pid))
    assert not conductor.status(settings).running


def only_on_loopback(now: ServerStatus) -> bool:
    listening = {
        link.laddr.ip
        for pid in (now.pid, now.keeper_pid)
        for link in psutil.Process(pid).net_connections()
        if link.status == psutil.CONN_LISTEN
    }
    return listening <= {"127.0.0.1", "::ffff:127.0.0.1"} and bool(listening)


def test_started_server_stays_and_survives_kill_of_server_and_keeper(home: Path, settings: Settings) -> None:
    first = conductor.start(settings, print)
    assert first.running
    assert first.persistent
    assert first.url
    assert knows(first.url, "kept")  # from the server of the test before
    job = httpx.post(f"{first.url}/workflow/kept", json={}, timeout=30).text

    os.kill(int(first.pid or 0), signal.SIGKILL)
    assert eventually(lambda: gone(first.pid) and conductor.status(settings).running)
    second = conductor.status(settings)
    assert second.url == first.url  # who held the old address goes on with it
    assert second.pid != first.pid
    assert state_of(first.url, job) == "RUNNING"

    os.kill(int(second.keeper_pid or 0), signal.SIGKILL)
    assert eventually(lambda: gone(second.pid))
    assert not conductor.status(settings).running
    with conductor.ensure(settings, print) as lease:
        third = conductor.status(settings)
        assert not third.persistent  # `start` was for the keeper that is dead
        assert third.users == 1
        assert state_of(lease.url, job) == "RUNNING"
        check_command_line(home, settings)


def state_of(url: str, job: str) -> object:
    return httpx.get(f"{url}/workflow/{job}", timeout=30).json()["status"]


def check_command_line(home: Path, settings: Settings) -> None:
    """While a server runs: status, start, logs, stop, and status again."""
    runner = CliRunner(env={"WHISPERFLEET_HOME": str(home), "WHISPERFLEET_SERVER": None, "CONDUCTOR_SERVER_URL": None})
    shown = runner.invoke(server_commands, ["status"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "as long as it is used" in shown.output
    assert runner.invoke(server_commands, ["start"], catch_exceptions=False).exit_code == 0
    told = json.loads(runner.invoke(server_commands, ["status", "--json"], catch_exceptions=False).output)
    assert told["running"]
    assert told["persistent"]
    assert told["pid"] == conductor.status(settings).pid
    assert "Conductor" in runner.invoke(server_commands, ["logs", "-n", "400"], catch_exceptions=False).output
    assert "1 commands were using it" in runner.invoke(server_commands, ["stop"], catch_exceptions=False).output
    assert gone(told["pid"])
    assert gone(told["keeper_pid"])
    assert runner.invoke(server_commands, ["status"], catch_exceptions=False).exit_code == 3
    assert "No Conductor server" in runner.invoke(server_commands, ["stop"], catch_exceptions=False).output


def test_server_that_dies_at_its_start_is_reported_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    with closing(sqlite3.connect(tmp_path / "server" / "conductor.db")) as database, database:
        database.execute("CREATE TABLE flyway_schema_history (nothing_that_the_server_expects)")
    with pytest.raises(ServerError, match=r"(?s)ended while it started.*server\.log:.*(?i:flyway)"):
        conductor.ensure(settings_of(tmp_path), print)
    assert eventually(lambda: conductor.status(settings_of(tmp_path)).keeper_pid is None)


def test_database_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "conductor.db").write_bytes(b"this is no database, and never was" * 200)
    with pytest.raises(ServerError, match=r"conductor\.db cannot be used.*move it away"):
        conductor.ensure(settings_of(tmp_path), print)


def test_unwritable_data_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ServerError, match="WHISPERFLEET_HOME"):
        conductor.ensure(settings_of(tmp_path / "file"), print)


def test_named_server_is_used_and_none_is_started(tmp_path: Path) -> None:
    elsewhere = Settings(tmp_path, "http://127.0.0.1:9/api", "objects", None, None, None)
    with conductor.ensure(elsewhere, print) as lease:
        assert lease.url == "http://127.0.0.1:9/api"
    assert list(tmp_path.iterdir()) == []
    shown = CliRunner(env={"WHISPERFLEET_SERVER": elsewhere.server}).invoke(server_commands, ["status"])
    assert shown.exit_code == 3
    assert "does not answer" in shown.output
