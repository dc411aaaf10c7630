"""`whisperfleet fleet drain`, `down` and `reap`: ending machines, and saying what is left."""

import sys
from typing import TYPE_CHECKING, Literal

import click

from provisioning.commands.fleet_options import fleet_options, json_option

if TYPE_CHECKING:
    from provisioning.fleet_display import FleetDisplay
    from provisioning.fleet_place import Place
    from provisioning.status import FleetStatus

LEFT = 8
"""Exit code where machines still bill: that of the GPU market."""
CANCELLED = 130

wait_option = click.option(
    "--timeout", "patience_s", metavar="SECONDS", type=click.FloatRange(0), default=900.0, show_default=True,
    help="Say what is left after so long.",
)  # fmt: skip


@click.command(short_help="Let all machines finish what they hold, then end them.")
@wait_option
@fleet_options
@json_option
def drain(place: "Place", patience_s: float, as_json: bool) -> None:
    """Rent nothing more, let every machine finish the chunks it holds, and end it. Exit code 8 while some are left.

    The fleet rents nothing afterwards, whichever controller runs, until `fleet scale` or `up` want machines again.
    """
    _end(place, "drain", patience_s, as_json)


@click.command(short_help="End all machines of the fleet at once.")
@wait_option
@fleet_options
@json_option
def down(place: "Place", patience_s: float, as_json: bool) -> None:
    """End every machine of the fleet; what they hold is done again elsewhere.

    It is over when lists of the market, 20 s apart and more, show none of them. Exit code 8 while some are left. The
    fleet rents nothing afterwards, whichever controller runs, until `fleet scale` or `up` want machines again.
    """
    _end(place, "down", patience_s, as_json)


def _end(place: "Place", mode: Literal["drain", "down"], patience_s: float, as_json: bool) -> None:
    from provisioning.fleet_checkup import client_installed, clock_warning
    from provisioning.fleet_control import wish
    from provisioning.fleet_display import make_display
    from provisioning.fleet_glance import books
    from provisioning.ledger import Wish
    from provisioning.status import still_alive
    from workers.errors import StorageError

    client_installed()
    end = place.time.monotonic() + patience_s
    cancelled = False
    with make_display(as_json, sys.stdout.isatty()) as display:
        warning = clock_warning(place)
        if warning:
            display.note(f"Warning: {warning}")
        controlled = place.controlled()
        told = books(place).told
        try:
            wish(place, lambda _: Wish("drain" if mode == "drain" else "close"))
        except StorageError as error:
            if controlled:  # it could not be told: there is what does without
                raise StorageError(
                    f"{error} `whisperfleet fleet reap --all --fleet {place.fleet}` ends its machines without that."
                ) from None
            display.note(f"Warning: {error}")
        if controlled:
            now = _ask(place, mode, told, patience_s, display)
        if not controlled or (now.lines and not place.controlled()):
            now, cancelled = _do(place, mode, max(0.0, end - place.time.monotonic()), display)
        display.note(f"{still_alive(now)} {_afterwards(place, now, cancelled)}")
    if now.lines:
        sys.exit(CANCELLED if cancelled else LEFT)


def _afterwards(place: "Place", now: "FleetStatus", cancelled: bool) -> str:
    """What holds from now on."""
    if now.lines and not cancelled and place.controlled():
        return (
            "Its controller has not ended them in time, and is still to: "
            f"`whisperfleet fleet reap --all --fleet {place.fleet}` ends them without it."
        )
    return (
        f"Fleet '{place.fleet}' rents nothing more, whichever controller runs; "
        f"`whisperfleet fleet scale auto --fleet {place.fleet}` lets it rent again."
    )


def _do(
    place: "Place", mode: Literal["drain", "down"], patience_s: float, display: "FleetDisplay"
) -> "tuple[FleetStatus, bool]":
    from provisioning.fleet_control import ending
    from provisioning.reconcile import interruptible

    display.note(
        "It is over when one list of the market after the other shows nothing of it, a minute or two from now."
    )
    end = place.time.monotonic() + patience_s
    with ending(place) as running, interruptible(running.controller):
        late = False

        def watch(now: "FleetStatus") -> None:
            nonlocal late
            display.update(now)
            if place.time.monotonic() >= end and not running.controller.stopped:
                late = True
                running.controller.stop()

        now = running.controller.drain(watch) if mode == "drain" else running.controller.down(watch)
        return now, running.controller.stopped and not late


def _ask(
    place: "Place",
    mode: Literal["drain", "down"],
    told: "FleetStatus | None",
    patience_s: float,
    display: "FleetDisplay",
) -> "FleetStatus":
    """The controller ends them; when it says that nothing is left, that is looked for by another's eyes."""
    from provisioning.fleet_control import follow
    from provisioning.fleet_glance import books, look
    from provisioning.reconcile import LISTS_APART_MS

    display.note(f"A controller of fleet '{place.fleet}' runs: it is asked to end its machines.")
    clean_ms: int | None = None

    def gone(now: "FleetStatus | None") -> bool:
        nonlocal clean_ms
        if now is None or now.phase != mode or now.blind_since_ms is not None or now.lines:
            clean_ms = None
            return False
        clean_ms = now.at_ms if clean_ms is None else clean_ms
        return now.at_ms - clean_ms >= LISTS_APART_MS

    follow(place, display, gone, told, patience_s)
    return look(place, books(place))


@click.command(short_help="End machines that have outlived their time; for cron.")
@click.option("--all", "everything", is_flag=True, help="Also those whose time is not over; with --fleet only.")
@click.option(
    "--grace",
    "grace_s",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=300.0,
    show_default=True,
    help="Expired for so long: it has ended itself by then, if it could.",
)
@wait_option
@fleet_options
@json_option
def reap(place: "Place", everything: bool, grace_s: float, patience_s: float, as_json: bool) -> None:
    """End machines whose expiry, which is in their label, is past: without database, gateway or controller.

    Of all fleets of the account, or of the one that --fleet names. For cron, best on another machine, with a key that
    may only read and end instances. Machines without a label of Whisperfleet are never touched. Says nothing where
    nothing was to do; exit code 8 while some are left.
    """
    import json
    from dataclasses import asdict

    from provisioning import reaper
    from provisioning.fleet_checkup import clock_warning
    from workers.errors import OptionError, ServerError

    source = click.get_current_context().get_parameter_source("fleet")
    named = source is not click.core.ParameterSource.DEFAULT
    if everything and not named:
        raise OptionError("--all ends every machine of a fleet: name the fleet by --fleet.")
    warning = clock_warning(place)
    if warning and not everything:  # by a clock that is ahead it would end what others still use
        raise ServerError(warning)
    say = (lambda _: None) if as_json else print
    time = place.time
    if everything:
        done = reaper.down(place.cloud, place.fleet, time.now_ms, time.sleep, say=say, give_up_s=patience_s)
    else:
        fleet = place.fleet if named else None
        done = reaper.reap(
            place.cloud, time.now_ms, time.sleep, fleet=fleet, grace_s=grace_s, say=say, give_up_s=patience_s
        )
    if as_json:
        print(json.dumps(asdict(done), indent=1))
    elif done.destroyed or done.left:
        print(f"{len(done.destroyed)} ended, {len(done.left)} left, {done.spared} whose time is not over.")
    if done.left:
        print(f"Still there: {', '.join(map(str, done.left))}. {done.problem or ''}".rstrip(), file=sys.stderr)
        sys.exit(LEFT)
