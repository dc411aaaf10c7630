"""`whisperfleet server`: the embedded Conductor server by hand, for those who want it to stay."""

import dataclasses
import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from workers.settings import Settings

NOT_RUNNING = 3
"""Exit code of `status` when no server runs, as service managers have it."""


@click.group(name="server")
def server() -> None:
    """Start, stop and inspect the embedded Conductor server.

    Commands that need a server start one by themselves and end it afterwards; `start` makes it stay.
    """


@server.command()
def start() -> None:
    """Start the server and let it run until `server stop`."""
    from provisioning import conductor

    settings = _embedded()
    status = conductor.start(settings, lambda text: click.echo(text, err=True))
    click.echo(f"The Conductor server {status.version} runs at {status.url} (process {status.pid}).")


@server.command()
def stop() -> None:
    """Stop the server; jobs go on where they were when it runs again."""
    from provisioning import conductor

    settings = _embedded()
    before = conductor.status(settings)
    if not conductor.stop(settings, lambda text: click.echo(text, err=True)):
        click.echo("No Conductor server was running.")
    elif before.users:
        click.echo(f"The Conductor server is stopped; {before.users} commands were using it.")
    else:
        click.echo("The Conductor server is stopped.")


@server.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Say whether a server runs, and where; exit code 3 if none does."""
    from provisioning import conductor
    from workers import settings

    given = settings.load()
    if given.server:
        alive = conductor.answers(given.server)
        if as_json:
            click.echo(json.dumps({"running": alive, "url": given.server, "embedded": False}))
        else:
            click.echo(f"The server named by the environment is {given.server}: it {_answers(alive)}.")
        context.exit(0 if alive else NOT_RUNNING)
    now = conductor.status(given)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(now), "embedded": True}, default=str))
    elif now.running:
        until = "until `whisperfleet server stop`" if now.persistent else "as long as it is used"
        click.echo(
            f"The Conductor server {now.version} runs at {now.url} {until}: "
            f"process {now.pid}, users {now.users}, data in {now.data}."
        )
    elif now.keeper_pid:
        click.echo(f"The Conductor server {now.version} is starting or stopping (port {now.port}).")
    else:
        click.echo(f"No Conductor server runs; its data are in {now.data}.")
    context.exit(0 if now.running else NOT_RUNNING)


@server.command()
@click.option("-n", "--lines", default=40, show_default=True, type=click.IntRange(0), help="How many last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what the server writes, until Ctrl-C.")
def logs(lines: int, follow: bool) -> None:
    """Print the server's log."""
    from provisioning import conductor

    settings = _embedded()
    for line in conductor.log_tail(settings, lines):
        click.echo(line)
    if follow:
        for line in conductor.log_follow(settings):
            click.echo(line)


def _embedded() -> "Settings":
    """The settings, provided that the embedded server is the one in use."""
    from workers import settings
    from workers.errors import OptionError

    given = settings.load()
    if given.server:
        raise OptionError(
            f"The environment names the server {given.server}: unset WHISPERFLEET_SERVER and CONDUCTOR_SERVER_URL "
            "to handle the embedded one."
        )
    return given


def _answers(alive: bool) -> str:
    return "answers" if alive else "does not answer"
