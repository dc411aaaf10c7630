"""Every `whisperfleet fleet` command as it is typed, against the emulated market and a played gateway, and every way to
get it wrong. Most run in this process on the emulator's clock, where waiting costs nothing; a few are true processes.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
from click.testing import CliRunner

from provisioning.fleet_offering import Wanted
from provisioning.fleet_place import Time
from provisioning.ledger import Ledger, Wish, database
from tests.emulator.market import Slot
from tests.support.command import argv
from tests.support.fleet import ADMIN_KEY, Fleet, PlayedGateway, PlayedWorker
from tests.support.fleet_http import Desk
from tests.support.media import write_wav
from tests.vast_emulator import Container, Fate, RealClock, Timing, VastEmulator, VirtualClock
from workers.errors import WhisperfleetError
from workers.settings import bare_environment
from workflows.cli import cli

pytestmark = pytest.mark.integration

IMAGE = "registry.example/worker@sha256:0123"
BOUNDS = ("--max-price", "0.35", "--budget", "2")


class EmulatedTime(Time):
    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock

    def now(self) -> float:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        if not stop.is_set():
            self._clock.sleep(seconds)


@dataclass(frozen=True)
class Said:
    exit_code: int
    stdout: str
    error: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]


@dataclass
class Stage:
    """A market, a gateway, and somebody at the keyboard."""

    fleet: Fleet
    desk: Desk
    home: Path
    environment: dict[str, str | None]

    def __call__(self, *arguments: object) -> Said:
        """`whisperfleet fleet …`, on the emulator's clock."""
        self.fleet.clock.advance(10)  # nobody types faster, and each command paces itself alone
        words = ["fleet", *(str(argument) for argument in arguments)]
        done = CliRunner().invoke(cli, words, obj=EmulatedTime(self.fleet.clock), env=self.environment)
        if isinstance(done.exception, WhisperfleetError):  # `main` prints it, and leaves with its code
            return Said(done.exception.exit_code, done.stdout, f"Error: {done.exception}")
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Said(done.exit_code, done.stdout, done.stderr.strip())

    def rented(self) -> list[int]:
        return self.fleet.ours()

    def ledger(self) -> Ledger:
        return Ledger(database(self.home, "default"))

    def asked_to_change(self) -> list[str]:
        return [f"{call.method} {call.path}" for call in self.fleet.vast.calls if call.method in ("PUT", "DELETE")]


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Fleet(tmp_path, fleet="default") as fleet, Desk(fleet.gateway, fleet.clock.now) as desk:
        (tmp_path / "gateway").mkdir()
        (tmp_path / "gateway" / "admin.key").write_text(ADMIN_KEY)
        fleet.vast.market.add("RTX 4090", dph="0.55", inet_down=900, geolocation="Texas, US")
        environment: dict[str, str | None] = {
            **{name: None for name in os.environ if name.startswith(("WHISPERFLEET_", "VAST_", "CONDUCTOR_"))},
            "WHISPERFLEET_HOME": str(tmp_path),
            "WHISPERFLEET_GATEWAY": desk.url,
            "WHISPERFLEET_GATEWAY_ADMIN": desk.url,
            "WHISPERFLEET_SERVER": desk.url,
            "WHISPERFLEET_WORKER_IMAGE": IMAGE,
            "WHISPERFLEET_VAST_URL": fleet.vast.url,
            "VAST_API_KEY": fleet.vast.account_key,
        }
        yield Stage(fleet, desk, tmp_path, environment)


# ---- before renting ----


def test_offers_are_ranked_by_dollars_per_hour_of_audio(stage: Stage) -> None:
    rows = stage("offers", "--json").document
    prices = [row["usd_per_audio_hour"] for row in rows]
    assert len(rows) == 9
    assert prices == sorted(prices)
    assert {row["offer"]["gpu_name"] for row in rows} == {"RTX 3090", "RTX 4090"}
    said = stage("offers", "-n", "3", "--gpu", "RTX 3090")
    lines = said.stdout.splitlines()
    assert lines[0].split()[:3] == ["GPU", "$/h", "RTFx"]
    assert [line.split()[0] for line in lines[2:5]] == ["RTX"] * 3
    assert lines[5].startswith("3 of 8 offers that fit; RTFx of turbo is guessed")
    assert max(map(len, lines)) <= 80
    assert stage.asked_to_change() == []


def test_a_plan_tells_machines_time_and_dollars_of_a_file(stage: Stage, tmp_path: Path) -> None:
    media = write_wav(tmp_path / "talk.wav", np.zeros(16_000 * 90, np.int16))
    told = stage("plan", "--media", media, "--hours", "10", "--within", "10", *BOUNDS, "--json").document
    assert told["audio_ms"] == 36_090_000
    assert told["choice"]["usd"] <= 2.0
    assert told["choice"]["duration_ms"] <= 600_000
    assert told["usd_per_audio_hour"] == pytest.approx(told["choice"]["usd"] / (36_090_000 / 3_600_000))
    said = stage("plan", "--media", media, "--hours", "10", "--within", "10").stdout
    machines = told["choice"]["machines"]
    assert f"10:01:30 of audio in 602 chunks: {machines} machine" in said
    assert "A machine boots in about 4:00; the speed is a guess from" in said
    assert max(map(len, said.splitlines())) <= 80
    assert stage.asked_to_change() == []


