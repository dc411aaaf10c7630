"""A GPU market, its workers and a controller of one fleet in a few hundred lines of memory: what a policy is tried on.

Far less than the emulator of Vast.ai's API, and thousands of times as fast: one step moves everything by some seconds.
The market knows the truth to the second (who is alive, what was billed); the keeper knows what lists and answers tell.
"""

import random
from dataclasses import dataclass, field, replace

from provisioning import budget
from provisioning.cloud import Instance
from provisioning.fleet import (
    Demand,
    Destroy,
    DrainWorker,
    FreeTasks,
    Intent,
    Label,
    Limits,
    Observed,
    Rent,
    Settle,
    Speeds,
    Strike,
    WorkerNews,
)
from provisioning.policy import Memory, Mode, Plan, plan

FLEET = "small"
CHUNK_S = 60.0
IMAGE_GB = 4.0
MBPS = 800.0
USD_PER_GB = 0.003
START_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Weather:
    """Chances of what goes wrong: per tick for the keeper, per machine and minute for hosts, per create for answers."""

    preempted: float = 0.0
    died: float = 0.0
    lost_answer: float = 0.0  # created, and nobody says so
    no_answer: float = 0.0  # not created, and nobody says so
    refused: float = 0.0
    blind: float = 0.0
    crash: float = 0.0  # between any two actions
    forgetful: float = 0.0  # of a crash: the ledger is lost too
    deaf_destroy: float = 0.0  # the market says yes and does nothing
    list_lag_s: float = 0.0
    stuck: float = 0.0  # never boots
    mute: float = 0.0  # runs, and its worker never speaks


@dataclass
class Rented:
    """One machine as it truly is."""

    id: int
    label: str
    machine_id: int
    gpu_usd_per_hour: float
    storage_usd_per_hour: float
    is_bid: bool
    rtfx: float
    created_ms: int
    listed_ms: int
    runs_ms: int | None
    mute: bool
    usd: float = 0.0
    pulled_gb: float = 0.0
    state: str = "loading"  # loading, running, stopped, unknown
    ended_ms: int | None = None
    held_s: float = 0.0
    done_s: float = 0.0
    first_ms: int | None = None
    last_task_ms: int | None = None
    draining: bool = False
    revoked: bool = False

    @property
    def alive(self) -> bool:
        return self.ended_ms is None

    @property
    def nonce(self) -> str:
        label = Label.decode(self.label)
        assert label
        return label.nonce


class Crash(Exception):
    """The keeper dies here."""


