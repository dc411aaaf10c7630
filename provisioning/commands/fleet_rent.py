"""`whisperfleet fleet up`, `run` and `scale`: what spends money, and within which bounds."""

import sys
from typing import TYPE_CHECKING

import click

from provisioning.commands.fleet_options import fleet_options, json_option, renting_options

if TYPE_CHECKING:
    from provisioning.fleet_display import FleetDisplay
    from provisioning.fleet_offering import Wanted
    from provisioning.fleet_place import Place
    from provisioning.status import FleetStatus

CANCELLED = 130


@click.command(short_help="Rent so many machines now, and return.")
@click.option("--gpus", metavar="N", type=click.IntRange(1, 256), default=8, show_default=True, help="How many.")
@click.option(
    "--controller/--no-controller",
    default=True,
    show_default=True,
    help="Leave a controller in the background, that replaces what is lost and ends what is not needed.",
)
@renting_options
@fleet_options
@json_option
def up(place: "Place", wanted: "Wanted", controller: bool, as_json: bool) -> None:
    """Rent GPUs within --max-price and --budget, and return while they boot.

    The controller that stays in the background replaces machines that are lost, keeps to the budget and, when no work
    is left, ends all and itself. Ctrl-C rents no more; what is rented by then is left to the controller, too.
    """
    from provisioning.fleet_checkup import ensure_ready
    from provisioning.fleet_display import make_display
    from provisioning.fleet_glance import books
    from provisioning.fleet_offering import ensure_worthwhile, image, limits

    limits(wanted)
    ensure_ready(place, image(place, wanted))
    known = books(place)
    ensure_worthwhile(place, wanted, known.speeds, known.meter.usd(place.time.now_ms()))
    with make_display(as_json, sys.stdout.isatty()) as display:
        if place.controlled():
            now, cancelled = _ask_for(place, wanted.gpus, display), False
        else:
            now, cancelled = _rent(place, wanted, display)
        if controller and now.lines and not place.controlled():
            from dataclasses import replace

            from provisioning.fleet_control import start_in_background

            keeping = replace(wanted, min_gpus=0 if cancelled else wanted.gpus)
            number = start_in_background(place, keeping)
            display.note(f"A controller (process {number}) looks after them; it writes to {place.log}.")
        _tell_end(place, wanted, now, cancelled, display)


def _rent(place: "Place", wanted: "Wanted", display: "FleetDisplay") -> "tuple[FleetStatus, bool]":
    from provisioning.fleet_control import control
    from provisioning.ledger import Wish
    from provisioning.reconcile import interruptible

    with control(place, wanted) as running, interruptible(running.controller):
        running.ledger.wish(Wish())  # whatever was wished of it before: now it is to rent
        now = running.controller.up(wanted.gpus, display.update)
        return now, running.controller.stopped


def _ask_for(place: "Place", count: int, display: "FleetDisplay") -> "FleetStatus":
    from provisioning.fleet_control import follow, wish
    from provisioning.ledger import Wish

    display.note(f"A controller of fleet '{place.fleet}' runs already: it is asked for {count}.")
    wish(place, Wish(min_instances=count, max_instances=count))
    return follow(place, display, lambda now: now.live >= count)


def _tell_end(place: "Place", wanted: "Wanted", now: "FleetStatus", cancelled: bool, display: "FleetDisplay") -> None:
    """Exit code 130 after Ctrl-C, and 8 where fewer are rented than were wanted, with the reason."""
    from provisioning.cloud import CloudRefused

    verb = "machine is" if wanted.gpus == 1 else "machines are"
    rented = f"{now.live} of {wanted.gpus} {verb} rented, for ${now.usd_per_hour:.2f} an hour"
    ends = f"`whisperfleet fleet down --fleet {place.fleet}` ends them."
    if cancelled:
        display.note(f"Cancelled: {rented}; {ends}" if now.lines else "Cancelled: nothing is rented.")
        sys.exit(CANCELLED)
    if now.live < wanted.gpus:
        why = now.alarms[-1] if now.alarms else "the market had no more."
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
    help="Keep those only while there is work, and before there is any for so long.",
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
    Ctrl-C waits for the step at hand.
    """
    from provisioning.fleet_checkup import ensure_ready
    from provisioning.fleet_control import control, hold
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
        with control(place, wanted) as running, interruptible(running.controller):
            look = hold(running, wanted, hold_s, place.time.now_ms()) if hold_s is not None else lambda _: None

            if running.ledger.wished().phase != "run":
                display.note(
                    "This fleet was asked to end, and still is to: `whisperfleet fleet scale auto` undoes that."
                )

            def watch(now: "FleetStatus") -> None:
                display.update(now)
                show(now)
                look(now)

            running.controller.run(until_idle=until_idle, watch=watch)
            display.note(running.controller.farewell())
    if running.controller.stopped:
        sys.exit(CANCELLED)


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
    known = books(place)
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

    The controller sees it within its next tick; budget and price hold as before.
    """
    import json

    from provisioning.fleet_control import wish
    from provisioning.ledger import Wish

    least, most = _bounds(count)
    wish(place, Wish(min_instances=least, max_instances=most))
    if as_json:
        print(json.dumps({"fleet": place.fleet, "min_instances": least, "max_instances": most}))
    elif most is None:
        print(f"Fleet '{place.fleet}' has as many machines again as its controller was started for.")
    else:
        span = str(most) if least == most else f"{least} to {most}"
        print(f"Fleet '{place.fleet}' is to have {span} machine{'' if most == 1 else 's'}.")


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