def test_the_doctor_finds_everything_in_order(stage: Stage) -> None:
    findings = stage("doctor", "--json").document
    assert {finding["verdict"] for finding in findings} == {"ok"}
    assert len(findings) == 10
    said = stage("doctor")
    assert said.exit_code == 0
    assert "$100.00 of credit, no environment variables" in said.stdout
    assert stage.fleet.vast.account_key not in said.stdout
    assert stage.asked_to_change() == []


@pytest.mark.parametrize("reached", [True, False])
def test_a_live_probe_tries_the_gateway_from_a_rented_machine_and_ends_it(stage: Stage, reached: bool) -> None:
    def curl(container: Container) -> None:
        if container.instance_id == stage.fleet.foreign:
            return
        contract = stage.fleet.vast.contract(container.instance_id)
        assert not {name for name in container.environment if name.startswith(("WHISPERFLEET", "CONDUCTOR"))}
        assert f"{stage.desk.url}/health" in container.entry[-1]
        contract.log.append(f"gateway answered {200 if reached else '000'}")
        stage.fleet.at(60, lambda: container.exited(0))

    stage.fleet.vast.world._launch = curl
    stage.fleet.vast.world.timing = Timing(image_gb=0.01)
    said = stage("doctor", "--live-probe", "0.05", "--json")
    probed = said.document[-1]
    assert (probed["what"], probed["verdict"]) == ("From a rented machine", "ok" if reached else "fails")
    assert said.exit_code == (0 if reached else 1)
    told = json.loads((stage.home / "fleet" / "live-probe.json").read_text())
    assert told["gateway"] == ("200" if reached else "000")
    assert [seen["actual"] for seen in told["states"]][-2:] == ["running", "exited"]
    assert (told["left"], stage.rented()) == ([], [])
    cost = stage.fleet.vast.truth().instances[told["instance_id"]].usd
    assert 0 < cost <= told["usd"] <= 0.05


def test_a_live_probe_costs_no_more_than_is_allowed(stage: Stage) -> None:
    said = stage("doctor", "--live-probe", "0.001", "--json")
    assert said.exit_code == 1
    assert said.document[-1]["detail"].startswith("The cheapest machine may cost $0.0")
    assert "/asks/" not in "".join(stage.asked_to_change())


# ---- renting, looking, ending ----


def test_up_rents_so_many_and_down_ends_them_all(stage: Stage) -> None:
    up = stage("up", "--gpus", 3, *BOUNDS, "--no-controller")
    assert (up.exit_code, len(stage.rented())) == (0, 3)
    assert "3 of 3 machines are rented, for $0." in up.stdout

    stage.fleet.clock.advance(300)
    shown = stage("status").stdout
    assert "without a controller, 3 machines" in shown
    assert [number for number in stage.rented() if str(number) not in shown] == []
    told = stage("status", "--json").document
    assert sorted(line["instance_id"] for line in told["lines"]) == stage.rented()
    assert told["live"] == 3
    assert told["spent_usd"] == pytest.approx(stage.fleet.vast.truth().usd, rel=0.05)

    down = stage("down", "--json")
    assert down.exit_code == 0
    assert stage.rented() == []
    assert down.events[-1]["message"].startswith("Nothing of fleet 'default' is rented any more; it spent $0.")
    stage.fleet.gateway.chunks.clear()
    stage.fleet.check("-", "up and down", reported=down.events[-2]["spent_usd"])


def test_a_controller_runs_the_work_off_and_leaves_nothing(stage: Stage) -> None:
    stage.fleet.gateway.put(1_500)
    ran = stage("run", "--gpus", 3, *BOUNDS, "--model", "large-v3", "--within", "2", "--until-idle", "--json")
    assert ran.exit_code == 0
    assert stage.fleet.gateway.done
    phases = [event for event in ran.events if event["event"] == "status"]
    assert max(event["live"] for event in phases) == 3
    assert ran.events[-1]["message"].startswith("Nothing of fleet 'default' is rented any more")
    stage.fleet.check("-", "run", reported=phases[-1]["spent_usd"])

    told = stage("cost", "--json").document
    assert told["spent_usd"] == pytest.approx(stage.fleet.vast.truth().usd, rel=0.05)
    assert sum(each["usd"] for each in told["machines"]) == pytest.approx(told["spent_usd"])
    assert sum(each["usd"] for each in told["by_gpu"].values()) == pytest.approx(told["spent_usd"])
    assert 99 < told["credit_usd"] < 100
    assert told["used_usd"] >= 0.95 * stage.fleet.vast.truth().usd  # others use the account, too
    shown = stage("cost").stdout
    assert "less than before this fleet, whoever has used it." in shown
    assert "by the market's account, which comes hours later." in shown
    assert max(map(len, shown.splitlines())) <= 80
    offline = stage("cost", "--offline", "--json").document
    assert offline["spent_usd"] == pytest.approx(told["spent_usd"])
    assert offline["credit_usd"] is None


def test_nothing_keeps_a_controller_from_machines_that_are_there(stage: Stage) -> None:
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    stage.desk.sick = True
    stage.environment["WHISPERFLEET_WORKER_IMAGE"] = None
    ran = stage("run", *BOUNDS, "--until-idle")
    assert ran.exit_code == 0
    assert ran.stdout.startswith("Warning: No worker image is named")
    assert "answers 503 and not 200" in ran.stdout
    assert stage.rented() == []


