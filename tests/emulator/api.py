"""The market's REST API over a world: routes, keys, gaps between calls, and the bodies that the real client reads.

An answer is plain data; `tests.emulator.server` puts it on the wire. Faults look at every call before and after it is
done, see `tests.emulator.faults`.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.emulator.contracts import Contract
from tests.emulator.limits import Key, Limiter
from tests.emulator.market import Row, compare, decimal
from tests.emulator.world import Rental, Unavailable, World

PAGE = 25
FILTERABLE = (
    "id",
    "label",
    "actual_status",
    "intended_status",
    "cur_state",
    "next_state",
    "machine_id",
    "host_id",
    "gpu_name",
    "num_gpus",
    "is_bid",
    "image_uuid",
    "start_date",
    "end_date",
)


@dataclass(frozen=True)
class Answer:
    """drop: the connection is reset instead. hold_s: real seconds before anything is sent."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    drop: bool = False
    hold_s: float = 0.0

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Call:
    """A request, and what became of it; without the key itself. fault: what made it go wrong on purpose."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes
    headers: dict[str, str]
    at: float
    endpoint: str = "?"
    target: int | None = None  # offer, instance
    key_name: str = "?"
    status: int = 0
    fault: str = ""

    def data(self) -> dict[str, Any]:
        """Raises ApiError for what is no JSON object."""
        try:
            value = json.loads(self.body or b"{}")
        except ValueError:
            raise ApiError(400, "invalid_args", "the body is not JSON") from None
        if not isinstance(value, dict):
            raise ApiError(400, "invalid_args", "the body is not an object")
        return value


class ApiError(Exception):
    def __init__(self, status: int, error: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.body = status, {"success": False, "error": error, "msg": message, **more}


@dataclass(frozen=True)
class Route:
    method: str
    pattern: re.Pattern[str]
    endpoint: str
    scope: str | None  # None: without a key
    handle: Callable[[Call], Any]


def answer(data: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(data).encode())


@dataclass
class Switches:
    """What no source settles, and what tests turn.

    env_limit: longest value of an environment variable, None: any. bad_key_status: 404 or 401. enforce_gaps: else a
    call that comes too early is only counted. charges_lag_s: bills are late by so much.
    """

    env_limit: int | None = 256
    bad_key_status: int = 404
    enforce_gaps: bool = True
    charges_lag_s: float = 0.0
    objects_late: int = 2  # GETs of a log that are answered 404 at first


class Api:
    """Thread-safe. before, after: what faults do to a call."""

    def __init__(self, world: World, switches: Switches, url: Callable[[], str], tolerance_s: float) -> None:
        self.world = world
        self.switches = switches
        self.limiter = Limiter(tolerance_s)
        self.keys: dict[str, Key] = {}
        self.calls: list[Call] = []
        self.before: Callable[[Call], Answer | None] = lambda call: None
        self.after: Callable[[Call, Answer], Answer] = lambda call, given: given
        self._url = url
        self._lock = threading.Lock()
        self._objects: dict[str, tuple[int, str]] = {}  # GETs still to fail, text
        self._routes = [
            Route(method, re.compile(pattern + "/?"), endpoint, scope, handle)
            for method, pattern, endpoint, scope, handle in (
                ("POST", "/api/v0/bundles", "search", "misc", self._search),
                ("PUT", "/api/v0/search/asks", "search", "misc", self._search_asks),
                ("PUT", r"/api/v0/asks/(\d+)", "create", "instance_write", self._create),
                ("GET", "/api/v1/instances", "list", "instance_read", self._list),
                ("GET", "/api/v0/instances", "list_v0", "instance_read", self._list_v0),
                ("GET", r"/api/v0/instances/(\d+)", "show", "instance_read", self._show),
                ("DELETE", r"/api/v0/instances/(\d+)", "destroy", "instance_write", self._destroy),
                ("DELETE", "/api/v0/instances", "destroy", "instance_write", self._destroy_many),
                ("PUT", r"/api/v0/instances/(\d+)", "state", "instance_write", self._state),
                ("PUT", r"/api/v0/instances/bid_price/(\d+)", "bid", "instance_write", self._bid),
                ("PUT", r"/api/v0/instances/reboot/(\d+)", "reboot", "instance_write", self._reboot),
                ("PUT", r"/api/v0/instances/recycle/(\d+)", "reboot", "instance_write", self._reboot),
                ("PUT", r"/api/v0/instances/command/(\d+)", "command", "instance_write", self._command),
                ("PUT", r"/api/v0/instances/request_logs/(\d+)", "logs", "instance_read", self._logs),
                ("GET", r"/_s3/[\w-]+", "object", None, self._object),
                ("GET", "/api/v0/users/current", "user", "user_read", self._user),
                ("GET", "/api/v0/charges", "charges", "billing_read", self._charges),
                ("GET", "/api/v0/secrets", "secrets", "user_read", self._secrets),
                ("POST", "/api/v0/secrets", "secrets", "user_write", self._add_secret),
                ("POST", "/api/v0/contracts/fetch", "contracts", "instance_read", self._contracts),
                ("GET", "/api/v0/gpu_names/unique", "gpu_names", None, self._gpu_names),
            )
        ]

    # ---- one call ----

    def handle(self, call: Call) -> Answer:
        route = self._route(call)
        key = self._key(call)
        call.endpoint = route.endpoint if route else "?"
        call.key_name = key.name if key else "?"
        with self._lock:
            self.calls.append(call)
            wait = self.limiter.wait_s(call.endpoint, call.key_name, call.at)
        given = self.before(call)
        if given is None:
            given = self._do(call, route, key, wait)
            given = self.after(call, given)
        call.status = given.status
        return given

    def _route(self, call: Call) -> Route | None:
        for route in self._routes:
            found = route.pattern.fullmatch(call.path)
            if route.method == call.method and found:
                call.target = int(found[1]) if route.pattern.groups else None
                return route
        return None

    def _key(self, call: Call) -> Key | None:
        kind, _, value = call.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return None
        with self._lock:
            if value in self.keys:
                return self.keys[value]
        for contract in list(self.world.contracts.values()):
            if contract.key == value:
                return Key(value, f"instance {contract.id}", frozenset(), contract.id)
        return None

    def _do(self, call: Call, route: Route | None, key: Key | None, wait: float) -> Answer:
        try:
            if route is None:
                raise ApiError(404, "not_found", f"no such endpoint: {call.method} {call.path}")
            if route.scope is not None:
                self._authorize(call, route, key)
            if wait and self.switches.enforce_gaps:
                text = f"API requests too frequent: endpoint threshold={wait:.1f}"
                return Answer(429, text.encode(), "text/plain; charset=utf-8")
            done = route.handle(call)
            return done if isinstance(done, Answer) else answer(done)
        except ApiError as error:
            return answer(error.body, error.status)

    def _authorize(self, call: Call, route: Route, key: Key | None) -> None:
        status = self.switches.bad_key_status
        if key is None or key.revoked:
            raise ApiError(status, "auth_error", "Invalid user key")
        if key.instance_id is not None:
            allowed = route.endpoint in ("state", "destroy", "show") and call.target == key.instance_id
            if route.endpoint == "state":
                allowed = allowed and set(call.data()) == {"state"}
        else:
            allowed = route.scope in key.scopes
        if not allowed:
            raise ApiError(403, "forbidden", "This key has no permission for that")

    # ---- offers ----

    def _search(self, call: Call) -> Any:
        return self._offers(call.data())

    def _search_asks(self, call: Call) -> Any:
        return self._offers(call.data().get("q") or {})

    def _offers(self, query: Row) -> Any:
        try:
            with self.world.reading() as now:
                return {"offers": self.world.market.search(query, now + self.world.skew)}
        except (ValueError, TypeError) as error:
            raise ApiError(400, "invalid_args", str(error)) from error

    def _gpu_names(self, call: Call) -> Any:
        return {"gpu_names": sorted({machine.gpu_name for machine in self.world.market.machines.values()})}

    def _create(self, call: Call) -> Any:
        rental = rental_of(call.data(), self.switches.env_limit)
        assert call.target is not None
        with self.world.changing():
            if self.world.credit_left() <= 0:
                raise ApiError(400, "insufficient_credit", "Your account lacks credit; see the billing page.")
            slot = self.world.market.slot_of_ask(call.target)
            if slot is None:
                raise ApiError(410, "no_such_ask", f"Ask {call.target} is no longer available.")
            try:
                contract = self.world.create(slot, rental)
            except Unavailable:
                raise ApiError(410, "no_such_ask", "The machine cannot run it now.") from None
            if contract.outbid:
                raise ApiError(400, "invalid_price", "Your bid is too low.", new_contract=contract.id)
        return {"success": True, "new_contract": contract.id, "instance_api_key": contract.key}

    # ---- instances ----

    def _list(self, call: Call) -> Any:
        filters = _json(call.query.get("select_filters"), {})
        order = _json(call.query.get("order_by"), [{"col": "id", "dir": "asc"}])
        limit = min(PAGE, int(call.query.get("limit", PAGE)))
        if wrong := [name for name in filters if name not in FILTERABLE]:
            raise ApiError(400, "invalid_args", f"cannot filter by {', '.join(wrong)}")
        rows = self.rows()
        for name, conditions in filters.items():
            rows = [row for row in rows if all(compare(row[name], *each) for each in conditions.items())]
        for each in reversed(order):
            rows.sort(key=lambda row, each=each: (row[each["col"]] is None, row[each["col"]]))  # type: ignore[misc]
            if each.get("dir") == "desc":
                rows.reverse()
        first = int(call.query.get("after_token", "p0").strip('"').removeprefix("p"))
        page = rows[first : first + limit]
        more = first + limit < len(rows)
        labels: dict[str, int] = {}
        for row in rows:
            labels[row["label"]] = labels.get(row["label"], 0) + 1
        return {
            "success": True,
            "instances_found": len(rows),
            "total_instances": len(rows),
            "label_counts": labels,
            "next_token": f"p{first + limit}" if more else None,
            "instances": page,
        }

    def rows(self) -> list[Row]:
        """All instances that lists show now."""
        with self.world.reading() as now:
            return [self._row(each, now) for each in self.world.contracts.values() if each.listed(now)]

    def _row(self, contract: Contract, now: float) -> Row:
        return contract.row(now, self.world.skew, self.world.unsettled)

    def _list_v0(self, call: Call) -> Any:
        raise ApiError(410, "deprecated_endpoint", "Use /api/v1/instances/")

    def _show(self, call: Call) -> Any:
        with self.world.reading() as now:
            contract = self.world.contracts.get(call.target or 0)
            shown = contract is not None and contract.listed(now)
            return {"instances": self._row(contract, now) if contract and shown else None}

    def _contract(self, call: Call) -> Contract:
        contract = self.world.contracts.get(call.target or 0)
        if contract is None or not contract.alive:
            raise ApiError(404, "no_such_instance", f"Instance {call.target} not found")
        return contract

    def _destroy(self, call: Call) -> Any:
        self.world.destroy(self._contract(call))
        return {"success": True}

    def _destroy_many(self, call: Call) -> Any:
        for number in call.data().get("instance_ids") or []:
            self.world.destroy(self._contract(replace(call, target=int(number))))
        return {"success": True}

    def _state(self, call: Call) -> Any:
        contract, data = self._contract(call), call.data()
        if isinstance(data.get("label"), str):
            with self.world.changing():
                contract.label = data["label"]
            return {"success": True}
        if data.get("state") == "stopped":
            self.world.stop(contract)
            return {"success": True}
        if data.get("state") == "running":
            if self.world.start(contract):
                return {"success": True}
            message = "Required resources are currently unavailable, state change queued."
            return {"success": False, "error": "resources_unavailable", "msg": message}
        raise ApiError(400, "invalid_args", "neither a state nor a label")

    def _bid(self, call: Call) -> Any:
        contract, price = self._contract(call), call.data().get("price")
        if not contract.is_bid or not isinstance(price, int | float) or not 0.001 <= price <= 128:
            raise ApiError(400, "invalid_price", f"not a bid for this instance: {price}")
        self.world.change_bid(contract, decimal(price))
        return {"success": True}

    def _reboot(self, call: Call) -> Any:
        self.world.reboot(self._contract(call))
        return {"success": True}

    def _command(self, call: Call) -> Any:
        contract, command = self._contract(call), str(call.data().get("command", ""))
        if len(command) > 512:
            raise ApiError(400, "invalid_args", "the command is longer than 512 characters")
        return self._object_for(f"$ {command} (on {contract.id})\n")

    def _logs(self, call: Call) -> Any:
        tail = int(call.data().get("tail", 1_000))
        return self._object_for("".join(f"{line}\n" for line in self._contract(call).log[-tail:]))

    def _object_for(self, text: str) -> Any:
        with self._lock:
            name = f"object-{len(self._objects) + 1}"
            self._objects[name] = (self.switches.objects_late, text)
        return {"success": True, "result_url": f"{self._url()}/_s3/{name}"}

    def _object(self, call: Call) -> Answer:
        name = call.path.strip("/").rpartition("/")[2]
        with self._lock:
            missing, text = self._objects.get(name, (1, ""))
            if missing:
                self._objects[name] = (missing - 1, text)
                return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", "application/xml")
        return Answer(200, text.encode(), "text/plain")

    # ---- the account ----

    def _user(self, call: Call) -> Any:
        return {
            "id": 100_001,
            "username": "tester",
            "email": "tester@example.invalid",
            "credit": float(self.world.credit_left()),
            "balance": 0.0,
            "api_key": "not told",
        }

    def _secrets(self, call: Call) -> Any:
        return {"success": True, "secrets": dict(self.world.account_environment)}

    def _add_secret(self, call: Call) -> Any:
        data = call.data()
        self.world.account_environment[str(data["key"])] = str(data["value"])
        return {"success": True}

    def _contracts(self, call: Call) -> Any:
        data = call.data()
        rows = [row for row in self.rows() if data.get("label") in (None, row["label"])]
        wanted = data.get("contract_ids")
        return {"contracts": [row for row in rows if wanted is None or row["id"] in wanted]}

    def _charges(self, call: Call) -> Any:
        filters = _json(call.query.get("select_filters"), {})
        day = filters.get("day", {})
        limit = min(100, int(call.query.get("limit", 20)))
        with self.world.reading() as now:
            until = min(float(day.get("lte", now)), now - self.switches.charges_lag_s)
            rows = []
            self.world.spent()
            for contract in self.world.contracts.values():
                items = charge_items(contract, float(day.get("gte", 0)), until)
                if any(items.values()):
                    rows.append(_charge_row(contract, items))
        first = int(call.query.get("after_token", "p0").strip('"').removeprefix("p"))
        more = first + limit < len(rows)
        return {
            "success": True,
            "results": rows[first : first + limit],
            "count": len(rows[first : first + limit]),
            "total": len(rows),
            "next_token": f"p{first + limit}" if more else None,
        }


def rental_of(data: dict[str, Any], env_limit: int | None) -> Rental:
    """The body of a create, with the limits that the API documents. Raises ApiError."""

    def refuse(reason: str) -> ApiError:
        return ApiError(400, "invalid_args", reason)

    image, label, price = data.get("image"), data.get("label") or "", data.get("price")
    environment = data.get("env") or {}
    if not isinstance(image, str) or not 0 < len(image) <= 1_024:
        raise refuse("image: 1 to 1024 characters")
    if not isinstance(label, str) or len(label) > 256:
        raise refuse("label: at most 256 characters")
    if not isinstance(environment, dict):
        environment = {}  # the API takes docker flags as text without a word, and does nothing with them
    values = {str(name): str(value) for name, value in environment.items()}
    if env_limit is not None and any(len(value) > env_limit for value in values.values()):
        raise refuse(f"env: values of at most {env_limit} characters")
    if sum(map(len, values.values())) > 32_768:
        raise refuse("env: at most 32768 characters in all")
    disk = data.get("disk", 10)
    if not isinstance(disk, int | float) or disk < 8:
        raise refuse("disk: at least 8")
    if price is not None and (not isinstance(price, int | float) or not 0.001 <= price <= 128):
        raise ApiError(400, "invalid_price", "price: 0.001 to 128")
    args, onstart = data.get("args") or [], data.get("onstart")
    words = tuple(map(str, args)) if isinstance(args, list) else (str(args),)
    if len(onstart or "") + sum(map(len, words)) > 4_096:
        raise refuse("args and onstart: at most 4096 characters")
    return Rental(
        label=label,
        image=image,
        runtype=data.get("runtype"),
        onstart=onstart,
        args=words,
        environment=values,
        disk_gb=float(disk),
        price=None if price is None else Decimal(str(price)),
        cancel_unavailable=bool(data.get("cancel_unavail")),
    )


@dataclass
class _Items:
    gpu: Fraction = field(default_factory=Fraction)
    disk: Fraction = field(default_factory=Fraction)
    bwd: Fraction = field(default_factory=Fraction)


def charge_items(contract: Contract, since: float, until: float) -> dict[str, Fraction]:
    """What a contract cost between two times, by kind."""
    items = _Items()
    for segment in contract.segments:
        start, end = max(segment.start, since), min(segment.end, until)
        if end > start:
            hours = (Fraction(end) - Fraction(start)) / 3600
            items.gpu += hours * segment.gpu
            items.disk += hours * segment.storage
            items.bwd += hours * segment.traffic
    items.bwd += sum((lump.usd for lump in contract.lumps if since <= lump.at <= until), Fraction(0))
    return {"gpu": items.gpu, "disk": items.disk, "bwd": items.bwd}


def _charge_row(contract: Contract, items: dict[str, Fraction]) -> Row:
    return {
        "source": f"instance-{contract.id}",
        "type": "instance",
        "amount": float(sum(items.values(), Fraction(0))),
        "start": contract.created_at,
        "end": contract.destroyed_at,
        "metadata": {"label": contract.label, "gpu_name": contract.machine.gpu_name},
        "items": [{"type": kind, "amount": float(usd)} for kind, usd in items.items()],
    }


def _json(text: str | None, default: Any) -> Any:
    if not text:
        return default
    try:
        return json.loads(text)
    except ValueError:
        raise ApiError(400, "invalid_args", f"not JSON: {text[:50]}") from None
