"""The controller of one fleet: look at the world, let `provisioning.policy` say what follows, do it; again and again.

Whatever is done is derived anew from the market's labels and the ledger at each tick, and written down before it is
asked for, so the process may die between any two steps. One controller a fleet: see `Ledger.take_ownership`.
"""

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Protocol

from provisioning import budget, offers, policy, status
from provisioning.classify import Memory
from provisioning.cloud import Cloud, CloudBlind, CloudRefused, Offer, OfferQuery
from provisioning.demand import DemandSource, Gateway, GatewayRefused, GatewaySilent
from provisioning.fleet import (
    Action,
    Alarm,
    Demand,
    Destroy,
    DrainWorker,
    FreeTasks,
    Intent,
    Limits,
    Observed,
    Rent,
    Settle,
    Speeds,
    Strike,
    WorkerNews,
)
from provisioning.hearing import Heard, Hearing
from provisioning.ledger import FleetTaken, Ledger, Sample
from provisioning.listing import Listing, Rows, adopted
from provisioning.renting import OFFERS_PER_SLOT, FleetSpec, Renter
from provisioning.status import FleetStatus, Sighting
from provisioning.steady import SteadyEpoch
from workers.errors import StorageError

log = logging.getLogger(__name__)

TICK_S = 10.0  # the market allows a list every second
BUSY_TICK_S = 5.0  # while rented machines hold work: a lost one's chunks wait for as long, and Conductor waits 10 s
RENTING_S = 15.0  # how long one tick goes on renting: a create takes 4.5 s of pacing, and destroys must not wait
ADOPTION_MS = 180_000  # how long after its start a controller may meet machines it did not rent (lists lag 90 s)
UNKNOWN_CLEAN_MS = 120_000  # where nobody knows what was asked for: lists lag 90 s
LISTS_APART_MS = 20_000  # two lists this far apart without a machine of ours: there is none
LEAST_WORK_S = 900.0  # a shorter life after the boot pays the boot alone
PAUSE_MS = 10 * 60_000  # after a refusal that is about the account and passes: a limit of spending, say
FRUITLESS_TICKS = 3  # `up` gives up after as many ticks that rented nothing while something was to be rented
NOT_SURE = ("unknown", "closing", "orphan", "preempted", "dead", "expired", "refused")  # `up` does not count these
STRIKE_REFUSED_S = 24 * 3_600.0  # as `provisioning.classify` has it for those that are still listed
STRIKE_VANISHED_S = 3_600.0  # or the same cheap host would be rented again and again
ALARMS_KEPT = 20
DEARER_MS = 10 * 60_000  # between searches for what costs more than may be paid


