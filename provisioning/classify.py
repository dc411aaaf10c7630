"""What each machine of a fleet is doing, from one row of the market's list and what the gateway hears of it.

And whether it has to go: what a machine is and for how long decides that, whatever the fleet needs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from provisioning.cloud import Instance
from provisioning.fleet import Intent, Label, Limits, Speeds, WorkerNews

Class = Literal[
    "BOOTING",  # being made, pulling its image, or rebooting
    "SILENT",  # runs, and its worker does not speak to the gateway (yet, or any more)
    "READY",  # its worker speaks, holds nothing, and has not been idle for long
    "BUSY",  # holds tasks
    "IDLE",  # holds nothing and had nothing for as long as waiting is cheaper than booting another
    "DRAINING",  # is given nothing more
    "REFUSED",  # its self-test or its results disqualify it
    "PREEMPTED",  # interruptible, and stopped without our asking: outbid
    "DEAD",  # ended, stopped or out of reach
    "EXPIRED",  # past what its label or its contract allows
    "CLOSING",  # to be destroyed, until lists no longer show it
    "ORPHAN",  # has our label, and no open intent is behind it
]

BOOT_LIMIT_MS = 12 * 60_000  # 4 GB at the 300 Mbit/s that are asked for are two minutes; Vast.ai's own test allows 15
PULL_LIMIT_MS = 30 * 60_000  # for an image that comes slowly but comes: loading does not bill the GPU
PROGRESS_MS = 3 * 60_000  # a pull whose message has not changed for so long stands still
SILENT_LIMIT_MS = 4 * 60_000  # the supervisor speaks every 20 s, from its first moment on
DEAD_LIMIT_MS = 60_000  # a host that loses its connection is often back within a minute
DRAIN_AHEAD_MS = 5 * 60_000  # before a machine must be gone it gets no more: a chunk takes 90 s at most
COMPARED = 3  # machines of one kind, from which on their median is told by none of them alone
MEASURED_CHUNKS = 3  # of a machine whose speed is compared
SLOW_SHARE = 0.2  # of the measured speed of its kind: below, something else runs on that GPU
PRICE_TOLERANCE = 1.02

HOUR_S = 3_600.0
STRIKE_PREEMPTED_S = 0.5 * HOUR_S  # the rival has it now
STRIKE_FAILED_S = HOUR_S
STRIKE_REFUSED_S = 24 * HOUR_S

_FATAL = re.compile(
    r"oci runtime|unsatisfied condition|manifest unknown|manifest for .* not found|access denied|unauthorized"
    r"|permission denied|no space left|error response from daemon|failed to (create|start|pull)",
    re.IGNORECASE,
)
"""What a booting machine says when it will never run: of driver, image or host, and none mends by itself."""

_BOOTING = (None, "created", "loading", "rebooting")
_RUNNING = ("running", "frozen")


@dataclass(frozen=True)
class Seen:
    """Since when an instance is as it is: its state (`actual` of the market) and its message, epoch milliseconds."""

    state: str | None
    state_ms: int
    message: str
    message_ms: int


@dataclass(frozen=True)
class Memory:
    """What a plan has to remember of those before it. Losing it costs some patience, never a machine or money."""

    low_ticks: int = 0  # plans in a row that wanted fewer machines than there are
    known_since_ms: int | None = None  # since when server and gateway answer without a break
    drain_since_ms: int | None = None
    preempted_ms: tuple[int, ...] = ()  # of the last 15 minutes, and since the last step
    spot_step: int = 0  # 0: bid as usual; 1: bid more; 2: half of what is rented is on demand
    spot_step_ms: int = 0
    seen: Mapping[int, Seen] = field(default_factory=dict)  # by instance id
    closing_ms: Mapping[int, int] = field(default_factory=dict)  # since when what is listed is to be destroyed
    alarms: frozenset[str] = frozenset()  # what has been told already and still holds


@dataclass(frozen=True)
class Surroundings:
    """What a machine is judged by besides its own. known_since_ms None: server or gateway do not answer.

    usual_rtfx: of the kinds of GPU of which there are enough here (see `usual_rtfx`).
    """

    now_ms: int
    known_since_ms: int | None
    limits: Limits
    speeds: Speeds
    idle_ms: float
    image_gb: float
    usual_rtfx: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """doom: why it has to go now, in a few words; None where it may stay. ends_soon: it is to get no more work."""

    kind: Class
    doom: str | None = None
    strike_s: float = 0.0
    ends_soon: bool = False


def look(rows: Sequence[Instance], seen: Mapping[int, Seen], now_ms: int) -> dict[int, Seen]:
    """The memory of rows after this list. A row that a list lacked once is not forgotten."""
    fresh = dict(seen)
    for row in rows:
        old = seen.get(row.id)
        fresh[row.id] = Seen(
            state=row.actual,
            state_ms=old.state_ms if old and old.state == row.actual else now_ms,
            message=row.message,
            message_ms=old.message_ms if old and old.message == row.message else now_ms,
        )
    return fresh


def usual_rtfx(rows: Sequence[Instance], workers: Mapping[str, WorkerNews]) -> dict[str, float]:
    """The median speed by kind of GPU, of what machines have done and not of what they say of themselves.

    Of kinds with COMPARED machines that have worked: one that lies about its own work does not move it far.
    """
    kinds: dict[str, list[float]] = {}
    for row in rows:
        label = Label.decode(row.label)
        news = workers.get(label.nonce) if label is not None else None
        if news is not None and news.chunks_done >= MEASURED_CHUNKS and news.busy_ms > 0 and news.audio_done_ms > 0:
            kinds.setdefault(row.gpu_name, []).append(news.audio_done_ms / news.busy_ms)
    return {kind: median(speeds) for kind, speeds in kinds.items() if len(speeds) >= COMPARED}


def judge(row: Instance, intent: Intent, news: WorkerNews | None, seen: Seen, around: Surroundings) -> Verdict:
    """What a machine with an open intent is, and whether it has to go."""
    if intent.state == "closing":
        return Verdict("CLOSING", intent.reason or "to be destroyed")
    left_ms = _end_ms(row, intent) - around.now_ms
    if left_ms <= 0:
        return Verdict("EXPIRED", "its time is over")
    verdict = _gone_wrong(row, intent, seen, around) or _by_state(row, intent, news, seen, around)
    if left_ms <= DRAIN_AHEAD_MS and verdict.doom is None:
        return Verdict(verdict.kind, ends_soon=True)
    return verdict


def stopped(row: Instance) -> bool:
    """Stopped by the market: a fleet stops nothing, it destroys. Left alone it bills its disk and may start again."""
    return row.intended == "stopped" or (row.current == "stopped" and row.next != "running")


def _end_ms(row: Instance, intent: Intent) -> int:
    """When it must be gone, by this clock: the market's clock tells only how long the contract is."""
    if row.ends_ms is None:
        return intent.expires_ms
    contract = row.ends_ms if row.started_ms is None else intent.asked_ms + row.ends_ms - row.started_ms
    return min(intent.expires_ms, contract)


