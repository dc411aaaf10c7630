"""Objects and results at the gateway: honest stages work through it as they do beside it, and all else is refused.

First the routes alone at a real socket, then the whole gateway before a real Conductor.
"""

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from provisioning import gateway_objects
from provisioning.gateway_leases import Lease
from tests.conftest import S3, Conductor
from tests.support.gateways import OpenGateway, chunks, finish, objects, open_gateway, polled, update
from tests.support.objects import (
    KEYS,
    LENGTH_MS,
    SECRETS,
    Scribe,
    Served,
    fill,
    flac,
    lease,
    put_speakers,
    recording,
    serve,
    vote,
)
from tests.support.stages import ToneDiarizer, make_context
from workers import lanes
from workers import settings as environment
from workers.errors import ChunkNotReady, StorageError
from workers.lanes import run_task
from workers.messages import Chunk, Message
from workers.seat import EngineSeat
from workers.spans import SAMPLES_PER_MS, Span
from workers.storage import LocalStorage, Storage, open_storage
from workers.tasks import PolledTask, TaskClient

pytestmark = pytest.mark.integration


# ---- the routes ----


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return LocalStorage(tmp_path / "objects", own=True)


@pytest.fixture
def served(storage: Storage, tmp_path: Path) -> Iterator[Served]:
    with serve(tmp_path, lambda one: storage) as gateway:
        yield gateway


class Grid(ToneDiarizer):
    """Voices by the value of the samples, on ge2e's grid and in its shape."""

    @property
    def spec(self) -> Any:
        from provisioning.gateway_windows import GE2E

        return GE2E

    def hear(self, audio: Any, windows: range, wanted: Callable[[], None]) -> Any:
        import numpy as np

        from workers.diarizers import Windows

        wanted()
        embedding = np.zeros((len(windows), 1, 256), np.float32)
        for row in range(len(windows)):
            heard = audio[row * self.spec.step : row * self.spec.step + self.spec.window]
            embedding[row, 0, 0] = heard.mean() if len(heard) else np.nan
            embedding[row, 0, 1:] = np.nan if not len(heard) else 0
        activity = np.zeros((len(windows), 0, 1), np.bool_)
        return Windows(self.spec.hash, np.array(windows, np.int32), activity, embedding)


def work(address: str, mine: Lease) -> Message:
    around = make_context(recognizer=lambda options: Scribe(), diarizer=lambda name, model: Grid())
    data = {**mine.data, "storage": address}
    return run_task(PolledTask("t", "w", mine.kind, mine.reference, data, 1, 0, 10), around)


@pytest.mark.parametrize(
    ("kind", "index"), [("transcribe_chunk", 0), ("transcribe_chunk", 2), ("detect_language", None)]
)
def test_a_stage_stores_the_same_through_a_gateway(
    served: Served, storage: Storage, tmp_path: Path, kind: str, index: int | None
) -> None:
    beside = LocalStorage(tmp_path / "beside", own=True)
    for place in (storage, beside):
        fill(place)
        if kind == "transcribe_chunk":
            vote(place)
    mine = lease(kind, index)

    through = work(served.add(mine), mine)
    direct = work(beside.address, mine)

    key = KEYS.language if index is None else KEYS.result(index)
    there, here = json.loads(storage.get_bytes(key)), json.loads(beside.get_bytes(key))
    for told in (there, here):
        told.pop("seconds", None)
        told.pop("worker", None)
    assert there == here
    assert through.model_dump(exclude={"seconds", "worker"}) == direct.model_dump(exclude={"seconds", "worker"})
    assert served.refusals() == []
    assert mine.written == {key: hashlib.sha256(storage.get_bytes(key)).hexdigest()}


@pytest.mark.parametrize("index", [0, 1, 2])
def test_voices_are_the_same_through_a_gateway_and_found_again(
    served: Served, storage: Storage, tmp_path: Path, index: int
) -> None:
    beside = LocalStorage(tmp_path / "beside", own=True)
    for place in (storage, beside):
        fill(place)
        speakers = put_speakers(place)
    mine = lease("diarize_chunk", index, speakers=speakers.key)
    address = served.add(mine)

    through, direct = work(address, mine), work(beside.address, mine)

    assert (through.key, through.sha256) == (direct.key, direct.sha256)  # type: ignore[attr-defined]
    assert work(address, mine).reused is True  # type: ignore[attr-defined]
    assert served.refusals() == []


