"""The adapter against an emulated Vast.ai, through the real client; and the client's traps, frozen.

Each trap is shown twice: that the client still falls into it (an upgrade that changes this should be noticed, the guard
may then go or must change), and that the adapter does not.
"""

import dataclasses
import itertools
import json
import logging
import socket
import subprocess
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from provisioning.cloud import CloudBlind, CloudRefused, Created, Offer, OfferQuery, Order, Refused, Unknown
from provisioning.vast import VastCloud, connect
from provisioning.vast_pacing import GAPS
from tests.emulator.api import Answer, Call
from tests.vast_emulator import Fate, VastEmulator
from workers.errors import OptionError
from workers.settings import fleet_settings

vastai = pytest.importorskip("vastai")
DEMAND = OfferQuery(interruptible=False)
SPOT = OfferQuery(interruptible=True)


@pytest.fixture
def vast() -> Iterator[VastEmulator]:
    with VastEmulator(seed=5) as emulator:
        for number in range(4):
            emulator.market.add("RTX 4090", dph=f"0.4{number}", min_bid=f"0.2{number}")
        # each test puts its own answers in the way, one by one
        emulator.api.before, emulator.api.after = (lambda call: None), (lambda call, real: real)
        yield emulator


@pytest.fixture
def cloud(vast: VastEmulator) -> VastCloud:
    return cloud_at(vast)


def cloud_at(vast: VastEmulator, key: str | None = None, **more: Any) -> VastCloud:
    clock = vast.clock
    return VastCloud(key or vast.account_key, vast.url, clock=clock.now, sleep=clock.sleep, epoch=clock.now, **more)


def raw(vast: VastEmulator, **more: Any) -> Any:
    """The client as anybody would use it."""
    return vastai.VastAI(vast.account_key, vast.url, **more)


def order(bid: float | None = None, label: str = "wf1:test:nonce:abc", **environment: str) -> Order:
    return Order(label, "example/worker@sha256:0", 20.0, bid, environment)


def first(cloud: VastCloud, query: OfferQuery = DEMAND) -> Offer:
    return cloud.offers(query)[0]


def calls(vast: VastEmulator, endpoint: str) -> list[Call]:
    return [call for call in vast.calls if call.endpoint == endpoint]


def answering(vast: VastEmulator, endpoint: str, given: Answer | None, times: int = 1, do: bool = False) -> None:
    """The next calls of an endpoint are answered with this, done before (`do`) or not at all."""
    left = iter(range(times))

    def before(call: Call) -> Answer | None:
        return given if not do and call.endpoint == endpoint and next(left, None) is not None else None

    def after(call: Call, real: Answer) -> Answer:
        return given if do and given and call.endpoint == endpoint and next(left, None) is not None else real

    vast.api.before, vast.api.after = before, after


def said(body: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(body).encode(), headers=tuple(headers.items()))


# ---- what works ----


def test_a_machine_is_found_rented_seen_and_destroyed(vast: VastEmulator, cloud: VastCloud) -> None:
    offers = cloud.offers(DEMAND)
    assert [offer.gpu_usd_per_hour for offer in offers] == [0.40, 0.41, 0.42, 0.43], "the cheapest first"
    made = cloud.create(offers[1], order(WORKER_TOKEN="t"))
    assert isinstance(made, Created)
    (row,) = cloud.instances()
    assert (row.id, row.label, row.machine_id, row.is_bid) == (
        made.instance_id, "wf1:test:nonce:abc", offers[1].machine_id, False,
    )  # fmt: skip
    assert row.gpu_usd_per_hour == 0.41
    assert row.storage_usd_per_hour == pytest.approx(offers[1].storage_usd_per_hour(20))
    assert row.started_ms == pytest.approx(vast.clock.now() * 1000, abs=60_000)
    vast.advance(600)
    assert cloud.instances()[0].actual == "running"
    assert cloud.destroy(made.instance_id)
    assert cloud.destroy(made.instance_id), "what is gone may be destroyed again"
    vast.advance(60)
    assert cloud.instances() == ()
    billed = cloud.charges_usd(0, int(vast.clock.now() * 1000))
    assert billed == {made.instance_id: pytest.approx(vast.truth().usd)}
    assert vast.truth().violations == ()
    assert vast.find_secrets() == []


