"""The epoch by a clock that nobody sets, for what is about money: see `SteadyEpoch`."""

import time


class SteadyEpoch:
    """Epoch nanoseconds as the system's clock had them at the start, and on from there by one that is never set.

    A clock that is put back would let a meter stand still, one that is put ahead would end machines before their time.
    It goes on while the machine sleeps, where the system has such a clock: what is rented bills meanwhile.
    """

    def __init__(self) -> None:
        self._began_ns = time.time_ns() - _steady_ns()

    def ns(self) -> int:
        return self._began_ns + _steady_ns()


def _steady_ns() -> int:
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
