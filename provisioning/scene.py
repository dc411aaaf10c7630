"""What one tick of a fleet looks at: the world, the ledger and what follows from them before anything is decided.

Also whose each row of the market's list is, which its label says, and how far the budget goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Literal

from provisioning.budget import AUDIO_GB_PER_HOUR, BOOTING
from provisioning.classify import Memory, Seen, Surroundings, look, usual_rtfx
from provisioning.cloud import Instance
from provisioning.fleet import Demand, Intent, Label, Limits, Observed, Speeds, WorkerNews
from provisioning.offers import DRAIN_S, LOAD_S, boot_seconds, speed_of
from provisioning.scaling import Economy

Mode = Literal["run", "up", "drain", "down"]

NO_MORE, DRAIN = 0.9, 0.95  # of the budget
STOP_S, STOP_EACH_S = 30.0, 3.0  # a tick, and a request to destroy for each: what they cost meanwhile is spent already
GUESSED_USD_PER_GB = 0.005  # for the next image while no machine says a price


@dataclass(frozen=True)
class Machine:
    """An open intent and the row that bears its nonce."""

    intent: Intent
    row: Instance
    news: WorkerNews | None
    seen: Seen


@dataclass(frozen=True)
class Scene:
    rows: tuple[Instance, ...] | None
    workers: Mapping[str, WorkerNews]
    opened: tuple[Intent, ...]
    closed: tuple[Intent, ...]
    demand: Demand
    limits: Limits
    spent_usd: float
    now_ms: int
    fleet: str
    mode: Mode
    memory: Memory
    around: Surroundings
    economy: Economy
    model: str
    usd_per_hour: float  # of machines and their disks, what is set aside of the rate
    traffic_usd_per_hour: float
    pulls_usd: float  # images that are asked for and may not have come yet
    level: Literal["open", "no more", "drain", "stop"] = field(default="open")

    @property
    def work_s(self) -> float:
        return (self.demand.queued_audio_ms + self.demand.held_audio_ms) / 1000

    @property
    def drains(self) -> bool:
        return self.mode == "drain" or self.level == "drain"


def look_around(
    observed: Observed,
    intents: Sequence[Intent],
    demand: Demand,
    limits: Limits,
    speeds: Speeds,
    spent_usd: float,
    now_ms: int,
    fleet: str,
    mode: Mode,
    memory: Memory | None,
    image_gb: float,
    model: str,
) -> Scene:
    before = memory or Memory()
    opened = tuple(intent for intent in intents if intent.state != "closed")
    rows = observed.instances
    burn = _burn(opened, rows or ())
    traffic = _traffic(opened, rows or (), speeds, model)
    pulls = _pulls(opened, rows or (), image_gb)
    known = (before.known_since_ms if before.known_since_ms is not None else now_ms) if demand.known else None
    level = _level(spent_usd, burn + traffic, pulls, len(opened), limits)
    starts = mode == "drain" or level == "drain"
    economy = _economy(rows or (), opened, limits, speeds, model, image_gb)
    return Scene(
        rows=rows,
        workers=observed.workers,
        opened=opened,
        closed=tuple(intent for intent in intents if intent.state == "closed"),
        demand=demand,
        limits=limits,
        spent_usd=spent_usd,
        now_ms=now_ms,
        fleet=fleet,
        mode=mode,
        memory=replace(
            before,
            known_since_ms=known,
            drain_since_ms=(before.drain_since_ms or now_ms) if starts else None,
            seen=look(rows, before.seen, now_ms) if rows is not None else before.seen,
        ),
        around=Surroundings(
            now_ms,
            known,
            limits,
            speeds,
            min(limits.idle_s, economy.idle_s) * 1000,
            image_gb,
            usual_rtfx(rows or (), observed.workers),
        ),
        economy=economy,
        model=model,
        usd_per_hour=burn,
        traffic_usd_per_hour=traffic,
        pulls_usd=pulls,
        level=level,
    )


def _burn(opened: Sequence[Intent], rows: Sequence[Instance]) -> float:
    """Dollars an hour if all ran that may run: the row's price where it is dearer than what was agreed."""
    prices = {row.id: row.gpu_usd_per_hour + row.storage_usd_per_hour for row in rows}
    return sum(max(intent.usd_per_hour, prices.get(intent.instance_id or 0, 0.0)) for intent in opened)


