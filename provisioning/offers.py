"""Which offers are worth renting: what does not fit and why, dollars per hour of audio, bids, what a job would cost.

A GPU's price says little: what counts is dollars per hour of audio, with the boot, the disk and the traffic in it.
Pure; money is US dollars, speed is seconds of audio per second.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from provisioning.budget import AUDIO_GB_PER_HOUR
from provisioning.cloud import Offer, OfferQuery
from provisioning.fleet import Limits, Speeds

BID_FACTOR = 1.15  # above the lowest bid that wins: the next rival bids a little more than that
ON_DEMAND_SHARE = 0.8  # a bid above this part of the price on demand buys interruptions for nearly nothing
BOOT_S = 240.0  # until some were measured: an image of 4 GB at 300 Mbit/s is 107 s, unpacking and the self-test as much
LOAD_S = 60.0  # of that the GPU is billed: self-test, and the model into its memory
DRAIN_S = 600.0  # of all machines' cost is set aside for finishing what they hold
CREATE_GAP_S = 5.0  # the market takes a request to rent every 4.5 s
RESULT_GB_PER_HOUR = 0.005
BLACKWELL = 1200  # compute capability ×100: older drivers than CUDA 12.8 do not know them
BLACKWELL_CUDA = 12.8

_BANDWIDTH = {
    "RTX 2080 Ti": 616,
    "RTX 3060": 360,
    "RTX 3060 Ti": 448,
    "RTX 3070": 448,
    "RTX 3070 Ti": 608,
    "RTX 3080": 760,
    "RTX 3080 Ti": 912,
    "RTX 3090": 936,
    "RTX 3090 Ti": 1008,
    "RTX 4060": 272,
    "RTX 4060 Ti": 288,
    "RTX 4070": 504,
    "RTX 4070 Ti": 504,
    "RTX 4070S": 504,
    "RTX 4070S Ti": 672,
    "RTX 4080": 717,
    "RTX 4080S": 736,
    "RTX 4090": 1008,
    "RTX 4090D": 1008,
    "RTX 5060 Ti": 448,
    "RTX 5070": 672,
    "RTX 5070 Ti": 896,
    "RTX 5080": 960,
    "RTX 5090": 1792,
    "RTX A4000": 448,
    "RTX A5000": 768,
    "RTX A6000": 768,
    "RTX 4000Ada": 360,
    "RTX 6000Ada": 960,
    "A10": 600,
    "A40": 696,
    "A100 PCIE": 1555,
    "A100 SXM4": 2039,
    "H100 PCIE": 2039,
    "H100 SXM": 3350,
    "H200": 4800,
    "L4": 300,
    "L40": 864,
    "L40S": 864,
    "Tesla T4": 320,
    "Tesla V100": 900,
}
"""GB/s of the makers' data sheets: Whisper's decoder reads all its weights for each token, so speed goes with it."""

_RTFX_PER_BANDWIDTH = 46 / 608
"""faster-whisper's README: 13 minutes in 17 s for large-v2, batched, fp16, on an RTX 3070 Ti (608 GB/s)."""

_RTFX_PER_DLPERF = 1.0
"""For a GPU that is in no table. Vast.ai's FAQ gives a V100 about 21, which the rule above would make 3 per point;
a third of that, so that no unknown card is preferred on a guess: its first chunks measure it."""

_RTFX_FLOOR = 10.0
_MODEL_FACTOR = {"tiny": 12.0, "base": 9.0, "small": 4.0, "medium": 1.8, "turbo": 2.6, "distil": 2.4}
"""How much faster than large, by decoder layers and width; turbo and distil before the size in a model's name."""


@dataclass(frozen=True)
class Speed:
    """source: measured, or what it was guessed from; said wherever the number is shown."""

    rtfx: float
    source: str


