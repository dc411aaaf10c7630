"""Vast.ai's JSON and this project's records: pure, and the only place that knows its field names.

Rows of the list of instances decide what is destroyed and what is billed: where identity or owner is not plain, the
whole list counts as not read (Odd). An offer that cannot be read is only an offer less.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from provisioning.cloud import Instance, Offer, OfferQuery

PAGE_ROWS = 25  # the most that the list of instances gives at once
SEARCH_ROWS = 64  # the most that a search gives


class Odd(Exception):
    """An answer that is not what the API promises; the text says in which way."""


# ---- numbers and words, whatever they were written as ----


def number(value: object) -> float | None:
    """A finite number, also one written as text; None for all else, true and false included."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: object) -> int | None:
    """A whole number, also one written as text or as 3.0."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        return int(value)
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def _first(row: dict[str, Any], *names: str) -> float | None:
    return next((found for name in names if (found := number(row.get(name))) is not None), None)


def _text(value: object) -> str | None:
    return value.strip() if isinstance(value, str) else None


def _money(value: float | None) -> float:
    """Prices are never negative; what is, was not meant."""
    return max(0.0, value or 0.0)


def _epoch_ms(value: object) -> int | None:
    found = number(value)
    return int(found * 1000) if found is not None and 0 < found < 1e11 else None


# ---- offers ----


def search_filter(query: OfferQuery) -> dict[str, dict[str, Any]]:
    """What to search for, in real types: numbers as text match nothing in some fields, and "gpu_ram" is in MB.

    GPU names have spaces in this API, and underscores on its command line; both are taken.
    """
    wanted: dict[str, dict[str, Any]] = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "num_gpus": {"eq": 1},
        "gpu_ram": {"gte": query.min_gpu_ram_mb},
        "cuda_max_good": {"gte": query.min_cuda},
        "compute_cap": {"gte": query.min_compute_capability},
        "reliability": {"gte": query.min_reliability},
        "inet_down": {"gte": query.min_inet_down_mbps},
        "duration": {"gte": query.min_duration_s},
        "disk_space": {"gte": query.disk_gb},
    }
    if query.gpu_names:
        wanted["gpu_name"] = {"in": [name.replace("_", " ") for name in query.gpu_names]}
    if query.max_usd_per_hour is not None:
        wanted["dph_total"] = {"lte": query.max_usd_per_hour}
    if query.datacenter_only:
        wanted["datacenter"] = {"eq": True}
    return wanted


def offers(rows: object) -> tuple[Offer, ...]:
    """The offers of a search that can be read, each once, in the order given.

    Raises Odd where it is no list.
    """
    if not isinstance(rows, list):
        raise Odd("the search gave no list of offers")
    found: dict[int, Offer] = {}
    for row in rows:
        offer = _offer(row) if isinstance(row, dict) else None
        if offer is not None:
            found.setdefault(offer.id, offer)
    return tuple(found.values())


def _offer(row: dict[str, Any]) -> Offer | None:
    """None where a number is missing that a decision to rent needs."""
    id_, machine, gpus = whole(row.get("id")), whole(row.get("machine_id")), whole(row.get("num_gpus"))
    gpu_name = _text(row.get("gpu_name"))
    price, bid = _first(row, "dph_base"), _first(row, "min_bid")
    disk, storage, gpu_ram = _first(row, "disk_space"), _first(row, "storage_cost"), _first(row, "gpu_ram")
    if id_ is None or machine is None or not gpus or not gpu_name or price is None or price <= 0:
        return None
    if disk is None or storage is None or gpu_ram is None:
        return None
    return Offer(
        id=id_,
        machine_id=machine,
        host_id=whole(row.get("host_id")) or 0,
        gpu_name=gpu_name,
        num_gpus=gpus,
        gpu_ram_mb=int(gpu_ram),
        cuda=_first(row, "cuda_max_good") or 0.0,
        compute_capability=int(_first(row, "compute_cap") or 0),
        reliability=_first(row, "reliability2", "reliability") or 0.0,
        verified=row.get("verification") == "verified" or row.get("verified") is True,
        rentable=row.get("rentable") is True and row.get("rented") is not True,
        datacenter=row.get("datacenter") is True or whole(row.get("hosting_type")) == 1,
        disk_gb=disk,
        inet_down_mbps=_first(row, "inet_down") or 0.0,
        inet_up_mbps=_first(row, "inet_up") or 0.0,
        inet_down_usd_per_gb=_money(_first(row, "inet_down_cost")),
        inet_up_usd_per_gb=_money(_first(row, "inet_up_cost")),
        storage_usd_per_gb_month=_money(storage),
        gpu_usd_per_hour=price,
        min_bid_usd_per_hour=bid if bid is not None and bid > 0 else price,
        duration_s=_first(row, "duration") or 0.0,
        geolocation=_text(row.get("geolocation")) or "",
        dlperf=_first(row, "dlperf") or 0.0,
    )


# ---- instances ----


@dataclass(frozen=True)
class Page:
    """One page of the list: its rows, how many there are in all, and where the next one begins."""

    rows: tuple[Instance, ...]
    total: int
    next_token: str | None


def page(body: object) -> Page:
    """Raises Odd where it is anything but a page of instances: nothing is not zero."""
    if not isinstance(body, dict):
        raise Odd("the list is no JSON object")
    if "success" in body and body["success"] is not True:
        raise Odd(f"the list says that it failed ({_text(body.get('error')) or 'no reason given'})")
    rows, total, token = body.get("instances"), body.get("total_instances"), body.get("next_token")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Odd("the list has no rows")
    if not isinstance(total, int) or isinstance(total, bool) or total < len(rows):
        raise Odd("the list does not say rightly how many there are")
    if token is not None and not isinstance(token, str):
        raise Odd("the list does not say where it goes on")
    return Page(tuple(instance(row) for row in rows), total, token or None)


def complete(pages: Sequence[Page]) -> tuple[Instance, ...]:
    """All instances of a list, in its order.

    Raises Odd where it is not whole: a count that changed from page to page, a row twice, or a row too few.
    """
    found = [row for page in pages for row in page.rows]
    if len({page.total for page in pages}) != 1 or len(found) != pages[0].total:
        raise Odd(f"the list has {len(found)} rows and speaks of {' or '.join(str(page.total) for page in pages)}")
    if len({row.id for row in found}) != len(found):
        raise Odd("the list shows an instance twice")
    return tuple(found)


def instance(row: dict[str, Any]) -> Instance:
    """Prices that the row does not say are 0: an intent knows what was agreed.

    Raises Odd where id or label, which say what and whose it is, are not plain.
    """
    id_, label = whole(row.get("id")), row.get("label")
    if id_ is None or id_ <= 0 or "label" not in row or not (label is None or isinstance(label, str)):
        raise Odd("a row of the list has no id or no label")
    storage = _first(row, "storage_total_cost")
    gpu, total = _first(row, "dph_base"), _first(row, "dph_total")
    if gpu is None and total is not None:
        gpu = total - (storage or 0.0)
    if storage is None and total is not None and gpu is not None:
        storage = total - gpu
    return Instance(
        id=id_,
        label=(label or "").strip(),
        machine_id=whole(row.get("machine_id")) or 0,
        gpu_name=_text(row.get("gpu_name")) or "",
        actual=_text(row.get("actual_status")),
        intended=_text(row.get("intended_status")),
        current=_text(row.get("cur_state")),
        next=_text(row.get("next_state")),
        message=_text(row.get("status_msg")) or "",
        is_bid=row.get("is_bid") is True,
        gpu_usd_per_hour=_money(gpu),
        storage_usd_per_hour=_money(storage),
        inet_down_mbps=_first(row, "inet_down") or 0.0,
        inet_down_usd_per_gb=_money(_first(row, "inet_down_cost")),
        inet_up_usd_per_gb=_money(_first(row, "inet_up_cost")),
        started_ms=_epoch_ms(row.get("start_date")),
        ends_ms=_epoch_ms(row.get("end_date")),
    )


# ---- money ----


def charges(rows: Iterable[object]) -> dict[int, float]:
    """Dollars by instance id; what was not charged for an instance is left out.

    Raises Odd where a row is not readable: an audit that leaves out what it cannot read is none.
    """
    billed: dict[int, float] = {}
    for row in rows:
        if not isinstance(row, dict) or (amount := number(row.get("amount"))) is None:
            raise Odd("a charge has no amount")
        source = row.get("source")
        kind, _, name = source.partition("-") if isinstance(source, str) else ("", "", "")
        if kind == "instance" and (id_ := whole(name)) is not None:
            billed[id_] = billed.get(id_, 0.0) + amount
    return billed
