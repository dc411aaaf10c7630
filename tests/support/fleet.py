"""A whole fleet on one virtual clock: the real controller and the real client against the emulator, workers played.

The gateway is played, too (the true one is in the end-to-end test): it hands out chunks of a queue, knows who holds
which, takes each result once, and says of its workers what the true one would. A chunk takes as long as its audio is,
divided by the speed of that GPU. What is not played is money, machines and everything that goes wrong with them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from provisioning import reaper
from provisioning.cloud import OfferQuery
from provisioning.demand import Gateway, GatewayRefused, GatewaySilent
from provisioning.fleet import Demand, Limits, WorkerNews
from provisioning.gateway_deadman import Deadman
from provisioning.ledger import Ledger, database
from provisioning.reconcile import Controller
from provisioning.renting import FleetSpec
from provisioning.status import FleetStatus
from provisioning.vast import VastCloud
from tests.emulator.invariants import assert_invariants
from tests.vast_emulator import Container, Timing, VastEmulator, VirtualClock

QUICK = 360.0  # audio seconds per second: so that a whole fleet's life is thirty ticks
ADMIN_KEY, SIGNING_KEY = "the-admin-key-of-the-gateway", "the-signing-key-of-the-gateway"
SELF_TEST_S = 20.0
HEARTBEAT_S = 20.0
END_TRIES, END_PAUSE_S, END_LONGEST_PAUSE_S = 20, 3.0, 30.0  # as `workers.instance` has it


@dataclass
class Chunk:
    """results: how often one was taken; lost: how often its worker went away with it."""

    index: int
    audio_ms: int
    results: int = 0
    lost: int = 0


@dataclass
class Member:
    """What the gateway knows of one machine."""

    nonce: str
    token: str
    expires_ms: int
    revoked: bool = False
    draining: bool = False
    first_seen_ms: int | None = None
    last_seen_ms: int | None = None
    last_task_ms: int | None = None
    held: Chunk | None = None
    chunks_done: int = 0
    audio_done_ms: int = 0
    busy_ms: int = 0
    rtfx: float | None = None
    strikes: list[str] = field(default_factory=list)
    refused: str | None = None


class PlayedGateway:
    """Queue and gateway in one. down: it does not answer; ahead_s: its clock is that much ahead of the world's."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._deadman = Deadman(round(clock.now() * 1000))
        self.down = False
        self.locked = False  # nobody is admitted
        self.ahead_s = 0.0
        self.queue: list[Chunk] = []
        self.chunks: list[Chunk] = []
        self.members: dict[str, Member] = {}
        self.problem: str | None = None
        self._numbers = itertools.count(1)

    def put(self, count: int, audio_s: float = 60.0) -> None:
        fresh = [Chunk(len(self.chunks) + number, round(audio_s * 1000)) for number in range(count)]
        self.chunks += fresh
        self.queue += fresh

    @property
    def done(self) -> bool:
        return all(chunk.results for chunk in self.chunks)

    def now_ms(self) -> int:
        return round((self._clock.now() + self.ahead_s) * 1000)

    # ---- what the controller asks ----

    def admit(self, nonce: str, kinds: Sequence[str], expires_ms: int) -> str:
        self._answer()
        if self.locked:
            raise GatewayRefused("The gateway does not accept the admin key.")
        token = f"worker-token-{next(self._numbers)}-{nonce}"
        self.members[nonce] = Member(nonce, token, expires_ms)
        return token

    def lose(self, nonce: str) -> tuple[str, ...]:
        self._answer()
        member = self.members.get(nonce)
        if member is None:
            return ()
        member.revoked = True
        return self.give_back(member)

    def drain(self, nonce: str) -> None:
        self._answer()
        if nonce in self.members:
            self.members[nonce].draining = True

    def workers(self) -> tuple[int, dict[str, WorkerNews]]:
        self._answer()
        self._deadman.asked(round(self._clock.now() * 1000))
        return self.now_ms(), {one.nonce: self._news(one) for one in self.members.values() if not one.revoked}

    def look(self) -> Demand:
        if self.down:
            return Demand(known=False)
        held = [one.held for one in self.members.values() if one.held is not None]
        return Demand(
            sum(chunk.audio_ms for chunk in self.queue),
            len(self.queue),
            sum(chunk.audio_ms for chunk in held),
            len(held),
        )

    def _answer(self) -> None:
        if self.down:
            raise GatewaySilent("The gateway's admin side does not answer.")

    def _news(self, one: Member) -> WorkerNews:
        return WorkerNews(
            nonce=one.nonce,
            first_seen_ms=one.first_seen_ms,
            last_seen_ms=one.last_seen_ms,
            last_task_ms=one.last_task_ms,
            held_tasks=int(one.held is not None),
            held_audio_ms=one.held.audio_ms if one.held else 0,
            chunks_done=one.chunks_done,
            audio_done_ms=one.audio_done_ms,
            busy_ms=one.busy_ms,
            rtfx=one.rtfx,
            draining=one.draining,
            strikes=tuple(one.strikes),
            refused=one.refused,
        )

    # ---- what workers ask ----

    def let_in(self, nonce: str, token: str) -> Member | None:
        """None: it is not to come again. Raises GatewaySilent."""
        self._answer()
        self._sweep()
        member = self.members.get(nonce)
        known = member is not None and member.token == token and not member.revoked
        if member is None or not known or self.now_ms() >= member.expires_ms:
            return None
        member.last_seen_ms = self.now_ms()
        member.first_seen_ms = member.first_seen_ms or member.last_seen_ms
        return member

    def _sweep(self) -> None:
        verdict = self._deadman.verdict(round(self._clock.now() * 1000))
        for member in self.members.values() if verdict else ():
            member.draining = True
            if verdict == "revoke":
                self.lose(member.nonce)

    def poll(self, member: Member) -> Chunk | None:
        self._answer()
        if member.draining or member.refused or member.held is not None or not self.queue:
            return None
        member.held = self.queue.pop(0)
        member.last_task_ms = self.now_ms()
        return member.held

    def hand_in(self, member: Member, chunk: Chunk, busy_s: float, right: bool) -> bool:
        """A result that is not right is known by its canaries, and costs the machine its work."""
        self._answer()
        if member.held is not chunk:
            return False
        if not right:
            member.strikes.append("canary")
            member.refused = "its results are wrong"
            self.give_back(member)
            return False
        member.held = None
        chunk.results += 1
        member.chunks_done += 1
        member.audio_done_ms += chunk.audio_ms
        member.busy_ms += round(busy_s * 1000)
        member.last_task_ms = self.now_ms()
        return True

    def give_back(self, member: Member) -> tuple[str, ...]:
        chunk, member.held = member.held, None
        if chunk is None:
            return ()
        chunk.lost += 1
        self.queue.insert(0, chunk)
        return (str(chunk.index),)