@dataclass(frozen=True)
class Ranked:
    """An offer, and what it would be rented at. bid_usd_per_hour None: on demand. usd_per_hour: with its disk.

    boot_usd: what is gone before the first chunk. usd_per_audio_hour: all of it, over `hours` of work.
    """

    offer: Offer
    bid_usd_per_hour: float | None
    usd_per_hour: float
    speed: Speed
    boot_usd: float
    usd_per_audio_hour: float

    @property
    def first_usd(self) -> float:
        """Until it has booted and worked for DRAIN_S: what a budget must have left for it to be rented."""
        traffic = AUDIO_GB_PER_HOUR * self.offer.inet_down_usd_per_gb * self.speed.rtfx
        return self.boot_usd + (self.usd_per_hour + traffic) * DRAIN_S / 3600


@dataclass(frozen=True)
class Choice:
    """What a job would take on so many machines. duration_ms: from the first request to the last chunk, boots in it."""

    machines: int
    duration_ms: int
    usd: float
    usd_per_hour: float
    gpus: Mapping[str, int]

    def usd_per_audio_hour(self, audio_ms: int) -> float:
        return self.usd / (audio_ms / 3_600_000) if audio_ms else 0.0


@dataclass(frozen=True)
class Estimate:
    """Alternatives by number of machines, and the one to take; choice None with `problem`, a sentence that says why."""

    audio_ms: int
    chunks: int
    boot_s: float
    choices: tuple[Choice, ...]
    choice: Choice | None
    problem: str | None = None


def fits(offer: Offer, query: OfferQuery, image_gb: float = 4.0) -> str | None:
    """Why an offer is not to be rented, in a few words; None where it may be. The market does not always filter.

    A host whose line is so dear that the image costs more than an hour of the machine is none: the price that is asked
    for would say nothing, and a machine that is outbid soon would have cost its boot alone.
    """
    least_cuda = max(query.min_cuda, BLACKWELL_CUDA) if offer.compute_capability >= BLACKWELL else query.min_cuda
    faults = (
        (offer.num_gpus != 1, f"{offer.num_gpus} GPUs, and a fleet rents one by one"),
        (not offer.rentable, "not to be rented now"),
        (not offer.verified, "not verified"),
        (query.datacenter_only and not offer.datacenter, "not in a data centre"),
        (bool(query.gpu_names) and offer.gpu_name not in query.gpu_names, f"a {offer.gpu_name}"),
        (offer.gpu_ram_mb < query.min_gpu_ram_mb, f"{offer.gpu_ram_mb} MB of GPU memory"),
        (offer.cuda < least_cuda, f"a driver for CUDA {offer.cuda:g}, and {least_cuda:g} is needed"),
        (offer.compute_capability < query.min_compute_capability, "a GPU too old"),
        (offer.reliability < query.min_reliability, f"reliability {offer.reliability:.3f}"),
        (offer.inet_down_mbps < query.min_inet_down_mbps, f"{offer.inet_down_mbps:.0f} Mbit/s down"),
        (offer.duration_s < query.min_duration_s, f"to be had for {offer.duration_s / 3600:.1f} hours only"),
        (offer.disk_gb < query.disk_gb, f"{offer.disk_gb:.0f} GB of disk"),
    )
    fault = next((text for wrong, text in faults if wrong), None)
    if fault is None and query.max_usd_per_hour is not None:
        least = lowest_usd_per_hour(offer, query)
        if not 0 < least <= query.max_usd_per_hour:
            return f"${least:.3f} an hour"
    pull_usd = image_gb * offer.inet_down_usd_per_gb
    if fault is None and pull_usd > (hour_usd := lowest_usd_per_hour(offer, query)):
        dear = f"${offer.inet_down_usd_per_gb:g} a GB of download"
        return f"{dear}, so that the image costs ${pull_usd:.2f} and an hour ${hour_usd:.2f}"
    return fault


def lowest_usd_per_hour(offer: Offer, query: OfferQuery) -> float:
    """The least it can be had for, disk included."""
    price = min(_prices(offer, query.interruptible))
    return price + offer.storage_usd_per_hour(query.disk_gb)


