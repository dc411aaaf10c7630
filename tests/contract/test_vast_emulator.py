"""The emulator against the real `vastai` client, and against its own specification: states, money, limits, faults."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.emulator.api import Answer, Call
from tests.emulator.contracts import GPU_BILLED, STOPPED, Unsettled
from tests.emulator.limits import GAPS_S
from tests.emulator.renting import GAP, IMAGE, client_of, error_of, rent, rented, row_of, running, some_offer
from tests.vast_emulator import (
    ProcessLauncher,
    RealClock,
    Timing,
    VastEmulator,
    VirtualClock,
    assert_invariants,
)


@pytest.fixture
def vast() -> Iterator[VastEmulator]:
    """Ten RTX 4090 of 0.40 $/h (0.20 as a bid), on ten machines; an image takes 40 s, a boot 48."""
    with VastEmulator(seed=7) as emulator:
        for _ in range(10):
            emulator.market.add("RTX 4090", dph="0.40", inet_down=800.0)
        yield emulator


@pytest.fixture
def client(vast: VastEmulator) -> Any:
    return client_of(vast)


# ---- the real client ----


def test_the_client_rents_watches_and_destroys(vast: VastEmulator, client: Any) -> None:
    offers = client.search_offers({"num_gpus": {"eq": 1}}, type="bid", order="dph_total", storage=20.0)
    assert len(offers) == 10
    made = client.create_instance(offers[0]["id"], image=IMAGE, disk=20, env={"A": "b"}, price=0.25, label="mine")
    assert made["success"] is True
    number = made["new_contract"]
    states = []
    for _ in range(7):
        listed = client.show_instances_v1({"limit": 25})
        assert listed["total_instances"] == len(listed["instances"]) == 1
        row = listed["instances"][0]
        states.append(row["actual_status"])
        assert (row["id"], row["label"], row["is_bid"], row["dph_base"]) == (number, "mine", True, 0.25)
        assert row["extra_env"] == [["A", "b"]]
        assert bool(row["ports"]) == (row["actual_status"] == "running")
        vast.advance(9)
    assert states == [None, "loading", "loading", "loading", "loading", "loading", "running"]
    assert client.show_instance(number)["extra_env"] == {"A": "b"}
    assert client.destroy_instance(number) == {"success": True}
    assert client.show_instances()[0]["id"] == number  # lists lag
    vast.advance(10)
    assert client.show_instances() == []
    assert client.show_instance(number) is None
    assert error_of(lambda: client.destroy_instance(number)) == (404, "no_such_instance")
    assert_invariants(vast, max_usd=1, max_instances=1)


def test_the_client_asks_about_the_account(vast: VastEmulator, client: Any) -> None:
    vast.switches.objects_late = 0
    number = running(vast, client, label="a")
    assert client.show_user()["credit"] == pytest.approx(100 - vast.truth().usd)
    assert client.show_env_vars() == {}
    assert client.client.post("/secrets/", json_data={"key": "TOKEN", "value": "x"}).status_code == 200
    assert list(client.show_env_vars()) == ["TOKEN"]
    assert [row["id"] for row in client.fetch_contracts(label="a")] == [number]
    assert client.fetch_contracts(label="b") == []
    assert client.logs(number, tail="1") == "container started\n"
    vast.advance(3600)
    now = int(vast.clock.now())
    (row,) = client.show_invoices_v1(charges=True, start_date=now - 86_400, end_date=now)["results"]
    assert row["source"] == f"instance-{number}"
    assert row["amount"] == pytest.approx(vast.truth().usd)
    assert sum(item["amount"] for item in row["items"]) == pytest.approx(row["amount"])
    vast.switches.charges_lag_s = 4 * 3600.0
    vast.advance(GAP)
    assert client.show_invoices_v1(charges=True, start_date=now - 86_400, end_date=now)["results"] == []


def test_the_client_changes_what_it_rented(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    assert client.label_instance(number, "other")["success"]
    vast.advance(GAP)
    assert client.stop_instance(number)["success"]
    row = row_of(vast, number)
    assert (row["label"], row["actual_status"]) == ("other", "exited")
    assert row["cur_state"] == row["intended_status"] == row["next_state"] == "stopped"
    vast.advance(GAP)
    assert client.start_instance(number)["success"]
    vast.advance(GAP)
    assert row_of(vast, number)["actual_status"] == "running"  # the image was there already
    assert client.change_bid(number, 0.3)["success"]
    assert row_of(vast, number)["dph_base"] == 0.3
    assert client.reboot_instance(number)["success"]
    assert row_of(vast, number)["actual_status"] == "rebooting"
    vast.advance(GAP)
    assert row_of(vast, number)["actual_status"] == "running"
    vast.advance(GAP)
    assert error_of(lambda: client.change_bid(number, 0.0)) == (400, "invalid_price")
    assert client.client.delete("/instances/", json_data={"instance_ids": [number]}).json() == {"success": True}
    assert vast.alive() == []


def test_lists_come_in_pages_and_filtered(vast: VastEmulator, client: Any) -> None:
    numbers = [vast.add_foreign(f"batch {index % 2}") for index in range(60)]
    pages, params = [], {"limit": 99}
    while True:
        page = client.show_instances_v1(params)
        assert page["total_instances"] == 60
        pages.append([row["id"] for row in page["instances"]])
        if not page["next_token"]:
            break
        params = {"limit": 99, "after_token": page["next_token"]}
        vast.advance(1)
    assert [len(page) for page in pages] == [25, 25, 10]
    assert [number for page in pages for number in page] == numbers
    vast.advance(1)
    some = client.show_instances_v1({"select_filters": {"label": {"eq": "batch 1"}}, "limit": 25})
    assert some["total_instances"] == 30
    vast.advance(1)
    assert error_of(lambda: client.show_instances_v1({"select_filters": {"dph_total": {"lt": 1}}}))[0] == 400
    assert error_of(lambda: client.client.get("/instances/").raise_for_status()) == (410, "deprecated_endpoint")


# ---- offers ----


def test_prices_of_offers_obey_the_identity(vast: VastEmulator, client: Any) -> None:
    for kind, base in (("on-demand", 0.40), ("bid", 0.20)):
        for offer in client.search_offers({}, type=kind, order="dph_total", storage=30.0):
            assert offer["dph_base"] == base
            assert offer["storage_total_cost"] == pytest.approx(offer["storage_cost"] * 30 / 720)
            assert offer["dph_total"] == pytest.approx(offer["dph_base"] + offer["storage_total_cost"])


def test_searches_filter_order_and_cut(client: Any, vast: VastEmulator) -> None:
    vast.market.populate(120)
    all_rows = client.search_offers({}, order="dph_total", no_default=True)
    assert len(all_rows) == 64
    assert [row["dph_total"] for row in all_rows] == sorted(row["dph_total"] for row in all_rows)
    some = client.search_offers({"gpu_name": {"in": ["RTX 3090"]}, "dph_total": {"lte": 0.25}}, order="dph_total-")
    assert some
    assert all(row["gpu_name"] == "RTX 3090" and row["dph_total"] <= 0.25 for row in some)
    assert [row["dph_total"] for row in some] == sorted((row["dph_total"] for row in some), reverse=True)
    text = client.search_offers("gpu_name=RTX_4090 num_gpus=1 gpu_ram>=20", order="dph_total", limit=5)
    assert len(text) == 5
    assert {row["gpu_name"] for row in text} == {"RTX 4090"}
    vast.market.add("RTX 4090", verified=False, reliability=0.5)
    assert all(row["verification"] == "verified" for row in client.search_offers({}))
    vast.market.numeric_filters = False
    assert any(row["dph_total"] > 0.1 for row in client.search_offers({"dph_total": {"lt": 0.01}}))


def test_an_offer_makes_one_instance_and_comes_back_with_another_id(vast: VastEmulator, client: Any) -> None:
    offer = some_offer(vast)
    number = rented(vast, client, id=offer)
    vast.advance(GAP)
    assert error_of(lambda: rent(vast, client, id=offer)) == (410, "no_such_ask")
    slot = vast.contract(number).slot
    assert slot.ask_id is None
    client.destroy_instance(number)
    assert slot.ask_id not in (None, offer)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"image": ""}, "invalid_args"),
        ({"image": "i" * 1_025}, "invalid_args"),
        ({"label": "l" * 257}, "invalid_args"),
        ({"disk": 7}, "invalid_args"),
        ({"price": 0.0001}, "invalid_price"),
        ({"env": {"A": "v" * 257}}, "invalid_args"),
        ({"env": {f"A{i}": "v" * 250 for i in range(140)}}, "invalid_args"),
        ({"args": ["a" * 4_097]}, "invalid_args"),
    ],
)
def test_orders_beyond_the_documented_limits_are_refused(
    vast: VastEmulator, client: Any, changes: dict[str, Any], error: str
) -> None:
    assert error_of(lambda: rent(vast, client, **changes)) == (400, error)
    assert vast.alive() == []


def test_an_on_demand_rent_costs_the_full_price(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client, price=None)
    assert (row_of(vast, number)["is_bid"], row_of(vast, number)["dph_base"]) == (False, 0.4)


def test_a_market_with_a_seed_moves_the_same_way_twice() -> None:
    def prices() -> list[tuple[Decimal, int | None]]:
        with VastEmulator(seed=3, price_walk=0.05, rival_rents_per_hour=40) as emulator:
            emulator.market.populate(30)
            emulator.advance(3_600)
            return [(slot.machine.dph, slot.ask_id) for slot in emulator.market.all_slots()]

    first = prices()
    assert first == prices()
    assert len([ask for _, ask in first if ask is None]) > 5
    assert any(ask is not None and ask > 5_000_050 for _, ask in first), "what rivals give back has another id"


# ---- states ----


def test_a_boot_takes_what_its_parts_take(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    contract = vast.contract(number)
    start = contract.created_at
    assert [(at - start, state) for at, state in contract.history] == [
        (0, None),
        (3, "created"),
        (8, "loading"),
        (48, "running"),
    ]


def test_an_outbid_instance_stops_without_notice_and_resumes_by_itself(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.preempt(number, resume_after=300)
    row = row_of(vast, number)
    assert row["cur_state"] == row["intended_status"] == row["next_state"] == "stopped"
    assert (row["actual_status"], row["is_bid"]) == ("exited", True)
    assert row["min_bid"] > 0.25
    vast.advance(250)
    assert row_of(vast, number)["actual_status"] == "exited"
    vast.advance(100)
    assert row_of(vast, number)["actual_status"] == "running"


def test_a_higher_bid_wins_the_gpu_back(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.preempt(number)
    client.change_bid(number, 0.2501)
    vast.advance(20)
    assert row_of(vast, number)["actual_status"] == "running"


def test_what_is_stopped_while_it_boots_does_not_run_later(vast: VastEmulator, client: Any) -> None:
    stopped, outbid = rented(vast, client), rented(vast, client)
    for number in (stopped, outbid):
        assert vast.contract(number).actual in ("created", "loading", None)
    client.stop_instance(stopped)
    vast.preempt(outbid)
    vast.advance(3_600)
    assert [vast.contract(number).actual for number in (stopped, outbid)] == ["exited", "exited"]


def test_a_bid_that_loses_stays_stopped_and_a_lower_one_stops(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.preempt(number)
    client.change_bid(number, 0.24)
    vast.advance(600)
    assert row_of(vast, number)["actual_status"] == "exited"
    other = running(vast, client)
    client.change_bid(other, 0.15)
    vast.advance(600)
    assert row_of(vast, other)["cur_state"] == "stopped"
    client.change_bid(other, 0.25)
    vast.advance(600)
    assert row_of(vast, other)["actual_status"] == "running"


def test_an_on_demand_rival_is_not_outbid(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.preempt(number, on_demand=True)
    client.change_bid(number, 10.0)
    vast.advance(600)
    assert row_of(vast, number)["actual_status"] == "exited"
    assert vast.contract(number).slot.ask_id is None


def test_a_start_on_a_full_machine_is_queued_until_it_is_cancelled(vast: VastEmulator, client: Any) -> None:
    first, second = running(vast, client), running(vast, client)
    for number in (first, second):
        vast.advance(GAP)
        client.stop_instance(number)
        vast.world.rival_rents(vast.contract(number).slot, leaves_after=600)
        vast.advance(GAP)
        answer = client.start_instance(number)
        assert (answer["success"], answer["error"]) == (False, "resources_unavailable")
    vast.advance(GAP)
    client.stop_instance(second)
    vast.advance(700)
    assert [vast.contract(number).actual for number in (first, second)] == ["running", "exited"]


def test_a_dead_host_is_unknown_then_offline_then_perhaps_back(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    machine = vast.contract(number).machine
    vast.kill_host(machine.id, back_after=900)
    assert row_of(vast, number)["actual_status"] == "unknown"
    vast.advance(61)
    assert row_of(vast, number)["actual_status"] == "offline"
    before = vast.truth().exact
    vast.advance(800)
    assert vast.truth().exact == before, "offline costs nothing"
    vast.advance(60)
    assert row_of(vast, number)["actual_status"] == "running"


def test_a_contract_that_ends_stops_and_is_gone_after_two_days(vast: VastEmulator, client: Any) -> None:
    vast.faults.add("F17", ends_in_s=600)
    number = running(vast, client)
    vast.advance(600)
    assert row_of(vast, number)["cur_state"] == "stopped"
    vast.advance(48 * 3600)
    assert vast.alive() == []


def test_without_credit_everything_stops_and_nothing_is_rented(client: Any, vast: VastEmulator) -> None:
    number = running(vast, client)
    vast.world.pay_in(Decimal("-99.9"))
    hours = vast.world.credit_left() / Fraction("0.2541666")
    vast.advance(float(hours) * 3600 - 60)
    assert vast.contract(number).actual == "running"
    vast.advance(120)
    assert row_of(vast, number)["cur_state"] == "stopped"
    assert abs(client.show_user()["credit"]) < 0.001
    assert error_of(lambda: rent(vast, client)) == (400, "insufficient_credit")


def test_a_program_that_ends_leaves_an_exited_instance(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.worker_exited(number, 3)
    row = row_of(vast, number)
    assert (row["actual_status"], row["cur_state"], row["intended_status"]) == ("exited", "running", "running")


def test_what_is_not_settled_can_be_switched(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client, disk=72.0)
    vast.world.unsettled.stopped_status = "stopped"
    vast.world.unsettled.stopped_storage_factor = Decimal(1)
    vast.world.unsettled.exited_bills_gpu = True
    vast.worker_exited(number)
    before = vast.truth().exact
    vast.advance(3600)
    assert vast.truth().exact - before == Fraction("0.265")
    client.stop_instance(number)
    assert row_of(vast, number)["actual_status"] == "stopped"
    before = vast.truth().exact
    vast.advance(3600)
    assert vast.truth().exact - before == Fraction("0.015")


def test_offers_may_be_of_several_gpus(vast: VastEmulator, client: Any) -> None:
    vast.market.add("H100 SXM", num_gpus=8, dph="16")
    (offer,) = client.search_offers({"num_gpus": {"gt": 1}})
    assert (offer["num_gpus"], offer["dph_base"], offer["gpu_total_ram"]) == (8, 16.0, 8 * offer["gpu_ram"])
    assert row_of(vast, rented(vast, client, id=offer["id"], price=9.0))["num_gpus"] == 8


# ---- money ----

EVENTS = ("rent", "stop", "start", "preempt", "lent", "host", "host back", "exit", "bid", "destroy")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 2), st.integers(1, 60)), max_size=12))
def test_the_money_is_what_a_meter_reads_that_looks_every_second(events: list[tuple[str, int, int]]) -> None:
    """A second sum, from the rows that the API shows, by the rules of the price list."""
    emulator = VastEmulator()
    for dph in ("0.40", "0.31", "0.17"):
        emulator.market.add(dph=dph, min_bid="0.1", inet_down=3_200.0)
    metered = Fraction(0)
    for event, which, seconds in [("rent", 0, 20), *events]:
        apply_event(emulator, event, which)
        for _ in range(seconds):
            metered += sum(map(rate_by_hand, emulator.alive()), Fraction(0)) / 3600
            emulator.advance(1)
    truth = emulator.truth()
    assert truth.exact == metered
    assert truth.usd == pytest.approx(sum(each.usd for each in truth.instances.values()))
    assert truth.usd == pytest.approx(sum(truth.by_state.values()))
    for each in truth.instances.values():
        assert each.usd == pytest.approx(each.gpu_usd + each.storage_usd + each.traffic_usd)


def apply_event(emulator: VastEmulator, event: str, which: int) -> None:
    from tests.emulator.world import Rental

    if event == "rent":
        free = [slot for slot in emulator.market.all_slots() if slot.ask_id is not None and slot.machine.online]
        price = None if which == 0 else Decimal("0.15")
        if free:
            rental = Rental("wf1:t:0:z", IMAGE, "args", None, (), {}, 20.0, price, False)
            emulator.world.create(free[which % len(free)], rental)
        return
    alive = emulator.alive()
    if not alive:
        return
    contract = alive[which % len(alive)]
    world = emulator.world
    actions: dict[str, Callable[[], Any]] = {
        "stop": lambda: world.stop(contract),
        "start": lambda: world.start(contract),
        "preempt": lambda: emulator.preempt(contract.id),
        "lent": lambda: emulator.preempt(contract.id, resume_after=20),
        "host": lambda: emulator.kill_host(contract.machine.id),
        "host back": lambda: emulator.kill_host(contract.machine.id, back_after=30),
        "exit": lambda: emulator.worker_exited(contract.id),
        "bid": lambda: world.change_bid(contract, contract.price + Decimal("0.07")),
        "destroy": lambda: world.destroy(contract),
    }
    actions[event]()


def rate_by_hand(contract: Any) -> Fraction:
    row = contract.row(0.0, 0.0, Unsettled())
    state = row["actual_status"]
    if state == "offline":
        return Fraction(0)
    storage = Fraction(str(row["storage_cost"])) * int(row["disk_space"]) / 720
    if row["cur_state"] == "stopped" or state in STOPPED:
        storage *= Fraction("1.25")
    gpu = Fraction(str(row["dph_base"])) if state in GPU_BILLED else Fraction(0)
    # 4 GB at 3,200 Mbit/s are ten seconds
    pull = Fraction(4, 10) * 3600 * Fraction(str(row["inet_down_cost"])) if state == "loading" else Fraction(0)
    if state == "loading" and contract.image_cached:
        pull = Fraction(0)
    return gpu + storage + pull


def test_traffic_and_use_of_a_worker_are_counted(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    before = vast.truth()
    vast.traffic(number, down_bytes=2 * 10**9, up_bytes=10**9)
    assert float(vast.truth().exact - before.exact) == pytest.approx(0.009)
    vast.advance(100)
    vast.useful(number, 80)
    assert vast.truth().usd_after_last_useful == 0
    vast.advance(3600)
    truth = vast.truth()
    assert truth.usd_after_last_useful == pytest.approx(0.25 + 0.15 * 20 / 720)
    assert truth.useful_share == pytest.approx(80 / (100 + 12 + 3600))


# ---- keys ----


def test_keys_open_what_they_are_for(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    other = running(vast, client)
    reader = client_of(vast, vast.add_key("reader", {"instance_read"}))
    assert reader.show_instances_v1({"limit": 25})["total_instances"] == 2
    assert error_of(lambda: reader.destroy_instance(number)) == (403, "forbidden")
    own = client_of(vast, vast.contract(number).key)
    assert error_of(lambda: own.show_instances_v1({})) == (403, "forbidden")
    assert error_of(lambda: own.destroy_instance(other)) == (403, "forbidden")
    assert error_of(lambda: own.label_instance(number, "x")) == (403, "forbidden")
    vast.advance(GAP)
    assert own.stop_instance(number)["success"]
    assert own.destroy_instance(number)["success"]
    wrong = client_of(vast, "no such key")
    assert error_of(lambda: wrong.show_user()) == (404, "auth_error")
    vast.switches.bad_key_status = 401
    assert error_of(lambda: wrong.show_user()) == (401, "auth_error")
    vast.revoke_key()
    assert error_of(lambda: client.show_user()) == (401, "auth_error")


# ---- limits ----


@pytest.mark.parametrize("endpoint", ["create", "bid", "destroy", "show", "list", "charges", "state", "reboot"])
def test_a_call_too_early_is_refused_and_counted(vast: VastEmulator, client: Any, endpoint: str) -> None:
    number = running(vast, client)
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: client.client.put("/asks/1/", json_data={"image": IMAGE}),
        "bid": lambda: client.client.put(f"/instances/bid_price/{number}/", json_data={"price": 0.5}),
        "destroy": lambda: client.client.delete("/instances/1/"),
        "show": lambda: client.client.get(f"/instances/{number}/"),
        "list": lambda: client.client.get("/api/v1/instances/"),
        "charges": lambda: client.client.get("/charges/"),
        "state": lambda: client.client.put(f"/instances/{number}/", json_data={"label": "x"}),
        "reboot": lambda: client.client.put(f"/instances/reboot/{number}/"),
    }
    call, gap = calls[endpoint], GAPS_S[endpoint]
    vast.advance(GAP)
    assert call().status_code != 429
    vast.advance(gap)
    assert call().status_code != 429
    assert vast.truth().violations == ()
    vast.advance(gap - 0.2)
    early = call()
    assert early.status_code == 429
    assert "too frequent" in early.text
    assert early.headers["Content-Type"].startswith("text/plain")
    assert [each[1:] for each in vast.truth().violations] == [(endpoint, "account")]
    vast.advance(gap)
    again = call()
    if endpoint == "create":
        assert again.status_code == 429, "a create that came too early is held off for longer"
        vast.advance(12)
        again = call()
    assert again.status_code != 429


def test_ten_searches_a_minute_and_each_key_for_itself(vast: VastEmulator, client: Any) -> None:
    for _ in range(10):
        client.search_offers({})
    with pytest.raises(requests.HTTPError, match="429"):
        client.search_offers({})
    assert client_of(vast, vast.add_key("other")).search_offers({})
    vast.advance(60)
    assert client.search_offers({})
    assert len(vast.truth().violations) == 1


def test_only_counting_lets_early_calls_pass(vast: VastEmulator, client: Any) -> None:
    vast.switches.enforce_gaps = False
    for _ in range(3):
        client.show_instances_v1({})
    assert len(vast.truth().violations) == 2


# ---- control over http, clocks, processes ----


def test_another_process_can_control_it(vast: VastEmulator) -> None:
    def post(path: str, **data: Any) -> Any:
        return requests.post(f"{vast.url}/_emu/{path}", json=data, timeout=10).json()

    number = running(vast, client_of(vast))
    start = vast.clock.now()
    assert post("clock/advance", seconds=50)["now"] == start + 50
    post("market", machines=[{"gpu_name": "RTX 3060", "dph": 0.1}])
    assert any(machine.gpu_name == "RTX 3060" for machine in vast.market.machines.values())
    post("fault", id="F1", endpoint="user")
    assert requests.get(f"{vast.url}/api/v0/users/current", timeout=10).status_code == 429
    post(f"preempt/{number}")
    assert vast.contract(number).actual == "exited"
    post(f"kill_host/{vast.contract(number).machine.id}")
    assert vast.contract(number).actual == "unknown"
    ledger = post("ledger")
    assert ledger["usd"] == pytest.approx(vast.truth().usd)
    assert any(call["endpoint"] == "create" for call in post("requests"))
    assert vast.account_key not in json.dumps(post("requests"))


def test_a_virtual_clock_runs_what_falls_due_in_order() -> None:
    clock = VirtualClock(0.0)
    seen: list[tuple[str, float]] = []

    def again() -> None:
        seen.append(("again", clock.now()))
        if clock.now() < 30:
            clock.call_at(clock.now() + 10, again)

    clock.call_at(10, again)
    clock.call_at(25, lambda: seen.append(("once", clock.now())))
    clock.sleep(24)
    assert seen == [("again", 10), ("again", 20)]
    clock.advance(76)
    assert seen[2:] == [("once", 25), ("again", 30)]
    assert clock.now() == 100
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_a_real_clock_goes_faster_and_raises_what_went_wrong() -> None:
    done = threading.Event()
    with RealClock(speed=1_000) as clock:
        start = clock.now()
        clock.call_at(start + 60, done.set)
        clock.sleep(100)
        assert done.wait(5)
        assert clock.now() - start >= 100

    def wrong() -> None:
        raise LookupError("on purpose")

    def use() -> None:
        with RealClock(speed=1_000) as clock:
            clock.call_at(clock.now(), wrong)
            clock.sleep(100)

    with pytest.raises(LookupError, match="on purpose"):
        use()


PROGRAM = """
import os, subprocess, sys, time
if os.environ["ROLE"] == "ends":
    sys.exit(7)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("CONTAINER", os.environ["CONTAINER_ID"], "CHILD", child.pid, "SECRET", os.environ["SHARED"], flush=True)
