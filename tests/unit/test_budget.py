"""The meter against a second one that knows the truth to the second: it errs to the dear side, and by little."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.budget import AUDIO_GB_PER_HOUR, OVERSTAY_MS, Meter, advance, destroyed
from provisioning.cloud import Instance
from provisioning.fleet import Intent, Label, WorkerNews

FLEET = "meter"
NOW = 1_800_000_000_000
HOUR_MS = 3_600_000
GPU, STORAGE = 0.36, 0.036
INTENT = Intent("abc", "bound", 1, 9, "RTX 3090", NOW, NOW + 6 * HOUR_MS, GPU + STORAGE, True, instance_id=5)


def row(actual: str | None, **changes: Any) -> Instance:
    made = Instance(
        id=5,
        label=Label(FLEET, "abc", INTENT.expires_ms // 1000).encode(),
        machine_id=9,
        gpu_name="RTX 3090",
        actual=actual,
        intended="running",
        current="running",
        next="running",
        message="",
        is_bid=True,
        gpu_usd_per_hour=GPU,
        storage_usd_per_hour=STORAGE,
        inet_down_mbps=800.0,
        inet_down_usd_per_gb=0.0,
        inet_up_usd_per_gb=0.0,
    )
    return replace(made, **changes)


def metered(*looks: tuple[int, str | None], **changes: Any) -> Meter:
    """The meter after looks at (seconds since the request, state); "absent" is a list without it."""
    meter = Meter()
    for second, actual in looks:
        rows = [] if actual == "absent" else [row(actual, **changes)]
        meter = advance(meter, [INTENT], rows, NOW + second * 1000, FLEET)
    return meter


def usd(meter: Meter, second: int) -> float:
    return meter.usd(NOW + second * 1000)


def test_a_request_counts_in_full_from_the_moment_it_is_sent() -> None:
    asked = replace(INTENT, state="asked", instance_id=None)
    meter = advance(Meter(), [asked], [], NOW + 1_000, FLEET)
    assert usd(meter, 100) == pytest.approx((GPU + STORAGE) * 100 / 3600)
    blind = advance(Meter(), [asked], None, NOW + 1_000, FLEET)
    assert usd(blind, 100) == pytest.approx((GPU + STORAGE) * 100 / 3600)
    never = advance(meter, [replace(asked, state="closed")], [], NOW + 200_000, FLEET)
    assert usd(never, 300) == 0.0


BILLS = [
    (None, 0, 1),
    ("created", 0, 1),
    ("loading", 0, 1),
    ("running", 1, 1),
    ("frozen", 1, 1),
    ("rebooting", 1, 1),
    ("exited", 0, 1),
    ("stopped", 0, 1),
    ("unknown", 0, 1),
    ("offline", 0, 0),
]


@pytest.mark.parametrize(("actual", "gpu", "storage"), BILLS)
def test_what_bills_in_which_state(actual: str | None, gpu: int, storage: int) -> None:
    start = metered((0, actual), (600, actual))
    more = metered((0, actual), (600, actual), (610, actual))
    rate = (usd(more, 610) - usd(start, 600)) * 360
    assert rate == pytest.approx(gpu * GPU + storage * STORAGE)
    assert more.usd_per_hour == pytest.approx(gpu * GPU + storage * STORAGE)


def test_a_late_first_look_bills_the_gpu_only_from_when_the_image_can_have_been_there() -> None:
    meter = metered((100, "running"))
    assert usd(meter, 100) == pytest.approx((GPU * (100 - 40) + STORAGE * 100) / 3600)


def test_between_two_lists_the_dearer_state_counts() -> None:
    boots = metered((0, None), (50, "loading"), (60, "running"))
    assert usd(boots, 60) == pytest.approx((GPU * 10 + STORAGE * 60) / 3600)
    stops = metered((0, None), (50, "running"), (60, "exited"))
    assert usd(stops, 60) == pytest.approx((GPU * 20 + STORAGE * 60) / 3600)


def test_the_image_is_billed_as_it_comes_and_the_audio_with_the_work() -> None:
    traffic = {"inet_down_usd_per_gb": 0.01, "gpu_usd_per_hour": 0.0, "storage_usd_per_hour": 0.0}
    assert usd(metered((0, None), (20, "loading"), **traffic), 20) == pytest.approx(0.02)
    assert usd(metered((0, None), (20, "loading"), (99, "loading"), **traffic), 99) == pytest.approx(0.04)
    assert usd(metered((0, None), (20, "running"), **traffic), 20) == pytest.approx(0.04)
    news = WorkerNews("abc", NOW, NOW, NOW, 1, HOUR_MS, 9, HOUR_MS, 60_000)
    meter = advance(Meter(), [INTENT], [row("running", **traffic)], NOW + 60_000, FLEET, {"abc": news})
    assert usd(meter, 60) == pytest.approx(0.01 * (4.0 + 2 * AUDIO_GB_PER_HOUR))


def test_one_that_was_stopped_before_it_was_seen_may_have_pulled_its_image() -> None:
    traffic = {"inet_down_usd_per_gb": 0.01, "gpu_usd_per_hour": 0.0, "storage_usd_per_hour": 0.0}
    assert usd(metered((90, "exited"), **traffic), 90) == pytest.approx(0.04)
    assert usd(metered((20, "exited"), **traffic), 20) == 0, "it never started"
    assert usd(metered((0, None), (10, "loading"), (30, "exited"), **traffic), 30) == pytest.approx(0.03)
    assert usd(metered((0, None), (30, "exited"), (90, "exited"), **traffic), 90) == pytest.approx(0.03)


def test_while_nobody_answers_it_goes_on_and_a_boot_counts_as_running() -> None:
    running = metered((0, None), (50, "running"))
    blind = advance(running, [INTENT], None, NOW + 900_000, FLEET)
    assert usd(blind, 1_850) - usd(running, 50) == pytest.approx((GPU + STORAGE) / 2)
    booting = metered((0, None), (50, "loading"))
    assert usd(booting, 1_850) - usd(booting, 50) == pytest.approx((GPU + STORAGE) / 2)


def test_what_bills_no_longer_than_it_may_live_is_not_billed_for_ever() -> None:
    running = metered((0, None), (50, "running"))
    end = (INTENT.expires_ms + OVERSTAY_MS - NOW) // 1000
    assert usd(running, 30 * 3_600) == usd(running, end)


def test_a_machine_ends_with_the_order_to_destroy_it_once_lists_lack_it() -> None:
    running = metered((0, None), (600, "running"))
    told = destroyed(running, 5, NOW + 601_000)
    still = advance(told, [INTENT], [row("running")], NOW + 612_000, FLEET)
    assert usd(still, 612) > usd(running, 612) - 1e-9, "the market said yes, and it runs on"
    gone = advance(told, [INTENT], [], NOW + 612_000, FLEET)
    assert usd(gone, 9_000) == pytest.approx(usd(running, 601))
    over = advance(gone, [replace(INTENT, state="closed")], [], NOW + 640_000, FLEET)
    assert usd(over, 9_000) == pytest.approx(usd(running, 601))
    assert over.usd_per_hour == 0


def test_one_that_vanishes_is_billed_until_the_first_list_without_it() -> None:
    running = metered((0, None), (600, "running"))
    gone = advance(running, [INTENT], [], NOW + 610_000, FLEET)
    over = advance(gone, [replace(INTENT, state="closed")], [], NOW + 650_000, FLEET)
    assert usd(over, 9_000) == pytest.approx(usd(running, 610))


def test_one_that_comes_back_is_billed_for_the_time_between() -> None:
    gone = metered((0, None), (600, "running"), (610, "absent"))
    closed = replace(INTENT, state="closed")
    over = advance(gone, [closed], [], NOW + 650_000, FLEET)
    back = advance(over, [closed], [row("running")], NOW + 1_000_000, FLEET)
    assert usd(back, 1_000) == pytest.approx(usd(metered((0, None), (600, "running"), (1_000, "running")), 1_000))


def test_machines_that_nobody_remembers_count_and_those_of_others_do_not() -> None:
    lost = advance(Meter(), [], [row("running", started_ms=NOW)], NOW + 600_000, FLEET)
    assert usd(lost, 600) == pytest.approx((GPU + STORAGE) / 6, rel=0.1)
    others = [row("running", label="my training"), row("running", label=Label("other", "x", 1).encode())]
    assert usd(advance(Meter(), [], others, NOW + 600_000, FLEET), 600) == 0
    twice = advance(Meter(), [INTENT], [row("running"), row("running", id=6)], NOW + 60_000, FLEET)
    assert len(twice.lines) == 2
    assert set(twice.costs(NOW + 60_000)) == {"abc"}


def test_it_is_the_same_after_a_restart_and_a_look_that_is_taken_twice() -> None:
    meter = metered((0, None), (50, "loading"), (60, "running"))
    assert Meter.from_json(meter.to_json()) == meter
    assert advance(meter, [INTENT], [row("running")], NOW + 60_000, FLEET) == meter
    assert Meter.from_json(None) == Meter()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((5, 10, 15)))
def test_it_is_never_far_from_the_truth_and_never_below(seed: int, tick_s: int) -> None:
    """A life of known states to the second, looked at now and then: within 5 % and a tick of GPU, and not under."""
    rng = random.Random(seed)
    life = [None] * rng.randint(2, 20) + ["created"] * 3 + ["loading"] * rng.randint(40, 300)
    life += ["running"] * rng.randint(100, 4_000) + ["exited"] * rng.randint(0, 20)
    bills = {second for second, state in enumerate(life) if state == "running"}
    truth = (len(bills) * GPU + len(life) * STORAGE) / 3600
    meter = Meter()
    for second in range(0, len(life) + 60, tick_s):
        if second and rng.random() < 0.05:
            continue
        rows = [row(life[second])] if second < len(life) else []
        intent = INTENT if second < len(life) + 25 else replace(INTENT, state="closed")
        before = usd(meter, second)
        meter = advance(meter, [intent], rows, NOW + second * 1000, FLEET)
        assert usd(meter, second) >= before - (GPU + STORAGE) * 120 / 3600
    told = usd(meter, len(life) + 60)
    assert truth * 0.9999 <= told <= truth * 1.05 + 4 * tick_s * (GPU + STORAGE) / 3600
