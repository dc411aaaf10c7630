"""The server's benchmark runs and says what it promises; what it measures is nobody's assertion."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import server
from benchmarks.result import read
from benchmarks.server_load import OUTPUTS, Step
from tests.support.services import require
from workers.messages import JobInput, PlanMediaOutput
from workers.stages import plan

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_a_quick_run_is_whole(tmp_path: Path) -> None:
    require("java")
    command = [sys.executable, "-m", "benchmarks.server", "--quick", "--out", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = read(tmp_path / "server.json")
    assert found.quick
    assert found.options["databases"] == "sqlite,postgresql"
    loaded = [row for row in found.repetitions if "chunks" in row]
    assert [(row["recordings"], row["chunks"], row["tasks"]) for row in loaded] == [(2, 5, 2 * (5 + 3))]
    assert len(found.repetitions) == 3
    assert [target.reached for target in found.targets] == [None, None]
    assert [len(row["stitch_delays_ms"]) for row in loaded] == [2]
    assert [table.title.split()[0] for table in found.tables] == ["Recordings", "One", "Bytes", "At"]
    assert list(found.figures["servers"]) == ["SQLite"]
    assert all(math.isfinite(number) for number in numbers(found.figures))
    assert min(loaded[0][key] for key in ("tasks_per_s", "server_ms_per_task", "posted_bytes", "workflow_bytes")) > 0
    assert any("feeds" in sentence for sentence in found.shows)
    assert found.caveats
    with Image.open(tmp_path / "server.png") as picture:
        assert picture.format == "PNG"
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20


def numbers(tree: Any) -> Iterator[float]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for value in tree:
            yield from numbers(value)
    elif isinstance(tree, int | float):
        yield tree


def test_null_work_has_the_shape_of_the_plans() -> None:
    output = OUTPUTS["plan_media"]({"workflowInstanceId": "0123"}, 3)
    assert isinstance(output, PlanMediaOutput)
    assert output.fork_tasks == tuple(plan._optional_task("transcribe_chunk", f"chunk_{i}") for i in range(3))
    assert set(output.fork_inputs) == {task["taskReferenceName"] for task in output.fork_tasks}
    assert all(set(data) == {"storage", "job", "index"} for data in output.fork_inputs.values())
    assert JobInput(media="a.mp4").language == "auto", "the vote that the benchmark's plan leaves out is told as caveat"


def test_workers_fed_by_a_rate() -> None:
    """A worker at 13 times real time takes a chunk of a minute every 4.6 s."""
    assert server.workers_fed(13 / 60) == 1
    assert server.workers_fed(40) == 184
    assert server.workers_fed(40, 30) == 92


def test_tasks_of_a_step() -> None:
    assert Step(4, 60).tasks == 4 * (60 + 3)
