"""Short ways to rent on the emulator with the real client, for tests that need something rented."""

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.support.services import absent
from tests.vast_emulator import VastEmulator

IMAGE = "example/worker@sha256:0"
GAP = 20.0  # longer than any of the API's, seconds


def client_of(vast: VastEmulator, key: str | None = None) -> Any:
    """The real client, with one try a call. Where it is not installed the test is skipped, and fails in CI."""
    if importlib.util.find_spec("vastai") is None:
        absent("needs vastai: pip install '.[vast]'")
    from vastai import VastAI

    return VastAI(key or vast.account_key, vast.url, retry=1)


def some_offer(vast: VastEmulator) -> int:
    """One that nobody else bids for."""
    slots = [slot for slot in vast.market.all_slots() if slot.machine.online and slot.rival_bid is None]
    return next(slot.ask_id for slot in slots if slot.ask_id is not None)


def rent(vast: VastEmulator, client: Any, **changes: Any) -> Any:
    """Waits until the API lets a create pass. By default an interruptible one of 20 GB."""
    vast.advance(GAP)
    order = {"image": IMAGE, "disk": 20.0, "price": 0.25, "label": "wf1:t:0000000001:zz", "runtype": "args"}
    order |= {"cancel_unavail": True} | changes
    return client.create_instance(order.pop("id", some_offer(vast)), **order)


def rented(vast: VastEmulator, client: Any, **changes: Any) -> int:
    return int(rent(vast, client, **changes)["new_contract"])


def running(vast: VastEmulator, client: Any, **changes: Any) -> int:
    number = rented(vast, client, **changes)
    vast.advance(60)
    assert vast.contract(number).actual == "running"
    return number


def row_of(vast: VastEmulator, number: int) -> Any:
    return next((row for row in vast.api.rows() if row["id"] == number), None)


def error_of(action: Callable[[], Any]) -> tuple[int, str]:
    """Status and error code of a refusal."""
    with pytest.raises(requests.HTTPError) as raised:
        action()
    response = raised.value.response
    assert response is not None
    return response.status_code, str(response.json().get("error"))
