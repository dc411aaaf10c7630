"""What a fleet does next: one pure function from what is seen, meant and wanted to the actions that follow from it.

Every action is derived anew from the world and the ledger at each tick, so that a controller may die between any
two of them. Nothing here asks, does, or looks at a clock.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Literal

from provisioning.classify import Class, Memory, Seen, Surroundings, Verdict, judge, look
from provisioning.cloud import Instance
from provisioning.fleet import (
    Action,
    Alarm,
    Demand,
    Destroy,
    DrainWorker,
    FreeTasks,
    Intent,
    Label,
    Limits,
    Observed,
    Rent,
    Settle,
    Speeds,
    Strike,
    WorkerNews,
)
from provisioning.offers import BID_FACTOR, LOAD_S, boot_seconds, speed_of
from provisioning.scaling import Economy, dispensable, wanted

__all__ = ["Memory", "Mode", "Plan", "plan"]

Mode = Literal["run", "up", "drain", "down"]

LISTS_APART_MS = 20_000  # two lists this far apart are two looks, not one
GRACE_MS = 180_000  # a request may hang for 60 s, and lists may show what came of it 90 s later
EMPTY_LISTS = 7  # a list of nothing at all is believed after two minutes: it is what a broken market shows
STRANGER_GRACE_MS = 10 * 60_000  # another fleet of ours has as long to destroy what has expired
BLIND_ALARM_MS = 5 * 60_000
LOW_TICKS = 3  # as many plans in a row must want fewer machines before one goes
DRAIN_LIMIT_MS = 10 * 60_000  # a drain that takes longer waits for a worker that does not finish
LASTING_MS = 10 * 60_000  # what is still listed so long after it was to be destroyed is worth a person's look

NO_MORE, DRAIN = 0.9, 0.95  # of the budget
DRAIN_S = 600.0  # of all machines' cost is set aside for finishing what they hold
STOP_S, STOP_EACH_S = 30.0, 3.0  # a tick, and a request to destroy for each: what they cost meanwhile is spent already
GUESSED_USD_PER_GB = 0.005  # for the next image while no machine says a price
LEAST_USD_PER_HOUR = 0.01  # nothing is cheaper

PREEMPTIONS, WINDOW_MS = 3, 15 * 60_000  # so many in so long: this way of renting does not hold
CALM_MS = 60 * 60_000  # after an hour without one, bid as usual again
RAISED_BID_FACTOR = 1.4


@dataclass(frozen=True)
class Plan:
    """Actions in the order in which they are to be done; a failed one does not stop those after it.

    First FreeTasks of all machines that have to go, then their Settle(closing), then Destroy; then Settle of what was
    found or missed, DrainWorker, Alarm, and Rent last. target: machines wanted; reason: why that many, for a person.
    classes: by instance id, of all rows with a label of this fleet, and of expired ones of our other fleets; for a
    blind plan those of which the ledger knows that they must go.
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
    Rent: as many as `count`, none dearer than `max_usd_per_hour`, by `offers.choose`.
    """
    scene = _scene(observed, intents, demand, limits, speeds, spent_usd, now_ms, fleet, mode, memory, image_gb, model)
    if scene.rows is None:
        return _blind(scene, observed.blind_since_ms)
    machines, orphans = _paired(scene, scene.rows)
    verdicts = {machine.intent.nonce: _judged(scene, machine) for machine in machines}
    dooms = _dooms(scene, machines, verdicts)
    staying = [machine for machine in machines if machine.intent.nonce not in dooms]
    serving = [machine for machine in staying if not _leaving(machine, verdicts)]
    waiting = [intent for intent in scene.opened if _may_yet_serve(intent, machines)]
    target, reason = _target(scene, serving, waiting)
    strays = [row.id for row, _, _ in orphans]
    memory = _remembered(scene, target, len(serving) + len(waiting), verdicts, machines, strays)
    retiring, draining = _retired(scene, serving, waiting, verdicts, target, memory)
    dooms |= retiring
    settles, closed = _settled(scene, machines, dooms)
    rents, alarms = _rents(scene, serving, waiting, len(strays), target, memory, strikes)
    alarms |= _worries(scene, memory)
    actions = (
        *_ended(scene, machines, dooms, closed, orphans),
        *settles,
        *_drained(scene, staying, verdicts, dooms, draining),
        *(Alarm(text) for key, text in alarms.items() if key not in memory.alarms),
        *rents,
    )
    classes: dict[int, Class] = {machine.row.id: verdicts[machine.intent.nonce].kind for machine in machines}
    classes |= {row.id: "ORPHAN" for row, _, _ in orphans}
    return Plan(actions, target, replace(memory, alarms=frozenset(alarms)), classes, reason)


# ---- the scene: what a tick looks at ----


@dataclass(frozen=True)
class _Machine:
    """An open intent and the row that bears its nonce."""

    intent: Intent
    row: Instance
    news: WorkerNews | None
    seen: Seen


@dataclass(frozen=True)
class _Scene:
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
    usd_per_hour: float
    level: Literal["open", "no more", "drain", "stop"] = field(default="open")

    @property
    def work_s(self) -> float:
        return (self.demand.queued_audio_ms + self.demand.held_audio_ms) / 1000

    @property
    def drains(self) -> bool:
        return self.mode == "drain" or self.level == "drain"


def _scene(
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
) -> _Scene:
    before = memory or Memory()
    opened = tuple(intent for intent in intents if intent.state != "closed")
    rows = observed.instances
    burn = _burn(opened, rows or ())
    known = (before.known_since_ms if before.known_since_ms is not None else now_ms) if demand.known else None
    level = _level(spent_usd, burn, len(opened), limits)
    starts = mode == "drain" or level == "drain"
    economy = _economy(rows or (), opened, limits, speeds, model, image_gb)
    return _Scene(
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
        around=Surroundings(now_ms, known, limits, speeds, min(limits.idle_s, economy.idle_s) * 1000, image_gb),
        economy=economy,
        model=model,
        usd_per_hour=burn,
        level=level,
    )


def _burn(opened: Sequence[Intent], rows: Sequence[Instance]) -> float:
    """Dollars an hour if all ran that may run: the row's price where it is dearer than what was agreed."""
    prices = {row.id: row.gpu_usd_per_hour + row.storage_usd_per_hour for row in rows}
    return sum(max(intent.usd_per_hour, prices.get(intent.instance_id or 0, 0.0)) for intent in opened)


