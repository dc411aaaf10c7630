"""Which machines of a fleet have to go, whatever the demand, and what has become of its requests.

What has to go is told so at every tick until lists no longer show it; a request counts until lists have settled it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from provisioning.classify import Verdict
from provisioning.cloud import Instance
from provisioning.fleet import Action, Destroy, DrainWorker, FreeTasks, Intent, Settle, WorkerNews
from provisioning.scene import Machine, Scene

LISTS_APART_MS = 20_000  # two lists this far apart are two looks, not one
GRACE_MS = 180_000  # a request may hang for 60 s, and lists may show what came of it 90 s later
EMPTY_LISTS = 7  # a list of nothing at all is believed after two minutes: it is what a broken market shows
DRAIN_LIMIT_MS = 10 * 60_000  # a drain that takes longer waits for a worker that does not finish


@dataclass(frozen=True)
class Doom:
    reason: str
    strike_s: float = 0.0


def dooms_of(scene: Scene, machines: Sequence[Machine], verdicts: Mapping[str, Verdict]) -> dict[str, Doom]:
    """By nonce, all listed machines that are to be destroyed now, whatever the demand."""
    everything = end_of_all(scene)
    dooms: dict[str, Doom] = {}
    for machine in machines:
        nonce = machine.intent.nonce
        verdict = verdicts[nonce]
        if verdict.doom is not None:
            dooms[nonce] = Doom(verdict.doom, verdict.strike_s)
        elif everything is not None:
            dooms[nonce] = Doom(everything)
        elif scene.drains and (why := _drained_out(scene, verdict)):
            dooms[nonce] = Doom(why)
    return dooms


def end_of_all(scene: Scene) -> str | None:
    if scene.mode == "down":
        return "the fleet is taken down"
    if scene.level == "stop":
        return f"the budget of ${scene.limits.max_usd:g} is used up"
    return None


def _drained_out(scene: Scene, verdict: Verdict) -> str | None:
    """While everything drains: what does not work yet goes at once, what works when it has finished, or at last."""
    since = scene.memory.drain_since_ms
    if since is not None and scene.now_ms - since >= DRAIN_LIMIT_MS:
        return "it has not finished in time"
    idle = verdict.kind in ("BOOTING", "DEAD") or (verdict.kind == "SILENT" and scene.demand.known)
    return "the fleet is drained" if idle else None


def ended(
    scene: Scene,
    machines: Sequence[Machine],
    dooms: Mapping[str, Doom],
    closed: Sequence[Intent],
    orphans: Sequence[tuple[Instance, str, str]],
) -> list[Action]:
    """Tasks first, since that costs nothing and others wait for them; then the dearest machine first."""
    going = [machine for machine in machines if machine.intent.nonce in dooms]
    going.sort(key=lambda machine: (-machine.row.gpu_usd_per_hour, machine.row.id))
    ends = [
        *(_ending(machine.intent, machine.row, dooms[machine.intent.nonce], machine.news) for machine in going),
        *unlisted_endings(scene, {intent.nonce for intent in closed}),
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
class Ending:
    free: tuple[FreeTasks, ...]
    settle: tuple[Settle, ...]
    destroy: Destroy


def _ending(intent: Intent, row: Instance, doom: Doom, news: WorkerNews | None) -> Ending:
    first = intent.state != "closing"
    note = first or intent.instance_id != row.id or intent.lists_without > 0
    strike = row.machine_id if first and doom.strike_s > 0 else None
    return Ending(
        free=(FreeTasks(intent.nonce, doom.reason),) if first or news is not None else (),
        settle=(Settle(intent.nonce, "closing", row.id, doom.reason),) if note else (),
        destroy=Destroy(row.id, intent.nonce, doom.reason, strike, doom.strike_s if strike is not None else 0.0),
    )


def unlisted_endings(scene: Scene, closed: Collection[str]) -> list[Ending]:
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
        ends.append(Ending(free, settle, Destroy(intent.instance_id, intent.nonce, why)))
    return ends


def _unlisted_doom(scene: Scene, intent: Intent) -> str | None:
    if intent.instance_id is None or any(row.id == intent.instance_id for row in scene.rows or ()):
        return None
    if intent.state == "closing":
        return intent.reason or "to be destroyed"
    return "its time is over" if intent.expires_ms <= scene.now_ms else end_of_all(scene)


def drained(
    scene: Scene,
    staying: Sequence[Machine],
    verdicts: Mapping[str, Verdict],
    dooms: Mapping[str, Doom],
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


def settled(scene: Scene, machines: Sequence[Machine], dooms: Collection[str]) -> tuple[list[Settle], list[Intent]]:
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


def _is_gone(scene: Scene, intent: Intent, lists: int) -> bool:
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
