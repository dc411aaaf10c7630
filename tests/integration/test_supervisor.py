"""A rented machine's first process: however its time comes, no process is left and its own instance is destroyed.

A stub stands for the gateway and the emulator for the market; what runs below is mostly a stand-in that sleeps, and
once the real self-test and the real worker.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from vastai import VastAI

from tests.emulator.contracts import Contract
from tests.support.gateway_stub import GatewayStub
from tests.vast_emulator import VastEmulator
from workers import models, selftest

pytestmark = pytest.mark.integration

FIT = 'print(\'{"ok": true, "rtfx": 12.5}\')'
UNFIT = 'print(\'{"ok": false, "reason": "no GPU here"}\')'
CRASH = "import os; os.abort()"
# a worker with a process below it, which stops in peace when it is told to
WORKER = """
import signal, subprocess, sys, time
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("at work", file=sys.stderr, flush=True)
time.sleep(600)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


@dataclass
class Machine:
    """One rented machine: its contract, and how to start what runs on it."""

    vast: VastEmulator
    gateway: GatewayStub
    contract: Contract
    log: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "WHISPERFLEET_HOME", "HF_HUB_OFFLINE")}
        return kept | {
            "CONDUCTOR_SERVER_URL": f"{self.gateway.url}/api",
            "CONDUCTOR_AUTH_KEY": self.gateway.nonce,
            "CONDUCTOR_AUTH_SECRET": self.gateway.token,
            "WHISPERFLEET_GATEWAY": self.gateway.url,
            "WHISPERFLEET_TASKS": "transcribe_chunk,detect_language",
            "WHISPERFLEET_MODEL": "demo",
            "WHISPERFLEET_VAST_URL": self.vast.url,
            "CONTAINER_ID": str(self.contract.id),
            "CONTAINER_API_KEY": self.contract.key,
            **more,
        }

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], stderr=log, stdout=log, env=self.environment(**environment),
                cwd=Path(__file__).parents[2],
            )  # fmt: skip
        self.started.append(process)
        return process

    def supervise(self, test: str, worker: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("tests.support.supervised", test, worker, **environment)

    def wait_for_work(self) -> None:
        self.gateway.wait_for(lambda: any(beat["state"] == "working" for beat in self.gateway.beats))

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with VastEmulator(seed=3) as vast, GatewayStub("nonce12345", "a-token") as gateway:
        offer = vast.market.add().slots[0].ask_id
        made = VastAI(vast.account_key, vast.url, retry=1).create_instance(offer, image="i", disk=20, label="wf1:x:y:z")
        vast.calls.clear()
        machine = Machine(vast, gateway, vast.contract(made["new_contract"]), tmp_path / "log")
        yield machine
        for process in machine.started:
            if process.poll() is None:
                process.kill()
            process.wait()


def below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def assert_ended(machine: Machine, process: subprocess.Popen[bytes], code: int, reason: str) -> None:
    """It ended by itself, and the one thing it asked of the market is its own end, with its own key."""
    assert process.wait(60) == code, machine.said()
    assert reason in machine.said()
    (call,) = machine.vast.calls
    assert (call.method, call.target, call.key_name) == (
        "DELETE", machine.contract.id, f"instance {machine.contract.id}",
    )  # fmt: skip
    assert not machine.contract.alive
    assert machine.contract.key not in machine.said()
    assert machine.gateway.token not in machine.said()


def assert_gone(processes: list[psutil.Process]) -> None:
    gone, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []
    assert len(gone) == len(processes)


def test_a_machine_whose_time_is_over_ends_itself(machine: Machine) -> None:
    process = machine.supervise(FIT, STUBBORN, WHISPERFLEET_TTL_S="3")
    machine.wait_for_work()
    children = below(process)
    assert children
    assert_ended(machine, process, 0, "Ending: its time is over.")
    assert_gone(children)


def test_an_idle_machine_drains_and_ends_itself(machine: Machine) -> None:
    machine.gateway.orders["held"] = 0
    process = machine.supervise(FIT, WORKER, WHISPERFLEET_IDLE_S="1.5")
    assert_ended(machine, process, 0, "Draining: it has had no task for")
    assert "Ending: it has drained." in machine.said()
    assert {"draining", "working"} <= {beat["state"] for beat in machine.gateway.beats}


def test_a_machine_that_reaches_no_gateway_ends_itself(machine: Machine) -> None:
    process = machine.supervise(FIT, WORKER, WHISPERFLEET_SILENCE_S="1.5")
    machine.wait_for_work()
    machine.gateway.silent = True
    assert_ended(machine, process, 1, "the gateway has not answered for")


def test_a_machine_whose_gateway_is_not_there_at_all_ends_itself(machine: Machine) -> None:
    process = machine.supervise(FIT, WORKER, WHISPERFLEET_SILENCE_S="1", WHISPERFLEET_GATEWAY="http://127.0.0.1:9")
    assert_ended(machine, process, 1, "the gateway has not answered for")


def test_a_machine_whose_token_is_revoked_ends_itself(machine: Machine) -> None:
    process = machine.supervise(FIT, WORKER, WHISPERFLEET_SILENCE_S="4")
    machine.wait_for_work()
    machine.gateway.refuses = True
    assert_ended(machine, process, 1, "does not accept its token any more")


def test_a_machine_that_is_told_to_stop_stops_at_once(machine: Machine) -> None:
    process = machine.supervise(FIT, STUBBORN, WHISPERFLEET_SILENCE_S="2")
    machine.wait_for_work()
    children = below(process)
    machine.gateway.orders["stop"] = True
    assert_ended(machine, process, 0, "Ending: the gateway wants it to stop.")
    assert_gone(children)


@pytest.mark.parametrize(("test", "reason"), [(UNFIT, "no GPU here"), (CRASH, "the self-test ended with -6")])
def test_a_machine_that_is_not_fit_says_so_takes_no_work_and_ends_itself(
    machine: Machine, test: str, reason: str
) -> None:
    process = machine.supervise(test, WORKER)
    assert_ended(machine, process, 1, f"Ending: its self-test failed: {reason}")
    assert reason in machine.gateway.beats[-1]["self_test"]["reason"]
    assert "working" not in {beat["state"] for beat in machine.gateway.beats}


def test_a_worker_that_ends_by_itself_ends_the_machine(machine: Machine) -> None:
    process = machine.supervise(FIT, "raise SystemExit(6)")
    assert_ended(machine, process, 1, "its worker ended by itself (exit code 6)")


def test_a_signal_drains_and_a_second_ends(machine: Machine) -> None:
    process = machine.supervise(FIT, STUBBORN)
    machine.wait_for_work()
    children = below(process)
    process.terminate()
    machine.gateway.wait_for(lambda: machine.gateway.beats[-1]["state"] == "draining")
    assert process.poll() is None
    process.terminate()
    assert_ended(machine, process, 0, "Ending: it was told to end twice.")
    assert_gone(children)


def test_a_signal_during_the_test_is_no_fault_of_the_machine(machine: Machine) -> None:
    process = machine.supervise("import time; time.sleep(600)", WORKER)
    machine.gateway.wait_for(lambda: bool(machine.gateway.beats))
    process.terminate()
    assert_ended(machine, process, 0, "it was to drain before it had begun")
    assert all(beat["self_test"] is None for beat in machine.gateway.beats)


def test_a_supervisor_that_is_killed_leaves_nothing_running(machine: Machine) -> None:
    process = machine.supervise(FIT, WORKER)
    machine.wait_for_work()
    deadline = time.monotonic() + 20
    while "at work" not in machine.said() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker, *others = below(process)
    process.kill()
    assert_gone([worker])
    for other in others:  # the stand-in's own; the real worker's processes end with it
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()


def test_a_machine_that_is_told_nothing_still_ends_itself(machine: Machine) -> None:
    process = machine.start("workers.supervisor", CONDUCTOR_AUTH_SECRET="")
    assert_ended(machine, process, 2, "CONDUCTOR_AUTH_SECRET is not set")


def test_what_runs_on_no_rented_machine_destroys_nothing(machine: Machine) -> None:
    process = machine.supervise(UNFIT, WORKER, CONTAINER_ID="", CONTAINER_API_KEY="")
    assert process.wait(30) == 1
    assert machine.vast.calls == []


def test_the_worker_sees_its_token_and_not_the_key_of_the_instance(machine: Machine) -> None:
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "environment"
        tell = f"import json, os; open({str(seen)!r}, 'w').write(json.dumps(dict(os.environ)))"
        process = machine.supervise(FIT, tell)
        assert_ended(machine, process, 1, "exit code 0")
        environment = json.loads(seen.read_text(encoding="utf-8"))
    assert machine.contract.key not in environment.values()
    assert environment["CONDUCTOR_AUTH_SECRET"] == "a-token"
    assert environment["WHISPERFLEET_SERVER"] == f"{machine.gateway.url}/api"


def test_processes_that_others_left_behind_are_collected(machine: Machine) -> None:
    """As the container's first process it inherits them; here it is told to, as that number is taken."""
    orphan = "import os, sys; os._exit(0) if os.fork() else (os.setsid(), os.fork() and os._exit(0), os._exit(0))"
    code = (
        "import ctypes, subprocess, sys, time, os; ctypes.CDLL(None).prctl(36, 1)\n"
        "from workers.supervisor import reap\n"
        f"own = subprocess.Popen([sys.executable, '-c', 'raise SystemExit(7)'])\n"
        f"subprocess.run([sys.executable, '-c', {orphan!r}])\n"
        "time.sleep(0.5); reap({own.pid}); assert own.wait() == 7; reap(set())\n"
        "try: os.waitpid(-1, os.WNOHANG); raise SystemExit('one is left')\n"
        "except ChildProcessError: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_real_worker_is_tested_works_and_drains(machine: Machine) -> None:
    process = machine.start("workers.supervisor")
    polled = machine.gateway.polls
    machine.gateway.wait_for(lambda: any("domain" not in path for path in polled), 120)
    children = below(process)
    report = machine.gateway.beats[-1]["self_test"]
    assert report["ok"] is True
    assert report["words_right"] >= 0.9
    assert machine.gateway.beats[-1]["rtfx"] == report["rtfx"] > 0
    process.send_signal(signal.SIGTERM)
    assert_ended(machine, process, 0, "Ending: it has drained.")
    assert_gone(children)


def test_the_work_that_a_model_is_measured_by_is_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many tokens for each window, though the model would have ended sooner."""
    made: list[int] = []
    real = selftest.generate

    def watched(*given: Any) -> Any:
        found = real(*given)
        made.extend(len(result.sequences_ids[0]) for result in found)
        return found

    monkeypatch.setattr(selftest, "generate", watched)
    assert selftest.measure(str(models.demo_folder()), "cpu") > 0
    assert made == [4, selftest.TOKENS]