@dataclass
class SmallMarket:
    """The truth. queue_s: audio seconds that wait."""

    rng: random.Random
    weather: Weather
    now_ms: int = START_MS
    queue_s: float = 0.0
    finished_s: float = 0.0
    rented: dict[int, Rented] = field(default_factory=dict)

    @property
    def alive(self) -> list[Rented]:
        return [one for one in self.rented.values() if one.alive]

    @property
    def usd(self) -> float:
        return sum(one.usd for one in self.rented.values())

    def create(self, label: str, usd_per_hour: float, is_bid: bool, machine_id: int) -> Rented:
        number = 1000 + len(self.rented)
        boot_s = 60 + self.rng.uniform(0, 180)
        stuck = self.rng.random() < self.weather.stuck
        self.rented[number] = Rented(
            number, label, machine_id, usd_per_hour - 0.005, 0.005, is_bid, self.rng.uniform(20, 90), self.now_ms,
            self.now_ms + round(self.rng.uniform(0, self.weather.list_lag_s) * 1000),
            None if stuck else self.now_ms + round(boot_s * 1000), self.rng.random() < self.weather.mute,
        )  # fmt: skip
        return self.rented[number]

    def destroy(self, number: int) -> None:
        one = self.rented.get(number)
        if one and one.alive and self.rng.random() >= self.weather.deaf_destroy:
            self._end(one)

    def _end(self, one: Rented) -> None:
        one.ended_ms = self.now_ms
        self.lose_work(one)

    def lose_work(self, one: Rented) -> None:
        self.queue_s += one.held_s
        one.held_s = 0.0

    def step(self, seconds: float) -> None:
        """Bill, work and misfortune of the next seconds."""
        for one in self.alive:
            self._one_step(one, seconds)
        self.now_ms += round(seconds * 1000)

    def _one_step(self, one: Rented, seconds: float) -> None:
        gpu = one.gpu_usd_per_hour if one.state == "running" else 0.0
        one.usd += (gpu + one.storage_usd_per_hour) * seconds / 3600
        if one.state == "loading" and one.pulled_gb < IMAGE_GB:
            share = min(seconds * MBPS / 8_000, IMAGE_GB - one.pulled_gb)
            one.pulled_gb += share
            one.usd += share * USD_PER_GB
        label = Label.decode(one.label)
        assert label
        if self.now_ms >= label.expires_s * 1000 + 120_000:  # the supervisor inside ends it
            self._end(one)
            return
        chance = seconds / 60
        if one.is_bid and one.state != "stopped" and self.rng.random() < self.weather.preempted * chance:
            one.state = "stopped"
        elif one.state == "stopped" and self.rng.random() < 0.1 * chance:
            one.state = "running"  # it wins again, by itself
        elif one.state == "running" and self.rng.random() < self.weather.died * chance:
            one.state = "unknown"
        elif one.state == "loading" and one.runs_ms is not None and self.now_ms >= one.runs_ms:
            one.state = "running"
        if one.state == "running" and not one.mute:
            self._work(one, seconds)

    def _work(self, one: Rented, seconds: float) -> None:
        if one.first_ms is None:
            one.first_ms = self.now_ms
        power = one.rtfx * seconds
        while power > 0 and not one.revoked:
            if one.held_s <= 0:
                if one.draining or self.queue_s <= 0:
                    break
                one.held_s = min(CHUNK_S, self.queue_s)
                self.queue_s -= one.held_s
                one.usd += one.held_s * 18_000 / 1e9 * USD_PER_GB  # FLAC at 144 kbit/s
            done = min(power, one.held_s)
            power -= done
            one.held_s -= done
            one.done_s += done
            self.finished_s += done
            one.last_task_ms = self.now_ms

    def rows(self) -> tuple[Instance, ...]:
        def listed(one: Rented) -> bool:
            gone = one.ended_ms is not None and self.now_ms > one.ended_ms + 5_000
            return one.listed_ms <= self.now_ms and not gone

        return tuple(self._row(one) for one in self.rented.values() if listed(one))

    def _row(self, one: Rented) -> Instance:
        contract = "stopped" if one.state == "stopped" else "running"
        return Instance(
            id=one.id, label=one.label, machine_id=one.machine_id, gpu_name="RTX 3090",
            actual="exited" if one.state == "stopped" else one.state, intended=contract, current=contract,
            next=contract, message="", is_bid=one.is_bid, gpu_usd_per_hour=one.gpu_usd_per_hour,
            storage_usd_per_hour=one.storage_usd_per_hour, inet_down_mbps=MBPS, inet_down_usd_per_gb=USD_PER_GB,
            inet_up_usd_per_gb=USD_PER_GB, started_ms=one.created_ms,
        )  # fmt: skip

    def news(self) -> dict[str, WorkerNews]:
        return {
            one.nonce: WorkerNews(
                one.nonce, one.first_ms, self.now_ms if one.state == "running" else one.last_task_ms, one.last_task_ms,
                int(one.held_s > 0), round(one.held_s * 1000), 0, round(one.done_s * 1000), 0,
                draining=one.draining,
            )
            for one in self.alive
            if one.first_ms is not None and not one.revoked
        }  # fmt: skip

    def demand(self) -> Demand:
        held = [one.held_s for one in self.alive if one.held_s > 0]
        return Demand(
            round(self.queue_s * 1000), round(self.queue_s / CHUNK_S + 0.5), round(sum(held) * 1000), len(held)
        )


