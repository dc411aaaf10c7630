"""What a bill consists of: the parts add up, whatever the machine did."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import cost, cost_prices
from benchmarks.cost_bill import PARTS, TOLD, Machine, middle, shares, slowest, summed

WORKED = Machine(
    gpu_usd=0.36, gpu_s=3600, booted_s=60, useful_s=3000, outbid=False, image_usd=0.02, audio_usd=0.01, disk_usd=0.03
)
amounts = st.floats(0, 1e6)
machines = st.builds(
    Machine,
    gpu_usd=amounts,
    gpu_s=st.floats(1, 1e6),
    booted_s=amounts,
    useful_s=amounts,
    outbid=st.booleans(),
    image_usd=amounts,
    audio_usd=amounts,
    disk_usd=amounts,
)


def test_a_machine_that_worked() -> None:
    expected = {"work": 0.3, "idle": 0.054, "lost": 0, "boot": 0.006, "image": 0.02, "audio": 0.01, "disk": 0.03}
    assert WORKED.parts() == pytest.approx(expected)


def test_what_a_machine_that_was_taken_away_did_last_is_lost() -> None:
    parts = replace(WORKED, outbid=True).parts()
    assert parts["idle"] == 0
    assert parts["lost"] == pytest.approx(0.054)


def test_a_machine_that_was_never_heard_of_has_only_booted() -> None:
    parts = replace(WORKED, booted_s=3600, useful_s=0).parts()
    assert parts["boot"] == pytest.approx(0.36)
    assert parts["work"] == parts["idle"] == 0


@given(st.lists(machines, max_size=5))
def test_parts_add_up_and_none_is_negative(many: list[Machine]) -> None:
    total = summed(many)
    billed = sum(each.gpu_usd + each.image_usd + each.audio_usd + each.disk_usd for each in many)
    assert sum(total.values()) == pytest.approx(billed, rel=1e-9, abs=1e-9)
    assert all(usd >= -1e-9 for usd in total.values())
    assert tuple(total) == PARTS == tuple(TOLD)


def test_a_machine_that_never_ran_costs_its_disk_and_traffic() -> None:
    parts = replace(WORKED, gpu_usd=0.0, gpu_s=0.0, booted_s=0.0, useful_s=0.0).parts()
    assert sum(parts.values()) == pytest.approx(0.06)


def test_the_bill_in_the_middle_is_a_bill_that_was_paid() -> None:
    bills = [{"work": usd} for usd in (5.0, 1.0, 3.0)]
    assert middle(bills) == {"work": 3.0}
    assert middle(bills[:2]) == {"work": 1.0}


def test_shares_are_of_the_whole() -> None:
    assert shares({"work": 3.0, "boot": 1.0}) == {"work": 0.75, "boot": 0.25}
    assert shares({"work": 0.0}) == {"work": 0.0}


def test_how_slow_a_gpu_may_be() -> None:
    bill = {"work": 0.002, "disk": 0.0, "lost": 0.0, "boot": 0.001}
    part = slowest(bill, 0.005)
    assert part is not None
    assert part == pytest.approx(0.5)
    assert bill["boot"] + bill["work"] / part == pytest.approx(0.005)
    assert slowest(bill, 0.001) is None


def test_no_price_is_told_without_its_source() -> None:
    assert all(price.source and price.basis and 0 < price.least_usd <= price.most_usd for price in cost_prices.PRICES)
    rows = cost_prices.rows(0.005)
    assert next(row[0] for row in rows) == "AWS Transcribe, batch"
    assert {row[5] for row in rows} == {"seller's page", "second-hand"}
    assert rows[0][2] == 288


@pytest.mark.parametrize(
    ("least", "most", "told"), [(0.36, 0.36, "0.36"), (0.003, 0.0066, "0.003–0.0066"), (1.0, 1.5, "1.00–1.50")]
)
def test_a_price_is_written_as_it_was_found(least: float, most: float, told: str) -> None:
    assert cost_prices.span(cost_prices.Price("a", least, most, "b", "c")) == told


def test_machines_are_taken_away_beside_a_fleet_that_keeps_them() -> None:
    found = cost.plans(quick=False, model="large-v3", speed=1.0, outbids=2.0)
    for (job, kind, most), plan in found.items():
        assert plan.hours == cost.JOBS[job]
        assert (plan.outbids > 0) == (kind == cost.TAKEN)
        if kind == cost.TAKEN:
            assert replace(plan, outbids=0.0) == found[job, cost.BIDS, most]
    assert len(found) == 21
    assert all(plan.outbids == 0 for plan in cost.plans(quick=True, model="x", speed=1, outbids=2).values())


def run_of(kind: str, most: int, seed: int, usd: float) -> dict[str, object]:
    parts = dict.fromkeys(PARTS, 0.0) | {"work": usd * 80, "boot": usd * 20}
    return {
        "seed": seed, "job": "100 h", "hours": 100.0, "kind": kind, "most": most, "usd_per_audio_hour": usd,
        "usd": usd * 100, "parts": parts, "seconds": 600.0 * seed, "machines": most, "outbid": 2, "useful_share": 0.8,
        "lost_gpu_s": 60.0, "billed_gpu_s": 6000.0, "again": 3, "chunks": 6000, "gpus": {"RTX 3090": most},
    }  # fmt: skip


def test_targets_and_sentences_follow_from_the_runs() -> None:
    runs = [run_of(cost.BIDS, 4, seed, 0.002 * seed) for seed in (1, 2)]
    runs += [run_of(cost.TAKEN, 4, seed, 0.003 * seed) for seed in (1, 2)]
    found = cost.findings(runs, "large-v3", 1.0, 2.0)
    assert [target.reached for target in found.targets] == [True, None, True]
    (pair,) = found.figures["pairs"]
    assert pair["usd"] == pytest.approx((1.5, 1.5, 1.5))
    assert pair["lost"] == pytest.approx((0.01, 0.01, 0.01))
    assert any("80 % is inference" in sentence for sentence in found.shows)
    dear = cost.findings([run_of(cost.BIDS, 4, 1, 0.006)], "large-v3", 1.0, 2.0)
    assert [target.reached for target in dear.targets] == [False, None, True]
