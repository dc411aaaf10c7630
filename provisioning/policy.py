"""What a fleet does next: one pure function from what is seen, meant and wanted to the actions that follow from it.

Every action is derived anew from the world and the ledger at each tick, so that a controller may die between any
two of them. Nothing here asks, does, or looks at a clock.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from provisioning.classify import Class, Memory, Verdict, judge
from provisioning.endings import Doom, dooms_of, drained, ended, settled, unlisted_endings
from provisioning.fleet import (
    Action,
    Alarm,
    Demand,
    DrainWorker,
    Intent,
    Label,
    Limits,
    Observed,
    Rent,
    Speeds,
    Strike,
)
from provisioning.offers import BID_FACTOR, DRAIN_S, speed_of
from provisioning.scaling import dispensable, wanted
from provisioning.scene import NO_MORE, Machine, Mode, Scene, look_around, paired

__all__ = ["DRAIN_S", "NO_MORE", "Memory", "Mode", "Plan", "plan"]


BLIND_ALARM_MS = 5 * 60_000
LOW_TICKS = 3  # as many plans in a row must want fewer machines before one goes
LASTING_MS = 10 * 60_000  # what is still listed so long after it was to be destroyed is worth a person's look
LEAST_USD_PER_HOUR = 0.01  # nothing is cheaper

PREEMPTIONS, WINDOW_MS = 3, 15 * 60_000  # so many in so long: this way of renting does not hold
CALM_MS = 60 * 60_000  # after an hour without one, bid as usual again
RAISED_BID_FACTOR = 1.4
MOST_BELIEVED = 3.0


@dataclass(frozen=True)
class Plan:
    """Actions in the order in which they are to be done; a failed one does not stop those after it.

    First FreeTasks of all machines that have to go, then their Settle(closing), then Destroy; then Settle of what was
    found or missed, DrainWorker, Alarm, and Rent last. target: machines wanted; reason: why that many, for a person.
    classes: by instance id, of all rows with a label of this fleet; for a blind plan those of which the
    ledger knows that they must go.
    """

    actions: tuple[Action, ...]
    target: int
    memory: Memory
    classes: Mapping[int, Class]
    reason: str = ""


def plan(
    observed: Observed,
    intents: Sequence[Intent],
    demand: Demand,
    limits: Limits,
    speeds: Speeds,
    strikes: Sequence[Strike],
    spent_usd: float,
    now_ms: int,
    fleet: str,
    mode: Mode = "run",
    memory: Memory | None = None,
    image_gb: float = 4.0,
    model: str = "large-v3",
) -> Plan:
    """One tick's actions.

    mode: "run" follows the demand; "up" keeps `limits.max_instances` machines whatever the demand; "drain" rents
    nothing, lets workers finish and destroys them; "down" destroys everything of this fleet at once.
    intents: all that are not closed; closed ones may be among them. At the time of a plan an intent in state asked is
    taken for unknown: whoever was to write down its answer is dead.
    spent_usd: the meter's (see `provisioning.budget`), a rent counting from its request.
    demand.known: whether server and gateway answered, in every mode: nobody is called silent while they do not.
    memory: what the plan before returned, None at the start. model: what its speed is guessed by until measured.

    How to apply: Settle writes `state`, `instance_id` and `reason`; one with `missed_ms` also adds one to
    `lists_without` and sets `last_missed_ms`, one without puts them back to 0 and None. Destroy: note the strike, then
    ask the market; it is asked again at every tick until a list lacks the instance. FreeTasks also revokes the token.
    Rent: as many as `count`, none dearer than `max_usd_per_hour`, by `offers.choose`; each takes its `first_usd` from
    `max_usd`, and one that costs more than is left of that is not rented.
    """
    scene = look_around(
        observed, intents, demand, limits, speeds, spent_usd, now_ms, fleet, mode, memory, image_gb, model
    )
    if scene.rows is None:
        return _blind(scene, observed.blind_since_ms)
    machines, orphans = paired(scene, scene.rows)
    verdicts = {machine.intent.nonce: _judged(scene, machine) for machine in machines}
    dooms = dooms_of(scene, machines, verdicts)
    staying = [machine for machine in machines if machine.intent.nonce not in dooms]
    serving = [machine for machine in staying if not _leaving(machine, verdicts)]
    waiting = [intent for intent in scene.opened if _may_yet_serve(intent, machines)]
    target, reason = _target(scene, serving, waiting)
    strays = [row.id for row, _, _ in orphans]
    memory = _remembered(scene, target, len(serving) + len(waiting), verdicts, machines, strays)
    retiring, draining = _retired(scene, serving, waiting, verdicts, target, memory)
    dooms |= retiring
    settles, closed = settled(scene, machines, dooms)
    rents, alarms = _rents(scene, serving, waiting, len(strays), target, memory, strikes)
    alarms |= _worries(scene, memory)
    actions = (
        *ended(scene, machines, dooms, closed, orphans),
        *settles,
        *drained(scene, staying, verdicts, dooms, draining),
        *(Alarm(text) for key, text in alarms.items() if key not in memory.alarms),
        *rents,
    )
    classes: dict[int, Class] = {machine.row.id: verdicts[machine.intent.nonce].kind for machine in machines}
    classes |= {row.id: "ORPHAN" for row, _, _ in orphans}
    return Plan(actions, target, replace(memory, alarms=frozenset(alarms)), classes, reason)


# ---- how many ----


def _judged(scene: Scene, machine: Machine) -> Verdict:
    return judge(machine.row, machine.intent, machine.news, machine.seen, scene.around)


def _leaving(machine: Machine, verdicts: Mapping[str, Verdict]) -> bool:
    verdict = verdicts[machine.intent.nonce]
    return verdict.ends_soon or verdict.kind in ("DRAINING", "DEAD", "EXPIRED", "CLOSING")


def _may_yet_serve(intent: Intent, machines: Sequence[Machine]) -> bool:
    """Asked for, unknown, or rented and not listed (yet): it counts as a machine until lists have settled it."""
    return intent.state != "closing" and all(machine.intent.nonce != intent.nonce for machine in machines)


def _target(scene: Scene, serving: Sequence[Machine], waiting: Sequence[Intent]) -> tuple[int, str]:
    """Machines wanted, and why. Where the demand is not known, as many as there are."""
    limits, count = scene.limits, len(serving) + len(waiting)
    if scene.mode in ("drain", "down") or scene.level in ("drain", "stop"):
        why = f"mode {scene.mode}" if scene.mode in ("drain", "down") else "the budget is used up"
        return 0, f"none: {why}"
    if scene.mode == "up":
        return limits.max_instances, f"{limits.max_instances}, as asked for"
    if not scene.demand.known:
        return min(count, limits.max_instances), f"{count}, as there are: the demand is not known"
    want = wanted(scene.work_s, _rtfx(scene, serving, waiting), scene.economy)
    target = min(max(want, limits.min_instances), limits.max_instances)
    minutes = scene.work_s / 60
    bound = "" if want == target else f", {want} without the limits"
    return target, f"{target} for {minutes:.0f} minutes of audio{bound}"


def _rtfx(scene: Scene, serving: Sequence[Machine], waiting: Sequence[Intent]) -> list[float]:
    """Speeds of machines and of those that are awaited, in this order.

    What one says of itself counts up to MOST_BELIEVED times what its kind does: a lie must not leave the work to few.
    """
    speeds = scene.around.speeds
    usual = [speed_of(machine.row.gpu_name, speeds, scene.model).rtfx for machine in serving]
    measured = [
        min(machine.news.rtfx, MOST_BELIEVED * rtfx) if machine.news is not None and machine.news.rtfx else rtfx
        for machine, rtfx in zip(serving, usual, strict=True)
    ]
    return [*measured, *(speed_of(intent.gpu_name, speeds, scene.model).rtfx for intent in waiting)]


def _retired(
    scene: Scene,
    serving: Sequence[Machine],
    waiting: Sequence[Intent],
    verdicts: Mapping[str, Verdict],
    target: int,
    memory: Memory,
) -> tuple[dict[str, Doom], dict[str, str]]:
    """Who goes because fewer are wanted: (to be destroyed, to be drained).

    Idle ones first, then those that boot; the worst dollars per second of audio first. Who works is drained only
    where a person has said that there are to be fewer.
    """
    if scene.mode not in ("run", "up") or scene.level not in ("open", "no more"):
        return {}, {}
    count = len(serving) + len(waiting)
    rtfx = _rtfx(scene, serving, waiting)
    over = count - (target if scene.mode == "up" else scene.limits.max_instances)
    ranks = {"IDLE": 0, "BOOTING": 1, "READY": 2, "SILENT": 1, "BUSY": 3}

    def rank(index: int) -> tuple[int, float, int]:
        machine = serving[index]
        kind = verdicts[machine.intent.nonce].kind
        return ranks[kind], -machine.row.gpu_usd_per_hour / rtfx[index], -machine.row.id

    order = sorted(range(len(serving)), key=rank)
    if over > 0:
        surplus = [serving[index] for index in order[:over]]
        busy = {machine.intent.nonce for machine in surplus if verdicts[machine.intent.nonce].kind == "BUSY"}
        gone = {machine.intent.nonce for machine in surplus} - busy
        return {nonce: Doom("fewer are wanted") for nonce in gone}, dict.fromkeys(busy, "fewer are wanted")
    if scene.mode == "up" or not scene.demand.known or memory.low_ticks < LOW_TICKS:
        return {}, {}
    free = [index for index in order if verdicts[serving[index].intent.nonce].kind in ("IDLE", "BOOTING")]
    least = min(scene.limits.min_instances, scene.limits.max_instances)
    going = dispensable(scene.work_s, rtfx, free, least, scene.economy)
    return {serving[index].intent.nonce: Doom("there is not enough work for it") for index in going}, {}


def _remembered(
    scene: Scene,
    target: int,
    count: int,
    verdicts: Mapping[str, Verdict],
    machines: Sequence[Machine],
    orphans: Sequence[int],
) -> Memory:
    memory = scene.memory
    known = [*scene.opened, *scene.closed]
    ids = {row.id for row in scene.rows or ()} | {intent.instance_id for intent in known}
    low = memory.low_ticks + 1 if scene.demand.known and target < count else 0
    lost = sum(
        verdicts[machine.intent.nonce].kind == "PREEMPTED" and machine.intent.state != "closing" for machine in machines
    )
    recent = tuple(at for at in memory.preempted_ms if scene.now_ms - at < WINDOW_MS) + (scene.now_ms,) * lost
    step, step_ms = memory.spot_step, memory.spot_step_ms
    if len(recent) >= PREEMPTIONS:
        step, step_ms, recent = min(step + 1, 2), scene.now_ms, ()
    elif recent:
        step_ms = max(step_ms, recent[-1])
    elif step and scene.now_ms - step_ms >= CALM_MS:
        step = 0
    closing = [*(machine.row.id for machine in machines if machine.intent.state == "closing"), *orphans]
    return replace(
        memory,
        closing_ms={number: memory.closing_ms.get(number, scene.now_ms) for number in closing},
        low_ticks=low,
        preempted_ms=recent,
        spot_step=step,
        spot_step_ms=step_ms,
        seen={number: seen for number, seen in memory.seen.items() if number in ids},
    )


# ---- renting ----


def _rents(
    scene: Scene,
    serving: Sequence[Machine],
    waiting: Sequence[Intent],
    orphans: int,
    target: int,
    memory: Memory,
    strikes: Sequence[Strike],
) -> tuple[list[Rent], dict[str, str]]:
    """What to rent, and what keeps from it. Whatever is not closed counts as a machine, and an orphan too."""
    limits = scene.limits
    missing = target - len(serving) - len(waiting)
    room = limits.max_instances - len(scene.opened) - orphans
    count = min(missing, room)
    if scene.mode not in ("run", "up") or count <= 0 or (scene.mode == "run" and not scene.demand.known):
        return [], {}
    count, price = _payable(scene, count)
    if count == 0:
        left = max(0.0, limits.max_usd - scene.spent_usd)
        text = f"${left:.2f} are left of the budget of ${limits.max_usd:g}: no other machine is rented for that."
        return [], {"budget": text}
    on_demand = _on_demand(scene, serving, waiting, count, memory.spot_step)
    factor = BID_FACTOR if memory.spot_step == 0 else RAISED_BID_FACTOR
    avoid = _avoided(scene, strikes)
    parts = ((count - on_demand, True), (on_demand, False))
    money = _money(scene)
    return [Rent(number, bids, avoid, factor, price, money * number / count) for number, bids in parts if number], {}


def _payable(scene: Scene, count: int) -> tuple[int, float]:
    """How many more the budget and the rate allow at the highest price; or one, at a lower one: (count, $/h each)."""
    limits, burn = scene.limits, scene.usd_per_hour
    if scene.level != "open":
        return 0, 0.0
    boot_usd = scene.economy.boot_usd
    hours = DRAIN_S / 3600
    money = _money(scene)
    rate = math.inf if limits.max_usd_per_hour is None else limits.max_usd_per_hour - burn

    def payable(number: int, price: float) -> bool:
        return number * price <= rate and number * (price * hours + boot_usd) < money

    while count > 1 and not payable(count, limits.max_price):
        count -= 1
    if payable(count, limits.max_price):
        return count, limits.max_price
    price = min(rate, (money - boot_usd) / hours) * 0.999
    return (1, price) if price >= LEAST_USD_PER_HOUR else (0, 0.0)


def _money(scene: Scene) -> float:
    """What is left for machines that are not asked for yet: the others' images and their last minutes are set aside."""
    running = (scene.usd_per_hour + scene.traffic_usd_per_hour) * DRAIN_S / 3600
    return NO_MORE * scene.limits.max_usd - scene.spent_usd - scene.pulls_usd - running


