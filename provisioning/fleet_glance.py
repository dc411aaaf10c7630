"""How a fleet is, for commands that do not control it: as its controller last told, or else by looking for oneself.

Looking changes nothing: no machine, no intent, no dollar of the meter. It takes the market's labels for what exists,
and the database, where there is one, for what was meant and spent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from provisioning import budget, status
from provisioning.budget import Meter
from provisioning.cloud import Instance
from provisioning.demand import ConductorDemand
from provisioning.fleet import Demand, Intent, Label, Limits, Observed, Speeds, WorkerNews
from provisioning.fleet_place import Place
from provisioning.policy import plan
from provisioning.renting import RENTED_KINDS
from provisioning.status import FleetStatus, InstanceLine, Sighting
from workers.errors import WhisperfleetError
from workers.messages import DEFAULT_MODEL

FRESH_MS = 60_000
"""A controller tells every 10 s, and at the latest after its longest tick."""
ALONE = "alone"  # the phase of a fleet without a controller


@dataclass(frozen=True)
class Books:
    """What the database remembers; all of it empty where there is none."""

    intents: tuple[Intent, ...] = ()
    meter: Meter = field(default_factory=Meter)
    speeds: Speeds = field(default_factory=Speeds)
    limits: Limits | None = None
    told: FleetStatus | None = None
    wanted: Mapping[str, Any] = field(default_factory=dict)  # `Wanted` of the controller that began last
    credit_usd: float | None = None  # of the account, before the first machine


def books(place: Place, model: str = DEFAULT_MODEL) -> Books:
    """model: whose speeds. Raises StorageError where the database is there and cannot be read."""
    if not place.database.exists():
        return Books()
    with place.ledger() as ledger:
        limits, told = ledger.noted("limits"), ledger.noted("status")
        return Books(
            ledger.intents(),
            ledger.meter(),
            ledger.speeds(model),
            limits and Limits(**limits),
            told and status_from(told),
            ledger.noted("wanted") or {},
            ledger.noted("credit"),
        )


def glance(place: Place) -> FleetStatus:
    """The controller's own account where it is alive and fresh, else a look. Raises as the market does."""
    known = books(place)
    if known.told is not None and place.time.now_ms() - known.told.at_ms <= FRESH_MS and place.controlled():
        return known.told
    return look(place, known)


def look(place: Place, known: Books) -> FleetStatus:
    """Raises CloudBlind, CloudRefused."""
    rows = place.cloud.instances()
    now = place.time.now_ms()
    workers = _workers(place)
    limits = known.limits or Limits(max_usd=0.0, max_price=0.0, max_instances=0)
    intents = (*known.intents, *_unremembered(place.fleet, rows, known.intents, now))
    meter = budget.advance(known.meter, intents, rows, now, place.fleet, workers)
    demand = _demand(place) if workers is not None else Demand(known=False)
    planned = plan(
        Observed(rows, workers or {}), intents, demand, limits, known.speeds, (), meter.usd(now), now, place.fleet, "up"
    )
    costs, bills = meter.costs(now), {line.instance_id: line for line in meter.lines.values()}
    listed = {row.id: row for row in rows}
    lines = []
    for intent in intents:
        row = listed.get(intent.instance_id or 0)
        if intent.state == "closed" or (intent.state in ("bound", "closing") and row is None):
            continue
        kind = planned.classes.get(intent.instance_id or 0)
        bill = bills.get(intent.instance_id) if intent.instance_id is not None else None
        seen = Sighting(
            intent,
            kind.lower() if kind else intent.state,
            now,
            bill.usd_per_hour if bill else intent.usd_per_hour,
            costs.get(intent.nonce, 0.0),
            (workers or {}).get(intent.nonce),
            row.message if row else "",
        )
        lines.append(status.line(seen))
    return FleetStatus(
        fleet=place.fleet,
        at_ms=now,
        phase=ALONE,
        target=len(lines),
        lines=tuple(lines),
        demand=demand,
        spent_usd=meter.usd(now),
        max_usd=limits.max_usd,
        rented=sum(intent.instance_id is not None for intent in intents),
    )


def ours(fleet: str, rows: tuple[Instance, ...]) -> dict[int, Label]:
    """Labels of this fleet's machines by instance id."""
    labels = ((row.id, Label.decode(row.label)) for row in rows)
    return {number: label for number, label in labels if label is not None and label.fleet == fleet}


def status_from(told: Mapping[str, Any]) -> FleetStatus:
    """What FleetStatus.to_json gave, of this version or one that told less or more."""
    values = _known(FleetStatus, told)
    values["lines"] = tuple(InstanceLine(**_known(InstanceLine, line)) for line in told.get("lines") or ())
    values["demand"] = Demand(**_known(Demand, told.get("demand") or {}))
    values["alarms"] = tuple(told.get("alarms") or ())
    return FleetStatus(**values)


def _known(kind: Any, told: Mapping[str, Any]) -> dict[str, Any]:
    return {each.name: told[each.name] for each in fields(kind) if each.name in told}


def _workers(place: Place) -> dict[str, WorkerNews] | None:
    """None where the gateway does not tell: its silence is shown, and is no reason not to show the machines."""
    try:
        return place.gateway.workers(only_looking=True)[1]
    except WhisperfleetError:
        return None


def _demand(place: Place) -> Demand:
    try:
        source = ConductorDemand(place.server, place.gateway, RENTED_KINDS)
    except WhisperfleetError:
        return Demand(known=False)
    try:
        return source.look()
    finally:
        source.close()


def _unremembered(
    fleet: str, rows: tuple[Instance, ...], intents: tuple[Intent, ...], now_ms: int
) -> tuple[Intent, ...]:
    """Stand-ins for the intents of machines that only their labels tell of."""
    remembered = {intent.nonce for intent in intents if intent.state != "closed"}
    labels = ours(fleet, rows)
    return tuple(
        Intent(
            nonce=labels[row.id].nonce,
            state="bound",
            offer_id=0,
            machine_id=row.machine_id,
            gpu_name=row.gpu_name,
            asked_ms=min(now_ms, row.started_ms) if row.started_ms is not None else now_ms,
            expires_ms=labels[row.id].expires_s * 1000,
            usd_per_hour=row.gpu_usd_per_hour + row.storage_usd_per_hour,
            is_bid=row.is_bid,
            instance_id=row.id,
        )
        for row in rows
        if row.id in labels and labels[row.id].nonce not in remembered
    )
