"""A rented machine: its state, what it costs in each state to the last fraction, and its row as the API tells it.

Money is an exact fraction of a dollar. What a contract cost is the sum of its segments (a state with its rates, from
then to then) and its lumps (traffic of its worker), so a second sum over these must give the same figure.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Literal, Protocol

from tests.emulator.market import Machine, Row, Slot, exact, storage_per_hour

GPU_BILLED = ("running", "frozen", "rebooting")  # loading is not billed for the GPU
STOPPED = ("exited", "stopped")

Stuck = Literal["null", "oci", "cuda", "image", "loading", "slow"]
Flaw = Literal["silent", "bad_cuda", "slow", "wrong"]
STUCK_MESSAGES = {
    "oci": "Error response from daemon: OCI runtime create failed: nvidia-container-cli: device error",
    "cuda": "Error: unsatisfied condition: cuda>=12.8, please update your driver to a newer version",
    "image": "Error: manifest unknown: manifest unknown",
}


@dataclass(frozen=True)
class Container:
    """What runs on the machine, as it sees itself. flaw: what is wrong with the host, for a stand-in to act out.

    exited: to be called with its code when the program ends by itself.
    """

    instance_id: int
    label: str
    image: str
    entry: tuple[str, ...]
    environment: dict[str, str]
    flaw: Flaw | None
    gpu_name: str
    machine_id: int
    exited: Callable[[int], None]


class Worker(Protocol):
    def kill(self) -> None:
        """At once and without notice, as a host does it."""
        ...


Launch = Callable[[Container], Worker | None]


@dataclass(frozen=True)
class Timing:
    """How long things take, seconds. scale: of them all, for tests in real time.

    created_s, loading_s: to the states of these names; then the image comes in image_gb · 8000 / inet_down.
    listed_after_s: until lists show a new instance; unlisted_after_s: until they stop to show a destroyed one.
    offline_after_s: from the last heartbeat of a dead host. kept_s: how long a contract stays after its end.
    """

    created_s: float = 3.0
    loading_s: float = 5.0
    image_gb: float = 4.0
    listed_after_s: float = 0.0
    unlisted_after_s: float = 5.0
    offline_after_s: float = 60.0
    kept_s: float = 48 * 3_600.0
    slow_factor: float = 6.0
    scale: float = 1.0


@dataclass
class Unsettled:
    """What no source settles, as the emulator takes it to be.

    stopped_status: actual status of what was stopped. exited_bills_gpu: also while the program has ended by itself.
    stopped_storage_factor: storage costs more while stopped, the docs say "often".
    """

    stopped_status: Literal["exited", "stopped"] = "exited"
    exited_bills_gpu: bool = False
    stopped_storage_factor: Decimal = Decimal("1.25")


@dataclass
class Fate:
    """What goes wrong with one create; a list of faults decides."""

    bid_too_low: bool = False
    lands_stopped: bool = False
    starts_after_s: float | None = None  # one that landed stopped, by itself
    stuck: Stuck | None = None
    flaw: Flaw | None = None
    listed_after_s: float | None = None
    price_factor: Decimal = Decimal(1)
    ends_in_s: float | None = None


@dataclass(frozen=True)
class Segment:
    """A time in one state; rates in dollars per hour."""

    start: float
    end: float
    actual: str | None
    gpu: Fraction
    storage: Fraction
    traffic: Fraction

    @property
    def hours(self) -> Fraction:
        return (Fraction(self.end) - Fraction(self.start)) / 3600

    @property
    def usd(self) -> Fraction:
        return self.hours * (self.gpu + self.storage + self.traffic)


@dataclass(frozen=True)
class Lump:
    at: float
    usd: Fraction


@dataclass
class Contract:
    """wanted: what its tenant asked for; outbid, queued: it runs by itself as soon as the GPU is to be had."""

    id: int
    key: str
    label: str
    slot: Slot
    image: str
    runtype: str | None
    onstart: str | None
    args: tuple[str, ...]
    environment: dict[str, str]
    disk_gb: float
    is_bid: bool
    price: Decimal
    created_at: float
    ends_at: float
    fate: Fate
    foreign: bool = False
    actual: str | None = None
    intended: str = "running"
    current: str = "running"
    next: str = "running"
    message: str = ""
    wanted: Literal["running", "stopped"] = "running"
    outbid: bool = False
    queued: bool = False
    image_cached: bool = False
    pull_gb_per_s: Fraction = Fraction(0)
    listed_from: float = 0.0
    destroyed_at: float | None = None
    listed_until: float | None = None
    running_since: float | None = None
    phase: int = 0  # a scheduled step of an earlier phase is void
    since: float = 0.0  # what follows is not in a segment yet
    segments: list[Segment] = field(default_factory=list)
    lumps: list[Lump] = field(default_factory=list)
    spent: Fraction = Fraction(0)  # of segments and lumps
    useful_s: float = 0.0
    spent_at_last_useful: Fraction = Fraction(0)
    history: list[tuple[float, str | None]] = field(default_factory=list)
    worker: Worker | None = None
    log: list[str] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        return self.slot.machine

    @property
    def alive(self) -> bool:
        return self.destroyed_at is None

    @property
    def holds_gpu(self) -> bool:
        return self.slot.contract == self.id

    # ---- money ----

    def rates(self, unsettled: Unsettled) -> tuple[Fraction, Fraction, Fraction]:
        """GPU, storage and traffic in dollars per hour, now."""
        nothing = Fraction(0)
        if not self.alive or self.actual == "offline":
            return nothing, nothing, nothing
        ended = self.actual == "exited" and self.current == "running"
        billed = self.actual in GPU_BILLED or (ended and unsettled.exited_bills_gpu)
        gpu = exact(self.price) if billed else nothing
        storage = storage_per_hour(self.machine.storage_cost, self.disk_gb)
        if self.current == "stopped" or self.actual in STOPPED:
            storage *= exact(unsettled.stopped_storage_factor)
        if self.actual != "loading" or not self.pull_gb_per_s:
            return gpu, storage, nothing
        return gpu, storage, self.pull_gb_per_s * 3600 * exact(self.machine.inet_down_cost)

    def settle(self, now: float, unsettled: Unsettled) -> None:
        """Book what has run up since the last change."""
        if now <= self.since:
            return
        gpu, storage, traffic = self.rates(unsettled)
        segment = Segment(self.since, now, self.actual, gpu, storage, traffic)
        self.since = now
        if not self.alive:
            return
        self.spent += segment.usd
        last = self.segments[-1] if self.segments else None
        if last and last.end == segment.start and replace(last, start=segment.start, end=now) == segment:
            segment = replace(last, end=now)
            self.segments.pop()
        self.segments.append(segment)

    def book_traffic(self, now: float, down_bytes: int, up_bytes: int) -> None:
        machine = self.machine
        usd = Fraction(down_bytes) * Fraction(machine.inet_down_cost) + Fraction(up_bytes) * Fraction(
            machine.inet_up_cost
        )
        self.lumps.append(Lump(now, usd / 10**9))
        self.spent += usd / 10**9

    # ---- how others see it ----

    def listed(self, now: float) -> bool:
        if now < self.listed_from:
            return False
        return self.listed_until is None or now < self.listed_until

    def container(self, account_environment: dict[str, str], exited: Callable[[int, int], None]) -> Container:
        own = {
            "CONTAINER_ID": str(self.id),
            "CONTAINER_API_KEY": self.key,
            "VAST_CONTAINERLABEL": f"C.{self.id}",
            "PUBLIC_IPADDR": "127.0.0.1",
            "GPU_COUNT": str(self.machine.num_gpus),
        }
        given = {name: value for name, value in self.environment.items() if not name.startswith("-")}
        return Container(
            instance_id=self.id,
            label=self.label,
            image=self.image,
            entry=(*((self.onstart,) if self.onstart else ()), *self.args),
            environment=account_environment | given | own,
            flaw=self.fate.flaw,
            gpu_name=self.machine.gpu_name,
            machine_id=self.machine.id,
            exited=lambda code: exited(self.id, code),
        )

    def row(self, now: float, skew: float, unsettled: Unsettled) -> Row:
        """skew: how far the market's clock is ahead, seconds."""
        machine = self.machine
        storage = float(storage_per_hour(machine.storage_cost, self.disk_gb))
        base = float(self.price)
        running = self.actual == "running"
        factor = float(unsettled.stopped_storage_factor) if self.current == "stopped" else 1.0
        return {
            "id": self.id,
            "label": self.label,
            "machine_id": machine.id,
            "host_id": machine.host_id,
            "image_uuid": self.image,
            "image_runtype": self.runtype,
            "image_args": list(self.args),
            "onstart": self.onstart,
            "extra_env": [[name, value] for name, value in self.environment.items()],
            "actual_status": self.actual,
            "intended_status": self.intended,
            "cur_state": self.current,
            "next_state": self.next,
            "status_msg": self._message(now),
            "start_date": self.created_at + skew,
            "end_date": self.ends_at + skew,
            "uptime_mins": (now - self.running_since) / 60 if running and self.running_since is not None else None,
            "dph_base": base,
            "dph_total": base + storage,
            "is_bid": self.is_bid,
            "min_bid": float(self.slot.min_bid),
            "storage_cost": float(machine.storage_cost),
            "storage_total_cost": storage * factor,
            "inet_down": machine.inet_down,
            "inet_up": machine.inet_up,
            "inet_down_cost": float(machine.inet_down_cost),
            "inet_up_cost": float(machine.inet_up_cost),
            "num_gpus": machine.num_gpus,
            "gpu_name": machine.gpu_name,
            "gpu_ram": machine.gpu_ram,
            "gpu_util": 0.0 if running else None,
            "gpu_temp": 40.0 if running else None,
            "disk_space": self.disk_gb,
            "disk_usage": 4.0,
            "cuda_max_good": machine.cuda,
            "driver_version": "570.86.15",
            "reliability2": machine.reliability,
            "verification": "verified" if machine.verified else "unverified",
            "public_ipaddr": "127.0.0.1",
            "ssh_host": "ssh4.example.invalid",
            "ssh_port": 20_000 + self.id % 10_000,
            "ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "40080"}]} if running else None,
            "direct_port_start": 40_000,
            "direct_port_end": 40_099,
            "geolocation": machine.geolocation,
        }

    def _message(self, now: float) -> str:
        if self.actual == "loading" and self.pull_gb_per_s:
            return f"Downloading: {float(self.pull_gb_per_s) * (now - self.history[-1][0]):.2f} GB of the image"
        return self.message
