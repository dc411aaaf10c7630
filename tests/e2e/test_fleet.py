"""A rented fleet, whole: the real command rents from the emulated market, and what it rents are real workers that reach
the real Conductor server through the real gateway only. Half of them are taken away in the middle."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from benchmarks.speech import Recorded, Script
from provisioning.fleet import Label
from tests.conftest import Conductor, Studio
from tests.support.command import content, start, whisperfleet
from tests.vast_emulator import Container, Contract, ProcessLauncher, RealClock, Timing, VastEmulator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

CHUNKS = ("--model", "demo", "--language", "en", "--chunk-seconds", 10, "--no-diarize")
TRUSTED = "plan_media,split_media,await_speakers,stitch_transcript"
MACHINES = 4
BUDGET_USD = 5.0


@dataclass(frozen=True)
class Gate:
    """A running `whisperfleet gateway`."""

    url: str
    admin: str
    key_file: Path
    home: Path

    def workers(self) -> list[dict[str, object]]:
        answer = httpx.get(
            f"{self.admin}/admin/instances",
            headers={"Authorization": f"Bearer {self.key_file.read_text().strip()}"},
            timeout=10,
        )
        found: list[dict[str, object]] = answer.raise_for_status().json()["instances"]
        return found

    def audited(self, **wanted: object) -> list[dict[str, object]]:
        """Lines of the audit log with these values."""
        lines = (self.home / "gateway" / "audit.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [row for row in rows if all(row.get(name) == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def recorded(studio: Studio) -> Recorded:
    return studio.recording(Script(seconds=180, speakers=2, seed=21))


@pytest.fixture
def gate(conductor: Conductor, home: Path, tmp_path: Path) -> Iterator[Gate]:
    public, admin = free_port(), free_port()
    process = start(
        "gateway", "--listen", f"127.0.0.1:{public}", "--admin", f"127.0.0.1:{admin}", "--server", conductor.url,
        log=tmp_path / "gateway.log",
    )  # fmt: skip
    gate = Gate(f"http://127.0.0.1:{public}", f"http://127.0.0.1:{admin}", home / "gateway" / "admin.key", home)
    wait_until(lambda: process.poll() is not None or answers(gate.url))
    assert process.poll() is None, (tmp_path / "gateway.log").read_text()
    yield gate
    process.terminate()
    process.wait(60)


@pytest.fixture
def vast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VastEmulator]:
    """A market in real time, whose machines boot within seconds and run the supervisor as a process of this machine."""

    def supervisor(container: Container) -> list[str]:
        return [sys.executable, "-m", "workers.supervisor"]

    launcher = ProcessLauncher(
        supervisor,
        tmp_path / "machines",
        {"HOME": str(tmp_path / "machines"), "HF_HUB_OFFLINE": "1", "WHISPERFLEET_HOME": str(tmp_path / "machines")},
    )
    with VastEmulator(seed=5, clock=RealClock(), timing=Timing(scale=0.02), launch=launcher) as vast:
        vast.market.populate(20)
        monkeypatch.setenv("VAST_API_KEY", vast.account_key)
        monkeypatch.setenv("WHISPERFLEET_VAST_URL", vast.url)
        yield vast


def test_half_the_fleet_is_outbid_and_not_a_byte_differs(
    conductor: Conductor,
    recorded: Recorded,
    gate: Gate,
    vast: VastEmulator,
    worker: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker("--tasks", TRUSTED, "--processes", 1)
    place = ("--gateway", gate.url, "--gateway-admin", gate.admin, "--server", conductor.url)
    fleet = start(
        "fleet", "run", "--gpus", MACHINES, "--min-gpus", MACHINES, "--max-price", 2, "--budget", BUDGET_USD,
        "--model", "demo", "--image", "whisperfleet-worker", *place, "--json",
        log=tmp_path / "fleet.log",
    )  # fmt: skip
    try:
        wait_until(lambda: working(gate) == MACHINES or fleet.poll() is not None, 180)
        assert fleet.poll() is None, (tmp_path / "fleet.log").read_text()

        # each job's objects are where the other finds none of them
        monkeypatch.setenv("WHISPERFLEET_STORAGE", str(tmp_path / "calm.objects"))
        calm_s, undisturbed = transcribed(conductor, recorded, tmp_path / "calm")
        done = len(gate.audited(event="result"))
        assert done >= 18  # all by rented machines
        monkeypatch.setenv("WHISPERFLEET_STORAGE", str(tmp_path / "storm.objects"))
        job = start(
            "transcribe", recorded.path, *CHUNKS, "--server", conductor.url, "-o", tmp_path / "storm",
            log=tmp_path / "job.log",
        )  # fmt: skip
        began = time.monotonic()
        wait_until(lambda: len(gate.audited(event="result")) > done + 2)
        doomed = holding_first(gate, vast)[: MACHINES // 2]
        for instance in doomed:
            vast.preempt(instance)
        assert job.wait(400) == 0, (tmp_path / "job.log").read_text()
        storm_s = time.monotonic() - began
        taken = gate.audited(event="taken_back")
        print(f"undisturbed {calm_s:.1f} s, {len(doomed)} of {MACHINES} machines lost: {storm_s:.1f} s")
        print(f"{len(gate.audited(event='result')) - done} results, {len(taken)} chunks taken back")
        assert content(tmp_path / "storm", recorded.path.stem) == undisturbed
        assert taken
        wait_until(lambda: working(gate) == MACHINES, 120)  # what was lost is replaced
    finally:
        fleet.send_signal(signal.SIGTERM)
        fleet.wait(60)
    ended = whisperfleet("fleet", "down", *place)
    assert ended.returncode == 0, ended.stderr
    truth = vast.truth()
    assert not truth.leaked
    assert truth.usd <= BUDGET_USD
    assert not truth.violations
    assert not vast.find_secrets(gate.key_file.read_text().strip())


def transcribed(conductor: Conductor, recorded: Recorded, folder: Path) -> tuple[float, dict[str, object]]:
    """Seconds and content of a job that nobody disturbs."""
    began = time.monotonic()
    ran = whisperfleet("transcribe", recorded.path, *CHUNKS, "--server", conductor.url, "-o", folder)
    assert ran.returncode == 0, ran.stderr
    return time.monotonic() - began, content(folder, recorded.path.stem)


def working(gate: Gate) -> int:
    """How many machines have passed their self-test and poll."""
    return sum(one["rtfx"] is not None for one in gate.workers())


def holding_first(gate: Gate, vast: VastEmulator) -> list[int]:
    """Running instances, those whose workers have a chunk in hand before the others."""
    holding = {str(one["nonce"]) for one in gate.workers() if one["held_tasks"]}
    running = [contract for contract in vast.alive() if contract.actual == "running"]
    return [contract.id for contract in sorted(running, key=lambda one: nonce(one) not in holding)]


def nonce(contract: Contract) -> str:
    label = Label.decode(contract.label)
    assert label is not None
    return label.nonce


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