def test_a_chunk_that_is_not_cut_yet_is_given_back(
    served: Served, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers.stages import recognize

    monkeypatch.setattr(recognize, "HOLD_SECONDS", 0.0)
    fill(storage)
    storage.discard([KEYS.chunk(1)])
    mine = lease()
    with pytest.raises(ChunkNotReady):
        work(served.add(mine), mine)
    answer = httpx.put(f"{served.url}/objects/{mine.grant}/{KEYS.result(1)}", content=b"{}")
    assert answer.status_code == 409


def test_what_a_machine_reads_holds_no_secret(served: Served, storage: Storage) -> None:
    fill(storage)
    speakers = put_speakers(storage)
    vote(storage)
    for mine in (lease(), lease("detect_language", None), lease("diarize_chunk", 1, speakers=speakers.key)):
        address = served.add(mine)
        readable = [KEYS.plan, KEYS.speaker_plan(speakers.key), KEYS.chunk(1), KEYS.language]
        answers = [httpx.get(f"{address}/{key}") for key in readable]
        assert {answer.status_code for answer in answers} <= {200, 403}
        assert [secret for secret in SECRETS if any(secret in answer.text for answer in answers)] == []


def test_audio_comes_from_the_store_where_it_has_an_address_outside(s3: S3, tmp_path: Path) -> None:
    private = open_storage(f"{s3.address}/jobs here", environment.load())
    fill(private)
    outside = s3.endpoint.replace("127.0.0.1", "localhost")
    with serve(tmp_path, lambda one: private, public_s3=outside) as served:
        mine = lease()
        address = served.add(mine)
        answer = httpx.get(f"{address}/{KEYS.audio(1)}")
        assert answer.status_code == 307
        assert answer.headers["location"].startswith(outside)
        assert "X-Amz-Expires=600" in answer.headers["location"]
        assert httpx.get(answer.headers["location"]).content == private.get_bytes(KEYS.audio(1))
        assert open_storage(address, environment.load()).get_bytes(KEYS.audio(1)) == private.get_bytes(KEYS.audio(1))
        assert httpx.get(f"{address}/{KEYS.plan}").status_code == 200, "what is shown in part goes through here"
        for refused in (KEYS.audio(2), "jobs/other/audio/00001.flac"):
            assert httpx.get(f"{address}/{refused}").status_code == 403
        vote(private)
        work(address, mine)
        assert private.exists(KEYS.result(1))


def test_without_an_address_outside_audio_of_s3_goes_through_here(s3: S3, tmp_path: Path) -> None:
    private = open_storage(f"{s3.address}/jobs", environment.load())
    fill(private)
    with serve(tmp_path, lambda one: private) as served:
        answer = httpx.get(f"{served.add(lease())}/{KEYS.audio(1)}")
        assert (answer.status_code, answer.content) == (200, private.get_bytes(KEYS.audio(1)))
        private.discard([KEYS.audio(1)])
        assert httpx.get(f"{served.add(lease())}/{KEYS.audio(1)}").status_code == 404


def test_a_store_that_is_away_is_no_reason_to_fail_and_shows_nothing(tmp_path: Path) -> None:
    absent = tmp_path / "share" / "objects"

    def opened(one: Lease) -> Storage:
        (tmp_path / "share").mkdir(exist_ok=True)
        storage = LocalStorage(absent, own=False)
        (tmp_path / "share").rmdir()
        return storage

    with serve(tmp_path, opened) as served:
        answer = httpx.get(f"{served.add(lease())}/{KEYS.plan}")
    assert answer.status_code == 503
    assert "share" not in answer.text


# ---- the routes, and strangers ----

OTHERS = "jobs/ffffffffffffffffffffffffffffffff"
FOREIGN = {
    "another job's plan": f"{OTHERS}/plan.json",
    "another job's audio": f"{OTHERS}/audio/00001.flac",
    "another chunk's audio": KEYS.audio(2),
    "another chunk's result": KEYS.result(2),
    "the finished text": KEYS.transcript("json"),
    "a clip": KEYS.clip("0123456789abcdef"),
    "the speakers": f"{KEYS.speakers}x/result.json",
    "nothing": "",
    "the folder": KEYS.prefix,
    "a path up": f"{KEYS.prefix}audio/../plan.json",
    "a path out": "../../../../etc/passwd",
    "an encoded path": f"{KEYS.prefix}audio/%2e%2e/plan.json",
    "an encoded slash": f"{KEYS.prefix}audio%2f00002.flac",
    "a doubled path": f"/{KEYS.plan}",
    "a backslash": f"{KEYS.prefix}audio\\..\\plan.json",
    "a null byte": f"{KEYS.plan}%00.flac",
    "an encoded secret": "%2Fetc%2Fpasswd",
    "a long path": "a/" * 3000,
    "a unicode path": "j%C3%B6bs/plan.json",
    "a newline": f"{KEYS.prefix}%0Aplan.json",
}


def raw(url: str, method: str, path: str) -> bytes:
    """A request whose path nobody tidies up on the way."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_what_is_not_this_tasks_is_refused_and_written_down(served: Served, storage: Storage, method: str) -> None:
    fill(storage)
    storage.put_bytes(f"{OTHERS}/plan.json", storage.get_bytes(KEYS.plan))
    storage.put_bytes(f"{OTHERS}/audio/00001.flac", b"theirs")
    before = {key: storage.get_bytes(key) for key in storage.keys("")}
    mine = lease()
    served.add(mine)
    for name, key in FOREIGN.items():
        served.lines.clear()
        answer = raw(served.url, method, f"/objects/{mine.grant}/{key}")
        status = int(answer.split(b" ", 2)[1])
        assert status in (400, 403, 404, 405), (name, answer[:300])
        if status == 403:
            assert len(served.refusals()) == 1, name
        else:  # no such route, or no HTTP at all
            assert name in ("nothing", "a doubled path", "a newline", "a backslash"), (name, answer[:300])
        assert not any(secret.encode() in answer for secret in SECRETS), name
        assert b"root:" not in answer
    assert {key: storage.get_bytes(key) for key in storage.keys("")} == before


@pytest.mark.parametrize("grant", ["x" * 24, "", "%2e%2e", "..", "grant-transcribe-chunk-1-", "' OR 1=1"])
def test_a_grant_that_nobody_gave_opens_nothing(served: Served, storage: Storage, grant: str) -> None:
    fill(storage)
    served.add(lease())
    answer = httpx.get(f"{served.url}/objects/{grant}/{KEYS.plan}")
    assert answer.status_code in (403, 404)
    assert SECRETS[0] not in answer.text


def test_a_grant_ends_with_its_lease(served: Served, storage: Storage) -> None:
    fill(storage)
    mine = lease()
    address = served.add(mine)
    assert httpx.get(f"{address}/{KEYS.plan}").status_code == 200
    served.book.drop(mine.task_id)
    for method in ("GET", "PUT", "DELETE", "HEAD"):
        assert httpx.request(method, f"{address}/{KEYS.result(1)}").status_code == 403
    with pytest.raises(StorageError, match="refuses"):
        open_storage(address, environment.load()).get_bytes(KEYS.plan)


def test_what_is_a_tasks_to_list_is_its_own_windows(served: Served, storage: Storage) -> None:
    fill(storage)
    speakers = put_speakers(storage)
    mine = lease("diarize_chunk", 1, speakers=speakers.key)
    own = KEYS.windows(speakers.voices, 1)
    stored = f"{own}{'0' * 16}.npz"
    for key in (stored, f"{own}{'0' * 16}.txt", KEYS.windows(speakers.voices, 0, "1" * 16)):
        storage.put_bytes(key, b"x")
    address = served.add(mine)
    assert httpx.get(address, params={"prefix": own}).json() == {"keys": [stored]}
    for prefix in ("", "jobs/", KEYS.prefix, own[:-1], f"{KEYS.prefix}voices/", KEYS.windows(speakers.voices, 0)):
        assert httpx.get(address, params={"prefix": prefix}).status_code == 403
    assert httpx.get(served.add(lease()), params={"prefix": KEYS.prefix}).status_code == 403
    assert httpx.delete(f"{address}/{stored}").status_code == 204
    assert httpx.delete(f"{address}/{KEYS.windows(speakers.voices, 0, '1' * 16)}").status_code == 403
    assert not storage.exists(stored)


def test_an_upload_that_is_too_large_is_not_received(served: Served, storage: Storage) -> None:
    fill(storage)
    address = f"{served.add(lease())}/{KEYS.result(1)}"
    assert httpx.put(address, content=b"x" * 500_000).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 65_536

    status = 413
    try:  # chunked, without a length: the server answers in the middle, or hangs up
        status = httpx.put(address, content=pieces(), timeout=20).status_code
    except httpx.HTTPError as error:
        assert isinstance(error, httpx.WriteError | httpx.RemoteProtocolError | httpx.ReadError)  # noqa: PT017
    assert status == 413
    assert not storage.exists(KEYS.result(1))
    assert any("bytes" in reason for reason in served.refusals())


def test_an_upload_that_trickles_is_not_waited_for(
    served: Served, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_objects, "UPLOAD_S", 0.3)
    fill(storage)
    mine = lease()
    served.add(mine)
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        path = f"/objects/{mine.grant}/{KEYS.result(1)}"
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        assert b"408" in connection.recv(1000)
    assert not storage.exists(KEYS.result(1))


def test_one_upload_at_a_time_and_a_broken_one_leaves_nothing(served: Served, storage: Storage) -> None:
    fill(storage)
    mine = lease()
    address = f"{served.add(mine)}/{KEYS.result(1)}"
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        path = f"/objects/{mine.grant}/{KEYS.result(1)}"
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode())
        ends = time.monotonic() + 10
        while httpx.put(address, content=b"").status_code != 429 and time.monotonic() < ends:
            served.add(mine)  # the empty one was refused as broken, when it was first
        assert time.monotonic() < ends
    assert not storage.exists(KEYS.result(1))


def trickled(served: Served, path: str) -> socket.socket:
    """A download of which little is read."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.connect((host, int(port)))
    line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert line.recv(100).startswith(b"HTTP/1.1 200")
    return line


def until(status: int, ask: Callable[[], int], within_s: float = 10) -> None:
    ends = time.monotonic() + within_s
    while (found := ask()) != status and time.monotonic() < ends:
        time.sleep(0.02)
    assert found == status


def test_a_machine_has_a_few_downloads_at_a_time_and_others_have_theirs(served: Served, storage: Storage) -> None:
    fill(storage)
    storage.put_bytes(KEYS.audio(1), b"x" * (32 << 20))
    mine, other = lease(), lease(nonce="nonce00002")
    address, others = served.add(mine), served.add(other)
    lines = [trickled(served, f"/objects/{mine.grant}/{KEYS.audio(1)}") for _ in range(gateway_objects.DOWNLOADS)]
    assert httpx.get(f"{address}/{KEYS.audio(1)}").status_code == 429
    assert httpx.get(f"{address}/{KEYS.plan}").status_code == 429
    assert httpx.get(f"{others}/{KEYS.plan}").status_code == 200
    assert httpx.get(f"{address}/{KEYS.audio(2)}").status_code == 403, "what it may not read takes no place"
    for line in lines:
        line.close()
    until(200, lambda: httpx.get(f"{address}/{KEYS.plan}").status_code)


def test_a_download_that_trickles_ends(served: Served, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_objects, "DOWNLOAD_S", 0.3)
    monkeypatch.setattr(gateway_objects, "SLOWEST_BYTES_PER_S", 1e12)
    fill(storage)
    size = 32 << 20  # more than the buffers between the two hold
    storage.put_bytes(KEYS.audio(1), b"x" * size)
    mine = lease()
    address = served.add(mine)
    lines = [trickled(served, f"/objects/{mine.grant}/{KEYS.audio(1)}") for _ in range(gateway_objects.DOWNLOADS)]
    until(200, lambda: httpx.get(f"{address}/{KEYS.plan}").status_code)
    for line in lines:
        assert what_is_left(line) < size, "it was cut off"
        line.close()


def what_is_left(line: socket.socket) -> int:
    """Bytes that still come out of a connection, until it ends in whatever way."""
    size = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := line.recv(1 << 20):
            size += len(piece)
    return size


def test_objects_of_s3_are_read_piece_by_piece(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private = open_storage(f"{s3.address}/jobs", environment.load())
    fill(private)
    monkeypatch.setattr(type(private), "get_file", None)  # no copy is made
    data = bytes(range(256)) * 8192
    private.put_bytes(KEYS.audio(1), data)
    with serve(tmp_path, lambda one: private) as served:
        answer = httpx.get(f"{served.add(lease())}/{KEYS.audio(1)}")
    assert (answer.status_code, answer.content) == (200, data)
    assert answer.headers["content-length"] == str(len(data))


def test_a_task_stores_its_object_a_few_times(served: Served, storage: Storage, tmp_path: Path) -> None:
    fill(storage)
    vote(storage)
    work(storage.address, lease())
    data = storage.get_bytes(KEYS.result(1))
    mine = lease()
    address = served.add(mine)
    put = [httpx.put(f"{address}/{KEYS.result(1)}", content=data).status_code for _ in range(6)]
    assert put == [204] * gateway_objects.UPLOADS + [403, 403]
    assert "stored more than" in served.broken[0][1]
    assert len(served.broken) == 1, "after it the task is another's"


def test_who_learns_of_results_hears_of_each_task_once(storage: Storage, tmp_path: Path) -> None:
    fill(storage)
    vote(storage)
    work(storage.address, lease())
    data = storage.get_bytes(KEYS.result(1))
    told: list[str] = []
    with serve(tmp_path, lambda one: storage, stored=lambda one, plan, store: told.append(one.task_id)) as served:
        address = served.add(lease())
        for _ in range(3):
            httpx.put(f"{address}/{KEYS.result(1)}", content=data)
    assert told == [lease().task_id]


# ---- the whole gateway ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def gateway(conductor: Conductor, folder: Path) -> Iterator[OpenGateway]:
    settings = replace(environment.load(), home=folder)
    with open_gateway(conductor.url, folder / "gateway", settings) as opened:
        yield opened


def bad_results() -> dict[str, Callable[[dict[str, Any]], bytes]]:
    def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], bytes]:
        def make(result: dict[str, Any]) -> bytes:
            change(result)
            return json.dumps(result).encode()

        return make

    return {
        "no JSON": lambda result: b"<html>503</html>",
        "not of the contract": lambda result: b'{"text": "all is well"}',
        "deep": lambda result: b"[" * 50_000,
        "times outside the chunk": changed(lambda result: result["segments"][0].update(end_ms=10**9)),
        "another chunk's": changed(lambda result: result.update(index=1)),
    }