def _level(spent: float, burn: float, machines: int, limits: Limits) -> Literal["open", "no more", "drain", "stop"]:
    stop_s = STOP_S + STOP_EACH_S * machines
    if spent + burn * stop_s / 3600 >= limits.max_usd:
        return "stop"
    if spent >= DRAIN * limits.max_usd:
        return "drain"
    return "no more" if spent + burn * DRAIN_S / 3600 >= NO_MORE * limits.max_usd else "open"


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


# ---- who is who ----


def _paired(scene: _Scene, rows: Sequence[Instance]) -> tuple[list[_Machine], list[tuple[Instance, str, str]]]:
    """Rows with the open intents behind them, and rows of ours that are to go: (row, nonce, why).

    Whose a row is its label says. One without any label whose number the market gave us for an intent is ours too
    (nobody else's can have it); one with another label is not, whatever its number: a person has taken it over.
    """
    opened = {intent.nonce: intent for intent in scene.opened}
    numbered = {intent.instance_id: intent for intent in scene.opened if intent.instance_id is not None}
    machines: dict[str, _Machine] = {}
    orphans: list[tuple[Instance, str, str]] = []
    for row in sorted(rows, key=lambda row: row.id):
        label = Label.decode(row.label)
        if label is None:
            intent = numbered.get(row.id) if not row.label else None
            if intent is None:
                continue
        elif label.fleet != scene.fleet:
            if label.expires_s * 1000 + STRANGER_GRACE_MS <= scene.now_ms:
                orphans.append((row, label.nonce, f"expired, and fleet '{label.fleet}' has left it"))
            continue
        else:
            intent = opened.get(label.nonce)
        if intent is None:
            assert label is not None
            orphans.append((row, label.nonce, "nobody remembers renting it"))
        elif intent.nonce in machines or intent.instance_id not in (None, row.id):
            orphans.append((row, intent.nonce, f"a second one of request {intent.nonce}"))
        else:
            machines[intent.nonce] = _Machine(intent, row, scene.workers.get(intent.nonce), scene.memory.seen[row.id])
    return list(machines.values()), orphans