class Clock(Protocol):
    def now_ms(self) -> int: ...

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return early when `stop` is set."""
        ...


class SystemClock:
    def __init__(self) -> None:
        self._epoch = SteadyEpoch()

    def now_ms(self) -> int:
        return self._epoch.ns() // 1_000_000

    def wait(self, seconds: float, stop: threading.Event) -> None:
        stop.wait(seconds)


@dataclass
class _Known:
    """What one process remembers between ticks; losing it costs nothing but a measure of speed."""

    memory: Memory | None = None
    news: dict[str, WorkerNews] | None = None
    problem: str | None = None
    no_rent_before_ms: int = 0
    dearer: tuple[int, tuple[Offer, ...]] = (0, ())  # when last looked for, see `Controller._at_any_price`
    unwritable: bool = False  # the ledger, in this tick
    audio_hours: float | None = None  # of the work there is, for each machine that is wanted; None: there is none


class Controller:
    """One fleet's controller; use it as a context, which takes and gives back the fleet.

    `tick` does one round; `run`, `up`, `drain` and `down` are loops of it that `stop` ends (from a signal handler or
    another thread) between two steps. say: gets each sentence for a person once. All methods but `stop` belong to one
    thread.
    """

    def __init__(
        self,
        spec: FleetSpec,
        cloud: Cloud,
        gateway: Gateway,
        demand: DemandSource,
        ledger: Ledger,
        *,
        clock: Clock | None = None,
        say: Callable[[str], None] = lambda _: None,
        image_gb: float = 4.0,
        busy_tick_s: float = BUSY_TICK_S,
    ) -> None:
        self.spec = spec
        self.held = 0  # machines to keep for now, by whoever runs this controller
        self._cloud = cloud
        self._hearing = Hearing(gateway)
        self._demand = demand
        self._ledger = ledger
        self._clock = clock or SystemClock()
        self._say = say
        self._image_gb = image_gb
        self._listing = Listing(cloud, ledger, spec.fleet, self._alarm)
        self._renter = Renter(spec, cloud, self._hearing, ledger)
        self._meter = ledger.meter()
        self._known = _Known()
        self._alarms: list[str] = []
        self._stop = threading.Event()
        self._began_ms = 0
        self._busy_tick_s = busy_tick_s
        self._clean_ms = LISTS_APART_MS
        self._status: FleetStatus | None = None

    def __enter__(self) -> "Controller":
        """Raises FleetTaken where another controller lives."""
        self._began_ms = self._clock.now_ms()
        self._ledger.take_ownership(self._began_ms)
        self._ledger.forget_history(self._began_ms)
        if not self._ledger.intents():  # it was lost, or is new: what was just rented is known by lists alone
            self._clean_ms = UNKNOWN_CLEAN_MS
        if self._ledger.notice:
            self._alarm(self._ledger.notice)
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger.give_up_ownership()

    # ---- loops ----

    def stop(self) -> None:
        """End the running loop soon; machines stay as they are. From any thread, or a signal's handler."""
        self._stop.set()

    def run(
        self,
        *,
        until_idle: bool = False,
        idle_s: float = 60.0,
        stay: bool = False,
        watch: Callable[[FleetStatus], None] = lambda _: None,
    ) -> FleetStatus:
        """Keep the fleet as large as its work needs, until `stop`, a wish to close or drain is fulfilled, or the
        market refuses for good (then CloudRefused, when all that could be ended is ended).

        until_idle: also end once there was no work and no machine for `idle_s`. stay: a wish that is fulfilled is no
        end; it holds, with no machine, until somebody wishes otherwise.
        """
        idle_since: int | None = None
        while True:
            now = self._tick(self._wished_mode())
            watch(now)
            empty = not now.lines and now.blind_since_ms is None
            if self._known.problem and (empty or self._listing.refused):
                raise CloudRefused(f"{self._known.problem} {status.still_alive(now)}")
            ended = empty and now.phase in ("drain", "down") and self._listing.clean_for(now.at_ms) >= self._clean_ms
            if ended and not stay:
                return now
            work = now.demand.queued_tasks + now.demand.held_tasks
            busy = bool(now.lines) or work > 0 or not now.demand.known
            idle_since = None if busy else (now.at_ms if idle_since is None else idle_since)
            if until_idle and idle_since is not None and now.at_ms - idle_since >= idle_s * 1000:
                return now
            if not self._rest(now):
                return now

    def up(self, count: int, watch: Callable[[FleetStatus], None] = lambda _: None) -> FleetStatus:
        """Rent until `count` machines are this fleet's, and return while they boot.

        Returns with fewer where nothing more can be rented now: the status' alarms say why. Raises CloudRefused where
        the market refuses for good.
        """
        fruitless, before = 0, -1
        while True:
            now = self._tick("up", count)
            watch(now)
            if self._known.problem:
                raise CloudRefused(f"{self._known.problem} {status.still_alive(now)}")
            sure = sum(line.state not in NOT_SURE for line in now.lines)
            settled = sure == now.live  # else a slot is taken by what is going, or what nobody knows of yet
            fruitless = fruitless + 1 if settled and now.live <= before else 0
            before = now.live
            if sure >= min(count, self.spec.limits.max_instances) or fruitless >= FRUITLESS_TICKS:
                return now
            if not self._rest(now):
                return now

    def drain(self, watch: Callable[[FleetStatus], None] = lambda _: None) -> FleetStatus:
        """Let every worker finish what it holds, then destroy it; returns when nothing is left, or at `stop`."""
        return self._until_gone("drain", watch)

    def down(self, watch: Callable[[FleetStatus], None] = lambda _: None) -> FleetStatus:
        """Destroy everything of this fleet, until lists show nothing of it for LISTS_APART_MS, or `stop`.

        For UNKNOWN_CLEAN_MS where the ledger knew of no request at the start.
        """
        return self._until_gone("down", watch)

    def farewell(self) -> str:
        """One sentence of what is still alive, from the last tick."""
        return status.still_alive(self._status) if self._status else "Nothing was looked at yet."

    def _until_gone(self, mode: policy.Mode, watch: Callable[[FleetStatus], None]) -> FleetStatus:
        while True:
            now = self._tick(mode)
            watch(now)
            if self._listing.refused:
                raise CloudRefused(f"{self._listing.refused} {status.still_alive(now)}")
            if not now.lines and self._listing.clean_for(now.at_ms) >= self._clean_ms:
                return now
            if not self._rest(now):
                return now

    def _rest(self, last: FleetStatus) -> bool:
        """Wait for the next tick's time; False where it is not to come. last: of the tick before."""
        if not self._stop.is_set():
            tick_s = self._busy_tick_s if last.lines and last.demand.held_tasks else TICK_S
            gone_s = (self._clock.now_ms() - last.at_ms) / 1000
            self._clock.wait(max(1.0, tick_s - gone_s), self._stop)
        return not self._stop.is_set()

    # ---- one tick ----

    def tick(self) -> FleetStatus:
        """Look, decide, do; what the market or the gateway refuse for now is left to the next tick.

        Raises FleetTaken where somebody else rents for this fleet, StorageError where the ledger cannot be read. While
        it cannot be written nothing is rented, and all else goes on: machines bill whether or not that is noted.
        """
        return self._tick(self._wished_mode())

    def _tick(self, mode: policy.Mode, count: int | None = None) -> FleetStatus:
        now = self._clock.now_ms()
        self._known.unwritable = False
        self._keep(lambda: self._ledger.stay_owner(now))
        heard = self._hearing.listen(now)
        if heard.problem:
            self._alarm(heard.problem)
        rows = self._look(heard, now)
        self._adopt(rows, now)
        intents = self._ledger.intents()
        self._learn(heard, intents)
        self._bill(rows, heard, intents, now)
        demand = self._demand.look()
        demand = replace(demand, known=demand.known and heard.known)
        planned = policy.plan(
            Observed(rows, heard.workers, self._listing.blind_since_ms),
            intents,
            demand,
            self._limits(count),
            self._ledger.speeds(self.spec.model),
            self._ledger.strikes(now),
            self._meter.usd(now),
            now,
            self.spec.fleet,
            mode,
            self._known.memory,
            self._image_gb,
            self.spec.model,
        )
        self._known.memory = planned.memory
        work_h = (demand.queued_audio_ms + demand.held_audio_ms) / 3_600_000
        self._known.audio_hours = work_h / planned.target if work_h and planned.target else None
        self._apply(planned, heard)
        return self._report(mode, planned, demand, heard, rows)

    def _wished_mode(self) -> policy.Mode:
        if self._known.problem:
            return "drain"
        modes: dict[str, policy.Mode] = {"run": "run", "drain": "drain", "close": "down"}
        return modes[self._ledger.wished().phase]

    def _limits(self, count: int | None) -> Limits:
        """What the person said, with what another command has wished since; `up` keeps `count`."""
        limits, wish = self.spec.limits, self._ledger.wished()
        least = max(self._least(), self.held) if wish.min_instances is None else wish.min_instances
        limits = replace(limits, min_instances=least)
        if wish.max_instances is not None:
            limits = replace(limits, max_instances=wish.max_instances)
        return limits if count is None else replace(limits, max_instances=min(count, limits.max_instances))

    def _least(self) -> int:
        """Machines to keep whatever the work is, for as long as nobody says otherwise."""
        wish = self._ledger.wished()
        return self.spec.limits.min_instances if wish.min_instances is None else wish.min_instances

    # ---- looking ----

    def _look(self, heard: Heard, now_ms: int) -> Rows | None:
        rows = self._listing.look(heard, now_ms)
        if self._listing.refused:
            self._give_up(self._listing.refused)
        return rows

    def _adopt(self, rows: Rows | None, now_ms: int) -> None:
        """Take over machines of this fleet that nobody remembers: the database was lost, or never was here.

        Raises FleetTaken where they appear long after the start: an intent is written down before anything is rented,
        so somebody else rents for this fleet.
        """
        strangers = self._listing.strangers(rows or ())
        if not strangers:
            return
        if now_ms - self._began_ms > ADOPTION_MS:
            raise FleetTaken(
                f"Somebody else rents for fleet '{self.spec.fleet}' (instance {strangers[0].id} is not from here): let "
                f"one controller run it, or name another fleet by --fleet. {self.farewell()}"
            )
        for row in strangers:
            self._keep(partial(self._ledger.save, adopted(row, now_ms)))
            self._alarm(f"Instance {row.id} of this fleet was not in the database: taken over.")

    def _learn(self, heard: Heard, intents: tuple[Intent, ...]) -> None:
        """Speeds and boot times, from what changed since the last news."""
        before, self._known.news = self._known.news, heard.workers
        if before is None or not heard.known:
            return
        rented = {intent.nonce: intent for intent in intents}
        for nonce, news in heard.workers.items():
            intent, old = rented.get(nonce), before.get(nonce)
            if intent is None or old is None:
                continue
            if news.refused is not None and old.refused is None:  # it may end itself before the next list
                self._strike(intent.machine_id, STRIKE_REFUSED_S, news.refused)
            if news.first_seen_ms is not None and old.first_seen_ms is None and news.first_seen_ms > intent.asked_ms:
                self._keep(partial(self._ledger.booted, (news.first_seen_ms - intent.asked_ms) / 1000))
            audio_ms, busy_ms = news.audio_done_ms - old.audio_done_ms, news.busy_ms - old.busy_ms
            if audio_ms > 0 and busy_ms > 0:
                # never what a machine says of itself: one lie would make all others of its kind slow
                guess = offers.speed_of(intent.gpu_name, Speeds(), self.spec.model).rtfx
                self._keep(partial(self._ledger.measured, intent.gpu_name, audio_ms / busy_ms, guess, self.spec.model))

    def _bill(self, rows: Rows | None, heard: Heard, intents: tuple[Intent, ...], now_ms: int) -> None:
        fleet, image_gb = self.spec.fleet, self._image_gb
        self._meter = budget.advance(self._meter, intents, rows, now_ms, fleet, heard.workers, image_gb)
        live = sum(intent.state != "closed" for intent in intents)
        sample = Sample(now_ms, live, self._meter.usd_per_hour, self._meter.usd(now_ms))
        self._keep(lambda: self._ledger.charge(self._meter, sample))

    def _keep(self, write: Callable[[], None]) -> None:
        """Write into the ledger, if it takes that: a full disk must not leave machines without a controller."""
        try:
            write()
        except StorageError as error:
            self._known.unwritable = True
            self._alarm(f"{error} Nothing is rented until it can be, and what has to go is destroyed all the same.")

    # ---- doing ----

    def _apply(self, planned: policy.Plan, heard: Heard) -> None:
        """One action after the other; one that cannot be done now is left to the next tick, which derives it anew."""
        for action in planned.actions:
            try:
                self._do(action)
            except (CloudBlind, CloudRefused, GatewaySilent, GatewayRefused, StorageError) as error:
                self._alarm(str(error))
        self._revoke_strays(heard)

    def _do(self, action: Action) -> None:
        match action:
            case Destroy():
                self._destroy(action)
            case FreeTasks(nonce=nonce, reason=reason):
                freed = self._hearing.lose(nonce)
                log.info("machine %s is lost (%s), %d tasks go to others", nonce, reason, len(freed),
                         extra={"action": "machine_lost", "nonce": nonce, "tasks": list(freed)})  # fmt: skip
            case DrainWorker(nonce=nonce):
                self._hearing.drain(nonce)
            case Settle():
                self._settle(action)
            case Rent():
                self._rent(action)
            case Alarm(text=text):
                self._alarm(text)

    def _strike(self, machine_id: int, seconds: float, reason: str) -> None:
        strike = Strike(machine_id, self._clock.now_ms() + round(seconds * 1000), reason)
        self._keep(lambda: self._ledger.strike(strike))

    def _destroy(self, action: Destroy) -> None:
        if action.strike_machine is not None and action.strike_s > 0:
            self._strike(action.strike_machine, action.strike_s, action.reason)
        if self._cloud.destroy(action.instance_id):
            self._meter = budget.destroyed(self._meter, action.instance_id, self._clock.now_ms())
        log.info("instance %d is destroyed: %s", action.instance_id, action.reason,
                 extra={"action": "machine_destroyed", "nonce": action.nonce})  # fmt: skip

    def _settle(self, action: Settle) -> None:
        intent = next((one for one in self._ledger.intents() if one.nonce == action.nonce), None)
        if intent is None:
            return
        missed = action.missed_ms is not None
        settled = replace(
            intent,
            state=action.state,
            instance_id=intent.instance_id if action.instance_id is None else action.instance_id,
            reason=action.reason or intent.reason,
            lists_without=intent.lists_without + 1 if missed else 0,
            last_missed_ms=action.missed_ms,
        )
        if settled != intent:
            self._keep(lambda: self._ledger.save(settled))
        news = (self._known.news or {}).get(intent.nonce)
        unheard = news is None or news.first_seen_ms is None
        if intent.state == "bound" and settled.state == "closed" and unheard:
            self._strike(intent.machine_id, STRIKE_VANISHED_S, "gone before it was heard of")

    def _revoke_strays(self, heard: Heard) -> None:
        """Tokens of machines that are over: the gateway could not be told when they ended."""
        over = {intent.nonce for intent in self._ledger.intents() if intent.state in ("closed", "closing")}
        for nonce in sorted(over & heard.workers.keys() if heard.known else ()):
            try:
                self._hearing.lose(nonce)
            except (GatewaySilent, GatewayRefused) as error:
                self._alarm(str(error))
                return

    def _rent(self, action: Rent) -> None:
        """As many as `count`, as far as one tick's time goes: what is missing is wanted again at the next."""
        if self._known.unwritable or self._clock.now_ms() < self._known.no_rent_before_ms:
            return
        until = self._clock.now_ms() + round(RENTING_S * 1000)
        self._renter.patient = self._least() > 0
        ranked = self._ranked(action)
        occupied = Counter(intent.machine_id for intent in self._ledger.intents() if intent.state != "closed")
        per_host = self.spec.limits.machines_per_host
        wanted = action.count * OFFERS_PER_SLOT
        purse = offers.Purse(action.max_usd)
        chosen = offers.choose(ranked, wanted, action.avoid_machines, occupied, per_host)
        by_id = {each.offer.id: each for each in chosen}
        left = purse.payable(chosen)
        for slot in range(action.count):
            if self._stop.is_set() or (slot and self._clock.now_ms() >= until):
                return
            offered = ((each.offer, each.bid_usd_per_hour) for each in left)
            life_s = partial(self._life_s, action.count - slot)
            attempt = self._renter.rent(offered, slot, self._clock.now_ms, life_s, until)
            if purse.problem is not None:
                self._alarm(purse.problem)
            elif attempt.said:
                self._alarm(attempt.said)
            if attempt.intent is not None:
                purse.pay(by_id[attempt.intent.offer_id])
            if attempt.pause:
                self._known.no_rent_before_ms = self._clock.now_ms() + PAUSE_MS
                minutes = PAUSE_MS // 60_000
                self._alarm(f"{attempt.pause[:1].upper()}{attempt.pause[1:]}: nothing is rented for {minutes} minutes.")
            if attempt.hopeless:
                self._give_up(f"The market rents no more to this account: {attempt.hopeless}.")
            if attempt.intent is None or attempt.intent.state == "unknown":
                return

    def _life_s(self, count: int, offer: Offer, usd_per_hour: float) -> float:
        """How long the next machine may live: as long as the money lasts with all there are, and `count` like it.

        Its own clock ends it then, whatever has become of this controller. Never less than a boot and some work.
        """
        limits = self.spec.limits
        opened = [intent for intent in self._ledger.intents() if intent.state != "closed"]
        images = sum(intent.usd_per_gb for intent in opened) + count * offer.inet_down_usd_per_gb
        spent_usd = self._meter.usd(self._clock.now_ms()) + images * self._image_gb
        left_usd = policy.NO_MORE * limits.max_usd - spent_usd
        rate = sum(intent.usd_per_hour for intent in opened) + count * usd_per_hour
        paid_s = left_usd / rate * 3600 if rate > 0 else limits.ttl_s
        return min(limits.ttl_s, max(offers.boot_seconds(self._ledger.speeds(self.spec.model)) + LEAST_WORK_S, paid_s))

    def _ranked(self, action: Rent) -> list[offers.Ranked]:
        """What can be rented now, best first; where too few can be bid for, machines on demand within the price too.

        What was sought for bids is rented by a bid only: without one it would cost the full price, unseen.
        """
        price = self.spec.limits.max_price
        if action.max_usd_per_hour is not None:
            price = min(price, action.max_usd_per_hour)
        query = replace(self.spec.query, interruptible=action.interruptible, max_usd_per_hour=price)
        speeds, model = self._ledger.speeds(self.spec.model), self.spec.model
        spread = partial(offers.rank, image_gb=self._image_gb, audio_hours=self._known.audio_hours)
        found: list[offers.Ranked] = []
        seen: tuple[Offer, ...] = ()
        if action.interruptible:
            seen = self._cloud.offers(query)
            ranked = spread(seen, query, speeds, model, action.bid_factor)
            found = [each for each in ranked if each.bid_usd_per_hour is not None]
        if len(found) < action.count:
            query = replace(query, interruptible=False)
            more = self._cloud.offers(query)
            seen = (*seen, *more)
            bidding = {each.offer.id for each in found}
            found += [each for each in spread(more, query, speeds, model) if each.offer.id not in bidding]
        if not found:
            query = replace(query, interruptible=action.interruptible)
            self._alarm(offers.nothing_fits(seen or self._at_any_price(query), query, self._image_gb))
        return found

    def _at_any_price(self, query: OfferQuery) -> tuple[Offer, ...]:
        """What the market leaves out of a search with a price; only to be told, so not asked for at every tick."""
        now = self._clock.now_ms()
        at_ms, seen = self._known.dearer
        if now - at_ms >= DEARER_MS:
            seen = self._cloud.offers(replace(query, max_usd_per_hour=None))
            self._known.dearer = now, seen
        return seen

    def _give_up(self, problem: str) -> None:
        """The market refuses for good: nothing more is rented, and workers finish what they hold."""
        if self._known.problem is None:
            self._known.problem = problem
            for intent in self._ledger.intents():
                if intent.state == "bound":
                    self._drain_quietly(intent.nonce)

    def _drain_quietly(self, nonce: str) -> None:
        try:
            self._hearing.drain(nonce)
        except (GatewaySilent, GatewayRefused) as error:
            self._alarm(str(error))

    # ---- telling ----

    def _alarm(self, text: str) -> None:
        """Say a sentence once, until others were said after it."""
        if text in self._alarms:
            return
        self._alarms = [*self._alarms, text][-ALARMS_KEPT:]
        log.info("%s", text, extra={"action": "fleet_alarm", "fleet": self.spec.fleet})
        self._say(text)

    def _report(
        self,
        mode: policy.Mode,
        planned: policy.Plan,
        demand: Demand,
        heard: Heard,
        rows: Rows | None,
    ) -> FleetStatus:
        now = self._clock.now_ms()
        intents = self._ledger.intents()
        by_id = {row.id: row for row in self._listing.last}
        bills = {line.instance_id: line for line in self._meter.lines.values()}
        costs = self._meter.costs(now)
        alive = [intent for intent in intents if intent.state != "closed"]
        listed = {intent.instance_id for intent in alive}
        alive += [adopted(row, now) for row in rows or () if self._listing.is_ours(row) and row.id not in listed]
        lines = []
        for intent in alive:
            row = by_id.get(intent.instance_id or 0)
            bill = bills.get(intent.instance_id) if intent.instance_id is not None else None
            known = planned.classes.get(intent.instance_id or 0)
            state = "closing" if intent.state == "closing" else known.lower() if known else intent.state
            rate = bill.usd_per_hour if bill else intent.usd_per_hour
            news = heard.workers.get(intent.nonce)
            message = row.message if row else ""
            spent = costs.get(intent.nonce, 0.0)
            lines.append(status.line(Sighting(intent, state, now, rate, spent, news, message)))
        self._status = FleetStatus(
            fleet=self.spec.fleet,
            at_ms=now,
            phase=mode,
            target=planned.target,
            lines=tuple(lines),
            demand=demand,
            spent_usd=self._meter.usd(now),
            max_usd=self.spec.limits.max_usd,
            blind_since_ms=self._listing.blind_since_ms,
            alarms=tuple(self._alarms),
            problem=self._known.problem,
            reason=planned.reason,
            rented=sum(intent.instance_id is not None for intent in intents),
        )
        noted = self._status.to_json()
        self._keep(lambda: self._ledger.note("status", noted))
        return self._status


@contextmanager
def interruptible(controller: Controller) -> Iterator[None]:
    """SIGTERM, SIGHUP and Ctrl-C end the loop between two steps; a second one ends it at once. Main thread only."""

    def ask(number: int, _: FrameType | None) -> None:
        controller.stop()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as `nohup` would have it
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