def test_what_was_asked_of_a_controller_that_died_still_holds(stage: Stage) -> None:
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    with stage.ledger() as ledger:
        ledger.wish(Wish("drain"))
    stage.fleet.gateway.put(600)
    ran = stage("run", *BOUNDS, "--until-idle")
    assert ran.exit_code == 0
    assert "This fleet was asked to end, and still is to" in ran.stdout
    assert (stage.rented(), stage.fleet.gateway.done) == ([], False)
    assert stage("up", "--gpus", 1, *BOUNDS, "--no-controller").exit_code == 0
    again = stage("run", "--gpus", 2, *BOUNDS, "--until-idle")
    assert "asked to end" not in again.stdout
    assert stage.fleet.gateway.done


def interrupt_in(stage: Stage, seconds: float) -> None:
    stage.fleet.at(seconds, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_a_controller_that_is_started_again_leaves_an_ended_fleet_ended(stage: Stage) -> None:
    """As where the service `fleet` of the deployment is started anew, whatever ended it."""
    stage.fleet.gateway.put(2_000)
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    ended = stage("down")
    assert ended.stdout.splitlines()[-1].endswith("`whisperfleet fleet scale auto --fleet default` lets it rent again.")
    for _ in range(2):
        interrupt_in(stage, 400)
        again = stage("run", "--gpus", 2, *BOUNDS)
        assert (again.exit_code, stage.rented()) == (130, [])
        assert "`whisperfleet fleet scale auto --fleet default` undoes that" in again.stdout
    assert stage("scale", "auto").exit_code == 0
    interrupt_in(stage, 100)
    stage("run", "--gpus", 1, *BOUNDS)
    assert len(stage.rented()) == 1


@pytest.mark.parametrize("mode", ["drain", "close"])
def test_a_controller_stays_without_machines_until_it_is_to_rent_again(
    stage: Stage, mode: Literal["drain", "close"]
) -> None:
    stage.fleet.gateway.put(2_000)
    counts: list[int] = []

    def wish(wish: Wish) -> None:
        counts.append(len(stage.rented()))
        with stage.ledger() as ledger:
            ledger.wish(wish)

    stage.fleet.at(200, lambda: wish(Wish(mode)))
    stage.fleet.at(1_500, lambda: wish(Wish()))
    stage.fleet.at(1_600, lambda: counts.append(len(stage.rented())))
    interrupt_in(stage, 1_610)
    assert stage("run", "--gpus", 1, *BOUNDS).exit_code == 130
    assert counts == [1, 0, 1]


def test_machines_of_a_minimum_are_not_to_end_themselves_for_want_of_work(stage: Stage) -> None:
    interrupt_in(stage, 7_000)
    stage("run", "--gpus", 4, "--min-gpus", 2, *BOUNDS, "--ttl", 6)
    assert len(stage.rented()) == 2
    assert len(stage.fleet.gateway.members) == 2, "and no others came and went"


def test_what_is_held_is_kept_until_its_work_has_come_and_gone(stage: Stage) -> None:
    stage.fleet.at(400, lambda: stage.fleet.gateway.put(30))
    options = ("--gpus", 2, "--min-gpus", 2, "--hold", 900, *BOUNDS, "--until-idle", "--json")
    ran = stage("run", *options)
    statuses = [event for event in ran.events if event["event"] == "status"]
    before_work = [event["live"] for event in statuses if not event["chunks_done"]]
    assert before_work.count(2) > 20, "both wait for work that is yet to come"
    assert stage.fleet.gateway.done
    assert stage.rented() == []


def test_drain_lets_workers_finish_what_they_hold(stage: Stage) -> None:
    stage.fleet.gateway.put(40, audio_s=6_000)
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    stage.fleet.clock.advance(250)
    held = sum(member.held is not None for member in stage.fleet.gateway.members.values())
    assert held == 2
    drained = stage("drain")
    assert drained.exit_code == 0
    assert "draining, 2 machines" in drained.stdout
    assert stage.rented() == []
    assert [chunk.lost for chunk in stage.fleet.gateway.chunks] == [0] * 40
    assert sum(chunk.results for chunk in stage.fleet.gateway.chunks) >= 2


def test_down_says_what_the_market_does_not_let_go(stage: Stage) -> None:
    assert stage("up", "--gpus", 1, *BOUNDS, "--no-controller").exit_code == 0
    (number,) = stage.rented()
    stage.fleet.vast.faults.add("F12", how="alive", count=None)
    down = stage("down", "--timeout", 120)
    assert down.exit_code == 8
    assert "1 machine is still rented for $0.12 an hour" in down.stdout.splitlines()[-1]
    assert f"(instances {number})" in down.stdout.splitlines()[-1]
    reaped = stage("reap", "--fleet", "default", "--all", "--timeout", 60)
    assert (reaped.exit_code, reaped.error.startswith(f"Still there: {number}.")) == (8, True)


def test_reap_ends_what_is_past_its_time_and_nothing_else(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlayedWorker, "_end", lambda worker: None)  # on a host that keeps it from ending itself
    assert stage("up", "--gpus", 2, *BOUNDS, "--ttl", "1", "--no-controller").exit_code == 0
    early = stage("reap")
    assert (early.exit_code, early.stdout, len(stage.rented())) == (0, "", 2)
    stage.fleet.clock.advance(3_600 + 301)
    database(stage.home, "default").unlink()
    stage.environment["WHISPERFLEET_GATEWAY_ADMIN"] = "http://127.0.0.1:9"
    other = stage("reap", "--fleet", "other", "--json").document
    assert (other["destroyed"], len(stage.rented())) == ([], 2)
    reaped = stage("reap")
    assert (reaped.exit_code, stage.rented()) == (0, [])
    assert reaped.stdout.splitlines()[-1] == "2 ended, 0 left, 0 whose time is not over."
    assert stage.fleet.vast.contract(stage.fleet.foreign).alive


def test_reap_all_ends_a_fleet_by_its_labels(stage: Stage) -> None:
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    reaped = stage("reap", "--fleet", "default", "--all", "--json").document
    assert (len(reaped["destroyed"]), reaped["left"], stage.rented()) == (2, [], [])


def test_logs_are_those_of_a_machine_of_ours(stage: Stage) -> None:
    assert stage("up", "--gpus", 1, *BOUNDS, "--no-controller").exit_code == 0
    (number,) = stage.rented()
    stage.fleet.clock.advance(200)
    told = stage("logs", number, "-n", "5", "--json").document
    assert told == {"instance": number, "lines": ["container started"]}


def test_watch_follows_whoever_controls(stage: Stage) -> None:
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    stage.fleet.gateway.put(20)
    events = stage("watch", "--seconds", 150, "--json").events
    assert len(events) >= 12
    assert {event["phase"] for event in events} == {"alone"}
    assert events[-1]["chunks_done"] > 0
    assert events[-1]["rtfx"] > 0
    lines = stage("watch", "--seconds", 20).stdout.splitlines()
    assert lines[0].startswith("Fleet default: without a controller, 2 machines")


def test_ctrl_c_rents_no_more_and_tells_what_is_rented(stage: Stage) -> None:
    def at_the_first(slot: Slot) -> Fate:
        stage.fleet.vast.world.fate = lambda slot: Fate()
        os.kill(os.getpid(), signal.SIGINT)
        return Fate()

    stage.fleet.vast.world.fate = at_the_first
    up = stage("up", "--gpus", 4, *BOUNDS, "--no-controller")
    assert up.exit_code == 130
    assert len(stage.rented()) == 1
    assert "Cancelled: 1 of 4 machines are rented" in up.stdout
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert stage("status", "--json").document["live"] == 1


def test_a_market_with_too_few_is_told_with_its_reason(stage: Stage) -> None:
    up = stage("up", "--gpus", 9, "--max-price", "0.2", "--budget", "2", "--no-controller")
    assert up.exit_code == 8
    assert up.error.startswith("Error: Only 8 of 9 machines are rented, for $")
    assert up.error.endswith("`whisperfleet fleet down --fleet default` ends them.")
    assert len(stage.rented()) == 8


def test_ctrl_c_is_how_one_leaves_a_watch(stage: Stage) -> None:
    for second in (40, 60):  # once, on a busy machine, one was lost, and a watch in virtual time never ended
        stage.fleet.at(second, lambda: os.kill(os.getpid(), signal.SIGINT))
    watched = stage("watch", "--json")
    assert (watched.exit_code, watched.error) == (0, "")
    assert 2 <= len(watched.events) <= 5


# ---- while a controller runs ----


@pytest.fixture
def controlled(stage: Stage) -> Iterator[Ledger]:
    """Somebody else is the controller of this fleet."""
    with stage.ledger() as ledger:
        ledger.take_ownership(stage.fleet.our_clock.now_ms())
        yield ledger


def test_scale_is_wished_of_the_controller(stage: Stage, controlled: Ledger) -> None:
    assert stage("scale", "5").stdout == "Fleet 'default' is to have 5 machines.\n"
    assert controlled.wished() == Wish(min_instances=5, max_instances=5)
    assert stage("scale", "0-3", "--json").document == {"fleet": "default", "min_instances": 0, "max_instances": 3}
    assert controlled.wished() == Wish(min_instances=0, max_instances=3)
    assert stage("scale", "auto").exit_code == 0
    assert controlled.wished() == Wish()


def test_up_and_down_ask_the_controller_instead_of_being_a_second_one(stage: Stage, controlled: Ledger) -> None:
    told = {**_told(stage, 2)}
    stage.fleet.at(20, lambda: controlled.note("status", {**told, "at_ms": stage.fleet.our_clock.now_ms()}))
    up = stage("up", "--gpus", 2, *BOUNDS, "--json")
    assert up.exit_code == 0
    wished = controlled.wished()
    assert (wished.phase, wished.min_instances, wished.held_instances) == ("run", None, 2)
    assert up.events[0]["message"] == "A controller of fleet 'default' runs already: it is asked for 2."
    assert stage.rented() == []

    stage.fleet.at(20, controlled.give_up_ownership)
    down = stage("down")
    assert down.exit_code == 0
    assert controlled.wished().phase == "close"


def test_up_never_makes_a_running_fleet_smaller(stage: Stage, controlled: Ledger) -> None:
    controlled.note("limits", {"max_usd": 2.0, "max_price": 0.35, "max_instances": 4})
    controlled.wish(Wish(min_instances=3, max_instances=8))
    stage.fleet.at(20, lambda: controlled.note("status", _told(stage, 8)))
    assert stage("up", "--gpus", 2).exit_code == 0
    wished = controlled.wished()
    assert (wished.min_instances, wished.max_instances, wished.held_instances) == (3, 8, 2)
    controlled.wish(Wish("close"))
    stage.fleet.at(20, lambda: controlled.note("status", _told(stage, 6)))
    assert stage("up", "--gpus", 6).exit_code == 0
    wished = controlled.wished()
    assert (wished.phase, wished.min_instances, wished.max_instances, wished.held_instances) == ("run", None, 6, 6)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("--budget", "10"), "runs with --budget 2, and only a new one can have another: leave that out"),
        (("--max-price", "0.5"), "runs with --max-price 0.35,"),
        (("--gpu", "RTX_4090"), "runs with --gpu of any kind,"),
        (("--model", "large-v3", "--on-demand"), "runs with --model turbo, --on-demand off,"),
    ],
)
def test_what_a_running_controller_does_not_go_by_is_refused(
    stage: Stage, controlled: Ledger, typed: tuple[str, ...], words: str
) -> None:
    controlled.note("wanted", json.loads(json.dumps(asdict(Wanted(max_price=0.35, budget=2.0)))))
    before = controlled.wished()
    said = stage("up", "--gpus", 2, *typed)
    assert (said.exit_code, controlled.wished()) == (2, before)
    assert words in said.error


