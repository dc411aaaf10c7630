"""What the gateway adds to a poll and an update, and how many idle workers one process of it carries.

    whisperfleet bench gateway [--quick] [--repeat 5] [--rounds 60] [--workers 1,100,300,1000,2000] [--server URL]

Latency: each round asks Conductor itself and through the gateway, one right after the other, in turns first: a poll
that gets a task, an extension of its lease, its result, and a poll of an empty queue. Rounds are further apart than
the 50 ms for which the gateway answers an empty poll by itself, so that every poll through it is one of Conductor's
too; what it answers by itself is told apart. The difference is taken within each pair.

Idle workers: each is a connection of its own that polls two task types as often as X-Poll-After-Ms allows, gives its
sign of life for both every 5 s and its heartbeat every 20 s, as a real one does. A step is slow where 99 of 100 polls
take more than TWICE as long as in the first step and SLOW_MS, or one is not answered. Conductor itself waits 100 ms
for a task before it says that there is none; through the gateway a poll does not.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil  # type: ignore[import-untyped]

from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, main, progress, run
from benchmarks.surroundings import spread
from workers.errors import OptionError, ServerError
from workers.messages import Chunk, ChunkResult, JobInput, JobKeys, JobPlan, TranscribeChunkOutput
from workers.settings import Settings, normal_server, worker_environment
from workers.spans import Span
from workers.storage import LocalStorage

KIND, EMPTY_KIND = "transcribe_chunk", "diarize_chunk"
IDLE_KINDS = ("transcribe_chunk", "detect_language")
if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROUNDS = 60
TARGET_WORKERS = 1_000
WORKERS = (1, 100, 300, 1_000, 2_000)
CHUNKS = 50  # of one workflow
CHUNK_MS = 60_000
GAP_S = 0.07  # between rounds: longer than the gateway answers an empty poll by itself
ANNOUNCE_S, HEARTBEAT_S = 5.0, 20.0
TWICE, SLOW_MS = 2.0, 100.0
WORKFLOW = "gateway_benchmark"


@dataclass(frozen=True)
class Subject:
    """A running gateway before a running Conductor. pid is the gateway's."""

    server: str
    url: str
    admin: str
    admin_key: str
    signing_key: bytes
    pid: int


@dataclass
class Latency:
    """Milliseconds of one repetition, direct and through the gateway, pair by pair."""

    direct: list[float] = field(default_factory=list)
    through: list[float] = field(default_factory=list)

    def told(self) -> dict[str, float]:
        added = [through - direct for direct, through in zip(self.direct, self.through, strict=True)]
        return {
            "direct_median": statistics.median(self.direct),
            "direct_p99": percentile(self.direct, 0.99),
            "through_median": statistics.median(self.through),
            "through_p99": percentile(self.through, 0.99),
            "added_median": statistics.median(added),
            "added_p99": percentile(added, 0.99),
        }


@dataclass(frozen=True)
class Step:
    """So many idle workers for some seconds. polls_asked: what their pauses would come to if answers took no time."""

    workers: int
    seconds: float
    polls_per_s: float
    poll_median_ms: float
    poll_p99_ms: float
    poll_after_ms: float
    errors: int
    gateway_cores: float
    gateway_megabytes: float


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    if options.quick:
        options.rounds, options.workers, options.seconds = 5, "1,20", 1.5
    repetitions: list[dict[str, Any]] = []
    with _subject(folder, options.server) as subject:
        for number in range(options.repeat):
            repetition = _latency(subject, folder / f"job-{number}", options.rounds)
            repetitions.append({name: latency.told() for name, latency in repetition.items()})
            progress(f"repetition {number + 1} of {options.repeat} done")
        steps = asyncio.run(_idle(subject, _counts(options.workers), options.seconds))
    idle = [asdict(step) | {"slow": _is_slow(step, steps[0])} for step in steps]
    carried = max((step["workers"] for step in idle if not step["slow"]), default=0)
    added = {
        name: statistics.median(one[name]["added_median"] for one in repetitions)
        for name in ("poll with a task", "extension", "result")
    }
    return Findings(
        repetitions=[*repetitions, *idle],
        tables=[_latencies(repetitions), _idle_table(idle)],
        figures={"added_median_ms": added, "idle": idle},
        shows=[
            "The gateway adds, in the median, "
            + ", ".join(f"{value:.1f} ms to a {name}" for name, value in added.items())
            + ".",
            f"One process of it carries {carried} idle workers without being slow.",
        ],
        targets=[
            Target(
                name="idle workers of one gateway",
                wanted=f"{TARGET_WORKERS} without being slow",
                found=str(carried),
                reached=None if options.quick else carried >= TARGET_WORKERS,
            )
        ],
    )