@dataclass
class Keeper:
    """A controller: ledger, meter and memory, and one tick that may die anywhere."""

    market: SmallMarket
    limits: Limits
    mode: Mode = "run"
    intents: dict[str, Intent] = field(default_factory=dict)
    strikes: list[Strike] = field(default_factory=list)
    meter: budget.Meter = field(default_factory=budget.Meter)
    memory: Memory | None = None
    blind_since_ms: int | None = None
    plans: list[Plan] = field(default_factory=list)
    rents: int = 0

    def tick(self) -> None:
        market, now = self.market, self.market.now_ms
        blind = market.rng.random() < market.weather.blind
        rows = None if blind else market.rows()
        self.blind_since_ms = (self.blind_since_ms or now) if blind else None
        intents = tuple(self.intents.values())
        news = market.news()
        self.meter = budget.advance(self.meter, intents, rows, now, FLEET, news, IMAGE_GB)
        decided = plan(
            Observed(rows, news, self.blind_since_ms), intents, market.demand(), self.limits, Speeds(),
            tuple(self.strikes), self.meter.usd(now), now, FLEET, self.mode, self.memory, IMAGE_GB,
        )  # fmt: skip
        self.plans.append(decided)
        self.memory = decided.memory
        try:
            self._apply(decided)
        except Crash:
            self.memory = None
            if market.rng.random() < market.weather.forgetful:
                self.intents, self.strikes = {}, []

    def _apply(self, decided: Plan) -> None:
        for action in decided.actions:
            self._perhaps_crash()
            if isinstance(action, Settle):
                self._settle(action)
            elif isinstance(action, Destroy):
                self.market.destroy(action.instance_id)
                self.meter = budget.destroyed(self.meter, action.instance_id, self.market.now_ms)
                if action.strike_machine is not None:
                    until = self.market.now_ms + round(action.strike_s * 1000)
                    self.strikes.append(Strike(action.strike_machine, until, action.reason))
            elif isinstance(action, FreeTasks | DrainWorker):
                self._tell(action)
            elif isinstance(action, Rent):
                for _ in range(action.count):
                    self._rent(action)

    def _perhaps_crash(self) -> None:
        if self.market.rng.random() < self.market.weather.crash:
            raise Crash

    def _tell(self, action: FreeTasks | DrainWorker) -> None:
        for one in self.market.alive:
            if one.nonce == action.nonce and isinstance(action, DrainWorker):
                one.draining = True
            elif one.nonce == action.nonce:
                one.revoked = True
                self.market.lose_work(one)

    def _settle(self, action: Settle) -> None:
        intent = self.intents[action.nonce]
        missed = action.missed_ms is not None
        self.intents[action.nonce] = replace(
            intent, state=action.state, reason=action.reason or intent.reason,
            instance_id=action.instance_id if action.instance_id is not None else intent.instance_id,
            lists_without=intent.lists_without + 1 if missed else 0, last_missed_ms=action.missed_ms,
        )  # fmt: skip

    def _rent(self, action: Rent) -> None:
        market, now = self.market, self.market.now_ms
        price = min(action.max_usd_per_hour or self.limits.max_price, self.limits.max_price)
        price *= market.rng.uniform(0.6, 1.0)
        machine_id = next(
            number for number in iter(lambda: market.rng.randrange(1, 500), None) if number not in action.avoid_machines
        )
        self.rents += 1
        nonce = f"n{self.rents:09d}"
        label = Label(FLEET, nonce, (now + round(self.limits.ttl_s * 1000)) // 1000)
        intent = Intent(
            nonce, "asked", 1, machine_id, "RTX 3090", now, label.expires_s * 1000, price, action.interruptible
        )
        self.intents[nonce] = intent
        self._perhaps_crash()
        luck = market.rng.random()
        weather = market.weather
        if luck < weather.no_answer:
            self.intents[nonce] = replace(intent, state="unknown")
        elif luck < weather.no_answer + weather.refused:
            self.intents[nonce] = replace(intent, state="closed")
        else:
            one = market.create(label.encode(), price, action.interruptible, machine_id)
            self._perhaps_crash()
            lost = market.rng.random() < weather.lost_answer
            self.intents[nonce] = (
                replace(intent, state="unknown") if lost else replace(intent, state="bound", instance_id=one.id)
            )
