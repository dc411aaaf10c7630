"""A gateway that no controller asks any more ends what was rented; one that is asked now and then does nothing."""

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from provisioning.fleet import ONLY_LOOKING, WorkerNews
from provisioning.gateway_admin import admin_app
from provisioning.gateway_deadman import PATIENCE_MS, REVOKED_MS, Deadman
from provisioning.gateway_desk import Desk
from provisioning.gateway_tokens import Tokens


class Machines:
    def __init__(self, *nonces: str) -> None:
        self.alive = dict.fromkeys(nonces, False)  # whether it drains
        self.lost: list[str] = []

    def news(self) -> list[WorkerNews]:
        return [WorkerNews(nonce, 1, 1, None, 0, 0, 0, 0, 0, draining=drains) for nonce, drains in self.alive.items()]

    def drain(self, nonce: str) -> bool:
        assert not self.alive[nonce], "told twice"
        self.alive[nonce] = True
        return True

    async def lose(self, nonce: str, expires_ms: int) -> list[str]:
        del self.alive[nonce]
        self.lost.append(nonce)
        return []


def test_machines_finish_what_they_hold_and_then_get_nothing_any_more() -> None:
    deadman, machines = Deadman(5_000), Machines("one", "two")
    for now, drains in ((5_000 + PATIENCE_MS - 1, False), (5_000 + PATIENCE_MS, True), (5_001 + PATIENCE_MS, True)):
        asyncio.run(deadman.look(machines, now, 0))
        assert machines.alive == {"one": drains, "two": drains}
    asyncio.run(deadman.look(machines, 5_000 + PATIENCE_MS + REVOKED_MS, 0))
    assert machines.alive == {}
    assert machines.lost == ["one", "two"]


def test_what_is_asked_for_again_is_left_alone() -> None:
    deadman, machines = Deadman(0), Machines("one")
    deadman.asked(PATIENCE_MS - 1)
    asyncio.run(deadman.look(machines, 2 * PATIENCE_MS - 2, 0))
    assert machines.alive == {"one": False}
    deadman.asked(3)
    assert deadman.verdict(2 * PATIENCE_MS - 2) is None, "an older question changes nothing"


@given(st.lists(st.integers(1, PATIENCE_MS - 1)))
def test_a_controller_that_asks_within_the_time_is_never_taken_for_dead(gaps: list[int]) -> None:
    now, deadman = 0, Deadman(0)
    for gap in gaps:
        now += gap
        assert deadman.verdict(now) is None
        deadman.asked(now)


class Quiet:
    """A desk without machines."""

    def news(self) -> list[WorkerNews]:
        return []


@pytest.mark.parametrize(("only_looking", "counts"), [(False, 1), (True, 0)])
def test_who_only_watches_is_not_taken_for_a_controller(only_looking: bool, counts: int) -> None:
    asked: list[None] = []
    app = admin_app(cast(Desk, Quiet()), cast(Tokens, None), b"key", lambda: asked.append(None))
    looking = {ONLY_LOOKING: "1"} if only_looking else {}
    with TestClient(app) as admin:
        answer = admin.get("/admin/instances", headers={"Authorization": "Bearer key", **looking})
    assert answer.json()["instances"] == []
    assert len(asked) == counts
