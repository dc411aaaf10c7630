"""What really happened, in dollars and machines, and the invariants that must hold after whatever went wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tests.emulator.api import Api, Call, charge_items
from tests.emulator.contracts import GPU_BILLED, Contract
from tests.emulator.market import storage_per_hour
from tests.emulator.world import World

MUTATING = ("destroy", "state", "bid", "reboot", "command")


@dataclass(frozen=True)
class InstanceTruth:
    """usd_per_hour: GPU and storage while it runs. history: (epoch seconds, actual status) at each change."""

    id: int
    label: str
    machine_id: int
    foreign: bool
    alive: bool
    is_bid: bool
    usd_per_hour: float
    usd: float
    gpu_usd: float
    storage_usd: float
    traffic_usd: float
    usd_after_last_useful: float
    billed_gpu_s: float
    useful_s: float
    history: tuple[tuple[float, str | None], ...]


@dataclass(frozen=True)
class Truth:
    """Of the fleet's own instances only, foreign ones are only in `instances`. leaked: those still alive.

    exact: the same as usd, as a fraction. violations: (when, endpoint, key) of calls that came too early.
    """

    usd: float
    exact: Fraction
    by_label: dict[str, float]
    by_state: dict[str | None, float]
    instances: dict[int, InstanceTruth]
    leaked: tuple[int, ...]
    peak_alive: int
    billed_gpu_s: float
    useful_s: float
    usd_after_last_useful: float
    violations: tuple[tuple[float, str, str], ...]

    @property
    def useful_share(self) -> float:
        """Useful GPU seconds of those billed; 1 where nothing was billed."""
        return self.useful_s / self.billed_gpu_s if self.billed_gpu_s else 1.0


def tell(world: World, api: Api) -> Truth:
    """To the present moment."""
    world.spent()
    with world.reading():
        contracts = list(world.contracts.values())
        ours = [each for each in contracts if not each.foreign]
        instances = {each.id: _instance(each) for each in contracts}
        by_label: dict[str, float] = {}
        by_state: dict[str | None, Fraction] = {}
        for contract in ours:
            by_label[contract.label] = by_label.get(contract.label, 0.0) + float(contract.spent)
            for segment in contract.segments:
                by_state[segment.actual] = by_state.get(segment.actual, Fraction(0)) + segment.usd
        exact = sum((each.spent for each in ours), Fraction(0))
        return Truth(
            usd=float(exact),
            exact=exact,
            by_label=by_label,
            by_state={state: float(usd) for state, usd in by_state.items()},
            instances=instances,
            leaked=tuple(each.id for each in ours if each.alive),
            peak_alive=world.peak_alive,
            billed_gpu_s=sum(instances[each.id].billed_gpu_s for each in ours),
            useful_s=sum(each.useful_s for each in ours),
            usd_after_last_useful=sum(instances[each.id].usd_after_last_useful for each in ours),
            violations=tuple(api.limiter.violations),
        )


def _instance(contract: Contract) -> InstanceTruth:
    items = charge_items(contract, 0.0, float("inf"))
    storage = storage_per_hour(contract.machine.storage_cost, contract.disk_gb)
    return InstanceTruth(
        id=contract.id,
        label=contract.label,
        machine_id=contract.machine.id,
        foreign=contract.foreign,
        alive=contract.alive,
        is_bid=contract.is_bid,
        usd_per_hour=float(Fraction(contract.price) + storage),
        usd=float(contract.spent),
        gpu_usd=float(items["gpu"]),
        storage_usd=float(items["disk"]),
        traffic_usd=float(items["bwd"]),
        usd_after_last_useful=float(contract.spent - contract.spent_at_last_useful),
        billed_gpu_s=sum(each.end - each.start for each in contract.segments if each.actual in GPU_BILLED),
        useful_s=contract.useful_s,
        history=tuple(contract.history),
    )


def calls_with_secret(calls: Iterable[Call], secrets: Iterable[str]) -> list[tuple[Call, str]]:
    """Where a secret is in an address, a body or any header but the one that keys belong in."""
    wanted = [secret for secret in secrets if secret]
    found = []
    for call in calls:
        headers = " ".join(value for name, value in call.headers.items() if name != "authorization")
        text = f"{call.path} {call.query} {headers} {call.body.decode(errors='replace')}"
        found += [(call, secret) for secret in wanted if secret in text]
    return found
