"""Being a fleet's controller, starting one in the background, or asking the one that runs: what commands have of it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Self

from provisioning.cloud import OfferQuery
from provisioning.demand import ConductorDemand, DemandSource, Gateway, GatewayAdmin, GatewaySilent
from provisioning.fleet import Demand, Limits, WorkerNews
from provisioning.fleet_display import NOBODY_SAID_USD, FleetDisplay
from provisioning.fleet_glance import books, glance, note_limits
from provisioning.fleet_offering import Wanted, specification
from provisioning.fleet_place import Place
from provisioning.ledger import Ledger, Wish
from provisioning.reconcile import Controller
from provisioning.renting import FleetSpec
from provisioning.status import FleetStatus
from workers.errors import OptionError, ServerError, WhisperfleetError

LOOK_S = 2.0
START_S = 30.0  # the market's client alone takes a second or two to load
PATIENCE_S = 15 * 60.0
HOLD_S = 900.0
"""What `up` has rented is kept for so long although nothing waits yet: a boot takes minutes, and so does a command."""


class Stoppable(Controller):
    """A controller that remembers whether somebody has stopped it."""

    stopped = False

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def stop(self) -> None:
        self.stopped = True
        super().stop()


@dataclass(frozen=True)
class Running:
    controller: Stoppable
    ledger: Ledger


@contextmanager
def control(place: Place, wanted: Wanted) -> Iterator[Running]:
    """Be the controller of a fleet that rents. Raises FleetTaken where there is one, OptionError, ServerError."""
    spec = specification(place, wanted)
    with place.ledger() as ledger, closing(ConductorDemand(place.server, place.gateway, spec.kinds)) as demand:
        controller = _controller(place, spec, place.gateway, demand, ledger)
        with controller:
            note_limits(place, spec.limits)
            _begin_anew(ledger)
            yield Running(controller, ledger)


@contextmanager
def ending(place: Place) -> Iterator[Running]:
    """Be the controller of a fleet that only is to end: it needs no image, no server, and no gateway that answers.

    Raises FleetTaken where there is one.
    """
    limits = books(place).limits or Limits(max_usd=NOBODY_SAID_USD, max_price=0.0, max_instances=0)
    spec = FleetSpec(place.fleet, limits, OfferQuery(), image="", gateway=place.renting.gateway or "")
    gateway, demand = _whoever_answers(place)
    with place.ledger() as ledger, _controller(place, spec, gateway, demand, ledger) as controller:
        yield Running(controller, ledger)


def start_in_background(place: Place, wanted: Wanted, hold_s: float = HOLD_S) -> int:
    """A `fleet run` of its own, which lives until its fleet is gone and nothing waits; its process id.

    Raises ServerError with what it said where it ends at once.
    """
    place.log.parent.mkdir(parents=True, exist_ok=True)
    with place.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workflows.cli", "fleet", "run", *_arguments(place, wanted, hold_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=os.path.abspath(os.sep),
            start_new_session=True,
        )
    end = place.time.monotonic() + START_S
    while not place.controlled():
        if process.poll() is not None:
            tail = place.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise ServerError(
                f"The controller of fleet '{place.fleet}' ended at once ({''.join(tail) or 'it said nothing'}): its "
                f"machines are rented; run `whisperfleet fleet run` or `fleet down`, and see {place.log}."
            )
        if place.time.monotonic() > end:
            break
        place.time.sleep(0.1)
    return process.pid


def wish(place: Place, wish: Wish) -> None:
    """Tell the controller that runs. Raises OptionError where none does on this machine."""
    if not place.controlled():
        raise OptionError(
            f"No controller of fleet '{place.fleet}' runs on this machine: start one by "
            f"`whisperfleet fleet run --fleet {place.fleet}`."
        )
    with place.ledger() as ledger:
        ledger.wish(wish)


def follow(
    place: Place,
    display: FleetDisplay,
    fulfilled: Callable[[FleetStatus], bool],
    patience_s: float = PATIENCE_S,
) -> FleetStatus:
    """Show what the controller that runs does, until it has done it, has left, or `patience_s` are over."""
    end = place.time.monotonic() + patience_s
    while True:
        now = glance(place)
        display.update(now)
        if fulfilled(now) or not place.controlled() or place.time.monotonic() >= end:
            return now
        place.time.sleep(LOOK_S)


def hold(running: Running, wanted: Wanted, hold_s: float, now_ms: int) -> Callable[[FleetStatus], None]:
    """Keep `min_gpus` machines while there is work, and before there was any for `hold_s`; none where all is done.

    Leaves it to whoever wishes otherwise meanwhile. The result is to be called with each status.
    """
    end_ms = now_ms + round(hold_s * 1000)
    wishes = [Wish(min_instances=wanted.min_gpus)]
    running.ledger.wish(wishes[-1])
    worked = False

    def look(now: FleetStatus) -> None:
        nonlocal worked
        work = now.demand.queued_tasks + now.demand.held_tasks > 0
        worked = worked or work
        keeps = work or not now.demand.known or (not worked and now.at_ms < end_ms)
        wanted_now = Wish(min_instances=wanted.min_gpus if keeps else 0)
        if wanted_now != wishes[-1] and running.ledger.wished() == wishes[-1]:
            running.ledger.wish(wanted_now)
            wishes.append(wanted_now)

    return look


def _controller(place: Place, spec: FleetSpec, gateway: Gateway, demand: DemandSource, ledger: Ledger) -> Stoppable:
    return Stoppable(spec, place.cloud, gateway, demand, ledger, clock=place.time, say=lambda _: None)


def _begin_anew(ledger: Ledger) -> None:
    """What was wished of a fleet that is gone is over; while machines live it holds, also for a new controller."""
    if all(intent.state == "closed" for intent in ledger.intents()):
        ledger.wish(Wish())


def _arguments(place: Place, wanted: Wanted, hold_s: float) -> Sequence[str]:
    """The options of `fleet run` that say what these say. The key goes by its file or by the environment."""
    given: dict[str, object] = {
        "--fleet": place.fleet,
        "--gateway": place.renting.gateway,
        "--gateway-admin": place.renting.gateway_admin,
        "--server": place.settings.server,
        "--vast-key-file": place.renting.vast_key_file and place.renting.vast_key_file.absolute(),
        "--gpus": wanted.gpus,
        "--min-gpus": wanted.min_gpus,
        "--hold": hold_s,
        "--max-price": wanted.max_price,
        "--budget": wanted.budget,
        "--max-usd-per-hour": wanted.max_usd_per_hour,
        "--model": wanted.model,
        "--disk-gb": wanted.disk_gb,
        "--image": wanted.image,
        "--tasks": ",".join(wanted.tasks),
        "--within": wanted.within_s / 60,
        "--ttl": wanted.ttl_s / 3600,
        "--idle": wanted.idle_s,
    }
    options = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    options += [text for name in wanted.gpu for text in ("--gpu", name)]
    switches = {"--on-demand": wanted.on_demand, "--datacenter": wanted.datacenter}
    return [*options, *(name for name, on in switches.items() if on), "--until-idle"]


class _Nobody:
    """A gateway that cannot be asked, and the demand that is then unknown."""

    def __init__(self, why: str) -> None:
        self._why = why

    def admit(self, nonce: str, kinds: Sequence[str], expires_ms: int) -> str:
        raise GatewaySilent(self._why)

    def lose(self, nonce: str) -> tuple[str, ...]:
        raise GatewaySilent(self._why)

    def drain(self, nonce: str) -> None:
        raise GatewaySilent(self._why)

    def workers(self) -> tuple[int, dict[str, WorkerNews]]:
        raise GatewaySilent(self._why)

    def look(self) -> Demand:
        return Demand(known=False)


class _Held:
    """The demand as the gateway alone tells it: what ends needs to know only what is still held."""

    def __init__(self, gateway: GatewayAdmin) -> None:
        self._gateway = gateway

    def look(self) -> Demand:
        try:
            return self._gateway.demand()
        except WhisperfleetError:
            return Demand(known=False)


def _whoever_answers(place: Place) -> tuple[Gateway, DemandSource]:
    try:
        gateway = place.gateway
    except WhisperfleetError as error:
        nobody = _Nobody(str(error))
        return nobody, nobody
    return gateway, _Held(gateway)
