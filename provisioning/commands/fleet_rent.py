"""`whisperfleet fleet up`, `run` and `scale`: what spends money, and within which bounds."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from provisioning.commands.fleet_options import fleet_options, json_option, renting_options

if TYPE_CHECKING:
    from provisioning.fleet_display import FleetDisplay
    from provisioning.fleet_offering import Wanted
    from provisioning.fleet_place import Place
    from provisioning.ledger import Wish
    from provisioning.status import FleetStatus

CANCELLED = 130
ASKED_TO_END = "Another command has asked this fleet to end, so no more is rented."


@click.command(short_help="Rent so many machines now, and return.")
@click.option("--gpus", metavar="N", type=click.IntRange(1, 256), default=8, show_default=True, help="How many.")
@click.option(
    "--controller/--no-controller",
    default=True,
    show_default=True,
    help="Leave a controller in the background, that replaces what is lost and ends what is not needed. Without one "
    "the gateway ends all machines after a quarter of an hour.",
)
@renting_options
@fleet_options
@json_option
def up(place: "Place", wanted: "Wanted", controller: bool, as_json: bool) -> None:
    """Rent GPUs within --max-price and --budget, and return while they boot.

    The controller that stays in the background replaces machines that are lost, keeps to the budget and, when no work
    is left, ends all and itself. Ctrl-C rents no more; what is rented by then is left to the controller, too.

    Where a controller runs already it is asked for so many, within the bounds that it was started with; more than
    that stay as they are: `fleet scale` is what makes a fleet smaller.
    """
    from provisioning.fleet_display import make_display

    with make_display(as_json, sys.stdout.isatty()) as display:
        if place.controlled():
            _ensure_same(place, wanted)
            display.note(f"A controller of fleet '{place.fleet}' runs already: it is asked for {wanted.gpus}.")
            now, cancelled = _ask_for(place, wanted, display)
        else:
            _ensure_rentable(place, wanted)
            now, cancelled = (_hire if controller else _rent)(place, wanted, display)
        _tell_end(place, wanted, now, cancelled, display)


def _ensure_rentable(place: "Place", wanted: "Wanted") -> None:
    """Raises what is in the way."""
    from provisioning.fleet_checkup import ensure_ready
    from provisioning.fleet_glance import books
    from provisioning.fleet_offering import ensure_worthwhile, image, specification

    specification(place, wanted)
    ensure_ready(place, image(place, wanted))
    known = books(place, wanted.model)
    ensure_worthwhile(place, wanted, known.speeds, known.meter.usd(place.time.now_ms()))


def _ensure_same(place: "Place", wanted: "Wanted") -> None:
    """Raises OptionError where something was said that is not what the running controller goes by."""
    from provisioning.commands.fleet_options import said
    from provisioning.fleet_glance import books
    from workers.errors import OptionError

    holds = books(place).wanted
    given = said(click.get_current_context(), wanted)
    others = {name: value for name, (field, value) in given.items() if field in holds and holds[field] != value}
    if others:
        values = ((name, holds[given[name][0]]) for name in others)
        told = ", ".join(f"{name} {_shown(value)}" for name, value in values)
        raise OptionError(
            f"A controller of fleet '{place.fleet}' runs with {told}, and only a new one can have another: leave "
            f"{'that' if len(others) == 1 else 'those'} out, name another fleet by --fleet, or end this one by "
            f"`whisperfleet fleet down --fleet {place.fleet}` first."
        )


def _shown(value: object) -> str:
    """A value of an option as a person would type it."""
    if isinstance(value, list):
        return ", ".join(f"'{each}'" for each in value) or "of any kind"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else "of none" if value is None else str(value)


def _rent(place: "Place", wanted: "Wanted", display: "FleetDisplay") -> "tuple[FleetStatus, bool]":
    """Rent them here, and leave them to themselves; another command may wish otherwise meanwhile."""
    from provisioning.fleet_control import control
    from provisioning.ledger import Wish
    from provisioning.reconcile import interruptible

    with control(place, wanted) as running, interruptible(running.controller):
        running.ledger.wish(Wish())  # whatever was wished of it before: now it is to rent
        asked_to_end = False

        def watch(now: "FleetStatus") -> None:
            nonlocal asked_to_end
            display.update(now)
            if running.ledger.wished().phase != "run":
                asked_to_end = True
                running.controller.stop()

        now = running.controller.up(wanted.gpus, watch)
        if asked_to_end:
            display.note(ASKED_TO_END)
        return now, running.controller.stopped


def _hire(place: "Place", wanted: "Wanted", display: "FleetDisplay") -> "tuple[FleetStatus, bool]":
    """The controller comes first, and rents: so nothing that is rented is ever without one, whatever ends this."""
    from provisioning.fleet_control import start_in_background, wish
    from provisioning.fleet_glance import books
    from provisioning.ledger import Wish

    told, asked_ms = books(place).told, place.time.now_ms()
    wish(place, lambda _: Wish(held_instances=wanted.gpus, held_since_ms=asked_ms))
    number = start_in_background(place, wanted)
    display.note(f"A controller (process {number}) looks after them; it writes to {place.log}.")
    return _followed(place, wanted.gpus, told, display)


def _ask_for(place: "Place", wanted: "Wanted", display: "FleetDisplay") -> "tuple[FleetStatus, bool]":
    """So many and not fewer than there may be already, whatever was wished before."""
    from dataclasses import replace

    from provisioning.fleet_control import wish
    from provisioning.fleet_glance import books
    from provisioning.ledger import Wish

    asked_ms, known = place.time.now_ms(), books(place)
    limits = known.limits
    most = limits.max_instances if limits else wanted.gpus

    def more(before: "Wish") -> "Wish":
        base = before if before.phase == "run" else Wish()
        bound = most if base.max_instances is None else base.max_instances
        least = None if base.min_instances is None else max(base.min_instances, wanted.gpus)
        return replace(
            base,
            min_instances=least,
            max_instances=wanted.gpus if wanted.gpus > bound else base.max_instances,
            held_instances=max(wanted.gpus, base.held_instances or 0),
            held_since_ms=asked_ms,
        )

    wish(place, more)
    return _followed(place, wanted.gpus, known.told, display)


def _followed(
    place: "Place", count: int, before: "FleetStatus | None", display: "FleetDisplay"
) -> "tuple[FleetStatus, bool]":
    """Until the controller has so many, can have no more, or somebody wants it otherwise; whether that was so."""
    from dataclasses import replace

    from provisioning.fleet_control import ended_for_now, follow, interrupted_by_any_end, wish
    from provisioning.fleet_glance import glance

    enough = _Enough(count, lambda: ended_for_now(place))
    try:
        with interrupted_by_any_end():
            now = follow(place, display, enough, before)
    except KeyboardInterrupt:
        now = glance(place)
        wish(place, lambda wished: replace(wished, min_instances=0, max_instances=now.live, held_instances=0))
        return now, True
    if enough.ended:
        display.note(ASKED_TO_END)
    return now, enough.ended


class _Enough:
    """Is there nothing left to wait for? ended: as somebody wishes this fleet to end."""

    def __init__(self, count: int, asked_to_end: Callable[[], bool]) -> None:
        self._count, self._asked_to_end = count, asked_to_end
        self._at_ms, self._before, self._fruitless = 0, -1, 0
        self.ended = False

    def __call__(self, now: "FleetStatus | None") -> bool:
        from provisioning.reconcile import FRUITLESS_TICKS, NOT_SURE

        self.ended = self._asked_to_end()
        if self.ended:
            return True
        if now is None or now.at_ms <= self._at_ms:
            return False
        self._at_ms = now.at_ms
        sure = sum(line.state not in NOT_SURE for line in now.lines)
        still = sure == now.live and now.live <= self._before  # else what is going has the place of what is to come
        self._fruitless = self._fruitless + 1 if still else 0
        self._before = now.live
        return sure >= self._count or now.problem is not None or self._fruitless >= FRUITLESS_TICKS


def _tell_end(place: "Place", wanted: "Wanted", now: "FleetStatus", cancelled: bool, display: "FleetDisplay") -> None:
    """Exit code 130 after Ctrl-C, and 8 where fewer are rented than were wanted, with the reason."""
    from provisioning.cloud import CloudRefused
    from provisioning.fleet_control import last_words

    verb = "machine is" if wanted.gpus == 1 else "machines are"
    rented = f"{now.live} of {wanted.gpus} {verb} rented, for ${now.usd_per_hour:.2f} an hour"
    ends = f"`whisperfleet fleet down --fleet {place.fleet}` ends them."
    if cancelled:
        display.note(f"Cancelled: {rented}; {ends}" if now.lines else "Cancelled: nothing is rented.")
        sys.exit(CANCELLED)
    if now.problem:
        left = f" Its controller ends what is rented: {rented}." if now.lines else " No machine is rented."
        raise CloudRefused(now.problem + left)
    if now.live < wanted.gpus:
        gone = now.phase == "alone" and place.log.exists()
        why = now.alarms[-1] if now.alarms else last_words(place) if gone else "the market had no more."
        if not now.lines:
            raise CloudRefused(f"No machine is rented: {why}")
        raise CloudRefused(f"Only {rented}: {why} {ends}")
    display.note(f"{rented}; `whisperfleet fleet watch --fleet {place.fleet}` shows them, {ends}")


@click.command(short_help="Control the fleet: rent for the work, within the budget.")
@click.option("--gpus", metavar="N", type=click.IntRange(0, 256), default=8, show_default=True, help="At most so many.")
@click.option("--min-gpus", metavar="N", type=click.IntRange(0, 256), default=0, show_default=True, help="At least.")
@click.option(
    "--hold",
    "hold_s",
    metavar="SECONDS",
    type=click.FloatRange(0),
    help="Keep the machines of --min-gpus only while there is work, and for the first so many seconds without any.",
)
@click.option("--until-idle", is_flag=True, help="Leave when no work and no machine has been there for a minute.")
@click.option("--metrics", metavar="HOST:PORT", help="Where Prometheus may ask.  [default: nowhere]")
@renting_options
@fleet_options
@json_option
def run(
    place: "Place", wanted: "Wanted", hold_s: float | None, until_idle: bool, metrics: str | None, as_json: bool
) -> None:
    """Rent for the work that waits, replace what is lost, end what is idle, and stop at the budget; for ever.

    SIGTERM and Ctrl-C leave the machines as they are, and it says which: another `run` takes them over. The first
    Ctrl-C waits for the step at hand. A fleet that `fleet down` or `drain` has ended rents nothing, also after a new
    start, until `fleet scale` or `up` want machines again.
    """
    from dataclasses import replace

    from provisioning.fleet_checkup import ensure_ready
    from provisioning.fleet_control import HOLD_S, Hold, control
    from provisioning.fleet_display import make_display
    from provisioning.fleet_glance import books
    from provisioning.fleet_metrics import measured
    from provisioning.fleet_offering import image, limits
    from provisioning.reconcile import interruptible

    limits(wanted)
    adopted = any(intent.state != "closed" for intent in books(place).intents)
    if not adopted:
        ensure_ready(place, image(place, wanted))
    with measured(metrics) as show, make_display(as_json, sys.stdout.isatty()) as display:
        _look_ahead(place, wanted, display, adopted)
        least, always = (0, wanted) if hold_s is None else (wanted.min_gpus, replace(wanted, min_gpus=0))
        with control(place, always) as running, interruptible(running.controller):
            look = Hold(running, least, HOLD_S if hold_s is None else hold_s, place.time.now_ms())
            _tell_wish(place, running.ledger.wished(), display)

            def watch(now: "FleetStatus") -> None:
                display.update(now)
                show(now)
                look(now)

            running.controller.run(until_idle=until_idle, stay=not until_idle, watch=watch)
            display.note(running.controller.farewell())
    if running.controller.stopped:
        sys.exit(CANCELLED)


def _tell_wish(place: "Place", wish: "Wish", display: "FleetDisplay") -> None:
    """What another command has wished holds for every controller, until somebody wishes otherwise."""
    undo = f"`whisperfleet fleet scale auto --fleet {place.fleet}` undoes that"
    if wish.phase != "run":
        display.note(f"This fleet was asked to end, and still is to, so nothing is rented: {undo}.")
    elif (wish.min_instances, wish.max_instances) != (None, None):
        span = f"{wish.min_instances or 0} to {'--gpus' if wish.max_instances is None else wish.max_instances}"
        display.note(f"This fleet was asked for {span} machines, and still is to have them: {undo}.")


def _look_ahead(place: "Place", wanted: "Wanted", display: "FleetDisplay", adopted: bool) -> None:
    """A controller may wait for a price, not for a budget; with machines to look after nothing must keep it away."""
    from provisioning.fleet_checkup import examine
    from provisioning.fleet_glance import books
    from provisioning.fleet_offering import ensure_affordable, image, nothing_found, search

    if adopted:
        for finding in examine(place, image(place, wanted)):
            if finding.verdict == "fails":
                display.note(f"Warning: {finding.detail}")
        return
    known = books(place, wanted.model)
    found, seen = search(place, wanted, known.speeds)
    if found:
        ensure_affordable(place, wanted, found, known.meter.usd(place.time.now_ms()))
    else:
        display.note(f"Warning: {nothing_found(place, wanted, seen)}")


@click.command(short_help="Tell the running controller how many machines to keep.")
@click.argument("count", metavar="N|MIN-MAX|auto")
@fleet_options
@json_option
def scale(place: "Place", count: str, as_json: bool) -> None:
    """Keep N machines, or between MIN and MAX by the work, or go back to what the controller was started with (auto).

    The controller sees it within its next tick; budget and price hold as before. A fleet that was ended by `fleet
    down` or `drain` rents again.
    """
    import json
    from dataclasses import replace

    from provisioning.fleet_control import ended_for_now, wish
    from workers.errors import OptionError

    least, most = _bounds(count)
    controlled = place.controlled()
    if not controlled and not ended_for_now(place):
        raise OptionError(
            f"No controller of fleet '{place.fleet}' runs on this machine: start one by "
            f"`whisperfleet fleet run --fleet {place.fleet}`."
        )
    wish(place, lambda before: replace(before, phase="run", min_instances=least, max_instances=most))
    if as_json:
        print(json.dumps({"fleet": place.fleet, "min_instances": least, "max_instances": most}))
        return
    if most is None:
        print(f"Fleet '{place.fleet}' has as many machines again as its controller was started for.")
    else:
        span = str(most) if least == most else f"{least} to {most}"
        print(f"Fleet '{place.fleet}' is to have {span} machine{'' if most == 1 else 's'}.")
    if not controlled:
        print(f"No controller runs now: `whisperfleet fleet run --fleet {place.fleet}` starts one.")


def _bounds(count: str) -> tuple[int | None, int | None]:
    """Raises OptionError."""
    import re

    from workers.errors import OptionError

    if count == "auto":
        return None, None
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", count)
    least, most = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if least > most or most > 256:
        raise OptionError(f"'{count}' is no number of machines: write N, MIN-MAX (up to 256) or auto.")
    return least, most