def test_up_ends_when_somebody_ends_its_fleet(stage: Stage, controlled: Ledger) -> None:
    stage.fleet.at(30, lambda: controlled.wish(Wish("close")))
    up = stage("up", "--gpus", 2)
    assert up.exit_code == 130
    assert "Another command has asked this fleet to end" in up.stdout
    assert controlled.wished().phase == "close"


def test_down_names_what_works_without_a_controller_that_hangs(stage: Stage) -> None:
    assert stage("up", "--gpus", 1, *BOUNDS, "--no-controller").exit_code == 0
    with stage.ledger() as ledger:
        ledger.take_ownership(stage.fleet.our_clock.now_ms())
        down = stage("down", "--timeout", 60)
    assert down.exit_code == 8
    assert "`whisperfleet fleet reap --all --fleet default` ends them without it." in down.stdout.splitlines()[-1]
    assert stage("reap", "--all", "--fleet", "default").exit_code == 0
    assert stage.rented() == []


def test_down_ends_what_a_controller_has_left(stage: Stage) -> None:
    """One that dies while it is asked to."""
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    with stage.ledger() as ledger:
        ledger.take_ownership(stage.fleet.our_clock.now_ms())
        stage.fleet.at(30, ledger.give_up_ownership)
        assert stage("down").exit_code == 0
    assert stage.rented() == []


