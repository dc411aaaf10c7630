"""Which worker processes a machine gets, and what they say to their parent."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from workers.errors import OptionError
from workers.lanes import ALL_TASKS
from workers.pool import PoolSpec, WorkerPool, plan_slots

BASE = {"server": "http://127.0.0.1:1/api", "kinds": ALL_TASKS, "engine": "faster-whisper", "model": "demo"}


def slots(gpus: int = 0, cores: int = 8, **wish: object) -> list[tuple[str, int | None, int]]:
    spec = PoolSpec(**{**BASE, **wish})  # type: ignore[arg-type]
    planned = plan_slots(spec, gpus, cores, "host", 7)
    return [(process.device, gpu, process.threads) for process, gpu in planned]


def test_one_process_a_gpu_each_pinned_to_its_own() -> None:
    assert slots(gpus=3) == [("cuda", 0, 0), ("cuda", 1, 0), ("cuda", 2, 0)]


def test_named_gpus_alone_are_used() -> None:
    assert [gpu for _, gpu, _ in slots(gpus=4, device="cuda:1,3")] == [1, 3]


def test_more_processes_than_gpus_go_round() -> None:
    assert [gpu for _, gpu, _ in slots(gpus=2, processes=5)] == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("cores", [1, 2, 4, 8, 64])
def test_a_processor_is_shared_out_and_not_oversold(cores: int) -> None:
    planned = slots(cores=cores)
    assert sum(threads for *_, threads in planned) <= max(cores, 1)
    assert all(threads >= 1 for *_, threads in planned)


def test_a_gpu_machine_may_be_told_to_use_its_processor() -> None:
    assert slots(gpus=2, device="cpu", processes=2, threads=3) == [("cpu", None, 3)] * 2


@pytest.mark.parametrize(("device", "gpus"), [("cuda", 0), ("cuda:2", 2), ("cuda:x", 2), ("tpu", 0)])
def test_a_device_that_is_not_there_is_refused(device: str, gpus: int) -> None:
    with pytest.raises(OptionError, match="--device"):
        slots(gpus=gpus, device=device)


def test_names_tell_the_processes_apart() -> None:
    spec = PoolSpec(**{**BASE, "processes": 4})  # type: ignore[arg-type]
    names = [process.name for process, _ in plan_slots(spec, 0, 4, "host", 7)]
    assert len(set(names)) == 4


# A library that takes standard output for itself while the process speaks, one that prints, and one in C.
LOUD = """
import contextlib, io, os, threading
from workers.process import take_output

say = take_output()
taken, said = threading.Event(), threading.Event()

def library():
    with contextlib.redirect_stdout(io.StringIO()):
        taken.set()
        said.wait()

thread = threading.Thread(target=library)
thread.start()
taken.wait()
say("ready")
said.set()
thread.join()
print("loud words")
os.write(1, b"loud words from C\\n")
say("progress", task="t", share=0.5)
"""


def test_what_a_process_says_comes_through_whatever_libraries_print() -> None:
    done = subprocess.run([sys.executable, "-c", LOUD], capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"event": "ready"},
        {"event": "progress", "task": "t", "share": 0.5},
    ]
    assert done.stderr.splitlines() == ["loud words", "loud words from C"]


def test_no_lane_changes_for_a_while_what_is_the_whole_processs() -> None:
    """Standard output and the filters of warnings: threads that change them and back overtake each other."""
    files = sorted((Path(__file__).parents[2] / "workers").rglob("*.py"))
    names = {
        (file.name, node.attr if isinstance(node, ast.Attribute) else node.id)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert len(files) > 30
    assert not {
        (file, name) for file, name in names if name in ("redirect_stdout", "redirect_stderr", "catch_warnings")
    }


@pytest.mark.parametrize("line", ["1\n", "[]\n", '"event"\n', "null\n", "{}\n", "no JSON\n", "\n"])
def test_a_line_that_says_nothing_changes_nothing(line: str) -> None:
    pool = WorkerPool(PoolSpec(**{**BASE, "processes": 1, "device": "cpu"}), None)  # type: ignore[arg-type]
    (slot,) = pool._slots
    pool._heard(slot, line)
    assert (slot.state, pool.progress) == ("starting", {})
    pool._heard(slot, '{"event": "ready"}\n')
    assert slot.state == "ready"
