"""Tokens and their keys, what outlives a restart, and how seldom Conductor is asked: each alone."""

import asyncio
import json
import stat
import time
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from provisioning import gateway_audit
from provisioning.gateway_audit import Audit
from provisioning.gateway_leases import Lease, LeaseBook
from provisioning.gateway_limits import TokenBucket
from provisioning.gateway_state import FOR_EVER_MS, HeldRow, State
from provisioning.gateway_tokens import MACHINE_TOKEN_CHARACTERS, Machine, TokenRefused, Tokens, load_key
from provisioning.gateway_upstream import Upstream, UpstreamSilent
from provisioning.grants import KINDS
from workers.errors import OptionError, StorageError

SOON_MS = round(time.time() * 1000) + 3_600_000
MACHINE = Machine("abcdefghij", KINDS, SOON_MS // 1000 * 1000)
KEY = b"k" * 32


# ---- tokens ----


def test_a_machine_token_fits_a_variable_of_the_market_and_names_the_machine() -> None:
    token = Tokens(KEY).machine(MACHINE)
    assert len(token) <= MACHINE_TOKEN_CHARACTERS
    assert Tokens(KEY).read_machine(token) == MACHINE
    with pytest.raises(OptionError):
        Tokens(KEY).machine(Machine("n" * 80, KINDS, SOON_MS))


def test_a_session_ends_with_its_machine_at_the_latest() -> None:
    tokens = Tokens(KEY, session_s=600)
    for seconds, wanted in ((3_600, 600), (60, 60)):
        machine = Machine("abcdefghij", KINDS, round(time.time() + seconds) * 1000)
        session = tokens.session(machine)
        assert tokens.read_session(session) == machine
        claims = jwt.decode(session, KEY, ["HS256"], audience="s")
        assert claims["exp"] == pytest.approx(time.time() + wanted, abs=2)


def test_one_kind_of_token_is_not_the_other() -> None:
    tokens = Tokens(KEY)
    with pytest.raises(TokenRefused):
        tokens.read_session(tokens.machine(MACHINE))
    with pytest.raises(TokenRefused):
        tokens.read_machine(tokens.session(MACHINE))


def test_what_was_wrong_with_a_token_is_told_as_sdks_expect() -> None:
    with pytest.raises(TokenRefused) as expired:
        Tokens(KEY).read_session(Tokens(KEY, session_s=-5).session(MACHINE))
    with pytest.raises(TokenRefused) as foreign:
        Tokens(KEY).read_session(Tokens(b"o" * 32).session(MACHINE))
    assert (expired.value.code, foreign.value.code) == ("EXPIRED_TOKEN", "INVALID_TOKEN")


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "gateway" / "signing.key"
    key = load_key(path)
    assert len(key) >= 32
    assert load_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["signing.key"]


def test_a_key_that_cannot_be_trusted_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(OptionError, match="5 bytes"):
        load_key(path)
    path.write_bytes(b"l" * 40)
    path.chmod(0o644)
    with pytest.raises(OptionError, match="chmod 600"):
        load_key(path)
    with pytest.raises(OptionError, match="cannot be read"):
        load_key(tmp_path)
    path.chmod(0o600)
    with pytest.raises(StorageError, match="Cannot make the key file"):
        load_key(path / "below" / "a file")


# ---- state, leases, audit ----


def test_what_must_outlive_a_restart_does(tmp_path: Path) -> None:
    now = [1_000_000]
    state = State(tmp_path / "state.db", lambda: now[0])
    rented = state.machine("abcdefghij", KINDS, SOON_MS)
    rented.revoked_ms, rented.strikes = 5, ["it lied"]
    state.write(rented)
    state.hold(HeldRow("t1", "abcdefghij", "grant1", 7))
    state.hold(HeldRow("t2", "another", "grant2", 8))
    state.let_go("t1", "another")
    state.let_go("t2", "another")
    state.ban("abcdefghij", "w", "chunk_0")
    state.ban("abcdefghij", "w", "chunk_1", until_ms=now[0] + 10)
    for nonce in ("abcdefghij", "another", "another"):
        state.lose("t1", nonce)
    state.close()
    state = State(tmp_path / "state.db", lambda: now[0])
    assert state.machines["abcdefghij"] == rented
    assert state.held() == state.held(nonce="abcdefghij") == state.held(grant="grant1")
    assert [row.task_id for row in state.held()] == ["t1"]
    assert state.banned_until("abcdefghij", "w", "chunk_0") == FOR_EVER_MS
    assert state.banned_until("abcdefghij", "w", "chunk_1") == now[0] + 10
    assert not state.banned_until("another", "w", "chunk_0")
    assert state.losers("t1") == {"abcdefghij", "another"}
    state.close()


def test_a_state_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"state\.db"):
        State(tmp_path / "state.db", lambda: 0)


