"""One worker process: load the model, take work, go when told to or when the parent is gone.

Run by `workers.pool` as `python -m workers.process JSON`; never by hand. Says what happens to it in
JSON lines on what was its standard output, and nobody else writes there; lives as long as its standard
input stays open, so that a parent killed with -9 leaves no worker behind, on any system.
"""

import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from workers import lanes, settings
from workers.errors import DeadlineExceeded, ServerError, TransientError, WhisperfleetError
from workers.lookout import LAST_PAUSE
from workers.seat import EngineSeat
from workers.tasks import PolledTask, TaskClient

log = logging.getLogger(__name__)

COLLECT_EVERY = 50_000
"""New objects between two collections of cyclic garbage, instead of 700: the words of a lecture are a hundred thousand
objects without a cycle, and looking for one takes a fifth to a third of the time that stitching them takes."""

HUNG_EXIT = 75  # EX_TEMPFAIL: the pool starts a fresh process


@dataclass(frozen=True)
class ProcessSpec:
    """What one worker process is to be. threads 0: the engine's own choice."""

    server: str
    name: str
    kinds: tuple[str, ...]
    engine: str
    model: str
    device: str = "auto"
    device_index: int = 0
    threads: int = 0
    longest_pause: float = LAST_PAUSE

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> "ProcessSpec":
        data = json.loads(text)
        return cls(**{**data, "kinds": tuple(data["kinds"])})

    @property
    def recognizes(self) -> bool:
        return any(kind in lanes.RECOGNIZER_TASKS for kind in self.kinds)


Say = Callable[..., None]
"""Tell the parent: the name of what happened, and more about it by name."""


def main() -> None:
    gc.set_threshold(COLLECT_EVERY)
    spec = ProcessSpec.decode(sys.argv[1])
    say = take_output()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s %(levelname)s {spec.name} %(message)s"
    )
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)  # it tells every file's length; so does the plan
    desk = _desk(spec)
    closed = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: desk.draining.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the pool decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    keeper = threading.Thread(
        target=lanes.keep_leases,
        args=(desk, closed, lambda task: _abandon(desk, task), lambda task, share: _tell_progress(say, task, share)),
        daemon=True,
    )
    try:
        _wait_for_server(desk, say)
    except ServerError as error:
        say("failed", error="ServerError", reason=str(error))
        sys.exit(1)
    lanes.announce(desk)
    keeper.start()
    say("up")
    workers = _start_lane(desk, lanes.MEDIA_TASKS) + _start_lane(desk, lanes.DIARIZER_TASKS)
    try:
        workers += _start_recognizer_lanes(desk, spec)
    except WhisperfleetError as error:
        say("failed", error=type(error).__name__, reason=str(error))
        sys.exit(1)
    say("ready")
    for worker in workers:
        while worker.is_alive():
            worker.join(1.0)
    closed.set()
    if desk.dismissed is not None:
        say("failed", error="ServerError", reason=str(desk.dismissed))
        sys.exit(1)


def take_output() -> Say:
    """Keep standard output for what the process says: from now on whatever anybody prints goes to standard error.

    For the whole process and for what C code writes: the diarizer's libraries print, and the lanes work while the
    main thread speaks. Threads may speak at the same time.
    """
    sys.stdout.flush()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sys.stdout = sys.stderr
    lock = threading.Lock()

    def say(event: str, **more: str | float) -> None:
        with lock:
            output.write(json.dumps({"event": event, **more}) + "\n")
            output.flush()

    return say


def _desk(spec: ProcessSpec) -> lanes.Desk:
    from workers.diarizers import loading as diarizers
    from workers.recognizers.loading import load

    def load_here(engine: str, model: str):  # type: ignore[no-untyped-def]
        began = time.monotonic()
        recognizer = load(engine, model, device=spec.device, device_index=spec.device_index, threads=spec.threads)
        log.info("Loaded %s for %s in %.1f s", model, engine, time.monotonic() - began, extra={"action": "loaded"})
        return recognizer

    return lanes.Desk(
        client=TaskClient(spec.server, spec.name),
        settings=settings.load(),
        seat=EngineSeat(load_here),
        # a GPU that Whisper can use is one that onnxruntime or torch may not: they take it where they can
        shelf=lanes.DiarizerShelf(
            lambda name, model: diarizers.load(name, model, "cpu" if spec.device == "cpu" else "auto", spec.threads)
        ),
        kinds=spec.kinds,
        longest_pause=spec.longest_pause,
    )


def _wait_for_server(desk: lanes.Desk, say: Say) -> None:
    """A worker may start before its server, or while it restarts: wait, and say so once."""
    said = False
    while True:
        try:
            desk.client.live_workers(desk.kinds[0])  # behind a gateway of others nothing is told
            return
        except TransientError as error:
            if not said:
                log.warning("Waiting for the server: %s", error, extra={"action": "no_server"})
                say("waiting", reason=str(error))
                said = True
            time.sleep(1.0)


def _start_lane(desk: lanes.Desk, tasks: tuple[str, ...]) -> list[threading.Thread]:
    kinds = tuple(kind for kind in tasks if kind in desk.kinds)
    return [_thread(lanes.run_lane, desk, kinds)] if kinds else []


def _start_recognizer_lanes(desk: lanes.Desk, spec: ProcessSpec) -> list[threading.Thread]:
    kinds = tuple(kind for kind in lanes.RECOGNIZER_TASKS if kind in desk.kinds)
    if not kinds:
        return []
    desk.seat.warm(spec.engine, spec.model)
    return [_thread(lanes.recognizer_lane, desk, kinds, ahead_only) for ahead_only in (False, True)]


def _thread(run, desk: lanes.Desk, kinds: tuple[str, ...], *more: object) -> threading.Thread:  # type: ignore[no-untyped-def]
    thread = threading.Thread(target=run, args=(desk, kinds, *more), daemon=True)
    thread.start()
    return thread


def _abandon(desk: lanes.Desk, task: PolledTask) -> None:
    """Leave an engine that does not come back: hand in the failure, and end with all its threads."""
    try:
        desk.client.fail(task, DeadlineExceeded("The engine or diarizer hung and did not stop in time."))
    finally:
        os._exit(HUNG_EXIT)


def _tell_progress(say: Say, task: PolledTask, share: float) -> None:
    say("progress", task=task.task_id, share=round(share, 3))


def _die_with_parent() -> None:
    while sys.stdin.read(1):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
