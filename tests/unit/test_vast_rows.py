"""Vast.ai's rows: whatever is odd about one, it is read rightly, left out, or makes the list count as not read."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning import vast_rows as rows
from provisioning.cloud import OfferQuery

OFFER: dict[str, Any] = {
    "id": 71, "machine_id": 12, "host_id": 3, "gpu_name": "RTX 4090", "num_gpus": 1, "gpu_ram": 24564,
    "cuda_max_good": 12.8, "compute_cap": 890, "reliability2": 0.995, "verification": "verified", "rentable": True,
    "rented": False, "hosting_type": 1, "disk_space": 300.5, "inet_down": 812.5, "inet_up": 401.0,
    "inet_down_cost": 0.002, "inet_up_cost": 0.003, "storage_cost": 0.15, "dph_base": 0.31, "dph_total": 0.3142,
    "min_bid": 0.17, "duration": 864000.0, "geolocation": "Oslo, NO", "dlperf": 95.2,
}  # fmt: skip
INSTANCE: dict[str, Any] = {
    "id": 900, "label": "wf1:f:n:abc", "machine_id": 12, "gpu_name": "RTX 4090", "actual_status": "running",
    "intended_status": "running", "cur_state": "running", "next_state": "running", "status_msg": None, "is_bid": True,
    "dph_base": 0.2, "dph_total": 0.2042, "storage_total_cost": 0.0042, "inet_down": 812.5, "inet_down_cost": 0.002,
    "inet_up_cost": 0.003, "start_date": 1790000000.25, "end_date": None, "extra_env": [["A", "b"]],
}  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def page(*found: dict[str, Any], total: int | None = None, token: str | None = None) -> dict[str, Any]:
    return {
        "success": True, "instances": list(found), "total_instances": len(found) if total is None else total,
        "next_token": token,
    }  # fmt: skip


def test_an_offer_is_read_as_it_stands() -> None:
    (offer,) = rows.offers([OFFER])
    assert (offer.id, offer.machine_id, offer.gpu_name, offer.gpu_ram_mb) == (71, 12, "RTX 4090", 24564)
    assert (offer.gpu_usd_per_hour, offer.min_bid_usd_per_hour) == (0.31, 0.17)
    assert offer.verified
    assert offer.rentable
    assert offer.datacenter
    assert offer.storage_usd_per_hour(20) == pytest.approx(0.15 * 20 / 720)


@given(st.sampled_from(sorted(OFFER)))
def test_numbers_written_as_text_are_numbers(name: str) -> None:
    value = OFFER[name]
    text = value if isinstance(value, str | bool) else str(value)
    assert rows.offers([{**OFFER, name: text, "never_seen": {}}]) == rows.offers([OFFER])


@given(st.dictionaries(st.sampled_from(sorted(OFFER)), JSON, max_size=4))
def test_an_offer_that_is_read_can_be_reckoned_with(changes: dict[str, Any]) -> None:
    for offer in rows.offers([{**OFFER, **changes}]):
        assert offer.id == rows.whole(changes.get("id", 71))
        assert offer.gpu_usd_per_hour > 0
        assert offer.min_bid_usd_per_hour > 0
        assert offer.storage_usd_per_gb_month >= 0
        assert all(math.isfinite(value) for value in vars(offer).values() if isinstance(value, float))


@given(JSON)
def test_a_search_that_is_no_list_is_odd(body: object) -> None:
    if isinstance(body, list):
        assert rows.offers(body) == ()
    else:
        with pytest.raises(rows.Odd):
            rows.offers(body)


@given(st.dictionaries(st.sampled_from([*sorted(INSTANCE), "gpu_util", "ports"]), JSON, max_size=5))
def test_a_row_of_the_list_keeps_whose_it_is_or_is_odd(changes: dict[str, Any]) -> None:
    try:
        found = rows.instance({**INSTANCE, **changes})
    except rows.Odd:
        assert {"id", "label"} & set(changes)
        return
    assert found.id == rows.whole(changes.get("id", 900))
    assert found.label == (changes.get("label", "wf1:f:n:abc") or "").strip()
    assert found.gpu_usd_per_hour >= 0
    assert found.is_bid is (changes.get("is_bid", True) is True)
    assert found.started_ms is None or found.started_ms >= 0


def test_a_row_without_start_prices_or_odd_environment_blinds_nobody() -> None:
    found = rows.instance({**INSTANCE, "start_date": None, "extra_env": "A=b", "dph_base": None})
    assert (found.started_ms, found.ends_ms) == (None, None)
    assert found.gpu_usd_per_hour == pytest.approx(0.2)
    assert found.storage_usd_per_hour == pytest.approx(0.0042)


@pytest.mark.parametrize("missing", ["id", "label"])
def test_a_row_without_identity_or_owner_is_no_row(missing: str) -> None:
    with pytest.raises(rows.Odd, match="no id or no label"):
        rows.instance({name: value for name, value in INSTANCE.items() if name != missing})
    assert rows.instance({**INSTANCE, "label": None}).label == ""


@given(JSON)
def test_what_is_no_page_is_never_an_empty_one(body: object) -> None:
    with pytest.raises(rows.Odd):
        rows.page(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"success": False}, {"instances": None}, {"instances": ["x"]}, {"total_instances": None},
        {"total_instances": 0}, {"total_instances": True}, {"next_token": 5},
    ],
)  # fmt: skip
def test_a_page_that_lacks_something_is_odd(changes: dict[str, Any]) -> None:
    with pytest.raises(rows.Odd):
        rows.page({**page(INSTANCE), **changes})


@given(st.lists(st.integers(1, 10**9), unique=True, max_size=80), st.integers(1, 25), st.data())
def test_a_list_is_whole_or_it_is_none(ids: list[int], size: int, data: st.DataObject) -> None:
    chunks = [ids[at : at + size] for at in range(0, len(ids), size)] or [[]]
    pages = [rows.page(page(*({**INSTANCE, "id": i} for i in chunk), total=len(ids))) for chunk in chunks]
    assert [found.id for found in rows.complete(pages)] == ids
    if len(pages) > 1:
        gone = data.draw(st.integers(0, len(pages) - 1))
        with pytest.raises(rows.Odd):
            rows.complete(pages[:gone] + pages[gone + 1 :])
        with pytest.raises(rows.Odd):
            rows.complete([*pages, pages[gone]])


def test_a_search_has_real_types_and_names_with_spaces() -> None:
    wanted = rows.search_filter(OfferQuery(gpu_names=("RTX_4090", "RTX 3090"), max_usd_per_hour=0.35))
    assert wanted["gpu_name"] == {"in": ["RTX 4090", "RTX 3090"]}
    assert wanted["num_gpus"] == {"eq": 1}
    assert wanted["dph_total"] == {"lte": 0.35}
    numbers = [value for field in wanted.values() for value in field.values() if not isinstance(value, list)]
    assert not any(isinstance(value, str) for value in numbers)
    assert json.loads(json.dumps(wanted)) == wanted


def test_charges_are_added_up_by_instance() -> None:
    billed = rows.charges(
        [
            {"source": "instance-7", "amount": 0.5},
            {"source": "instance-7", "amount": "0.25"},
            {"source": "volume-7", "amount": 9},
        ]
    )
    assert billed == {7: 0.75}
    with pytest.raises(rows.Odd):
        rows.charges([{"source": "instance-7", "amount": None}])
