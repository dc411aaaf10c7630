"""What the gateway does for rented machines: hands tasks out, takes results in, takes back what is lost.

Nobody here is believed: who holds a task is what Conductor says, under a name that the gateway gives; what a result
says is checked before Conductor hears of it; and no machine can end a task for good, keep it for ever, or take more
than a few.
"""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from provisioning.fleet import Demand, WorkerNews
from provisioning.gateway_audit import Audit
from provisioning.gateway_faults import Faults
from provisioning.gateway_leases import Lease, LeaseBook, owner_of
from provisioning.gateway_limits import MAX_HELD, Pace, TokenBucket
from provisioning.gateway_metrics import Metrics
from provisioning.gateway_results import MOST_REASON, Verdict, plain
from provisioning.gateway_state import HeldRow, Rented, State
from provisioning.gateway_tokens import Machine
from provisioning.gateway_upstream import Upstream, UpstreamSilent
from provisioning.grants import KINDS
from workers.errors import TransientError, WhisperfleetError

log = logging.getLogger(__name__)

MOST_LOSSES = 5  # machines with which one task was lost or failed; it may be the task that ends them
MOST_STRIKES = 3
LONGEST_HOLD_MS = {"transcribe_chunk": 1_800_000, "detect_language": 1_800_000, "diarize_chunk": 7_200_000}
HOLD_BASE_MS, HOLD_A_MS = 600_000, 10
"""A task may be held for ten times its audio and ten minutes: a slow processor takes twice the audio's time (pyannote's
hour of it two hours), and a model that is fetched first some minutes."""

LONGEST_WAIT_S = 10  # that a machine may put a task aside for
LOG_CHARACTERS = 2_000
LOGS_PER_S, LOGS_BURST = 0.5, 100.0  # of one machine, whatever tasks it has: Conductor keeps every line
SWEEP_S = 1.0
STALL_MS = 3_000  # from one sweep to the next: then this process stood still, and no machine was silent
SWEEPS_A_WRITE = 30  # statistics of a thousand machines take some 30 ms to write
_TASK_ID = re.compile(r"[0-9a-fA-F-]{16,64}")  # a UUID; what else stands there in Conductor's API are words
_STATUSES = ("IN_PROGRESS", "COMPLETED", "FAILED", "FAILED_WITH_TERMINAL_ERROR")
_SHOWN = (
    "taskType", "taskDefName", "taskId", "workflowInstanceId", "referenceTaskName", "status", "workerId", "seq",
    "retryCount", "pollCount", "scheduledTime", "startTime", "endTime", "updateTime", "startDelayInSeconds", "retried",
    "executed", "callbackFromWorker", "callbackAfterSeconds", "responseTimeoutSeconds",
)  # fmt: skip
_SHOWN_INPUT = ("job", "index", "speakers")


class Refused(Exception):
    """Not this machine, not this task, not this way: `status` is the HTTP answer. The text is for the audit log too."""

    def __init__(self, status: int, reason: str, **more: Any) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.more = more


class Check(Protocol):
    def __call__(self, lease: Lease, status: str, output: Any) -> Verdict:
        """Whether a result is what the contract says (provisioning.gateway_results). Blocking."""
        ...


class Prober(Protocol):
    """Questions whose answers are known, asked among real tasks (provisioning.gateway_probes). Blocking."""

    def offer(self, nonce: str, kind: str, now_ms: int) -> dict[str, Any] | None:
        """A task as Conductor would give it, or None: mostly."""
        ...

    def judge(self, lease: Lease, output: dict[str, Any]) -> str | None:
        """What is wrong with what came of it; None where nothing is."""
        ...


