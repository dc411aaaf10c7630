"""`whisperfleet fleet status`, `watch` and `logs`: looking, which changes nothing and costs nothing."""

from typing import TYPE_CHECKING

import click

from provisioning.commands.fleet_options import fleet_options, json_option

if TYPE_CHECKING:
    from provisioning.fleet_place import Place

CONTROLLED_S, ALONE_S = 2.0, 10.0  # between looks: at the controller's own account, and at the market


@click.command(short_help="Show the fleet once: machines, money, work.")
@fleet_options
@json_option
def status(place: "Place", as_json: bool) -> None:
    """Show each machine of the fleet with its GPU, state, price, cost, chunks done and speed.

    As the fleet's controller last told; where none runs, by asking the market and the gateway.
    """
    import json

    from provisioning.fleet_display import print_fleet
    from provisioning.fleet_glance import glance

    now = glance(place)
    if as_json:
        print(json.dumps(now.to_json(), indent=1))
    else:
        print_fleet(now)


@click.command(short_help="Follow the fleet until Ctrl-C.")
@click.option("--seconds", metavar="N", type=click.FloatRange(0), help="Leave after so long.")
@fleet_options
@json_option
def watch(place: "Place", seconds: float | None, as_json: bool) -> None:
    """Follow the fleet as a table that moves; Ctrl-C leaves it running.

    --json prints a JSON object a line.
    """
    import contextlib
    import sys

    from provisioning.cloud import CloudBlind
    from provisioning.fleet_display import make_display
    from provisioning.fleet_glance import ALONE, glance

    end = None if seconds is None else place.time.now() + seconds
    pause = CONTROLLED_S
    with make_display(as_json, sys.stdout.isatty()) as display, contextlib.suppress(KeyboardInterrupt):
        while True:
            try:
                now = glance(place)
            except CloudBlind as error:
                display.note(str(error))
            else:
                display.update(now)
                pause = ALONE_S if now.phase == ALONE else CONTROLLED_S
            if end is not None and place.time.now() + pause > end:
                return
            place.time.sleep(pause)


@click.command(short_help="Print what a machine's container wrote.")
@click.argument("instance", type=click.IntRange(1))
@click.option("-n", "--lines", metavar="N", type=click.IntRange(1, 10_000), default=100, show_default=True)
@fleet_options
@json_option
def logs(place: "Place", instance: int, lines: int, as_json: bool) -> None:
    """Print the last lines that the container of INSTANCE wrote; its number is in `fleet status`."""
    import json

    from provisioning.fleet_glance import ours
    from workers.errors import OptionError
    from workflows.display import printable

    if instance not in ours(place.fleet, place.cloud.instances()):
        raise OptionError(
            f"Instance {instance} is no machine of fleet '{place.fleet}': `whisperfleet fleet status` lists those."
        )
    text = place.cloud.logs(instance, lines)
    if as_json:
        print(json.dumps({"instance": instance, "lines": text.splitlines()}, indent=1))
        return
    for line in text.splitlines():
        print(printable(line))
