"""Vast.ai on this machine: the real `vastai` client talks to it over http, and everything can go wrong on request.

    with VastEmulator(seed=1) as vast:
        vast.market.populate(20)
        client = VastAI(vast.account_key, vast.url, retry=1)
        ...
        vast.advance(600)
        print(vast.truth().usd)

Time is virtual unless a RealClock is given: it moves when somebody calls `advance` or sleeps on `vast.clock`, which is
the clock to give to whoever paces calls. Its parts are in tests/emulator.
"""

import random
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict
from decimal import Decimal
from types import TracebackType
from typing import Any

from tests.emulator.api import Answer, Api, Call, Switches, answer
from tests.emulator.clock import RealClock, VirtualClock
from tests.emulator.contracts import Container, Contract, Fate, Flaw, Launch, Stuck, Timing, Worker
from tests.emulator.faults import FAULTS, Faults, Rule
from tests.emulator.invariants import assert_invariants
from tests.emulator.limits import SCOPES, TOLERANCE_S, Key
from tests.emulator.market import Machine, Market
from tests.emulator.processes import ProcessLauncher
from tests.emulator.server import HttpServer, control_body
from tests.emulator.truth import Truth, calls_with_secret, tell
from tests.emulator.world import Rental, World

__all__ = [
    "FAULTS",
    "Container",
    "Contract",
    "Fate",
    "Flaw",
    "Launch",
    "Machine",
    "Market",
    "ProcessLauncher",
    "RealClock",
    "Rule",
    "Stuck",
    "Switches",
    "Timing",
    "Truth",
    "VastEmulator",
    "VirtualClock",
    "Worker",
    "assert_invariants",
]