def _gone_wrong(row: Instance, intent: Intent, seen: Seen, around: Surroundings) -> Verdict | None:
    if stopped(row):
        said = f" ({row.message})" if row.message else ""
        if row.is_bid:
            return Verdict("PREEMPTED", f"outbid{said}", STRIKE_PREEMPTED_S)
        return Verdict("DEAD", f"stopped by the market{said}", STRIKE_FAILED_S)
    price = row.gpu_usd_per_hour + row.storage_usd_per_hour
    agreed = max(intent.usd_per_hour, around.limits.max_price)
    if price > agreed * PRICE_TOLERANCE:
        return Verdict("REFUSED", f"costs ${price:.3f} an hour, agreed were ${agreed:.3f}", STRIKE_FAILED_S)
    if row.actual not in _BOOTING and row.actual not in _RUNNING:
        if around.now_ms - seen.state_ms >= DEAD_LIMIT_MS:
            return Verdict("DEAD", f"{row.actual} for {DEAD_LIMIT_MS // 1000} s", STRIKE_FAILED_S)
        return Verdict("DEAD")
    return None


def _by_state(row: Instance, intent: Intent, news: WorkerNews | None, seen: Seen, around: Surroundings) -> Verdict:
    if row.actual in _BOOTING:
        return _booting(row, intent, seen, around)
    if news is None or news.first_seen_ms is None:
        return _silent(seen.state_ms, around) or Verdict("SILENT")
    silent = _silent(max(news.last_seen_ms or news.first_seen_ms, seen.state_ms), around)
    return silent or _speaking(row, news, around)


def _booting(row: Instance, intent: Intent, seen: Seen, around: Surroundings) -> Verdict:
    if _FATAL.search(row.message):
        return Verdict("BOOTING", f"cannot start: {row.message[:120]}", STRIKE_FAILED_S)
    since = seen.state_ms if row.actual == "rebooting" else intent.asked_ms
    waited = around.now_ms - since
    if waited < BOOT_LIMIT_MS:
        return Verdict("BOOTING")
    pull_ms = around.image_gb * 8_000 / row.inet_down_mbps * 1000 if row.inet_down_mbps > 0 else 0.0
    slow_line = waited < 2 * pull_ms
    comes_on = row.message != "" and around.now_ms - seen.message_ms < PROGRESS_MS
    if row.actual == "loading" and (slow_line or comes_on) and waited < PULL_LIMIT_MS:
        return Verdict("BOOTING")
    return Verdict("BOOTING", f"has not booted in {waited // 60_000} minutes", STRIKE_FAILED_S)


def _silent(since_ms: int, around: Surroundings) -> Verdict | None:
    """Nobody is silent while the gateway itself does not speak, nor before it had as long to be spoken to."""
    if around.known_since_ms is None:
        return None
    waited = around.now_ms - max(since_ms, around.known_since_ms)
    if waited < SILENT_LIMIT_MS:
        return None
    return Verdict("SILENT", f"its worker has not been heard of for {waited // 1000} s", STRIKE_FAILED_S)


def _speaking(row: Instance, news: WorkerNews, around: Surroundings) -> Verdict:
    if news.refused is not None:
        return Verdict("REFUSED", news.refused, STRIKE_REFUSED_S)
    usual = around.usual_rtfx.get(row.gpu_name, around.speeds.rtfx.get(row.gpu_name))
    if usual is not None and news.rtfx is not None and news.rtfx < SLOW_SHARE * usual:
        told = f"computes {news.rtfx:.1f} s of audio a second, others of its kind {usual:.1f}"
        return Verdict("REFUSED", told, STRIKE_REFUSED_S)
    if news.draining:
        return Verdict("DRAINING", "has finished what it held" if news.held_tasks == 0 else None)
    if news.held_tasks > 0:
        return Verdict("BUSY")
    quiet_ms = around.now_ms - max(news.first_seen_ms or 0, news.last_task_ms or 0)
    return Verdict("IDLE" if quiet_ms >= around.idle_ms else "READY")
