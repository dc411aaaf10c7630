"""What each machine of a fleet is doing, from one row of the market's list and what the gateway hears of it."""

from dataclasses import dataclass, field
from typing import Literal

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
    seen: dict[int, Seen] = field(default_factory=dict)  # by instance id
    alarms: frozenset[str] = frozenset()  # what has been told already and still holds
