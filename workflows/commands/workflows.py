"""`whisperfleet workflows`."""

import sys

import click


@click.group(short_help="The workflow's definitions.")
def workflows() -> None:
    """The definitions of the workflow and its tasks."""


@workflows.command()
@click.option("--server", metavar="URL", help="The Conductor server.  [default: the embedded one]")
def register(server: str | None) -> None:
    """Put the definitions on a server, over those that are there."""
    from dataclasses import replace

    from provisioning.conductor import ensure
    from workers import settings as environment
    from workflows.client import Client

    settings = replace(environment.load(), server=environment.server_address(server))
    with ensure(settings, lambda text: print(text, file=sys.stderr)) as lease:
        client = Client(lease.url)
        client.check()
        names = client.register(force=True)
        print(f"Registered on {lease.url}: {', '.join(names)}.")