def task(task_id: str = "t1", **changes: Any) -> dict[str, Any]:
    told = {
        "taskId": task_id, "workflowInstanceId": "w", "taskDefName": "transcribe_chunk", "referenceTaskName": "chunk_3",
        "inputData": {"storage": "/store", "job": "j", "index": 3}, "responseTimeoutSeconds": 10, "pollCount": 2,
    }  # fmt: skip
    return told | changes


def test_a_lease_is_found_by_its_grant_until_it_is_over() -> None:
    book = LeaseBook()
    first = book.add(Lease.of(task(), "abcdefghij", "grant1", 1_000))
    assert (first.index, first.job, first.storage, first.kind) == (3, "j", "/store", "transcribe_chunk")
    assert first.fresh(10_999)
    assert not first.fresh(11_000)
    again = book.add(Lease.of(task(), "another000", "grant2", 2_000))
    assert asyncio.run(book.granted("grant1")) is None
    assert asyncio.run(book.granted("grant2")) is again
    assert (book.of("abcdefghij"), book.of("another000")) == ((), (again,))
    assert book.drop("t1") is again
    assert book.drop("t1") is None
    assert asyncio.run(book.granted("grant2")) is None
    assert book.all() == ()


def test_an_index_that_is_none_is_none() -> None:
    for index in (True, "3", 1.0, None):
        data = {"storage": "/store", "job": "j", "index": index}
        assert Lease.of(task(inputData=data), "abcdefghij", "grant1", 0).index is None


def test_a_flood_of_refusals_fills_no_log(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.jsonl")
    for _ in range(5_000):
        audit.refuse("no", source="1.2.3.4", path="x" * 10_000)
    audit.refuse("no", source="5.6.7.8")
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert len([line for line in lines if line["source"] == "1.2.3.4"]) < 200
    assert lines[-1]["source"] == "5.6.7.8"
    assert max(len(line["path"]) for line in lines if "path" in line) <= 300


def test_no_machine_washes_out_what_is_said_of_the_others(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    audit = Audit(tmp_path / "audit.jsonl", heard.append)
    audit.say("revoked", "honest0001")
    for number in range(20_000):
        audit.say("put_aside", "liar000001", task=str(number))
        audit.refuse("no", "liar000001")
    audit.say("strike", "liar000001", reason="it lied")
    audit.say("result", "honest0001")
    for number in range(20_000):  # addresses are cheap
        audit.refuse("no", source=f"2001:db8::{number:x}")
    audit.close()
    assert [line["event"] for line in heard if line.get("instance") == "honest0001"] == ["revoked", "result"]
    of_liar = [line for line in heard if line.get("instance") == "liar000001"]
    assert len(of_liar) < 4_000
    assert of_liar[-1]["event"] == "strike"
    assert len(heard) < 8_000
    assert len(audit._measures) <= 10_000, "nothing is remembered for ever"


def test_how_much_was_left_out_is_said_in_the_next_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_audit, "LINES_BURST", 2.0)
    monkeypatch.setattr(gateway_audit, "LINES_PER_S", 1e-9)
    heard: list[dict[str, Any]] = []
    audit = Audit(tmp_path / "audit.jsonl", heard.append)
    for _ in range(5):
        audit.say("session", "abcdefghij")
    audit._measures["abcdefghij"].lines = TokenBucket(1.0, 1.0)
    audit.say("session", "abcdefghij")
    audit.close()
    assert [line.get("left_out") for line in heard] == [None, None, 3]


@pytest.mark.parametrize("path", ["/objects/{}/jobs/x", "/objects/{}", "/x/../objects/./{}/jobs", "objects/%41{}"])
def test_no_line_holds_a_grant(tmp_path: Path, path: str) -> None:
    grant = "aB3_-" + "x" * 27
    heard: list[dict[str, Any]] = []
    audit = Audit(tmp_path / "audit.jsonl", heard.append)
    audit.refuse("asks too often", "abcdefghij", path=path.format(grant))
    audit.close()
    assert grant[6:] not in heard[0]["path"]
    assert "…" in heard[0]["path"]


def test_every_file_of_the_log_is_its_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_audit, "FILE_BYTES", 1_000)
    (tmp_path / "audit.jsonl").touch(0o644)
    audit = Audit(tmp_path / "audit.jsonl")
    for number in range(50):
        audit.say("revoked", "abcdefghij", task=str(number))
    audit.close()
    files = list(tmp_path.iterdir())
    assert len(files) > 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# ---- Conductor, asked seldom ----