def _judged(scene: _Scene, machine: _Machine) -> Verdict:
    return judge(machine.row, machine.intent, machine.news, machine.seen, scene.around)


def _leaving(machine: _Machine, verdicts: Mapping[str, Verdict]) -> bool:
    verdict = verdicts[machine.intent.nonce]
    return verdict.ends_soon or verdict.kind in ("DRAINING", "DEAD", "EXPIRED", "CLOSING")


def _may_yet_serve(intent: Intent, machines: Sequence[_Machine]) -> bool:
    """Asked for, unknown, or rented and not listed (yet): it counts as a machine until lists have settled it."""
    return intent.state != "closing" and all(machine.intent.nonce != intent.nonce for machine in machines)


# ---- who has to go ----


@dataclass(frozen=True)
class _Doom:
    reason: str
    strike_s: float = 0.0


def _dooms(scene: _Scene, machines: Sequence[_Machine], verdicts: Mapping[str, Verdict]) -> dict[str, _Doom]:
    """By nonce, all listed machines that are to be destroyed now, whatever the demand."""
    everything = _end_of_all(scene)
    dooms: dict[str, _Doom] = {}
    for machine in machines:
        nonce = machine.intent.nonce
        verdict = verdicts[nonce]
        if verdict.doom is not None:
            dooms[nonce] = _Doom(verdict.doom, verdict.strike_s)
        elif everything is not None:
            dooms[nonce] = _Doom(everything)
        elif scene.drains and (why := _drained_out(scene, verdict)):
            dooms[nonce] = _Doom(why)
    return dooms


def _end_of_all(scene: _Scene) -> str | None:
    if scene.mode == "down":
        return "the fleet is taken down"
    if scene.level == "stop":
        return f"the budget of ${scene.limits.max_usd:g} is used up"
    return None


def _drained_out(scene: _Scene, verdict: Verdict) -> str | None:
    """While everything drains: what does not work yet goes at once, what works when it has finished, or at last."""
    since = scene.memory.drain_since_ms
    if since is not None and scene.now_ms - since >= DRAIN_LIMIT_MS:
        return "it has not finished in time"
    idle = verdict.kind in ("BOOTING", "DEAD") or (verdict.kind == "SILENT" and scene.demand.known)
    return "the fleet is drained" if idle else None


def _ended(
    scene: _Scene,
    machines: Sequence[_Machine],
    dooms: Mapping[str, _Doom],
    closed: Sequence[Intent],
    orphans: Sequence[tuple[Instance, str, str]],
) -> list[Action]:
    """Tasks first, since that costs nothing and others wait for them; then the dearest machine first."""
    going = [machine for machine in machines if machine.intent.nonce in dooms]
    going.sort(key=lambda machine: (-machine.row.gpu_usd_per_hour, machine.row.id))
    ends = [
        *(_ending(machine.intent, machine.row, dooms[machine.intent.nonce], machine.news) for machine in going),
        *_unlisted_endings(scene, {intent.nonce for intent in closed}),
    ]
    opened = {intent.nonce for intent in scene.opened}
    stray = [(row, nonce, why) for row, nonce, why in orphans if nonce in scene.workers and nonce not in opened]
    stale = [intent for intent in scene.closed if intent.nonce in scene.workers]
    return [
        *(action for end in ends for action in end.free),
        *(FreeTasks(nonce, why) for _, nonce, why in stray),
        *(FreeTasks(intent.nonce, "no machine is left of it") for intent in closed),
        *(FreeTasks(intent.nonce, intent.reason or "its machine is gone") for intent in stale),
        *(action for end in ends for action in end.settle),
        *(end.destroy for end in ends),
        *(Destroy(row.id, nonce, why) for row, nonce, why in orphans),
    ]


@dataclass(frozen=True)
class _Ending:
    free: tuple[FreeTasks, ...]
    settle: tuple[Settle, ...]
    destroy: Destroy


