"""The create protocol: how one machine is asked for so that none is ever paid for that nobody knows of.

An intent is committed before anything is asked; the market is asked once; what it answers is committed. Where nobody
knows the answer the intent stays `unknown` and counts as a machine, until lists have shown or lacked its label.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from provisioning.cloud import Cloud, CloudBlind, CloudRefused, Created, Offer, OfferQuery, Order, Refused, Unknown
from provisioning.demand import GatewayRefused, GatewaySilent
from provisioning.fleet import Intent, Label, Limits, new_nonce
from provisioning.hearing import Hearing
from provisioning.ledger import Ledger
from workers.messages import DEFAULT_MODEL

OFFERS_PER_SLOT = 5  # tried for one machine in one tick: a market that takes so many away is asked again next tick
RENTED_KINDS = ("transcribe_chunk",)
"""Of themselves. Not detect_language, which a rented machine may do if asked to: one answer, which nobody can check
against others, decides how all chunks of a recording are heard."""


@dataclass(frozen=True)
class FleetSpec:
    """What every machine of a fleet is to be.

    gateway: its public address, as a machine sees it. market: the API that ends a machine from inside, where it is not
    Vast.ai's own. silence_s: how long a machine without word from the gateway lives on.
    """

    fleet: str
    limits: Limits
    query: OfferQuery
    image: str
    gateway: str
    model: str = DEFAULT_MODEL
    kinds: tuple[str, ...] = RENTED_KINDS
    market: str | None = None
    silence_s: float = 600.0
    entry: tuple[str, ...] = ()


def environment(spec: FleetSpec, nonce: str, token: str, left_s: float, patient: bool = False) -> dict[str, str]:
    """All that a rented machine is told; its owner can read every word of it. left_s: how long it may live.

    patient: no idleness makes it end itself, as so many machines are wanted without work, too.
    """
    idle_s = left_s if patient else max(spec.limits.idle_s * 2, 900)
    gateway = spec.gateway.rstrip("/")
    told = {
        "CONDUCTOR_SERVER_URL": f"{gateway}/api",
        "CONDUCTOR_AUTH_KEY": nonce,
        "CONDUCTOR_AUTH_SECRET": token,
        "WHISPERFLEET_GATEWAY": gateway,
        "WHISPERFLEET_TASKS": ",".join(spec.kinds),
        "WHISPERFLEET_MODEL": spec.model,
        "WHISPERFLEET_TTL_S": str(round(left_s)),
        "WHISPERFLEET_IDLE_S": str(round(idle_s)),
        "WHISPERFLEET_SILENCE_S": str(round(spec.silence_s)),
    }
    if spec.market:
        told["WHISPERFLEET_VAST_URL"] = spec.market
    return told


@dataclass(frozen=True)
class Attempt:
    """What became of one slot. hopeless: why no offer would ever do; later: why none is to be tried in this tick;
    pause: why not for some minutes.

    Only where it was about that offer (somebody else was faster) the next one is tried at once: whatever else the
    market says against a rent (too often, the price, the machine) a fresh search at the next tick is the answer to.
    """

    intent: Intent | None = None
    hopeless: str | None = None
    later: str | None = None
    pause: str | None = None
    said: str | None = None
    offers_tried: int = 0


class Renter:
    """Rents one machine at a time for one fleet."""

    def __init__(self, spec: FleetSpec, cloud: Cloud, gateway: Hearing, ledger: Ledger) -> None:
        self._spec = spec
        self._cloud = cloud
        self._gateway = gateway
        self._ledger = ledger
        self.patient = False  # see `environment`

    def rent(
        self,
        offers: Iterable[tuple[Offer, float | None]],
        slot: int,
        now_ms: Callable[[], int],
        life_s: Callable[[Offer, float], float],
        until_ms: int,
    ) -> Attempt:
        """Ask for (offer, bid) after (offer, bid) until one is rented or nobody knows; OFFERS_PER_SLOT at most, and
        none but the first after `until_ms`: others wait to be destroyed. life_s: of a machine at so many $/h.

        Raises CloudRefused for a key that is not accepted (the intent is closed by then), StorageError where the intent
        could not be kept: then nothing was asked.
        """
        said, tried = None, 0
        for offer, bid in offers:
            if tried == OFFERS_PER_SLOT or (tried and now_ms() >= until_ms):
                break
            tried += 1
            attempt = self._ask(offer, bid, slot, now_ms(), life_s)
            said = attempt.said or said
            if attempt.intent or attempt.hopeless or attempt.later:
                return replace(attempt, said=said, offers_tried=tried)
        return Attempt(said=said or ("no offer is left" if not tried else None), offers_tried=tried)

    def _ask(
        self, offer: Offer, bid: float | None, slot: int, now_ms: int, life_s: Callable[[Offer, float], float]
    ) -> Attempt:
        """One offer, once. An Attempt with neither intent nor reason to stop: the next offer may do."""
        intent = self._intend(offer, bid, slot, now_ms, life_s)
        self._ledger.save(intent)
        try:
            token = self._gateway.admit(intent.nonce, self._spec.kinds, intent.expires_ms)
        except (GatewaySilent, GatewayRefused) as error:
            self._ledger.save(replace(intent, state="closed", reason=str(error)))
            return Attempt(later=str(error), said=str(error))
        label = Label(self._spec.fleet, intent.nonce, intent.expires_ms // 1000).encode()
        told = environment(self._spec, intent.nonce, token, (intent.expires_ms - now_ms) / 1000, self.patient)
        order = Order(label, self._spec.image, self._spec.query.disk_gb, bid, told, self._spec.entry)
        try:
            answer = self._cloud.create(offer, order)
        except CloudRefused as error:
            self._ledger.save(replace(intent, state="closed", reason=str(error)))
            self._revoke(intent.nonce)
            raise
        return self._settle(intent, answer)

    def _intend(
        self, offer: Offer, bid: float | None, slot: int, now_ms: int, life_s: Callable[[Offer, float], float]
    ) -> Intent:
        gpu = offer.gpu_usd_per_hour if bid is None else bid
        usd_per_hour = gpu + offer.storage_usd_per_hour(self._spec.query.disk_gb)
        return Intent(
            nonce=new_nonce(),
            state="asked",
            offer_id=offer.id,
            machine_id=offer.machine_id,
            gpu_name=offer.gpu_name,
            asked_ms=now_ms,
            expires_ms=now_ms + round(life_s(offer, usd_per_hour) * 1000),
            usd_per_hour=usd_per_hour,
            is_bid=bid is not None,
            slot=slot,
            usd_per_gb=offer.inet_down_usd_per_gb,
        )

    def _settle(self, intent: Intent, answer: Created | Refused | Unknown) -> Attempt:
        if isinstance(answer, Created):
            bound = replace(intent, state="bound", instance_id=answer.instance_id)
            self._ledger.save(bound)
            return Attempt(bound)
        if isinstance(answer, Unknown):
            unknown = replace(intent, state="unknown", reason=answer.reason)
            self._ledger.save(unknown)
            return Attempt(unknown, said=f"Nobody knows whether offer {intent.offer_id} was rented: {answer.reason}.")
        said = f"Offer {intent.offer_id} was not rented: {answer.reason}."
        if answer.instance_id is not None:  # refused, and made all the same: it bills until it is destroyed
            closing = replace(intent, state="closing", instance_id=answer.instance_id, reason=answer.reason)
            self._ledger.save(closing)
            self._end(closing)
        else:
            self._ledger.save(replace(intent, state="closed", reason=answer.reason))
        self._revoke(intent.nonce)
        hopeless = answer.reason if answer.hopeless else None
        later = None if answer.taken else answer.reason
        return Attempt(hopeless=hopeless, later=later, pause=answer.reason if answer.pause else None, said=said)

    def _end(self, intent: Intent) -> None:
        assert intent.instance_id is not None
        try:
            self._cloud.destroy(intent.instance_id)
        except (CloudBlind, CloudRefused):
            return  # the intent is `closing`: every tick destroys what a list still shows of it

    def _revoke(self, nonce: str) -> None:
        try:
            self._gateway.lose(nonce)
        except (GatewaySilent, GatewayRefused):
            return  # the token of a machine that does not exist; it expires, and every tick revokes strays