def bid(offer: Offer, query: OfferQuery, factor: float = BID_FACTOR) -> float | None:
    """What to bid in dollars an hour for the GPU; None: rent it on demand.

    A little above the lowest bid that wins, within the price, and on demand where that costs hardly more. A search
    for interruptible offers may tell no price on demand (it is the lowest bid then): on demand is not considered.
    Only for an offer that `fits`.
    """
    if not query.interruptible:
        return None
    storage = offer.storage_usd_per_hour(query.disk_gb)
    cap = math.inf if query.max_usd_per_hour is None else query.max_usd_per_hour - storage
    on_demand = offer.gpu_usd_per_hour
    if offer.min_bid_usd_per_hour > cap:
        return None  # and on demand fits, or nothing would
    wanted = max(offer.min_bid_usd_per_hour * factor, 0.001)
    if offer.min_bid_usd_per_hour < on_demand <= cap and wanted > ON_DEMAND_SHARE * on_demand:
        return None
    whole = round(wanted, 4) if wanted <= cap else math.floor(cap * 10_000) / 10_000
    return max(min(whole, cap), offer.min_bid_usd_per_hour)


def speed_of(gpu_name: str, speeds: Speeds, model: str = "large-v3", dlperf: float = 0.0) -> Speed:
    """Seconds of audio per second on one GPU: as measured, else by its memory's bandwidth, else by its DLPerf."""
    measured = speeds.rtfx.get(gpu_name)
    if measured is not None and measured > 0:
        return Speed(measured, "measured")
    factor = _model_factor(model)
    bandwidth = _BANDWIDTH.get(gpu_name)
    if bandwidth is not None:
        return Speed(bandwidth * _RTFX_PER_BANDWIDTH * factor, f"guess from {bandwidth} GB/s of memory")
    if dlperf > 0:
        return Speed(max(_RTFX_FLOOR, dlperf * _RTFX_PER_DLPERF) * factor, f"guess from DLPerf {dlperf:.0f}")
    return Speed(_RTFX_FLOOR * factor, "guess for an unknown GPU")


def boot_seconds(speeds: Speeds) -> float:
    """How long nine of ten boots take at most, by the latest twenty; a guess before the first three."""
    known = sorted(speeds.boot_s[-20:])
    return known[math.ceil(0.9 * len(known)) - 1] if len(known) >= 3 else BOOT_S


def rank(
    offers: Iterable[Offer],
    query: OfferQuery,
    speeds: Speeds,
    model: str = "large-v3",
    factor: float = BID_FACTOR,
    hours: float = 1.0,
    image_gb: float = 4.0,
    audio_hours: float | None = None,
) -> list[Ranked]:
    """Those that fit, cheapest per hour of audio first.

    hours: of work that the boot is spread over, at most. audio_hours: of audio that there is for each machine, None
    where nobody knows: with little to do a free line is worth more than a cheap GPU. Never less than DRAIN_S of work is
    assumed, as more may come.
    """
    ranked = [
        _ranked(
            offer,
            query,
            speed := speed_of(offer.gpu_name, speeds, model, offer.dlperf),
            factor,
            hours if audio_hours is None else min(hours, max(DRAIN_S / 3600, audio_hours / speed.rtfx)),
            image_gb,
        )
        for offer in offers
        if fits(offer, query, image_gb) is None
    ]
    return sorted(ranked, key=lambda each: (each.usd_per_audio_hour, -each.offer.reliability, each.offer.id))


def choose(
    ranked: Sequence[Ranked],
    count: int,
    avoid: frozenset[int] = frozenset(),
    occupied: Mapping[int, int] | None = None,
    per_host: int = 2,
) -> list[Ranked]:
    """The first `count` of them, no more than `per_host` on one machine together with those `occupied` already."""
    taken = Counter(occupied or {})
    chosen: list[Ranked] = []
    for each in ranked:
        machine = each.offer.machine_id
        if len(chosen) < count and machine not in avoid and taken[machine] < per_host:
            taken[machine] += 1
            chosen.append(each)
    return chosen


