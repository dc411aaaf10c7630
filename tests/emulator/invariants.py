"""What must hold after every scenario, whatever went wrong in it."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tests.emulator.api import Call
from tests.emulator.truth import MUTATING, Truth

if TYPE_CHECKING:
    from tests.vast_emulator import VastEmulator

BUDGET_SLACK = 1.02  # what runs up between the decision and the stop
METER_SLACK, METER_FLOOR_USD = 0.05, 0.005


def assert_invariants(
    vast: "VastEmulator",
    *,
    max_usd: float,
    max_instances: int,
    reported_usd: float | None = None,
    foreign: Iterable[int] | None = None,
    secrets: Iterable[str] = (),
    leaked: int = 0,
) -> Truth:
    """All of them at once, so that a failure tells the whole story. Gives the truth for further looks.

    reported_usd: what the fleet's own meter says; within 5 % of the truth, or half a cent. foreign: ids that must be
    as they were, None: all that are foreign. secrets: strings that no request may carry beside the account's keys,
    which are always looked for. leaked: how many may still be alive, for a look before the end.
    """
    truth = vast.truth()
    problems = [
        *_leaks(vast, truth, leaked),
        *_money(truth, max_usd, reported_usd),
        *_foreign(vast, vast.foreign_ids() if foreign is None else tuple(foreign)),
        *(f"a secret in {each.method} {each.path} at {each.at}" for each, _ in vast.find_secrets(*secrets)),
        *(f"{name} called {endpoint} too early at {at}" for at, endpoint, name in truth.violations),
    ]
    if truth.peak_alive > max_instances:
        problems.append(f"{truth.peak_alive} instances at once, where {max_instances} are the most")
    assert not problems, "\n".join(problems)
    return truth


def _leaks(vast: "VastEmulator", truth: Truth, allowed: int) -> list[str]:
    if len(truth.leaked) <= allowed:
        return []
    contracts = [vast.contract(number) for number in truth.leaked]
    return [f"leaked: {each.id} ({each.label}), {each.actual}, since {each.created_at}" for each in contracts]


def _money(truth: Truth, max_usd: float, reported_usd: float | None) -> list[str]:
    problems = []
    if truth.usd > max_usd * BUDGET_SLACK:
        problems.append(f"spent ${truth.usd:.4f} of a budget of ${max_usd:.4f}")
    if reported_usd is not None:
        slack = max(METER_SLACK * truth.usd, METER_FLOOR_USD)
        if abs(reported_usd - truth.usd) > slack:
            problems.append(f"the fleet reports ${reported_usd:.4f}, and it was ${truth.usd:.4f}")
    return problems


def _foreign(vast: "VastEmulator", ids: tuple[int, ...]) -> list[str]:
    problems = [f"foreign instance {number} is gone" for number in ids if not vast.contract(number).alive]
    for call in vast.calls:
        if call.endpoint in MUTATING and touched(call) & set(ids):
            problems.append(f"{call.key_name} did {call.method} {call.path} to a foreign instance")
    return problems


def touched(call: Call) -> set[int]:
    """The instances that a call is about: one in its path, or many in its body."""
    if call.target is not None:
        return {call.target}
    try:
        return {int(number) for number in json.loads(call.body or b"{}").get("instance_ids", [])}
    except (ValueError, AttributeError, TypeError):
        return set()
