"""How a worker process takes work: lanes that poll, one keeper that keeps their leases.

A process has a media lane (plan, split, stitch: processor work), a diarizer lane, and two recognizer
lanes that share one engine seat, so that one fetches the next chunk while the other computes. The second
recognizer lane polls only when the first is nearly done: a chunk held too early is a chunk that an idle
worker elsewhere could have had.
"""

import importlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from workers.context import Context
from workers.diarizers import Diarizer
from workers.errors import (
    ChunkNotReady,
    EngineError,
    ModelElsewhere,
    OptionError,
    ServerError,
    TransientError,
    WhisperfleetError,
    WorkAborted,
)
from workers.lookout import FIRST_PAUSE, LAST_PAUSE, Lookout
from workers.messages import (
    AwaitSpeakersInput,
    ClusterSpeakersInput,
    DiarizeChunkInput,
    JobInput,
    JobRef,
    Message,
    PlanMediaOutput,
    RecognizeOptions,
    SpeakerRef,
    SplitMediaInput,
    StitchTranscriptInput,
    TranscribeChunkInput,
)
from workers.recognizers import Recognizer
from workers.seat import EngineSeat, SeatedRecognizer
from workers.settings import Settings
from workers.storage import Storage, open_storage
from workers.tasks import NotAdmitted, PolledTask, ServerSilent, TaskClient

log = logging.getLogger(__name__)

RECOGNIZER_TASKS = ("detect_language", "transcribe_chunk")
MEDIA_TASKS = (
    "stitch_transcript",
    "await_speakers",
    "split_media",
    "plan_media",
)  # what ends a job before what starts one; else ten jobs at once would all be planned before one is cut
DIARIZER_TASKS = ("cluster_speakers", "map_speech", "diarize_chunk")  # the longest task before those that can be shared
ALL_TASKS = RECOGNIZER_TASKS + MEDIA_TASKS + DIARIZER_TASKS

BEAT_SECONDS = 3.0  # a third of the definitions' response timeout: two lost beats are forgiven
ANNOUNCE_SECONDS = 5.0
HAND_IN_SECONDS = 120.0  # a server's restart takes up to half a minute; after two the task is somebody else's
HANG_GRACE_SECONDS = 30.0
HAND_ON_SECONDS = 5
HAND_ON_POLLS = 100  # eight minutes of handing on: longer than a worker that has the model is busy with one chunk
DIARIZER_SECONDS = 7200.0  # pyannote's longest chunk, an hour, takes that on a slow processor; a task beyond it hangs
BUSY_LOOK = 0.1  # seconds between two looks whether it is time to poll at all


@dataclass
class Held:
    """A task in hand. `lost` is set once nobody wants its result.

    telling is held by whoever tells the server of the task, told is set with its result. The server extends a
    lease by reading the task and writing it back: what was handed in between the two would be undone.
    """

    task: PolledTask
    since: float = field(default_factory=time.monotonic)
    lost: threading.Event = field(default_factory=threading.Event)
    telling: threading.Lock = field(default_factory=threading.Lock)
    told: bool = False
    seated: SeatedRecognizer | None = None


@dataclass
class DiarizerShelf:
    """The diarizer that was asked for last: jobs mostly ask for the same, and two may not fit one GPU.

    load makes one of (name, model). For one lane at a time.
    """

    load: Callable[[str, str | None], Diarizer]
    _loaded: tuple[str, str | None] | None = None
    _diarizer: Diarizer | None = None

    def take(self, name: str, model: str | None) -> Diarizer:
        if self._diarizer is None or self._loaded != (name, model):
            self._diarizer = None  # freed before the next is loaded
            self._diarizer = self.load(name, model)
            self._loaded = (name, model)
        return self._diarizer


@dataclass
class Desk:
    """What the lanes of one process share."""

    client: TaskClient
    settings: Settings
    seat: EngineSeat
    shelf: DiarizerShelf
    kinds: tuple[str, ...]
    draining: threading.Event = field(default_factory=threading.Event)
    held: dict[str, Held] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    turn: threading.Lock = field(default_factory=threading.Lock)
    longest_pause: float = LAST_PAUSE
    dismissed: NotAdmitted | None = None
    lookout: Lookout = field(init=False)

    def __post_init__(self) -> None:
        self.lookout = Lookout(self.client, self.kinds, self.draining, self.longest_pause)

    def dismiss(self, error: NotAdmitted) -> None:
        """The server will not have this worker any more: nothing is taken, and nothing in hand is wanted."""
        self.dismissed = error
        self.draining.set()
        with self.lock:
            for held in self.held.values():
                held.lost.set()

    def recognizing(self) -> int:
        """How many tasks for the engine are in hand."""
        with self.lock:
            return sum(held.task.kind in RECOGNIZER_TASKS for held in self.held.values())


