"""What a lane makes of a task: whose input is wrong, whose model is elsewhere."""

import importlib
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.stages import make_context
from workers import lanes
from workers import settings as environment
from workers.context import Context
from workers.errors import EngineError, ModelElsewhere, OptionError, WhisperfleetError
from workers.messages import Message
from workers.seat import EngineSeat
from workers.tasks import PolledTask, ServerSilent, TaskClient


class Server:
    """What a lane asks of the server, and what it told it."""

    worker = "here"

    def __init__(self, alive: int | None) -> None:
        self.alive = alive
        self.told: list[tuple[str, object]] = []

    def live_workers(self, kind: str) -> int:
        if self.alive is None:
            raise ServerSilent("it restarts")
        return self.alive

    def give_back(self, task: PolledTask, seconds: int) -> None:
        self.told.append(("given back", seconds))

    def give_up(self, sibling: object, error: WhisperfleetError) -> None:
        raise AssertionError("nothing is given up")

    def fail(self, task: PolledTask, error: WhisperfleetError) -> None:
        self.told.append(("failed", type(error)))


@pytest.mark.parametrize(
    ("alive", "polls", "told"),
    [
        (2, 1, ("given back", lanes.HAND_ON_SECONDS)),
        (2, lanes.HAND_ON_POLLS, ("failed", ModelElsewhere)),
        (1, 1, ("failed", ModelElsewhere)),  # nobody else is there
        (None, 1, ("failed", ModelElsewhere)),  # the failure is retried; a server that is silent is no reason to wait
    ],
)
def test_a_model_that_is_elsewhere(
    monkeypatch: pytest.MonkeyPatch, alive: int | None, polls: int, told: tuple[str, object]
) -> None:
    def lacks(task: PolledTask, context: Context) -> Message:
        raise ModelElsewhere("not installed here")

    monkeypatch.setattr(lanes, "run_task", lacks)
    server = Server(alive)

    def nothing_to_load(*_: Any) -> Any:
        raise AssertionError("nothing is loaded")

    desk = lanes.Desk(
        client=cast(TaskClient, server),
        settings=environment.load(),
        seat=EngineSeat(nothing_to_load),
        shelf=lanes.DiarizerShelf(nothing_to_load),
        kinds=("diarize_chunk",),
    )
    task = PolledTask("t", "w", "diarize_chunk", "voices_0", {}, 1, 0, 10, polls)
    assert lanes._do(desk, lanes.Held(task)) is (told[0] == "failed")
    assert server.told == [told]


def refused(**data: object) -> PolledTask:
    return PolledTask("t", "w", str(data.pop("kind")), "reference", data, 1, 0, 10)


def test_a_users_input_is_refused_for_good_and_the_servers_may_come_whole_the_next_time() -> None:
    """Inputs after the plan's are made by the definition from what other tasks put out."""
    with pytest.raises(OptionError, match="media is missing"):
        lanes.run_task(refused(kind="plan_media"), make_context())
    for kind in set(lanes.STAGES) - {"plan_media"}:
        with pytest.raises(EngineError, match=r"input that is not whole .*workflows register"):
            lanes.run_task(refused(kind=kind, job="x"), make_context())


def test_every_task_has_its_stage() -> None:
    assert set(lanes.STAGES) == set(lanes.ALL_TASKS)
    for kind, (_, module) in lanes.STAGES.items():
        assert callable(getattr(importlib.import_module(f"workers.stages.{module}"), kind))


def test_no_lease_is_extended_while_a_result_is_handed_in_or_after() -> None:
    """The server reads the task, sets a time and writes it back: a result that came in between would be undone."""
    server = Server(1)
    talking = threading.Event()
    overlapped: list[str] = []

    class Slow(Server):
        def extend_lease(self, task: PolledTask) -> None:
            overlapped.append("during" if talking.is_set() else "after" if server.told else "before")

        def is_wanted(self, task: PolledTask) -> bool:
            return True

    client = Slow(1)
    desk = cast(lanes.Desk, SimpleNamespace(client=client))
    held = lanes.Held(PolledTask("t", "w", "diarize_chunk", "voices_0", {}, 1, 0, 10))
    lanes._beat(desk, held, look=True)

    def send() -> None:
        talking.set()
        time.sleep(0.2)
        server.told.append(("completed", None))
        talking.clear()

    giving = threading.Thread(target=lanes.hand_in, args=(desk, held, send))
    giving.start()
    assert talking.wait(5)
    lanes._beat(desk, held, look=True)
    giving.join(5)
    lanes._beat(desk, held, look=True)
    assert overlapped == ["before"]
