"""`whisperfleet gateway`."""

import click


@click.command(short_help="Guard a Conductor server and its storage from rented workers.")
def gateway() -> None:
    """Serve rented workers: they poll, fetch and hand in here, and reach nothing else."""
