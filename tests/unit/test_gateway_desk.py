"""Machines that do badly without lying outright, before the desk: a Conductor in memory, and a clock that is set."""

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from provisioning import gateway_desk, gateway_guard
from provisioning.gateway_audit import Audit
from provisioning.gateway_desk import MOST_LOSSES, MOST_STRIKES, Desk, Refused
from provisioning.gateway_faults import FAILED_AGAIN_AMONG_OTHERS_MS, FAILED_AGAIN_MS, MOST_ASIDES, REST_MS
from provisioning.gateway_guard import Guard
from provisioning.gateway_leases import Lease
from provisioning.gateway_limits import TokenBucket
from provisioning.gateway_metrics import Metrics
from provisioning.gateway_results import Verdict
from provisioning.gateway_state import State
from provisioning.gateway_tokens import Machine, Tokens
from provisioning.gateway_upstream import Upstream, UpstreamSilent

KIND = "transcribe_chunk"
HOUR_MS = 3_600_000
TIMEOUT_MS = 10_000


class Conductor:
    """What of Conductor the desk asks. away: it does not answer; for: only a request that this says so of."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self.tasks: dict[str, dict[str, Any]] = {}
        self.logs: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.away: Callable[[httpx.Request], bool] = lambda request: False

    def add(self, number: int, kind: str = KIND) -> str:
        task_id = f"{number:032x}"
        self.tasks[task_id] = {
            "taskId": task_id, "workflowInstanceId": "w", "taskDefName": kind, "taskType": kind, "status": "SCHEDULED",
            "referenceTaskName": f"chunk_{number}", "responseTimeoutSeconds": TIMEOUT_MS // 1000, "pollCount": 0,
            "inputData": {"storage": "/store", "job": "j", "index": number},
        }  # fmt: skip
        return task_id

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if self.away(request):
            raise httpx.ConnectError("refused")
        path = request.url.path.removeprefix("/api/tasks")
        if path.startswith("/poll/batch/"):
            return httpx.Response(200, json=self._poll(path.rpartition("/")[2], request.url.params))
        if path == "/queue/polldata":
            return httpx.Response(200, json=self.rows)
        if path.endswith("/log"):
            self.logs.append(request.content.decode())
            return httpx.Response(200)
        if request.method == "POST":
            return self._update(json.loads(request.content))
        found = self.tasks.get(path.removeprefix("/"))
        return httpx.Response(200, json=found) if found else httpx.Response(404)

    def _poll(self, kind: str, params: httpx.QueryParams) -> list[dict[str, Any]]:
        waiting = [one for one in self.tasks.values() if one["status"] == "SCHEDULED" and one["taskDefName"] == kind]
        given = waiting[: int(params["count"])]
        for task in given:
            task |= {"status": "IN_PROGRESS", "workerId": params["workerid"], "updateTime": self.now()}
        return given

    def _update(self, told: dict[str, Any]) -> httpx.Response:
        task = self.tasks[told["taskId"]]
        aside = told["status"] == "IN_PROGRESS" and not told.get("extendLease")
        task |= {"status": "SCHEDULED" if aside else told["status"], "updateTime": self.now()}
        if aside:
            self.tasks[told["taskId"]] = self.tasks.pop(told["taskId"])  # the last in line now
        task |= {"outputData": told.get("outputData"), "reason": told.get("reasonForIncompletion")}
        return httpx.Response(200)


class World:
    """A desk and what is around it. written: the store; ready: whether tasks have all they take."""

    def __init__(self, folder: Path) -> None:
        self.at = 1_800_000_000_000
        self.conductor = Conductor(lambda: self.at)
        self.state = State(folder / "state.db", lambda: self.at)
        self.audit = Audit(folder / "audit.jsonl")
        self.ready = True
        self.discarded: list[dict[str, str]] = []
        self.verdict: Verdict | None = None
        upstream = Upstream("http://conductor/api", transport=httpx.MockTransport(self.conductor))
        self.desk = Desk(
            upstream=upstream,
            state=self.state,
            audit=self.audit,
            metrics=Metrics(),
            public_url="http://gateway",
            check=self.check,
            measure=lambda lease: 60_000,
            ready=lambda lease: self.ready,
            discard=lambda lease: self.discarded.append(dict(lease.written)),
        )

    def check(self, lease: Lease, status: str, output: Any) -> Verdict:
        if self.verdict is not None:
            return self.verdict
        return Verdict(True, "FAILED" if status.startswith("FAILED") else status, output or {})

    def machine(self, nonce: str) -> Machine:
        machine = Machine(nonce, (KIND,), self.at + HOUR_MS)
        self.desk.meet(machine)
        return machine

    async def get(self, machine: Machine, count: int = 1) -> list[str]:
        self.desk.upstream.stir(KIND)
        self.desk.meet(machine)
        return [str(task["taskId"]) for task in await self.desk.hand_out(machine, KIND, count)]

    async def tell(self, machine: Machine, task_id: str, status: str, **more: Any) -> Lease:
        told = {"taskId": task_id, "workflowInstanceId": "w", "status": status, "outputData": {}, **more}
        return await self.desk.update(machine, told)

    async def pass_ms(self, ms: int, beat: Callable[[], Awaitable[Any]] | None = None) -> None:
        """So much time, with the sweeps in it; beat: what a machine does every 3 s."""
        for second in range(1, ms // 1000 + 1):
            self.at += 1000
            if beat is not None and second % 3 == 0:
                await beat()
            await self.desk.sweep()

    def rented(self, nonce: str) -> Any:
        return self.state.machines[nonce]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    clock: list[World] = []
    monkeypatch.setattr(gateway_desk, "now_ms", lambda: clock[0].at)
    clock.append(World(tmp_path))
    return clock[0]


def scenario(world: World, play: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        try:
            await play()
        finally:
            await world.desk.upstream.close()
            world.state.close()
            world.audit.close()

    asyncio.run(run())


# ---- silence ----


def test_a_silent_machines_task_is_anothers_before_conductor_counts_an_attempt(world: World) -> None:
    async def play() -> None:
        silent, honest = world.machine("silent001"), world.machine("honest001")
        task_id = world.conductor.add(1)
        assert await world.get(silent) == [task_id]
        await world.pass_ms(7_000)
        assert world.conductor.tasks[task_id]["status"] == "IN_PROGRESS"
        await world.pass_ms(1_000)
        assert world.conductor.tasks[task_id]["status"] == "SCHEDULED"
        assert world.rented("silent001").failures > 0
        assert await world.get(silent) == []  # not for it, while there is another
        assert await world.get(honest) == [task_id]

    scenario(world, play)


def test_a_silent_machine_gets_strikes_until_it_gets_nothing(world: World) -> None:
    async def play() -> None:
        silent = world.machine("silent001")
        tasks = [world.conductor.add(number) for number in range(20)]
        for _ in range(20):
            await world.get(silent, 1)
            await world.pass_ms(9_000)
        assert len(world.rented("silent001").strikes) == MOST_STRIKES
        assert {world.conductor.tasks[task_id]["status"] for task_id in tasks} == {"SCHEDULED"}

    scenario(world, play)


def test_a_machine_that_speaks_keeps_its_task_also_while_conductor_is_away(world: World) -> None:
    async def play() -> None:
        honest = world.machine("honest001")
        task_id = world.conductor.add(1)
        await world.get(honest)

        async def beat() -> None:
            with contextlib.suppress(UpstreamSilent):
                await world.tell(honest, task_id, "IN_PROGRESS", extendLease=True)

        await world.pass_ms(30_000, beat)
        world.conductor.away = lambda request: True
        await world.pass_ms(30_000, beat)
        world.conductor.away = lambda request: False
        await world.pass_ms(6_000, beat)
        assert world.conductor.tasks[task_id]["status"] == "IN_PROGRESS"
        assert world.desk.book.get(task_id) is not None
        assert world.rented("honest001").failures == 0

    scenario(world, play)


def test_words_that_extend_nothing_are_no_sign_of_life(world: World) -> None:
    async def play() -> None:
        silent = world.machine("silent001")
        task_id = world.conductor.add(1)
        await world.get(silent)

        async def beat() -> None:
            with pytest.raises(Refused):
                await world.tell(silent, task_id, "IN_PROGRESS", extendLease=True, workflowInstanceId="another")
            await world.desk.held(silent, task_id)

        await world.pass_ms(6_000, beat)
        await world.pass_ms(2_000)
        assert world.conductor.tasks[task_id]["status"] == "SCHEDULED"

    scenario(world, play)


def test_a_task_that_conductor_gave_up_first_counts_as_silence_too(world: World) -> None:
    async def play() -> None:
        silent = world.machine("silent001")
        task_id = world.conductor.add(1)
        await world.get(silent)
        world.conductor.tasks[task_id]["status"] = "TIMED_OUT"
        world.at += 11_000
        await world.desk.sweep()
        assert world.desk.book.get(task_id) is None
        assert world.rented("silent001").failures > 0
        assert world.state.banned_until("silent001", "w", "chunk_1") > world.at

    scenario(world, play)


def test_nobody_was_silent_while_the_gateway_itself_stood_still(world: World) -> None:
    async def play() -> None:
        honest = world.machine("honest001")
        task_id = world.conductor.add(1)
        await world.desk.sweep()
        await world.get(honest)
        world.at += 9_000
        await world.desk.sweep()
        assert world.desk.book.get(task_id) is not None
        await world.tell(honest, task_id, "IN_PROGRESS", extendLease=True)
        await world.pass_ms(2_000)
        assert world.rented("honest001").failures == 0

    scenario(world, play)


# ---- failing, putting aside ----


def test_failing_costs_the_task_nothing_until_nobody_is_left(world: World) -> None:
    async def play() -> None:
        task_id = world.conductor.add(1)
        names = [f"failing{number}" for number in range(MOST_LOSSES)]
        machines = [world.machine(name) for name in names]
        for number, machine in enumerate(machines, 1):
            assert await world.get(machine) == [task_id]
            output = {"error": "EngineError", "reason": "out of memory"}
            await world.tell(machine, task_id, "FAILED", outputData=output)
            assert world.conductor.tasks[task_id]["status"] == ("FAILED" if number == MOST_LOSSES else "SCHEDULED")
        assert f"{MOST_LOSSES} machines" in world.conductor.tasks[task_id]["outputData"]["reason"]

    scenario(world, play)


def test_one_machine_alone_never_ends_a_task(world: World) -> None:
    async def play() -> None:
        lone = world.machine("lonely001")
        task_id = world.conductor.add(1)
        for _ in range(MOST_LOSSES + 3):
            assert await world.get(lone) == [task_id]
            await world.tell(lone, task_id, "FAILED")
            assert await world.get(lone) == []
            world.at += FAILED_AGAIN_MS + 1
        assert world.conductor.tasks[task_id]["status"] == "SCHEDULED"

    scenario(world, play)


def test_what_every_machine_failed_at_is_failed(world: World) -> None:
    """A chunk that breaks every engine ends soon also in a small fleet."""

    async def play() -> None:
        first, second = world.machine("first0001"), world.machine("second001")
        task_id = world.conductor.add(1)
        await world.get(first)
        await world.tell(first, task_id, "FAILED")
        assert await world.get(second) == [task_id]
        await world.tell(second, task_id, "FAILED")
        assert world.conductor.tasks[task_id]["status"] == "FAILED"

    scenario(world, play)


def test_while_others_live_a_failed_task_is_theirs_for_longer(world: World) -> None:
    async def play() -> None:
        failing, other = world.machine("failing01"), world.machine("other0001")
        task_id = world.conductor.add(1)
        await world.get(failing)
        await world.tell(failing, task_id, "FAILED")
        world.at += FAILED_AGAIN_MS + 1
        world.desk.meet(other)
        assert await world.get(failing) == []
        world.at += FAILED_AGAIN_AMONG_OTHERS_MS - FAILED_AGAIN_MS
        world.desk.meet(other)
        assert await world.get(failing) == [task_id]

    scenario(world, play)


def test_successes_between_do_not_wash_failures_off(world: World) -> None:
    async def play() -> None:
        machine = world.machine("mixed0001")
        for number in range(24):
            task_id = world.conductor.add(number)
            assert await world.get(machine) == [task_id]
            await world.tell(machine, task_id, "COMPLETED" if number % 2 else "FAILED")
            world.conductor.tasks[task_id]["status"] = "COMPLETED"
            world.at += REST_MS
        assert len(world.rented("mixed0001").strikes) >= 1

    scenario(world, play)


def test_putting_aside_is_free_only_while_something_is_missing(world: World) -> None:
    async def play() -> None:
        hiding = world.machine("hiding001")
        task_id = world.conductor.add(1)
        world.ready = False
        for _ in range(MOST_ASIDES * 3):
            assert await world.get(hiding) == [task_id]
            await world.tell(hiding, task_id, "IN_PROGRESS", callbackAfterSeconds=10)
        assert world.rented("hiding001").failures == 0
        world.ready = True
        for _ in range(MOST_ASIDES):
            assert await world.get(hiding) == [task_id]
            await world.tell(hiding, task_id, "IN_PROGRESS", callbackAfterSeconds=10)
        assert world.rented("hiding001").failures > 0
        assert await world.get(hiding) == []
        world.at += FAILED_AGAIN_MS + 1
        assert await world.get(hiding) == [task_id]

    scenario(world, play)


def test_a_machine_that_asks_for_what_it_is_kept_from_rests_and_the_task_does_not(world: World) -> None:
    async def play() -> None:
        banned, other = world.machine("banned001"), world.machine("other0001")
        task_id = world.conductor.add(1)
        world.state.ban("banned001", "w", "chunk_1")
        assert await world.get(banned) == []
        assert world.conductor.tasks[task_id]["status"] == "SCHEDULED"
        second = world.conductor.add(2)
        assert await world.get(banned) == []  # it rests, and asks Conductor for nothing
        assert await world.get(other) == [task_id]
        world.at += REST_MS
        assert await world.get(banned) == [second]

    scenario(world, play)


def test_a_short_task_may_not_be_held_for_as_long_as_a_long_one() -> None:
    lease = Lease.of({"taskId": "t", "workflowInstanceId": "w", "taskDefName": KIND}, "abcd", "grant", 0)
    lease.audio_ms = 30_000
    assert gateway_desk.longest_hold_ms(lease) == 900_000
    lease.audio_ms = 3_600_000
    assert gateway_desk.longest_hold_ms(lease) == 1_800_000


def test_lines_of_log_are_counted_by_machine(world: World) -> None:
    async def play() -> None:
        machine = world.machine("talkative")
        world.ready = False
        task_id = world.conductor.add(1)
        for _ in range(5):
            await world.get(machine)
            for _ in range(60):
                await world.desk.log(machine, task_id, "again")
            await world.tell(machine, task_id, "IN_PROGRESS", callbackAfterSeconds=1)
        assert 100 <= len(world.conductor.logs) < 120

    scenario(world, play)


# ---- grants, stored results ----


def test_a_grant_ends_with_trust_in_its_machine(world: World) -> None:
    async def play() -> None:
        book = world.desk.book
        for number, name in enumerate(("revoked01", "refused01", "expired01")):
            machine = world.machine(name)
            task_id = world.conductor.add(number)
            await world.get(machine)
            lease = book.get(task_id)
            assert lease is not None
            assert await book.granted(lease.grant) is lease
            if name == "revoked01":
                world.rented(name).revoked_ms = world.at
            elif name == "refused01":
                world.rented(name).refused = "it lied"
            else:
                world.rented(name).expires_ms = world.at
            assert await book.granted(lease.grant) is None

    scenario(world, play)


def test_a_grant_of_a_stale_lease_is_worth_what_conductor_says(world: World) -> None:
    async def play() -> None:
        machine, book = world.machine("sleeping1"), world.desk.book
        tasks = [world.conductor.add(number) for number in range(2)]
        await world.get(machine, 2)
        leases = [book.get(task_id) for task_id in tasks]
        world.conductor.tasks[tasks[0]]["status"] = "TIMED_OUT"
        world.at += TIMEOUT_MS + 1
        for lease, wanted in zip(leases, (None, leases[1]), strict=True):
            assert lease is not None
            assert await book.granted(lease.grant) is wanted

    scenario(world, play)


@pytest.mark.parametrize(
    ("what", "discarded"), [("break", True), ("fail", True), ("distrust", True), ("loss", False), ("silence", False)]
)
def test_what_a_machine_stored_goes_with_the_trust_in_it(world: World, what: str, discarded: bool) -> None:
    async def play() -> None:
        machine = world.machine("storing01")
        task_id = world.conductor.add(1)
        await world.get(machine)
        lease = world.desk.book.get(task_id)
        assert lease is not None
        lease.written["jobs/j/results/00001.json"] = "0" * 64
        if what == "break":
            world.verdict = Verdict(False, reason="nonsense")
            with pytest.raises(Refused):
                await world.tell(machine, task_id, "COMPLETED")
        elif what == "fail":
            await world.tell(machine, task_id, "FAILED")
        elif what == "distrust":
            world.rented("storing01").refused = "three strikes"
            await world.desk.sweep()
        elif what == "loss":
            await world.desk.lose("storing01", world.at + HOUR_MS)
        else:
            await world.pass_ms(9_000)
        assert world.conductor.tasks[task_id]["status"] == "SCHEDULED"
        assert world.discarded == ([{"jobs/j/results/00001.json": "0" * 64}] if discarded else [])

    scenario(world, play)


# ---- what goes wrong here ----


def test_what_breaks_for_one_lease_does_not_end_the_looking_after_others(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        machine = world.machine("silent001")
        tasks = [world.conductor.add(number) for number in range(3)]
        await world.get(machine, 3)
        lose = world.state.lose

        def broken(task_id: str, nonce: str) -> None:
            if task_id == tasks[1]:
                raise sqlite3.OperationalError("disk I/O error")
            lose(task_id, nonce)

        monkeypatch.setattr(world.state, "lose", broken)
        await world.pass_ms(9_000)
        assert [world.desk.book.get(task_id) is None for task_id in tasks] == [True, False, True]
        assert "disk I/O error" in caplog.text
        monkeypatch.undo()
        monkeypatch.setattr(gateway_desk, "now_ms", lambda: world.at)
        await world.pass_ms(1_000)
        assert world.desk.book.get(tasks[1]) is None

    scenario(world, play)


def test_statistics_that_could_not_be_written_leave_no_transaction_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        world.machine("counted01")
        write = world.state.write

        def full(rented: Any) -> None:
            write(rented)
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(world.state, "write", full)
        with pytest.raises(sqlite3.OperationalError):
            world.state.write_all()
        monkeypatch.setattr(world.state, "write", write)
        world.state.write_all()

    scenario(world, play)


def test_a_task_that_cannot_be_put_back_now_is_later_and_the_rest_is_handed_out(world: World) -> None:
    async def play() -> None:
        machine = world.machine("banned001")
        tasks = [world.conductor.add(number) for number in range(3)]
        world.state.ban("banned001", "w", "chunk_1")
        world.conductor.away = lambda request: request.method == "POST"
        assert await world.get(machine, 3) == [tasks[0], tasks[2]]
        with pytest.raises(Refused):  # it was given, but not for this machine
            await world.desk.held(machine, tasks[1])
        world.conductor.away = lambda request: False
        await world.desk.sweep()
        statuses = [world.conductor.tasks[task_id]["status"] for task_id in tasks]
        assert statuses == ["IN_PROGRESS", "SCHEDULED", "IN_PROGRESS"]

    scenario(world, play)


def test_a_loss_counts_once_the_task_is_back(world: World) -> None:
    async def play() -> None:
        machine = world.machine("lostone01")
        task_id = world.conductor.add(1)
        await world.get(machine)
        world.conductor.away = lambda request: request.method == "POST"
        for _ in range(MOST_LOSSES + 1):
            with pytest.raises(UpstreamSilent):
                await world.desk.lose("lostone01", world.at + HOUR_MS)
        assert world.state.losers(task_id) == set()
        world.conductor.away = lambda request: False
        assert await world.desk.lose("lostone01", world.at + HOUR_MS) == [task_id]
        assert world.conductor.tasks[task_id]["status"] == "SCHEDULED"

    scenario(world, play)


# ---- at the door ----


def test_forged_sessions_use_up_their_own_allowance_and_a_silent_conductor_is_503(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_guard, "TokenBucket", lambda rate, burst: TokenBucket(0.001, 5.0))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def play() -> None:
        tokens = Tokens(b"k" * 32)
        guard: Any = Guard(app, world.desk, tokens)
        machine = Machine("honest001", (KIND,), 4_000_000_000_000)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://gateway") as http:
            path = f"/api/tasks/poll/{KIND}"
            codes = [(await http.get(path, headers={"X-Authorization": f"forged{n}"})).status_code for n in range(8)]
            assert codes == [401] * 5 + [429] * 3
            session = {"X-Authorization": tokens.session(machine)}
            assert (await http.get(path, headers=session)).status_code == 200
            assert (await http.post("/api/token", json={})).status_code == 200
            world.conductor.add(1)
            (task_id,) = await world.get(world.machine("sleeping1"))
            lease = world.desk.book.get(task_id)
            assert lease is not None
            world.at += TIMEOUT_MS + 1
            world.conductor.away = lambda request: True
            answer = await http.get(f"/objects/{lease.grant}/jobs/j/plan.json")
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")

    scenario(world, play)


def test_of_who_polled_only_the_living_are_told(world: World) -> None:
    async def play() -> None:
        now = round(time.time() * 1000)
        world.conductor.rows = [
            {"queueName": KIND, "workerId": f"rented-m{age}", "domain": f"rented-{age}", "lastPollTime": now - age}
            for age in (1_000, 50_000, 61_000, 86_400_000)
        ]
        told = await world.desk.upstream.poll_data(KIND)
        assert [row["workerId"] for row in told] == ["rented-m1000", "rented-m50000"]

    scenario(world, play)
