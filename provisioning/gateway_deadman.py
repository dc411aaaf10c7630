"""Who ends rented machines when nobody governs them any more: a controller that is dead keeps to no budget.

While it lives it asks the gateway for its workers every few seconds. When nobody has asked for PATIENCE_MS the gateway
gives them nothing more, and REVOKED_MS later nothing at all: a machine without a gateway ends itself, by its own key.
"""

from typing import Literal, Protocol

from provisioning.fleet import WorkerNews

PATIENCE_MS = 15 * 60_000  # a controller that is upgraded, or whose machine is started anew, is back sooner
REVOKED_MS = 2 * 60_000  # after that: a chunk takes 90 s at most, so that what is begun is finished


class Machines(Protocol):
    """What of a `provisioning.gateway_desk.Desk` it takes."""

    def news(self) -> list[WorkerNews]: ...

    def drain(self, nonce: str) -> bool: ...

    async def lose(self, nonce: str, expires_ms: int) -> list[str]: ...


class Deadman:
    """Pure but for `look`. Times are milliseconds of one clock that is never set."""

    def __init__(self, now_ms: int) -> None:
        self._asked_ms = now_ms

    def asked(self, now_ms: int) -> None:
        """A controller has just asked for the workers."""
        self._asked_ms = max(self._asked_ms, now_ms)

    def verdict(self, now_ms: int) -> Literal["drain", "revoke"] | None:
        silent_ms = now_ms - self._asked_ms
        if silent_ms < PATIENCE_MS:
            return None
        return "drain" if silent_ms < PATIENCE_MS + REVOKED_MS else "revoke"

    async def look(self, machines: Machines, now_ms: int, forget_ms: int) -> None:
        """Do what follows, again and again, also to machines that come back. forget_ms: until when (epoch) a
        revocation must be remembered. Raises UpstreamSilent as `lose` does: all are asked again at the next look.
        """
        verdict = self.verdict(now_ms)
        for one in machines.news() if verdict else ():
            if verdict == "revoke":
                await machines.lose(one.nonce, forget_ms)
            elif not one.draining:
                machines.drain(one.nonce)