class VastEmulator:
    """One account on one market. credit: dollars paid in. launch: starts what an instance runs, see Container.

    price_walk: by how much prices wander each minute, 0.02 say; rival_rents_per_hour: how many free GPUs others take.
    """

    def __init__(
        self,
        seed: int = 0,
        clock: VirtualClock | RealClock | None = None,
        *,
        timing: Timing | None = None,
        credit: float | str = 100,
        launch: Launch | None = None,
        price_walk: float = 0.0,
        rival_rents_per_hour: float = 0.0,
        port: int = 0,
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock: VirtualClock | RealClock = clock or VirtualClock()
        self.switches = Switches()
        self.world = World(self.clock, self.rng, timing or Timing(), Decimal(str(credit)), launch)
        speed = self.clock.speed if isinstance(self.clock, RealClock) else 1.0
        self.api = Api(self.world, self.switches, lambda: self.url, TOLERANCE_S * speed)
        self._server = HttpServer(self._handle, self.clock.now, lambda: self.clock.now() + self.world.skew, port)
        self._stack = ExitStack()
        self._price_walk = price_walk
        self._rival_rents_per_hour = rival_rents_per_hour
        self.account_key = self.add_key("account")
        self.faults = Faults(self, seed)
        self.api.before, self.api.after = self.faults.before, self.faults.after

    def __enter__(self) -> "VastEmulator":
        if isinstance(self.clock, RealClock):
            self._stack.enter_context(self.clock)
        self._stack.enter_context(self._server)
        if self._price_walk or self._rival_rents_per_hour:
            self._market_moves()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.world.kill_workers()
        self._stack.__exit__(kind, error, traceback)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def market(self) -> Market:
        return self.world.market

    @property
    def calls(self) -> list[Call]:
        """Every request so far, oldest first."""
        return self.api.calls

    # ---- keys ----

    def add_key(self, name: str, scopes: Iterable[str] = SCOPES) -> str:
        """Another key of the account, for some of the categories only. The API limits each key by itself."""
        value = f"account-key-{name}-{self.rng.getrandbits(128):032x}"
        self.api.keys[value] = Key(value, name, frozenset(scopes))
        return value

    def revoke_key(self, value: str | None = None) -> None:
        """None: the account's first."""
        self.api.keys[value or self.account_key].revoked = True

    # ---- time and events ----

    def advance(self, seconds: float) -> None:
        """Raises TypeError in real time, which cannot be moved."""
        if not isinstance(self.clock, VirtualClock):
            raise TypeError("only a virtual clock can be advanced")
        self.clock.advance(seconds)

    def contract(self, instance_id: int) -> Contract:
        return self.world.contracts[instance_id]

    def alive(self, foreign: bool = False) -> list[Contract]:
        """What exists and may bill, listed or not."""
        return [each for each in self.world.contracts.values() if each.alive and each.foreign == foreign]

    def preempt(self, instance_id: int, *, on_demand: bool = False, resume_after: float | None = None) -> None:
        """Somebody else wins its GPU. resume_after: seconds until they leave and it runs again by itself."""
        self.world.outbid(self.contract(instance_id), on_demand, resume_after)

    def kill_host(self, machine_id: int, back_after: float | None = None) -> None:
        self.world.kill_host(self.market.machines[machine_id], back_after)

    def revive_host(self, machine_id: int) -> None:
        self.world.revive_host(self.market.machines[machine_id])

    def worker_exited(self, instance_id: int, code: int = 0) -> None:
        self.world.worker_exited(instance_id, code)

    def useful(self, instance_id: int, seconds: float) -> None:
        self.world.useful(instance_id, seconds)

    def traffic(self, instance_id: int, down_bytes: int = 0, up_bytes: int = 0) -> None:
        self.world.traffic(instance_id, down_bytes, up_bytes)

    def add_foreign(self, label: str = "somebody-else", **machine: Any) -> int:
        """An instance of another program in the same account, on a machine of its own. Gives its id."""
        slot = self.market.add(**machine).slots[0]
        rental = Rental(label, "other/image:1", "args", None, (), {}, 20.0, None, True)
        return self.world.create(slot, rental, foreign=True).id

    def foreign_ids(self) -> tuple[int, ...]:
        return tuple(each.id for each in self.world.contracts.values() if each.foreign)

    def _market_moves(self) -> None:
        """Each minute: prices wander, and others rent on average so many free GPUs an hour, for about an hour."""
        with self.world.changing():
            if self._price_walk:
                self.market.walk(self._price_walk)
            for slot in self.market.all_slots():
                free = slot.ask_id is not None and slot.contract is None
                share = self._rival_rents_per_hour / 60 / max(1, len(self.market.all_slots()))
                if free and self.rng.random() < share:
                    self.world.rival_rents(slot, leaves_after=self.rng.expovariate(1 / 3_600))
        self.clock.call_at(self.clock.now() + 60, self._market_moves)

    # ---- what is true ----

    def truth(self) -> Truth:
        return tell(self.world, self.api)

    def find_secrets(self, *secrets: str) -> list[tuple[Call, str]]:
        """Calls that carry one of these, or any account key, where no key belongs."""
        return calls_with_secret(self.calls, [*self.api.keys, *secrets])

    # ---- the wire ----

    def _handle(self, call: Call) -> Answer:
        return self._control(call) if call.path.startswith("/_emu/") else self.api.handle(call)

    def _control(self, call: Call) -> Answer:
        """For tests in other processes: the same as the methods above."""
        verb, _, argument = call.path.removeprefix("/_emu/").strip("/").partition("/")
        data = control_body(call)
        if (verb, argument) == ("clock", "advance"):
            self.advance(float(data["seconds"]))
        elif verb == "market":
            for machine in data.get("machines", []):
                self.market.add(**machine)
        elif verb == "fault":
            self.faults.add(data.pop("id"), **data)
        elif verb == "preempt":
            self.preempt(int(argument), **data)
        elif verb == "kill_host":
            self.kill_host(int(argument), **data)
        elif verb == "ledger":
            truth = asdict(self.truth())
            return answer(
                truth | {"exact": str(truth["exact"]), "by_state": {str(k): v for k, v in truth["by_state"].items()}}
            )
        elif verb == "requests":
            return answer(
                [asdict(each) | {"body": each.body.decode(errors="replace"), "headers": {}} for each in self.calls]
            )
        else:
            return answer({"success": False, "error": "not_found"}, 404)
        return answer({"success": True, "now": self.clock.now()})
