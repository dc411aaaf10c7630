"""One job on one rented fleet, in virtual time: the real controller and the real vastai client against the emulator.

The emulator of Vast.ai and the workers played on its clock live with the tests, which are not installed: this is the
one module that reaches there, and it says in a sentence where they are missing.
"""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cost_bill
from benchmarks.cost_bill import Machine
from provisioning.fleet import Label, Limits, Speeds
from provisioning.offers import LOAD_S, speed_of
from workers.errors import JobError, OptionError

if TYPE_CHECKING:
    from tests.emulator.truth import InstanceTruth
    from tests.support.fleet import Fleet

OFFERED = 40  # machines of the market, with one to four GPUs each
UNPACK_S = 60.0  # an image of 4 GB on a host's disk; not billed, as `provisioning.offers.BOOT_S` has it in its 240 s
MAX_PRICE_USD = 0.6  # per GPU and hour
BUDGET_USD = 50.0
CHUNK_S = 60.0
LOOK_S = 15.0  # how often outbids are drawn


@dataclass(frozen=True)
class Plan:
    """A job and the fleet it may have.

    within_s: when the controller is asked to be done; it rents no machine that would not pay its boot. outbids: how
    often an hour each interruptible machine is taken away, on average. speed: of the guessed speeds, so many times.
    """

    hours: float
    most: int
    interruptible: bool
    outbids: float = 0.0
    within_s: float = 300.0
    model: str = "large-v3"
    speed: float = 1.0


@dataclass(frozen=True)
class Ran:
    """How it went. usd: all that the market billed, parts sums to it; seconds: from the first look to the last result.

    useful_share: seconds of GPU at inference whose result was taken, of those billed. again: chunks done again.
    """

    usd: float
    parts: dict[str, float]
    seconds: float
    machines: int
    outbid: int
    useful_share: float
    lost_gpu_s: float
    billed_gpu_s: float
    again: int
    chunks: int
    gpus: dict[str, int]

    def told(self) -> dict[str, Any]:
        return asdict(self)


def ran(plan: Plan, seed: int, folder: Path) -> Ran:
    """The job on the market of that seed. Raises OptionError without the emulator, JobError for one that fails."""
    world = _world(plan, seed, folder)
    ended: list[float] = []
    with world:
        began = world.clock.now()
        world.vast.market.populate(OFFERED)
        chunks = max(1, round(plan.hours * 3600 / CHUNK_S))
        world.gateway.put(chunks, plan.hours * 3600 / chunks)
        if plan.outbids:
            _outbid_now_and_then(world, plan.outbids, random.Random(seed), ended)
        world.run(watch=lambda now: ended.append(now.at_ms / 1000) if world.gateway.done and not ended else None)
        if not ended:
            raise JobError(f"The benchmark's job was not done: {' '.join(world.said[-2:]) or 'nobody says why'}")
        return _told(world, ended[0] - began)


def _world(plan: Plan, seed: int, folder: Path) -> "Fleet":
    limits = Limits(
        max_usd=BUDGET_USD,
        max_price=MAX_PRICE_USD,
        max_instances=plan.most,
        drain_target_s=plan.within_s,
        interruptible=plan.interruptible,
    )
    with _reachable():
        from provisioning.reconcile import TICK_S
        from tests.support.fleet import Fleet
        from tests.vast_emulator import Timing

    return Fleet(
        folder,
        seed=seed,
        machines=0,
        limits=limits,
        timing=Timing(loading_s=UNPACK_S),
        rtfx=lambda gpu: speed_of(gpu, Speeds(), plan.model).rtfx * plan.speed,
        self_test_s=LOAD_S,
        busy_tick_s=TICK_S,  # half as often as it is while chunks are held: dearer by seconds, and quicker to play
        model=plan.model,
    )


@contextmanager
def _reachable() -> Iterator[None]:
    """Let `tests` be imported from the repository, wherever the command was called. Raises OptionError."""
    root = Path(__file__).parents[1]
    here = (root / "tests" / "vast_emulator.py").is_file()
    if here and str(root) not in sys.path:
        sys.path.append(str(root))
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or "a module"
        if missing.partition(".")[0] == "tests":
            raise OptionError(
                "`bench cost` needs the emulated market, which is not installed: run it in a checkout of the project."
            ) from error
        raise OptionError(f"`bench cost` needs {missing}: install whisperfleet with its extra `vast`.") from error


def _outbid_now_and_then(world: "Fleet", an_hour: float, dice: random.Random, ended: list[float]) -> None:
    """Each running machine on its own, as long as there is work."""

    def look() -> None:
        for contract in world.vast.alive():
            if contract.is_bid and contract.actual == "running" and dice.random() < an_hour * LOOK_S / 3600:
                world.vast.preempt(contract.id)
        if not ended:
            world.at(LOOK_S, look)

    world.at(LOOK_S, look)


def _told(world: "Fleet", seconds: float) -> Ran:
    truth = world.vast.truth()
    contracts = [each for each in world.vast.world.contracts.values() if not each.foreign]
    machines = [_machine(world, truth.instances[contract.id]) for contract in contracts]
    parts = cost_bill.summed(machines)
    names = [contract.machine.gpu_name for contract in contracts]
    lost = [each.gpu_s - min(each.booted_s, each.gpu_s) - each.useful_s for each in machines if each.outbid]
    return Ran(
        usd=truth.usd,
        parts=parts,
        seconds=seconds,
        machines=len(machines),
        outbid=sum(machine.outbid for machine in machines),
        useful_share=truth.useful_share,
        lost_gpu_s=sum(lost),
        billed_gpu_s=truth.billed_gpu_s,
        again=sum(chunk.lost for chunk in world.gateway.chunks),
        chunks=len(world.gateway.chunks),
        gpus={name: names.count(name) for name in sorted(set(names))},
    )


def _machine(world: "Fleet", told: "InstanceTruth") -> Machine:
    """The bill of one instance, and when its worker was first heard of."""
    contract = world.vast.contract(told.id)
    label = Label.decode(told.label)
    member = world.gateway.members.get(label.nonce) if label else None
    heard_s = member.first_seen_ms / 1000 if member and member.first_seen_ms else None
    began_s = next((at for at, actual in told.history if actual == "running"), None)
    audio_usd = sum(float(lump.usd) for lump in contract.lumps)
    return Machine(
        gpu_usd=told.gpu_usd,
        gpu_s=told.billed_gpu_s,
        booted_s=told.billed_gpu_s if heard_s is None or began_s is None else heard_s - began_s,
        useful_s=told.useful_s,
        outbid=any(actual in ("exited", "stopped") for _, actual in told.history),
        image_usd=max(0.0, told.traffic_usd - audio_usd),
        audio_usd=audio_usd,
        disk_usd=told.storage_usd,
    )