@pytest.mark.parametrize("name", bad_results())
def test_a_result_that_is_none_is_lost_to_that_machine_and_made_by_another(
    gateway: OpenGateway, conductor: Conductor, folder: Path, name: str
) -> None:
    bad, good = f"bad{abs(hash(name)) % 10**7:07d}", f"good{abs(hash(name)) % 10**6:06d}"
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine(bad) as liar, gateway.machine(good) as other:
        task = polled(liar)
        body = bad_results()[name](json.loads(job.result(0).model_dump_json()))
        answer = httpx.put(objects(task, job.keys.result(0)), content=body)
        assert answer.status_code == 422
        assert not job.storage.exists(job.keys.result(0))
        assert httpx.get(objects(task, job.keys.plan)).status_code == 403, "its grant is over"
        assert liar.post("/tasks", json=update(task, "COMPLETED", job.output(0))).status_code == 403
        ends = time.monotonic() + 0.5
        while time.monotonic() < ends:  # never again to it, though it asks first
            assert liar.get("/tasks/poll/transcribe_chunk").status_code == 204
            time.sleep(0.02)
        assert finish(other, job, polled(other)).status_code == 200
        assert job.ended() == "COMPLETED"
        assert [attempt["retryCount"] for attempt in job.attempts("chunk_0")] == [0], "it cost no attempt"
    assert len(gateway.said("strike", bad)) == 1
    assert gateway.said("refused", bad)
    assert gateway.said("strike", good) == []