def test_a_bid_is_a_bid_and_may_be_changed(vast: VastEmulator, cloud: VastCloud) -> None:
    made = cloud.create(first(cloud, SPOT), order(bid=0.25))
    assert isinstance(made, Created)
    (row,) = cloud.instances()
    assert row.is_bid
    assert row.gpu_usd_per_hour == 0.25
    assert cloud.change_bid(made.instance_id, 0.3)
    assert not cloud.change_bid(made.instance_id, 0.0)
    assert cloud.instances()[0].gpu_usd_per_hour == 0.3
    vast.advance(600)
    vast.preempt(made.instance_id)
    (row,) = cloud.instances()
    assert (row.current, row.intended, row.next) == ("stopped",) * 3


def test_sixty_instances_come_in_pages_and_each_once(vast: VastEmulator, cloud: VastCloud) -> None:
    ids = {vast.add_foreign(f"other-{number}") for number in range(60)}
    assert {row.id for row in cloud.instances()} == ids
    assert len(calls(vast, "list")) == 3


def test_the_account_says_its_credit_and_the_names_of_its_variables(vast: VastEmulator, cloud: VastCloud) -> None:
    vast.world.account_environment["HF_TOKEN"] = "hf_secret"
    account = cloud.account()
    assert (account.credit_usd, account.environment) == (100.0, ("HF_TOKEN",))
    assert "hf_secret" not in repr(account)


def test_the_log_of_an_instance_can_be_read(vast: VastEmulator, cloud: VastCloud) -> None:
    made = cloud.create(first(cloud), order())
    assert isinstance(made, Created)
    vast.advance(600)
    assert cloud.logs(made.instance_id, 20) == "container started\n"


def test_the_market_is_asked_for_what_it_can_filter_in_real_types(vast: VastEmulator, cloud: VastCloud) -> None:
    vast.market.add("RTX 3090", dph="0.2", gpu_ram=24_576, compute_cap=860)
    vast.market.add("RTX 4090", dph="0.1", reliability=0.9)
    vast.market.add("RTX 4090", dph="0.1", inet_down=50)
    vast.market.add("RTX 4090", dph="0.1", verified=False)
    found = cloud.offers(dataclasses.replace(DEMAND, gpu_names=("RTX_3090",)))
    assert [offer.gpu_name for offer in found] == ["RTX 3090"]
    assert min(offer.gpu_usd_per_hour for offer in cloud.offers(DEMAND)) == 0.2
    assert cloud.offers(dataclasses.replace(DEMAND, max_usd_per_hour=0.19)) == ()


# ---- the traps ----


def test_t1_the_client_rents_again_after_an_answer_that_was_lost(vast: VastEmulator, cloud: VastCloud) -> None:
    offer = first(cloud)
    answering(vast, "create", said({}, 504), do=True)
    with pytest.raises(requests.HTTPError) as lost:
        raw(vast, retry=3).create_instance(offer.id, image="i", disk=20, label="leaked")
    # the second request met the first one's instance: an offer that somebody has
    assert lost.value.response is not None
    assert lost.value.response.status_code in (410, 429)
    assert [contract.label for contract in vast.alive()] == ["leaked"]


@pytest.mark.parametrize(
    "given",
    [said({}, 504), said({}, 502), said({}, 400), said({}), Answer(400, b""), Answer(200, b""),
     Answer(200, b"<html>"), Answer(500, b"oops"), Answer(200, b"", drop=True)],
)  # fmt: skip
def test_t1_what_may_have_been_rented_is_unknown_and_never_asked_for_again(
    vast: VastEmulator, cloud: VastCloud, given: Answer
) -> None:
    offer = first(cloud)
    answering(vast, "create", given, do=True)
    assert isinstance(cloud.create(offer, order()), Unknown)
    assert len(calls(vast, "create")) == 1
    assert [row.label for row in cloud.instances()] == ["wf1:test:nonce:abc"]


