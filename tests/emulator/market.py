"""Machines with GPUs to let: offers, their rows as the API tells them, prices that wander, and other people's rents.

Prices are exact decimals in dollars per hour. A machine lets each of its slots by itself, most of them one GPU; each
free one is an offer, and what is let or given back comes with another offer id next time.
"""

import itertools
import random
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from functools import cache
from typing import Any

Row = dict[str, Any]
HOURS_PER_MONTH = 720  # of Vast.ai's price identity
MAX_ROWS = 64  # a search never answers more
_CENT = Decimal("0.0001")


@dataclass
class Slot:
    """What a machine lets at once, most often one GPU.

    ask_id None: it is not offered. rival_bid: what somebody else pays to hold it.
    """

    machine: "Machine"
    index: int
    ask_id: int | None
    contract: int | None = None
    rival_on_demand: bool = False
    rival_bid: Decimal | None = None

    @property
    def min_bid(self) -> Decimal:
        """What a bid must be at least to win now."""
        floor = self.machine.min_bid
        return floor if self.rival_bid is None else max(floor, self.rival_bid + _CENT)


@dataclass
class Machine:
    """Memory in MB, disk in GB, network in Mbit/s, traffic $/GB, storage_cost $/GB/month, compute_cap ×100."""

    id: int
    host_id: int
    gpu_name: str
    gpu_ram: int
    dph: Decimal
    min_bid: Decimal
    storage_cost: Decimal
    inet_down: float
    inet_up: float
    inet_down_cost: Decimal
    inet_up_cost: Decimal
    reliability: float
    verified: bool
    cuda: float
    compute_cap: int
    disk_space: float
    duration_s: float
    hosting_type: int
    geolocation: str
    dlperf: float
    num_gpus: int = 1
    online: bool = True
    slots: list[Slot] = field(default_factory=list)
    first_dph: Decimal = Decimal(0)
    first_min_bid: Decimal = Decimal(0)


def decimal(value: Decimal | float | str) -> Decimal:
    """As written: 0.3 is three tenths, not the double next to it."""
    return value if isinstance(value, Decimal) else Decimal(str(value))


@cache
def exact(value: Decimal) -> Fraction:
    """Remembered, as the same few prices are asked for at every look."""
    return Fraction(value)


@cache
def storage_per_hour(storage_cost: Decimal, disk_gb: float) -> Fraction:
    return Fraction(storage_cost) * Fraction(decimal(disk_gb)) / HOURS_PER_MONTH


