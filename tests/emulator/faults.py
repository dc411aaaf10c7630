"""What can go wrong, F1 to F17, as rules that look at every call before and after it is done, or at every create.

`faults.add("F3", how="rst")` adds one; any number may be there at once. Where chance has a part it is the rule's own
generator, seeded from the emulator's seed and the number of the rule, so that one rule does not disturb another.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, Protocol

from provisioning.fleet import Label
from tests.emulator.api import Answer, Call, answer
from tests.emulator.clock import VirtualClock
from tests.emulator.contracts import Contract, Fate, Flaw, Stuck
from tests.emulator.market import Row, Slot
from tests.emulator.world import World

Before = Callable[[Call], Answer | None]
After = Callable[[Call, Answer], Answer]
CHANGES = ("create", "destroy", "state", "bid")


@dataclass
class Rule:
    """Fires for calls of these endpoints (none: all) about this target, from the nth on, count times, by chance.

    count None: always. since, until: epoch seconds. before: answers in place of the API, or None to let it do. after:
    changes an answer. fate: changes what becomes of a create. fired: how often it did something.
    """

    id: str
    rng: random.Random
    endpoints: tuple[str, ...] = ()
    nth: int = 1
    count: int | None = 1
    probability: float = 1.0
    target: int | None = None
    since: float | None = None
    until: float | None = None
    only: Callable[[Call], bool] | None = None
    before: Before | None = None
    after: After | None = None
    fate: Callable[[Fate, Slot], None] | None = None
    fired: int = 0
    seen: int = 0

    def concerns(self, call: Call) -> bool:
        if self.endpoints and call.endpoint not in self.endpoints:
            return False
        if self.since is not None and call.at < self.since:
            return False
        if self.until is not None and call.at >= self.until:
            return False
        if self.target is not None and call.target != self.target:
            return False
        return self.only is None or self.only(call)

    def fires(self) -> bool:
        """Counts what it is asked about, so ask once a call."""
        self.seen += 1
        if self.seen < self.nth or (self.count is not None and self.fired >= self.count):
            return False
        if self.probability < 1 and self.rng.random() >= self.probability:
            return False
        self.fired += 1
        return True


class Account(Protocol):
    """What faults do to an emulator beside answers."""

    @property
    def world(self) -> World: ...

    @property
    def account_key(self) -> str: ...

    def revoke_key(self, value: str | None = None) -> None: ...

    def add_foreign(self, label: str = ..., **machine: Any) -> int: ...


class Faults:
    """All rules of one emulator. rules can be taken out again: `faults.remove(rule)`, `faults.clear()`."""

    def __init__(self, account: Account, seed: int) -> None:
        self.account = account
        self.world = account.world
        self.rules: list[Rule] = []
        self._seed = seed
        self._lock = threading.Lock()
        self._of_call = threading.local()  # the rules that fired for the call that this thread is answering
        self.world.fate = self._fate

    def add(self, fault: str, **options: Any) -> Rule:
        """F1 to F17 with its options, see the functions of this module. Raises KeyError, TypeError for others."""
        return FAULTS[fault](self, **options)

    def remove(self, rule: Rule) -> None:
        with self._lock:
            self.rules = [each for each in self.rules if each is not rule]

    def clear(self) -> None:
        with self._lock:
            self.rules = []

    def rule(self, fault: str, **settings: Any) -> Rule:
        with self._lock:
            made = Rule(fault, random.Random(f"{self._seed}/{len(self.rules)}/{fault}"), **settings)
            self.rules.append(made)
            return made

    def later(self, fault: str, seconds: float, event: Callable[[Rule], bool]) -> Rule:
        """Something that happens by itself after so many seconds. event: whether there was anything to happen to."""
        made = self.rule(fault, endpoints=("none",))

        def happen() -> None:
            with self._lock:
                there = any(each is made for each in self.rules)
            if there and event(made):
                made.fired += 1

        if seconds > 0:
            self.world.clock.call_at(self.world.clock.now() + seconds, happen)
        else:
            happen()
        return made

    # ---- what the API asks ----

    def before(self, call: Call) -> Answer | None:
        hits: list[Rule] = []
        with self._lock:
            for rule in self.rules:
                if rule.concerns(call) and rule.fires():
                    hits.append(rule)
                    if rule.before is not None:
                        break
        self._of_call.hits = hits
        if not hits or hits[-1].before is None:
            return None
        given = hits[-1].before(call)
        if given is not None:
            call.fault = hits[-1].id
            for rule in hits[:-1]:
                self._take_back(rule)
            self._of_call.hits = []
        return given

    def after(self, call: Call, given: Answer) -> Answer:
        hits: list[Rule] = self._of_call.hits
        self._of_call.hits = []
        for rule in hits:
            done = b"new_contract" in given.body if call.endpoint == "create" else given.status < 400
            if not done:
                self._take_back(rule)  # there is nothing that it could spoil
                continue
            call.fault = rule.id
            if rule.after is not None:
                given = rule.after(call, given)
        return given

    def _fate(self, slot: Slot) -> Fate:
        fate = Fate()
        for rule in getattr(self._of_call, "hits", []):
            if rule.fate is not None:
                rule.fate(fate, slot)
        return fate

    def _take_back(self, rule: Rule) -> None:
        with self._lock:
            rule.fired -= 1

    # ---- means ----

    def vanish(self, seconds: float, real_s: float | None) -> Answer:
        """No answer for so long, then the connection is gone. In virtual time the clock moves, and nobody waits.

        real_s: wait that long really, for a client whose own timeout is to strike.
        """
        clock = self.world.clock
        if real_s is None and isinstance(clock, VirtualClock):
            clock.advance(seconds)
            return RESET
        return replace(RESET, hold_s=seconds if real_s is None else real_s)

    def running(self) -> list[Contract]:
        """The fleet's own that run now, by id."""
        contracts = self.world.contracts.values()
        return [each for each in contracts if each.actual == "running" and each.alive and not each.foreign]


