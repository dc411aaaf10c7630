"""What a fleet does next: rules that hold for every view of the world, single decisions, and whole lives of fleets."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from provisioning.classify import Seen
from provisioning.cloud import Instance
from provisioning.fleet import (
    Action,
    Alarm,
    Demand,
    Destroy,
    DrainWorker,
    FreeTasks,
    Intent,
    IntentState,
    Label,
    Limits,
    Observed,
    Rent,
    Settle,
    Speeds,
    Strike,
    WorkerNews,
)
from provisioning.policy import DRAIN_S, LOW_TICKS, NO_MORE, Memory, Mode, Plan, plan
from provisioning.scaling import Economy, dispensable, needed, wanted
from tests.support.small_market import FLEET, IMAGE_GB, START_MS, USD_PER_GB, Keeper, SmallMarket, Weather

NOW = START_MS
HOUR_MS = 3_600_000
LIMITS = Limits(max_usd=5.0, max_price=0.35, max_instances=8)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def intent(number: int, state: IntentState = "bound", **changes: Any) -> Intent:
    """Request number n, of machine 100 + n at the market, an hour ago, for five more hours."""
    made = Intent(
        nonce=f"n{number:03d}",
        state=state,
        offer_id=number,
        machine_id=500 + number,
        gpu_name="RTX 3090",
        asked_ms=NOW - HOUR_MS,
        expires_ms=NOW + 5 * HOUR_MS,
        usd_per_hour=0.2,
        is_bid=True,
        instance_id=None if state in ("asked", "unknown") else 100 + number,
    )
    return replace(made, **changes)


def row(of: Intent, number: int | None = None, fleet: str = FLEET, **changes: Any) -> Instance:
    made = Instance(
        id=number or of.instance_id or 100 + of.offer_id,
        label=Label(fleet, of.nonce, of.expires_ms // 1000).encode(),
        machine_id=of.machine_id,
        gpu_name=of.gpu_name,
        actual="running",
        intended="running",
        current="running",
        next="running",
        message="",
        is_bid=of.is_bid,
        gpu_usd_per_hour=of.usd_per_hour - 0.005,
        storage_usd_per_hour=0.005,
        inet_down_mbps=500.0,
        inet_down_usd_per_gb=0.003,
        inet_up_usd_per_gb=0.003,
    )
    return replace(made, **changes)


def news(of: Intent, **changes: Any) -> WorkerNews:
    made = WorkerNews(of.nonce, NOW - HOUR_MS + 200_000, NOW - 5_000, NOW - 10_000, 1, 60_000, 5, 300_000, 5_000)
    return replace(made, **changes)


T = TypeVar("T", bound=Action)
IDLE: dict[str, Any] = {"held_tasks": 0, "held_audio_ms": 0, "last_task_ms": NOW - 600_000}
WORK = Demand(queued_audio_ms=50 * HOUR_MS, queued_tasks=3_000, held_audio_ms=60_000, held_tasks=1)
KNOWN = Memory(known_since_ms=NOW - HOUR_MS)


def decide(
    rows: Sequence[Instance] | None,
    intents: Sequence[Intent],
    workers: Sequence[WorkerNews] = (),
    demand: Demand = WORK,
    limits: Limits = LIMITS,
    speeds: Speeds | None = None,
    strikes: Sequence[Strike] = (),
    spent: float = 0.0,
    now: int = NOW,
    mode: Mode = "run",
    memory: Memory | None = KNOWN,
    blind_since: int | None = None,
) -> Plan:
    observed = Observed(None if rows is None else tuple(rows), {each.nonce: each for each in workers}, blind_since)
    return plan(
        observed, intents, demand, limits, speeds or Speeds(), strikes, spent, now, FLEET, mode, memory
    )  # fmt: skip


def of_kind(decided: Plan, kind: type[T]) -> list[T]:
    return [action for action in decided.actions if isinstance(action, kind)]


def destroyed(decided: Plan) -> set[int]:
    return {action.instance_id for action in of_kind(decided, Destroy)}


def rented(decided: Plan) -> int:
    return sum(action.count for action in of_kind(decided, Rent))


def settled(intents: Sequence[Intent], decided: Plan) -> list[Intent]:
    """The ledger after the plan's settlements, as a controller writes them."""
    found = {each.nonce: each for each in intents}
    for action in of_kind(decided, Settle):
        old = found[action.nonce]
        missed = action.missed_ms is not None
        found[action.nonce] = replace(
            old,
            state=action.state,
            instance_id=old.instance_id if action.instance_id is None else action.instance_id,
            lists_without=old.lists_without + 1 if missed else 0,
            last_missed_ms=action.missed_ms,
        )
    return list(found.values())


# ---- rules that hold for every view of the world ----