def _on_demand(scene: Scene, serving: Sequence[Machine], waiting: Sequence[Intent], count: int, step: int) -> int:
    """How many of the next are not to be interruptible: half of the fleet, where bids did not hold."""
    if not scene.limits.interruptible:
        return count
    if step < 2:
        return 0
    firm = sum(not intent.is_bid for intent in [*(machine.intent for machine in serving), *waiting])
    half = math.ceil((len(serving) + len(waiting) + count) / 2)
    return min(count, max(0, half - firm))


def _avoided(scene: Scene, strikes: Sequence[Strike]) -> frozenset[int]:
    """Hosts that disappointed lately, and those that have enough of ours: one loss must not take half a fleet."""
    struck = {strike.machine_id for strike in strikes if strike.until_ms > scene.now_ms}
    taken = Counter(intent.machine_id for intent in scene.opened)
    full = {machine for machine, count in taken.items() if machine and count >= scene.limits.machines_per_host}
    return frozenset(struck | full)


# ---- what a person should know, and a market that does not answer ----


def _worries(scene: Scene, memory: Memory) -> dict[str, str]:
    alarms: dict[str, str] = {}
    limits = scene.limits
    if scene.level == "stop":
        alarms["stop"] = f"${scene.spent_usd:.2f} of ${limits.max_usd:g} are spent: everything is destroyed."
    elif scene.level == "drain":
        alarms["drain"] = f"${scene.spent_usd:.2f} of ${limits.max_usd:g} are spent: workers finish what they hold."
    if memory.spot_step == 1:
        alarms["spot"] = "Machines are outbid again and again: bids are raised."
    elif memory.spot_step == 2:
        alarms["spot on demand"] = "Raised bids do not hold either: half of what is rented is on demand now."
    ours = {intent.instance_id: intent for intent in scene.opened if intent.instance_id is not None}
    for row in scene.rows or ():
        if row.id in ours and row.label and Label.decode(row.label) is None:
            alarms[f"label {row.id}"] = (
                f"Instance {row.id} of this fleet has another label now ('{row.label[:40]}'): it is left alone from "
                "now on, and goes on billing."
            )
    for number, since_ms in memory.closing_ms.items():
        if scene.now_ms - since_ms >= LASTING_MS:
            alarms[f"alive {number}"] = (
                f"Instance {number} is still listed {LASTING_MS // 60_000} minutes after it was to be destroyed: "
                "look at it by hand if that goes on."
            )
    return alarms