def test_t1_a_server_that_hangs_leaves_it_unknown(vast: VastEmulator) -> None:
    cloud = cloud_at(vast, create_timeout_s=0.2)
    offer = first(cloud)
    answering(vast, "create", Answer(200, b"{}", hold_s=0.6), do=True)
    assert isinstance(cloud.create(offer, order()), Unknown)
    assert len(calls(vast, "create")) == 1


def test_t2_a_refusal_may_have_made_an_instance_that_the_client_hides(vast: VastEmulator, cloud: VastCloud) -> None:
    offer, other, *_ = cloud.offers(SPOT)
    with pytest.raises(requests.HTTPError) as hidden:
        raw(vast).create_instance(other.id, image="i", disk=20, price=0.001)
    assert "new_contract" not in str(hidden.value)
    (left,) = vast.alive()
    vast.advance(60)
    refused = cloud.create(offer, order(bid=0.01))
    assert isinstance(refused, Refused)
    assert refused.instance_id in {contract.id for contract in vast.alive()} - {left.id}
    assert cloud.destroy(refused.instance_id)


def test_t3_the_client_takes_success_false_for_success(vast: VastEmulator, cloud: VastCloud) -> None:
    instance = vast.add_foreign()
    no = said({"success": False, "error": "try_later", "msg": "not now"})
    answering(vast, "destroy", no)
    assert raw(vast).destroy_instance(instance)["success"] is False
    vast.advance(10)
    answering(vast, "destroy", no)
    with pytest.raises(CloudBlind, match="try_later not now"):
        cloud.destroy(instance)
    offer = first(cloud)
    answering(vast, "create", no)
    assert cloud.create(offer, order()) == Refused("Vast.ai refuses to rent (200 try_later not now)")


@pytest.mark.parametrize(
    "given",
    [said({}), said([]), said({"success": True}), said({"success": False, "error": "x"}), Answer(200, b"<html>"),
     said({"success": False, "error": "deprecated_endpoint"}, 410),
     said({"success": True, "instances": [], "total_instances": 3, "next_token": None}),
     said({"success": True, "instances": [{"id": 5}], "total_instances": 1, "next_token": None})],
)  # fmt: skip
def test_t4_a_list_that_did_not_come_is_not_an_empty_one(vast: VastEmulator, cloud: VastCloud, given: Answer) -> None:
    vast.add_foreign()
    answering(vast, "list", given, times=5)
    with pytest.raises(CloudBlind):
        cloud.instances()


def test_t4_the_client_reads_it_as_empty(vast: VastEmulator) -> None:
    vast.add_foreign()
    answering(vast, "list", said({}))
    assert raw(vast).show_instances() == []


def test_t4_a_page_that_is_lost_loses_the_list(vast: VastEmulator, cloud: VastCloud) -> None:
    for number in range(30):
        vast.add_foreign(f"other-{number}")
    pages = iter([None, *[said({}, 500)] * 9])
    vast.api.before = lambda call: next(pages) if call.endpoint == "list" else None
    with pytest.raises(CloudBlind):
        cloud.instances()


def test_t4_a_list_that_changed_while_it_was_read_is_read_again(vast: VastEmulator, cloud: VastCloud) -> None:
    for number in range(30):
        vast.add_foreign(f"other-{number}")
    seen: list[int] = []

    def after(call: Call, real: Answer) -> Answer:
        seen.append(1)
        if len(seen) == 1:
            vast.add_foreign("late")
        return real

    vast.api.after = after
    assert len(cloud.instances()) == 31
    assert len(seen) == 4