RESET = Answer(0, b"", drop=True)


def _error(status: int, error: str, message: str) -> Answer:
    return answer({"success": False, "error": error, "msg": message}, status)


def _text(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, text.encode(), "text/plain; charset=utf-8", headers)


# ---- the faults. `when` is nth, count, probability, target, since, until of Rule ----


def f1_rate_bursts(
    faults: Faults,
    endpoint: str | tuple[str, ...] = "list",
    style: Literal["text", "json", "retry-after-1", "retry-after-90"] = "text",
    count: int | None = 3,
    **when: Any,
) -> Rule:
    """F1: calls of an endpoint are answered 429 for a while, in one of the forms that have been seen."""
    text = "API requests too frequent: endpoint threshold=5.0"
    given = {
        "text": _text(429, text),
        "json": answer({"success": False, "error": "rate_limited", "msg": text, "retry_after": 5}, 429),
        "retry-after-1": _text(429, text, ("Retry-After", "1")),
        "retry-after-90": _text(429, text, ("Retry-After", "90")),
    }[style]
    endpoints = (endpoint,) if isinstance(endpoint, str) else endpoint
    return faults.rule("F1", endpoints=endpoints, before=lambda call: given, count=count, **when)


def f2_offer_taken(faults: Faults, status: Literal[410, 404, 400] = 410, all_gone: bool = False, **when: Any) -> Rule:
    """F2: somebody was faster. all_gone: others have rented all there is at that moment."""

    def taken(call: Call) -> Answer:
        slots = faults.world.market.all_slots()
        for slot in slots:
            if slot.ask_id is not None and (all_gone or slot.ask_id == call.target):
                faults.world.rival_rents(slot)
        if status == 404:
            return _error(404, "invalid_args", f"error 404/3603: no_such_ask Instance type by id {call.target}")
        return _error(status, "no_such_ask", f"Ask {call.target} is no longer available.")

    return faults.rule("F2", endpoints=("create",), before=taken, **when)


def f3_lost_create(
    faults: Faults,
    how: Literal["hang", "rst", "502", "504", "empty400", "empty200"] = "hang",
    shown_after_s: float = 0.0,
    hang_s: float = 120.0,
    real_s: float | None = None,
    **when: Any,
) -> Rule:
    """F3: an instance was created, but the answer does not come or says nothing; lists show it only after a while."""

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.listed_after_s = shown_after_s

    def lose(call: Call, given: Answer) -> Answer:
        if how == "hang":
            return faults.vanish(hang_s, real_s)
        html = b"<html><body>Bad gateway</body></html>"
        return {
            "rst": RESET,
            "502": Answer(502, html, "text/html"),
            "504": Answer(504, html, "text/html"),
            "empty400": Answer(400, b""),
            "empty200": answer({}),
        }[how]

    return faults.rule("F3", endpoints=("create",), fate=spoil, after=lose, **when)


def f4_bid_too_low(faults: Faults, **when: Any) -> Rule:
    """F4: the bid loses: 400, and all the same an instance, stopped, which starts when the rival leaves."""

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.bid_too_low = True

    return faults.rule("F4", endpoints=("create",), fate=spoil, **when)


