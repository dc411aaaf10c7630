"""What is shown of a fleet: totals add up, JSON is whole, and what bills on is told in one sentence."""

import json

import pytest

from provisioning.fleet import Demand, Intent, WorkerNews
from provisioning.status import FleetStatus, InstanceLine, Sighting, line, measured_rtfx, still_alive

NOW = 1_800_000_000_000
INTENT = Intent("abcd", "bound", 5, 7, "RTX 3090", NOW - 90_000, NOW + 1, 0.25, is_bid=True, instance_id=11)
NEWS = WorkerNews("abcd", NOW, NOW, NOW, 1, 60_000, 3, 180_000, 9_000, rtfx=35.0)


def status(*lines: InstanceLine) -> FleetStatus:
    return FleetStatus("test", NOW, "run", 2, lines, Demand(), spent_usd=1.234, max_usd=5.0)


def seen(intent: Intent = INTENT, news: WorkerNews | None = NEWS, state: str = "busy") -> InstanceLine:
    return line(Sighting(intent, state, NOW, 0.2, 0.05, news))


def test_a_line_tells_what_is_known() -> None:
    known = seen()
    assert (known.instance_id, known.chunks_done, known.age_s, known.machine_id) == (11, 3, 90.0, 7)
    assert known.rtfx == 20.0
    unknown = seen(news=None)
    assert (unknown.chunks_done, unknown.rtfx) == (0, None)


def test_chunks_say_more_of_the_speed_than_the_self_test() -> None:
    assert measured_rtfx(NEWS) == 20.0
    fresh = WorkerNews("abcd", NOW, NOW, None, 0, 0, 0, 0, 0, rtfx=35.0)
    assert measured_rtfx(fresh) == 35.0


def test_totals_are_sums_and_the_json_has_them() -> None:
    both = status(seen(), seen(state="idle"))
    told = json.loads(json.dumps(both.to_json()))
    assert told["live"] == both.live == 2
    assert told["usd_per_hour"] == pytest.approx(0.4)
    assert told["chunks_done"] == 6
    assert told["rtfx"] == 40.0
    assert told["by_state"] == {"busy": 1, "idle": 1}
    assert told["lines"][0]["nonce"] == "abcd"
    assert told["demand"]["known"] is True


def test_what_is_still_alive_is_told_with_what_to_do() -> None:
    assert still_alive(status()) == "Nothing of fleet 'test' is rented any more; it spent $1.23."
    one = still_alive(status(seen()))
    assert one.startswith("1 machine is still rented for $0.20 an hour in fleet 'test' (instances 11): ")
    assert "`whisperfleet fleet down --fleet test` destroys all" in one
    two = still_alive(status(seen(), seen()))
    assert two.startswith("2 machines are still rented for $0.40 an hour")
