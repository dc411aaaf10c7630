"""The market's list of machines as a controller may believe it, and what of it is one fleet's.

A list that did not come, or that contradicts the machines themselves, is no list: then the controller is blind, which
is not the same as having nothing.
"""

from collections.abc import Callable

from provisioning.cloud import Cloud, CloudBlind, CloudRefused, Instance
from provisioning.fleet import Intent, Label
from provisioning.hearing import Heard
from provisioning.ledger import Ledger

REFUSALS_BELIEVED = 3  # in a row: a market in trouble was seen to refuse good keys, and giving up costs the fleet
CONTRADICTED_MS = 3 * 60_000  # of lists that lack whoever speaks: after that it is the list that is believed
SPOKE_LATELY_MS = 45_000  # two heartbeats of a worker, and some

Rows = tuple[Instance, ...]


class Listing:
    """blind_since_ms: since when there was no list to believe. clean_since_ms: since when lists show nothing of the
    fleet, and no request is open. refused: why the key is no good for anything any more, a sentence.
    """

    def __init__(self, cloud: Cloud, ledger: Ledger, fleet: str, alarm: Callable[[str], None]) -> None:
        self._cloud = cloud
        self._ledger = ledger
        self._fleet = fleet
        self._alarm = alarm
        self._refusals = 0
        self._listed = False
        self.last: Rows = ()
        self.blind_since_ms: int | None = None
        self.clean_since_ms: int | None = None
        self.refused: str | None = None
        self._contradicted_ms: int | None = None  # since when

    def look(self, heard: Heard, now_ms: int) -> Rows | None:
        """All rows of the account, or None: blind."""
        rows = self._ask()
        contradicted = rows is not None and self._is_contradicted(rows, heard, now_ms)
        if not contradicted:
            self._contradicted_ms = None if rows is not None else self._contradicted_ms
        else:
            self._contradicted_ms = now_ms if self._contradicted_ms is None else self._contradicted_ms
            if now_ms - self._contradicted_ms < CONTRADICTED_MS:
                self._alarm("The market lists no machine of this fleet while its workers speak: that is not believed.")
                rows = None
        if rows is None:
            self.blind_since_ms = now_ms if self.blind_since_ms is None else self.blind_since_ms
            self.clean_since_ms = None
            return None
        self.last, self.blind_since_ms = rows, None
        if any(map(self.is_ours, rows)) or any(intent.state != "closed" for intent in self._ledger.intents()):
            self.clean_since_ms = None
        elif self.clean_since_ms is None:
            self.clean_since_ms = now_ms
        return rows

    def clean_for(self, now_ms: int) -> int:
        """Milliseconds for which there was nothing; -1: there is something, or nobody knows."""
        return -1 if self.clean_since_ms is None else now_ms - self.clean_since_ms

    def is_ours(self, row: Instance) -> bool:
        label = Label.decode(row.label)
        return label is not None and label.fleet == self._fleet

    def strangers(self, rows: Rows) -> list[Instance]:
        """Machines of this fleet that no intent, open or closed, is behind."""
        known = {intent.nonce for intent in self._ledger.intents()}
        return [row for row in rows if self.is_ours(row) and label_of(row).nonce not in known]

    def _ask(self) -> Rows | None:
        try:
            rows = self._cloud.instances()
        except CloudRefused as error:
            self._refusals += 1
            self._alarm(str(error))
            if self._refusals >= REFUSALS_BELIEVED or not self._listed:
                self.refused = str(error)
            return None
        except CloudBlind as error:
            self._alarm(str(error))
            return None
        self._refusals, self._listed = 0, True
        return rows

    def _is_contradicted(self, rows: Rows, heard: Heard, now_ms: int) -> bool:
        """Whether the list lacks all our machines, and one of those spoke to the gateway just now."""
        bound = [intent for intent in self._ledger.intents() if intent.state == "bound"]
        if {intent.instance_id for intent in bound} & {row.id for row in rows}:
            return False
        news = [heard.workers[intent.nonce] for intent in bound if intent.nonce in heard.workers]
        return heard.known and any(now_ms - (one.last_seen_ms or 0) < SPOKE_LATELY_MS for one in news)


def label_of(row: Instance) -> Label:
    """Of a row that has one of ours."""
    label = Label.decode(row.label)
    assert label is not None
    return label


def adopted(row: Instance, now_ms: int) -> Intent:
    """The intent that must have been behind a machine of ours."""
    label = label_of(row)
    return Intent(
        nonce=label.nonce,
        state="bound",
        offer_id=0,
        machine_id=row.machine_id,
        gpu_name=row.gpu_name,
        asked_ms=min(now_ms, row.started_ms) if row.started_ms is not None else now_ms,
        expires_ms=label.expires_s * 1000,
        usd_per_hour=row.gpu_usd_per_hour + row.storage_usd_per_hour,
        is_bid=row.is_bid,
        instance_id=row.id,
        usd_per_gb=row.inet_down_usd_per_gb,
    )
