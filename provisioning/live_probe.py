"""Rent the cheapest machine for some minutes, look what becomes of it, and end it: what only a real one can tell.

It says whether the gateway is reached from out there, and how the market behaves where its documents do not say: how
late lists are, through which states a machine goes, what it is when its program has ended. The machine gets nothing
but the gateway's public address; its label lets `fleet reap` end it where this process dies.
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from provisioning import offers, reaper
from provisioning.cloud import Cloud, CloudBlind, CloudRefused, Instance, Offer, OfferQuery, Order, Refused
from provisioning.fleet import Label, new_nonce
from provisioning.fleet_place import Time

FLEET = "live-probe"
IMAGE = "curlimages/curl:8.11.1"  # 10 MB, and it can do what is asked here: one request by https
LIMIT_S = 480.0  # of booting and looking; ending comes on top
LIFE_S = 900.0  # of the label, by which `fleet reap` goes
LOOK_S = 5.0
LOGS_AFTER_S = 15.0  # of running: the request has been made by then
DISK_GB = 8.0
IMAGE_GB = 0.05
TRIES = 3  # offers, as the cheapest is often gone
ENDING_S = 60.0  # two lists that lack it, 20 s apart, and what it takes to destroy
QUERY = OfferQuery(min_gpu_ram_mb=0, min_cuda=0.0, min_compute_capability=0, disk_gb=DISK_GB, min_inet_down_mbps=50.0)

_SCRIPT = "curl -sS -m 20 -o /dev/null -w 'gateway answered %{http_code}\\n' URL; sleep 40"


@dataclass(frozen=True)
class Seen:
    """A row of the market's list when it changed, seconds after the request to rent."""

    after_s: float
    actual: str | None
    intended: str | None
    current: str | None
    next: str | None
    message: str


@dataclass(frozen=True)
class Probe:
    """All that was seen; None is what was not. Seconds are counted from the request to rent, for the end from that.

    left: instances that lists still show. usd: at most, by the prices of the offer.
    """

    gpu_name: str
    machine_id: int
    bid_usd_per_hour: float | None
    instance_id: int | None = None
    listed_after_s: float | None = None
    states: tuple[Seen, ...] = ()
    running_after_s: float | None = None
    exited_after_s: float | None = None
    gateway: str | None = None
    unlisted_after_s: float | None = None
    left: tuple[int, ...] = ()
    usd: float = 0.0
    credit_before_usd: float = 0.0
    credit_after_usd: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def reached(self) -> bool:
        return self.gateway == "200"

    def sentence(self) -> str:
        """What a person wants to know of it."""
        if self.left:
            return f"instance {', '.join(map(str, self.left))} is still listed: `whisperfleet fleet reap` ends it"
        if self.reached:
            return f"a {self.gpu_name} reached the gateway {self.running_after_s:.0f} s after it was asked for"
        if self.running_after_s is None:
            return f"the {self.gpu_name} did not run within {LIMIT_S / 60:.0f} minutes, which hosts do: try once more"
        return f"a {self.gpu_name} did not reach the gateway (it got {self.gateway or 'nothing'})"


def probe(
    cloud: Cloud, gateway: str, max_usd: float, time: Time | None = None, say: Callable[[str], None] = lambda _: None
) -> Probe:
    """Rent one machine for at most `max_usd`, look, and end it, whatever happens meanwhile.

    Raises CloudRefused where the market or the amount do not allow it, CloudBlind where lists never came whole.
    """
    clock = time or Time()
    credit = cloud.account().credit_usd
    candidates = _affordable(cloud, max_usd)
    began, done = clock.now(), reaper.Reaped()
    try:
        offer, label = _rent(cloud, candidates, gateway, clock)
        say(f"Asked for a {offer.gpu_name}; it is ended in {LIMIT_S / 60:.0f} minutes at the latest.")
        found = Probe(offer.gpu_name, offer.machine_id, _bid(offer), credit_before_usd=credit)
        found = _look(cloud, found, label, clock, began, say)
    finally:  # also where nobody knows whether anything was rented
        ending = clock.now()
        done = reaper.down(cloud, FLEET, clock.now_ms, clock.sleep, say=say)
    gone_s = clock.now() - ending - reaper.LISTS_APART_S
    return replace(
        found,
        unlisted_after_s=None if done.left else round(max(0.0, gone_s), 1),
        left=done.left,
        usd=round(_usd(offer, clock.now() - began), 4),
        credit_after_usd=cloud.account().credit_usd,
    )


