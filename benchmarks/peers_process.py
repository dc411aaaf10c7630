"""A peer's process and what it costs: started, asked, watched with all its children, ended."""

import json
import queue
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped]

from workers.errors import EngineError
from workers.settings import bare_environment

PROGRAM = Path(__file__).with_name("peers_run.py")
SAMPLE_S = 1.0  # oftener, looking at the twenty processes of Ray would itself take a tenth of a core
LOAD_S = 300.0  # whisperX imports torch, transformers and pyannote from a cold disk


class TooSlow(EngineError):
    """A peer was not done within its limit; its process is ended."""


@dataclass(frozen=True)
class Sample:
    """A tree of processes at one moment: processor seconds so far, resident MiB (shared pages divided)."""

    at: float
    processor_s: float
    mib: float


@dataclass(frozen=True)
class Cost:
    processor_s: float
    peak_mib: float


class Watch:
    """Looks at trees of processes every SAMPLE_S seconds, each by the name it was given."""

    def __init__(self, roots: Mapping[str, int]) -> None:
        self._roots = {name: psutil.Process(pid) for name, pid in roots.items()}
        self._samples: dict[str, list[Sample]] = {name: [] for name in roots}
        self._own: dict[str, dict[int, float]] = {name: {} for name in roots}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def cost(self, name: str, began: float, ended: float) -> Cost:
        """Between two moments (seconds of the epoch) that lie within the watch."""
        return cost_between(self._samples[name], began, ended)

    def _run(self) -> None:
        while not self._over.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        for name, root in self._roots.items():
            own = self._own[name]
            reaped, mib = 0.0, 0.0
            for process in _tree(root):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    own[process.pid] = times.user + times.system
                    reaped += times.user + times.system + times.children_user + times.children_system
                    mib += _resident(process) / 2**20
            # Two lower bounds: a child whose parent ignores its end is lost to the first, a short one to the second
            self._samples[name].append(Sample(time.time(), max(reaped, sum(own.values())), mib))


def cost_between(samples: Sequence[Sample], began: float, ended: float) -> Cost:
    """Processor seconds interpolated between samples; the peak of those within, and of the first one after."""
    within = [sample.mib for sample in samples if began <= sample.at <= ended]
    after = [sample.mib for sample in samples if sample.at > ended][:1]
    spent = _processor_at(samples, ended) - _processor_at(samples, began)
    return Cost(max(0.0, spent), max(within or after or [sample.mib for sample in samples]))


def _processor_at(samples: Sequence[Sample], at: float) -> float:
    after = bisect_left([sample.at for sample in samples], at)
    if after == 0:
        return samples[0].processor_s
    if after == len(samples):
        return samples[-1].processor_s
    one, two = samples[after - 1], samples[after]
    share = (at - one.at) / (two.at - one.at) if two.at > one.at else 1.0
    return one.processor_s + share * (two.processor_s - one.processor_s)


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.Error:
        return []


def _resident(process: psutil.Process) -> int:
    """Bytes, shared pages divided among those who share them where the system tells: summed, they count once."""
    try:
        return int(process.memory_full_info().pss)
    except (AttributeError, psutil.AccessDenied):
        return int(process.memory_info().rss)


class Peer:
    """A running peer. note: how it was used; load_s: until its model was loaded; versions: of its packages."""

    def __init__(self, process: "subprocess.Popen[str]", lines: "queue.Queue[str | None]", log: Path) -> None:
        self._process = process
        self._lines = lines
        self._log = log
        ready = self._answer(LOAD_S)
        self.note = str(ready["note"])
        self.load_s = float(ready["load_s"])
        self.versions: dict[str, str] = ready["versions"]

    @property
    def pid(self) -> int:
        return self._process.pid

    def transcribe(self, media: Sequence[Path], words: bool, limit_s: float) -> dict[str, Any]:
        """Its answer, see peers_run. Raises TooSlow after `limit_s`; EngineError where it fails."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"media": [str(path) for path in media], "words": words}) + "\n")
        self._process.stdin.flush()
        return self._answer(limit_s)

    def _answer(self, limit_s: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            raise TooSlow(f"not done after {limit_s:.0f} s") from None
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"it ended: {self._last_words()}"}
        if "error" in answer:
            raise EngineError(str(answer["error"])[:300])
        return answer

    def _last_words(self) -> str:
        return self._log.read_text(errors="replace").strip()[-200:]


@contextmanager
def running(python: Path | None, wish: dict[str, Any], folder: Path) -> Iterator[Peer]:
    """A peer with its model loaded, by `python` or this one; ended with the block, children and all.

    Raises EngineError where it fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{wish['engine']}-{time.time_ns()}.log"
    command = [str(python or sys.executable), str(PROGRAM), json.dumps({**wish, "folder": str(folder)})]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(wish["threads"], wish["passive"], wish.get("device", "cpu")),
            cwd=folder,
        )
    lines: queue.Queue[str | None] = queue.Queue()
    assert process.stdout
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    try:
        yield Peer(process, lines, log)
    finally:
        _end(process)


def _read(answers: IO[str], lines: "queue.Queue[str | None]") -> None:
    for line in answers:
        lines.put(line)
    lines.put(None)


def _environment(threads: int, passive: bool, device: str) -> dict[str, str]:
    """No hub, no secrets, a GPU only where it is the device, and so many threads for whoever reads no option."""
    changes = {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        **({"OMP_WAIT_POLICY": "PASSIVE"} if passive else {}),
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": threads}),
        "HF_HUB_OFFLINE": "1",
        "PYANNOTE_METRICS_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # it makes its workers give way to all others by 15, and so to any noise
    }
    return bare_environment(**changes, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}))


def _end(process: "subprocess.Popen[str]") -> None:
    """It and its children: first asked, then made to."""
    tree = _tree(psutil.Process(process.pid)) if process.poll() is None else []
    assert process.stdin
    with suppress(OSError):
        process.stdin.close()
    for each in tree:
        with suppress(psutil.Error):
            each.terminate()
    _, left = psutil.wait_procs(tree, timeout=5)
    for each in left:
        with suppress(psutil.Error):
            each.kill()
    process.wait()