class _Passing:
    """A gateway of one's own to a shared one: what is made brittle in it is not so for others."""

    def __init__(self, gateway: PlayedGateway) -> None:
        self.admit, self.lose, self.drain = gateway.admit, gateway.lose, gateway.drain
        self.workers = gateway.workers


class PlayedWorker:
    """What the image's supervisor and worker do, on the virtual clock: self-test, heartbeat, chunks, its own end."""

    def __init__(self, fleet: Fleet, container: Container) -> None:
        self._fleet = fleet
        self._container = container
        self._gateway = fleet.gateway
        told = container.environment
        self._nonce, self._token = told["CONDUCTOR_AUTH_KEY"], told["CONDUCTOR_AUTH_SECRET"]
        self._alive = True
        self._working = self._ending = False
        self._began = self._contact = self._worked = fleet.clock.now()
        rtfx = fleet.rtfx(container.gpu_name) if callable(fleet.rtfx) else fleet.rtfx
        self._rtfx = rtfx * (0.1 if container.flaw == "slow" else 1.0)
        self._later(float(told["WHISPERFLEET_TTL_S"]), self._end)
        self._later(fleet.self_test_s, self._beat)

    def kill(self) -> None:
        self._alive = False

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        def run() -> None:
            if self._alive:
                action()

        self._fleet.clock.call_at(self._fleet.clock.now() + seconds, run)

    def _beat(self) -> None:
        if self._ending:
            return None
        now, told = self._fleet.clock.now(), self._container.environment
        try:
            member = self._gateway.let_in(self._nonce, self._token)
        except GatewaySilent:
            if now - self._contact > float(told["WHISPERFLEET_SILENCE_S"]):
                return self._end()
            return self._later(HEARTBEAT_S, self._beat)
        self._contact = now
        if member is None:
            return self._end()
        if self._container.flaw == "bad_cuda":
            member.refused = "its GPU does not compute"
            return self._end()
        member.rtfx = member.rtfx or self._rtfx
        if not self._working:
            self._take(member)
        if not self._working and now - self._worked > float(told["WHISPERFLEET_IDLE_S"]):
            return self._end()
        return self._later(HEARTBEAT_S if self._working else 2.0, self._beat)

    def _take(self, member: Member) -> None:
        try:
            chunk = self._gateway.poll(member)
        except GatewaySilent:
            return
        if chunk is not None:
            self._working = True
            busy_s = chunk.audio_ms / 1000 / self._rtfx
            self._later(busy_s, lambda: self._hand_in(member, chunk, busy_s))

    def _hand_in(self, member: Member, chunk: Chunk, busy_s: float) -> None:
        try:
            taken = self._gateway.hand_in(member, chunk, busy_s, right=self._container.flaw != "wrong")
        except GatewaySilent:
            return self._later(5.0, lambda: self._hand_in(member, chunk, busy_s))
        self._working = False
        self._worked = self._fleet.clock.now()
        if taken:
            self._fleet.vast.useful(self._container.instance_id, busy_s)
            self._fleet.vast.traffic(self._container.instance_id, down_bytes=chunk.audio_ms * 20, up_bytes=2_000)
        return self._take(member)

    def _end(self) -> None:
        if not self._ending:
            self._ending = True
            self._destroy(END_TRIES, END_PAUSE_S)

    def _destroy(self, tries: int, pause_s: float) -> None:
        """By its own key, as L3 does it: whatever the controller does, and wherever it is. At last it just exits."""
        number, key = self._container.environment["CONTAINER_ID"], self._container.environment["CONTAINER_API_KEY"]
        try:
            answer = httpx.delete(
                f"{self._fleet.vast.url}/api/v0/instances/{number}/",
                headers={"Authorization": f"Bearer {key}"},
                timeout=20,
                trust_env=False,
            )
            ended = answer.status_code == 200 and answer.json().get("success") is True
        except (httpx.HTTPError, ValueError):
            ended = False
        if not ended and tries > 1:
            self._later(pause_s, lambda: self._destroy(tries - 1, min(pause_s * 1.5, END_LONGEST_PAUSE_S)))
        elif not ended:
            self.kill()
            self._fleet.vast.worker_exited(self._container.instance_id)