class Market:
    """All machines. Not safe for threads by itself: the world that owns it locks."""

    def __init__(self, rng: random.Random) -> None:
        self.machines: dict[int, Machine] = {}
        self.numeric_filters = True  # false: the server ignores them, as it has been seen to do
        self._rng = rng
        self._ask_ids = itertools.count(5_000_001)
        self._machine_ids = itertools.count(20_001)

    def add(
        self,
        gpu_name: str = "RTX 4090",
        *,
        gpus: int = 1,
        dph: float | str | Decimal = "0.40",
        min_bid: float | str | Decimal | None = None,
        gpu_ram: int = 24_564,
        storage_cost: float | str | Decimal = "0.15",
        inet_down: float = 800.0,
        inet_up: float = 500.0,
        inet_down_cost: float | str | Decimal = "0.003",
        inet_up_cost: float | str | Decimal = "0.003",
        reliability: float = 0.995,
        verified: bool = True,
        cuda: float = 12.8,
        compute_cap: int = 890,
        disk_space: float = 400.0,
        duration_s: float = 30 * 86_400.0,
        hosting_type: int = 0,
        geolocation: str = "Sweden, SE",
        dlperf: float = 100.0,
        host_id: int | None = None,
        num_gpus: int = 1,
    ) -> Machine:
        """Another machine, with `gpus` offers of `num_gpus` GPUs each, and prices for these.

        min_bid None: half of dph. Names of GPUs have spaces.
        """
        price = decimal(dph)
        lowest = decimal(min_bid) if min_bid is not None else (price / 2).quantize(_CENT)
        number = next(self._machine_ids)
        machine = Machine(
            id=number,
            host_id=host_id if host_id is not None else number + 60_000,
            gpu_name=gpu_name,
            gpu_ram=gpu_ram,
            dph=price,
            min_bid=lowest,
            storage_cost=decimal(storage_cost),
            inet_down=inet_down,
            inet_up=inet_up,
            inet_down_cost=decimal(inet_down_cost),
            inet_up_cost=decimal(inet_up_cost),
            reliability=reliability,
            verified=verified,
            cuda=cuda,
            compute_cap=compute_cap,
            disk_space=disk_space,
            duration_s=duration_s,
            hosting_type=hosting_type,
            geolocation=geolocation,
            dlperf=dlperf,
            num_gpus=num_gpus,
            first_dph=price,
            first_min_bid=lowest,
        )
        machine.slots = [Slot(machine, index, next(self._ask_ids)) for index in range(gpus)]
        self.machines[machine.id] = machine
        return machine

    def populate(self, count: int) -> list[Machine]:
        """Machines such as there are: consumer cards of four kinds, most of them good, prices spread by a third."""
        kinds = (
            ("RTX 3060", 12_288, "0.08", 860, 30.0),
            ("RTX 3090", 24_576, "0.22", 860, 60.0),
            ("RTX 4090", 24_564, "0.40", 890, 100.0),
            ("RTX A5000", 24_564, "0.25", 860, 55.0),
        )
        machines = []
        for _ in range(count):
            name, ram, price, capability, dlperf = self._rng.choice(kinds)
            dph = (Decimal(price) * decimal(round(self._rng.uniform(0.7, 1.4), 3))).quantize(_CENT)
            machines.append(
                self.add(
                    name,
                    gpus=self._rng.choice((1, 1, 1, 2, 4)),
                    dph=dph,
                    gpu_ram=ram,
                    compute_cap=capability,
                    dlperf=dlperf,
                    inet_down=round(self._rng.uniform(350, 2_000), 1),
                    reliability=round(self._rng.uniform(0.972, 0.9995), 4),
                    inet_down_cost=decimal(round(self._rng.uniform(0.0, 0.01), 4)),
                )
            )
        return machines

    # ---- slots ----

    def slot_of_ask(self, ask_id: int) -> Slot | None:
        """None for an offer that was taken or never was, or whose machine is away."""
        for machine in self.machines.values():
            for slot in machine.slots:
                if slot.ask_id == ask_id and machine.online:
                    return slot
        return None

    def all_slots(self) -> list[Slot]:
        return [slot for machine in self.machines.values() for slot in machine.slots]

    def occupy(self, slot: Slot, contract: int) -> None:
        slot.contract = contract
        slot.ask_id = None
        slot.rival_bid = None

    def release(self, slot: Slot) -> None:
        """Offered again, under another id."""
        slot.contract = None
        slot.ask_id = None if slot.rival_on_demand else next(self._ask_ids)

    def rival_takes(self, slot: Slot) -> None:
        """Somebody rents it on demand: whoever had it loses it."""
        slot.rival_on_demand = True
        slot.rival_bid = None
        slot.contract = None
        slot.ask_id = None

    def rival_bids(self, slot: Slot, bid: Decimal) -> None:
        slot.rival_bid = bid
        slot.contract = None
        slot.ask_id = next(self._ask_ids)

    def rival_leaves(self, slot: Slot) -> None:
        slot.rival_on_demand = False
        slot.rival_bid = None
        if slot.contract is None:
            self.release(slot)

    def walk(self, sigma: float) -> None:
        """Prices wander by a factor of about 1±sigma, within half and twice of where they began."""
        for machine in self.machines.values():
            step = decimal(round(max(0.5, 1 + self._rng.gauss(0, sigma)), 4))
            machine.dph = _within(machine.dph * step, machine.first_dph)
            machine.min_bid = _within(machine.min_bid * step, machine.first_min_bid)

    # ---- search ----

    def search(self, query: Row, now: float) -> list[Row]:
        """Rows of the offers that a search body asks for. Raises ValueError for one that makes no sense."""
        bid = query.get("type") in ("bid", "interruptible")
        disk = float(query.get("allocated_storage") or 5.0)
        rows = [
            offer_row(slot, bid, disk, now)
            for slot in self.all_slots()
            if slot.ask_id is not None and slot.machine.online
        ]
        for name, conditions in query.items():
            if name in ("order", "type", "limit", "allocated_storage", "disable_bundling"):
                continue
            rows = [row for row in rows if self._matches(row, name, conditions)]
        for column, direction in reversed(query.get("order") or [["score", "desc"]]):
            rows.sort(key=lambda row, column=column: _orderable(row.get(column)), reverse=direction == "desc")  # type: ignore[misc]
        return rows[: min(MAX_ROWS, int(query.get("limit") or MAX_ROWS))]

    def _matches(self, row: Row, name: str, conditions: Any) -> bool:
        if not isinstance(conditions, dict):
            raise ValueError(f"the filter {name} is not an object of operators")
        value = row["verification"] == "verified" if name == "verified" else row.get(name)
        if name not in row and name != "verified":
            return True  # a field that the server does not know filters nothing
        if not self.numeric_filters and isinstance(value, int | float) and not isinstance(value, bool):
            return True
        return all(compare(value, operator, wanted) for operator, wanted in conditions.items())


