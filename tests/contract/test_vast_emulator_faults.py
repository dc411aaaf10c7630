"""Each fault of the emulator does what it says, to the real `vastai` client; and the invariants see what is wrong."""

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.emulator.renting import GAP, client_of, error_of, rent, rented, row_of, running, some_offer
from tests.vast_emulator import FAULTS, Container, VastEmulator, assert_invariants


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


# ---- faults ----


def test_every_fault_is_there_and_says_what_it_is() -> None:
    assert list(FAULTS) == [f"F{number}" for number in range(1, 18)]
    for name, make in FAULTS.items():
        assert (make.__doc__ or "").startswith(f"{name}: ")
        assert "\n" not in (make.__doc__ or "")


@pytest.mark.parametrize(
    ("style", "header", "body"),
    [
        ("text", None, "too frequent"),
        ("json", None, "retry_after"),
        ("retry-after-1", "1", "too frequent"),
        ("retry-after-90", "90", "too frequent"),
    ],
)
def test_f1(vast: VastEmulator, client: Any, style: str, header: str | None, body: str) -> None:
    rule = vast.faults.add("F1", endpoint=("list", "destroy"), style=style, count=2)
    for method, path in (("GET", "/api/v1/instances/"), ("DELETE", "/api/v0/instances/1/")):
        answer = client.client._request(method, vast.url + path, client.client._build_headers())
        assert (answer.status_code, answer.headers.get("Retry-After")) == (429, header)
        assert body in answer.text
    vast.advance(GAP)
    assert client.show_instances_v1({})["success"]
    assert rule.fired == 2
    assert vast.truth().violations == ()


@pytest.mark.parametrize(("status", "error"), [(410, "no_such_ask"), (404, "invalid_args"), (400, "no_such_ask")])
def test_f2(vast: VastEmulator, client: Any, status: int, error: str) -> None:
    vast.faults.add("F2", status=status)
    offer = some_offer(vast)
    assert error_of(lambda: rent(vast, client, id=offer)) == (status, error)
    assert offer not in {row["id"] for row in client.search_offers({})}
    assert rented(vast, client)


def test_f2_all_gone(vast: VastEmulator, client: Any) -> None:
    vast.faults.add("F2", all_gone=True)
    assert error_of(lambda: rent(vast, client))[0] == 410
    assert client.search_offers({}) == []


@pytest.mark.parametrize("how", ["hang", "rst", "502", "504", "empty400", "empty200"])
def test_f3(vast: VastEmulator, client: Any, how: str) -> None:
    rule = vast.faults.add("F3", how=how, shown_after_s=150)
    before = vast.clock.now() + GAP
    if how == "empty200":
        assert rent(vast, client) == {}
    else:
        with pytest.raises(requests.RequestException):
            rent(vast, client)
    assert vast.clock.now() - before == (120 if how == "hang" else 0)
    assert rule.fired == len(vast.alive()) == 1
    assert client.show_instances_v1({})["total_instances"] == 0
    vast.advance(151)
    assert client.show_instances_v1({})["total_instances"] == 1


def test_f3_waits_for_a_create_that_did_something(vast: VastEmulator, client: Any) -> None:
    rule = vast.faults.add("F3", how="rst")
    assert error_of(lambda: rent(vast, client, id=1)) == (410, "no_such_ask")
    assert rule.fired == 0
    with pytest.raises(requests.RequestException):
        rent(vast, client)
    assert rule.fired == 1


def test_f3_outlasts_the_clients_own_patience(vast: VastEmulator, client: Any) -> None:
    vast.faults.add("F3", how="hang", real_s=0.4)
    client.client.timeout = 0.1
    with pytest.raises(requests.Timeout):
        rent(vast, client)
    assert len(vast.alive()) == 1


def test_f4(vast: VastEmulator, client: Any) -> None:
    rule = vast.faults.add("F4")
    with pytest.raises(requests.HTTPError) as raised:
        rent(vast, client)
    assert raised.value.response is not None
    number = raised.value.response.json()["new_contract"]
    row = row_of(vast, number)
    assert (row["cur_state"], row["actual_status"]) == ("stopped", "exited")
    assert rule.fired == 1
    vast.world.rival_leaves(vast.contract(number).slot)
    vast.advance(60)
    assert vast.contract(number).actual == "running", "a bid that lost starts when it is the highest"


def test_f4_comes_by_itself_where_the_bid_is_too_low(vast: VastEmulator, client: Any) -> None:
    assert error_of(lambda: rent(vast, client, price=0.15)) == (400, "invalid_price")
    assert [each.current for each in vast.alive()] == ["stopped"]