if os.environ["ROLE"] == "destroys itself":
    import urllib.request
    url = os.environ["URL"] + "/api/v0/instances/" + os.environ["CONTAINER_ID"] + "/"
    headers = {"Authorization": "Bearer " + os.environ["CONTAINER_API_KEY"]}
    urllib.request.urlopen(urllib.request.Request(url, method="DELETE", headers=headers))
time.sleep(600)
"""


def test_instances_run_real_programs_that_are_killed_with_all_their_children(tmp_path: Path) -> None:
    launcher = ProcessLauncher(lambda container: [sys.executable, "-c", PROGRAM], tmp_path)
    timing = Timing(scale=0.001)
    with VastEmulator(clock=RealClock(), timing=timing, launch=launcher) as vast:
        vast.switches.enforce_gaps = False
        vast.world.account_environment["SHARED"] = "everywhere"
        client = client_of(vast)
        numbers = {}
        for role in ("stays", "ends", "destroys itself"):
            vast.market.add()
            order = {"image": IMAGE, "disk": 8, "env": {"ROLE": role, "URL": vast.url}, "price": 0.5}
            numbers[role] = client.create_instance(some_offer(vast), **order)["new_contract"]
        stays, destroyed = numbers["stays"], numbers["destroys itself"]
        wait_for(lambda: vast.contract(numbers["ends"]).actual == "exited")
        assert vast.contract(numbers["ends"]).log[-1] == "container ended with 7"
        wait_for(lambda: not vast.contract(destroyed).alive)
        wait_for(lambda: "SECRET everywhere" in launcher.log(stays))
        child = int(launcher.log(stays).split()[3])
        assert is_running(child)
        vast.preempt(stays)
        wait_for(lambda: not is_running(child))
        assert vast.contract(stays).actual == "exited"
    assert sorted(launcher.started) == sorted(numbers.values())


def wait_for(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(1_000):
        if condition():
            return
        waiting.wait(0.02)
    pytest.fail("it did not happen")


def is_running(pid: int) -> bool:
    """Not where it is gone or only its exit code is left to be read."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_breaks_in_the_emulator_itself_fails_the_test() -> None:
    def use() -> None:
        with VastEmulator() as vast:
            vast.api.before = broken
            assert requests.get(f"{vast.url}/api/v0/users/current", timeout=10).status_code == 500

    with pytest.raises(ZeroDivisionError):
        use()


def broken(call: Call) -> Answer:
    raise ZeroDivisionError