def run_lane(desk: Desk, kinds: tuple[str, ...], may_poll: Callable[[], bool] = lambda: True) -> None:
    """Poll `kinds` in order, do what comes, until the desk drains."""
    pause, rested = FIRST_PAUSE, 0.0
    while not desk.draining.is_set():
        if not may_poll():  # nobody is asked, so looking often costs nothing, and late would keep the engine waiting
            desk.draining.wait(BUSY_LOOK)
            pause = FIRST_PAUSE
            continue
        held = _take(desk, kinds, may_poll, fresh_s=rested)
        if held is None:
            again, rested = desk.lookout.rest(kinds, pause), pause
            pause = FIRST_PAUSE if again else min(pause * 1.5, desk.lookout.pause())
        elif _do(desk, held):
            pause = FIRST_PAUSE
        else:  # its chunk is not written yet: let the splitter work
            desk.draining.wait(0.1)


def recognizer_lane(desk: Desk, kinds: tuple[str, ...], ahead_only: bool = False) -> None:
    """One of two lanes at the engine; polls when nothing is in hand, or the one in hand is nearly done.

    ahead_only: of two idle lanes one asks, or an idle fleet would ask its server twice as often as it has to.
    """

    def may_poll() -> bool:
        holding = desk.recognizing()
        return (holding == 0 and not ahead_only) or (holding == 1 and desk.seat.may_fetch_ahead())

    run_lane(desk, kinds, may_poll)


def _take(desk: Desk, kinds: tuple[str, ...], may_poll: Callable[[], bool], fresh_s: float) -> Held | None:
    """Poll one task; alone among this process's lanes, or two of them would take a chunk each at once."""
    with desk.turn:
        if not may_poll():
            return None
        try:
            task = desk.lookout.poll(kinds, fresh_s)
        except NotAdmitted as error:
            desk.dismiss(error)
            return None
        except (ServerSilent, ServerError) as error:
            log.warning("Polling failed: %s", error, extra={"action": "poll_failed"})
            return None
        if task is None:
            return None
        held = Held(task)
        with desk.lock:
            desk.held[task.task_id] = held
        return held


def _do(desk: Desk, held: Held) -> bool:
    """Do a task and hand in what came of it; False when it was given back undone."""
    try:
        return _do_held(desk, held)
    finally:
        with desk.lock:
            desk.held.pop(held.task.task_id, None)
        desk.lookout.ended()


def _do_held(desk: Desk, held: Held) -> bool:
    task = held.task
    ids = {"workflow": task.workflow_id, "task": task.task_id, "kind": task.kind}
    try:
        output = _run_stage(desk, held)
    except ChunkNotReady as early:
        wait_s = early.callback_seconds
        hand_in(desk, held, lambda: desk.client.give_back(task, wait_s))
        return False
    except ModelElsewhere as error:
        if _others_may_have_it(desk, task):
            log.info("Handed %s on: %s", task.reference, error, extra={"action": "handed_on", **ids})
            hand_in(desk, held, lambda: desk.client.give_back(task, HAND_ON_SECONDS))
            return False
        failure: WhisperfleetError = error
    except WorkAborted:
        log.info("Stopped %s, its result is not wanted", task.reference, extra={"action": "aborted", **ids})
        return True
    except WhisperfleetError as error:
        failure = error
        log.warning("%s failed: %s", task.reference, error, extra={"action": "failed", **ids})
    except Exception as error:
        # the engine or a library broke in a way nobody foresaw: this task alone fails, and may be tried again
        failure = EngineError(
            f"{task.reference} broke ({type(error).__name__}: {error}); the log of its worker has the details."
        )
        log.exception("%s broke", task.reference, extra={"action": "broke", **ids})
    else:
        log.info("Done %s", task.reference, extra={"action": "done", **ids})
        hand_in(desk, held, lambda: desk.client.complete(task, output))
        return True
    hand_in(desk, held, lambda: desk.client.fail(task, failure))
    return True


def _others_may_have_it(desk: Desk, task: PolledTask) -> bool:
    """Whether a task whose model this worker lacks should be left to others: while there are any, and not for ever."""
    try:
        return task.polls < HAND_ON_POLLS and desk.client.live_workers(task.kind) > 1
    except (ServerSilent, ServerError):
        return False


def _run_stage(desk: Desk, held: Held) -> Message:
    task = held.task
    context = Context(
        settings=desk.settings,
        worker=desk.client.worker,
        attempt=task.attempt,
        open_storage=lambda address: _opened(desk, address),
        recognizer=lambda options: _seated(desk, held, options),
        live_workers=lambda: desk.client.live_workers("transcribe_chunk"),
        aborted=held.lost.is_set,
        diarizer=desk.shelf.take,
        live_diarizers=lambda: desk.client.live_workers("diarize_chunk"),
        siblings=lambda: desk.client.siblings(task.workflow_id),
        give_up=desk.client.give_up,
        waited_s=max(0.0, time.time() - task.scheduled_ms / 1000),
        prepared=desk.seat.prepared,
        recognized=lambda: _leave(desk, held, finished=True),
    )
    try:
        return run_task(task, context)
    finally:
        _leave(desk, held, finished=False)