class Purse:
    """What may be spent on new machines in one tick: those that it does not pay until they have worked are left out."""

    def __init__(self, usd: float | None) -> None:
        self._usd = math.inf if usd is None else usd
        self.problem: str | None = None  # of the first that was left out

    def payable(self, chosen: Iterable[Ranked]) -> Iterator[Ranked]:
        for each in chosen:
            if each.first_usd <= self._usd:
                yield each
            elif self.problem is None:
                self.problem = (
                    f"${max(self._usd, 0):.2f} are left for another machine, and offer {each.offer.id} takes "
                    f"${each.first_usd:.2f} until it has booted and worked for {DRAIN_S / 60:.0f} minutes: not rented."
                )

    def pay(self, each: Ranked) -> None:
        self._usd -= each.first_usd


def nothing_fits(offers: Sequence[Offer], query: OfferQuery, image_gb: float = 4.0) -> str:
    """Why no offer is left, in one sentence with what to do; the cheapest there is where only the price is wrong."""
    if not offers:
        under = f" under ${query.max_usd_per_hour:g} an hour" if query.max_usd_per_hour is not None else ""
        return f"The market has no offer of this kind{under} now: ask again later, or for other GPUs or a higher price."
    without_price = OfferQuery(**{**query.__dict__, "max_usd_per_hour": None})
    payable = [offer for offer in offers if fits(offer, without_price, image_gb) is None]
    if payable and query.max_usd_per_hour is not None:
        best = min(payable, key=lambda offer: lowest_usd_per_hour(offer, query))
        kind = "interruptible" if query.interruptible else "on demand"
        least = math.ceil(lowest_usd_per_hour(best, query) * 1000) / 1000
        return (
            f"No offer is under ${query.max_usd_per_hour:g} an hour: the cheapest that fits is one {best.gpu_name}, "
            f"{kind}, at ${least:.3f} an hour with its disk; raise --max-price to that, or wait."
        )
    reasons = Counter(reason for offer in offers if (reason := fits(offer, without_price, image_gb)) is not None)
    common = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
    return f"None of {len(offers)} offers fits ({common}): ask for less, or again later."


def budget_for_one(ranked: Sequence[Ranked], max_usd: float, share: float = 0.9) -> str | None:
    """The sentence that a budget does not even pay one machine, its boot and DRAIN_S of work; None where it does.

    share: the part of the budget up to which machines are rented at all (see `provisioning.policy`).
    """
    if not ranked:
        return None
    needed = min(each.first_usd for each in ranked) / share
    if needed < max_usd:
        return None
    return (
        f"A budget of ${max_usd:g} is too small for one machine: the cheapest costs ${needed:.3f} until it has booted "
        f"and worked for {DRAIN_S / 60:.0f} minutes; raise --budget to more than that."
    )


def estimate(
    audio_ms: int,
    ranked: Sequence[Ranked],
    limits: Limits,
    speeds: Speeds,
    chunk_ms: int = 60_000,
    image_gb: float = 4.0,
) -> Estimate:
    """What a recording would take on 1, 2, 4, 8 … machines, and on how many to run it.

    Taken is the fewest machines that are done within `limits.drain_target_s` and the budget; where none is, the
    quickest that the budget pays. Chunks are as they come: the last one decides, so that too many machines wait.
    """
    boot_s = boot_seconds(speeds)
    chunks = max(1, math.ceil(audio_ms / chunk_ms))
    if not ranked or limits.max_instances < 1:
        return Estimate(audio_ms, chunks, boot_s, (), None, "No offer fits.")
    most = len(choose(ranked, limits.max_instances, per_host=limits.machines_per_host))
    counts = sorted({min(most, 2**power) for power in range(most.bit_length() + 1)})
    choices = tuple(
        _choice(audio_ms, chunks, choose(ranked, count, per_host=limits.machines_per_host), boot_s, image_gb)
        for count in counts
    )
    payable = [choice for choice in choices if choice.usd <= 0.9 * limits.max_usd and _in_rate(choice, limits)]
    if not payable:
        least = min(choices, key=lambda choice: choice.usd)
        return Estimate(audio_ms, chunks, boot_s, choices, None, _too_dear(least, limits))
    quick = [choice for choice in payable if choice.duration_ms <= limits.drain_target_s * 1000]
    chosen = quick[0] if quick else min(payable, key=lambda choice: (choice.duration_ms, choice.usd))
    return Estimate(audio_ms, chunks, boot_s, choices, chosen)


