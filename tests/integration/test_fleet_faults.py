"""The controller against everything that goes wrong with a market, F1 to F17: nothing leaks, and the bill is right.

The real controller and the real vastai client, a market that is emulated down to the last fraction of a dollar, and a
virtual clock. After each scenario hold the invariants of `Fleet.check`. `pytest -s` prints the table of all of them.
"""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from provisioning.cloud import CloudRefused
from provisioning.ledger import FleetTaken, Ledger, Wish, database
from provisioning.reconcile import BUSY_TICK_S, Controller, interruptible
from provisioning.status import still_alive
from tests.support.fleet import HEAD, LIMITS, Fleet, Row, summed
from tests.vast_emulator import Timing

pytestmark = pytest.mark.integration

WORK = (80, 1_500.0)  # three machines have it for two minutes
SLOWLY: dict[str, Any] = {"rtfx": 70.0}  # then for ten minutes, and none of them is ever too many


@pytest.fixture(scope="module")
def table() -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    order = sorted(rows, key=lambda row: (int(row.fault[1:]), row.what))
    print("\n".join(["", HEAD, *(row.text() for row in order)]))


@dataclass(frozen=True)
class Scenario:
    """disturb gives the rule of the fault, which must have fired by the end. see: what must hold besides the rest."""

    fault: str
    what: str
    disturb: Callable[[Fleet], Any]
    see: Callable[[Fleet], None] = lambda world: None
    world: dict[str, Any] = field(default_factory=dict)
    work: tuple[int, float] = WORK


def fault(name: str, **options: Any) -> Callable[[Fleet], Any]:
    return lambda world: world.vast.faults.add(name, **options)


def all_taken(world: Fleet) -> Any:
    world.at(180, lambda: [world.vast.market.add("RTX 3090", dph="0.2") for _ in range(5)])
    return world.vast.faults.add("F2", all_gone=True)


def gateway_ahead(seconds: float) -> Callable[[Fleet], Any]:
    return lambda world: setattr(world.gateway, "ahead_s", seconds)


# ---- what else must hold ----


LOST = ("exited", "stopped", "offline", "unknown")


def contracts_of_ours(world: Fleet) -> dict[str, list[Any]]:
    """By label."""
    found: dict[str, list[Any]] = {}
    for contract in world.vast.world.contracts.values():
        if not contract.foreign:
            found.setdefault(contract.label, []).append(contract)
    return found


def no_more_machines_than_wanted(world: Fleet, wanted: int = LIMITS.max_instances) -> None:
    """Over the whole life: what nobody knew to be rented was not rented once more."""
    made = contracts_of_ours(world).values()
    assert all(len(each) == 1 for each in made)
    assert len(made) <= wanted


def five_offers_a_slot(world: Fleet) -> None:
    """No tick asks for more than three machines here."""
    created = [call for call in world.vast.calls if call.endpoint == "create"]
    for first in created:
        assert sum(first.at <= call.at < first.at + 10 for call in created) <= 3 * 5
    assert len(created) <= 3 * 5


def stopped_ones_end_at_once(world: Fleet) -> None:
    """Two ticks, and the time that a tick's own calls take."""
    for (contract,) in contracts_of_ours(world).values():
        stopped = [at for at, actual in contract.history if actual in ("exited", "stopped")]
        if stopped:
            assert contract.destroyed_at - stopped[0] <= 45


def hosts_are_struck(world: Fleet) -> None:
    spoilt = [made[0] for made in contracts_of_ours(world).values() if made[0].fate.flaw or made[0].fate.stuck]
    with Ledger(world.database) as ledger:
        struck = {strike.machine_id for strike in ledger.strikes(0)}
    assert spoilt
    assert {contract.machine.id for contract in spoilt} <= struck


def slow_boots_are_waited_for(world: Fleet) -> None:
    slow = [made[0] for made in contracts_of_ours(world).values() if made[0].fate.stuck == "slow"]
    assert slow
    assert all("running" in [actual for _, actual in contract.history] for contract in slow)


def little_is_done_again(world: Fleet) -> None:
    """A worker holds one chunk: so many are lost as workers were, and in no other way."""
    gone = [each for (each,) in contracts_of_ours(world).values() if any(to in LOST for _, to in each.history)]
    assert sum(chunk.lost for chunk in world.gateway.chunks) <= len(gone)


