"""The words a fleet is described in: limits, intents, demand, what the gateway hears, and what can be done next.

Frozen data between `observe`, `provisioning.policy.plan` and `apply`; nothing here asks or does anything. Times are
epoch milliseconds of the controller, spans of audio milliseconds, money US dollars.
"""

import secrets
import string
from dataclasses import dataclass, field
from typing import Literal

from provisioning.cloud import Instance

PREFIX = "wf1"
ONLY_LOOKING = "X-Only-Looking"
"""Header of a question to the gateway's own side by somebody who controls nothing: no sign of a controller's life."""
_NONCE_LENGTH = 10
_ALPHABET = string.digits + string.ascii_lowercase


@dataclass(frozen=True)
class Label:
    """The durable identity of a rented machine: `wf1:<fleet>:<nonce>:<expiry, epoch seconds in base 36>`.

    It is all that is needed to know whose a machine is and when it must be gone, also with every database lost.
    """

    fleet: str
    nonce: str
    expires_s: int

    def encode(self) -> str:
        return f"{PREFIX}:{self.fleet}:{self.nonce}:{_base36(self.expires_s)}"

    @classmethod
    def decode(cls, text: str | None) -> "Label | None":
        """None for whatever is not a label of ours: it belongs to somebody else and is never touched."""
        parts = (text or "").split(":")
        if len(parts) != 4 or parts[0] != PREFIX or not parts[1] or not parts[2]:
            return None
        try:
            return cls(parts[1], parts[2], int(parts[3], 36))
        except ValueError:
            return None


def new_nonce() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(_NONCE_LENGTH))


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _ALPHABET[digit] + digits
    return digits or "0"


@dataclass(frozen=True)
class Limits:
    """What the person who pays has said. max_price: per GPU and hour, storage included."""

    max_usd: float
    max_price: float
    max_instances: int
    min_instances: int = 0
    max_usd_per_hour: float | None = None
    drain_target_s: float = 1_800.0
    ttl_s: float = 6 * 3_600.0
    idle_s: float = 120.0
    interruptible: bool = True
    machines_per_host: int = 2


IntentState = Literal["asked", "unknown", "bound", "closing", "closed"]


@dataclass(frozen=True)
class Intent:
    """One attempt to have one machine, committed before it is asked for.

    asked: about to be sent, or sent and the controller died; unknown: sent, nobody knows; bound: it has an instance;
    closing: its instance is to be destroyed; closed: no machine comes of it or is left of it. All but closed count
    as a live machine for every cap. usd_per_hour: GPU and storage, at most.
    """

    nonce: str
    state: IntentState
    offer_id: int
    machine_id: int
    gpu_name: str
    asked_ms: int
    expires_ms: int
    usd_per_hour: float
    is_bid: bool
    slot: int = 0
    instance_id: int | None = None
    reason: str = ""
    lists_without: int = 0  # validated lists since it turned unknown that do not show it
    last_missed_ms: int | None = None
    usd_per_gb: float = 0.0  # what its host takes for what it downloads


@dataclass(frozen=True)
class WorkerNews:
    """What the gateway knows of the worker on one machine; nonce is the label's.

    held_audio_ms: of the tasks it holds. rtfx: audio seconds per second of its own self-test, or of the chunks it did.
    """

    nonce: str
    first_seen_ms: int | None
    last_seen_ms: int | None
    last_task_ms: int | None
    held_tasks: int
    held_audio_ms: int
    chunks_done: int
    audio_done_ms: int
    busy_ms: int
    rtfx: float | None = None
    draining: bool = False
    strikes: tuple[str, ...] = ()
    refused: str | None = None  # why its self-test or its results disqualify it


@dataclass(frozen=True)
class Demand:
    """Work for rented machines: waiting in Conductor, and held by rented workers (not by trusted ones)."""

    queued_audio_ms: int = 0
    queued_tasks: int = 0
    held_audio_ms: int = 0
    held_tasks: int = 0
    known: bool = True  # false: the server or the gateway did not answer; nothing is rented or retired for it


@dataclass(frozen=True)
class Strike:
    """A host that disappointed: not to be rented again before `until_ms`."""

    machine_id: int
    until_ms: int
    reason: str


@dataclass(frozen=True)
class Speeds:
    """Measured audio seconds per second by GPU name, and how long boots took, newest last."""

    rtfx: dict[str, float] = field(default_factory=dict)
    boot_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Observed:
    """One look at the world. instances None: blind, since `blind_since_ms`."""

    instances: tuple[Instance, ...] | None
    workers: dict[str, WorkerNews] = field(default_factory=dict)
    blind_since_ms: int | None = None


@dataclass(frozen=True)
class Destroy:
    """Destroy an instance, until lists no longer show it. strike: the host is not rented again for a while."""

    instance_id: int
    nonce: str
    reason: str
    strike_machine: int | None = None
    strike_s: float = 0.0


@dataclass(frozen=True)
class Rent:
    """Rent `count` more machines, not on these hosts, and none dearer than that (its disk included).

    max_usd: what all of them together may cost until they have booted and worked for a while: an image's way to a host
    may cost more than the host (see `provisioning.offers.Ranked.first_usd`).
    """

    count: int
    interruptible: bool
    avoid_machines: frozenset[int] = frozenset()
    bid_factor: float = 1.15
    max_usd_per_hour: float | None = None
    max_usd: float | None = None


@dataclass(frozen=True)
class FreeTasks:
    """Its machine is lost: what the worker held is to be done by others, now; its token is worth nothing any more."""

    nonce: str
    reason: str


@dataclass(frozen=True)
class DrainWorker:
    """Let it finish what it holds and give it nothing more."""

    nonce: str
    reason: str


@dataclass(frozen=True)
class Settle:
    """What has become of an intent: bound to an instance, closed, or missed by one more list."""

    nonce: str
    state: IntentState
    instance_id: int | None = None
    reason: str = ""
    missed_ms: int | None = None


@dataclass(frozen=True)
class Alarm:
    """Something that a person should know of."""

    text: str


Action = Destroy | Rent | FreeTasks | DrainWorker | Settle | Alarm