def _affordable(cloud: Cloud, max_usd: float) -> list[Offer]:
    """The cheapest few. Raises CloudRefused where none is, or the cheapest costs more than `max_usd`."""
    seen = cloud.offers(QUERY)
    fitting = sorted((offer for offer in seen if offers.fits(offer, QUERY) is None), key=_most_usd)
    if not fitting:
        raise CloudRefused(offers.nothing_fits(seen, QUERY))
    if _most_usd(fitting[0]) > max_usd:
        raise CloudRefused(
            f"The cheapest machine may cost ${_most_usd(fitting[0]):.3f} until it has been looked at: "
            f"allow more than ${max_usd:g} by --live-probe."
        )
    return [offer for offer in fitting[:TRIES] if _most_usd(offer) <= max_usd]


def _bid(offer: Offer) -> float:
    return offers.bid(offer, QUERY) or offer.min_bid_usd_per_hour


def _usd(offer: Offer, seconds: float) -> float:
    rate = _bid(offer) + offer.storage_usd_per_hour(DISK_GB)
    return rate * seconds / 3600 + IMAGE_GB * offer.inet_down_usd_per_gb


def _most_usd(offer: Offer) -> float:
    return _usd(offer, LIMIT_S + ENDING_S)


def _rent(cloud: Cloud, candidates: list[Offer], gateway: str, clock: Time) -> tuple[Offer, str]:
    """The offer that was asked for, and the label to know its machine by; whether it exists lists will tell.

    Raises CloudRefused where none was to be had.
    """
    said = ""
    for offer in candidates:
        label = Label(FLEET, new_nonce(), int(clock.now() + LIFE_S)).encode()
        entry = ("/bin/sh", "-c", _SCRIPT.replace("URL", shlex.quote(f"{gateway}/health")))
        answer = cloud.create(offer, Order(label, IMAGE, DISK_GB, _bid(offer), {}, entry))
        if not isinstance(answer, Refused):
            return offer, label
        said = answer.reason
    raise CloudRefused(f"None of the cheapest machines was to be had ({said}): try once more.")


def _look(cloud: Cloud, found: Probe, label: str, clock: Time, began: float, say: Callable[[str], None]) -> Probe:
    """Until its program has ended, and at the latest LIMIT_S after it was asked for."""
    while clock.now() - began < LIMIT_S:
        try:
            row = next((row for row in cloud.instances() if row.label == label), None)
            if row is not None:
                found = _noted(found, row, round(clock.now() - began, 1), say)
                found = _heard(cloud, found, row, clock.now() - began)
        except CloudBlind as error:
            say(str(error))
        if found.exited_after_s is not None:
            break
        clock.sleep(LOOK_S)
    return found


def _noted(found: Probe, row: Instance, after_s: float, say: Callable[[str], None]) -> Probe:
    seen = Seen(after_s, row.actual, row.intended, row.current, row.next, row.message)
    if found.states and replace(seen, after_s=found.states[-1].after_s) == found.states[-1]:
        return found
    say(f"{after_s:5.0f} s: {row.actual or 'being made'} {row.message}".rstrip())
    runs = row.actual == "running" and found.running_after_s is None
    ended = row.actual in ("exited", "stopped") and found.running_after_s is not None
    return replace(
        found,
        instance_id=row.id,
        listed_after_s=after_s if found.listed_after_s is None else found.listed_after_s,
        states=(*found.states, seen),
        running_after_s=after_s if runs else found.running_after_s,
        exited_after_s=after_s if ended else found.exited_after_s,
    )


def _heard(cloud: Cloud, found: Probe, row: Instance, after_s: float) -> Probe:
    """What its program wrote of the gateway, once it runs long enough. A log that is not there yet comes later."""
    if found.gateway is not None or found.running_after_s is None or after_s - found.running_after_s < LOGS_AFTER_S:
        return found
    text = cloud.logs(row.id, 50)
    answered = re.search(r"gateway answered (\d+)", text)
    return replace(found, gateway=answered[1]) if answered else found