class Killed(BaseException):
    """The controller's process ends here: no handler runs, nothing is written any more."""


class Steps:
    """Counts steps that leave something behind, and ends the process at the `end`-th. done: how many there were."""

    def __init__(self, end: int | None) -> None:
        self.end = end
        self.done = 0

    def around(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """The process may die before each act; dying after one is dying before the next."""

        def acting(*given: Any, **more: Any) -> Any:
            self._step()
            return act(*given, **more)

        return acting

    def _step(self) -> None:
        self.done += 1
        if self.done == self.end:
            raise Killed


def brittle(thing: Any, steps: Steps, names: Sequence[str]) -> Any:
    """The same object, whose methods of these names may be where the process dies."""
    for name in names:
        setattr(thing, name, steps.around(getattr(thing, name)))
    return thing


class WorldClock:
    """The controller's clock: the emulator's, perhaps wrong. `at` lets something happen while a controller waits."""

    def __init__(self, clock: VirtualClock, ahead_s: float = 0.0) -> None:
        self._clock = clock
        self.ahead_s = ahead_s

    def now_ms(self) -> int:
        return round((self._clock.now() + self.ahead_s) * 1000)

    def wait(self, seconds: float, stop: threading.Event) -> None:
        if not stop.is_set():
            self._clock.sleep(seconds)


@dataclass(frozen=True)
class Row:
    """One line of the fault table. Dollars leaked: of machines that are alive when all is over."""

    fault: str
    what: str
    machines: int
    leaked: int
    leaked_usd: float
    reported_usd: float
    true_usd: float
    budget_usd: float
    useful_share: float

    def text(self) -> str:
        return (
            f"{self.fault:<5} {self.what:<58} {self.machines:>8} {self.leaked:>6} {self.leaked_usd:>8.4f} "
            f"{self.reported_usd:>10.4f} {self.true_usd:>8.4f} {self.useful_share:>7.2f}"
        )


HEAD = (
    f"{'fault':<5} {'what':<58} {'machines':>8} {'leaked':>6} {'leaked $':>8} {'reported $':>10} {'true $':>8} "
    f"{'useful':>7}"
)

LIMITS = Limits(max_usd=2.0, max_price=0.35, max_instances=3, ttl_s=3_600.0, idle_s=30.0, drain_target_s=600.0)


class Fleet:
    """The world of one scenario. Use as a context.

    machines: how many the market has. rtfx: of each of them, or by the name of its GPU. self_test_s: until a worker
    first speaks, its model loaded. ahead_s: how far the controller's clock is ahead.
    workers: False where no machine runs anything, so that none ends itself. usd_per_gb: what hosts take for
    traffic, mbps: how fast it comes. busy_tick_s: half as many ticks as a controller has, and twice as quick a suite.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 1,
        machines: int = 8,
        limits: Limits = LIMITS,
        timing: Timing | None = None,
        credit: float = 100.0,
        ahead_s: float = 0.0,
        rtfx: float | Callable[[str], float] = QUICK,
        self_test_s: float = SELF_TEST_S,
        fleet: str = "test",
        workers: bool = True,
        usd_per_gb: str = "0.002",
        mbps: float = 1_000.0,
        busy_tick_s: float = 10.0,
        model: str = "large-v3",
    ) -> None:
        self.folder = folder
        self.busy_tick_s = busy_tick_s
        self.clock = VirtualClock()
        self.vast = VastEmulator(seed, self.clock, timing=timing or Timing(), credit=credit, launch=self._launch)
        self._workers = workers
        for number in range(machines):
            price = f"{0.20 + number * 0.01:.2f}"
            self.vast.market.add("RTX 3090", dph=price, inet_down=mbps, inet_down_cost=usd_per_gb)
        self.gateway = PlayedGateway(self.clock)
        self.our_clock = WorldClock(self.clock, ahead_s)
        self.limits = limits
        self.rtfx = rtfx
        self.self_test_s = self_test_s
        self.fleet = fleet
        self.spec = FleetSpec(
            fleet=fleet,
            limits=limits,
            query=OfferQuery(min_duration_s=600.0),
            image="registry.example/worker@sha256:0123",
            gateway="https://gateway.example",
            model=model,
            market="https://market.example",
        )
        self.said: list[str] = []
        self.foreign = 0
        self.last: FleetStatus | None = None
        self.stop: Callable[[], None] = lambda: None  # the controller that runs
        self._stack = ExitStack()

    def __enter__(self) -> Fleet:
        self._stack.enter_context(self.vast)
        self.foreign = self.vast.add_foreign(dph="0.10")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def _launch(self, container: Container) -> PlayedWorker | None:
        ours = "CONDUCTOR_AUTH_KEY" in container.environment
        return PlayedWorker(self, container) if ours and self._workers else None

    # ---- what is run ----

    @property
    def database(self) -> Path:
        return database(self.folder, self.fleet)

    def cloud(self, key: str | None = None) -> VastCloud:
        return VastCloud(
            key or self.vast.account_key,
            self.vast.url,
            clock=self.clock.now,
            sleep=self.clock.sleep,
            epoch=self.clock.now,
            read_timeout_s=20,
            create_timeout_s=20,
        )

    def controller(self, ledger: Ledger, cloud: VastCloud | None = None) -> Controller:
        return self._controller(ledger, cloud or self.cloud(), self.gateway)

    def _controller(self, ledger: Ledger, cloud: VastCloud, gateway: Gateway) -> Controller:
        return Controller(
            self.spec,
            cloud,
            gateway,
            self.gateway,
            ledger,
            clock=self.our_clock,
            say=self.said.append,
            image_gb=self.vast.world.timing.image_gb,
            busy_tick_s=self.busy_tick_s,
        )

    def run(self, *, until_idle: bool = True, watch: Callable[[FleetStatus], None] | None = None) -> FleetStatus:
        """A controller from its start until there is nothing left to do."""

        def look(now: FleetStatus) -> None:
            self.last = now
            if watch is not None:
                watch(now)

        with Ledger(self.database) as ledger, self.controller(ledger) as controller:
            self.stop = controller.stop
            return controller.run(until_idle=until_idle, idle_s=20.0, watch=look)

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        """Have something happen so many seconds from now, whoever waits then."""
        self.clock.call_at(self.clock.now() + seconds, lambda: (action(), None)[1])

    def reap(self) -> reaper.Reaped:
        """As cron does it on another machine: without database and gateway."""
        return reaper.reap(self.cloud(), self.our_clock.now_ms, self.clock.sleep)

    def crash(self, at: int | None, life: Callable[[Controller], object]) -> bool:
        """One life of a controller that is killed at its `at`-th step, or by `kill`; False where it came to its end.

        What the kernel does for a dead process is done: its lock is free and its file closed, and nothing else.
        """
        steps = Steps(at)
        ledger = brittle(Ledger(self.database), steps, ("save", "strike"))
        cloud = brittle(self.cloud(), steps, ("create", "destroy"))
        gateway = brittle(_Passing(self.gateway), steps, ("admit", "lose", "drain"))
        controller = self._controller(ledger, cloud, gateway)
        try:
            controller.__enter__()
            life(controller)
        except Killed:
            self.clock.advance(20)  # nobody starts another one sooner
            return True
        finally:
            ledger.close()
        return False

    def kill(self) -> None:
        """To be given to `at`: whoever waits then dies."""
        raise Killed

    def lose_database(self) -> None:
        for left in self.database.parent.glob(f"{self.fleet}.*"):
            left.unlink()

    # ---- what must hold ----

    def ours(self) -> list[int]:
        return [contract.id for contract in self.vast.alive()]

    def check(self, fault: str, what: str, *, reported: float | None = None, chunks: bool = True) -> Row:
        """The invariants that hold after every scenario. reported None: the meter of the last status."""
        self.clock.advance(60)  # rows that linger in lists are no machines; what still runs costs by now
        if reported is None:
            reported = self.last.spent_usd if self.last else 0.0
        truth = self.vast.truth()
        row = Row(
            fault=fault,
            what=what,
            machines=sum(not each.foreign for each in truth.instances.values()),
            leaked=len(truth.leaked),
            leaked_usd=sum(truth.instances[number].usd for number in truth.leaked),
            reported_usd=reported,
            true_usd=truth.usd,
            budget_usd=self.limits.max_usd,
            useful_share=truth.useful_share,
        )
        assert_invariants(
            self.vast,
            max_usd=self.limits.max_usd,
            max_instances=self.limits.max_instances,
            reported_usd=reported,
            secrets=(ADMIN_KEY, SIGNING_KEY),
        )
        if chunks:
            assert [chunk.results for chunk in self.gateway.chunks] == [1] * len(self.gateway.chunks)
        return row


def summed(rows: Sequence[Row], what: str) -> Row:
    """One line for many runs of one kind."""
    return Row(
        rows[0].fault,
        what,
        sum(row.machines for row in rows),
        sum(row.leaked for row in rows),
        sum(row.leaked_usd for row in rows),
        sum(row.reported_usd for row in rows),
        sum(row.true_usd for row in rows),
        sum(row.budget_usd for row in rows),
        sum(row.useful_share for row in rows) / len(rows),
    )
