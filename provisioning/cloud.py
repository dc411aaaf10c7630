"""What a GPU market is to a fleet: offers, instances, and the few things that can be asked of it.

Frozen data and a protocol; `provisioning.vast` is the one adapter, and the only one that knows Vast.ai's API. Money is
US dollars as floats (a controller may be off by a rounding, never by a cent), times are epoch milliseconds.
"""

from dataclasses import dataclass, field
from typing import Protocol

from workers.errors import TerminalError, TransientError


class CloudBlind(TransientError):
    """The market did not answer, or not whole: what exists is unknown, which is not the same as nothing."""

    exit_code = 8


class CloudRefused(TerminalError):
    """The market refuses: the key, its rights, the credit. Doing the same again would fail again."""

    exit_code = 8


@dataclass(frozen=True)
class Offer:
    """A machine that can be rented now. Prices are for the whole offer, which a fleet takes with one GPU only.

    gpu_usd_per_hour is on demand, min_bid_usd_per_hour what an interruptible one has to bid at least. cuda: the highest
    version its driver takes, 12.8 say; compute_capability ×100, 890 say. duration_s: how long it may be kept.
    """

    id: int
    machine_id: int
    host_id: int
    gpu_name: str
    num_gpus: int
    gpu_ram_mb: int
    cuda: float
    compute_capability: int
    reliability: float
    verified: bool
    rentable: bool
    datacenter: bool
    disk_gb: float
    inet_down_mbps: float
    inet_up_mbps: float
    inet_down_usd_per_gb: float
    inet_up_usd_per_gb: float
    storage_usd_per_gb_month: float
    gpu_usd_per_hour: float
    min_bid_usd_per_hour: float
    duration_s: float
    geolocation: str = ""
    dlperf: float = 0.0

    def storage_usd_per_hour(self, disk_gb: float) -> float:
        """A month of Vast.ai's storage price is 720 hours (see its price identity)."""
        return self.storage_usd_per_gb_month * disk_gb / 720


@dataclass(frozen=True)
class Order:
    """What to rent an offer as. bid_usd_per_hour None: on demand. environment: with no secret but its own."""

    label: str
    image: str
    disk_gb: float
    bid_usd_per_hour: float | None
    environment: dict[str, str] = field(default_factory=dict)
    entry: tuple[str, ...] = ()


@dataclass(frozen=True)
class Instance:
    """A rented machine as one row of a validated list tells of it; None is what the market did not say.

    actual: null, created, loading, running, exited, stopped, frozen, rebooting, unknown, offline. intended, current,
    next: running, stopped, frozen or unloaded. gpu_usd_per_hour is its real price, for an interruptible one the bid.
    """

    id: int
    label: str
    machine_id: int
    gpu_name: str
    actual: str | None
    intended: str | None
    current: str | None
    next: str | None
    message: str
    is_bid: bool
    gpu_usd_per_hour: float
    storage_usd_per_hour: float
    inet_down_mbps: float
    inet_down_usd_per_gb: float
    inet_up_usd_per_gb: float
    started_ms: int | None = None
    ends_ms: int | None = None


@dataclass(frozen=True)
class Created:
    """Rented: it exists and bills."""

    instance_id: int


@dataclass(frozen=True)
class Refused:
    """Definitely not rented. instance_id: what the market made all the same, and is to be destroyed.

    taken: it is about this offer (somebody else has it, say), so the next one may do. hopeless: no offer would ever do
    (credit, key); pause: nor for some minutes (a limit, a right), which says nothing against the machines there are.
    """

    reason: str
    taken: bool = False
    hopeless: bool = False
    pause: bool = False
    instance_id: int | None = None


@dataclass(frozen=True)
class Unknown:
    """Nobody knows whether it was rented: only the list can tell, and only after a while."""

    reason: str


@dataclass(frozen=True)
class Account:
    """credit: what is left to spend, dollars; environment: names of variables that the market gives every container."""

    credit_usd: float
    environment: tuple[str, ...] = ()


@dataclass(frozen=True)
class OfferQuery:
    """What an offer must have. The market does not always filter: `provisioning.offers.fits` checks again."""

    interruptible: bool = True
    gpu_names: tuple[str, ...] = ()
    min_gpu_ram_mb: int = 8_000
    min_cuda: float = 12.4
    min_compute_capability: int = 700
    min_reliability: float = 0.97
    min_inet_down_mbps: float = 300.0
    min_duration_s: float = 3_600.0
    disk_gb: float = 20.0
    max_usd_per_hour: float | None = None
    datacenter_only: bool = False


class Cloud(Protocol):
    """The market, for one account. Safe to share between threads; paces itself, so a call may wait for some seconds."""

    def offers(self, query: OfferQuery) -> tuple[Offer, ...]:
        """Raises CloudBlind, CloudRefused."""
        ...

    def instances(self) -> tuple[Instance, ...]:
        """All instances of the account, also those of others than this fleet, each once: complete or not at all.

        Raises CloudBlind where the list did not come whole, CloudRefused where the key is not accepted.
        """
        ...

    def create(self, offer: Offer, order: Order) -> Created | Refused | Unknown:
        """Ask once, never again by itself. Raises nothing but CloudRefused for a key that is not accepted."""
        ...

    def destroy(self, instance_id: int) -> bool:
        """True where the market took it or knows no such instance; it is gone only when a list says so.

        Raises CloudBlind where it did not answer or refused for now, CloudRefused where the key is not accepted.
        """
        ...

    def change_bid(self, instance_id: int, usd_per_hour: float) -> bool: ...

    def account(self) -> Account: ...

    def charges_usd(self, since_ms: int, until_ms: int) -> dict[int, float]:
        """What the market has billed so far, by instance. It lags by hours: an audit, never a meter."""
        ...

    def logs(self, instance_id: int, lines: int) -> str: ...