def _is_slow(step: Step, first: Step) -> bool:
    return step.errors > 0 or step.poll_p99_ms > max(SLOW_MS, TWICE * first.poll_p99_ms)


def _counts(text: str) -> list[int]:
    """Raises OptionError."""
    try:
        counts = [int(count) for count in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise OptionError(f"--workers is '{text}': write numbers with commas between, such as 1,100,1000.")
    return counts


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of a repetition")
    parser.add_argument("--workers", default=",".join(map(str, WORKERS)), help="idle ones, of each step")
    parser.add_argument("--seconds", type=float, default=20.0, help="that a step is measured")
    parser.add_argument("--server", help="a Conductor server of nobody else's; default: one of its own")


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of them do not exceed: the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-round(len(ordered) * share * 1000) // 1000) - 1))]


# ---- what is measured ----


@contextlib.contextmanager
def _subject(folder: Path, server: str | None) -> Iterator[Subject]:
    home = folder / "home"
    settings = Settings(
        home=home, server=None, storage=str(home / "objects"), s3_endpoint=None, ui=None, server_jar=None
    )
    with contextlib.ExitStack() as stack:
        if server is None:
            from provisioning.conductor import ensure

            server = stack.enter_context(ensure(settings, lambda text: print(text, file=sys.stderr))).url
        server = normal_server("--server", server)
        ports = _free_port(), _free_port()
        log = stack.enter_context((folder / "gateway.log").open("w"))
        gateway = subprocess.Popen(
            [
                *(sys.executable, "-m", "workflows.cli", "gateway", "--server", server),
                *("--listen", f"127.0.0.1:{ports[0]}", "--admin", f"127.0.0.1:{ports[1]}"),
            ],
            env=worker_environment(WHISPERFLEET_HOME=str(home)),
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_open(f"http://127.0.0.1:{ports[0]}/health", gateway)
            key = (home / "gateway" / "admin.key").read_text(encoding="utf-8")
            signing = (home / "gateway" / "signing.key").read_bytes()
            yield Subject(
                server, f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", key, signing, gateway.pid
            )
        finally:
            gateway.terminate()
            gateway.wait(30)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_open(address: str, gateway: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends and gateway.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(address).status_code == 200:
                return
        time.sleep(0.1)
    raise ServerError("The gateway did not start: see gateway.log in the benchmark's folder (--folder).")


def _session(subject: Subject, http: httpx.Client, nonce: str) -> str:
    body = {"nonce": nonce, "kinds": [*IDLE_KINDS, EMPTY_KIND], "expires_ms": round(time.time() * 1000) + 7_200_000}
    headers = {"Authorization": f"Bearer {subject.admin_key}"}
    token = http.post(f"{subject.admin}/admin/instances", json=body, headers=headers).raise_for_status().json()["token"]
    exchanged = http.post(f"{subject.url}/api/token", json={"keyId": nonce, "keySecret": token}).raise_for_status()
    return str(exchanged.json()["token"])


def _signed(subject: Subject, number: int) -> str:
    """The session of an idle worker, signed here: a thousand exchanges would measure something else."""
    from provisioning.gateway_tokens import Machine, Tokens

    machine = Machine(f"idle{number:06d}", IDLE_KINDS, round(time.time() * 1000) + 7_200_000)
    return Tokens(subject.signing_key, session_s=7_200).session(machine)


# ---- latency ----


def _latency(subject: Subject, folder: Path, rounds: int) -> dict[str, Latency]:
    """One repetition. Every round takes two tasks, one on each side."""
    found = {name: Latency() for name in ("poll with a task", "extension", "result", "empty poll", "answered itself")}
    dice = random.Random(rounds)
    with contextlib.ExitStack() as stack:
        direct = stack.enter_context(httpx.Client(base_url=subject.server, timeout=30, trust_env=False))
        through = stack.enter_context(httpx.Client(base_url=f"{subject.url}/api", timeout=30, trust_env=False))
        nonce = hashlib.sha256(f"{folder}{time.time_ns()}".encode()).hexdigest()[:10]
        through.headers["X-Authorization"] = _session(subject, through, nonce)
        job = _Job(direct, folder)
        try:
            for _ in range(rounds):
                job.refill()
                first = dice.random() < 0.5
                sides = [(direct, "direct"), (through, "through")]
                tasks: dict[str, dict[str, Any]] = {}
                for client, side in sides if first else sides[::-1]:
                    _round(client, side, found, tasks, job)
                time.sleep(GAP_S)
        finally:
            job.end()
    return found


def _round(
    client: httpx.Client, side: str, found: dict[str, Latency], tasks: dict[str, dict[str, Any]], job: "_Job"
) -> None:
    """A poll, an extension and a result on one side."""

    def timed(name: str, ask: Callable[[], httpx.Response]) -> httpx.Response:
        began = time.perf_counter()
        answer = ask()
        getattr(found[name], side).append((time.perf_counter() - began) * 1000)
        return answer.raise_for_status()

    for _ in range(20):
        polled = timed("poll with a task", lambda: client.get(f"/tasks/poll/{KIND}", params={"workerid": side}))
        if polled.status_code == 200:
            break
        getattr(found["poll with a task"], side).pop()  # Conductor's queue shows what is put there a little later
    else:
        raise ServerError("The benchmark's queue ran empty: somebody else polls it; give it a server of its own.")
    task = tasks[side] = polled.json()
    held = {"taskId": task["taskId"], "workflowInstanceId": task["workflowInstanceId"], "workerId": side}
    extension = {**held, "status": "IN_PROGRESS", "extendLease": True, "outputData": {}}
    timed("extension", lambda: client.post("/tasks", json=extension))
    output = job.done(client if side == "through" else None, task)
    timed("result", lambda: client.post("/tasks", json={**held, "status": "COMPLETED", "outputData": output}))
    timed("empty poll", lambda: client.get(f"/tasks/poll/{EMPTY_KIND}", params={"workerid": side}))
    timed("answered itself", lambda: client.get(f"/tasks/poll/{EMPTY_KIND}", params={"workerid": side}))


class _Job:
    """Workflows of chunks, in a folder that the gateway reads; a new one as soon as the last runs low."""

    def __init__(self, conductor: httpx.Client, folder: Path) -> None:
        self._conductor = conductor
        self._storage = LocalStorage(folder, own=True)
        self._keys = JobKeys(hashlib.sha256(str(folder).encode()).hexdigest()[:32])
        self._folder = folder
        self._left = 0
        self._running: list[str] = []
        self._write()
        _register(conductor)

    def refill(self) -> None:
        if self._left >= 2:
            self._left -= 2
            return
        given = {"storage": str(self._folder), "job": self._keys.prefix.split("/")[1]}
        started = self._conductor.post(f"/workflow/{WORKFLOW}", json=given).raise_for_status().text.strip()
        self._running.append(started)
        ends = time.monotonic() + 30
        while self._waiting() < CHUNKS - 2 and time.monotonic() < ends:
            time.sleep(0.05)
        self._left = CHUNKS - 2

    def _waiting(self) -> int:
        return int(self._conductor.get("/tasks/queue/size", params={"taskType": KIND}).raise_for_status().json())

    def end(self) -> None:
        for workflow in self._running:
            self._conductor.delete(f"/workflow/{workflow}")  # refused where it is over

    def done(self, through: httpx.Client | None, task: dict[str, Any]) -> dict[str, Any]:
        """The output of a task whose result is stored, through the gateway where a client of it is given."""
        index = task["inputData"]["index"]
        key = self._keys.result(index)
        if through is not None:
            result = ChunkResult(
                index=index, chunk=_chunk(index), segments=(), decodes=(), worker="w", attempts=1, seconds={}
            )
            body = result.model_dump_json().encode()
            through.put(f"{task['inputData']['storage']}/{key}", content=body).raise_for_status()
        return TranscribeChunkOutput(
            index=index, key=key, worker="w", attempts=1, audio_ms=CHUNK_MS, words=0, seconds={}
        ).model_dump(mode="json")

    def _write(self) -> None:
        length = CHUNKS * CHUNK_MS
        plan = JobPlan(
            job=self._keys.prefix.split("/")[1],
            request=JobInput(media="benchmark", model="demo", language="en"),
            media_name="benchmark",
            media_identity="0",
            duration_ms=length,
            span=Span.of(0, length),
            wanted_cuts_ms=tuple(range(CHUNK_MS, length, CHUNK_MS)),
        )
        self._storage.put_bytes(self._keys.plan, plan.model_dump_json().encode())
        for index in range(CHUNKS):
            self._storage.put_bytes(self._keys.chunk(index), _chunk(index).model_dump_json().encode())


def _chunk(index: int) -> Chunk:
    span = Span.of(index * CHUNK_MS, (index + 1) * CHUNK_MS)
    return Chunk(index=index, core=span, audio=span, audio_sha256="0" * 64)


def _register(conductor: httpx.Client) -> None:
    told = json.loads((resources.files("workflows") / "definitions" / "tasks.json").read_text(encoding="utf-8"))
    kinds = [task for task in told if task["name"] in (*IDLE_KINDS, EMPTY_KIND)]
    conductor.post("/metadata/taskdefs", json=kinds).raise_for_status()
    given = {"storage": "${workflow.input.storage}", "job": "${workflow.input.job}"}
    names = [f"chunk_{index}" for index in range(CHUNKS)]
    tasks = [
        {"name": KIND, "taskReferenceName": name, "type": "SIMPLE", "inputParameters": {**given, "index": index}}
        for index, name in enumerate(names)
    ]
    fork = {"name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN", "forkTasks": [[task] for task in tasks]}
    join = {"name": "join", "taskReferenceName": "join", "type": "JOIN", "joinOn": names}
    definition = {
        "name": WORKFLOW, "version": 1, "schemaVersion": 2, "ownerEmail": "whisperfleet@localhost.localdomain",
        "timeoutSeconds": 0, "timeoutPolicy": "ALERT_ONLY", "tasks": [fork, join],
    }  # fmt: skip
    conductor.put("/metadata/workflow", json=[definition]).raise_for_status()


# ---- idle workers ----


@dataclass
class _Seen:
    """What the idle workers of a step met while it was measured."""

    polls_ms: list[float] = field(default_factory=list)
    after_ms: list[float] = field(default_factory=list)
    errors: int = 0
    measuring: bool = False


async def _idle(subject: Subject, steps: list[int], seconds: float) -> list[Step]:
    """The workers of a step stay for the next one."""
    _allow_many_connections(max(steps))
    host, port = subject.url.removeprefix("http://").split(":")
    process = psutil.Process(subject.pid)
    tasks: list[asyncio.Task[None]] = []
    seen = _Seen()
    found = []
    for workers in steps:
        for number in range(len(tasks), workers):
            tasks.append(asyncio.create_task(_worker(host, int(port), _signed(subject, number), seen)))
            await asyncio.sleep(0.005)
        await asyncio.sleep(min(12.0, 2.0 + workers / 150))  # until all of them know their pace
        found.append(await _measured(seen, process, workers, seconds))
        print(found[-1], file=sys.stderr)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return found


async def _measured(seen: _Seen, process: psutil.Process, workers: int, seconds: float) -> Step:
    seen.polls_ms, seen.after_ms, seen.errors, seen.measuring = [], [], 0, True
    began, spent = time.perf_counter(), sum(process.cpu_times()[:2])
    await asyncio.sleep(seconds)
    took = time.perf_counter() - began
    seen.measuring = False
    return Step(
        workers=workers,
        seconds=took,
        polls_per_s=len(seen.polls_ms) / took,
        poll_median_ms=statistics.median(seen.polls_ms),
        poll_p99_ms=percentile(seen.polls_ms, 0.99),
        poll_after_ms=statistics.median(seen.after_ms),
        errors=seen.errors,
        gateway_cores=(sum(process.cpu_times()[:2]) - spent) / took,
        gateway_megabytes=process.memory_info().rss / 1e6,
    )


async def _worker(host: str, port: int, session: str, seen: _Seen) -> None:
    """One idle worker, on one connection, for ever."""
    reader, writer = await asyncio.open_connection(host, port)
    head = f"Host: {host}\r\nX-Authorization: {session}\r\n"
    due = {"announce": time.monotonic() + random.random() * ANNOUNCE_S, "beat": time.monotonic()}
    due |= {kind: time.monotonic() for kind in IDLE_KINDS}

    async def ask(method: str, path: str, body: bytes = b"") -> tuple[int, dict[bytes, bytes]]:
        length = f"Content-Length: {len(body)}\r\n" if body else ""
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}{length}\r\n".encode() + body)
        return await _answer(reader)

    try:
        while True:
            what = min(due, key=lambda name: due[name])
            await asyncio.sleep(max(0.0, due[what] - time.monotonic()))
            if what == "announce":
                for kind in IDLE_KINDS:
                    await ask("GET", f"/api/tasks/poll/{kind}?workerid=w&domain=w")
                due[what] = time.monotonic() + ANNOUNCE_S
            elif what == "beat":
                status, _ = await ask("POST", "/worker/heartbeat", b'{"state":"working"}')
                seen.errors += status != 200
                due[what] = time.monotonic() + HEARTBEAT_S
            else:
                began = time.perf_counter()
                status, headers = await ask("GET", f"/api/tasks/poll/{what}?workerid=w")
                after = float(headers.get(b"x-poll-after-ms", b"1000"))
                if seen.measuring:
                    seen.polls_ms.append((time.perf_counter() - began) * 1000)
                    seen.after_ms.append(after)
                    seen.errors += status not in (200, 204)
                due[what] = time.monotonic() + after / 1000
    except (OSError, asyncio.IncompleteReadError):
        seen.errors += 1
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    length = int(headers.get(b"content-length", b"0"))
    if length:
        await reader.readexactly(length)
    return int(first.split(b" ")[1]), headers


def _allow_many_connections(workers: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = workers + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise OptionError(f"{workers} workers need as many open files, and this user may have {hard}: name fewer.")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# ---- telling ----


def _latencies(repetitions: list[dict[str, Any]]) -> Table:
    columns = ("direct_median", "through_median", "added_median", "direct_p99", "through_p99", "added_p99")
    return Table(
        title=f"Milliseconds of a request, min / median / max of {len(repetitions)} repetitions",
        columns=("request", *(column.replace("_", ", ") for column in columns)),
        rows=tuple(
            (name, *(spread([one[name][column] for one in repetitions]) for column in columns))
            for name in repetitions[0]
        ),
    )


def _idle_table(idle: list[dict[str, Any]]) -> Table:
    columns = ("workers", "polls_per_s", "poll_median_ms", "poll_p99_ms", "poll_after_ms", "errors", "gateway_cores",
               "gateway_megabytes", "slow")  # fmt: skip
    return Table(
        title="Idle workers of one gateway",
        columns=tuple(column.replace("_", " ") for column in columns),
        rows=tuple(
            tuple(
                round(step[column], 2) if column != "slow" else ("slow" if step["slow"] else "") for column in columns
            )
            for step in idle
        ),
    )


def draw(result: Result, figure: "Figure") -> None:
    axes = figure.subplots()
    idle = result.figures["idle"]
    workers = [step["workers"] for step in idle]
    axes.plot(workers, [step["poll_median_ms"] for step in idle], marker="o", label="median")
    axes.plot(workers, [step["poll_p99_ms"] for step in idle], marker="s", label="99 of 100")
    axes.axhline(SLOW_MS, color="black", linestyle="--", label="slow")
    axes.set(xlabel="idle workers of one gateway", ylabel="milliseconds of a poll", yscale="log")
    axes.set_title("A poll through the gateway, by the number of workers")
    axes.legend()


BENCHMARK = Benchmark(
    name="gateway",
    about=__doc__ or "",
    measure=measure,
    draw=draw,
    options=_options,
    packages=("starlette", "uvicorn", "httpx", "conductor-python"),
    caveats=(
        "Client, gateway and Conductor share this machine; SQLite is Conductor's store.",
        "The client's own work is in all latencies, and is the same on both sides of a pair.",
        "Of an idle step's processor time the client's part is not the gateway's: that is measured by its process.",
    ),
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
