"""The bare engine in so many processes, with so many workers of CTranslate2 and so many threads each.

    python -m benchmarks.workers_engine JSON

is one such process: faster-whisper's own pipeline, nothing of the product's around it. It hears the numbers of pieces
of the recording, one a line, on its standard input, and answers each with a line once it is heard.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workers.errors import EngineError
from workers.settings import worker_environment

PIECE_S = 60
BATCH = 2  # the windows of a piece


@dataclass(frozen=True)
class Setting:
    """processes times workers times threads: the cores that are wanted at once. devices: their GPUs, none on a cpu."""

    processes: int = 1
    workers: int = 1
    threads: int = 1
    devices: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        where = f", {len(self.devices)} GPU{'s' if len(self.devices) > 1 else ''}" if self.devices else ""
        fed = f", num_workers {self.workers}" if self.workers > 1 else ""
        return f"{count(self.processes, 'process', 'es')}{fed} × {count(self.threads, 'thread')}{where}"


def count(number: int, what: str, more: str = "s") -> str:
    """`1 thread`, `2 threads`."""
    return f"{number} {what}{'' if number == 1 else more}"


@dataclass(frozen=True)
class Work:
    """What is heard: the model's folder, how it computes, and the first `pieces` minutes of a FLAC file."""

    model: str
    device: str
    compute_type: str
    recording: str
    pieces: int


@dataclass(frozen=True)
class Heard:
    """wall and processor seconds for all pieces; peak: resident megabytes of all processes since they began."""

    seconds: float
    processor_seconds: float
    peak_mb: float


class Engines:
    """The processes of a setting, their models loaded; a context manager. They wait between two hearings."""

    def __init__(self, setting: Setting, work: Work) -> None:
        self.setting = setting
        self._work = work
        self._children: list[subprocess.Popen[str]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number in range(self.setting.processes):
                given = {**asdict(self.setting), **asdict(self._work), "number": number}
                child = subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.workers_engine", json.dumps(given)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=worker_environment(OMP_WAIT_POLICY="PASSIVE"),
                )
                stack.callback(_end, child)
                self._children.append(child)
            for child in self._children:
                _answer(child)  # its model is loaded
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    def hear(self) -> Heard:
        """All pieces once; each process takes the next when one of its workers is free."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for piece in range(self._work.pieces):
            waiting.put(piece)
        failed: list[EngineError] = []
        threads = [
            threading.Thread(target=_feed, args=(child, self.setting.workers, waiting, failed), daemon=True)
            for child in self._children
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        if failed:
            raise failed[0]
        told = [_asked(child, "spent") for child in self._children]
        return Heard(seconds, sum(one["processor"] for one in told), sum(one["peak_mb"] for one in told))


def _end(child: "subprocess.Popen[str]") -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            stream.close()


def _feed(
    child: "subprocess.Popen[str]", workers: int, waiting: "queue.SimpleQueue[int]", failed: list[EngineError]
) -> None:
    """Keep as many pieces in a process as it has workers."""
    under_way = 0
    try:
        while True:
            while under_way < workers:
                try:
                    piece = waiting.get_nowait()
                except queue.Empty:
                    break
                _tell(child, str(piece))
                under_way += 1
            if not under_way:
                return
            _answer(child)
            under_way -= 1
    except EngineError as error:
        failed.append(error)


def _tell(child: "subprocess.Popen[str]", line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(line + "\n")
    child.stdin.flush()


def _answer(child: "subprocess.Popen[str]") -> dict[str, Any]:
    """Raises EngineError where the process is gone; why is on standard error."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise EngineError("A process of the benchmark's engine ended; what it said last is above.")
    return dict(json.loads(line))


def _asked(child: "subprocess.Popen[str]", question: str) -> dict[str, Any]:
    _tell(child, question)
    return _answer(child)


# ---- the process ----


