"""Odd answers of Conductor are no empty queue, and a chunk's mean length is one of chunks and not of jobs."""

import json
from typing import Any

import httpx
import pytest

from provisioning.demand import JOBS_A_LOOK, ConductorDemand, _means_of
from provisioning.fleet import Demand


class Gateway:
    def demand(self) -> Demand:
        return Demand(held_audio_ms=5, held_tasks=1)


def look(answers: dict[str, tuple[int, Any]], said: list[str]) -> tuple[Demand, list[str]]:
    """What follows from these answers by path, and what was asked for."""
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        status, body = answers.get(request.url.path, (404, None))
        return httpx.Response(status, content=json.dumps(body))

    demand = ConductorDemand("http://conductor/api", Gateway(), ["transcribe_chunk"], say=said.append)  # type: ignore[arg-type]
    demand._http = httpx.Client(base_url="http://conductor/api", transport=httpx.MockTransport(answer))
    return demand.look(), asked


SIZE, RUNNING = "/api/tasks/queue/size", "/api/workflow/running/transcribe_media"


def test_an_empty_queue_is_one() -> None:
    assert look({SIZE: (200, 0)}, [])[0] == Demand(0, 0, 5, 1)


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {SIZE: (404, {"message": "no such queue"})},
        {SIZE: (200, "7")},
        {SIZE: (200, None)},
        {SIZE: (200, True)},
        {SIZE: (200, {"transcribe_chunk": 7})},
        {SIZE: (200, 7), RUNNING: (200, 8)},
        {SIZE: (200, 7), RUNNING: (200, ["a"]), "/api/workflow/a": (200, {"tasks": 7})},
    ],
)
def test_an_odd_answer_is_no_empty_queue_and_ends_nothing(answers: dict[str, tuple[int, Any]]) -> None:
    said: list[str] = []
    found, _ = look(answers, said)
    assert not found.known
    assert len(said) == 1
    assert said[0].startswith("The Conductor server does not answer at http://conductor (")


def test_not_all_jobs_are_read_at_one_look() -> None:
    jobs = [f"job{number}" for number in range(3 * JOBS_A_LOOK)]
    found, asked = look({SIZE: (200, 7), RUNNING: (200, jobs)}, [])
    assert found.known
    assert sum(path.startswith("/api/workflow/job") for path in asked) == JOBS_A_LOOK


def test_the_mean_chunk_is_one_of_all_chunks() -> None:
    means = _means_of([{"transcribe_chunk": (1_000 * 30_000, 1_000)}, {"transcribe_chunk": (120_000, 1)}])
    assert means == {"transcribe_chunk": pytest.approx(30_090, abs=1)}
    assert _means_of([]) == {}
