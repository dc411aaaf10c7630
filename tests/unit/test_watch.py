"""A server that comes back knows of no worker until they have announced themselves: nobody is to be missed at once."""

from typing import cast

import pytest

from workers.tasks import ServerSilent
from workflows import watch
from workflows.client import Client
from workflows.display import Display


class AnyClient:
    def live_workers(self, kind: str) -> int:
        return 0


def test_workers_are_given_time_to_be_heard_of_after_a_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000))
    monkeypatch.setattr("workflows.watch.time.monotonic", lambda: 1.0 * next(clock))
    monkeypatch.setattr("workflows.watch.time.sleep", lambda seconds: None)
    looks: list[bool | None] = []

    def look(client: object, job: watch.Watched, *rest: object) -> None:
        looks.append(None if len(looks) == 2 else bool(rest[-1]))
        if looks[-1] is None:
            raise ServerSilent("restarting")
        job.over = len(looks) > 3 and looks[-1]

    monkeypatch.setattr(watch, "_look", look)
    job = watch.Watched("id", "name", lambda address: pytest.fail(address), lambda view, workflow: {})
    watch.watch(cast(Client, AnyClient()), [job], cast(Display, None), follow=False)
    assert looks[:4] == [True, True, None, False]
    assert looks[-1] is True
    assert len(looks) > 5, "workers announce themselves every few seconds"