def most_of_the_bill_is_work(world: Fleet) -> None:
    little_is_done_again(world)
    assert world.vast.truth().useful_share >= 0.7


def it_came_back_and_went_all_the_same(world: Fleet) -> None:
    little_is_done_again(world)
    states = [[to for _, to in each.history] for (each,) in contracts_of_ours(world).values()]
    assert any("offline" in each and "running" in each[each.index("offline") :] for each in states), states


def none_is_kept_above_the_cap(world: Fleet) -> None:
    for (contract,) in contracts_of_ours(world).values():
        storage = float(contract.machine.storage_cost) * contract.disk_gb / 720
        if float(contract.price) + storage > world.limits.max_price:
            assert contract.destroyed_at - contract.created_at <= 45


def none_outlives_its_contract(world: Fleet) -> None:
    for (contract,) in contracts_of_ours(world).values():
        assert contract.destroyed_at <= contract.ends_at + 30


SCENARIOS = [
    Scenario("F0", "nothing goes wrong", lambda world: None, most_of_the_bill_is_work, SLOWLY),
    *(
        Scenario("F1", f"{endpoint} answers 429 ({style})", fault("F1", endpoint=endpoint, style=style))
        for endpoint, style in (
            ("search", "text"), ("search", "retry-after-90"), ("create", "json"), ("create", "retry-after-90"),
            ("list", "retry-after-1"), ("list", "retry-after-90"), ("destroy", "text"), ("destroy", "retry-after-90"),
        )
    ),
    *(
        Scenario("F2", f"offer taken, told as {status}", fault("F2", status=status, count=4), five_offers_a_slot)
        for status in (410, 404, 400)
    ),
    Scenario(
        "F2",
        "all offers taken, new ones after 3 minutes",
        all_taken,
    ),
    *(
        Scenario(
            "F3", f"answer to a create lost ({how}), listed after {shown} s",
            fault("F3", how=how, shown_after_s=float(shown), count=2), no_more_machines_than_wanted,
        )
        for how, shown in (
            ("hang", 0), ("hang", 90), ("rst", 0), ("rst", 30), ("rst", 90),
            ("502", 90), ("504", 30), ("empty400", 90), ("empty200", 0),
        )
    ),
    Scenario("F4", "bid too low: refused, and made stopped", fault("F4", count=2), stopped_ones_end_at_once),
    Scenario("F5", "on demand, lands stopped", fault("F5", count=2), stopped_ones_end_at_once,
             {"limits": replace(LIMITS, interruptible=False)}),
    Scenario("F5", "lands stopped and starts by itself", fault("F5", starts_after_s=25.0, count=2)),
    *(
        Scenario("F6", f"boot never ends ({kind})", fault("F6", kind=kind), hosts_are_struck, world, work)
        for kind, world, work in (
            ("null", SLOWLY, (120, 1_500.0)), ("oci", {}, WORK), ("cuda", {}, WORK), ("image", {}, WORK),
            ("loading", SLOWLY, (240, 1_500.0)),
        )
    ),
    Scenario("F6", "slow boot that does end", fault("F6", kind="slow"), slow_boots_are_waited_for, SLOWLY),
    *(
        Scenario("F7", f"worker of no use ({kind})", fault("F7", kind=kind), hosts_are_struck, world)
        for kind, world in (("silent", SLOWLY), ("bad_cuda", {}), ("wrong", {}))
    ),
    Scenario("F7", "worker of no use (10 times slower than others)", fault("F7", kind="slow", nth=2), hosts_are_struck),
    *(
        Scenario("F8", f"outbid: {who}", fault("F8", who=who, after_s=100.0), stopped_ones_end_at_once)
        for who in ("one", "half", "all", "flap")
    ),
    Scenario("F8", "outbid: all, twice", lambda world: (
        world.vast.faults.add("F8", who="all", after_s=100.0), world.vast.faults.add("F8", who="all", after_s=300.0)
    )[1], stopped_ones_end_at_once, SLOWLY),
    Scenario("F9", "host dies, returns after 2 minutes", fault("F9", after_s=100.0, back_after_s=120.0)),
    Scenario("F9", "host dies for good", fault("F9", after_s=100.0, back_after_s=None), little_is_done_again),
    Scenario("F9", "host dies, cannot be destroyed, returns after 2 minutes", lambda world: (
        world.vast.faults.add("F12", how="500", count=10),
        world.vast.faults.add("F9", after_s=100.0, back_after_s=120.0),
    )[-1], it_came_back_and_went_all_the_same, SLOWLY),
    *(
        Scenario("F10", f"no API for 5 minutes ({how}), from {after:.0f} s on",
                 fault("F10", how=how, seconds=300.0, after_s=after))
        for how, after in (
            ("refused", 0.0), ("refused", 100.0), ("503", 8.0), ("503", 100.0), ("503", 150.0), ("hang", 8.0),
            ("hang", 150.0),
        )
    ),
    *(
        Scenario("F11", f"lists lie ({how})", fault("F11", how=how, nth=4, count=6))
        for how in ("empty", "html", "410", "missing", "zero", "null_start")
    ),
    Scenario("F11", "lists show none for 5 minutes", fault("F11", how="zero", nth=8, count=30), world=SLOWLY),
    Scenario(
        "F11", "60 other instances on three pages, and page 2 fails",
        lambda world: (world.vast.faults.add("F11", how="many"), world.vast.faults.add("F11", how="page2", count=6))[1],
    ),
    *(
        Scenario("F12", f"destroy is not done, told as {how}", fault("F12", how=how, count=4))
        for how in ("false", "500", "auth", "alive")
    ),
    Scenario("F14", "others in the same account", fault("F14", count=9)),
    Scenario("F15", "price tripled after the search, bids", fault("F15", count=2), none_is_kept_above_the_cap),
    Scenario("F15", "price tripled after the search, on demand", fault("F15", count=2),
             none_is_kept_above_the_cap, SLOWLY | {"limits": replace(LIMITS, interruptible=False)}),
    *(
        Scenario("F17", f"the market's clock is {skew:+.0f} s off", fault("F17", skew_s=skew))
        for skew in (600.0, -600.0)
    ),
    *(
        Scenario("F17", f"the controller's clock is {skew:+.0f} s off", lambda world: None, world={"ahead_s": skew})
        for skew in (600.0, -600.0)
    ),
    *(
        Scenario("F17", f"the gateway's clock is {skew:+.0f} s off", gateway_ahead(skew))
        for skew in (600.0, -600.0)
    ),
    Scenario("F17", "contracts end after 10 minutes", fault("F17", ends_in_s=600.0, count=3),
             none_outlives_its_contract, SLOWLY),
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: f"{each.fault} {each.what}")
def test_a_fleet_comes_to_its_end_whatever_happens(scenario: Scenario, tmp_path: Path, table: list[Row]) -> None:
    with Fleet(tmp_path, **scenario.world) as world:
        world.gateway.put(*scenario.work)
        rule = scenario.disturb(world)
        world.run()
        table.append(world.check(scenario.fault, scenario.what))
        assert rule is None or rule.fired > 0, "the fault never came"
        scenario.see(world)


