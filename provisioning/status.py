"""What a fleet is at one moment, for whoever shows it: one line an instance, totals, and the same as JSON.

Pure: `provisioning.reconcile` fills it, commands print it. Times are epoch milliseconds, money US dollars.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from provisioning.fleet import Demand, Intent, WorkerNews


@dataclass(frozen=True)
class InstanceLine:
    """One machine, or one that was asked for and is not seen yet (instance_id None).

    state: what `provisioning.policy` takes it for (booting, ready, busy, idle, draining, ...), or for an intent without
    an instance its own state. usd_per_hour: what it bills now, GPU and storage. spent_usd: since it was asked for.
    rtfx: audio seconds per second as its chunks, or else its self-test, show; None where nothing is known.
    age_s: since it was asked for. machine_id: the host's machine, 0 where unknown.
    """

    nonce: str
    instance_id: int | None
    gpu_name: str
    state: str
    usd_per_hour: float
    spent_usd: float
    chunks_done: int
    rtfx: float | None
    age_s: float
    machine_id: int
    interruptible: bool
    expires_ms: int
    message: str = ""


@dataclass(frozen=True)
class FleetStatus:
    """The fleet at one moment.

    phase: run, up, drain or down (all are to be destroyed). target: how many machines are wanted, and reason: why.
    blind_since_ms: since when the market's list has not come whole. spent_usd: of all machines this fleet ever had, as
    far as the database remembers. alarms: sentences for a person, newest last. problem: what stops the fleet for good.
    rented: how many machines it had in all, as far as the database remembers.
    """

    fleet: str
    at_ms: int
    phase: str
    target: int
    lines: tuple[InstanceLine, ...]
    demand: Demand
    spent_usd: float
    max_usd: float
    blind_since_ms: int | None = None
    alarms: tuple[str, ...] = ()
    problem: str | None = None
    reason: str = ""
    rented: int = 0

    @property
    def live(self) -> int:
        """Machines that bill or may bill: those nobody knows of count."""
        return len(self.lines)

    @property
    def usd_per_hour(self) -> float:
        return sum(line.usd_per_hour for line in self.lines)

    @property
    def chunks_done(self) -> int:
        return sum(line.chunks_done for line in self.lines)

    @property
    def rtfx(self) -> float:
        """Audio seconds per second of all machines together, of those whose speed is known."""
        return sum(line.rtfx or 0.0 for line in self.lines)

    @property
    def by_state(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for line in self.lines:
            counts[line.state] = counts.get(line.state, 0) + 1
        return counts

    def to_json(self) -> dict[str, Any]:
        """All fields, and the totals: what `--json` prints."""
        return {
            **asdict(self),
            "live": self.live,
            "usd_per_hour": self.usd_per_hour,
            "chunks_done": self.chunks_done,
            "rtfx": self.rtfx,
            "by_state": self.by_state,
        }


@dataclass(frozen=True)
class Sighting:
    """What is known of one machine when its line is written."""

    intent: Intent
    state: str
    now_ms: int
    usd_per_hour: float
    spent_usd: float
    news: WorkerNews | None = None
    message: str = field(default="")


def line(seen: Sighting) -> InstanceLine:
    intent, news = seen.intent, seen.news
    return InstanceLine(
        nonce=intent.nonce,
        instance_id=intent.instance_id,
        gpu_name=intent.gpu_name,
        state=seen.state,
        usd_per_hour=seen.usd_per_hour,
        spent_usd=seen.spent_usd,
        chunks_done=news.chunks_done if news else 0,
        rtfx=measured_rtfx(news),
        age_s=max(0.0, (seen.now_ms - intent.asked_ms) / 1000),
        machine_id=intent.machine_id,
        interruptible=intent.is_bid,
        expires_ms=intent.expires_ms,
        message=seen.message or intent.reason,
    )


def measured_rtfx(news: WorkerNews | None) -> float | None:
    """Of the chunks it did where it has done some, else of its self-test."""
    if news is None:
        return None
    if news.busy_ms > 0 and news.audio_done_ms > 0:
        return news.audio_done_ms / news.busy_ms
    return news.rtfx


def still_alive(status: FleetStatus) -> str:
    """One sentence of what bills on when the controller leaves, and what to do about it."""
    if not status.lines:
        return f"Nothing of fleet '{status.fleet}' is rented any more; it spent ${status.spent_usd:.2f}."
    known = ", ".join(str(line.instance_id) for line in status.lines if line.instance_id is not None)
    count = len(status.lines)
    machines = "1 machine is" if count == 1 else f"{count} machines are"
    return (
        f"{machines} still rented for ${status.usd_per_hour:.2f} an hour in fleet '{status.fleet}'"
        f"{f' (instances {known})' if known else ''}: `whisperfleet fleet run --fleet {status.fleet}` takes over, "
        f"`whisperfleet fleet down --fleet {status.fleet}` destroys all; each ends itself when its time is over."
    )