def _ending(intent: Intent, row: Instance, doom: _Doom, news: WorkerNews | None) -> _Ending:
    first = intent.state != "closing"
    note = first or intent.instance_id != row.id or intent.lists_without > 0
    strike = row.machine_id if first and doom.strike_s > 0 else None
    return _Ending(
        free=(FreeTasks(intent.nonce, doom.reason),) if first or news is not None else (),
        settle=(Settle(intent.nonce, "closing", row.id, doom.reason),) if note else (),
        destroy=Destroy(row.id, intent.nonce, doom.reason, strike, doom.strike_s if strike is not None else 0.0),
    )


def _unlisted_endings(scene: _Scene, closed: Collection[str]) -> list[_Ending]:
    """Those that no list shows, or not yet, and whose number is known: what has to go is told to by its number.

    What a list shows under another label is not ours any more, and is not told anything.
    """
    ends = []
    for intent in scene.opened:
        why = _unlisted_doom(scene, intent)
        if intent.instance_id is None or why is None or intent.nonce in closed:
            continue
        first = intent.state != "closing"
        settle = (Settle(intent.nonce, "closing", intent.instance_id, why),) if first else ()
        free = (FreeTasks(intent.nonce, why),) if first or intent.nonce in scene.workers else ()
        ends.append(_Ending(free, settle, Destroy(intent.instance_id, intent.nonce, why)))
    return ends


def _unlisted_doom(scene: _Scene, intent: Intent) -> str | None:
    if intent.instance_id is None or any(row.id == intent.instance_id for row in scene.rows or ()):
        return None
    if intent.state == "closing":
        return intent.reason or "to be destroyed"
    return "its time is over" if intent.expires_ms <= scene.now_ms else _end_of_all(scene)


def _drained(
    scene: _Scene,
    staying: Sequence[_Machine],
    verdicts: Mapping[str, Verdict],
    dooms: Mapping[str, _Doom],
    draining: Mapping[str, str],
) -> list[Action]:
    """Workers that are to get nothing more, and have not been told yet."""
    found: list[Action] = []
    for machine in staying:
        nonce, news = machine.intent.nonce, machine.news
        why = draining.get(nonce)
        if scene.drains:
            why = "the fleet is drained" if scene.mode == "drain" else "the budget is nearly used up"
        elif verdicts[nonce].ends_soon:
            why = "its time is nearly over"
        if why and nonce not in dooms and news is not None and not news.draining:
            found.append(DrainWorker(nonce, why))
    return found


# ---- what has become of requests ----


def _settled(scene: _Scene, machines: Sequence[_Machine], dooms: Collection[str]) -> tuple[list[Settle], list[Intent]]:
    """What lists say of requests, and those of which nothing is left.

    An instance is gone when two lists LISTS_APART_MS apart lack it and it is old enough to have been listed. One that
    was to be destroyed is gone with the first list without it. A list of nothing at all proves less.
    """
    found = {machine.intent.nonce: machine.row for machine in machines}
    settles: list[Settle] = []
    closed: list[Intent] = []
    for intent in scene.opened:
        row = found.get(intent.nonce)
        if row is not None:
            news = intent.instance_id != row.id or intent.state in ("asked", "unknown") or intent.lists_without > 0
            if news and intent.nonce not in dooms:
                settles.append(Settle(intent.nonce, "bound", row.id))
            continue
        another = intent.last_missed_ms is None or scene.now_ms - intent.last_missed_ms >= LISTS_APART_MS
        if _is_gone(scene, intent, intent.lists_without + another):
            settles.append(Settle(intent.nonce, "closed", intent.instance_id, _epitaph(intent)))
            closed.append(intent)
        elif another and (intent.state == "closing" or _unlisted_doom(scene, intent) is None):
            settles.append(
                Settle(intent.nonce, intent.state, intent.instance_id, intent.reason, missed_ms=scene.now_ms)
            )
    return settles, closed


def _is_gone(scene: _Scene, intent: Intent, lists: int) -> bool:
    known = intent.instance_id is not None and intent.instance_id in scene.memory.seen
    old = known or scene.now_ms - intent.asked_ms >= GRACE_MS
    if not scene.rows:
        needed = EMPTY_LISTS if intent.instance_id is not None and intent.state != "closing" else 2
    else:
        needed = 1 if intent.state == "closing" else 2
    return old and lists >= needed


def _epitaph(intent: Intent) -> str:
    if intent.state == "closing":
        return intent.reason or "destroyed"
    return "it ended by itself, or its host did" if intent.instance_id is not None else "it was never rented"