def _blind(scene: Scene, since_ms: int | None) -> Plan:
    """The market does not say what there is: nothing is rented, and what has to go is told to by its number."""
    ends = unlisted_endings(scene, ())
    classes: dict[int, Class] = {end.destroy.instance_id: "CLOSING" for end in ends}
    drain: list[Action] = []
    if scene.drains:
        known = {intent.nonce for intent in scene.opened}
        news = [news for nonce, news in scene.workers.items() if nonce in known and not news.draining]
        drain = [DrainWorker(each.nonce, "the fleet is drained") for each in news]
    alarms: dict[str, str] = {}
    if since_ms is not None and scene.now_ms - since_ms >= BLIND_ALARM_MS:
        alarms["blind"] = (
            f"The market has not shown its list for {(scene.now_ms - since_ms) // 60_000} minutes: nothing is rented, "
            "and machines end by themselves when their time is over."
        )
    told = [Alarm(text) for key, text in alarms.items() if key not in scene.memory.alarms]
    memory = replace(scene.memory, alarms=frozenset(alarms))
    count = sum(intent.state != "closing" for intent in scene.opened)
    actions = (
        *(action for end in ends for action in end.free),
        *(action for end in ends for action in end.settle),
        *(end.destroy for end in ends),
        *drain,
        *told,
    )
    return Plan(actions, count, memory, classes, f"{count}: the market does not answer")
