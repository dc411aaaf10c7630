"""What a fleet has cost by its own meter, machine by machine, beside what the market says that it has charged."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from provisioning import budget
from provisioning.budget import Line
from provisioning.cloud import CloudBlind
from provisioning.fleet_glance import Books, books
from provisioning.fleet_place import Place


@dataclass(frozen=True)
class MachineCost:
    """Dollars so far. charged_usd: by the market's account, None where it was not asked or does not know yet."""

    nonce: str
    instance_id: int | None
    gpu_name: str
    state: str
    gpu_usd: float
    storage_usd: float
    traffic_usd: float
    usd: float
    charged_usd: float | None = None


@dataclass(frozen=True)
class Accounts:
    """problem: why the market's side is missing. charged_usd: of the machines that are remembered.

    used_usd: how much less credit the account has than before the fleet's first machine, whoever has used it.
    """

    fleet: str
    machines: tuple[MachineCost, ...]
    spent_usd: float
    max_usd: float | None
    charged_usd: float | None = None
    credit_usd: float | None = None
    used_usd: float | None = None
    problem: str | None = None

    @property
    def by_gpu(self) -> dict[str, tuple[int, float]]:
        """Machines and dollars by kind of GPU, dearest first."""
        found: dict[str, tuple[int, float]] = {}
        for each in self.machines:
            count, usd = found.get(each.gpu_name, (0, 0.0))
            found[each.gpu_name] = (count + 1, usd + each.usd)
        return dict(sorted(found.items(), key=lambda item: -item[1][1]))

    def to_json(self) -> dict[str, Any]:
        kinds = {name: {"machines": count, "usd": usd} for name, (count, usd) in self.by_gpu.items()}
        return {**asdict(self), "by_gpu": kinds}

    def sentences(self) -> list[str]:
        said = [f"${self.spent_usd:.3f} by the meter" + (f", of ${self.max_usd:g}." if self.max_usd else ".")]
        if self.charged_usd is not None:
            said.append(f"${self.charged_usd:.3f} by the market's account, which comes hours later.")
        if self.credit_usd is not None:
            said.append(f"${self.credit_usd:.2f} of credit are left.")
        if self.used_usd is not None and self.used_usd >= 0:  # else some was paid in
            said.append(f"The account has ${self.used_usd:.3f} less than before this fleet, whoever has used it.")
        if self.problem:
            said.append(f"The market's side is missing: {self.problem}")
        return said


def accounts(place: Place, ask_market: bool = True) -> Accounts:
    """Raises CloudRefused where the key is not accepted; a market that is silent leaves its side empty."""
    known, now = books(place), place.time.now_ms()
    told, problem = None, None
    if ask_market:
        try:
            known = _up_to_date(place, known, now)
            since = min((line.since_ms for line in known.meter.lines.values()), default=now)
            told = (place.cloud.charges_usd(since, now), place.cloud.account().credit_usd)
        except CloudBlind as error:
            problem = str(error)
    charges, credit = told or ({}, None)
    names = {intent.nonce: intent.gpu_name for intent in known.intents}
    machines = tuple(
        _cost(line, names.get(line.nonce, "unknown"), now, charges)
        for line in sorted(known.meter.lines.values(), key=lambda line: line.since_ms)
    )
    return Accounts(
        place.fleet,
        machines,
        known.meter.usd(now),
        known.limits.max_usd if known.limits else None,
        sum(each.charged_usd or 0.0 for each in machines) if told else None,
        credit,
        None if credit is None or known.credit_usd is None else known.credit_usd - credit,
        problem,
    )


def _up_to_date(place: Place, known: Books, now_ms: int) -> Books:
    """The meter moved on by one look, where no controller does that every few seconds."""
    if place.controlled():
        return known
    rows = place.cloud.instances()
    return replace(known, meter=budget.advance(known.meter, known.intents, rows, now_ms, place.fleet))


def _cost(line: Line, gpu_name: str, now_ms: int, charges: dict[int, float]) -> MachineCost:
    """What is not settled yet is the GPU's: it is an estimate that the next look replaces."""
    traffic = (line.pulled_gb + line.audio_gb) * line.usd_per_gb
    usd = line.usd(now_ms)
    return MachineCost(
        nonce=line.nonce,
        instance_id=line.instance_id,
        gpu_name=gpu_name,
        state=line.state,
        gpu_usd=usd - line.storage_usd - traffic,
        storage_usd=line.storage_usd,
        traffic_usd=traffic,
        usd=usd,
        charged_usd=charges.get(line.instance_id) if line.instance_id is not None else None,
    )
