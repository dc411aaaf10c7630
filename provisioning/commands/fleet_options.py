"""The options that `whisperfleet fleet` commands share, gathered into one argument each: `place` and `wanted`."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from provisioning.fleet_offering import Wanted

Decorated = Callable[..., None]
Option = Callable[[Decorated], Decorated]

json_option = click.option("--json", "as_json", is_flag=True, help="For programs.")
positive = click.FloatRange(0, min_open=True)

_PLACE = (
    click.option("--fleet", metavar="NAME", default="default", show_default=True, help="Which of several fleets."),
    click.option("--gateway", metavar="URL", help="The gateway, as a rented machine reaches it."),
    click.option(
        "--gateway-admin",
        metavar="URL",
        help="Its other side, as this machine reaches it.  [default: http://127.0.0.1:7402]",
    ),
    click.option("--server", metavar="URL", help="The Conductor server.  [default: the embedded one]"),
    click.option(
        "--vast-key-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Has the Vast.ai key.  [default: VAST_API_KEY has it]",
    ),
)

_MARKET = (
    click.option("--model", metavar="NAME", default="turbo", show_default=True, help="What the machines are to run."),
    click.option("--gpu", metavar="NAME", multiple=True, help="Only this kind, 'RTX 4090' say; again for another."),
    click.option("--on-demand", is_flag=True, help="Machines that nobody can outbid, at a higher price."),
    click.option("--datacenter", is_flag=True, help="Only machines in data centres, for recordings that are delicate."),
    click.option("--disk-gb", metavar="N", type=click.FloatRange(8, 1_000), default=20.0, show_default=True),
)

_MONEY = (
    click.option("--max-price", metavar="USD", type=positive, help="Per GPU and hour, its disk included, at most."),
    click.option("--budget", metavar="USD", type=positive, help="All that this fleet may cost, from its beginning."),
    click.option("--max-usd-per-hour", metavar="USD", type=positive, help="All machines together, at most."),
)

_MACHINES = (
    click.option("--image", metavar="NAME", help="What they run.  [default: WHISPERFLEET_WORKER_IMAGE]"),
    click.option(
        "--tasks",
        metavar="LIST",
        help="Kinds of tasks for them, separated by commas.  [default: transcribe_chunk]",
    ),
    click.option(
        "--within", "within_min", metavar="MINUTES", type=positive, default=30.0, show_default=True,
        help="How soon the waiting work should be done.",
    ),
    click.option(
        "--ttl", "ttl_h", metavar="HOURS", type=positive, default=6.0, show_default=True,
        help="No machine lives longer, whatever happens.",
    ),
    click.option(
        "--idle", "idle_s", metavar="SECONDS", type=click.FloatRange(0), default=120.0, show_default=True,
        help="A machine without work lives on for so long.",
    ),
)  # fmt: skip


def fleet_options(command: Decorated) -> Decorated:
    """Give a command the options of all, as its argument `place` (provisioning.fleet_place.Place)."""

    @functools.wraps(command)
    def gathered(
        *,
        fleet: str,
        gateway: str | None,
        gateway_admin: str | None,
        server: str | None,
        vast_key_file: Path | None,
        **others: Any,
    ) -> None:
        from provisioning.fleet_place import Given, Time, resolve

        logging.getLogger("provisioning").addHandler(logging.NullHandler())  # else warnings go into the table
        lives_in = click.get_current_context().find_object(Time)
        command(place=resolve(Given(fleet, gateway, gateway_admin, server, vast_key_file), lives_in), **others)

    return _with(gathered, _PLACE)


def market_options(command: Decorated) -> Decorated:
    """Which machines, and for how much: as the argument `wanted` (provisioning.fleet_offering.Wanted)."""
    return _with(_gathering(command), (*_MONEY, *_MARKET))


def renting_options(command: Decorated) -> Decorated:
    """The same, and what they are to be once they are rented."""
    return _with(_gathering(command), (*_MONEY, *_MARKET, *_MACHINES))


def said(context: click.Context, wanted: "Wanted") -> "dict[str, tuple[str, Any]]":
    """What was typed about machines and money, but not how many: option -> (field of Wanted, value as in JSON)."""
    fields = {"within_min": "within_s", "ttl_h": "ttl_s"}
    found = {}
    for option in context.command.params:
        name = fields.get(option.name or "", option.name or "")
        typed = context.get_parameter_source(option.name or "") is not click.core.ParameterSource.DEFAULT
        if typed and name not in ("gpus", "min_gpus") and hasattr(wanted, name):
            value = getattr(wanted, name)
            found[option.opts[0]] = (name, list(value) if isinstance(value, tuple) else value)
    return found


def _gathering(command: Decorated) -> Decorated:
    @functools.wraps(command)
    def gathered(**given: Any) -> None:
        from provisioning.fleet_offering import Wanted

        names = {"tasks", "within_min", "ttl_h", *Wanted.__dataclass_fields__}
        said = {name: given.pop(name) for name in list(given) if name in names}
        values = {name: value for name, value in said.items() if value is not None}
        for name, field, factor in (("within_min", "within_s", 60), ("ttl_h", "ttl_s", 3600)):
            if name in values:
                values[field] = values.pop(name) * factor
        values["gpu"] = tuple(" ".join(name.replace("_", " ").split()) for name in values.get("gpu") or ())
        if "tasks" in values:
            values["tasks"] = tuple(kind.strip() for kind in values["tasks"].split(",") if kind.strip())
        command(wanted=Wanted(**values), **given)

    return gathered


def _with(command: Decorated, options: tuple[Option, ...]) -> Decorated:
    for option in reversed(options):
        command = option(command)
    return command
