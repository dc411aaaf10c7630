"""How many machines the work is worth, and which of them may go. Pure; audio and machine time in seconds.

Work is what waits and what rented workers hold. A machine is worth renting while what is left for it, when it has
booted, pays its boot several times over; a fleet shrinks only to a size that it would not grow from again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

TARGET_USE = 0.9  # of a machine's time is inference: the rest is polling, fetching and the last chunk of a job
BOOT_SHARE = 0.25  # of what a machine earns may go into its boot
SHORTEST_USE_S = 60.0  # under a minute of work nobody waits for a machine to boot


@dataclass(frozen=True)
class Economy:
    """rtfx: audio seconds per second of a machine yet to be rented; boot_usd: gone before its first chunk."""

    rtfx: float
    boot_s: float
    boot_usd: float
    usd_per_hour: float
    drain_target_s: float

    @property
    def useful_s(self) -> float:
        """Work that one more machine must find. Never more than half the target: that is what was asked for."""
        paid_back = self.boot_usd / (BOOT_SHARE * self.usd_per_hour / 3600) if self.usd_per_hour > 0 else 0.0
        return max(SHORTEST_USE_S, min(paid_back, self.drain_target_s / 2))

    @property
    def idle_s(self) -> float:
        """How long to keep an idle machine: as long as that costs no more than booting another."""
        return self.boot_usd / (self.usd_per_hour / 3600) if self.usd_per_hour > 0 else math.inf


def needed(work_s: float, rtfx: float, economy: Economy) -> int:
    """Machines of this speed that finish the work within the target; a target shorter than two boots is none."""
    if work_s <= 0:
        return 0
    span = max(economy.drain_target_s, 2 * economy.boot_s)
    return max(1, math.ceil(work_s / (rtfx * span * TARGET_USE) - 1e-9))


def wanted(work_s: float, rtfx: Sequence[float], economy: Economy) -> int:
    """Machines to have, for those there are (their speeds, booting ones too): more only as far as each is worth it.

    The first machine needs no reason but work: a job must not wait for ever for another.
    """
    count = len(rtfx)
    speed = fmean(rtfx) if rtfx else economy.rtfx
    need = needed(work_s, speed, economy)
    if need <= count:
        return need
    while count < need and (count == 0 or _worth_one_more(work_s, count, speed, economy)):
        count += 1
    return count


def _worth_one_more(work_s: float, count: int, speed: float, economy: Economy) -> bool:
    """Whether work is left, when it has booted, to keep it and all others busy for long enough."""
    left_s = work_s - count * speed * economy.boot_s
    return left_s / (speed * (count + 1)) >= economy.useful_s


def dispensable(work_s: float, rtfx: Sequence[float], order: Sequence[int], least: int, economy: Economy) -> list[int]:
    """Which of `order` (indices into `rtfx`, first to go first) may go so that those left would want no other.

    With fewer machines the mean speed changes too: without this look a fast one would go, and be rented again.
    """
    left = dict(enumerate(rtfx))
    gone: list[int] = []
    for index in order:
        rest = [speed for other, speed in left.items() if other != index]
        enough = needed(work_s, fmean(rest) if rest else economy.rtfx, economy) <= len(rest)
        if len(rest) < least or not enough:
            continue
        del left[index]
        gone.append(index)
    return gone