def test_the_objects_of_another_task_job_and_machine(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with (
        chunks(conductor.url, folder / "home", 2) as job,
        chunks(conductor.url, folder / "home", 1) as other,
        gateway.machine("curious001") as curious,
        gateway.machine("neighbour1") as neighbour,
    ):
        held = {task["inputData"]["job"] + str(task["inputData"]["index"]): task for task in map(polled, [curious] * 2)}
        theirs = polled(neighbour)
        mine = next(iter(held.values()))
        data = mine["inputData"]
        same, foreign = (job, other) if data["job"] == job.job else (other, job)
        for key in (
            foreign.keys.plan,
            foreign.keys.audio(0),
            same.keys.audio(1 - data["index"]),
            same.keys.result(1 - data["index"]),
            same.keys.transcript("txt"),
        ):
            assert httpx.get(objects(mine, key)).status_code == 403
        result = job.result(0).model_dump_json()
        assert httpx.put(objects(mine, same.keys.result(1 - data["index"])), content=result).status_code == 403
        assert httpx.put(objects(mine, foreign.keys.result(0)), content=result).status_code == 403
        guessed = theirs["inputData"]["storage"][:-1] + "A"
        assert httpx.get(f"{guessed}/{foreign.keys.plan}").status_code == 403
        assert neighbour.post("/tasks", json=update(mine, "COMPLETED", {})).status_code == 403
    reasons = [line["reason"] for line in gateway.said("refused", "curious001")]
    assert len([reason for reason in reasons if reason.startswith("objects:")]) >= 7


def test_nothing_is_replayed_after_completion(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with chunks(conductor.url, folder / "home", 1) as job, gateway.machine("replayer01") as machine:
        task = polled(machine)
        assert finish(machine, job, task).status_code == 200
        stored = job.storage.get_bytes(job.keys.result(0))
        changed = job.result(0, language="de").model_dump_json()
        assert httpx.put(objects(task, job.keys.result(0)), content=changed).status_code == 403
        assert machine.post("/tasks", json=update(task, "COMPLETED", job.output(0))).status_code == 403
        assert machine.post("/tasks", json=update(task, "FAILED", {})).status_code == 403
        assert job.storage.get_bytes(job.keys.result(0)) == stored
        assert job.ended() == "COMPLETED"


def test_an_output_that_lies_about_what_is_stored(gateway: OpenGateway, conductor: Conductor, folder: Path) -> None:
    with (
        chunks(conductor.url, folder / "home", 1) as job,
        gateway.machine("outliar001") as liar,
        gateway.machine("honest0001") as other,
    ):
        task = polled(liar)
        assert liar.post("/tasks", json=update(task, "COMPLETED", job.output(0, words=99))).status_code == 400
        assert finish(other, job, polled(other)).status_code == 200
        assert job.ended() == "COMPLETED"
        (attempt,) = job.attempts("chunk_0")
        assert attempt["outputData"]["worker"] == "rented-honest0001"


# ---- our own worker, and questions whose answers are known ----


def put_recording(storage: Storage, job: str, count: int) -> None:
    """Real audio in place of the made-up one."""
    keys = type(KEYS)(job)
    audio = recording()
    for index in range(count):
        start, end = index * LENGTH_MS // count, (index + 1) * LENGTH_MS // count
        data = flac(audio[start * SAMPLES_PER_MS : end * SAMPLES_PER_MS])
        chunk = Chunk(
            index=index, core=Span.of(start, end), audio=Span.of(start, end),
            audio_sha256=hashlib.sha256(data).hexdigest(),
        )  # fmt: skip
        storage.put_bytes(keys.audio(index), data)
        storage.put_bytes(keys.chunk(index), chunk.model_dump_json().encode())


def desk_of(opened: OpenGateway, nonce: str, monkeypatch: pytest.MonkeyPatch, scribe: Scribe) -> lanes.Desk:
    """What a worker process of a rented machine shares among its lanes; the SDK finds its token in the environment."""
    monkeypatch.setenv("CONDUCTOR_AUTH_KEY", nonce)
    monkeypatch.setenv("CONDUCTOR_AUTH_SECRET", opened.admit(nonce))
    return lanes.Desk(
        client=TaskClient(opened.api, "whatever-it-says"),
        settings=environment.load(),
        seat=EngineSeat(lambda engine, model: scribe),
        shelf=lanes.DiarizerShelf(lambda name, model: Grid()),
        kinds=("transcribe_chunk",),
    )


def until_done(desk: lanes.Desk, over: Callable[[], bool], within_s: float = 60) -> None:
    lane = threading.Thread(target=lanes.recognizer_lane, args=(desk, desk.kinds))
    lane.start()
    ends = time.monotonic() + within_s
    while not over() and time.monotonic() < ends:
        time.sleep(0.05)
    desk.draining.set()
    lane.join(20)
    assert over()


def test_a_worker_of_ours_does_a_job_through_it_and_tells_nobody_the_address(
    gateway: OpenGateway,
    conductor: Conductor,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    with chunks(conductor.url, folder / "home", 3) as job:
        put_recording(job.storage, job.job, 3)
        desk = desk_of(gateway, "ourworker1", monkeypatch, Scribe())
        until_done(desk, lambda: job.state()["status"] != "RUNNING")
        assert job.ended() == "COMPLETED"
        told = json.dumps([task["outputData"] for task in job.state()["tasks"]])
        stored = b"".join(job.storage.get_bytes(key) for key in job.storage.keys(f"{job.keys.prefix}results/"))
    assert "/objects/" not in told
    assert b"/objects/" not in stored
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]  # its own side
    assert not any("/objects/" in line for line in logged)
    assert gateway.said("refused", "ourworker1") == []


def test_a_machine_that_is_released_ends_its_worker_with_a_sentence(
    gateway: OpenGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workers import tasks

    desk = desk_of(gateway, "released01", monkeypatch, Scribe())
    assert desk.client.poll("transcribe_chunk") is None
    assert desk.client.poll("transcribe_chunk") is None, "asked to wait: not even asked"
    gateway.admin.lose("released01")
    monkeypatch.setattr(tasks, "LOCKED_OUT_S", 0.2)
    monkeypatch.setattr(desk.client, "_not_before", {})
    until_done(desk, lambda: desk.dismissed is not None)
    assert "does not admit this worker any more" in str(desk.dismissed)


class Liar(Scribe):
    """Has the words of all chunks ready, and hears none."""

    def recognize(self, audio: Any, *more: Any) -> Any:
        return super().recognize(audio[:1].repeat(len(audio)) * 0 + 2000 / 32768, *more)


def test_a_machine_that_invents_is_found_out_by_what_a_trusted_worker_did(
    conductor: Conductor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first task of each machine has a known answer; chunk 0 was done by a trusted worker."""
    settings = replace(environment.load(), home=tmp_path)
    with (
        open_gateway(conductor.url, tmp_path / "gateway", settings, canary_share=0.3) as opened,
        chunks(conductor.url, tmp_path / "home", 3) as job,
    ):
        plan = json.loads(job.storage.get_bytes(job.keys.plan))
        plan["request"]["model"] = "some/model"  # neither the demo's nor one that surely understands its recording
        job.storage.put_bytes(job.keys.plan, json.dumps(plan).encode())
        put_recording(job.storage, job.job, 3)
        trusted = lease(index=0)
        trusted.data["job"] = job.job
        work(job.storage.address, trusted)
        done = json.loads(job.storage.get_bytes(job.keys.result(0)))
        for decode in done["decodes"]:  # a word a second, the same ones again and again
            decode["suspicions"] = []
        job.storage.put_bytes(job.keys.result(0), json.dumps(done).encode())

        honest = desk_of(opened, "honest0002", monkeypatch, Scribe())
        until_done(honest, lambda: len(opened.said("result", "honest0002")) >= 2)
        liar = desk_of(opened, "liar000001", monkeypatch, Liar())
        until_done(liar, lambda: bool(opened.said("probe", "liar000001")))

        assert job.ended() in ("COMPLETED", "RUNNING")
        assert opened.said("strike", "honest0002") == []
        assert "came back otherwise" in opened.said("strike", "liar000001")[0]["reason"]
        with chunks(conductor.url, tmp_path / "home", 1) as more, opened.machine("looker0001") as looker:
            made_up, real = polled(looker), polled(looker)
            assert more.job == real["inputData"]["job"] != made_up["inputData"]["job"]
            assert {name: type(value) for name, value in made_up.items()} == {
                name: type(value) for name, value in real.items()
            }
            assert set(made_up["inputData"]) == set(real["inputData"])
            told = [looker.get(f"/tasks/{task['taskId']}").json() for task in (made_up, real)]
            assert set(told[0]) == set(told[1])
        asked = {line["task"] for line in opened.said("probe")}
        assert not asked & {task["taskId"] for task in job.state()["tasks"]}, "Conductor never hears of them"