def f5_lands_stopped(faults: Faults, starts_after_s: float | None = None, **when: Any) -> Rule:
    """F5: success is told, but the machine has no room: the instance is stopped, and perhaps starts by itself later."""

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.lands_stopped, fate.starts_after_s = True, starts_after_s

    return faults.rule("F5", endpoints=("create",), fate=spoil, **when)


def f6_stuck_boot(faults: Faults, kind: Stuck = "loading", **when: Any) -> Rule:
    """F6: a boot that never ends (null, oci, cuda, image, loading), or a slow one that does (slow)."""

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.stuck = kind

    return faults.rule("F6", endpoints=("create",), fate=spoil, **when)


def f7_bad_worker(faults: Faults, kind: Flaw = "silent", **when: Any) -> Rule:
    """F7: it runs but is no use: no network, a GPU that fails or crawls, wrong words. Stand-ins act Container.flaw."""

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.flaw = kind

    return faults.rule("F7", endpoints=("create",), fate=spoil, **when)


def f8_preempted(
    faults: Faults,
    who: Literal["one", "half", "all", "flap"] = "one",
    after_s: float = 0.0,
    resume_after_s: float | None = None,
    flaps: int = 3,
) -> Rule:
    """F8: one, half or all of those that run are outbid; flap: one is, and resumes by itself, over and over."""

    def happen(rule: Rule) -> bool:
        running = faults.running()
        if who in ("one", "flap"):
            running = rule.rng.sample(running, min(1, len(running)))
        elif who == "half":
            running = rule.rng.sample(running, (len(running) + 1) // 2)
        back = (resume_after_s or 30.0) if who == "flap" else resume_after_s
        for contract in running:
            faults.world.outbid(contract, resume_after=back)
        if who == "flap" and running:
            _flap(faults, running[0], back or 30.0, flaps - 1)
        return bool(running)

    return faults.later("F8", after_s, happen)


def _flap(faults: Faults, contract: Contract, every_s: float, times: int) -> None:
    """Outbid again some time after it should have come back."""
    if times <= 0 or not contract.alive:
        return

    def again() -> None:
        faults.world.outbid(contract, resume_after=every_s)
        _flap(faults, contract, every_s, times - 1)

    faults.world.clock.call_at(faults.world.clock.now() + 2.5 * every_s, again)


def f9_dead_host(faults: Faults, after_s: float = 0.0, back_after_s: float | None = 900.0) -> Rule:
    """F9: the host of one that runs goes away (unknown, offline), and returns running when it has been replaced."""

    def happen(rule: Rule) -> bool:
        running = faults.running()
        if running:
            faults.world.kill_host(rule.rng.choice(running).machine, back_after_s)
        return bool(running)

    return faults.later("F9", after_s, happen)


def f10_api_down(
    faults: Faults,
    how: Literal["refused", "503", "hang"] = "503",
    seconds: float | None = 1_800.0,
    after_s: float = 0.0,
    hang_s: float = 120.0,
    real_s: float | None = None,
    count: int | None = None,
    **when: Any,
) -> Rule:
    """F10: nothing answers, to nobody, from then on for so long (None: for ever)."""

    def down(call: Call) -> Answer:
        if how == "hang":
            return faults.vanish(hang_s, real_s)
        return RESET if how == "refused" else _text(503, "Service Unavailable")

    since = faults.world.clock.now() + after_s
    until = None if seconds is None else since + seconds
    return faults.rule("F10", before=down, since=since, until=until, count=count, **when)


def f11_lying_list(
    faults: Faults,
    how: Literal["empty", "html", "410", "missing", "zero", "page2", "null_start", "many"] = "empty",
    **when: Any,
) -> Rule:
    """F11: lists that are no lists, lack rows or a page, say none where some are, or have an odd row; or 60 rows."""

    def lie(call: Call, given: Answer) -> Answer:
        if how == "410":
            return _error(410, "deprecated_endpoint", "This endpoint is gone.")
        if how == "page2":
            return _text(500, "Internal Server Error")
        if how in ("empty", "html"):
            return answer({}) if how == "empty" else Answer(200, b"<html>Just a moment</html>", "text/html")
        return answer(_spoil_list(given.json(), how))

    if how == "many":
        for number in range(60):
            faults.account.add_foreign(f"batch-{number}")
        return faults.later("F11", 0, lambda rule: True)
    only = (lambda call: "after_token" in call.query) if how == "page2" else None
    return faults.rule("F11", endpoints=("list",), after=lie, only=only, **when)


def _spoil_list(data: Row, how: str) -> Row:
    rows: list[Row] = data["instances"]
    if how == "zero":
        return data | {"instances": [], "total_instances": 0, "instances_found": 0, "next_token": None}
    if how == "missing":
        return data | {"instances": rows[: len(rows) // 2]}
    return data | {"instances": [row | {"start_date": None, "extra_env": None} for row in rows[:1]] + rows[1:]}


def f12_destroy_lies(faults: Faults, how: Literal["false", "500", "auth", "alive"] = "false", **when: Any) -> Rule:
    """F12: a destroy is not done: told with 200 and success false, 500, a 404 about the key, or not told at all."""
    given = {
        "false": answer({"success": False, "error": "busy", "msg": "Try again later."}),
        "500": _text(500, "Internal Server Error"),
        "auth": _error(404, "auth_error", "Invalid user key"),
        "alive": answer({"success": True}),
    }[how]
    return faults.rule("F12", endpoints=("destroy",), before=lambda call: given, **when)


def f13_crash(
    faults: Faults,
    crash: Callable[[], None],
    endpoint: str | tuple[str, ...] = CHANGES,
    moment: Literal["before", "after"] = "after",
    **when: Any,
) -> Rule:
    """F13: `crash` kills the controller as its call arrives (then nothing is done) or just after it was done."""
    endpoints = (endpoint,) if isinstance(endpoint, str) else endpoint

    def die(call: Call) -> Answer:
        crash()
        return RESET

    if moment == "before":
        return faults.rule("F13", endpoints=endpoints, before=die, **when)
    return faults.rule("F13", endpoints=endpoints, after=lambda call, given: die(call), **when)


def f14_foreign(faults: Faults, count: int = 3) -> Rule:
    """F14: others rent in the same account, under labels that are nearly ours, or none. Their ids: foreign_ids()."""
    now_s = int(faults.world.clock.now())
    labels = (
        *(Label("other", "0000000000", now_s + away_s).encode() for away_s in (3_600, -3_600)),
        "", "wf1", "wf1:", "wf10:fleet:0000000000:zzzzzz", "whisperfleet", "wf1:fleet:0000000000", "training run",
    )  # fmt: skip
    for number in range(count):
        faults.account.add_foreign(labels[number % len(labels)])
    return faults.later("F14", 0, lambda rule: True)


def f15_price_jump(faults: Faults, factor: float = 3.0, **when: Any) -> Rule:
    """F15: between search and create the machine's prices go up by this factor."""

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.price_factor = Decimal(str(factor))

    return faults.rule("F15", endpoints=("create",), fate=spoil, **when)


def f16_account_fails(
    faults: Faults,
    how: Literal["credit", "revoked", "refused"] = "credit",
    after_s: float = 0.0,
    status: int = 400,
    error: str = "spend_rate_limit",
    **when: Any,
) -> Rule:
    """F16: the credit is gone (all stops, nothing can be rented), the key is revoked, or requests to rent refused."""
    if how == "refused":
        given = _error(status, error, f"{error}: the account may not do this now.")
        return faults.rule("F16", endpoints=("create",), before=lambda call: given, **when)

    def happen(rule: Rule) -> bool:
        if how == "revoked":
            faults.account.revoke_key()
        else:
            left = faults.world.credit_left()
            faults.world.pay_in(-Decimal(left.numerator) / Decimal(left.denominator) - Decimal("0.01"))
        return True

    return faults.later("F16", after_s, happen)


def f17_clock(faults: Faults, skew_s: float = 600.0, ends_in_s: float | None = None, **when: Any) -> Rule:
    """F17: the market's clock is so far ahead (behind, if negative); or contracts of new instances end this soon."""
    if ends_in_s is None:
        faults.world.skew = skew_s
        return faults.later("F17", 0, lambda rule: True)

    def spoil(fate: Fate, slot: Slot) -> None:
        fate.ends_in_s = ends_in_s

    return faults.rule("F17", endpoints=("create",), fate=spoil, **when)


FAULTS: dict[str, Callable[..., Rule]] = {
    "F1": f1_rate_bursts,
    "F2": f2_offer_taken,
    "F3": f3_lost_create,
    "F4": f4_bid_too_low,
    "F5": f5_lands_stopped,
    "F6": f6_stuck_boot,
    "F7": f7_bad_worker,
    "F8": f8_preempted,
    "F9": f9_dead_host,
    "F10": f10_api_down,
    "F11": f11_lying_list,
    "F12": f12_destroy_lies,
    "F13": f13_crash,
    "F14": f14_foreign,
    "F15": f15_price_jump,
    "F16": f16_account_fails,
    "F17": f17_clock,
}