def test_f5(vast: VastEmulator, client: Any) -> None:
    vast.faults.add("F5", starts_after_s=100)
    number = rented(vast, client, price=None)
    assert row_of(vast, number)["cur_state"] == "stopped"
    vast.advance(200)
    assert row_of(vast, number)["actual_status"] == "running"


@pytest.mark.parametrize(
    ("kind", "state", "message"),
    [
        ("null", None, ""),
        ("oci", "created", "OCI runtime create failed"),
        ("cuda", "created", "unsatisfied condition: cuda"),
        ("image", "created", "manifest unknown"),
        ("loading", "loading", ""),
        ("slow", "running", "success"),
    ],
)
def test_f6(vast: VastEmulator, client: Any, kind: str, state: str | None, message: str) -> None:
    vast.faults.add("F6", kind=kind)
    number = rented(vast, client)
    vast.advance(100)
    if kind == "slow":
        assert "Downloading" in row_of(vast, number)["status_msg"]
    vast.advance(400)
    row = row_of(vast, number)
    assert row["actual_status"] == state
    assert message in row["status_msg"]
    assert vast.truth().by_state.get("running", 0) == (0 if kind != "slow" else vast.truth().by_state["running"])


def test_f7() -> None:
    launched: list[Container] = []

    def launch(container: Container) -> None:
        launched.append(container)

    with VastEmulator(launch=launch) as vast:
        client = client_of(vast)
        for kind in ("silent", "bad_cuda", "slow", "wrong"):
            vast.market.add()
            vast.faults.add("F7", kind=kind)
            running(vast, client, label=kind)
        vast.market.add()
        running(vast, client, label="good")
    assert [(each.label, each.flaw) for each in launched] == [
        ("bad_cuda", "bad_cuda"),
        ("slow", "slow"),
        ("wrong", "wrong"),
        ("good", None),
    ]


@pytest.mark.parametrize(("who", "stopped"), [("one", 1), ("half", 2), ("all", 4)])
def test_f8(vast: VastEmulator, client: Any, who: str, stopped: int) -> None:
    for _ in range(4):
        running(vast, client)
    rule = vast.faults.add("F8", who=who, after_s=100, resume_after_s=300)
    vast.advance(101)
    assert [each.actual for each in vast.alive()].count("exited") == stopped
    assert rule.fired == 1
    vast.advance(400)
    assert [each.actual for each in vast.alive()] == ["running"] * 4