class Queue:
    """A Conductor of one queue, which counts what it is asked."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.asked: list[httpx.Request] = []
        self.away = False

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        await asyncio.sleep(0.005)
        if self.away:
            raise httpx.ConnectError("refused")
        if not self.waiting:
            return httpx.Response(200, json=[])
        self.waiting -= 1
        return httpx.Response(200, json=[task(f"t{self.waiting}")])


def upstream(queue: Queue) -> Upstream:
    return Upstream("http://conductor/api", transport=httpx.MockTransport(queue))


def test_polls_of_an_empty_queue_are_answered_by_one() -> None:
    async def run() -> None:
        queue = Queue()
        found = upstream(queue)
        answers = await asyncio.gather(*(found.poll("transcribe_chunk", f"m{n}") for n in range(500)))
        assert answers == [[]] * 500
        assert len(queue.asked) == 1
        assert await found.poll("transcribe_chunk", "m1") == []
        assert len(queue.asked) == 1
        assert await found.poll("diarize_chunk", "m1") == []
        assert len(queue.asked) == 2
        await found.close()

    asyncio.run(run())


def test_every_task_of_a_full_queue_is_given_once_and_nobody_waits_in_line() -> None:
    async def run() -> None:
        queue = Queue(waiting=60)
        found = upstream(queue)
        answers = await asyncio.gather(*(found.poll("transcribe_chunk", f"m{n}") for n in range(40)))
        ids = [answer[0]["taskId"] for answer in answers if answer]
        assert len(ids) == len(set(ids)) == 40
        assert {request.url.params["workerid"] for request in queue.asked} == {f"rented-m{n}" for n in range(40)}
        await found.close()

    asyncio.run(run())


def test_what_is_put_back_is_seen_at_once() -> None:
    async def run() -> None:
        queue = Queue()
        found = upstream(queue)
        assert await found.poll("transcribe_chunk", "m1") == []
        queue.waiting = 1
        found.stir("transcribe_chunk")
        assert len(await found.poll("transcribe_chunk", "m1")) == 1
        await found.close()

    asyncio.run(run())


def test_a_silent_conductor_is_said_to_all_who_wait_and_asked_again() -> None:
    async def run() -> None:
        queue = Queue()
        queue.away = True
        found = upstream(queue)
        with pytest.raises(UpstreamSilent):
            await found.poll("transcribe_chunk", "m1")
        queue.away, queue.waiting = False, 1
        assert len(await found.poll("transcribe_chunk", "m1")) == 1
        await found.close()

    asyncio.run(run())


def test_signs_of_life_are_passed_on_now_and_then() -> None:
    async def run() -> None:
        queue = Queue()
        found = upstream(queue)
        for _ in range(100):
            found.announce("transcribe_chunk", "m1")
        for number in range(500):
            found.announce("transcribe_chunk", f"n{number}")
        await asyncio.sleep(0.1)
        assert len([request for request in queue.asked if request.url.params["workerid"] == "rented-m1"]) == 1
        assert len(queue.asked) <= 4  # at a time, or they would stand before the polls
        await found.close()

    asyncio.run(run())