def offer_row(slot: Slot, bid: bool, disk: float, now: float) -> Row:
    """An offer as the search tells of it; dph_total has the storage of `disk` GB in it."""
    machine = slot.machine
    storage = float(storage_per_hour(machine.storage_cost, disk))
    base = float(machine.dph)
    price = float(slot.min_bid) if bid else base
    return {
        "id": slot.ask_id,
        "ask_contract_id": slot.ask_id,
        "bundle_id": machine.id * 10 + slot.index,
        "machine_id": machine.id,
        "host_id": machine.host_id,
        "gpu_name": machine.gpu_name,
        "num_gpus": machine.num_gpus,
        "gpu_ram": machine.gpu_ram,
        "gpu_total_ram": machine.gpu_ram * machine.num_gpus,
        "compute_cap": machine.compute_cap,
        "cuda_max_good": machine.cuda,
        "driver_version": "570.86.15",
        "cpu_cores_effective": 8.0,
        "cpu_ram": 64_000,
        "disk_space": machine.disk_space,
        "disk_bw": 2_000.0,
        "inet_down": machine.inet_down,
        "inet_up": machine.inet_up,
        "inet_down_cost": float(machine.inet_down_cost),
        "inet_up_cost": float(machine.inet_up_cost),
        "storage_cost": float(machine.storage_cost),
        "storage_total_cost": storage,
        "dph_base": price,
        "dph_total": price + storage,
        "discounted_dph_total": price + storage,
        "min_bid": float(slot.min_bid),
        "is_bid": bid,
        "reliability": machine.reliability,
        "reliability2": machine.reliability,
        "verification": "verified" if machine.verified else "unverified",
        "hosting_type": machine.hosting_type,
        "static_ip": True,
        "direct_port_count": 100,
        "duration": machine.duration_s,
        "end_date": now + machine.duration_s,
        "rentable": True,
        "rented": False,
        "external": False,
        "geolocation": machine.geolocation,
        "dlperf": machine.dlperf,
        "score": machine.dlperf / price if price else 0.0,
    }


def compare(value: Any, operator: str, wanted: Any) -> bool:
    """One condition of a filter. Numbers may come as text: the client's query strings send them so."""
    if operator in ("in", "notin", "nin"):
        found = any(_equal(value, each) for each in wanted)
        return found if operator == "in" else not found
    if operator == "eq":
        return _equal(value, wanted)
    if operator in ("neq", "ne"):
        return not _equal(value, wanted)
    if value is None:
        return False
    left, right = float(value), float(wanted)
    if operator == "gt":
        return left > right
    if operator in ("gte", "ge"):
        return left >= right
    if operator == "lt":
        return left < right
    if operator in ("lte", "le"):
        return left <= right
    raise ValueError(f"no such operator: {operator}")


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) and isinstance(wanted, str):
        return value == (wanted.lower() == "true")
    if isinstance(value, int | float) and not isinstance(value, bool) and isinstance(wanted, str):
        return value == float(wanted)
    return bool(value == wanted)


def _orderable(value: Any) -> tuple[bool, Any]:
    return (value is not None, value if value is not None else 0)


def _within(price: Decimal, first: Decimal) -> Decimal:
    return min(max(price, first / 2), first * 2).quantize(_CENT)
