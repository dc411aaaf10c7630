"""`whisperfleet fleet`."""

import click


@click.group(short_help="Rent GPUs, watch them, and give them back.")
def fleet() -> None:
    """Rent GPUs on Vast.ai, watch them, and give them back."""