# ---- how many ----


def _target(scene: _Scene, serving: Sequence[_Machine], waiting: Sequence[Intent]) -> tuple[int, str]:
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


def _rtfx(scene: _Scene, serving: Sequence[_Machine], waiting: Sequence[Intent]) -> list[float]:
    """Speeds of machines and of those that are awaited, in this order."""
    speeds = scene.around.speeds
    measured = [
        machine.news.rtfx
        if machine.news is not None and machine.news.rtfx
        else speed_of(machine.row.gpu_name, speeds, scene.model).rtfx
        for machine in serving
    ]
    return [*measured, *(speed_of(intent.gpu_name, speeds, scene.model).rtfx for intent in waiting)]


def _retired(
    scene: _Scene,
    serving: Sequence[_Machine],
    waiting: Sequence[Intent],
    verdicts: Mapping[str, Verdict],
    target: int,
    memory: Memory,
) -> tuple[dict[str, _Doom], dict[str, str]]:
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
        return {nonce: _Doom("fewer are wanted") for nonce in gone}, dict.fromkeys(busy, "fewer are wanted")
    if scene.mode == "up" or not scene.demand.known or memory.low_ticks < LOW_TICKS:
        return {}, {}
    free = [index for index in order if verdicts[serving[index].intent.nonce].kind in ("IDLE", "BOOTING")]
    least = min(scene.limits.min_instances, scene.limits.max_instances)
    going = dispensable(scene.work_s, rtfx, free, least, scene.economy)
    return {serving[index].intent.nonce: _Doom("there is not enough work for it") for index in going}, {}


def _remembered(
    scene: _Scene,
    target: int,
    count: int,
    verdicts: Mapping[str, Verdict],
    machines: Sequence[_Machine],
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
    scene: _Scene,
    serving: Sequence[_Machine],
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
    return [Rent(number, bids, avoid, factor, price) for number, bids in parts if number > 0], {}


def _payable(scene: _Scene, count: int) -> tuple[int, float]:
    """How many more the budget and the rate allow at the highest price; or one, at a lower one: (count, $/h each)."""
    limits, burn = scene.limits, scene.usd_per_hour
    if scene.level != "open":
        return 0, 0.0
    boot_usd = scene.economy.boot_usd
    hours = DRAIN_S / 3600
    money = NO_MORE * limits.max_usd - scene.spent_usd - burn * hours
    rate = math.inf if limits.max_usd_per_hour is None else limits.max_usd_per_hour - burn

    def payable(number: int, price: float) -> bool:
        return number * price <= rate and number * (price * hours + boot_usd) < money

    while count > 1 and not payable(count, limits.max_price):
        count -= 1
    if payable(count, limits.max_price):
        return count, limits.max_price
    price = min(rate, (money - boot_usd) / hours) * 0.999
    return (1, price) if price >= LEAST_USD_PER_HOUR else (0, 0.0)


def _on_demand(scene: _Scene, serving: Sequence[_Machine], waiting: Sequence[Intent], count: int, step: int) -> int:
    """How many of the next are not to be interruptible: half of the fleet, where bids did not hold."""
    if not scene.limits.interruptible:
        return count
    if step < 2:
        return 0
    firm = sum(not intent.is_bid for intent in [*(machine.intent for machine in serving), *waiting])
    half = math.ceil((len(serving) + len(waiting) + count) / 2)
    return min(count, max(0, half - firm))


def _avoided(scene: _Scene, strikes: Sequence[Strike]) -> frozenset[int]:
    """Hosts that disappointed lately, and those that have enough of ours: one loss must not take half a fleet."""
    struck = {strike.machine_id for strike in strikes if strike.until_ms > scene.now_ms}
    taken = Counter(intent.machine_id for intent in scene.opened)
    full = {machine for machine, count in taken.items() if machine and count >= scene.limits.machines_per_host}
    return frozenset(struck | full)


# ---- what a person should know, and a market that does not answer ----


def _worries(scene: _Scene, memory: Memory) -> dict[str, str]:
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


def _blind(scene: _Scene, since_ms: int | None) -> Plan:
    """The market does not say what there is: nothing is rented, and what has to go is told to by its number."""
    ends = _unlisted_endings(scene, ())
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
