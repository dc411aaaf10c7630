"""`reap` and `down` without any database: they know by labels, touch nobody else's, and say what they could not end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning import reaper
from provisioning.cloud import CloudBlind, CloudRefused, OfferQuery, Order
from provisioning.fleet import Label, new_nonce
from tests.support.fleet import Fleet

pytestmark = pytest.mark.integration


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as opened:
        yield opened


def rent(world: Fleet, fleet: str, lives_s: float) -> int:
    cloud = world.cloud()
    offer = cloud.offers(OfferQuery(interruptible=False, min_duration_s=600.0))[0]
    label = Label(fleet, new_nonce(), int(world.clock.now() + lives_s))
    made = cloud.create(offer, Order(label.encode(), "image", 20.0, None))
    world.clock.advance(20)
    return int(getattr(made, "instance_id", 0))


def test_only_what_is_past_its_time_is_ended(world: Fleet) -> None:
    old, young, other = rent(world, "test", 60), rent(world, "test", 7_200), rent(world, "other", 60)
    world.clock.advance(100)
    done = world.reap()
    assert done == reaper.Reaped((old, other), (), spared=1)
    assert world.ours() == [young]
    assert world.vast.contract(world.foreign).alive


def test_one_fleet_and_its_grace(world: Fleet) -> None:
    old, other = rent(world, "test", 60), rent(world, "other", 60)
    world.clock.advance(100)
    cloud, clock = world.cloud(), world.our_clock
    assert reaper.reap(cloud, clock.now_ms, world.clock.sleep, fleet="test", grace_s=600.0).destroyed == ()
    assert reaper.reap(cloud, clock.now_ms, world.clock.sleep, fleet="test").destroyed == (old,)
    assert world.ours() == [other]


def test_down_ends_all_of_one_fleet_and_says_each(world: Fleet) -> None:
    mine, other = rent(world, "test", 7_200), rent(world, "other", 7_200)
    said: list[str] = []
    done = reaper.down(world.cloud(), "test", world.our_clock.now_ms, world.clock.sleep, say=said.append)
    assert done.destroyed == (mine,)
    assert world.ours() == [other]
    assert len(said) == 1
    assert said[0].startswith(f"Instance {mine} (RTX 3090, wf1:test:")


def test_what_the_market_does_not_let_go_is_told(world: Fleet) -> None:
    mine = rent(world, "test", 60)
    world.vast.faults.add("F12", how="alive", count=None)
    world.clock.advance(100)
    done = reaper.reap(world.cloud(), world.our_clock.now_ms, world.clock.sleep, give_up_s=120.0)
    assert (done.destroyed, done.left) == ((), (mine,))
    assert done.problem == "The market takes orders to destroy them, and lists them still."


def test_a_market_that_never_answers_is_no_clean_list(world: Fleet) -> None:
    world.vast.faults.add("F10", how="503", seconds=None)
    with pytest.raises(CloudBlind, match="did not answer"):
        reaper.reap(world.cloud(), world.our_clock.now_ms, world.clock.sleep, give_up_s=60.0)


def test_a_refusal_that_passes_ends_nothing_early(world: Fleet) -> None:
    both = (rent(world, "test", 60), rent(world, "test", 60))
    world.vast.faults.add("F12", how="auth", count=2)
    world.clock.advance(100)
    assert world.reap().destroyed == both
    assert world.ours() == []


def test_a_key_that_only_reads_is_told_what_it_lacks(world: Fleet) -> None:
    rent(world, "test", 60)
    world.clock.advance(100)
    cloud = world.cloud(world.vast.add_key("reader", ("instance_read",)))
    with pytest.raises(CloudRefused, match="it needs the rights"):
        reaper.reap(cloud, world.our_clock.now_ms, world.clock.sleep)


def test_a_key_that_reads_and_writes_instances_is_enough(world: Fleet) -> None:
    rent(world, "test", 60)
    world.clock.advance(100)
    cloud = world.cloud(world.vast.add_key("cron", ("instance_read", "instance_write")))
    assert len(reaper.reap(cloud, world.our_clock.now_ms, world.clock.sleep).destroyed) == 1
    assert world.ours() == []