def test_up_without_a_controller_heeds_down(stage: Stage) -> None:
    def at_the_first(slot: Slot) -> Fate:
        stage.fleet.vast.world.fate = lambda slot: Fate()
        with stage.ledger() as ledger:
            ledger.wish(Wish("close"))
        return Fate()

    stage.fleet.vast.world.fate = at_the_first
    up = stage("up", "--gpus", 8, *BOUNDS, "--no-controller")
    assert up.exit_code == 130
    assert "Another command has asked this fleet to end" in up.stdout
    assert len(stage.rented()) < 8
    assert stage("run", *BOUNDS, "--until-idle").exit_code == 0
    assert stage.rented() == []


def test_a_clock_that_is_off_ends_nothing_by_its_time(stage: Stage) -> None:
    assert stage("up", "--gpus", 2, *BOUNDS, "--no-controller").exit_code == 0
    stage.fleet.vast.world.skew = -600.0
    reaped = stage("reap")
    assert (reaped.exit_code, len(stage.rented())) == (4, 2)
    assert "This machine's clock is 600 s ahead of Vast.ai's: set it by NTP" in reaped.error
    down = stage("down")  # which goes by labels, and not by their time
    assert (down.exit_code, stage.rented()) == (0, [])
    assert down.stdout.startswith("Warning: This machine's clock is 600 s ahead of Vast.ai's")


def test_a_gpu_is_known_by_the_name_that_searches_have_too(stage: Stage) -> None:
    rows = stage("offers", "--gpu", "RTX_4090", "--json").document
    assert {row["offer"]["gpu_name"] for row in rows} == {"RTX 4090"}


def test_status_is_what_the_controller_told_while_it_lives(stage: Stage, controlled: Ledger) -> None:
    controlled.note("status", _told(stage, 4))
    stage.environment["VAST_API_KEY"] = None  # who only looks at a controller's account needs no key
    assert stage("status", "--json").document["live"] == 4


def _told(stage: Stage, machines: int) -> dict[str, Any]:
    """What a controller of so many machines notes."""
    line = {
        "nonce": "n", "instance_id": 1, "gpu_name": "RTX 3090", "state": "busy", "usd_per_hour": 0.1, "spent_usd": 0.0,
        "chunks_done": 0, "rtfx": None, "age_s": 1.0, "machine_id": 1, "interruptible": True, "expires_ms": 0,
        "message": "",
    }  # fmt: skip
    return {
        "fleet": "default", "at_ms": stage.fleet.our_clock.now_ms(), "phase": "run", "target": machines,
        "lines": [line] * machines, "demand": {}, "spent_usd": 0.0, "max_usd": 2.0, "alarms": [], "added_later": 1,
    }  # fmt: skip