def test_f8_flaps(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.faults.add("F8", who="flap", resume_after_s=60, flaps=3)
    vast.advance(1_000)
    states = [state for _, state in vast.contract(number).history]
    assert states.count("exited") == 3
    assert states[-1] == "running"


def test_f9(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.faults.add("F9", after_s=10, back_after_s=500)
    seen = []
    for _ in range(60):
        vast.advance(10)
        seen.append(vast.contract(number).actual)
    assert list(dict.fromkeys(seen)) == ["unknown", "offline", "running"]


@pytest.mark.parametrize("how", ["refused", "503", "hang"])
def test_f10(vast: VastEmulator, client: Any, how: str) -> None:
    vast.faults.add("F10", how=how, after_s=100, seconds=1_800)
    assert client.show_user()
    vast.advance(100)
    before = vast.clock.now()
    with pytest.raises(requests.RequestException):
        client.show_user()
    assert vast.clock.now() - before == (120 if how == "hang" else 0)
    vast.advance(1_800)
    assert client.show_user()


@pytest.mark.parametrize("how", ["empty", "html", "410", "missing", "zero", "null_start"])
def test_f11(vast: VastEmulator, client: Any, how: str) -> None:
    for _ in range(2):
        running(vast, client)
    rule = vast.faults.add("F11", how=how)
    answer = client.client.get("/api/v1/instances/")
    assert rule.fired == 1
    if how == "html":
        assert answer.text.startswith("<html>")
        return
    data = answer.json()
    assert answer.status_code == (410 if how == "410" else 200)
    assert len(data.get("instances", [])) == {"missing": 1, "null_start": 2}.get(how, 0)
    assert data.get("total_instances") == {"missing": 2, "null_start": 2, "zero": 0}.get(how)
    if how == "null_start":
        assert data["instances"][0]["start_date"] is data["instances"][0]["extra_env"] is None
    vast.advance(GAP)
    assert client.show_instances_v1({})["total_instances"] == 2


def test_f11_second_page_of_many(vast: VastEmulator, client: Any) -> None:
    vast.faults.add("F11", how="many")
    vast.faults.add("F11", how="page2")
    first = client.show_instances_v1({"limit": 25})
    assert first["total_instances"] == 60
    vast.advance(1)
    assert client.client.get("/api/v1/instances/", {"after_token": first["next_token"]}).status_code == 500
    vast.advance(1)
    assert client.show_instances_v1({"after_token": first["next_token"]})["success"]


@pytest.mark.parametrize(("how", "status"), [("false", 200), ("500", 500), ("auth", 404), ("alive", 200)])
def test_f12(vast: VastEmulator, client: Any, how: str, status: int) -> None:
    number = running(vast, client)
    vast.faults.add("F12", how=how, count=2)
    for _ in range(2):
        answer = client.client.delete(f"/instances/{number}/")
        assert answer.status_code == status
        vast.advance(GAP)
    assert vast.contract(number).alive
    assert client.destroy_instance(number)["success"]
    assert not vast.contract(number).alive


@pytest.mark.parametrize(("moment", "alive"), [("before", 0), ("after", 1)])
def test_f13(vast: VastEmulator, client: Any, moment: str, alive: int) -> None:
    crashes: list[float] = []
    vast.faults.add("F13", crash=lambda: crashes.append(vast.clock.now()), endpoint="create", moment=moment)
    with pytest.raises(requests.ConnectionError):
        rent(vast, client)
    assert (len(crashes), len(vast.alive())) == (1, alive)


def test_f14(vast: VastEmulator) -> None:
    from provisioning.fleet import Label

    vast.faults.add("F14", count=7)
    assert len(vast.foreign_ids()) == 7
    labels = [Label.decode(each.label) for each in vast.alive(foreign=True)]
    assert [label and label.fleet for label in labels] == ["other", "other", *[None] * 5]
    vast.advance(3600)
    assert vast.truth().usd == 0
    assert vast.truth().peak_alive == 0


def test_f15(vast: VastEmulator, client: Any) -> None:
    vast.faults.add("F15", factor=3, count=2)
    number = rented(vast, client, price=None)
    assert row_of(vast, number)["dph_base"] == pytest.approx(1.2)
    assert error_of(lambda: rent(vast, client, price=0.25)) == (400, "invalid_price")


def test_f16(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    vast.faults.add("F16", how="credit", after_s=60)
    vast.faults.add("F16", how="revoked", after_s=120)
    vast.advance(61)
    assert client.show_user()["credit"] < 0
    assert vast.contract(number).current == "stopped"
    vast.advance(61)
    assert error_of(lambda: client.show_user()) == (404, "auth_error")


def test_f17(vast: VastEmulator, client: Any) -> None:
    number = running(vast, client)
    plain = row_of(vast, number)
    vast.faults.add("F17", skew_s=-600)
    row = row_of(vast, number)
    assert plain["start_date"] - row["start_date"] == plain["end_date"] - row["end_date"] == 600


def test_rules_combine_wait_and_go_by_chance(vast: VastEmulator, client: Any) -> None:
    down = vast.faults.add("F10", count=None, probability=0.5, seconds=None)
    vast.faults.add("F11", how="empty", nth=2, count=None)
    texts = []
    for _ in range(30):
        vast.advance(GAP)
        texts.append(client.client.get("/api/v1/instances/").text)
    assert 5 < texts.count("Service Unavailable") == down.fired < 25
    others = [text for text in texts if text != "Service Unavailable"]
    assert len(others[0]) > 2
    assert set(others[1:]) == {"{}"}
    vast.faults.clear()
    vast.advance(GAP)
    assert client.show_instances_v1({})["success"]
    assert {call.fault for call in vast.calls} == {"", "F10", "F11"}


# ---- invariants ----


def test_the_invariants_see_what_is_wrong(vast: VastEmulator, client: Any) -> None:
    foreign = vast.add_foreign()
    first, _ = running(vast, client), running(vast, client, env={"KEY": vast.account_key})
    vast.advance(3600)
    client.destroy_instance(foreign)
    client.show_user()
    with pytest.raises(AssertionError) as raised:
        assert_invariants(vast, max_usd=0.1, max_instances=1, reported_usd=0.1, secrets=["wf1:t"])
    text = str(raised.value)
    for words in (
        f"leaked: {first}",
        "of a budget of $0.1",
        "reports $0.1",
        f"foreign instance {foreign} is gone",
        "to a foreign instance",
        "a secret in PUT",
        "2 instances at once",
    ):
        assert words in text
    client.show_instances_v1({})
    client.client.get("/api/v1/instances/")
    with pytest.raises(AssertionError, match="account called list too early"):
        assert_invariants(vast, max_usd=9, max_instances=9, leaked=9)
