"""`whisperfleet models`."""

import sys

import click


@click.group(short_help="The models: list, fetch.")
def models() -> None:
    """The models that --model takes by name."""


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def list_models(as_json: bool) -> None:
    """List the models by name, and which of them are on this machine."""
    import json
    from dataclasses import asdict

    from workers.models import catalogue

    rows = catalogue()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    for row in rows:
        print(f"{row.name:<24} {row.size:>8}  {row.where}")
    print("A folder with a CTranslate2 model is taken as well: --model DIR.")


@models.command()
@click.argument("name")
def fetch(name: str) -> None:
    """Bring a model to this machine, so that no job waits for it."""
    from workers.models import fetch as fetch_model

    print(f"{name} is in {fetch_model(name, lambda text: print(text, file=sys.stderr))}.")
