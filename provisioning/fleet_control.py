"""Being a fleet's controller, starting one in the background, or asking the one that runs: what commands have of it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Self

from provisioning.cloud import CloudBlind, CloudRefused, OfferQuery
from provisioning.demand import ConductorDemand, DemandSource, Gateway, GatewayAdmin, GatewaySilent
from provisioning.fleet import Demand, Limits, WorkerNews
from provisioning.fleet_display import NOBODY_SAID_USD, FleetDisplay
from provisioning.fleet_glance import books, glance
from provisioning.fleet_offering import Wanted, specification
from provisioning.fleet_place import Place, Time
from provisioning.ledger import Ledger, Wish
from provisioning.reconcile import Controller
from provisioning.renting import FleetSpec
from provisioning.status import FleetStatus
from workers.errors import ServerError, WhisperfleetError

LOOK_S = 2.0
START_S = 30.0  # the market's client alone takes a second or two to load
PATIENCE_S = 15 * 60.0
HOLD_S = 900.0
"""What `up` has rented is kept for so long although nothing waits yet: a boot takes minutes, and so does a command."""
HEED_S = 1.0  # how soon a controller that waits for its next tick sees what another command wishes


class Attentive:
    """The controller's clock: a wait ends early where another command has wished something meanwhile."""

    def __init__(self, time: Time, ledger: Ledger) -> None:
        self._time = time
        self._ledger = ledger

    def now_ms(self) -> int:
        return self._time.now_ms()

    def wait(self, seconds: float, stop: threading.Event) -> None:
        end = self._time.monotonic() + seconds
        before = self._ledger.wished()
        while not stop.is_set() and (left := end - self._time.monotonic()) > 0 and self._ledger.wished() == before:
            self._time.wait(min(left, HEED_S), stop)


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
            ledger.note("limits", asdict(spec.limits))
            ledger.note("wanted", asdict(wanted))
            _note_credit(place, ledger)
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


def start_in_background(place: Place, wanted: Wanted) -> int:
    """A `fleet run` of its own, which lives until its fleet is gone and nothing waits; its process id.

    In a session of its own: a terminal that is closed does not end it. Raises ServerError with what it said where it
    ends at once.
    """
    place.log.parent.mkdir(parents=True, exist_ok=True)
    with place.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workflows.cli", "fleet", "run", *_arguments(place, wanted)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=os.path.abspath(os.sep),
            start_new_session=True,
        )
    end = place.time.monotonic() + START_S
    while not place.controlled():
        if process.poll() is not None:
            raise ServerError(f"The controller of fleet '{place.fleet}' ended at once: {last_words(place)}")
        if place.time.monotonic() > end:
            break
        place.time.sleep(0.1)
    return process.pid


def last_words(place: Place) -> str:
    """The last line that a controller in the background wrote, and where the others are."""
    try:
        said = place.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    except FileNotFoundError:
        said = []
    words = "".join(said).removeprefix("Error: ").rstrip(".")
    return f"{words or 'it said nothing'} (see {place.log})."


def wish(place: Place, change: Callable[[Wish], Wish]) -> Wish:
    """Tell the controller that runs, or the next one that does."""
    with place.ledger() as ledger:
        return ledger.rewish(change)


def ended_for_now(place: Place) -> bool:
    """Is the fleet one that was asked to end, and rents nothing until somebody wishes otherwise?"""
    if not place.database.exists():
        return False
    with place.ledger() as ledger:
        return ledger.wished().phase != "run"


def follow(
    place: Place,
    display: FleetDisplay,
    fulfilled: Callable[[FleetStatus | None], bool],
    before: FleetStatus | None,
    patience_s: float = PATIENCE_S,
) -> FleetStatus:
    """Show what the controller that runs does, until it has done it, has left, or `patience_s` are over.

    By what it has told since it told `before`, None at first: the market is asked by one of us at a time, as it answers
    a question a second.
    """
    end = place.time.monotonic() + patience_s
    while True:
        told = books(place).told
        now = told if told != before else None
        if now is not None:
            display.update(now)
        if fulfilled(now) or not place.controlled() or place.time.monotonic() >= end:
            return glance(place) if now is None or not place.controlled() else now
        place.time.sleep(min(LOOK_S, max(0.1, end - place.time.monotonic())))


@dataclass
class Hold:
    """Keeps machines for which there is no work yet: while there is work, and before there is any for `seconds`.

    As many as are given here, or as `up` wished of the controller since, from then on; none where all is done. What
    `scale` says goes before. To be called with each status.
    """

    running: Running
    own: int
    seconds: float
    since_ms: int
    _count: int = field(default=0, init=False)
    _worked: bool = field(default=False, init=False)
    _heard: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._count = self.own
        self.listen(self.since_ms)

    def __call__(self, now: FleetStatus) -> None:
        self.listen(now.at_ms)
        work = now.demand.queued_tasks + now.demand.held_tasks > 0
        self._worked = self._worked or work
        early = not self._worked and now.at_ms < self.since_ms + self.seconds * 1000
        self.running.controller.held = self._count if work or not now.demand.known or early else 0

    def listen(self, now_ms: int) -> None:
        """Begin again where somebody wished so lately. What was wished of a controller long gone is over."""
        wish = self.running.ledger.wished()
        before, self._heard = self._heard, wish.held_since_ms
        if self._heard is None:
            self._count = self.own
        elif self._heard != before and now_ms - self._heard < self.seconds * 1000:
            self._count, self.since_ms, self._worked = wish.held_instances or 0, self._heard, False
        self.running.controller.held = self._count


@contextmanager
def interrupted_by_any_end() -> Iterator[None]:
    """SIGTERM, and SIGHUP where it is not ignored, are as Ctrl-C: for who only follows. Main thread only."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _note_credit(place: Place, ledger: Ledger) -> None:
    """The account's credit before this fleet's first machine: what is gone of it since is an audit of the meter."""
    if ledger.noted("credit") is None and not ledger.intents():
        with suppress(CloudBlind, CloudRefused):
            ledger.note("credit", place.cloud.account().credit_usd)


def _controller(place: Place, spec: FleetSpec, gateway: Gateway, demand: DemandSource, ledger: Ledger) -> Stoppable:
    clock = Attentive(place.time, ledger)
    return Stoppable(spec, place.cloud, gateway, demand, ledger, clock=clock, say=lambda _: None)


def _arguments(place: Place, wanted: Wanted) -> Sequence[str]:
    """The options of `fleet run` that say what these say. The key goes by its file or by the environment."""
    given: dict[str, object] = {
        "--fleet": place.fleet,
        "--gateway": place.renting.gateway,
        "--gateway-admin": place.renting.gateway_admin,
        "--server": place.settings.server,
        "--vast-key-file": place.renting.vast_key_file and place.renting.vast_key_file.absolute(),
        "--gpus": wanted.gpus,
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
