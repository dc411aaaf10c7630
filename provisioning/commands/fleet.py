"""`whisperfleet fleet`: the group. Each subcommand's module is imported when it is called or listed, not before."""

import importlib

import click

SUBCOMMANDS = {
    "offers": "provisioning.commands.fleet_market:offers",
    "plan": "provisioning.commands.fleet_market:plan",
    "up": "provisioning.commands.fleet_rent:up",
    "run": "provisioning.commands.fleet_rent:run",
    "status": "provisioning.commands.fleet_look:status",
    "watch": "provisioning.commands.fleet_look:watch",
    "logs": "provisioning.commands.fleet_look:logs",
    "scale": "provisioning.commands.fleet_rent:scale",
    "drain": "provisioning.commands.fleet_end:drain",
    "down": "provisioning.commands.fleet_end:down",
    "reap": "provisioning.commands.fleet_end:reap",
    "cost": "provisioning.commands.fleet_audit:cost",
    "doctor": "provisioning.commands.fleet_audit:doctor",
}


class Subcommands(click.Group):
    """A group whose subcommands are imported by need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in SUBCOMMANDS:
            return None
        module, _, name = SUBCOMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=Subcommands, short_help="Rent GPUs, watch them, and give them back.")
def fleet() -> None:
    """Rent GPUs on Vast.ai, watch them, and give them back.

    `offers` and `plan` cost nothing. `up` rents and returns, `run` keeps a fleet as large as its work needs;
    `down` ends every machine, and `reap` those that a lost controller has left. The key of the account is read from
    VAST_API_KEY or from a file, never from an option.
    """