# ---- what is refused ----


@dataclass(frozen=True)
class Bad:
    """One way to get it wrong: what is set up, what is typed, the exit code, and words of the one sentence."""

    what: str
    exit_code: int
    words: str
    typed: tuple[object, ...] = ("up", "--gpus", 2, *BOUNDS)
    prepare: Callable[[Stage], object] = lambda stage: None


def _set(**values: str | None) -> Callable[[Stage], object]:
    return lambda stage: stage.environment.update(values)


def _key_file(text: str | bytes) -> Callable[[Stage], object]:
    def prepare(stage: Stage) -> None:
        file = stage.home / "vast.key"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        stage.environment |= {"VAST_API_KEY": None, "WHISPERFLEET_VAST_KEY_FILE": str(file)}

    return prepare


def _account_variable(stage: Stage) -> None:
    stage.fleet.vast.world.account_environment["HF_TOKEN"] = "hf_secret"


def _spent(stage: Stage) -> None:
    """A fleet that has nearly used its budget up, and is gone."""
    stage.fleet.vast.market.add("H200", dph="30", min_bid="28", gpu_ram=140_000, dlperf=500.0)
    assert (
        stage("up", "--gpus", 1, "--gpu", "H200", "--max-price", 40, "--budget", 40, "--no-controller").exit_code == 0
    )
    stage.fleet.clock.advance(250)
    assert stage("down").exit_code == 0
    stage.fleet.vast.calls.clear()


def _no_credit(stage: Stage) -> None:
    stage.fleet.vast.world.credit = Fraction(0)


def _sick(stage: Stage) -> None:
    stage.desk.sick = True


def _gateway_ahead(stage: Stage) -> None:
    stage.desk.ahead_s = 600.0


def _market_behind(stage: Stage) -> None:
    stage.fleet.vast.world.skew = -600.0


def _no_admin_key(stage: Stage) -> None:
    (stage.home / "gateway" / "admin.key").unlink()


def _other_admin_key(stage: Stage) -> None:
    (stage.home / "gateway" / "admin.key").write_text("other")


BAD = (
    Bad("no key", 8, "There is no Vast.ai key: ", prepare=_set(VAST_API_KEY=None)),
    Bad("no such key file", 8, "cannot be read: no such file", (*("up", *BOUNDS), "--vast-key-file", "nowhere.key")),
    Bad("a key file of several words", 8, "holds no Vast.ai key", prepare=_key_file("the key is\nabc")),
    Bad("a key file that is no text", 8, "it is no text", prepare=_key_file(b"\xff\xfe\x00")),
    Bad("wrong key", 8, "Vast.ai does not accept the key", prepare=_set(VAST_API_KEY="0" * 64)),
    Bad("revoked key", 8, "does not accept the key", prepare=lambda stage: stage.fleet.vast.revoke_key()),
    Bad("no credit", 8, "has no credit left", prepare=_no_credit),
    Bad("variables in the account", 8, "has environment variables (HF_TOKEN)", prepare=_account_variable),
    Bad(
        "no offer under the price", 8, "the cheapest that fits is one RTX 3090, interruptible, at $0.10",
        ("up", "--max-price", "0.05", "--budget", "2"),
    ),
    Bad("no such GPU", 8, "has no offer of this kind", ("up", *BOUNDS, "--gpu", "GTX 999")),
    Bad("budget too small", 8, "is too small for one machine", ("up", "--max-price", "0.35", "--budget", "0.01")),
    Bad("budget used up", 8, "has spent $", ("up", "--max-price", "0.35", "--budget", "2"), _spent),
    Bad("budget too small to run", 8, "is too small for one", ("run", "--max-price", "0.35", "--budget", "0.01")),
    Bad("budget too small to plan", 8, "is too small for", ("plan", "--hours", "9", "--budget", "0.02")),
    Bad("no money named", 2, "Say what may be spent", ("up", "--gpus", 2)),
    Bad("no gateway", 2, "No gateway is named", prepare=_set(WHISPERFLEET_GATEWAY=None)),
    Bad("nobody at the gateway", 4, "cannot be reached from outside", prepare=_set(WHISPERFLEET_GATEWAY="http://127.0.0.1:9")),
    Bad(
        "gateway on loopback", 4, "127.0.0.1 is a loopback or private address",
        ("up", *BOUNDS, "--gateway", "https://127.0.0.1:7401"), _set(WHISPERFLEET_VAST_URL="https://market.invalid"),
    ),
    Bad(
        "gateway in a private net", 4, "192.168.1.20 is a loopback or private address",
        ("up", *BOUNDS, "--gateway", "https://192.168.1.20"), _set(WHISPERFLEET_VAST_URL="https://market.invalid"),
    ),
    Bad(
        "gateway without TLS", 2, "is without TLS", ("up", *BOUNDS, "--gateway", "http://93.184.215.14"),
        _set(WHISPERFLEET_VAST_URL="https://market.invalid"),
    ),
    Bad(
        "gateway of no known name", 4, "gateway.invalid is known to no name server",
        ("up", *BOUNDS, "--gateway", "https://gateway.invalid"), _set(WHISPERFLEET_VAST_URL="https://market.invalid"),
    ),
    Bad("a gateway that is sick", 4, "answers 503 and not 200", prepare=_sick),
    Bad("no address", 2, "--gateway is 'gateway', which is no address", ("up", *BOUNDS, "--gateway", "gateway")),
    Bad("clock behind the gateway", 4, "clock is 600 s behind the gateway's", prepare=_gateway_ahead),
    Bad("clock ahead of the market", 4, "clock is 600 s ahead of Vast.ai's", prepare=_market_behind),
    Bad("no admin key", 4, "admin.key does not exist", prepare=_no_admin_key),
    Bad("wrong admin key", 4, "does not accept the admin key", prepare=_other_admin_key),
    Bad("no server", 4, "does not answer", prepare=_set(WHISPERFLEET_SERVER="http://127.0.0.1:9")),
    Bad("no server anywhere", 4, "No Conductor server runs", prepare=_set(WHISPERFLEET_SERVER=None)),
    Bad("no image", 2, "No worker image is named", prepare=_set(WHISPERFLEET_WORKER_IMAGE=None)),
    Bad("a name that is none", 2, "a fleet's name has 1 to 32 characters", ("status", "--fleet", "my:fleet")),
    Bad("tasks for the trusted", 2, "which no rented machine may do", ("up", *BOUNDS, "--tasks", "split_media")),
    Bad("more at least than at most", 2, "--min-gpus 3 is more", ("run", "--gpus", 2, "--min-gpus", 3, *BOUNDS)),
    Bad("scaling what nobody controls", 2, "No controller of fleet 'default' runs", ("scale", "3")),
    Bad("scaling to nothing known", 2, "'5-2' is no number of machines", ("scale", "5-2")),
    Bad("logs of somebody else's machine", 2, "is no machine of fleet 'default'", ("logs", "FOREIGN")),
    Bad("logs of no machine", 2, "is no machine of fleet", ("logs", 4711)),
    Bad("a plan of nothing", 2, "Say what is to be transcribed", ("plan",)),
    Bad("a plan of no file", 3, "does not exist", ("plan", "--media", "nowhere.mp4")),
    Bad("reaping all of any fleet", 2, "name the fleet by --fleet", ("reap", "--all")),
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.what)
def test_bad_input_is_one_sentence_and_nothing_is_rented(stage: Stage, bad: Bad) -> None:
    bad.prepare(stage)
    said = stage(*(stage.fleet.foreign if word == "FOREIGN" else word for word in bad.typed))
    assert bad.words in said.error
    assert said.exit_code == bad.exit_code
    assert said.error.startswith("Error: ")
    assert "\n" not in said.error
    assert said.error.endswith((".", "…"))
    assert stage.fleet.vast.account_key not in said.error
    assert stage.rented() == []
    assert [change for change in stage.asked_to_change() if "/asks/" in change] == []
    assert stage.fleet.vast.contract(stage.fleet.foreign).alive