STATES: tuple[IntentState, ...] = ("asked", "unknown", "bound", "closing", "closed")
ACTUAL = (
    None,
    "created",
    "loading",
    "running",
    "exited",
    "stopped",
    "frozen",
    "rebooting",
    "unknown",
    "offline",
    "odd",
)
FOREIGN = ("", "my training", "wf1", "wf1::x:1", "wf2:small:n001:zz", "wf1:small:n001")


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Any view: intents in any state, some with rows, rows of others, of other fleets, of a lost ledger."""
    intents, rows, workers = [], [], []
    for number in range(draw(st.integers(0, 7))):
        state = draw(st.sampled_from(STATES))
        each = intent(
            number,
            state,
            asked_ms=NOW - draw(st.sampled_from((1_000, 60_000, 200_000, HOUR_MS))),
            expires_ms=NOW + draw(st.sampled_from((-HOUR_MS, -1_000, 60_000, HOUR_MS))),
            usd_per_hour=draw(st.sampled_from((0.05, 0.2, 0.35))),
            is_bid=draw(st.booleans()),
            lists_without=draw(st.integers(0, 3)),
            last_missed_ms=draw(st.sampled_from((None, NOW - 5_000, NOW - 30_000))),
        )
        intents.append(each)
        if draw(st.booleans()):
            rows.append(row(each, **draw(conditions())))
        if draw(st.booleans()):
            seen = NOW - draw(st.sampled_from((1_000, 100_000, 400_000)))
            workers.append(
                news(each, last_seen_ms=seen, held_tasks=draw(st.integers(0, 1)), draining=draw(st.booleans()))
            )
    for number in range(draw(st.integers(0, 3))):
        stray = intent(50 + number, expires_ms=NOW + draw(st.sampled_from((-HOUR_MS, -60_000, HOUR_MS))))
        fleet = draw(st.sampled_from((FLEET, "other")))
        rows.append(row(stray, fleet=fleet, **draw(conditions())))
    for number in range(draw(st.integers(0, 3))):
        rows.append(row(intent(80 + number), label=draw(st.sampled_from(FOREIGN)), **draw(conditions())))
    return {
        "rows": draw(st.none() | st.just(rows)) if rows else rows,
        "intents": intents,
        "workers": workers,
        "demand": draw(st.sampled_from((WORK, Demand(), Demand(60_000, 1), replace(WORK, known=False)))),
        "limits": replace(
            LIMITS,
            max_usd=draw(st.sampled_from((0.05, 0.5, 5.0))),
            max_instances=draw(st.integers(0, 9)),
            min_instances=draw(st.integers(0, 2)),
            max_usd_per_hour=draw(st.sampled_from((None, 0.5, 2.0))),
        ),
        "spent": draw(st.sampled_from((0.0, 0.04, 0.3, 0.47, 4.4, 6.0))),
        "strikes": [Strike(500 + draw(st.integers(0, 9)), NOW + draw(st.sampled_from((-1, 1_000))), "slow")],
        "mode": draw(st.sampled_from(("run", "up", "drain", "down"))),
        "memory": draw(st.sampled_from((None, KNOWN, replace(KNOWN, low_ticks=5, spot_step=2)))),
    }


def conditions() -> st.SearchStrategy[dict[str, Any]]:
    contract = st.sampled_from(("running", "stopped"))
    return st.fixed_dictionaries(
        {
            "actual": st.sampled_from(ACTUAL),
            "intended": contract,
            "current": contract,
            "next": contract,
            "message": st.sampled_from(("", "Downloading", "OCI runtime create failed")),
            "gpu_usd_per_hour": st.sampled_from((0.1, 0.2, 0.9)),
        }
    )


@QUICK
@given(worlds())
def test_no_more_machines_than_allowed_with_all_that_may_exist(world: dict[str, Any]) -> None:
    decided = decide(**world)
    if not rented(decided):
        return
    opened = {each.nonce for each in world["intents"] if each.state != "closed"}
    labels = [Label.decode(each.label) for each in world["rows"]]
    strays = sum(label is not None and label.fleet == FLEET and label.nonce not in opened for label in labels)
    assert rented(decided) + len(opened) + strays <= world["limits"].max_instances


@QUICK
@given(worlds())
def test_nothing_is_rented_blind_or_while_draining_or_for_an_unknown_demand(world: dict[str, Any]) -> None:
    blind = decide(**{**world, "rows": None})
    assert rented(blind) == 0
    assert destroyed(blind) <= {each.instance_id for each in world["intents"] if each.state != "closed"}
    if world["mode"] in ("drain", "down") or (world["mode"] == "run" and not world["demand"].known):
        assert rented(decide(**world)) == 0


@QUICK
@given(worlds())
def test_rows_of_others_are_never_touched(world: dict[str, Any]) -> None:
    rows = world["rows"] or ()
    foreign = {each.id for each in rows if Label.decode(each.label) is None}
    strangers = {each.id for each in rows if (label := Label.decode(each.label)) and label.fleet != FLEET}
    decided = decide(**world)
    if world["rows"] is not None:
        assert not destroyed(decided) & (foreign | strangers)
        assert not decided.classes.keys() & (foreign | strangers)


@QUICK
@given(worlds())
def test_what_has_to_go_is_told_so_at_every_look(world: dict[str, Any]) -> None:
    decided = decide(**world)
    opened = {each.nonce: each for each in world["intents"] if each.state != "closed"}
    for each in world["rows"] or ():
        label = Label.decode(each.label)
        if label is None or label.fleet != FLEET:
            continue
        behind = opened.get(label.nonce)
        if label.expires_s * 1000 <= NOW or behind is None or behind.state == "closing":
            assert each.id in destroyed(decided)
        if world["mode"] == "down":
            assert each.id in destroyed(decided)


@QUICK
@given(worlds())
def test_the_same_look_gives_the_same_destroys_also_when_the_first_were_written_down(world: dict[str, Any]) -> None:
    first = decide(**world)
    assert decide(**world) == first
    again = {**world, "memory": first.memory}
    assert destroyed(decide(**again)) >= destroyed(first)
    written = {**again, "intents": settled(world["intents"], first)}
    listed = {each.id for each in world["rows"] or ()}
    assert destroyed(decide(**written)) >= (
        destroyed(first) & listed if world["rows"] is not None else destroyed(first)
    )


@QUICK
@given(worlds())
def test_nothing_is_rented_that_the_budget_might_not_pay(world: dict[str, Any]) -> None:
    decided = decide(**world)
    rents = of_kind(decided, Rent)
    if not rents:
        return
    prices = [each.usd_per_hour for each in world["intents"] if each.state != "closed"]
    more = [rent.count * (rent.max_usd_per_hour or 9.9) for rent in rents]
    hours = DRAIN_S / 3600
    assert world["spent"] + (sum(prices) + sum(more)) * hours < NO_MORE * world["limits"].max_usd
    assert all((rent.max_usd_per_hour or 9.9) <= world["limits"].max_price for rent in rents)
    cap = world["limits"].max_usd_per_hour
    assert cap is None or sum(prices) + sum(more) <= cap + 1e-9


@QUICK
@given(worlds())
def test_struck_and_full_hosts_are_left_out(world: dict[str, Any]) -> None:
    struck = {each.machine_id for each in world["strikes"] if each.until_ms > NOW}
    for rent in of_kind(decide(**world), Rent):
        assert struck <= rent.avoid_machines


@QUICK
@given(worlds())
def test_tasks_are_freed_before_a_machine_is_closed_and_closed_before_it_is_destroyed(world: dict[str, Any]) -> None:
    actions = decide(**world).actions
    closing = {
        action.nonce
        for action in actions
        if isinstance(action, Settle) and action.state == "closing" and action.missed_ms is None
    }
    before = {each.nonce: each.state for each in world["intents"]}
    ranks = {FreeTasks: 0, Settle: 1, Destroy: 2}
    for nonce in closing:
        mine = [action for action in actions if getattr(action, "nonce", None) == nonce]
        order = [ranks[type(action)] for action in mine if type(action) in ranks]
        assert order == sorted(order)
        assert order[0] == 0 or before[nonce] == "closing"
        assert order[-1] == 2
    settles = [action.nonce for action in actions if isinstance(action, Settle)]
    assert len(settles) == len(set(settles))
    kinds = [isinstance(action, Rent) for action in actions]
    assert kinds == sorted(kinds), "whatever bills is ended before anything is rented"


# ---- requests whose answer nobody knows ----


@pytest.mark.parametrize("state", ["asked", "unknown"])
def test_a_request_that_is_found_by_its_label_is_bound(state: IntentState) -> None:
    lost = intent(1, state, asked_ms=NOW - 30_000)
    decided = decide([row(lost, actual="loading")], [lost])
    assert of_kind(decided, Settle) == [Settle("n001", "bound", 101)]
    assert not destroyed(decided)


def test_an_unknown_request_counts_until_two_lists_and_the_grace_have_passed() -> None:
    demand, limits = replace(WORK, queued_audio_ms=900 * HOUR_MS), replace(LIMITS, max_instances=1)
    lost = [intent(1, "unknown", asked_ms=NOW)]
    memory: Memory | None = None
    for second in range(0, 400, 10):
        decided = decide([], lost, now=NOW + second * 1000, demand=demand, limits=limits, memory=memory)
        memory, lost = decided.memory, settled(lost, decided)
        assert rented(decided) == 0
        if lost[0].state == "closed":
            break
    assert second == 180
    assert of_kind(decided, FreeTasks), "the token of a machine that never was is revoked"
    assert rented(decide([], lost, now=NOW + 200_000, demand=demand, limits=limits)) == 1


def test_one_list_that_lacks_a_machine_proves_nothing() -> None:
    two = [intent(1), intent(2)]
    lacking = decide([row(two[0])], two, [news(two[0]), news(two[1])])
    assert of_kind(lacking, Settle) == [Settle("n002", "bound", 102, missed_ms=NOW)]
    after = settled(two, lacking)
    assert after[1].state == "bound"
    soon = decide([row(two[0])], after, now=NOW + 10_000, memory=lacking.memory)
    assert not of_kind(soon, Settle)
    back = decide([row(each) for each in two], after, now=NOW + 10_000, memory=lacking.memory)
    assert of_kind(back, Settle) == [Settle("n002", "bound", 102)]
    later = decide([row(two[0])], after, now=NOW + 25_000, memory=soon.memory)
    assert [each.state for each in settled(after, later)] == ["bound", "closed"]


def test_an_empty_list_is_not_believed_for_two_minutes() -> None:
    ledger, memory, closed_at = [intent(1), intent(2)], KNOWN, None
    for second in range(0, 200, 10):
        decided = decide([], ledger, now=NOW + second * 1000, memory=memory)
        memory, ledger = decided.memory, settled(ledger, decided)
        assert rented(decided) <= 6, "those that are missing count"
        if ledger[0].state == "closed":
            closed_at = second
            break
    assert closed_at == 120


def test_a_second_machine_of_one_request_is_destroyed() -> None:
    asked = intent(1, "unknown")
    decided = decide([row(asked, 101), row(asked, 107)], [asked])
    assert destroyed(decided) == {107}
    assert Settle("n001", "bound", 101) in decided.actions


def test_what_was_refused_and_made_all_the_same_is_destroyed_until_it_is_gone() -> None:
    made = intent(1, "closing")
    for actual in (None, "exited", "running"):
        assert destroyed(decide([row(made, actual=actual, intended="stopped")], [made])) == {101}
    seen = decide([row(made)], [made]).memory
    gone = decide([], [made], memory=seen)
    # a list of nothing at all needs a second one
    again = decide([], settled([made], gone), memory=gone.memory, now=NOW + 20_000)
    assert [each.state for each in settled(settled([made], gone), again)] == ["closed"]


def test_a_machine_that_comes_back_after_it_was_given_up_is_destroyed() -> None:
    over = intent(1, "closed")
    decided = decide([row(over)], [over], [news(over)])
    assert destroyed(decided) == {101}
    assert decided.classes == {101: "ORPHAN"}
    assert of_kind(decided, FreeTasks)[0].nonce == "n001"


def test_a_row_that_lost_its_label_is_ours_by_its_number_and_one_that_got_another_is_not() -> None:
    mine = intent(1)
    assert decide([row(mine, label="")], [mine], [news(mine)]).classes == {101: "BUSY"}
    taken = decide([row(mine, label="keep this one")], [mine], mode="down")
    assert not destroyed(taken)
    assert "keep this one" in of_kind(taken, Alarm)[0].text


@pytest.mark.parametrize("mode", ["run", "up", "drain", "down"])
def test_machines_of_another_fleet_are_never_touched_whatever_this_clock_says(mode: Mode) -> None:
    other = intent(9, expires_ms=NOW - 24 * HOUR_MS)
    decided = decide([row(other, fleet="other")], [], mode=mode)
    assert not decided.classes
    assert not destroyed(decided)


# ---- blind ----


def test_blind_only_what_is_known_to_be_over_is_destroyed_and_a_person_is_told_once() -> None:
    ledger = [intent(1), intent(2, expires_ms=NOW - 1), intent(3, "closing"), intent(4, "unknown")]
    soon = decide(None, ledger, blind_since=NOW - 60_000)
    assert destroyed(soon) == {102, 103}
    assert not of_kind(soon, Alarm)
    long = decide(None, ledger, blind_since=NOW - 6 * 60_000)
    assert len(of_kind(long, Alarm)) == 1
    assert not of_kind(decide(None, ledger, blind_since=NOW - 7 * 60_000, memory=long.memory), Alarm)


# ---- what a machine is ----


def kind_of(machine: Instance, told: WorkerNews | None = None, **more: Any) -> tuple[str, bool]:
    mine = more.pop("of", intent(1))
    decided = decide([machine], [mine], [told] if told else [], **more)
    return decided.classes[machine.id], machine.id in destroyed(decided)


def seen_since(ms: int, state: str | None, message: str = "", message_ms: int | None = None) -> Memory:
    return replace(KNOWN, seen={101: Seen(state, ms, message, ms if message_ms is None else message_ms)})


def test_each_class() -> None:
    mine = intent(1)
    assert kind_of(row(mine), news(mine)) == ("BUSY", False)
    assert kind_of(row(mine), news(mine, held_tasks=0)) == ("READY", False)
    assert kind_of(row(mine), news(mine, **IDLE)) == ("IDLE", False)
    assert kind_of(row(mine), news(mine, draining=True)) == ("DRAINING", False)
    assert kind_of(row(mine), news(mine, draining=True, held_tasks=0)) == ("DRAINING", True)
    assert kind_of(row(mine), news(mine, refused="it hears wrong words")) == ("REFUSED", True)
    assert kind_of(row(mine)) == ("SILENT", False)
    assert kind_of(row(mine), memory=seen_since(NOW - 241_000, "running")) == ("SILENT", True)
    assert kind_of(row(mine), news(mine, last_seen_ms=NOW - 241_000), memory=seen_since(NOW - HOUR_MS, "running")) == (
        "SILENT",
        True,
    )
    assert kind_of(row(mine, actual="exited")) == ("DEAD", False)
    assert kind_of(row(mine, actual="offline"), memory=seen_since(NOW - 61_000, "offline")) == ("DEAD", True)
    assert kind_of(row(mine, intended="stopped", current="stopped", next="stopped")) == ("PREEMPTED", True)
    firm = intent(1, is_bid=False)
    assert kind_of(row(firm, intended="stopped", current="stopped", next="stopped"), of=firm) == ("DEAD", True)
    over = intent(1, expires_ms=NOW)
    assert kind_of(row(over), news(over), of=over) == ("EXPIRED", True)
    dear = row(mine, gpu_usd_per_hour=0.36)
    assert kind_of(dear, news(mine)) == ("REFUSED", True)


def test_nobody_is_silent_while_the_gateway_does_not_speak_nor_right_after() -> None:
    mine = intent(1)
    old = seen_since(NOW - HOUR_MS, "running")
    deaf = decide([row(mine)], [mine], demand=replace(WORK, known=False), memory=old)
    assert not destroyed(deaf)
    assert deaf.memory.known_since_ms is None
    back = decide([row(mine)], [mine], memory=deaf.memory, now=NOW + 10_000)
    assert not destroyed(back)
    assert destroyed(decide([row(mine)], [mine], memory=back.memory, now=NOW + 260_000)) == {101}


BOOTS = [
    (5, None, "", 500.0, 300, False),
    (13, None, "", 500.0, 300, True),
    (13, "created", "", 500.0, 300, True),
    (13, "loading", "", 500.0, 300, True),
    (13, "loading", "Downloading: 2.1 GB", 500.0, 30, False),
    (13, "loading", "Downloading: 2.1 GB", 500.0, 300, True),
    (31, "loading", "Downloading: 3.9 GB", 500.0, 30, True),
    (13, "loading", "", 50.0, 300, False),
    (1, "created", "OCI runtime create failed: no GPU", 500.0, 30, True),
    (1, "loading", "Error: unsatisfied condition: cuda>=12.8, please update your driver", 500.0, 30, True),
    (1, "loading", "manifest unknown", 500.0, 30, True),
]


@pytest.mark.parametrize(("minutes", "actual", "message", "mbps", "quiet_s", "goes"), BOOTS)
def test_a_boot_that_gets_nowhere_ends_and_one_that_gets_on_does_not(
    minutes: int, actual: str | None, message: str, mbps: float, quiet_s: int, goes: bool
) -> None:
    mine = intent(1, asked_ms=NOW - minutes * 60_000)
    booting = row(mine, actual=actual, message=message, inet_down_mbps=mbps)
    memory = seen_since(mine.asked_ms, actual, message, NOW - quiet_s * 1000)
    decided = decide([booting], [mine], memory=memory)
    assert (101 in destroyed(decided)) is goes
    assert decided.classes == {101: "BOOTING"}
    strikes = [action.strike_machine for action in of_kind(decided, Destroy)]
    assert strikes == ([501] if goes else [])


def test_a_machine_far_slower_than_its_kind_goes_only_where_the_kind_was_measured() -> None:
    mine = intent(1)
    slow = news(mine, rtfx=5.0)
    assert not destroyed(decide([row(mine)], [mine], [slow]))
    assert destroyed(decide([row(mine)], [mine], [slow], speeds=Speeds({"RTX 3090": 60.0}))) == {101}


def test_one_that_lies_about_its_speed_makes_nobody_slow() -> None:
    mine = [intent(number) for number in (1, 2, 3)]
    work = {"chunks_done": 9, "busy_ms": 10_000}
    liar = news(mine[0], **work, audio_done_ms=10**9, rtfx=1e5)
    honest = [news(one, **work, audio_done_ms=600_000, rtfx=60.0) for one in mine[1:]]
    rows, learned = [row(one) for one in mine], Speeds({"RTX 3090": 5_000.0})
    assert not destroyed(decide(rows, mine, [liar, *honest], speeds=learned))
    slow = replace(honest[1], audio_done_ms=60_000, rtfx=6.0)
    assert destroyed(decide(rows, mine, [liar, honest[0], slow], speeds=learned)) == {103}


def test_one_that_claims_to_be_enough_alone_is_not_believed() -> None:
    mine = intent(1)
    work = replace(WORK, queued_audio_ms=500 * HOUR_MS)
    targets = [decide([row(mine)], [mine], [news(mine, rtfx=rtfx)], work).target for rtfx in (60.0, 9_999.0)]
    assert targets[0] >= targets[1] > 1


def test_a_worker_gets_nothing_more_shortly_before_its_end_also_of_the_contract_by_the_markets_own_clock() -> None:
    mine = intent(1, expires_ms=NOW + 200_000)
    assert of_kind(decide([row(mine)], [mine], [news(mine)]), DrainWorker)[0].nonce == "n001"
    fresh = intent(1)
    skew = 10 * 60_000
    ends = row(fresh, started_ms=fresh.asked_ms + skew, ends_ms=NOW + skew + 100_000)
    assert of_kind(decide([ends], [fresh], [news(fresh)]), DrainWorker)
    lasting = replace(ends, ends_ms=NOW + skew + HOUR_MS)
    assert not of_kind(decide([lasting], [fresh], [news(fresh)]), DrainWorker)


# ---- interruptions ----


def test_a_preempted_machine_frees_its_tasks_is_destroyed_and_its_host_is_struck_once() -> None:
    mine = intent(1)
    lost = row(mine, actual="exited", intended="stopped", current="stopped", next="stopped")
    first = decide([lost], [mine], [news(mine)])
    assert isinstance(first.actions[0], FreeTasks)
    assert of_kind(first, Destroy) == [Destroy(101, "n001", "outbid", 501, 1800.0)]
    resumed = row(mine)
    second = decide([resumed], settled([mine], first), memory=first.memory)
    assert of_kind(second, Destroy) == [Destroy(101, "n001", "to be destroyed")] or destroyed(second) == {101}
    assert of_kind(second, Destroy)[0].strike_machine is None


def test_after_three_interruptions_bids_rise_and_after_three_more_half_is_on_demand() -> None:
    memory: Memory | None = KNOWN
    demand = replace(WORK, queued_audio_ms=900 * HOUR_MS)
    for expected in ((1.15, True), (1.4, True), (1.4, False)):
        decided = decide([], [], memory=memory, demand=demand)
        rents = of_kind(decided, Rent)
        assert {rent.bid_factor for rent in rents} == {expected[0]}
        assert all(rent.interruptible for rent in rents) is expected[1]
        assert sum(rent.count for rent in rents if not rent.interruptible) == (0 if expected[1] else 4)
        lost = [intent(number) for number in range(3)]
        rows = [row(each, intended="stopped", current="stopped", next="stopped") for each in lost]
        memory = decide(rows, lost, memory=memory).memory
    calm = decide([], [], memory=memory, now=NOW + 2 * HOUR_MS)
    assert calm.memory.spot_step == 0


# ---- how many ----

ECONOMY = Economy(rtfx=50.0, boot_s=240.0, boot_usd=0.02, usd_per_hour=0.3, drain_target_s=1_800.0)


def test_as_many_as_finish_in_time_and_none_without_work() -> None:
    assert wanted(0.0, [], ECONOMY) == 0
    assert wanted(0.0, [50.0], ECONOMY) == 0
    assert wanted(10.0, [], ECONOMY) == 1, "a small job must not wait for ever"
    assert wanted(50 * 1_800 * 0.9 * 4, [], ECONOMY) == 4
    assert needed(50 * 480 * 0.9 * 3, 50.0, replace(ECONOMY, drain_target_s=1.0)) == 3, "two boots are the least"


def test_one_more_only_while_work_is_left_when_it_has_booted() -> None:
    work = 50 * 500.0
    hasty = replace(ECONOMY, drain_target_s=240.0)
    assert needed(work, 50.0, hasty) == 2
    assert wanted(work, [50.0], hasty) == 2
    assert wanted(work * 0.9, [50.0], replace(hasty, boot_s=200.0)) == 2
    assert wanted(50 * 350.0, [50.0], replace(hasty, boot_s=300.0)) == 1


@settings(deadline=None)
@given(
    st.lists(st.floats(1, 300), max_size=12),
    st.floats(0, 1e7),
    st.randoms(use_true_random=False),
)
def test_a_fleet_shrinks_to_a_size_from_which_it_would_not_grow(
    rtfx: list[float], work: float, rng: random.Random
) -> None:
    order = list(range(len(rtfx)))
    rng.shuffle(order)
    gone = dispensable(work, rtfx, order, 0, ECONOMY)
    left = [speed for index, speed in enumerate(rtfx) if index not in gone]
    if gone:
        assert wanted(work, left, ECONOMY) <= len(left)
    assert wanted(work * 0.5, left, ECONOMY) <= max(len(left), wanted(work, rtfx, ECONOMY))


def test_fewer_only_after_some_looks_and_idle_ones_first_and_never_who_works() -> None:
    ledger = [intent(number) for number in range(4)]
    rows = [row(each) for each in ledger]
    told = [news(ledger[0]), news(ledger[1], **IDLE), news(ledger[2], **IDLE), news(ledger[3])]
    little = Demand(0, 0, 120_000, 2)
    memory: Memory | None = KNOWN
    for look in range(1, LOW_TICKS + 1):
        decided = decide(rows, ledger, told, little, memory=memory)
        memory = decided.memory
        assert destroyed(decided) == ({101, 102} if look == LOW_TICKS else set())
    assert not destroyed(decide(rows, ledger, told, replace(little, known=False), memory=memory))


def test_the_dearest_per_second_of_audio_goes_first() -> None:
    ledger = [intent(number) for number in range(3)]
    rows = [row(ledger[0]), row(ledger[1], gpu_usd_per_hour=0.30), row(ledger[2])]
    told = [
        news(ledger[0], **IDLE, rtfx=40.0),
        news(ledger[1], **IDLE, rtfx=90.0),
        news(ledger[2], **IDLE, rtfx=20.0),
    ]
    decided = decide(rows, ledger, told, mode="up", limits=replace(LIMITS, max_instances=2))
    assert destroyed(decided) == {102}


def test_where_a_person_wants_fewer_those_that_work_finish_first() -> None:
    ledger = [intent(number) for number in range(3)]
    rows = [row(each) for each in ledger]
    told = [news(ledger[0]), news(ledger[1], **IDLE), news(ledger[2])]
    decided = decide(rows, ledger, told, limits=replace(LIMITS, max_instances=1))
    assert destroyed(decided) == {101}
    assert len(of_kind(decided, DrainWorker)) == 1
    told[2] = replace(told[2], draining=True)
    again = decide(rows, ledger, [told[0], told[2]], limits=replace(LIMITS, max_instances=2), memory=decided.memory)
    assert not of_kind(again, DrainWorker)


def test_a_token_is_revoked_until_the_gateway_has_forgotten_it() -> None:
    going = intent(1, "closing")
    assert of_kind(decide([row(going)], [going], [news(going)]), FreeTasks)
    assert not of_kind(decide([row(going)], [going]), FreeTasks)
    over = intent(2, "closed")
    assert [action.nonce for action in of_kind(decide([], [over], [news(over)]), FreeTasks)] == ["n002"]
    strange = news(intent(3))
    assert not of_kind(decide([], [], [strange]), FreeTasks), "it may be of another fleet at the same gateway"


def test_what_is_still_listed_long_after_it_was_to_go_is_told_once() -> None:
    going = [intent(1, "closing")]
    memory: Memory | None = KNOWN
    told = []
    for minute in range(15):
        decided = decide([row(going[0])], going, memory=memory, now=NOW + minute * 60_000)
        memory = decided.memory
        told += [(minute, alarm.text) for alarm in of_kind(decided, Alarm)]
    assert [minute for minute, _ in told] == [10]
    assert "Instance 101 is still listed" in told[0][1]


def test_up_keeps_what_was_asked_for_whatever_the_demand() -> None:
    limits = replace(LIMITS, max_instances=3)
    ledger = [intent(1), intent(2)]
    told = [news(each, **IDLE) for each in ledger]
    decided = decide([row(each) for each in ledger], ledger, told, Demand(), limits, mode="up")
    assert (rented(decided), destroyed(decided), decided.target) == (1, set(), 3)


def test_down_and_the_end_of_the_budget_end_all_also_what_is_not_listed_yet() -> None:
    ledger = [intent(1), intent(2, asked_ms=NOW - 5_000)]
    assert destroyed(decide([row(ledger[0])], ledger, mode="down")) == {101, 102}
    assert destroyed(decide([row(ledger[0])], ledger, spent=5.0)) == {101, 102}
    nearly = decide([row(ledger[0])], ledger, [news(ledger[0])], spent=4.8)
    assert not destroyed(nearly)
    assert [action.nonce for action in of_kind(nearly, DrainWorker)] == ["n001"]


def test_draining_ends_booting_machines_at_once_working_ones_when_done_and_all_at_last() -> None:
    ledger = [intent(1), intent(2), intent(3)]
    rows = [row(ledger[0]), row(ledger[1], actual="loading"), row(ledger[2])]
    told = [news(ledger[0]), news(ledger[2], draining=True, held_tasks=0)]
    first = decide(rows, ledger, told, mode="drain", memory=replace(KNOWN, drain_since_ms=NOW))
    assert destroyed(first) == {102, 103}
    assert [action.nonce for action in of_kind(first, DrainWorker)] == ["n001"]
    late = decide(rows, ledger, told, mode="drain", memory=first.memory, now=NOW + 601_000)
    assert destroyed(late) == {101, 102, 103}


def test_a_small_budget_takes_one_cheap_machine_or_none_and_says_so() -> None:
    one = of_kind(decide([], [], limits=replace(LIMITS, max_usd=0.06)), Rent)
    assert [(rent.count, rent.max_usd_per_hour is not None and rent.max_usd_per_hour < 0.25) for rent in one] == [
        (1, True)
    ]
    none = decide([], [], limits=replace(LIMITS, max_usd=0.02))
    assert not rented(none)
    assert "$0.02" in of_kind(none, Alarm)[0].text


MUCH = replace(WORK, queued_audio_ms=900 * HOUR_MS)


def test_a_machine_under_the_nonce_of_another_is_destroyed_also_alone() -> None:
    assert destroyed(decide([row(intent(1), 107)], [intent(1)])) == {107}


def test_an_orphan_counts_as_a_machine_until_it_is_gone() -> None:
    limits = replace(LIMITS, max_instances=1)
    assert rented(decide([row(intent(1))], [], demand=MUCH, limits=limits)) == 0
    assert rented(decide([], [], demand=MUCH, limits=limits)) == 1


def test_the_rate_bounds_how_many_and_how_dear() -> None:
    mine = intent(1)
    for cap, expected in ((2.0, (5, 0.35)), (0.4, (1, 0.2)), (0.2, (0, 0.0))):
        limits = replace(LIMITS, max_usd_per_hour=cap)
        rents = of_kind(decide([row(mine)], [mine], [news(mine)], MUCH, limits), Rent)
        assert sum(rent.count for rent in rents) == expected[0]
        assert [round(rent.max_usd_per_hour or 0, 2) for rent in rents] == ([expected[1]] if rents else [])


def test_a_host_with_two_of_ours_is_left_out_and_one_with_one_is_not() -> None:
    ledger = [intent(1, machine_id=7), intent(2, machine_id=7), intent(3, machine_id=8)]
    rents = of_kind(decide([row(each) for each in ledger], ledger, [news(each) for each in ledger], MUCH), Rent)
    assert [rent.avoid_machines for rent in rents] == [frozenset({7})]


def test_half_on_demand_counts_those_that_are_there() -> None:
    ledger = [intent(number, is_bid=number > 2) for number in range(4)]
    memory = replace(KNOWN, spot_step=2, spot_step_ms=NOW)
    told = [news(each) for each in ledger]
    rents = of_kind(decide([row(each) for each in ledger], ledger, told, MUCH, memory=memory), Rent)
    assert {rent.interruptible: rent.count for rent in rents} == {True: 3, False: 1}


def test_the_label_ends_a_machine_also_where_its_contract_is_longer() -> None:
    mine = intent(1, expires_ms=NOW - 1)
    assert destroyed(decide([row(mine, ends_ms=NOW + HOUR_MS)], [mine], [news(mine)])) == {101}


# ---- whole lives ----

STORM = Weather(
    preempted=0.02, died=0.01, lost_answer=0.1, no_answer=0.1, refused=0.1, blind=0.05, crash=0.01, deaf_destroy=0.1,
    list_lag_s=60, stuck=0.05, mute=0.03,
)  # fmt: skip
FORGETFUL = replace(STORM, forgetful=0.5, crash=0.02)
TICK_S = 12.0
UNSEEN_USD = IMAGE_GB * USD_PER_GB  # one machine may be outbid, its image pulled, before a list shows it


def live(weather: Weather, seed: int, hours: float, limits: Limits, most_ticks: int = 1_500) -> Keeper:
    """One job until it is done and nothing is left; the cap and the budget are looked at after every tick."""
    market = SmallMarket(random.Random(seed), weather, queue_s=hours * 3600)
    keeper = Keeper(market, limits)
    for _ in range(most_ticks):
        keeper.tick()
        market.step(TICK_S)
        if not weather.forgetful:
            assert len(market.alive) <= limits.max_instances
        assert market.usd <= limits.max_usd * 1.02 + UNSEEN_USD
        opened = any(each.state != "closed" for each in keeper.intents.values())
        if not (market.alive or opened) and market.queue_s <= 0:
            break
    return keeper


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_a_fleet_in_a_storm_does_all_the_work_within_its_caps_and_leaves_nothing(seed: int) -> None:
    limits = Limits(max_usd=3.0, max_price=0.35, max_instances=8, ttl_s=3_600, drain_target_s=600)
    keeper = live(STORM, seed, 40.0, limits)
    market = keeper.market
    assert market.queue_s <= 0
    assert market.finished_s >= 40 * 3_600 - 1
    assert not market.alive
    assert abs(keeper.meter.usd(market.now_ms) - market.usd) <= 0.05 * market.usd + UNSEEN_USD


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.08, 0.15, 0.4]))
def test_a_budget_is_never_passed_however_much_work_there_is(seed: int, dollars: float) -> None:
    limits = Limits(max_usd=dollars, max_price=0.35, max_instances=8, ttl_s=3_600, drain_target_s=600)
    keeper = live(STORM, seed, 400.0, limits, most_ticks=300)
    keeper.mode = "down"
    for _ in range(40):
        keeper.tick()
        keeper.market.step(TICK_S)
    assert not keeper.market.alive
    assert keeper.market.usd <= dollars * 1.02 + UNSEEN_USD


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_a_controller_that_forgets_everything_at_times_leaves_nothing_either(seed: int) -> None:
    limits = Limits(max_usd=5.0, max_price=0.35, max_instances=6, ttl_s=3_600, drain_target_s=600)
    market = SmallMarket(random.Random(seed), FORGETFUL, queue_s=200 * 3600.0)
    keeper = Keeper(market, limits)
    for tick in range(260):
        keeper.mode = "run" if tick < 150 else "down"
        keeper.tick()
        market.step(TICK_S)
    assert not market.alive


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_shrinking_work_never_makes_a_fleet_waver(seed: int) -> None:
    """Machines of all speeds in a calm market: once the fleet stands, it only shrinks, and to nothing."""
    limits = Limits(max_usd=20.0, max_price=0.35, max_instances=12, drain_target_s=900)
    market = SmallMarket(random.Random(seed), Weather(), queue_s=150 * 3600.0)
    keeper = Keeper(market, limits)
    sizes = []
    for _ in range(600):
        keeper.tick()
        market.step(TICK_S)
        sizes.append(len(market.alive))
        if market.queue_s <= 0 and not market.alive:
            break
    assert sizes[-1] == 0
    top = sizes.index(max(sizes))
    assert sizes[top:] == sorted(sizes[top:], reverse=True)
    assert keeper.rents <= max(sizes) + 1