@pytest.mark.parametrize("odd", [{"start_date": None}, {"extra_env": "A=b"}])
def test_t5_one_odd_row_blinds_the_client_only(vast: VastEmulator, cloud: VastCloud, odd: dict[str, Any]) -> None:
    vast.add_foreign("fine")
    strange = vast.add_foreign("strange")

    def after(call: Call, real: Answer) -> Answer:
        body = real.json() if call.endpoint == "list" and real.status == 200 else {}
        for row in body.get("instances", []):
            row.update(odd if row["id"] == strange else {})
        return said(body) if body else real

    vast.api.after = after
    with pytest.raises((TypeError, IndexError)):
        raw(vast).show_instances()
    vast.advance(5)
    assert {row.label for row in cloud.instances()} == {"fine", "strange"}


def test_t6_the_client_tries_again_sooner_than_it_may(vast: VastEmulator, cloud: VastCloud) -> None:
    vast.add_foreign()
    client = raw(vast)
    client.show_instances()
    with pytest.raises(requests.HTTPError):
        client.show_instances()
    assert len(vast.truth().violations) == 3
    vast.advance(60)
    for _ in range(4):
        cloud.instances()
    assert len(vast.truth().violations) == 3


@pytest.mark.parametrize(
    "given", [Answer(429, b"API requests too frequent", "text/plain"), said({"retry_after": 5}, 429)]
)
def test_t6_an_endpoint_that_is_asked_too_often_is_asked_again_when_it_may(
    vast: VastEmulator, cloud: VastCloud, given: Answer
) -> None:
    instance = vast.add_foreign()
    answering(vast, "destroy", given, times=2)
    assert cloud.destroy(instance)
    at = [call.at for call in calls(vast, "destroy")]
    assert len(at) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(at)) >= 5


def test_t6_who_is_told_to_wait_long_is_asked_once_a_window(vast: VastEmulator, cloud: VastCloud) -> None:
    wait = Answer(429, b"", headers=(("Retry-After", "90"),))
    answering(vast, "list", wait, times=99)
    for _ in range(9):
        with pytest.raises(CloudBlind, match=r"no more questions|429"):
            cloud.instances()
        vast.advance(10)
    assert len(calls(vast, "list")) <= 2
    assert cloud.offers(DEMAND), "the other endpoints answer"


def test_t6_what_is_told_to_wait_long_is_not_rented_nor_asked_for(vast: VastEmulator, cloud: VastCloud) -> None:
    offer = first(cloud)
    answering(vast, "create", Answer(429, b"", headers=(("Retry-After", "90"),)))
    assert isinstance(cloud.create(offer, order()), Unknown)
    refused = cloud.create(offer, order())
    assert isinstance(refused, Refused)
    assert "not asked for" in refused.reason
    assert len(calls(vast, "create")) == 1


def test_t7_the_client_breaks_without_a_try(vast: VastEmulator) -> None:
    with pytest.raises(AttributeError):
        raw(vast, retry=0).show_user()


def test_t8_the_client_sends_numbers_of_a_text_query_as_text(vast: VastEmulator, cloud: VastCloud) -> None:
    raw(vast).search_offers("num_gpus=1 gpu_ram>=24")
    cloud.offers(DEMAND)
    theirs, ours = (call.data() for call in calls(vast, "search"))
    assert theirs["num_gpus"] == {"eq": "1"}
    assert "rented" not in theirs
    assert ours["num_gpus"] == {"eq": 1}
    assert ours["gpu_ram"] == {"gte": 8000}
    assert ours["rented"] == {"eq": False}