def test_without_the_extra_it_says_how_to_get_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "vastai" else known(name, *rest)
    )
    for typed in (("up", *BOUNDS), ("offers",), ("down",), ("reap",)):
        said = stage(*typed)
        assert said.exit_code in (2, 8)
        assert 'pip install "whisperfleet[vast]"' in said.error
        assert "\n" not in said.error


def test_a_second_controller_is_refused(stage: Stage, controlled: Ledger) -> None:
    said = stage("run", *BOUNDS)
    assert said.exit_code == 2
    assert said.error.startswith("Error: Fleet 'default' already has a controller (process ")
    assert stage.rented() == []


def test_the_doctor_names_all_that_is_in_the_way(stage: Stage, controlled: Ledger) -> None:
    _account_variable(stage)
    stage.desk.ahead_s = -300.0
    stage.environment |= {"WHISPERFLEET_WORKER_IMAGE": "registry.example/worker:latest", "WHISPERFLEET_SERVER": None}
    said = stage("doctor", "--json")
    verdicts = {finding["what"]: finding["verdict"] for finding in said.document}
    assert said.exit_code == 1
    assert [what for what, verdict in verdicts.items() if verdict == "fails"] == [
        "Gateway's clock", "Conductor server", "Account",
    ]  # fmt: skip
    assert [what for what, verdict in verdicts.items() if verdict == "note"] == ["Worker image", "Controller"]


def test_a_run_waits_for_a_price_and_says_so(stage: Stage) -> None:
    stage.fleet.gateway.put(5)
    stage.fleet.at(300, lambda: stage.fleet.vast.market.add("RTX 3060", dph="0.08", inet_down=1_000.0))
    ran = stage("run", "--max-price", "0.06", "--budget", "2", "--until-idle")
    assert ran.exit_code == 0
    assert ran.stdout.startswith("Warning: No offer is under $0.06 an hour: the cheapest that fits is one RTX 3090")
    assert ran.stdout.count("the cheapest that fits is one RTX 3090") == 2, "before it begins, and while it waits"
    assert "The market has no offer of this kind" not in ran.stdout
    assert stage.fleet.gateway.done
    assert stage.rented() == []


# ---- true processes ----