def _prices(offer: Offer, interruptible: bool) -> tuple[float, ...]:
    if not interruptible:
        return (offer.gpu_usd_per_hour,)
    return tuple(price for price in (offer.min_bid_usd_per_hour, offer.gpu_usd_per_hour) if price > 0) or (0.0,)


def _model_factor(model: str) -> float:
    name = model.lower()
    order = ("turbo", "distil", "tiny", "base", "small", "medium")
    return next((_MODEL_FACTOR[part] for part in order if part in name), 1.0)


def _ranked(offer: Offer, query: OfferQuery, speed: Speed, factor: float, hours: float, image_gb: float) -> Ranked:
    wanted = bid(offer, query, factor)
    gpu = offer.gpu_usd_per_hour if wanted is None else wanted
    per_hour = gpu + offer.storage_usd_per_hour(query.disk_gb)
    boot_usd = image_gb * offer.inet_down_usd_per_gb + LOAD_S / 3600 * gpu
    traffic = AUDIO_GB_PER_HOUR * offer.inet_down_usd_per_gb + RESULT_GB_PER_HOUR * offer.inet_up_usd_per_gb
    spread = boot_usd / (max(hours, 0.01) * speed.rtfx)
    return Ranked(offer, wanted, per_hour, speed, boot_usd, per_hour / speed.rtfx + traffic + spread)


def _in_rate(choice: Choice, limits: Limits) -> bool:
    return limits.max_usd_per_hour is None or choice.usd_per_hour <= limits.max_usd_per_hour


def _too_dear(least: Choice, limits: Limits) -> str:
    if limits.max_usd_per_hour is not None and least.usd_per_hour > limits.max_usd_per_hour:
        return (
            f"One machine already costs ${least.usd_per_hour:.3f} an hour, and ${limits.max_usd_per_hour:g} is "
            "allowed: raise --max-usd-per-hour."
        )
    return (
        f"A budget of ${limits.max_usd:g} is too small for this recording: it takes ${least.usd / 0.9:.2f} at least; "
        "raise --budget."
    )


def _choice(audio_ms: int, chunks: int, machines: Sequence[Ranked], boot_s: float, image_gb: float) -> Choice:
    """Whoever is free takes the next chunk; a machine is paid from its request until the last chunk is done.

    Until then and not only until its own last: it is kept for as long as there may be work given back to it.
    """
    free = [(boot_s + CREATE_GAP_S * index, index) for index in range(len(machines))]
    heapq.heapify(free)
    end = 0.0
    for length_s in _lengths(audio_ms, chunks):
        at, index = heapq.heappop(free)
        at += length_s / machines[index].speed.rtfx
        end = max(end, at)
        heapq.heappush(free, (at, index))
    usd = sum(_paid(each, index, end, boot_s, image_gb) for index, each in enumerate(machines))
    traffic = median(each.offer.inet_down_usd_per_gb for each in machines) * AUDIO_GB_PER_HOUR * audio_ms / 3_600_000
    gpus = Counter(each.offer.gpu_name for each in machines)
    rate = sum(each.usd_per_hour for each in machines)
    return Choice(len(machines), int(end * 1000), usd + traffic, rate, dict(gpus))


def _lengths(audio_ms: int, chunks: int) -> Iterable[float]:
    return (audio_ms / chunks / 1000 for _ in range(chunks))


def _paid(each: Ranked, index: int, end_s: float, boot_s: float, image_gb: float) -> float:
    """The disk from the request on, the GPU from where the model is loaded on, the image once."""
    asked_s = CREATE_GAP_S * index
    gpu = each.offer.gpu_usd_per_hour if each.bid_usd_per_hour is None else each.bid_usd_per_hour
    storage = each.usd_per_hour - gpu
    runs_s = max(LOAD_S, end_s - asked_s - max(0.0, boot_s - LOAD_S))
    return storage * max(0.0, end_s - asked_s) / 3600 + gpu * runs_s / 3600 + image_gb * each.offer.inet_down_usd_per_gb
