"""What is true behind the API: contracts in their states on the machines of a market, and the money of one account.

Every public method may be called from any thread. Workers are started and killed after the lock is given back, so
they may call the API at once.
"""

import itertools
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from tests.emulator.clock import Clock
from tests.emulator.contracts import STOPPED, STUCK_MESSAGES, Contract, Fate, Launch, Timing, Unsettled
from tests.emulator.market import Machine, Market, Slot

_CENT = Decimal("0.0001")


@dataclass(frozen=True)
class Rental:
    """The body of a create, checked. price None: on demand."""

    label: str
    image: str
    runtype: str | None
    onstart: str | None
    args: tuple[str, ...]
    environment: dict[str, str]
    disk_gb: float
    price: Decimal | None
    cancel_unavailable: bool


class Unavailable(Exception):
    """The offer cannot run now, and the tenant wanted nothing stopped instead."""


class World:
    """One account on one market. credit: dollars paid in."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        timing: Timing,
        credit: Decimal,
        launch: Launch | None,
    ) -> None:
        self.clock = clock
        self.market = Market(rng)
        self.timing = timing
        self.contracts: dict[int, Contract] = {}
        self.account_environment: dict[str, str] = {}
        self.credit = Fraction(credit)  # paid in; what was spent is not taken off
        self.unsettled = Unsettled()
        self.fate: Callable[[Slot], Fate] = lambda slot: Fate()
        self.skew = 0.0
        self.peak_alive = 0
        self._rng = rng
        self._launch = launch
        self._ids = itertools.count(30_000_001)
        self._lock = threading.RLock()
        self._depth = 0
        self._afterwards: list[Callable[[], None]] = []
        self._credit_phase = 0

    # ---- renting ----

    def create(self, slot: Slot, rental: Rental, foreign: bool = False) -> Contract:
        """Rent the slot. The contract is stopped where the bid loses or the machine will not have it.

        Raises Unavailable where it would be stopped and the tenant asked for none such.
        """
        with self.changing() as now:
            fate = Fate() if foreign else self.fate(slot)
            machine = slot.machine
            machine.dph = (machine.dph * fate.price_factor).quantize(_CENT)
            machine.min_bid = (machine.min_bid * fate.price_factor).quantize(_CENT)
            loses = rental.price is not None and (fate.bid_too_low or rental.price < slot.min_bid)
            stopped = fate.lands_stopped or not machine.online
            if stopped and rental.cancel_unavailable and not fate.lands_stopped:
                raise Unavailable
            contract = self._contract(slot, rental, fate, now, foreign)
            self.contracts[contract.id] = contract
            self._alive_changed()
            if loses or stopped:
                contract.outbid, contract.queued = loses, not loses
                contract.message = "" if loses else "resources unavailable"
                self._off(contract)
                self._others_have(slot, contract, fate)
            else:
                self.market.occupy(slot, contract.id)
                self._boot(contract)
            self.clock.call_at(contract.ends_at, lambda: self._end(contract))
            return contract

    def _others_have(self, slot: Slot, contract: Contract, fate: Fate) -> None:
        """Make true what a fault says: there is a higher bid, or the GPU is let."""
        if fate.bid_too_low:
            self.market.rival_bids(slot, contract.price)
        elif fate.lands_stopped:
            self.market.rival_takes(slot)
            if fate.starts_after_s is not None:
                self.clock.call_at(self.clock.now() + fate.starts_after_s, lambda: self.rival_leaves(slot))

    def _contract(self, slot: Slot, rental: Rental, fate: Fate, now: float, foreign: bool) -> Contract:
        number = next(self._ids)
        lag = self.timing.listed_after_s * self.timing.scale if fate.listed_after_s is None else fate.listed_after_s
        lasts = slot.machine.duration_s if fate.ends_in_s is None else fate.ends_in_s
        return Contract(
            id=number,
            key=f"instance-key-{number}-{self._rng.getrandbits(64):016x}",
            label=rental.label,
            slot=slot,
            image=rental.image,
            runtype=rental.runtype,
            onstart=rental.onstart,
            args=rental.args,
            environment=rental.environment,
            disk_gb=rental.disk_gb,
            is_bid=rental.price is not None,
            price=rental.price if rental.price is not None else slot.machine.dph,
            created_at=now,
            ends_at=now + lasts,
            fate=fate,
            foreign=foreign,
            listed_from=now + lag,
            since=now,
            history=[(now, None)],
        )

    def destroy(self, contract: Contract) -> None:
        """Billing ends here; lists show it a little longer."""
        with self.changing() as now:
            if not contract.alive:
                return
            self._settle(contract, now)
            contract.phase += 1
            contract.destroyed_at = now
            contract.listed_until = now + self.timing.unlisted_after_s * self.timing.scale
            self._kill_worker(contract)
            self._give_back(contract)
            self._alive_changed()

    # ---- booting ----

    def _boot(self, contract: Contract) -> None:
        """From nothing to running; with the image there already, only the last steps."""
        timing, fate = self.timing, contract.fate
        contract.intended = contract.current = contract.next = "running"
        contract.message = ""
        contract.phase += 1
        phase = contract.phase
        if fate.stuck == "null":
            return
        created = 0.0 if contract.image_cached else timing.created_s
        loading = created + timing.loading_s
        if not contract.image_cached:
            self._later(created, contract, phase, lambda: self._created(contract))
            if fate.stuck in STUCK_MESSAGES:
                return
        pull = 0.0
        if not contract.image_cached:
            pull = timing.image_gb * 8_000 / contract.machine.inet_down
            pull *= timing.slow_factor if fate.stuck == "slow" else 1.0
        rate = Fraction(timing.image_gb) / Fraction(pull * timing.scale) if pull and fate.stuck != "loading" else None
        self._later(loading, contract, phase, lambda: self._loading(contract, rate or Fraction(0)))
        if fate.stuck != "loading":
            self._later(loading + pull, contract, phase, lambda: self._run(contract))

    def _created(self, contract: Contract) -> None:
        self._state(contract, "created")
        contract.message = STUCK_MESSAGES.get(contract.fate.stuck or "", "")

    def _loading(self, contract: Contract, gb_per_s: Fraction) -> None:
        self._state(contract, "loading")
        contract.pull_gb_per_s = gb_per_s

    def _run(self, contract: Contract) -> None:
        self._state(contract, "running")
        contract.image_cached = True
        contract.pull_gb_per_s = Fraction(0)
        contract.message = "success, running " + contract.image
        contract.running_since = self.clock.now()
        contract.log.append("container started")
        if self._launch is not None and contract.fate.flaw != "silent":
            self._afterwards.append(lambda: self._start_worker(contract))

    def _start_worker(self, contract: Contract) -> None:
        """Outside the lock. What was killed before it was started is not started, or killed right after."""
        if self._launch is None or contract.actual != "running" or not contract.alive:
            return
        worker = self._launch(contract.container(self.account_environment, self.worker_exited))
        with self.changing():
            contract.worker = worker
            if worker is not None and (contract.actual != "running" or not contract.alive):
                self._kill_worker(contract)

    # ---- stopping ----

    def stop(self, contract: Contract) -> None:
        """By its tenant: stays stopped until it is started."""
        with self.changing():
            self._halt(contract)

    def start(self, contract: Contract) -> bool:
        """False: the machine is full, and the start is queued until it is not."""
        with self.changing():
            contract.wanted = "running"
            if contract.holds_gpu and contract.actual in STOPPED:
                self._boot(contract)
            if contract.holds_gpu:
                return True
            if not contract.machine.online or not self._slot_free_for(contract):
                contract.queued = True
                return False
            self._resume(contract)
            return True

    def outbid(self, contract: Contract, on_demand: bool = False, resume_after: float | None = None) -> None:
        """Somebody else gets the GPU: stopped and killed without notice; it comes back by itself when they leave."""
        with self.changing():
            if not contract.alive or not contract.holds_gpu:
                return
            slot = contract.slot
            self._off(contract)
            contract.outbid = True
            if on_demand or not contract.is_bid:
                self.market.rival_takes(slot)
            else:
                self.market.rival_bids(slot, contract.price)
            if resume_after is not None:
                self.clock.call_at(self.clock.now() + resume_after, lambda: self.rival_leaves(slot))

    def rival_leaves(self, slot: Slot) -> None:
        with self.changing():
            self.market.rival_leaves(slot)
            self._offer_to_waiting(slot)

    def rival_rents(self, slot: Slot, leaves_after: float | None = None) -> None:
        """Somebody rents on demand what is free or bid for."""
        with self.changing():
            if slot.contract is not None:
                self.outbid(self.contracts[slot.contract], on_demand=True, resume_after=leaves_after)
                return
            self.market.rival_takes(slot)
            if leaves_after is not None:
                self.clock.call_at(self.clock.now() + leaves_after, lambda: self.rival_leaves(slot))

    def change_bid(self, contract: Contract, price: Decimal) -> None:
        with self.changing() as now:
            self._settle(contract, now)
            contract.price = price
            if contract.holds_gpu:
                if price < contract.slot.min_bid:
                    self._off(contract)
                    self._give_back(contract)
                    contract.outbid = True
            elif contract.outbid:
                self._offer_to_waiting(contract.slot)

    def reboot(self, contract: Contract, seconds: float = 10.0) -> None:
        with self.changing():
            if contract.actual != "running":
                return
            self._kill_worker(contract)
            self._state(contract, "rebooting")
            contract.phase += 1
            self._later(seconds, contract, contract.phase, lambda: self._run(contract))

    def worker_exited(self, instance_id: int, code: int) -> None:
        """The container's program has ended by itself."""
        with self.changing():
            contract = self.contracts[instance_id]
            contract.log.append(f"container ended with {code}")
            if contract.alive and contract.actual == "running":
                contract.worker = None
                self._state(contract, "exited")

    def _halt(self, contract: Contract) -> None:
        contract.wanted, contract.outbid, contract.queued = "stopped", False, False
        self._off(contract)
        self._give_back(contract)

    def _off(self, contract: Contract) -> None:
        contract.phase += 1
        self._kill_worker(contract)
        self._state(contract, self.unsettled.stopped_status, "stopped")

    def _give_back(self, contract: Contract) -> None:
        if contract.holds_gpu:
            slot = contract.slot
            self.market.release(slot)
            self._offer_to_waiting(slot)

    def _offer_to_waiting(self, slot: Slot) -> None:
        """The highest bidder of those that lost this GPU has it back, on-demand rents first."""
        waiting = [
            contract
            for contract in self.contracts.values()
            if contract.slot is slot and contract.alive and (contract.outbid or contract.queued)
        ]
        waiting.sort(key=lambda contract: (not contract.is_bid, contract.price), reverse=True)
        for contract in waiting:
            if self._slot_free_for(contract):
                self._resume(contract)
                return

    def _slot_free_for(self, contract: Contract) -> bool:
        slot = contract.slot
        if not slot.machine.online or slot.contract is not None or slot.rival_on_demand:
            return False
        return not contract.is_bid or contract.price >= slot.min_bid

    def _resume(self, contract: Contract) -> None:
        if self.credit_left() <= 0:
            return
        contract.outbid = contract.queued = False
        self.market.occupy(contract.slot, contract.id)
        self._settle(contract, self.clock.now())
        self._boot(contract)

    # ---- hosts, ends, credit ----

    def kill_host(self, machine: Machine, back_after: float | None = None) -> None:
        """Its heartbeat ends: unknown, then offline (which bills nothing). back_after: it returns as if nothing was."""
        with self.changing() as now:
            machine.online = False
            for contract in self.on_machine(machine):
                self._kill_worker(contract)
                contract.phase += 1
                self._state(contract, "unknown")
                offline = self.timing.offline_after_s
                self._later(offline, contract, contract.phase, lambda each=contract: self._state(each, "offline"))  # type: ignore[misc]
            if back_after is not None:
                self.clock.call_at(now + back_after, lambda: self.revive_host(machine))

    def revive_host(self, machine: Machine) -> None:
        """Its containers run again, also those whose tenants have given them up."""
        with self.changing():
            machine.online = True
            for contract in self.on_machine(machine):
                contract.phase += 1
                if contract.current != "running":
                    self._state(contract, "exited")
                elif contract.image_cached:
                    self._run(contract)
                else:
                    self._boot(contract)

    def on_machine(self, machine: Machine) -> list[Contract]:
        return [each for each in self.contracts.values() if each.machine is machine and each.alive]

    def end_contract_in(self, contract: Contract, seconds: float) -> None:
        with self.changing() as now:
            contract.ends_at = now + seconds
            self.clock.call_at(contract.ends_at, lambda: self._end(contract))

    def _end(self, contract: Contract) -> None:
        """Its time is over: stopped for good, and after two days gone."""
        with self.changing() as now:
            if not contract.alive or contract.ends_at > now:
                return
            self._halt(contract)
            self.clock.call_at(now + self.timing.kept_s, lambda: self.destroy(contract))

    def pay_in(self, usd: Decimal) -> None:
        """May be negative: then it is gone."""
        with self.changing():
            self.credit += Fraction(usd)

    def spent(self) -> Fraction:
        """Of the whole account to now, exactly."""
        with self.reading() as now:
            for contract in self.contracts.values():
                self._settle(contract, now)
            return sum((contract.spent for contract in self.contracts.values()), Fraction(0))

    def credit_left(self) -> Fraction:
        return self.credit - self.spent()

    def _watch_credit(self) -> None:
        """Have everything stopped at the moment when nothing is left."""
        self._credit_phase += 1
        phase = self._credit_phase
        billing = [contract for contract in self.contracts.values() if contract.alive]
        rate = sum(float(part) for contract in billing for part in contract.rates(self.unsettled))
        if not rate:
            return
        left = self.credit_left()
        running = [contract for contract in billing if contract.current == "running"]
        if left <= 0:
            for contract in running:
                self._halt(contract)
            return
        self.clock.call_at(self.clock.now() + float(left) / rate * 3600 + 0.001, lambda: self._credit_out(phase))

    def _credit_out(self, phase: int) -> None:
        if phase == self._credit_phase:
            with self.changing():
                pass  # leaving it looks at the credit

    def kill_workers(self) -> None:
        """Kill all that run, for the end of a test."""
        with self.changing():
            for contract in self.contracts.values():
                self._kill_worker(contract)

    # ---- what workers cost and do ----

    def traffic(self, instance_id: int, down_bytes: int = 0, up_bytes: int = 0) -> None:
        with self.changing() as now:
            self.contracts[instance_id].book_traffic(now, down_bytes, up_bytes)

    def useful(self, instance_id: int, seconds: float) -> None:
        """So many seconds of its GPU led to a result that was just handed in."""
        with self.changing() as now:
            contract = self.contracts[instance_id]
            self._settle(contract, now)
            contract.useful_s += seconds
            contract.spent_at_last_useful = contract.spent

    # ---- machinery ----

    @contextmanager
    def changing(self) -> Iterator[float]:
        """Hold the world; on leaving, see to the credit and then, without the lock, start and kill workers."""
        afterwards: list[Callable[[], None]] = []
        with self._lock:
            self._depth += 1
            try:
                yield self.clock.now()
                if self._depth == 1:
                    self._watch_credit()
            finally:
                self._depth -= 1
                if not self._depth:
                    afterwards, self._afterwards = self._afterwards, []
        for action in afterwards:
            action()

    @contextmanager
    def reading(self) -> Iterator[float]:
        with self._lock:
            yield self.clock.now()

    def _later(self, seconds: float, contract: Contract, phase: int, step: Callable[[], None]) -> None:
        def run() -> None:
            with self.changing():
                if contract.phase == phase and contract.alive:
                    step()

        self.clock.call_at(self.clock.now() + seconds * self.timing.scale, run)

    def _state(self, contract: Contract, actual: str | None, control: str | None = None) -> None:
        now = self.clock.now()
        self._settle(contract, now)
        contract.actual = actual
        contract.history.append((now, actual))
        if control is not None:
            contract.current = contract.next = contract.intended = control
        if actual != "running":
            contract.running_since = None

    def _settle(self, contract: Contract, now: float) -> None:
        contract.settle(now, self.unsettled)

    def _kill_worker(self, contract: Contract) -> None:
        worker, contract.worker = contract.worker, None
        if worker is not None:
            self._afterwards.append(worker.kill)

    def _alive_changed(self) -> None:
        alive = sum(contract.alive and not contract.foreign for contract in self.contracts.values())
        self.peak_alive = max(self.peak_alive, alive)