@pytest.fixture
def real_time(tmp_path: Path) -> Iterator[tuple[VastEmulator, dict[str, str]]]:
    """The same market and gateway on this machine's clock, for commands that are processes of their own."""
    clock = RealClock()
    gateway = PlayedGateway(cast(VirtualClock, clock))  # it only asks for the time
    with VastEmulator(1, clock, timing=Timing(scale=0.01)) as vast, Desk(gateway, clock.now) as desk:
        for _ in range(3):
            vast.market.add("RTX 3090", dph="0.2", inet_down=1_000.0)
        (tmp_path / "gateway").mkdir()
        (tmp_path / "gateway" / "admin.key").write_text(ADMIN_KEY)
        key = tmp_path / "vast.key"
        key.write_text(vast.account_key)
        key.chmod(0o600)
        yield (
            vast,
            bare_environment(
                WHISPERFLEET_HOME=str(tmp_path),
                WHISPERFLEET_GATEWAY=desk.url,
                WHISPERFLEET_GATEWAY_ADMIN=desk.url,
                WHISPERFLEET_SERVER=desk.url,
                WHISPERFLEET_WORKER_IMAGE=IMAGE,
                WHISPERFLEET_VAST_URL=vast.url,
                WHISPERFLEET_VAST_KEY_FILE=str(key),
            ),
        )


def _process(environment: dict[str, str], *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        argv("fleet", *arguments), env=environment, capture_output=True, text=True, timeout=90, check=False
    )


def test_up_leaves_a_controller_that_can_be_asked_and_stopped(
    real_time: tuple[VastEmulator, dict[str, str]], tmp_path: Path
) -> None:
    vast, environment = real_time
    up = _process(environment, "up", "--gpus", 1, *BOUNDS, "--json")
    assert (up.returncode, up.stderr) == (0, "")
    messages = [event["message"] for line in up.stdout.splitlines() if (event := json.loads(line))["event"] == "note"]
    assert messages[0].startswith("A controller (process ")
    assert messages[1].startswith("1 of 1 machine is rented, for $0.1")
    number = int(messages[0].split("process ")[1].split(")")[0])
    try:
        assert len(vast.alive()) == 1
        asked = CliRunner().invoke(cli, ["fleet", "scale", "2"], env=environment)
        assert asked.stdout == "Fleet 'default' is to have 2 machines.\n"
        with Ledger(database(tmp_path, "default")) as ledger:
            assert (ledger.wished().min_instances, ledger.wished().max_instances) == (2, 2)
        second = CliRunner().invoke(cli, ["fleet", "run", *BOUNDS], env=environment)
        assert str(second.exception).startswith(f"Fleet 'default' already has a controller (process {number} on ")
    finally:
        os.kill(number, signal.SIGTERM)
    end = time.monotonic() + 60
    log = tmp_path / "fleet" / "default.log"
    while "still rented" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert "`whisperfleet fleet run --fleet default` takes over" in log.read_text()
    assert vast.find_secrets(ADMIN_KEY) == []
    assert vast.truth().violations == ()


def test_a_process_ends_with_one_sentence_too(real_time: tuple[VastEmulator, dict[str, str]]) -> None:
    vast, environment = real_time
    vast.revoke_key()
    done = _process(environment, "status")
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr.startswith("Error: Vast.ai does not accept the key")
    assert len(done.stderr.splitlines()) == 1


def _later(condition: Callable[[], bool], seconds: float = 40.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def _controller_of(home: Path) -> int:
    with Ledger(database(home, "default")) as ledger:
        (row,) = ledger._rows("SELECT who FROM owner")
    return int(row[0].removeprefix("process "))


def test_down_right_after_up_leaves_nothing(real_time: tuple[VastEmulator, dict[str, str]], tmp_path: Path) -> None:
    vast, environment = real_time
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(argv("fleet", "up", "--gpus", 2, *BOUNDS), env=environment, stdout=out, stderr=out)
    assert _later(lambda: len(vast.alive()) >= 1), log.read_text()
    controller = _controller_of(tmp_path)
    try:
        down = subprocess.Popen(argv("fleet", "down"), env=environment, stdout=subprocess.DEVNULL)
        assert up.wait(40) == 130
        assert "Another command has asked this fleet to end" in log.read_text()
        assert _later(lambda: not vast.alive())
        with Ledger(database(tmp_path, "default")) as ledger:
            assert ledger.wished().phase == "close"
        down.terminate()
        down.wait(30)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it leaves when nothing is left
            os.kill(controller, signal.SIGTERM)
    assert vast.truth().leaked == ()


@pytest.mark.parametrize("end", ["no credit", signal.SIGHUP])
def test_an_up_that_ends_midway_leaves_machines_to_a_controller(
    real_time: tuple[VastEmulator, dict[str, str]], tmp_path: Path, end: str | int
) -> None:
    vast, environment = real_time
    log = tmp_path / "up.log"
    with log.open("wb") as out:
        up = subprocess.Popen(argv("fleet", "up", "--gpus", 3, *BOUNDS), env=environment, stdout=out, stderr=out)
    assert _later(lambda: len(vast.alive()) >= 1), log.read_text()
    controller = _controller_of(tmp_path)
    try:
        assert controller != up.pid
        if isinstance(end, int):
            up.send_signal(end)  # the terminal is closed
        else:
            vast.world.credit = Fraction(0)
        assert up.wait(60) == (130 if isinstance(end, int) else 8), log.read_text()
        os.kill(controller, 0)
        if end == "no credit":
            assert _later(lambda: not vast.alive()), "the controller ends what was rented"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it leaves when nothing is left
            os.kill(controller, signal.SIGTERM)