def test_t9_the_command_line_ends_with_zero_whatever_happened(vast: VastEmulator, tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "vastai"
    done = subprocess.run(
        [str(program), "destroy", "instance", "5", "-y", "--url", vast.url, "--api-key", "wrong-key-wrong-key"],
        capture_output=True, text=True, timeout=60, check=False, env={"HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0
    assert calls(vast, "destroy")[0].status == 404


def test_t10_an_offer_for_bids_is_rented_at_the_full_price_where_none_is_named(
    vast: VastEmulator, cloud: VastCloud
) -> None:
    offer, other, *_ = cloud.offers(SPOT)
    raw(vast).create_instance(other.id, image="i", disk=20)
    (rented,) = vast.alive()
    assert not rented.is_bid
    refused = cloud.create(offer, order(bid=None))
    assert isinstance(refused, Refused)
    assert "without a bid" in refused.reason
    assert len(calls(vast, "create")) == 1
    vast.advance(60)
    assert first(cloud, DEMAND).id == offer.id
    assert isinstance(cloud.create(offer, order(bid=None)), Created), "sought as what it is rented as"


def test_t11_the_client_leaves_a_stopped_instance_where_it_cannot_run(vast: VastEmulator, cloud: VastCloud) -> None:
    offer, other, *_ = cloud.offers(DEMAND)
    raw(vast).create_instance(other.id, image="i", disk=20)
    vast.advance(60)
    cloud.create(offer, order())
    theirs, ours = (call.data() for call in calls(vast, "create"))
    assert theirs["cancel_unavail"] is False
    assert ours["cancel_unavail"] is True
    assert ours["runtype"] == "args"
    assert (ours["image_login"], ours["onstart"]) == (None, None)


@pytest.mark.parametrize("status", [404, 401])
def test_t12_a_key_that_was_revoked_says_nothing_of_what_exists(vast: VastEmulator, status: int) -> None:
    vast.switches.bad_key_status = status
    instance = vast.add_foreign()
    cloud = cloud_at(vast)
    vast.revoke_key()
    asked: list[Callable[[], object]] = [
        lambda: cloud.destroy(instance),
        cloud.instances,
        cloud.account,
        lambda: cloud.offers(DEMAND),
        lambda: cloud.create(OFFER, order()),
        lambda: cloud.change_bid(instance, 0.2),
        lambda: cloud.charges_usd(0, 1),
        lambda: cloud.logs(instance, 5),
    ]
    for ask in asked:
        with pytest.raises(CloudRefused, match="does not accept the key"):
            ask()
    assert len(vast.alive(foreign=True)) == 1


OFFER = Offer(
    1, 1, 1, "RTX 4090", 1, 24_000, 12.8, 890, 0.99, True, True, False, 100, 500, 500, 0, 0, 0.1, 0.4, 0.2, 9e5
)


# ---- what is in the way ----


def test_an_offer_that_is_gone_is_somebody_elses(vast: VastEmulator, cloud: VastCloud) -> None:
    offer = first(cloud)
    assert isinstance(cloud.create(offer, order()), Created)
    again = cloud.create(offer, order(label="wf1:test:other:abc"))
    assert isinstance(again, Refused)
    assert again.taken


def test_without_credit_nothing_can_be_rented_and_it_says_so(vast: VastEmulator, cloud: VastCloud) -> None:
    offer = first(cloud)
    vast.world.pay_in(-vast.world.credit_left())  # type: ignore[arg-type]
    refused = cloud.create(offer, order())
    assert isinstance(refused, Refused)
    assert refused.hopeless
    assert "no credit left" in refused.reason
    assert cloud.account().credit_usd == 0


def test_a_key_with_few_rights_is_told_which_it_needs(vast: VastEmulator) -> None:
    cloud = cloud_at(vast, vast.add_key("reader", ["instance_read"]))
    cloud.instances()
    with pytest.raises(CloudRefused, match="instance_write"):
        cloud.destroy(5)


def test_a_market_that_cannot_be_reached_blinds(vast: VastEmulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    cloud = VastCloud(vast.account_key, nowhere, clock=vast.clock.now, sleep=vast.clock.sleep)
    for ask in (cloud.instances, cloud.account, lambda: cloud.destroy(1), lambda: cloud.offers(DEMAND)):
        with pytest.raises(CloudBlind, match="cannot be reached"):
            ask()
    assert isinstance(cloud.create(OFFER, order()), Unknown)


def test_a_market_that_hangs_is_asked_once(vast: VastEmulator) -> None:
    cloud = cloud_at(vast, read_timeout_s=0.2)
    answering(vast, "list", Answer(200, b"{}", hold_s=0.6))
    with pytest.raises(CloudBlind, match="no answer in time"):
        cloud.instances()
    assert len(calls(vast, "list")) == 1


@pytest.mark.parametrize("fails", [said({}, 503), Answer(200, b"", drop=True)])
def test_what_changes_nothing_is_asked_again(vast: VastEmulator, cloud: VastCloud, fails: Answer) -> None:
    vast.add_foreign()
    answering(vast, "list", fails, times=2)
    assert len(cloud.instances()) == 1


def test_every_endpoint_keeps_its_gap_when_hurried(vast: VastEmulator, cloud: VastCloud) -> None:
    ids = [
        made.instance_id for offer in cloud.offers(SPOT) if isinstance(made := cloud.create(offer, order(0.3)), Created)
    ]
    assert len(ids) == 4
    for instance in ids:
        cloud.change_bid(instance, 0.31)
        cloud.logs(instance, 1)
    for _ in range(12):
        cloud.offers(DEMAND)
        cloud.instances()
        cloud.account()
        cloud.charges_usd(0, 1)
    for instance in ids:
        cloud.destroy(instance)
    assert vast.truth().violations == ()
    for endpoint in ("create", "destroy", "list", "charges"):
        at = [call.at for call in calls(vast, endpoint)]
        assert min(later - earlier for earlier, later in itertools.pairwise(at)) >= GAPS[endpoint] - 1e-6


def test_it_reads_the_key_from_the_environment_or_a_file(
    vast: VastEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    monkeypatch.setenv("WHISPERFLEET_VAST_URL", vast.url)
    with pytest.raises(CloudRefused, match=r"no Vast\.ai key"):
        connect(fleet_settings())
    monkeypatch.setenv("WHISPERFLEET_VAST_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(OptionError, match="WHISPERFLEET_VAST_KEY_FILE"):
        connect(fleet_settings())
    (tmp_path / "key").write_text(vast.account_key + "\n")
    assert connect(fleet_settings()).account().credit_usd == 100


def test_the_key_is_in_no_log_repr_or_error(vast: VastEmulator, caplog: pytest.LogCaptureFixture) -> None:
    key = vast.account_key
    caplog.set_level(logging.DEBUG)
    cloud = cloud_at(vast)
    shown = [repr(cloud), str(cloud)]
    echo = said({"success": False, "error": "auth_error", "msg": f"Invalid key {key}"}, 401)
    answers = [echo, said({"error": key}, 500), Answer(200, b"", drop=True), said({}, 504), said({"msg": key}, 400)]
    asked: list[Callable[[], object]] = [
        cloud.instances, cloud.account, lambda: cloud.offers(DEMAND), lambda: cloud.destroy(1),
        lambda: cloud.logs(1, 1), lambda: cloud.change_bid(1, 0.2), lambda: cloud.charges_usd(0, 1),
        lambda: cloud.create(OFFER, order()),
    ]  # fmt: skip
    for given, ask in itertools.product(answers, asked):
        vast.api.before = lambda call, given=given: given  # type: ignore[misc]
        try:
            shown.append(repr(ask()))
        except (CloudBlind, CloudRefused) as error:
            # a cause would be the client's error, and that has the request with the key in its header
            shown += [*traceback.format_exception(error), repr(error.__cause__), repr(vars(error.__context__ or error))]
    assert key not in "\n".join(shown)
    assert key not in caplog.text


def test_no_request_but_the_header_carries_the_key_or_waits_in_real_time(vast: VastEmulator, cloud: VastCloud) -> None:
    began = time.monotonic()
    offer = first(cloud)
    refused = cloud.create(offer, order(TOKEN=vast.account_key[:-1] + vast.account_key[-1]))
    assert isinstance(refused, Refused)
    assert "account's key" in refused.reason
    assert vast.account_key not in refused.reason
    assert calls(vast, "create") == []
    for _ in range(8):
        cloud.offers(DEMAND)
    assert vast.clock.now() > 1_800_000_040
    assert time.monotonic() - began < 30, "the pace is kept on the emulator's clock"
    vast.world.fate = lambda slot: Fate()
    assert vast.find_secrets() == []
