"""What a fleet has cost so far, by what bills when: a meter that is moved on with every list, and never goes back much.

Vast.ai bills by the second: the GPU while an instance runs (or is frozen or reboots), its disk as long as it exists
and its host is online, traffic in every state, the image's pull included; loading does not bill the GPU. The market's
own account lags by hours, so this is the meter and that the audit. In doubt it counts what is dearer: a request from
the moment it is sent, a change between two lists from the dearer side, and the time in which nobody answers as running.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from provisioning.cloud import Instance
from provisioning.fleet import Intent, Label, WorkerNews

State = Literal["asked", "booting", "running", "halted", "offline", "over"]

RUNNING = frozenset({"running", "frozen", "rebooting"})
BOOTING = frozenset({None, "created", "loading"})
AUDIO_GB_PER_HOUR = 0.072  # 20 kB a second: what FLAC makes of lively speech at 16 kHz, 16 bit, is a little less
PATIENCE_MS = 60_000  # lists come every 10 to 15 s: one that boots and was not seen for longer is taken as running
LANDING_MS = 30_000  # one that is found stopped so soon had no room or too low a bid: it has pulled next to nothing
OVERSTAY_MS = 15 * 60_000  # a container counts its life from its start, which is a boot later than the label's clock
_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Line:
    """One machine's bill. Dollars are settled up to billed_ms; what came later is estimated from `state`.

    asked: nobody has seen it yet; halted: it exists and its GPU is not ours at present. absent_ms: since when
    validated lists lack it; destroyed_ms: when the market last took an order to destroy it.
    """

    nonce: str
    since_ms: int
    billed_ms: int
    expires_ms: int
    state: State
    gpu_usd_per_hour: float
    storage_usd_per_hour: float = 0.0
    instance_id: int | None = None
    gpu_usd: float = 0.0
    storage_usd: float = 0.0
    pulled_gb: float = 0.0
    audio_gb: float = 0.0
    usd_per_gb: float = 0.0
    absent_ms: int | None = None
    destroyed_ms: int | None = None

    @property
    def settled_usd(self) -> float:
        return self.gpu_usd + self.storage_usd + (self.pulled_gb + self.audio_gb) * self.usd_per_gb

    @property
    def usd_per_hour(self) -> float:
        """What it bills now."""
        if self.state in ("over", "offline"):
            return 0.0
        gpu = self.gpu_usd_per_hour if self.state in ("asked", "running") else 0.0
        return gpu + self.storage_usd_per_hour

    def usd(self, now_ms: int) -> float:
        """What it has cost by `now_ms`, settled and estimated."""
        end = min(now_ms, _latest_end(self))
        waited = max(0, end - self.billed_ms)
        assumed = self.state == "booting" and waited > PATIENCE_MS
        rate = self.usd_per_hour + (self.gpu_usd_per_hour if assumed else 0.0)
        return self.settled_usd + rate * waited / _HOUR_MS


@dataclass(frozen=True)
class Meter:
    """All machines a fleet ever had, by nonce (a second one under the same nonce as `nonce#instance id`)."""

    lines: Mapping[str, Line] = field(default_factory=dict)

    def usd(self, now_ms: int) -> float:
        return sum(line.usd(now_ms) for line in self.lines.values())

    def costs(self, now_ms: int) -> dict[str, float]:
        """Dollars by nonce."""
        found: dict[str, float] = {}
        for line in self.lines.values():
            found[line.nonce] = found.get(line.nonce, 0.0) + line.usd(now_ms)
        return found

    @property
    def usd_per_hour(self) -> float:
        """What all machines bill now."""
        return sum(line.usd_per_hour for line in self.lines.values())

    def to_json(self) -> dict[str, Any]:
        return {key: asdict(line) for key, line in self.lines.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> "Meter":
        return cls({key: Line(**fields) for key, fields in (data or {}).items()})


def advance(
    meter: Meter,
    intents: Sequence[Intent],
    instances: Sequence[Instance] | None,
    now_ms: int,
    fleet: str,
    workers: Mapping[str, WorkerNews] | None = None,
    image_gb: float = 4.0,
) -> Meter:
    """The meter at `now_ms`, after one look at the market; instances None: it did not answer.

    intents: all, closed ones too as far as they are remembered: a line is over when its intent is closed and no
    list shows it. Doing it twice with the same arguments changes nothing.
    """
    lines = {key: _not_ahead(line, now_ms) for key, line in meter.lines.items()}
    for intent in intents:
        if intent.state != "closed" and intent.nonce not in lines:
            lines[intent.nonce] = _asked(intent)
    if instances is None:
        return Meter(lines)
    news = workers or {}
    ours = {intent.instance_id: intent.nonce for intent in intents if intent.instance_id is not None}
    listed = set()
    for row in instances:
        nonce = _nonce(row, fleet, ours)
        if nonce is not None:
            key = _key(lines, nonce, row.id)
            listed.add(key)
            lines[key] = _settled(lines.get(key) or _orphan(row, nonce, now_ms), row, now_ms, news.get(nonce), image_gb)
    opened = {intent.nonce for intent in intents if intent.state != "closed"}
    for key in lines.keys() - listed:
        lines[key] = _unlisted(lines[key], opened, now_ms)
    return Meter(lines)


def destroyed(meter: Meter, instance_id: int, at_ms: int) -> Meter:
    """The market has taken an order to destroy this instance: if lists lack it from now on, that was its end."""
    return Meter(
        {
            key: replace(line, destroyed_ms=at_ms) if line.instance_id == instance_id else line
            for key, line in meter.lines.items()
        }
    )


def _not_ahead(line: Line, now_ms: int) -> Line:
    """The clock was put back, between two controllers: what is billed is billed, and it goes on from here."""
    if line.billed_ms <= now_ms:
        return line
    return replace(line, billed_ms=now_ms, since_ms=min(line.since_ms, now_ms))


def _nonce(row: Instance, fleet: str, ours: Mapping[int, str]) -> str | None:
    label = Label.decode(row.label)
    if label is None:
        return ours.get(row.id)
    return label.nonce if label.fleet == fleet else None


def _key(lines: Mapping[str, Line], nonce: str, instance_id: int) -> str:
    known = lines.get(nonce)
    return nonce if known is None or known.instance_id in (None, instance_id) else f"{nonce}#{instance_id}"


def _asked(intent: Intent) -> Line:
    """Billed as if it ran from its request on: if it did not, `_settled` or `_unlisted` puts that right."""
    return Line(
        nonce=intent.nonce,
        since_ms=intent.asked_ms,
        billed_ms=intent.asked_ms,
        expires_ms=intent.expires_ms,
        state="asked",
        gpu_usd_per_hour=intent.usd_per_hour,
    )


def _orphan(row: Instance, nonce: str, now_ms: int) -> Line:
    """One that nobody remembers renting: its past is billed as far as the market tells when it began."""
    since = min(now_ms, row.started_ms) if row.started_ms is not None else now_ms
    label = Label.decode(row.label)
    expires = label.expires_s * 1000 if label else now_ms
    return Line(nonce, since, since, expires, "running", row.gpu_usd_per_hour, row.storage_usd_per_hour)


def _settled(line: Line, row: Instance, now_ms: int, news: WorkerNews | None, image_gb: float) -> Line:
    """Bill the time since the last list from the dearer of what it was then and is now."""
    state = _state(row)
    begin = line.billed_ms
    gone = state in ("halted", "offline") and line.state in ("asked", "booting")
    unseen = gone and now_ms - begin > PATIENCE_MS  # it may have run until it was outbid, or its host died, just now
    gpu_ms = storage_ms = 0
    if now_ms > begin:
        ran = line.state in ("running", "over")
        if ran:
            gpu_ms = now_ms - begin
        elif state == "running" or unseen:
            gpu_ms = max(0, now_ms - max(begin, line.since_ms + _fastest_boot_ms(row, image_gb)))
        if state != "offline" or line.state != "offline":
            storage_ms = now_ms - begin
    rate = max(row.gpu_usd_per_hour, line.gpu_usd_per_hour) if line.state == "running" else row.gpu_usd_per_hour
    return replace(
        line,
        instance_id=row.id,
        state=state,
        billed_ms=max(begin, now_ms),
        gpu_usd_per_hour=row.gpu_usd_per_hour,
        storage_usd_per_hour=row.storage_usd_per_hour,
        gpu_usd=line.gpu_usd + rate * gpu_ms / _HOUR_MS,
        storage_usd=line.storage_usd + row.storage_usd_per_hour * storage_ms / _HOUR_MS,
        pulled_gb=max(line.pulled_gb, image_gb if unseen else _pulled_gb(line, row, now_ms, image_gb)),
        audio_gb=max(line.audio_gb, _audio_gb(news)),
        usd_per_gb=row.inet_down_usd_per_gb,
        absent_ms=None,
    )


def _unlisted(line: Line, opened: Collection[str], now_ms: int) -> Line:
    """A list without it: nothing is settled before its intent is closed, since one list proves little."""
    if line.state == "over":
        return line
    seen = line.state != "asked"
    absent = line.absent_ms if line.absent_ms is not None else now_ms if seen else None
    line = replace(line, absent_ms=absent)
    if line.nonce in opened:
        return line
    if not seen:
        return replace(line, state="over", gpu_usd_per_hour=0.0)  # it never was
    end = min(now_ms, _latest_end(line))
    span = max(0, end - line.billed_ms)
    gpu = line.gpu_usd_per_hour * span / _HOUR_MS if line.state == "running" else 0.0
    storage = line.storage_usd_per_hour * span / _HOUR_MS if line.state != "offline" else 0.0
    return replace(
        line,
        state="over",
        billed_ms=max(line.billed_ms, end),
        gpu_usd=line.gpu_usd + gpu,
        storage_usd=line.storage_usd + storage,
    )


def _latest_end(line: Line) -> int:
    """When it cannot have billed any more: gone from the lists after an order to destroy it, gone, or long expired."""
    end = max(line.billed_ms, line.expires_ms + OVERSTAY_MS)
    if line.absent_ms is not None:
        end = min(end, line.absent_ms)
        if line.destroyed_ms is not None:
            end = min(end, line.destroyed_ms)
    return max(line.billed_ms, end)


def _state(row: Instance) -> State:
    if row.actual == "offline":
        return "offline"
    if row.actual in RUNNING:
        return "running"
    return "booting" if row.actual in BOOTING and row.intended != "stopped" else "halted"


def _fastest_boot_ms(row: Instance, image_gb: float) -> int:
    """It cannot have run before its image was there, at the best its line can do."""
    return int(image_gb * 8_000 / row.inet_down_mbps * 1000) if row.inet_down_mbps > 0 else 0


def _pulled_gb(line: Line, row: Instance, now_ms: int, image_gb: float) -> float:
    """As much of the image as can have come: all of it where it runs, also where it was stopped before it was seen."""
    stopped = row.actual in ("exited", "stopped")
    if row.actual in RUNNING:
        return image_gb
    if row.actual in (None, "created") or line.state not in ("asked", "booting"):
        return line.pulled_gb
    if line.state == "asked" and stopped and now_ms - line.since_ms < LANDING_MS:
        return 0.0
    seconds = max(0, now_ms - line.since_ms) / 1000
    return min(image_gb, seconds * row.inet_down_mbps / 8_000)


def _audio_gb(news: WorkerNews | None) -> float:
    if news is None:
        return 0.0
    return (news.audio_done_ms + news.held_audio_ms) / _HOUR_MS * AUDIO_GB_PER_HOUR
