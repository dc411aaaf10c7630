"""When a rented machine goes on, drains, or ends itself: one pure decision over what its supervisor knows.

A machine that nobody wants any more must stop billing whatever else is broken, the controller that rented it, the
gateway or its own worker; so every way to be of no use leads to an end here.
"""

from dataclasses import dataclass

DRAIN_SECONDS = 300.0  # what a worker holds takes a minute or two; later it is lost anyhow
LAST_SHARE = 0.1  # of its life, for draining before its time is over
REFUSALS = 3  # in a row: a gateway that restarts may refuse once


@dataclass(frozen=True)
class Limits:
    """Seconds: of life, without a task, and without the gateway."""

    ttl_s: float
    idle_s: float
    silence_s: float


@dataclass(frozen=True)
class Situation:
    """What is known now. age_s: since the container's start; silent_s: since the gateway answered last, or since then.

    idle_s: without a task, 0 while it has one or nobody knows. refusals: of the token, in a row. terminations: SIGTERMs
    so far. worker_code: with which the worker ended; working: it runs. draining_s: for how long it has been asked to.
    """

    age_s: float
    silent_s: float
    idle_s: float = 0.0
    refusals: int = 0
    terminations: int = 0
    stop: bool = False
    drain: bool = False
    test_failure: str | None = None
    working: bool = False
    worker_code: int | None = None
    draining_s: float | None = None


@dataclass(frozen=True)
class GoOn:
    """Nothing to do."""


@dataclass(frozen=True)
class Drain:
    """Let the worker finish what it holds, then end."""

    reason: str


@dataclass(frozen=True)
class End:
    """End the worker now, and the instance. failed: it is nothing that anybody wanted."""

    reason: str
    failed: bool = False


def decide(now: Situation, limits: Limits) -> GoOn | Drain | End:
    """What to do; asked again and again, so nothing has to be remembered here."""
    end = _end(now, limits)
    if end is not None:
        return end
    reason = _drain_reason(now, limits)
    if now.draining_s is not None:
        if not now.working:
            return End("it has drained" if now.worker_code is not None else "it was to drain before it had begun")
        return End("it did not drain in time") if now.draining_s >= DRAIN_SECONDS else GoOn()
    if reason is not None:
        return Drain(reason)
    if now.worker_code is not None:
        return End(f"its worker ended by itself (exit code {now.worker_code})", failed=True)
    return GoOn()


def _end(now: Situation, limits: Limits) -> End | None:
    if now.terminations >= 2:
        return End("it was told to end twice")
    if now.stop:
        return End("the gateway wants it to stop")
    if now.age_s >= limits.ttl_s:
        return End("its time is over")
    if now.test_failure is not None:
        return End(f"its self-test failed: {now.test_failure}", failed=True)
    if now.refusals >= REFUSALS:
        return End("the gateway does not accept its token any more", failed=True)
    if now.silent_s >= limits.silence_s:
        return End(f"the gateway has not answered for {now.silent_s:.0f} s", failed=True)
    return None


def _drain_reason(now: Situation, limits: Limits) -> str | None:
    if now.terminations:
        return "it was told to end"
    if now.drain:
        return "the gateway wants it to drain"
    if now.idle_s >= limits.idle_s:
        return f"it has had no task for {now.idle_s:.0f} s"
    if now.age_s >= limits.ttl_s - min(DRAIN_SECONDS, LAST_SHARE * limits.ttl_s):
        return "its time is nearly over"
    return None
