"""What a person wants to rent, and what the market has of it now: searched and ranked as a controller does it."""

from dataclasses import dataclass, replace

from provisioning import offers
from provisioning.cloud import CloudRefused, Offer, OfferQuery
from provisioning.fleet import Limits, Speeds
from provisioning.fleet_place import Place
from provisioning.offers import Ranked
from provisioning.policy import NO_MORE
from provisioning.renting import RENTED_KINDS, FleetSpec
from workers.errors import OptionError

RENTABLE_KINDS = frozenset({"transcribe_chunk", "detect_language", "diarize_chunk"})
"""What a stranger may do: a chunk at a time. All else needs the media or the whole job."""


@dataclass(frozen=True)
class Wanted:
    """As the options say it. Prices in dollars an hour, budget in dollars, within, ttl and idle in seconds."""

    gpus: int = 8
    min_gpus: int = 0
    max_price: float | None = None
    budget: float | None = None
    max_usd_per_hour: float | None = None
    model: str = "turbo"
    gpu: tuple[str, ...] = ()
    on_demand: bool = False
    datacenter: bool = False
    within_s: float = 1_800.0
    ttl_s: float = 6 * 3_600.0
    idle_s: float = 120.0
    disk_gb: float = 20.0
    image: str | None = None
    tasks: tuple[str, ...] = RENTED_KINDS


def query(wanted: Wanted) -> OfferQuery:
    return OfferQuery(
        interruptible=not wanted.on_demand,
        gpu_names=wanted.gpu,
        disk_gb=wanted.disk_gb,
        max_usd_per_hour=wanted.max_price,
        datacenter_only=wanted.datacenter,
    )


def limits(wanted: Wanted) -> Limits:
    """Raises OptionError where money or machines are not to be had like that."""
    if wanted.max_price is None or wanted.budget is None:
        raise OptionError("Say what may be spent: --max-price in dollars per GPU and hour, and --budget in dollars.")
    if wanted.min_gpus > wanted.gpus:
        raise OptionError(f"--min-gpus {wanted.min_gpus} is more than --gpus {wanted.gpus}.")
    return Limits(
        max_usd=wanted.budget,
        max_price=wanted.max_price,
        max_instances=wanted.gpus,
        min_instances=wanted.min_gpus,
        max_usd_per_hour=wanted.max_usd_per_hour,
        drain_target_s=wanted.within_s,
        ttl_s=wanted.ttl_s,
        idle_s=wanted.idle_s,
        interruptible=not wanted.on_demand,
    )


def specification(place: Place, wanted: Wanted) -> FleetSpec:
    """Raises OptionError; what is missing of gateway and image is for `provisioning.fleet_checkup` to say."""
    others = sorted(set(wanted.tasks) - RENTABLE_KINDS)
    if others or not wanted.tasks:
        raise OptionError(
            f"--tasks has '{', '.join(others)}', which no rented machine may do: it may do "
            f"{', '.join(sorted(RENTABLE_KINDS))}."
        )
    return FleetSpec(
        fleet=place.fleet,
        limits=limits(wanted),
        query=query(wanted),
        image=image(place, wanted) or "",
        gateway=place.renting.gateway or "",
        model=wanted.model,
        kinds=wanted.tasks,
        market=place.renting.vast_url,
    )


def image(place: Place, wanted: Wanted) -> str | None:
    return wanted.image or place.renting.worker_image


def search(place: Place, wanted: Wanted, speeds: Speeds) -> tuple[list[Ranked], tuple[Offer, ...]]:
    """What fits, best first, and all that was looked at.

    Where fewer interruptible ones are there than are wanted, machines on demand within the price count too.
    Raises CloudBlind, CloudRefused.
    """
    asked = query(wanted)
    seen = place.cloud.offers(asked)
    ranked = offers.rank(seen, asked, speeds, wanted.model)
    if asked.interruptible:
        ranked = [each for each in ranked if each.bid_usd_per_hour is not None]
    if asked.interruptible and len(ranked) < wanted.gpus:
        fixed = replace(asked, interruptible=False)
        more = place.cloud.offers(fixed)
        bidding = {each.offer.id for each in ranked}
        ranked += [each for each in offers.rank(more, fixed, speeds, wanted.model) if each.offer.id not in bidding]
        seen = (*seen, *more)
    return sorted(ranked, key=lambda each: (each.usd_per_audio_hour, each.offer.id)), seen


def ensure_worthwhile(place: Place, wanted: Wanted, speeds: Speeds, spent_usd: float) -> None:
    """Raises CloudRefused where nothing under the price is there, or what is left of the budget pays no machine."""
    found, seen = search(place, wanted, speeds)
    if not found:
        raise CloudRefused(nothing_found(place, wanted, seen))
    ensure_affordable(place, wanted, found, spent_usd)


def ensure_affordable(place: Place, wanted: Wanted, found: list[Ranked], spent_usd: float) -> None:
    """Raises CloudRefused where the budget, or what is left of it, pays not even one of these machines."""
    budget = wanted.budget or 0.0
    problem = offers.budget_for_one(found, budget)
    if problem is not None:
        raise CloudRefused(problem)
    if offers.budget_for_one(found, budget - spent_usd / NO_MORE) is not None:
        raise CloudRefused(
            f"Fleet '{place.fleet}' has spent ${spent_usd:.2f} of its ${budget:g} already, and the rest pays no "
            "machine: raise --budget, or begin a new account under another name by --fleet."
        )


def nothing_found(place: Place, wanted: Wanted, seen: tuple[Offer, ...]) -> str:
    """Why, with the cheapest there is: asked once more without the price, as the market leaves out the dearer."""
    if wanted.max_price is not None and not seen:
        seen = place.cloud.offers(replace(query(wanted), max_usd_per_hour=None))
    return offers.nothing_fits(seen, query(wanted))
