"""Ending machines by their labels alone: no database, no gateway, no controller, and so from any machine.

`reap` is for cron on another machine, with a key that may only read and destroy instances: it ends what has outlived
the expiry in its label. `down` ends all machines of one fleet. Whatever has no label of ours is never touched.
"""

from collections.abc import Callable
from dataclasses import dataclass

from provisioning.cloud import Cloud, CloudBlind, CloudRefused, Instance
from provisioning.fleet import Label

LISTS_APART_S = 20.0  # two lists this far apart, as one alone proves little: rows may be late or missing
CLEAN_S = 120.0  # where nobody knows what was just rented: lists lag 90 s
ROUND_S = 10.0
REFUSALS_BELIEVED = 3  # rounds in a row: a market in trouble was seen to refuse good keys, and others may be let go
GIVE_UP_S = 15 * 60.0  # a market that does not let go for so long needs a person, who is told what is left


@dataclass(frozen=True)
class Reaped:
    """What was found and what became of it.

    destroyed: ids that lists no longer show. left: those that are still there. spared: machines of ours whose time is
    not over. problem: why it ended before all was clean.
    """

    destroyed: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    spared: int = 0
    problem: str | None = None


def reap(
    cloud: Cloud,
    now_ms: Callable[[], int],
    sleep: Callable[[float], None],
    *,
    fleet: str | None = None,
    grace_s: float = 0.0,
    say: Callable[[str], None] = lambda _: None,
    give_up_s: float = GIVE_UP_S,
) -> Reaped:
    """Destroy every machine of ours (of `fleet`, or of all fleets) that is past its time, until two lists lack it.

    Past its time: the expiry in its label, or the end of its contract as the market tells it. grace_s: how much later
    than that by this machine's clock. Raises CloudRefused where the key is not accepted, CloudBlind where the market
    never gave a whole list.
    """

    def due(row: Instance, label: Label) -> bool:
        now = now_ms() - round(grace_s * 1000)
        return (fleet is None or label.fleet == fleet) and (
            label.expires_s * 1000 <= now or (row.ends_ms is not None and row.ends_ms <= now)
        )

    return _Sweep(cloud, now_ms, sleep, due, say).until_clean(give_up_s)


def down(
    cloud: Cloud,
    fleet: str,
    now_ms: Callable[[], int],
    sleep: Callable[[float], None],
    *,
    say: Callable[[str], None] = lambda _: None,
    give_up_s: float = GIVE_UP_S,
) -> Reaped:
    """Destroy every machine of the fleet, until lists show none for CLEAN_S. Raises as `reap` does."""
    sweep = _Sweep(cloud, now_ms, sleep, lambda _, label: label.fleet == fleet, say, CLEAN_S)
    return sweep.until_clean(give_up_s)


class _Sweep:
    def __init__(
        self,
        cloud: Cloud,
        now_ms: Callable[[], int],
        sleep: Callable[[float], None],
        due: Callable[[Instance, Label], bool],
        say: Callable[[str], None],
        clean_s: float = LISTS_APART_S,
    ) -> None:
        self._clean_s = clean_s
        self._cloud = cloud
        self._now_ms = now_ms
        self._sleep = sleep
        self._due = due
        self._say = say
        self._asked: set[int] = set()
        self._refused_rounds = 0

    def until_clean(self, give_up_s: float) -> Reaped:
        end = self._now_ms() + round(give_up_s * 1000)
        clean_ms: int | None = None
        left: tuple[int, ...] = ()
        spared = 0
        blind: CloudBlind | None = None
        while True:
            now = self._now_ms()
            try:
                left, spared = self._round()
                blind = None
                clean_ms = None if left else now if clean_ms is None else clean_ms
            except CloudBlind as error:
                blind, clean_ms = error, None
                self._say(str(error))
            if clean_ms is not None and now - clean_ms >= self._clean_s * 1000:
                return Reaped(tuple(sorted(self._asked)), (), spared)
            if now >= end:
                if blind is not None and not self._asked:
                    raise blind
                problem = str(blind) if blind else "The market takes orders to destroy them, and lists them still."
                return Reaped(tuple(sorted(self._asked - set(left))), left, spared, problem)
            self._sleep(LISTS_APART_S if clean_ms is not None else ROUND_S)

    def _round(self) -> tuple[tuple[int, ...], int]:
        """Ids that are due by a whole list, each asked to end; and how many of ours are not."""
        ours = [(row, label) for row in self._cloud.instances() if (label := Label.decode(row.label)) is not None]
        due = [row for row, label in ours if self._due(row, label)]
        refused: CloudRefused | None = None
        for row in due:
            if row.id not in self._asked:
                self._say(f"Instance {row.id} ({row.gpu_name}, {row.label}) is to go.")
            self._asked.add(row.id)
            try:
                self._cloud.destroy(row.id)
            except CloudBlind as error:
                self._say(str(error))
            except CloudRefused as error:
                refused = error
        self._refused_rounds = 0 if refused is None else self._refused_rounds + 1
        if refused is not None and self._refused_rounds >= REFUSALS_BELIEVED:
            raise refused
        return tuple(row.id for row in due), len(ours) - len(due)