# ---- F10: nothing answers for longer than machines may live ----


def test_machines_end_by_themselves_while_nobody_can_reach_the_market(tmp_path: Path, table: list[Row]) -> None:
    limits = replace(LIMITS, ttl_s=1_500.0)
    with Fleet(tmp_path, limits=limits, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.vast.faults.add("F10", how="503", after_s=200.0, seconds=1_800.0)
        world.run()
        table.append(world.check("F10", "no API for 30 minutes, lives of 25"))


# ---- F13: the controller dies at every step ----

LISTED_LATE = Timing(listed_after_s=90.0)  # the next controller's first list lacks what the one before rented last
SHORT_LIVED = replace(LIMITS, ttl_s=900.0)


def a_life(world: Fleet) -> Callable[[Controller], None]:
    """Rent one, lose it to a higher bid and find another, then destroy all."""

    def live(controller: Controller) -> None:
        controller.up(1)
        world.clock.advance(120)  # by then lists show it, and it works
        controller.tick()
        world.vast.faults.add("F8", who="one")
        world.clock.advance(10)
        controller.up(1)
        controller.down()

    return live


def a_refused_life(world: Fleet) -> Callable[[Controller], None]:
    """Be refused a machine that is made all the same."""

    def live(controller: Controller) -> None:
        world.vast.faults.add("F4")
        controller.tick()

    return live


def by_a_controller(world: Fleet) -> float:
    with Ledger(world.database) as ledger, world.controller(ledger) as controller:
        return controller.down().spent_usd


def by_a_controller_that_knows_nothing(world: Fleet) -> float:
    world.lose_database()
    by_a_controller(world)
    return world.vast.truth().usd  # what was spent before is lost history


def test_down_without_a_database_waits_for_what_lists_do_not_show_yet(tmp_path: Path, table: list[Row]) -> None:
    with Fleet(tmp_path, limits=SHORT_LIVED, timing=LISTED_LATE) as world:
        world.gateway.put(*WORK)
        assert world.crash(5, lambda controller: controller.up(3))
        assert world.ours()
        by_a_controller_that_knows_nothing(world)
        spent = world.vast.truth().usd
        table.append(world.check("F13", "killed, database lost, lists 90 s late", reported=spent, chunks=False))


def by_cron_elsewhere(world: Fleet) -> float:
    """When their time is over; their own end has failed, or never was."""
    world.clock.advance(SHORT_LIVED.ttl_s)
    assert world.reap().left == ()
    return world.vast.truth().usd


@pytest.mark.parametrize(
    ("what", "converge"),
    [
        ("a fresh controller", by_a_controller),
        ("a fresh controller, database deleted", by_a_controller_that_knows_nothing),
        ("`reap` elsewhere, no database", by_cron_elsewhere),
    ],
)
def test_whoever_comes_after_a_killed_controller_leaves_nothing(
    what: str, converge: Callable[[Fleet], float], tmp_path: Path, table: list[Row]
) -> None:
    rows = []
    for life in (a_life, a_refused_life):
        for step in itertools.count(1):
            with Fleet(
                tmp_path / f"{life.__name__}{step}",
                limits=SHORT_LIVED,
                timing=LISTED_LATE,
                workers=converge is not by_cron_elsewhere,
                usd_per_gb="0",  # of a machine that is first listed as stopped nobody knows whether it pulled its image
            ) as world:
                world.gateway.put(20, 600.0)
                if not world.crash(step, life(world)):
                    break
                rows.append(world.check("F13", what, reported=converge(world), chunks=False))
                assert max(chunk.results for chunk in world.gateway.chunks) <= 1
                no_more_machines_than_wanted(
                    world, 4
                )  # one that was refused, one that was outbid, and those in their place
    assert len(rows) > 20
    table.append(summed(rows, f"killed at each of {len(rows)} steps: {what}"))


@pytest.mark.parametrize("lost", [False, True], ids=["database kept", "database deleted"])
def test_a_fleet_goes_on_where_a_killed_controller_left_it(lost: bool, tmp_path: Path, table: list[Row]) -> None:
    """The next controller takes the machines over, and every chunk is done once."""
    rows = []
    for seconds in (5, 35, 90, 140):
        with Fleet(tmp_path / str(seconds)) as world:
            world.gateway.put(*WORK)
            world.at(seconds, world.kill)
            assert world.crash(None, lambda controller: controller.run(until_idle=True))
            world.clock.advance(25)
            if lost:
                world.lose_database()
            world.run()
            spent = world.vast.truth().usd if lost else None
            rows.append(world.check("F13", "", reported=spent))
            no_more_machines_than_wanted(world)
    how = "deleted" if lost else "kept"
    table.append(summed(rows, f"killed at {len(rows)} moments, the next one finishes, database {how}"))


def test_what_ran_while_no_controller_looked_is_billed_all_the_same(tmp_path: Path, table: list[Row]) -> None:
    """Booted, worked and outbid, all between the death of one controller and the start of the next."""
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        assert world.crash(8, lambda controller: controller.up(3))
        world.vast.faults.add("F8", who="all", after_s=980.0)
        world.clock.advance(1_000)
        world.run()
        table.append(world.check("F13", "killed, and 17 minutes later all were outbid"))


@pytest.mark.parametrize("killed_s", [600, 3_000])
def test_a_controller_that_never_comes_back_keeps_to_the_budget(
    killed_s: int, tmp_path: Path, table: list[Row]
) -> None:
    """The gateway and Conductor live on, and work would be there for many hours: the gateway ends the machines."""
    limits = replace(LIMITS, max_usd=0.5, ttl_s=6 * 3_600.0)
    with Fleet(tmp_path, limits=limits, rtfx=20.0) as world:
        world.gateway.put(2_000, 1_500.0)
        world.at(killed_s, world.kill)
        assert world.crash(None, lambda controller: controller.run())
        assert len(world.ours()) == 3
        world.clock.advance(20 * 60)
        assert world.ours() == []
        spent = world.vast.truth().usd
        table.append(world.check("F13", f"killed after {killed_s} s and never replaced", reported=spent, chunks=False))
        assert max(chunk.results for chunk in world.gateway.chunks) == 1
        assert sum(chunk.lost for chunk in world.gateway.chunks) <= 3


def test_machines_live_no_longer_than_the_money_lasts(tmp_path: Path) -> None:
    """Also where the gateway is taken over by whoever killed the controller: each machine's own clock ends it."""
    limits = replace(LIMITS, max_usd=0.3, ttl_s=6 * 3_600.0)
    with Fleet(tmp_path, limits=limits, rtfx=20.0) as world:
        world.gateway.put(2_000, 1_500.0)
        for_ever = world.gateway.workers
        for minute in range(5, 7 * 60, 5):
            world.at(60.0 * minute, for_ever)
        world.at(300, world.kill)
        assert world.crash(None, lambda controller: controller.run())
        world.clock.advance(7 * 3_600)
        assert world.ours() == []
        assert 0.1 < world.vast.truth().usd <= 0.3


def test_a_ledger_that_cannot_be_written_ends_no_controller(tmp_path: Path, table: list[Row]) -> None:
    """Its disk is full or gone: the bill goes on in memory, nothing is rented, what has to go is destroyed."""
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(240, 1_500.0)
        with Ledger(world.database) as ledger, world.controller(ledger) as controller:
            world.stop = controller.stop

            def take_writes(no: int) -> None:
                ledger._db.execute(f"PRAGMA query_only = {no}").fetchall()

            alive: list[int] = []
            world.at(200, lambda: take_writes(1))
            world.at(300, lambda: world.vast.faults.add("F8", who="one"))
            world.at(400, lambda: alive.append(len(world.ours())))
            world.at(450, lambda: take_writes(0))
            world.last = controller.run(until_idle=True, idle_s=20.0)
        assert alive == [2], "what was outbid is destroyed, and nothing is rented for it"
        assert any("cannot be written" in text and "Nothing is rented until" in text for text in world.said)
        row = world.check("F16", "the ledger cannot be written for 4 minutes")
        assert row.machines == 4
        table.append(row)


def test_a_lost_machine_is_noticed_within_seconds(tmp_path: Path) -> None:
    """Before Conductor misses it, which takes 10 s and more."""
    with Fleet(tmp_path, busy_tick_s=BUSY_TICK_S, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.vast.faults.add("F8", who="one", after_s=200.0)
        world.run()
        world.check("F8", "")
        lost = [made for (made,) in contracts_of_ours(world).values() if any(to == "exited" for _, to in made.history)]
        assert lost
        for each in lost:
            assert each.destroyed_at - min(at for at, to in each.history if to == "exited") <= 10


def test_a_clock_that_is_put_back_between_two_controllers_does_not_stop_the_meter(
    tmp_path: Path, table: list[Row]
) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.at(200, world.kill)
        assert world.crash(None, lambda controller: controller.run())
        world.our_clock.ahead_s = -7_200.0
        world.run()
        table.append(world.check("F17", "the clock is put back 2 h between two controllers"))


# ---- F14: two controllers ----


def test_the_second_controller_of_a_fleet_is_told_so(tmp_path: Path) -> None:
    with Fleet(tmp_path) as world, Ledger(world.database) as one, Ledger(world.database) as two:
        with world.controller(one), pytest.raises(FleetTaken, match="Fleet 'test' already has a controller"):
            world.controller(two).__enter__()
        with world.controller(two):
            pass


def test_a_controller_elsewhere_is_noticed_by_what_it_rents(tmp_path: Path, table: list[Row]) -> None:
    """It shares no disk, only the account: what it rents was never written down here."""
    with Fleet(tmp_path / "here", **SLOWLY) as world:
        world.gateway.put(*WORK)
        elsewhere, cloud = database(tmp_path / "there", "test"), world.cloud(world.vast.add_key("another"))

        def rent_elsewhere() -> None:
            with Ledger(elsewhere) as ledger, world.controller(ledger, cloud) as controller:
                controller.up(3)

        world.vast.faults.add("F8", who="one", after_s=285.0)
        world.at(286, rent_elsewhere)
        with pytest.raises(FleetTaken, match=r"Somebody else rents for fleet 'test' \(instance \d+ is not from here\)"):
            world.run()
        with Ledger(elsewhere) as ledger, world.controller(ledger, cloud) as controller:
            controller.down()
        spent = world.vast.truth().usd
        table.append(world.check("F14", "a second controller on another machine", reported=spent, chunks=False))


# ---- F16: the account fails ----


def test_credit_that_runs_out_ends_the_fleet_with_a_sentence(tmp_path: Path, table: list[Row]) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.vast.faults.add("F16", how="credit", after_s=200.0)
        with pytest.raises(CloudRefused, match=r"The market rents no more to this account: .* Nothing of fleet 'test'"):
            world.run()
        creates = [call for call in world.vast.calls if call.endpoint == "create" and call.status >= 400]
        assert len(creates) == 1, "asked again for what cannot be had"
        table.append(world.check("F16", "credit runs out in the middle", chunks=False))


@pytest.mark.parametrize(("status", "error", "waits"), [
    (400, "spend_rate_limit", True), (403, "forbidden", True), (400, "invalid_args", False),
])  # fmt: skip
def test_a_refusal_that_passes_costs_no_machine(
    status: int, error: str, waits: bool, tmp_path: Path, table: list[Row]
) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        rule = world.vast.faults.add("F16", how="refused", status=status, error=error, nth=3)
        world.run()
        table.append(world.check("F16", f"one create of three refused ({status} {error})"))
        assert rule.fired == 1
        assert not any(member.draining for member in world.gateway.members.values())
        creates = [call for call in world.vast.calls if call.endpoint == "create"]
        refused = next(call for call in creates if call.status == status)
        later = [call.at - refused.at for call in creates if call.at > refused.at]
        assert all(gap >= 600 for gap in later) if waits else min(later) < 30
        assert any("nothing is rented for 10 minutes" in text for text in world.said) == waits


def test_a_key_that_is_revoked_ends_the_controller_and_machines_end_themselves(
    tmp_path: Path, table: list[Row]
) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.vast.faults.add("F16", how="revoked", after_s=200.0)
        with pytest.raises(CloudRefused, match=r"does not accept the key .* 3 machines are still rented") as told:
            world.run()
        assert world.vast.account_key not in str(told.value)
        assert all(member.draining for member in world.gateway.members.values())
        world.clock.advance(1_800)
        assert world.ours() == [], "drained workers end their machines with the machines' own keys"
        spent = world.vast.truth().usd
        table.append(world.check("F16", "key revoked in the middle", reported=spent, chunks=False))


# ---- the budget, and a person at the keyboard ----


@pytest.mark.parametrize("max_usd", [0.04, 0.08, 0.15])
def test_a_budget_is_kept(max_usd: float, tmp_path: Path, table: list[Row]) -> None:
    limits = replace(LIMITS, max_usd=max_usd)
    with Fleet(tmp_path, limits=limits, rtfx=20.0) as world:
        world.gateway.put(*WORK)
        ran = world.run(until_idle=False, watch=lambda now: world.stop() if not now.lines and now.spent_usd else None)
        assert ran.spent_usd <= max_usd
        table.append(world.check("F0", f"more work than a budget of ${max_usd:.2f} pays", chunks=False))


@pytest.mark.parametrize(("usd_per_gb", "max_usd", "rented"), [
    ("0.10", 0.5, False), ("0.04", 0.3, True), ("0.045", 0.5, True), ("0.02", 0.2, True),
])  # fmt: skip
@pytest.mark.parametrize("mbps", [1_000.0, 5_000.0])
def test_a_budget_is_kept_where_traffic_costs_more_than_machines(
    mbps: float, usd_per_gb: str, max_usd: float, rented: bool, tmp_path: Path, table: list[Row]
) -> None:
    """An image of 4 GB is there before the next tick, and nobody gives it back."""
    limits = replace(LIMITS, max_usd=max_usd, max_instances=6, interruptible=False)
    with Fleet(tmp_path, machines=6, limits=limits, usd_per_gb=usd_per_gb, mbps=mbps, **SLOWLY) as world:
        world.gateway.put(*WORK)
        if not rented:
            world.at(300, lambda: world.stop())
        world.run(watch=lambda now: world.stop() if not now.lines and now.spent_usd else None)
        assert bool(contracts_of_ours(world)) == rented
        assert rented or any("$0.1 a GB of download, so that the image costs $0.40" in text for text in world.said)
        table.append(world.check("F0", f"traffic at ${usd_per_gb}/GB, {mbps:.0f} Mbit/s", chunks=False))


def test_a_wish_of_another_command_is_followed(tmp_path: Path) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)

        def wish(wish: Wish) -> None:
            with Ledger(world.database) as ledger:
                ledger.wish(wish)

        alive: list[int] = []
        world.at(150, lambda: wish(Wish(max_instances=1)))
        world.at(300, lambda: alive.append(len(world.ours())))
        world.at(301, lambda: wish(Wish("drain")))
        done = world.run(until_idle=False)
        assert done.phase == "drain"
        assert alive == [1]
        world.check("F0", "", chunks=False)
        assert max(chunk.results for chunk in world.gateway.chunks) == 1


def test_stop_leaves_machines_as_they_are_and_says_so(tmp_path: Path) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.at(200, lambda: world.stop())
        left = world.run()
        assert len(world.ours()) == 3
        text = still_alive(left)
        assert text.startswith("3 machines are still rented for $0.")
        assert all(str(number) in text for number in world.ours())
        assert "whisperfleet fleet down --fleet test" in text
        with Ledger(world.database) as ledger, world.controller(ledger) as controller:
            assert controller.down().lines == ()
            assert controller.farewell().startswith("Nothing of fleet 'test' is rented any more; it spent $0.")
        assert world.ours() == []


def test_sigterm_ends_the_loop_between_two_steps(tmp_path: Path) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.at(200, lambda: os.kill(os.getpid(), signal.SIGTERM))
        before = signal.getsignal(signal.SIGTERM)
        with Ledger(world.database) as ledger, world.controller(ledger) as controller:
            with interruptible(controller):
                controller.run()
            assert controller.farewell().startswith("3 machines are still rented")
            assert signal.getsignal(signal.SIGTERM) is before
        world.run()
        assert world.ours() == []


# ---- the gateway fails, which is no fault of the market ----


def test_a_gateway_that_is_away_costs_no_machine(tmp_path: Path, table: list[Row]) -> None:
    with Fleet(tmp_path, **SLOWLY) as world:
        world.gateway.put(*WORK)
        world.at(200, lambda: setattr(world.gateway, "down", True))
        world.at(600, lambda: setattr(world.gateway, "down", False))
        world.run()
        row = world.check("F10", "the gateway is away for 7 minutes")
        assert row.machines == 3
        table.append(row)


def test_without_a_token_nothing_is_rented(tmp_path: Path) -> None:
    with Fleet(tmp_path) as world:
        world.gateway.put(*WORK)
        world.gateway.locked = True
        world.at(100, lambda: setattr(world.gateway, "locked", False))
        world.run()
        assert world.check("F10", "").machines == 3
        first = next(call for call in world.vast.calls if call.endpoint == "create")
        assert first.at - world.vast.calls[0].at >= 100
        assert "The gateway does not accept the admin key." in world.said


def test_the_checker_sees_what_is_wrong(tmp_path: Path) -> None:
    """What every line above rests on."""
    with Fleet(tmp_path) as world:
        world.gateway.put(*WORK)
        with Ledger(world.database) as ledger, world.controller(ledger) as controller:
            world.last = controller.up(2)
            world.clock.advance(600)
            with pytest.raises(AssertionError, match="leaked"):
                world.check("F0", "")
            world.last = controller.down()
            assert world.check("F0", "", chunks=False).leaked == 0
            with pytest.raises(AssertionError, match="reports"):
                world.check("F0", "", reported=world.last.spent_usd * 1.5, chunks=False)