def _traffic(opened: Sequence[Intent], rows: Sequence[Instance], speeds: Speeds, model: str) -> float:
    """Dollars an hour for the audio that all of them fetch while they work; a fast GPU on a dear line costs twice.

    By the speed of its kind: what a machine says of itself must not end a fleet for want of money.
    """
    prices = {row.id: row.inet_down_usd_per_gb for row in rows}
    return sum(
        max(intent.usd_per_gb, prices.get(intent.instance_id or 0, 0.0))
        * AUDIO_GB_PER_HOUR
        * speed_of(intent.gpu_name, speeds, model).rtfx
        for intent in opened
    )


def _pulls(opened: Sequence[Intent], rows: Sequence[Instance], image_gb: float) -> float:
    """Dollars for the images of those that boot or are asked for; what the meter has of them already counts twice.

    A line of 5 Gbit/s has an image before the next tick: nobody could stop that any more.
    """
    states = {row.id: row for row in rows}
    usd = 0.0
    for intent in opened:
        row = states.get(intent.instance_id or 0)
        if row is None or row.actual in BOOTING:
            usd += image_gb * max(intent.usd_per_gb, row.inet_down_usd_per_gb if row is not None else 0.0)
    return usd


def _level(
    spent: float, burn: float, pulls: float, machines: int, limits: Limits
) -> Literal["open", "no more", "drain", "stop"]:
    stop_s = STOP_S + STOP_EACH_S * machines
    if spent + burn * stop_s / 3600 >= limits.max_usd:
        return "stop"
    if spent >= DRAIN * limits.max_usd:
        return "drain"
    return "no more" if spent + pulls + burn * DRAIN_S / 3600 >= NO_MORE * limits.max_usd else "open"


def _economy(
    rows: Sequence[Instance], opened: Sequence[Intent], limits: Limits, speeds: Speeds, model: str, image_gb: float
) -> Economy:
    """The next machine is guessed to be like those there are, else as dear as allowed."""
    price = fmean(intent.usd_per_hour for intent in opened) if opened else limits.max_price
    traffic = median(row.inet_down_usd_per_gb for row in rows) if rows else GUESSED_USD_PER_GB
    measured = [speed for speed in speeds.rtfx.values() if speed > 0]
    return Economy(
        rtfx=median(measured) if measured else speed_of("RTX 3090", speeds, model).rtfx,
        boot_s=boot_seconds(speeds),
        boot_usd=image_gb * traffic + LOAD_S / 3600 * price,
        usd_per_hour=price,
        drain_target_s=limits.drain_target_s,
    )


def paired(scene: Scene, rows: Sequence[Instance]) -> tuple[list[Machine], list[tuple[Instance, str, str]]]:
    """Rows with the open intents behind them, and rows of ours that are to go: (row, nonce, why).

    Whose a row is its label says. One without any label whose number the market gave us for an intent is ours too
    (nobody else's can have it); one with another label is not, whatever its number: a person has taken it over.
    """
    opened = {intent.nonce: intent for intent in scene.opened}
    numbered = {intent.instance_id: intent for intent in scene.opened if intent.instance_id is not None}
    machines: dict[str, Machine] = {}
    orphans: list[tuple[Instance, str, str]] = []
    for row in sorted(rows, key=lambda row: row.id):
        label = Label.decode(row.label)
        if label is None:
            intent = numbered.get(row.id) if not row.label else None
            if intent is None:
                continue
        elif label.fleet != scene.fleet:
            continue  # also when it has expired by this clock, which may be wrong: `reap` is for those
        else:
            intent = opened.get(label.nonce)
        if intent is None:
            assert label is not None
            orphans.append((row, label.nonce, "nobody remembers renting it"))
        elif intent.nonce in machines or intent.instance_id not in (None, row.id):
            orphans.append((row, intent.nonce, f"a second one of request {intent.nonce}"))
        else:
            machines[intent.nonce] = Machine(intent, row, scene.workers.get(intent.nonce), scene.memory.seen[row.id])
    return list(machines.values()), orphans
