"""Offers: what does not fit, what is bid, what an hour of audio costs there, and what a whole recording would take."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning import offers
from provisioning.budget import AUDIO_GB_PER_HOUR
from provisioning.cloud import Offer, OfferQuery
from provisioning.fleet import Limits, Speeds
from provisioning.offers import (
    DRAIN_S,
    Ranked,
    bid,
    budget_for_one,
    choose,
    estimate,
    fits,
    nothing_fits,
    rank,
    speed_of,
)

HOUR_MS = 3_600_000


def offer(number: int = 1, **changes: Any) -> Offer:
    made = Offer(
        id=number,
        machine_id=1000 + number,
        host_id=2000 + number,
        gpu_name="RTX 3090",
        num_gpus=1,
        gpu_ram_mb=24_576,
        cuda=12.8,
        compute_capability=860,
        reliability=0.99,
        verified=True,
        rentable=True,
        datacenter=False,
        disk_gb=100.0,
        inet_down_mbps=800.0,
        inet_up_mbps=500.0,
        inet_down_usd_per_gb=0.003,
        inet_up_usd_per_gb=0.003,
        storage_usd_per_gb_month=0.15,
        gpu_usd_per_hour=0.30,
        min_bid_usd_per_hour=0.12,
        duration_s=30 * 86_400.0,
    )
    return replace(made, **changes)


QUERY = OfferQuery(max_usd_per_hour=0.35)
STORAGE = 0.15 * 20 / 720

FAULTS = [
    ({"num_gpus": 4}, "4 GPUs, and a fleet rents one by one"),
    ({"rentable": False}, "not to be rented now"),
    ({"verified": False}, "not verified"),
    ({"gpu_ram_mb": 6_000}, "6000 MB of GPU memory"),
    ({"cuda": 12.2}, "a driver for CUDA 12.2, and 12.4 is needed"),
    ({"compute_capability": 1200, "cuda": 12.4}, "a driver for CUDA 12.4, and 12.8 is needed"),
    ({"compute_capability": 610}, "a GPU too old"),
    ({"reliability": 0.9}, "reliability 0.900"),
    ({"inet_down_mbps": 90.0}, "90 Mbit/s down"),
    ({"duration_s": 1_800.0}, "to be had for 0.5 hours only"),
    ({"disk_gb": 10.0}, "10 GB of disk"),
    ({"min_bid_usd_per_hour": 0.5, "gpu_usd_per_hour": 0.9}, "$0.504 an hour"),
]


@pytest.mark.parametrize(("changes", "reason"), FAULTS)
def test_what_does_not_fit_says_why(changes: dict[str, Any], reason: str) -> None:
    assert fits(offer(**changes), QUERY) == reason


def test_what_fits_fits_also_by_name_and_data_centre() -> None:
    assert fits(offer(), QUERY) is None
    dear = fits(offer(inet_down_usd_per_gb=0.1), QUERY)
    assert dear is not None
    assert dear.startswith("$0.1 a GB of download, so that the image costs $0.40 and an hour $0.")
    assert fits(offer(inet_down_usd_per_gb=0.1), QUERY, image_gb=0.5) is None
    assert fits(offer(), replace(QUERY, gpu_names=("RTX 3090",))) is None
    assert fits(offer(), replace(QUERY, gpu_names=("RTX 4090",))) == "a RTX 3090"
    assert fits(offer(), replace(QUERY, datacenter_only=True)) == "not in a data centre"
    assert fits(offer(), replace(QUERY, interruptible=False, max_usd_per_hour=0.31)) is None
    assert fits(offer(), replace(QUERY, interruptible=False, max_usd_per_hour=0.30)) == "$0.304 an hour"


def test_a_bid_is_a_little_above_the_least_or_on_demand_where_that_costs_hardly_more() -> None:
    assert bid(offer(), QUERY) == pytest.approx(0.138)
    assert bid(offer(), QUERY, factor=1.4) == pytest.approx(0.168)
    assert bid(offer(min_bid_usd_per_hour=0.25), QUERY) is None
    assert bid(offer(min_bid_usd_per_hour=0.25, gpu_usd_per_hour=0.5), QUERY) == pytest.approx(0.2875)
    assert bid(offer(min_bid_usd_per_hour=0.33, gpu_usd_per_hour=0.5), QUERY) == pytest.approx(0.35 - STORAGE, abs=1e-4)
    assert bid(offer(), replace(QUERY, interruptible=False)) is None
    told_no_price_on_demand = offer(min_bid_usd_per_hour=0.2, gpu_usd_per_hour=0.2)
    assert bid(told_no_price_on_demand, QUERY) == pytest.approx(0.23)


@settings(deadline=None)
@given(
    least=st.floats(0.001, 2.0),
    on_demand=st.floats(0.001, 2.0),
    cap=st.floats(0.02, 2.0),
    month=st.floats(0.0, 0.5),
    factor=st.sampled_from((1.0, 1.15, 1.4)),
)
def test_whatever_is_rented_is_within_the_price_and_no_bid_below_the_least(
    least: float, on_demand: float, cap: float, month: float, factor: float
) -> None:
    query = OfferQuery(max_usd_per_hour=cap)
    one = offer(
        min_bid_usd_per_hour=least, gpu_usd_per_hour=max(least, on_demand), storage_usd_per_gb_month=month
    )  # fmt: skip
    ranked = rank([one], query, Speeds(), factor=factor)
    assert bool(ranked) is (fits(one, query) is None)
    for each in ranked:
        assert each.usd_per_hour <= cap * 1.0001 + 1e-4
        assert each.bid_usd_per_hour is None or each.bid_usd_per_hour >= least


def test_speed_is_measured_or_guessed_and_says_which() -> None:
    measured = speed_of("RTX 3090", Speeds({"RTX 3090": 55.0}))
    assert (measured.rtfx, measured.source) == (55.0, "measured")
    table = speed_of("RTX 3070 Ti", Speeds())
    assert (round(table.rtfx), table.source) == (46, "guess from 608 GB/s of memory")
    assert speed_of("RTX 3070 Ti", Speeds(), "tiny.en").rtfx > 5 * table.rtfx
    assert speed_of("RTX 3070 Ti", Speeds(), "large-v3-turbo").rtfx > 2 * table.rtfx
    assert speed_of("Quadro X", Speeds(), dlperf=30.0).source == "guess from DLPerf 30"
    assert speed_of("Quadro X", Speeds()).source == "guess for an unknown GPU"


def test_the_cheapest_hour_of_audio_is_not_the_cheapest_gpu() -> None:
    slow = offer(1, gpu_name="RTX 3060", min_bid_usd_per_hour=0.06, gpu_usd_per_hour=0.2)
    fast = offer(2, gpu_name="RTX 4090", min_bid_usd_per_hour=0.12, gpu_usd_per_hour=0.5)
    dear_line = replace(fast, id=3, inet_down_usd_per_gb=0.03)
    assert [each.offer.id for each in rank([slow, fast, dear_line], QUERY, Speeds())] == [2, 1, 3]
    told_otherwise = Speeds({"RTX 4090": 5.0, "RTX 3060": 30.0})
    assert [each.offer.id for each in rank([slow, fast, dear_line], QUERY, told_otherwise)] == [1, 2, 3]


def test_a_boot_weighs_less_the_longer_the_work() -> None:
    near = offer(1, gpu_name="RTX 4090", gpu_usd_per_hour=0.34, min_bid_usd_per_hour=0.2)
    short, long = (rank([near], QUERY, Speeds(), hours=hours)[0] for hours in (0.1, 10.0))
    assert short.usd_per_audio_hour > long.usd_per_audio_hour
    assert long.usd_per_audio_hour * long.speed.rtfx == pytest.approx(long.usd_per_hour, rel=0.2)


def test_with_little_to_do_a_free_line_is_worth_more_than_a_cheap_gpu() -> None:
    cheap = replace(offer(1), gpu_usd_per_hour=0.10, min_bid_usd_per_hour=0.05, inet_down_usd_per_gb=0.004)
    free = replace(offer(2), gpu_usd_per_hour=0.14, min_bid_usd_per_hour=0.07, inet_down_usd_per_gb=0.0)
    query = replace(QUERY, interruptible=False)

    def best(audio_hours: float | None) -> int:
        return rank([cheap, free], query, Speeds({"RTX 3090": 10.0}), audio_hours=audio_hours)[0].offer.id

    least = rank([cheap], query, Speeds(), hours=DRAIN_S / 3600)[0]
    assert (best(None), best(3.0)) == (1, 2)
    assert rank([cheap], query, Speeds(), audio_hours=0.001)[0] == least, "more may come"
    assert rank([cheap], query, Speeds(), audio_hours=1e6) == rank([cheap], query, Speeds(), audio_hours=None)


def test_no_more_than_two_on_one_host_with_those_that_are_there() -> None:
    many = [offer(number, machine_id=7 + number // 4) for number in range(12)]
    ranked = rank(many, QUERY, Speeds())
    assert [each.offer.machine_id for each in choose(ranked, 5)] == [7, 7, 8, 8, 9]
    assert [each.offer.machine_id for each in choose(ranked, 9, frozenset({8}), {7: 1})] == [7, 9, 9]


def test_where_nothing_fits_a_sentence_says_the_cheapest_there_is() -> None:
    dear = [offer(number, min_bid_usd_per_hour=0.5 + number / 10, gpu_usd_per_hour=1.5) for number in (3, 1, 2)]
    told = nothing_fits(dear, QUERY)
    assert "No offer is under $0.35 an hour" in told
    assert "one RTX 3090, interruptible, at $0.605 an hour" in told
    bad = [offer(1, verified=False), offer(2, verified=False), offer(3, disk_gb=1.0)]
    assert "2 × not verified; 1 × 1 GB of disk" in nothing_fits(bad, QUERY)
    assert "no offer of this kind" in nothing_fits([], QUERY)


def test_the_price_that_the_sentence_names_is_enough() -> None:
    dear = [offer(1, min_bid_usd_per_hour=0.61237, gpu_usd_per_hour=1.5)]
    named = float(nothing_fits(dear, QUERY).split(" an hour with its disk")[0].rsplit("$", 1)[1])
    assert rank(dear, replace(QUERY, max_usd_per_hour=named), Speeds())


def test_a_budget_below_one_machine_is_said_with_what_is_needed() -> None:
    ranked = rank([offer()], QUERY, Speeds())
    told = budget_for_one(ranked, 0.01)
    assert told is not None
    assert told.startswith("A budget of $0.01 is too small for one machine: the cheapest costs $0.0")
    assert budget_for_one(ranked, 1.0) is None
    needed = float(told.split("costs $")[1].split()[0])
    assert budget_for_one(ranked, needed + 0.001) is None


# ---- what a recording would take ----

LIMITS = Limits(max_usd=5.0, max_price=0.35, max_instances=16, drain_target_s=1_800.0)


def market(count: int = 40) -> list[Ranked]:
    return rank([offer(number) for number in range(count)], QUERY, Speeds({"RTX 3090": 60.0}))


def test_more_machines_are_quicker_and_dearer_and_the_fewest_that_are_quick_enough_are_taken() -> None:
    told = estimate(100 * HOUR_MS, market(), LIMITS, Speeds())
    assert [choice.machines for choice in told.choices] == [1, 2, 4, 8, 16]
    times = [choice.duration_ms for choice in told.choices]
    assert times == sorted(times, reverse=True)
    assert [choice.usd for choice in told.choices] == sorted(choice.usd for choice in told.choices)
    assert told.choice is not None
    assert (told.choice.machines, told.choice.gpus) == (4, {"RTX 3090": 4})
    assert told.choice.duration_ms == pytest.approx((240 + 100 * 3_600 / 60 / 4) * 1000, rel=0.02)
    assert told.choice.usd_per_audio_hour(100 * HOUR_MS) == pytest.approx(told.choice.usd / 100)


def test_one_machine_costs_what_its_hours_cost() -> None:
    one = estimate(60 * HOUR_MS, market(), replace(LIMITS, max_instances=1), Speeds()).choices[0]
    runs = (3_600 + offers.LOAD_S) / 3_600 * 0.138
    storage = STORAGE * (3_600 + offers.BOOT_S) / 3_600
    traffic = 0.003 * (4.0 + 60 * AUDIO_GB_PER_HOUR)
    assert one.usd == pytest.approx(runs + storage + traffic, rel=0.01)


def test_too_many_machines_wait_for_the_last_chunk() -> None:
    told = estimate(10 * 60_000, market(), replace(LIMITS, drain_target_s=1.0), Speeds(), chunk_ms=60_000)
    by_count = {choice.machines: choice.duration_ms for choice in told.choices}
    assert by_count[16] >= by_count[8] * 0.99
    assert told.chunks == 10
    assert told.choice is not None


def test_a_budget_too_small_for_the_recording_is_a_sentence() -> None:
    told = estimate(1_000 * HOUR_MS, market(), replace(LIMITS, max_usd=0.5), Speeds())
    assert told.choice is None
    assert told.problem is not None
    assert told.problem.startswith("A budget of $0.5 is too small for this recording: it takes $")
    rate = estimate(HOUR_MS, market(), replace(LIMITS, max_usd_per_hour=0.05), Speeds())
    assert rate.problem is not None
    assert "raise --max-usd-per-hour" in rate.problem
    assert estimate(HOUR_MS, [], LIMITS, Speeds()).problem == "No offer fits."


@settings(max_examples=50, deadline=None)
@given(
    audio_ms=st.integers(0, 60 * HOUR_MS),
    chunk_ms=st.integers(30_000, 600_000),
    machines=st.integers(1, 20),
    budget=st.floats(0.001, 20.0),
)
def test_what_is_chosen_keeps_to_budget_and_count(audio_ms: int, chunk_ms: int, machines: int, budget: float) -> None:
    limits = replace(LIMITS, max_instances=machines, max_usd=budget)
    told = estimate(audio_ms, market(8), limits, Speeds(), chunk_ms)
    assert (told.choice is None) is (told.problem is not None)
    assert all(choice.machines <= min(machines, 8) for choice in told.choices)
    assert all(math.isfinite(choice.usd) and choice.usd > 0 for choice in told.choices)
    if told.choice is not None:
        assert told.choice.usd <= 0.9 * budget