def main() -> None:
    """Load, say so, and hear what is asked for."""
    given = json.loads(sys.argv[1])
    model, audio = _model(given), _audio(given["recording"], given["pieces"])
    asked: queue.SimpleQueue[str] = queue.SimpleQueue()
    lock = threading.Lock()

    def say(**what: object) -> None:
        with lock:
            print(json.dumps(what), flush=True)

    for number in range(given["workers"]):
        worker = threading.Thread(target=_work, args=(model, audio, asked, say), daemon=True, name=f"worker {number}")
        worker.start()
    say(ready=True)
    reported = time.process_time()
    for line in sys.stdin:
        if line.strip() == "spent":
            now = time.process_time()
            say(processor=now - reported, peak_mb=peak_mb())
            reported = now
        else:
            asked.put(line)


def _model(given: dict[str, Any]) -> Any:
    from faster_whisper import WhisperModel

    devices = given["devices"]
    return WhisperModel(
        given["model"],
        device=given["device"],
        # one process with all GPUs, or each process with its own
        device_index=0
        if not devices
        else devices
        if given["processes"] == 1
        else devices[given["number"] % len(devices)],
        compute_type=given["compute_type"],
        cpu_threads=given["threads"],
        num_workers=given["workers"],
    )


def _audio(recording: str, pieces: int) -> Any:
    import soundfile

    from workers.spans import SAMPLE_RATE

    audio, _ = soundfile.read(recording, frames=pieces * PIECE_S * SAMPLE_RATE, dtype="float32")
    return audio


def _work(model: Any, audio: Any, asked: "queue.SimpleQueue[str]", say: Any) -> None:
    """One worker: a pipeline of its own around the common model."""
    from faster_whisper import BatchedInferencePipeline

    from workers.spans import SAMPLE_RATE

    pipeline = BatchedInferencePipeline(model)
    size = PIECE_S * SAMPLE_RATE
    half = PIECE_S / 2
    while True:
        piece = int(asked.get())
        sound = audio[piece * size : (piece + 1) * size]
        clips = [{"start": at, "end": min(at + half, len(sound) / SAMPLE_RATE)} for at in (0.0, half)]
        segments, _ = pipeline.transcribe(
            sound,
            language="en",
            beam_size=5,
            batch_size=BATCH,
            word_timestamps=True,
            vad_filter=False,
            clip_timestamps=[clip for clip in clips if clip["end"] > clip["start"]],
        )
        say(piece=piece, words=sum(len(segment.text.split()) for segment in segments))


def peak_mb(pid: int | str = "self") -> float:
    """Peak resident megabytes of a process; 0.0 where the system does not tell (only Linux does)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    peak = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(peak.split()[1]) / 1024


def settings_on_cores(cores: int, quick: bool) -> tuple[Setting, ...]:
    """The same cores divided in different ways: the first is one core for one worker, to which others are compared."""
    one = Setting()
    if quick or cores == 1:
        return (one, Setting(workers=2), Setting(processes=2))
    found = [one, Setting(threads=cores), Setting(workers=cores), Setting(processes=cores)]
    half = int(cores**0.5)
    if half > 1:
        found += [Setting(workers=cores // half, threads=half), Setting(processes=cores // half, threads=half)]
    # more threads than cores: what happens where nobody thought of it
    found += [Setting(workers=2, threads=cores), Setting(processes=2, threads=cores)]
    return tuple(dict.fromkeys(found))


def settings_on_gpus(gpus: int) -> tuple[Setting, ...]:
    """One to four on one GPU, in one process and in several; and, where there are more, on all of them."""
    found = [Setting(1, 1, 4, (0,))]
    found += [Setting(1, count, 4, (0,)) for count in (2, 4)] + [Setting(count, 1, 4, (0,)) for count in (2, 3, 4)]
    if gpus > 1:
        every = tuple(range(gpus))
        found += [Setting(1, 1, 4, every), Setting(gpus, 1, 4, every), Setting(2 * gpus, 1, 4, every)]
    return tuple(found)


def fastest(settings: Sequence[Setting], rtfx: dict[str, float]) -> Setting:
    return max(settings, key=lambda setting: rtfx[setting.name])


if __name__ == "__main__":
    main()
