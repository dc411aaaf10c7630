"""What a machine did badly without lying: tasks that failed, went silent or were put aside; and what that costs it.

None of it costs the task an attempt, or a few bad machines would end a job for good: the task is for others, and the
machine is kept from it for a while. Who does it often gets a strike; honest work makes up for it, slowly.
"""

from collections.abc import Callable

from provisioning.gateway_leases import Lease
from provisioning.gateway_state import FOR_EVER_MS, Rented, State

FAILURES_A_STRIKE = 4  # in a row: as many as make Conductor give a task up
FAILURE_POINTS = 3
"""A failure gives so many points, a success takes one: whoever fails at more than every fourth task gets strikes."""

FAILED_AGAIN_MS = 60_000  # so long a task that failed at a machine is not for it; a lone machine may then try again
FAILED_AGAIN_AMONG_OTHERS_MS = 600_000  # and so long while other machines live, which may have it
MOST_ASIDES = 3  # of one task by one machine, when all was there that it takes
REST_MS = 2_000
"""So long a machine that was given a task it is kept from gets none of that kind. The task waits at once again, and
whoever asks meanwhile has it; were the task to wait, a machine that asks all the time would keep it from everybody."""

LIVE_MS = 60_000
_MOST_KEPT = 20_000


class Faults:
    """state: whose machines; now_ms: its clock, epoch milliseconds. For one event loop."""

    def __init__(self, state: State, now_ms: Callable[[], int]) -> None:
        self._state = state
        self._now_ms = now_ms
        self._asides: dict[tuple[str, str, str], int] = {}
        self._resting: dict[tuple[str, str], int] = {}

    def live(self, kind: str) -> set[str]:
        """The machines that would take such a task now."""
        now = self._now_ms()
        return {
            nonce
            for nonce, rented in self._state.machines.items()
            if kind in rented.kinds
            and now - (rented.last_seen_ms or 0) < LIVE_MS
            and rented.expires_ms > now
            and rented.revoked_ms is None
            and rented.refused is None
            and not rented.draining
        }

    def keep_from(self, lease: Lease) -> None:
        """This machine is not to have this task again soon, whatever attempt it is. Never shortens what was longer."""
        until = self._now_ms() + FAILED_AGAIN_AMONG_OTHERS_MS
        if self._state.banned_until(lease.nonce, lease.workflow_id, lease.reference) < until:
            self._state.ban(lease.nonce, lease.workflow_id, lease.reference, until)

    def is_kept_from(self, nonce: str, kind: str, workflow_id: str, reference: str) -> bool:
        """Looked at when the task comes: a machine that is the last one left by then may have it sooner."""
        until = self._state.banned_until(nonce, workflow_id, reference)
        left = until - self._now_ms()
        if left <= 0 or until >= FOR_EVER_MS:
            return left > 0
        return left > FAILED_AGAIN_AMONG_OTHERS_MS - FAILED_AGAIN_MS or bool(self.live(kind) - {nonce})

    def failed(self, rented: Rented) -> bool:
        """Count a failure; True where that makes a strike."""
        rented.failures += FAILURE_POINTS
        if rented.failures < FAILURES_A_STRIKE * FAILURE_POINTS:
            return False
        rented.failures = 0
        return True

    def done(self, rented: Rented) -> None:
        rented.failures = max(0, rented.failures - 1)

    def put_aside(self, lease: Lease) -> bool:
        """Count that a task was put aside that could have been done; True where that was once too often."""
        name = (lease.nonce, lease.workflow_id, lease.reference)
        if len(self._asides) > _MOST_KEPT:
            self._asides.clear()
        self._asides[name] = self._asides.get(name, 0) + 1
        if self._asides[name] < MOST_ASIDES:
            return False
        del self._asides[name]
        return True

    def rest(self, nonce: str, kind: str) -> None:
        now = self._now_ms()
        if len(self._resting) > _MOST_KEPT:
            self._resting = {name: until for name, until in self._resting.items() if until > now}
        self._resting[nonce, kind] = now + REST_MS

    def is_resting(self, nonce: str, kind: str) -> bool:
        return self._resting.get((nonce, kind), 0) > self._now_ms()