# task type -> its input, and the module of `workers.stages` with a function of the task's name; imported by need
STAGES: dict[str, tuple[type[Message], str]] = {
    "plan_media": (JobInput, "plan"),
    "detect_language": (JobRef, "language"),
    "split_media": (SplitMediaInput, "split"),
    "transcribe_chunk": (TranscribeChunkInput, "recognize"),
    "map_speech": (SpeakerRef, "speech"),
    "diarize_chunk": (DiarizeChunkInput, "diarize"),
    "cluster_speakers": (ClusterSpeakersInput, "cluster"),
    "await_speakers": (AwaitSpeakersInput, "patience"),
    "stitch_transcript": (StitchTranscriptInput, "stitch"),
}


def run_task(task: PolledTask, context: Context) -> Message:
    """Decode the task's input, do it, return its output."""
    message, module = STAGES[task.kind]
    stage = getattr(importlib.import_module(f"workers.stages.{module}"), task.kind)
    output: Message = stage(_decoded(message, task), context)
    if isinstance(output, PlanMediaOutput):
        return output.model_copy(update={"started_at_ms": task.scheduled_ms})
    return output


def _decoded(message: type[Message], task: PolledTask) -> Message:
    """Only the plan's input is a user's; what comes after is made by the definition from what other tasks put out.

    Raises EngineError where that is not whole: a further attempt gets its input made anew.
    """
    try:
        return message.decode(task.data)
    except OptionError as error:
        if message is JobInput:
            raise
        raise EngineError(
            f"The server gave {task.reference} an input that is not whole ({error}): if it stays so, "
            "its definitions are of another version; run `whisperfleet workflows register`."
        ) from error


def _opened(desk: Desk, address: str) -> Storage:
    return open_storage(address, desk.settings)


def _seated(desk: Desk, held: Held, options: RecognizeOptions) -> Recognizer:
    if held.seated is None:
        held.seated = desk.seat.take(options)
    return held.seated


def _leave(desk: Desk, held: Held, finished: bool) -> None:
    """Give the seat back, if the task has it; `finished`: it has what it wanted, so its speed tells something."""
    if held.seated is not None:
        held.seated = None
        desk.seat.leave(finished)


def hand_in(desk: Desk, held: Held, send: Callable[[], None]) -> None:
    """Deliver a result, through a restart of the server if need be.

    A result that cannot be delivered is dropped after HAND_IN_SECONDS: the lease is long over, the
    task runs again, and finds its object in storage.
    """
    give_up = time.monotonic() + HAND_IN_SECONDS
    pause = 0.5
    while not held.lost.is_set():
        try:
            with held.telling:
                send()
                held.told = True
            return
        except TransientError as error:
            if time.monotonic() > give_up:
                log.error("Could not hand in %s: %s", held.task.reference, error, extra={"action": "undelivered"})
                return
            time.sleep(pause)
            pause = min(pause * 2, 5.0)
        except ServerError as error:  # the task or its workflow is over
            log.warning("Result of %s refused: %s", held.task.reference, error, extra={"action": "refused"})
            return


def keep_leases(
    desk: Desk,
    closed: threading.Event,
    hung: Callable[[PolledTask], None],
    tell: Callable[[PolledTask, float], None],
) -> None:
    """Every beat: extend the leases in hand, notice what is no longer wanted, and say that the worker is alive.

    hung is called with a task whose engine or diarizer did not stop in time: no thread can end it from outside.
    tell is called with the task at the engine and the share of it that is done: Conductor takes no news of a
    running task but its lease.
    """
    announced = float("-inf")
    beats = 0
    while not closed.is_set():
        with desk.lock:
            in_hand = list(desk.held.values())
        for held in in_hand:
            _beat(desk, held, look=beats % 2 == 1)
            if held.seated is not None:
                tell(held.task, desk.seat.share_done())
                if desk.seat.overdue_seconds() > HANG_GRACE_SECONDS:
                    hung(held.task)
            elif held.task.kind in DIARIZER_TASKS and time.monotonic() - held.since > DIARIZER_SECONDS:
                hung(held.task)
        if time.monotonic() - announced > ANNOUNCE_SECONDS and not desk.draining.is_set():
            announce(desk)
            announced = time.monotonic()
        beats += 1
        closed.wait(BEAT_SECONDS)


def announce(desk: Desk) -> None:
    try:
        for kind in desk.kinds:  # each: tasks may be divided among machines in any way
            desk.client.announce(kind)
    except (ServerSilent, ServerError) as error:
        log.warning("Could not announce: %s", error, extra={"action": "announce_failed"})


def _beat(desk: Desk, held: Held, look: bool) -> None:
    if not held.telling.acquire(blocking=False):
        return  # its result is on its way; waiting for it would cost the other tasks their leases
    try:
        if held.told:
            return
        desk.client.extend_lease(held.task)
        if look and not desk.client.is_wanted(held.task):
            held.lost.set()
    except ServerError:
        held.lost.set()
    except TransientError as error:
        log.warning("Lease of %s not extended: %s", held.task.reference, error, extra={"action": "beat_failed"})
    finally:
        held.telling.release()
