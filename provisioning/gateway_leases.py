"""Which task is in whose hands, as the gateway remembers it; Conductor is the truth, and a restart asks it again.

A lease is one hand-out of one task to one rented machine. Its grant is the name below which that machine finds the
task's objects: it can be taken for another's neither by guessing nor by trying, and is worth nothing once the task is
handed in, given back, lost or revoked.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

SILENT_SHARE = 0.8
"""Of the response timeout. Workers speak every 3 s of its 10 (workers.lanes.BEAT_SECONDS): two lost words are forgiven,
and 2 s are left for the gateway to look and to tell Conductor."""

OWNER = "rented-"  # every rented machine's workerId at Conductor begins so


def owner_of(nonce: str) -> str:
    """The workerId at Conductor of the machine with this nonce, whatever it calls itself."""
    return OWNER + nonce


@dataclass
class Lease:
    """A task in a rented machine's hands.

    data is the input as Conductor has it (the machine saw a grant in the place of storage); storage, job and index
    are taken from it. audio_ms: length of its audio, 0 while unknown. since_ms, touched_ms: when it was handed out and
    when Conductor last heard that it is held, epoch milliseconds; heard_ms: when its machine last asked to keep it,
    which Conductor may not have answered. written: SHA-256 (hexadecimal) by full object key of
    what this lease has stored. probe: Conductor knows nothing of this task, it is a question whose answer is known.
    telling is held while Conductor is told of the task: it extends a lease by writing back what it read, and would undo
    a result that came between.
    """

    task_id: str
    workflow_id: str
    kind: str
    reference: str
    nonce: str
    storage: str
    job: str
    index: int | None
    data: dict[str, Any]
    since_ms: int
    grant: str
    audio_ms: int = 0
    written: dict[str, str] = field(default_factory=dict)
    probe: bool = False
    touched_ms: int = 0
    heard_ms: int = 0
    response_timeout_ms: int = 60_000
    polls: int = 1
    telling: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False, compare=False)

    @classmethod
    def of(cls, task: dict[str, Any], nonce: str, grant: str, now_ms: int, probe: bool = False) -> "Lease":
        """From a task as Conductor's poll and its `GET /tasks/{id}` tell it."""
        data = task.get("inputData") or {}
        index = data.get("index")
        return cls(
            task_id=task["taskId"],
            workflow_id=task["workflowInstanceId"],
            kind=task.get("taskDefName") or task.get("taskType") or "",
            reference=task.get("referenceTaskName") or "",
            nonce=nonce,
            storage=str(data.get("storage") or ""),
            job=str(data.get("job") or ""),
            index=index if isinstance(index, int) and not isinstance(index, bool) else None,
            data=data,
            since_ms=now_ms,
            grant=grant,
            probe=probe,
            touched_ms=now_ms,
            heard_ms=now_ms,
            response_timeout_ms=1000 * int(task.get("responseTimeoutSeconds") or 60),
            polls=int(task.get("pollCount") or 1),
        )

    def fresh(self, now_ms: int) -> bool:
        """Whether Conductor cannot have given the task to somebody else meanwhile; else it is to be asked."""
        return self.probe or now_ms - self.touched_ms < self.response_timeout_ms

    def silent(self, now_ms: int) -> bool:
        """Whether its machine let most of the response timeout pass without a word: the task is taken from it, before
        Conductor does and counts it as an attempt."""
        return now_ms - max(self.touched_ms, self.heard_ms) >= SILENT_SHARE * self.response_timeout_ms


Find = Callable[[str], Awaitable["Lease | None"]]
"""From a grant that is in no memory to its lease, if its signature and Conductor bear it out; books nothing."""


class LeaseBook:
    """All leases of one gateway. For one event loop: nothing here is locked.

    find: how a grant that a gateway before this one has given is found again, and how one is looked at again of which
    Conductor may think otherwise by now; without it the first kind is worth nothing, and the second is believed.
    trusted: whether a machine may have anything at all; now_ms: the clock, epoch milliseconds.
    """

    def __init__(
        self,
        find: Find | None = None,
        trusted: Callable[[str], bool] = lambda nonce: True,
        now_ms: Callable[[], int] = lambda: round(time.time() * 1000),
    ) -> None:
        self.find = find
        self.trusted = trusted
        self.now_ms = now_ms
        self._leases: dict[str, Lease] = {}
        self._machines: dict[str, dict[str, Lease]] = {}
        self._grants: dict[str, str] = {}

    def add(self, lease: Lease) -> Lease:
        """Book a lease; an earlier one of the same task is over, and its grant with it."""
        self.drop(lease.task_id)
        self._leases[lease.task_id] = lease
        self._machines.setdefault(lease.nonce, {})[lease.task_id] = lease
        self._grants[lease.grant] = lease.task_id
        return lease

    def get(self, task_id: str) -> Lease | None:
        return self._leases.get(task_id)

    def drop(self, task_id: str) -> Lease | None:
        """The lease is over: handed in, given back, lost or revoked. Returns it where there was one."""
        lease = self._leases.pop(task_id, None)
        if lease is not None:
            self._grants.pop(lease.grant, None)
            of_machine = self._machines[lease.nonce]
            del of_machine[task_id]
            if not of_machine:
                del self._machines[lease.nonce]
        return lease

    def of(self, nonce: str) -> tuple[Lease, ...]:
        """All that one machine holds, oldest first."""
        return tuple(self._machines.get(nonce, {}).values())

    def all(self) -> tuple[Lease, ...]:
        return tuple(self._leases.values())

    async def granted(self, grant: str) -> Lease | None:
        """The lease that a grant names; None for a grant that is forged, foreign, or over, or of a machine that is
        not trusted any more. Raises what `find` raises.

        Whoever comes with a grant must also be the lease's machine: compare `nonce` with that of
        `request.state.machine` (a gateway_tokens.Machine), which the gateway has made of the session before any route.
        """
        task_id = self._grants.get(grant)
        if task_id is not None:
            lease = self._leases[task_id]
            if not self.trusted(lease.nonce):
                return None
            if self.find is None or lease.fresh(self.now_ms()):
                return lease
        return await self.find(grant) if self.find else None