@dataclass
class Desk:
    """All that the routes of both sides share. For one event loop.

    measure: milliseconds of audio of a lease's task, from its job's plan; ready: whether all is there that the task
    takes; discard: deletes what the lease has stored, as far as it is still that. Blocking, as check and prober are.
    """

    upstream: Upstream
    state: State
    audit: Audit
    metrics: Metrics
    public_url: str
    check: Check
    measure: Callable[[Lease], int]
    ready: Callable[[Lease], bool]
    discard: Callable[[Lease], None]
    prober: Prober | None = None
    pace: Pace = field(default_factory=lambda: Pace(lambda: 0.8 + secrets.randbelow(400) / 1000))
    book: LeaseBook = field(default_factory=LeaseBook)
    faults: Faults = field(init=False)
    _logs: dict[str, TokenBucket] = field(default_factory=dict)
    _coming: dict[str, int] = field(default_factory=dict)
    _offered: dict[str, dict[str, Any]] = field(default_factory=dict)
    _stranded: dict[str, tuple[str, str]] = field(default_factory=dict)
    _sweeps: int = 0
    _swept_ms: int | None = None
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.book.find = self._find
        self.book.trusted, self.book.now_ms = self.trusted, now_ms
        self.faults = Faults(self.state, now_ms)

    # ---- machines ----

    def meet(self, machine: Machine) -> Rented:
        """A machine came with a good session: note the sign of life."""
        rented = self.state.machine(machine.nonce, machine.kinds, machine.expires_ms)
        now = now_ms()
        rented.first_seen_ms = rented.first_seen_ms or now
        rented.last_seen_ms = now
        return rented

    def revoked(self, nonce: str) -> bool:
        rented = self.state.machines.get(nonce)
        return rented is not None and rented.revoked_ms is not None

    def trusted(self, nonce: str) -> bool:
        """Whether a machine may have anything at all: neither revoked nor refused, and its token has not expired."""
        rented = self.state.machines.get(nonce)
        return (
            rented is not None and rented.revoked_ms is None and rented.refused is None and rented.expires_ms > now_ms()
        )

    def strike(self, rented: Rented, reason: str, task: str | None = None) -> None:
        """After MOST_STRIKES it gets no work any more."""
        rented.strikes.append(reason)
        self.state.write(rented)
        self.metrics.strikes.labels(rented.nonce).inc()
        self.audit.say("strike", rented.nonce, reason=reason, task=task)
        if len(rented.strikes) >= MOST_STRIKES and rented.refused is None:
            self.disqualify(rented, f"{MOST_STRIKES} strikes, the last: {reason}")

    def disqualify(self, rented: Rented, reason: str) -> None:
        """It gets no work any more, and what it holds is for others."""
        rented.refused = reason
        self.state.write(rented)
        self.audit.say("disqualified", rented.nonce, reason=reason)
        self._later(self._take_what_it_holds(rented.nonce))

    async def _take_what_it_holds(self, nonce: str) -> None:
        with contextlib.suppress(UpstreamSilent):  # the next sweep tries again
            await self._take_all(nonce, "its machine is not trusted any more")

    def drain(self, nonce: str) -> bool:
        """False for a machine nobody knows."""
        rented = self.state.machines.get(nonce)
        if rented is None:
            return False
        rented.draining = True
        self.state.write(rented)
        self.audit.say("draining", nonce)
        return True

    async def lose(self, nonce: str, expires_ms: int) -> list[str]:
        """The machine is gone: its token opens nothing, and its tasks are for others, now.

        Raises UpstreamSilent where Conductor does not answer; the token is revoked even so, and asking again goes on.
        """
        rented = self.state.machine(nonce, expires_ms=expires_ms)
        if rented.revoked_ms is None:
            rented.revoked_ms = now_ms()
            self.state.write(rented)
            self.audit.say("revoked", nonce)
        self.upstream.forget(nonce)
        self._logs.pop(nonce, None)
        return await self._take_all(nonce, "its machine is lost")

    def news(self) -> list[WorkerNews]:
        """Of all machines that are not revoked and whose token has not expired."""
        now = now_ms()
        return [
            rented.news(len(held := self.book.of(nonce)), sum(lease.audio_ms for lease in held))
            for nonce, rented in self.state.machines.items()
            if rented.revoked_ms is None and rented.expires_ms > now
        ]

    async def demand(self) -> Demand:
        """What waits and what rented machines hold. Audio that waits is guessed: provisioning.demand is better."""
        held = [lease for lease in self.book.all() if not lease.probe]
        lengths = [lease.audio_ms for lease in held if lease.audio_ms] or [60_000]
        mean = sum(lengths) / len(lengths)
        held_ms = sum(lease.audio_ms or round(mean) for lease in held)
        try:
            sizes = await self.upstream.sizes(KINDS)
        except UpstreamSilent:
            return Demand(0, 0, held_ms, len(held), known=False)
        for kind, size in sizes.items():
            self.metrics.queued.labels(kind).set(size)
        waiting = sum(sizes.values())
        return Demand(round(waiting * mean), waiting, held_ms, len(held))

    # ---- tasks out ----

    async def hand_out(self, machine: Machine, kind: str, count: int) -> list[dict[str, Any]]:
        """Up to `count` tasks for a machine; Refused where it may not have that kind."""
        if kind not in machine.kinds or kind not in KINDS:
            raise Refused(403, "polls a kind of task that is not in its token", kind=kind)
        rented = self.state.machine(machine.nonce)
        now = now_ms()
        self.metrics.polls.labels(machine.nonce, kind).inc()
        self.pace.seen(machine.nonce, kind, now)
        held = len(self.book.of(machine.nonce)) + self._coming.get(machine.nonce, 0)
        room = min(count, MAX_HELD - held)
        resting = self.faults.is_resting(machine.nonce, kind)
        if room < 1 or resting or rented.draining or rented.refused is not None:
            return []
        self._coming[machine.nonce] = self._coming.get(machine.nonce, 0) + room  # of polls that come all at once
        try:
            return await self._ask_for(machine.nonce, kind, room, now)
        finally:
            self._coming[machine.nonce] -= room
            if not self._coming[machine.nonce]:
                del self._coming[machine.nonce]

    async def _ask_for(self, nonce: str, kind: str, room: int, now: int) -> list[dict[str, Any]]:
        if self.prober is not None:
            probe = await asyncio.to_thread(self.prober.offer, nonce, kind, now)
            if probe is not None:
                self._offered[probe["taskId"]] = probe
                return [self._hand(probe, nonce, probe=True)]
        tasks = await self.upstream.poll(kind, nonce, room)
        return [shown for task in tasks if (shown := await self._hand_if_meant(task, nonce, kind))]

    async def _hand_if_meant(self, task: dict[str, Any], nonce: str, kind: str) -> dict[str, Any] | None:
        """A task that is not for this machine goes back as if it had never been polled."""
        task_id, workflow_id = str(task["taskId"]), str(task.get("workflowInstanceId"))
        kept_from = self.faults.is_kept_from(nonce, kind, workflow_id, str(task.get("referenceTaskName")))
        rented = self.state.machine(nonce)
        if not kept_from and not rented.draining and self.trusted(nonce):
            return self._hand(task, nonce)
        self.faults.rest(nonce, kind)
        try:
            await self._requeue(task_id, workflow_id, owner_of(nonce), 0)
            self.upstream.stir(kind)
        except UpstreamSilent:  # the sweep does it, and the other tasks of this poll are handed out
            self._stranded[task_id] = (workflow_id, nonce)
        return None

    def _hand(self, task: dict[str, Any], nonce: str, *, probe: bool = False) -> dict[str, Any]:
        lease = Lease.of(task, nonce, secrets.token_urlsafe(24), now_ms(), probe)
        self._book(lease)
        self.metrics.handed_out.labels(nonce, lease.kind).inc()
        self.state.machine(nonce).last_task_ms = lease.since_ms
        self.audit.say(
            "handed_out", nonce, task=lease.task_id, workflow=lease.workflow_id, reference=lease.reference, probe=probe
        )
        return self.shown(task, lease)

    def _book(self, lease: Lease) -> None:
        self.book.add(lease)
        if not lease.probe:
            self.state.hold(HeldRow(lease.task_id, lease.nonce, lease.grant, lease.since_ms))
            self._later(self._measure(lease))

    def shown(self, task: dict[str, Any], lease: Lease) -> dict[str, Any]:
        """What of a task its machine gets to see: nothing of the workflow's definition or of earlier attempts."""
        data = task.get("inputData") or {}
        told = {name: task[name] for name in _SHOWN if name in task}
        told["workerId"] = owner_of(lease.nonce)
        told["inputData"] = {name: data[name] for name in _SHOWN_INPUT if name in data}
        told["inputData"]["storage"] = f"{self.public_url}/objects/{lease.grant}"
        told["outputData"] = {}
        return told

    async def look(self, machine: Machine, task_id: str) -> dict[str, Any]:
        """A task that the machine holds, as it stands; Refused for every other."""
        lease = await self.held(machine, task_id)
        if lease.probe:  # all that a real one shows, or the machine would know
            return self.shown({**self._offered[task_id], "updateTime": lease.touched_ms}, lease)
        task = await self.upstream.task(task_id)
        if task is None or task.get("workerId") != owner_of(machine.nonce):
            self._over(lease)
            raise Refused(403, "asks for a task that it does not hold", task=task_id)
        if task.get("status") != "IN_PROGRESS":
            self._over(lease)
        return self.shown(task, lease)

    # ---- tasks in ----

    async def held(self, machine: Machine, task_id: str) -> Lease:
        """The lease of a task that this machine holds, adopted from Conductor where the gateway has forgotten it.

        Raises Refused for every other task.
        """
        if not _TASK_ID.fullmatch(task_id):
            raise Refused(403, "asks for what is no task", task=plain(task_id, 40))
        lease = self.book.get(task_id)
        if lease is not None and lease.nonce == machine.nonce and lease.fresh(now_ms()):
            return lease
        if lease is None or lease.nonce == machine.nonce:
            adopted = await self._adopt(task_id, machine.nonce)
            if adopted is not None and adopted.kind in machine.kinds:
                return adopted
        raise Refused(403, "has to do with a task that it does not hold", task=task_id)

    async def update(self, machine: Machine, result: Any) -> Lease:
        """Take in what a machine says of its task. Refused where it does not hold it, or the result is none."""
        if not isinstance(result, dict):
            raise Refused(400, "hands in what is no result of a task")
        task_id, status = result.get("taskId"), result.get("status")
        if not isinstance(task_id, str):
            raise Refused(400, "hands in a result without a task")
        try:
            lease = await self.held(machine, task_id)
            if result.get("workflowInstanceId") != lease.workflow_id:
                raise Refused(403, "hands in a task as one of another workflow", task=task_id)
            if status not in _STATUSES:
                raise Refused(400, "gives a task a status that it cannot have", task=task_id)
            if status == "IN_PROGRESS" and result.get("extendLease") is True:
                lease.heard_ms = now_ms()  # however long it has to wait until Conductor can be told
            async with lease.telling:
                if self.book.get(task_id) is not lease:
                    raise Refused(403, "hands in a task that was handed in or taken back meanwhile", task=task_id)
                if status == "IN_PROGRESS":
                    await self._in_progress(lease, result)
                else:
                    await self._ended(lease, str(status), result.get("outputData"))
        except TransientError:  # Conductor or the store is away, which is not the machine's fault
            known = self.book.get(task_id)
            if known is not None and known.nonce == machine.nonce:
                known.heard_ms = now_ms()
            raise
        return lease

    async def _in_progress(self, lease: Lease, result: dict[str, Any]) -> None:
        if result.get("extendLease") is True:
            if lease.probe:
                lease.touched_ms = now_ms()
                return
            lease_ms = now_ms() - lease.since_ms
            if lease_ms > longest_hold_ms(lease):
                await self._measure(lease)  # it may have been cut since it was handed out
            if lease_ms > longest_hold_ms(lease):
                await self._break(lease, f"it was held for {lease_ms // 60_000} minutes")
                raise Refused(403, "holds a task for too long", task=lease.task_id)
            await self._tell(lease, "IN_PROGRESS", {}, extendLease=True)
            lease.touched_ms = now_ms()
            return
        seconds = result.get("callbackAfterSeconds")
        seconds = seconds if isinstance(seconds, int) and not isinstance(seconds, bool) else 1
        await self._put_aside(lease, max(1, min(seconds, LONGEST_WAIT_S)))

    async def _put_aside(self, lease: Lease, seconds: int) -> None:
        """Nothing is wrong with that while something is missing that the task takes; else it hides a task."""
        rented = self.state.machine(lease.nonce)
        if lease.probe:
            self.audit.say("put_aside", lease.nonce, task=lease.task_id, reference=lease.reference, seconds=seconds)
            await self._judge(rented, lease, {"reason": "it was put aside"})
            return
        ready = False
        with contextlib.suppress(WhisperfleetError, ValueError):
            ready = await asyncio.to_thread(self.ready, lease)
        too_often = ready and self.faults.put_aside(lease)
        if too_often:
            self.faults.keep_from(lease)
            seconds = 0
        await self._tell(lease, "IN_PROGRESS", {"waiting": True}, callbackAfterSeconds=seconds)
        self._over(lease)
        self.audit.say("put_aside", lease.nonce, task=lease.task_id, reference=lease.reference, seconds=seconds)
        if too_often:
            self._count_failure(rented, lease, "it was put aside again and again")

    async def _ended(self, lease: Lease, status: str, output: Any) -> None:
        verdict = await asyncio.to_thread(self.check, lease, status, output)
        if not verdict.ok:
            await self._break(lease, verdict.reason)
            raise Refused(400, f"breaks the contract: {verdict.reason}", task=lease.task_id)
        rented = self.state.machine(lease.nonce)
        if lease.probe:
            await self._judge(rented, lease, verdict.output)
        elif verdict.status == "FAILED":
            await self._failed(rented, lease, verdict)
        else:
            await self._tell(lease, "COMPLETED", verdict.output)
            await self._done(rented, lease, verdict)

    async def _done(self, rented: Rented, lease: Lease, verdict: Verdict) -> None:
        self._over(lease)
        if not lease.audio_ms:
            await self._measure(lease)
        took_ms = max(1, now_ms() - lease.since_ms)
        self.faults.done(rented)
        rented.chunks_done += 1
        if not verdict.output.get("reused"):  # found done: nothing was computed, and nothing was measured
            rented.audio_done_ms += lease.audio_ms
            rented.busy_ms += took_ms
        self.metrics.results.labels(lease.nonce, lease.kind).inc()
        self.metrics.audio.labels(lease.nonce, lease.kind).inc(lease.audio_ms / 1000)
        self.audit.say(
            "result", lease.nonce, task=lease.task_id, workflow=lease.workflow_id, reference=lease.reference,
            audio_ms=lease.audio_ms, took_ms=took_ms,
        )  # fmt: skip

    async def _failed(self, rented: Rented, lease: Lease, verdict: Verdict) -> None:
        """What one machine cannot do another may: it costs the task no attempt, and the machine some trust."""
        reason = plain(str(verdict.output.get("reason") or ""), MOST_REASON)
        self.faults.keep_from(lease)
        await self._discard(lease)
        await self._return(lease, reason, verdict.output)
        self.audit.say("failed", lease.nonce, task=lease.task_id, reference=lease.reference, reason=reason)
        self._count_failure(rented, lease, reason)

    def _count_failure(self, rented: Rented, lease: Lease, reason: str) -> None:
        self.metrics.failures.labels(lease.nonce, lease.kind).inc()
        if self.faults.failed(rented):
            self.strike(rented, f"too many tasks failed there, the last: {reason}", lease.task_id)

    async def _judge(self, rented: Rented, lease: Lease, output: dict[str, Any]) -> None:
        assert self.prober is not None
        wrong = await asyncio.to_thread(self.prober.judge, lease, output)
        self._over(lease)
        self.audit.say("probe", lease.nonce, task=lease.task_id, right=wrong is None)
        if wrong is not None:
            self.strike(rented, wrong, lease.task_id)

    async def broken(self, lease: Lease, reason: str) -> None:
        """What the machine stored, or tried to, breaks the contract: as if it had handed it in."""
        async with lease.telling:
            if self.book.get(lease.task_id) is lease:
                await self._break(lease, reason)

    async def _break(self, lease: Lease, reason: str) -> None:
        """A result that is none, or a task that is kept: it is for others now, and never again for this machine."""
        self.metrics.broken.labels(lease.nonce, lease.kind).inc()
        self.state.ban(lease.nonce, lease.workflow_id, lease.reference)
        self.strike(self.state.machine(lease.nonce), reason, lease.task_id)
        if lease.probe:
            self._over(lease)
        else:
            await self._discard(lease)
            await self._return(lease, reason)

    async def log(self, machine: Machine, task_id: str, text: str) -> None:
        """Pass a line on, cut; of those that are too many nothing is said to anybody."""
        lease = await self.held(machine, task_id)
        bucket = self._logs.setdefault(machine.nonce, TokenBucket(LOGS_PER_S, LOGS_BURST))
        if not lease.probe and bucket.take(1.0, time.monotonic()):
            await self.upstream.log(task_id, plain(text, LOG_CHARACTERS))

    # ---- tasks back ----

    async def _take_all(self, nonce: str, reason: str) -> list[str]:
        """All that Conductor says this machine holds and the gateway ever knew of, back in the queue."""
        for row in self.state.held(nonce=nonce):
            if self.book.get(row.task_id) is None:
                await self._adopt(row.task_id, nonce)
        taken = await asyncio.gather(*(self._take(lease, reason) for lease in self.book.of(nonce)))
        return [task_id for task_id in taken if task_id is not None]

    async def _take(self, lease: Lease, reason: str) -> str | None:
        async with lease.telling:
            if self.book.get(lease.task_id) is not lease:
                return None  # its result was on the way, and is in
            if lease.probe:
                self._over(lease)
                return None
            if not lease.fresh(now_ms()) and await self._adopt(lease.task_id, lease.nonce) is None:
                return None
            if self.state.machine(lease.nonce).refused is not None:
                await self._discard(lease)  # of a machine that only went away it is as good as any other
            await self._return(lease, reason)
            self.metrics.lost.inc()
            return lease.task_id

    async def _take_silent(self, lease: Lease) -> None:
        """Before Conductor's response timeout, which costs an attempt: else one silent machine could end a task."""
        async with lease.telling:
            if self.book.get(lease.task_id) is not lease or not lease.silent(now_ms()):
                return
            rented, reason = self.state.machine(lease.nonce), "its machine said nothing for too long"
            self.faults.keep_from(lease)  # first: it may ask the moment the task is back
            if lease.probe:
                await self._judge(rented, lease, {"reason": reason})
            elif lease.fresh(now_ms()) or await self._adopt(lease.task_id, lease.nonce) is not None:
                await self._return(lease, reason)
                self.metrics.lost.inc()
            self._count_failure(rented, lease, reason)

    async def _discard(self, lease: Lease) -> None:
        """Delete what an untrusted hand has stored, or the next machine would find the task done. Raises what the
        store raises: the lease then stays, and the task is taken back another time."""
        if lease.written:
            await asyncio.to_thread(self.discard, lease)
            lease.written.clear()

    async def _return(self, lease: Lease, reason: str, failure: dict[str, Any] | None = None) -> None:
        """Back in the queue at once, which costs no attempt; after MOST_LOSSES machines it does.

        failure: what its machine says of it, where it failed; then it also does once every machine there is has had it,
        if they are two at least: nobody is left who could do it.
        """
        losers = self.state.losers(lease.task_id) | {lease.nonce}
        nobody = failure is not None and len(losers) > 1 and self.faults.live(lease.kind) <= losers
        if nobody or len(losers) >= MOST_LOSSES:
            text = f"It was lost with {len(losers)} machines; the last time, {reason}"
            text = text if text.endswith(".") else f"{text}."
            output = {"error": "EngineError", **(failure or {}), "reason": text}
            with contextlib.suppress(Refused):  # Conductor knows it no more: it is nobody's either way
                await self._tell(lease, "FAILED", output, reasonForIncompletion=text)
        else:
            await self._requeue(lease.task_id, lease.workflow_id, owner_of(lease.nonce), 0)
            self.upstream.stir(lease.kind)
        self.state.lose(lease.task_id, lease.nonce)
        self._over(lease)
        self.audit.say(
            "taken_back", lease.nonce, task=lease.task_id, reference=lease.reference, reason=reason, losses=len(losers)
        )

    async def _requeue(self, task_id: str, workflow_id: str, owner: str, seconds: int) -> None:
        await self.upstream.update(
            {
                "taskId": task_id,
                "workflowInstanceId": workflow_id,
                "workerId": owner,
                "status": "IN_PROGRESS",
                "callbackAfterSeconds": seconds,
                "outputData": {"waiting": True},
            }
        )

    async def _tell(self, lease: Lease, status: str, output: dict[str, Any], **more: Any) -> None:
        """Raises Refused where Conductor knows the task no more: its workflow may have been deleted."""
        taken = await self.upstream.update(
            {
                "taskId": lease.task_id,
                "workflowInstanceId": lease.workflow_id,
                "workerId": owner_of(lease.nonce),
                "status": status,
                "outputData": output,
                **more,
            }
        )
        if not taken:
            self._over(lease)
            raise Refused(403, "has a task that Conductor does not know any more", task=lease.task_id)

    def _over(self, lease: Lease) -> None:
        if self.book.get(lease.task_id) is lease:  # else it is another's by now
            self.book.drop(lease.task_id)
        self.state.let_go(lease.task_id, lease.nonce)
        self._offered.pop(lease.task_id, None)

    # ---- what is so, and what was ----

    async def _adopt(self, task_id: str, nonce: str) -> Lease | None:
        """The lease of a task that Conductor says this machine holds, booked; else None, and none is booked."""
        task = await self.upstream.task(task_id)
        known = self.book.get(task_id)
        if task is None or task.get("status") != "IN_PROGRESS" or task.get("workerId") != owner_of(nonce):
            if known is not None and known.nonce == nonce:
                self._over(known)
            self.state.let_go(task_id, nonce)
            return None
        touched = _touched_ms(task)
        if known is not None and known.nonce == nonce:
            known.touched_ms = max(known.touched_ms, touched)
            return known
        workflow_id, reference = str(task.get("workflowInstanceId")), str(task.get("referenceTaskName"))
        if self.faults.is_kept_from(nonce, str(task.get("taskDefName")), workflow_id, reference):
            self._stranded[task_id] = (workflow_id, nonce)  # it could not be put back when it was polled
            return None
        row = next((row for row in self.state.held(nonce=nonce) if row.task_id == task_id), None)
        lease = Lease.of(task, nonce, row.grant if row else secrets.token_urlsafe(24), now_ms())
        lease.since_ms = row.since_ms if row else lease.since_ms
        lease.touched_ms = touched
        self._book(lease)
        self.audit.say("adopted", nonce, task=task_id, reference=lease.reference)
        return lease

    async def _find(self, grant: str) -> Lease | None:
        for row in self.state.held(grant=grant):
            if self.trusted(row.nonce):
                return await self._adopt(row.task_id, row.nonce)
        return None

    async def adopt_all(self) -> int:
        """After a restart: the leases that Conductor bears out. Raises UpstreamSilent."""
        rows = self.state.held()
        adopted = 0
        for row in rows:
            try:
                adopted += await self._adopt(row.task_id, row.nonce) is not None
            except UpstreamSilent:
                raise
            except Exception:
                log.exception("Cannot adopt %s", row.task_id, extra={"action": "adopt_failed"})
        return adopted

    async def sweep(self) -> None:
        """One look after what nobody comes back for: silent machines' leases, and those of machines that are not
        trusted any more. What goes wrong with one is logged, and harms no other; the next sweep tries again."""
        now = now_ms()
        stalled = self._swept_ms is not None and now - self._swept_ms > STALL_MS
        works: list[tuple[Awaitable[Any], str]] = []
        for lease in self.book.all():
            if lease.silent(now) and not stalled:
                works.append((self._take_silent(lease), lease.task_id))
            elif lease.probe and now - lease.since_ms > longest_hold_ms(lease):
                work = self._judge(self.state.machine(lease.nonce), lease, {"reason": "it was held for too long"})
                works.append((work, lease.task_id))
            elif not lease.fresh(now):
                works.append((self._adopt(lease.task_id, lease.nonce), lease.task_id))
        works += [(self._unstrand(task_id), task_id) for task_id in self._stranded]
        await asyncio.gather(*(self._safely(work, about) for work, about in works))
        for nonce in {lease.nonce for lease in self.book.all()}:
            if not self.trusted(nonce):
                await self._safely(self._take_all(nonce, "its machine is not trusted any more"), nonce)
        self._sweeps += 1
        if self._sweeps % SWEEPS_A_WRITE == 0:
            self.state.write_all()
        self._swept_ms = now_ms()

    async def _safely(self, work: Awaitable[Any], about: str) -> None:
        try:
            await work
        except UpstreamSilent as error:
            log.debug("Could not look after %s: %s", about, error)  # Conductor is away, which others say
        except Exception:
            log.exception("Could not look after %s", about, extra={"action": "sweep_failed"})

    async def _unstrand(self, task_id: str) -> None:
        """Put back what was polled for a machine that must not have it, while Conductor did not answer."""
        workflow_id, nonce = self._stranded[task_id]
        task = await self.upstream.task(task_id)
        held = task is not None and task.get("status") == "IN_PROGRESS" and task.get("workerId") == owner_of(nonce)
        if held and self.book.get(task_id) is None:
            await self._requeue(task_id, workflow_id, owner_of(nonce), 0)
        self._stranded.pop(task_id, None)

    async def _measure(self, lease: Lease) -> None:
        """How much audio the task has: 0 until its chunk is cut."""
        with contextlib.suppress(WhisperfleetError, ValueError):
            measured = await asyncio.to_thread(self.measure, lease)
            lease.audio_ms = lease.audio_ms or measured  # whoever read the chunk's record meanwhile knows better

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def longest_hold_ms(lease: Lease) -> int:
    """For how long a machine may hold this task, however alive it is."""
    return min(LONGEST_HOLD_MS.get(lease.kind, 0), HOLD_BASE_MS + HOLD_A_MS * lease.audio_ms)


def _touched_ms(task: dict[str, Any]) -> int:
    """When Conductor last heard of a task, by this clock; never longer ago than half its response timeout, as the two
    clocks may differ."""
    now, timeout_ms = now_ms(), 1000 * int(task.get("responseTimeoutSeconds") or 60)
    return now - min(max(0, now - int(task.get("updateTime") or now)), timeout_ms // 2)


def now_ms() -> int:
    return round(time.time() * 1000)
