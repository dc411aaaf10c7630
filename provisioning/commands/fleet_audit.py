"""`whisperfleet fleet cost` and `doctor`: what it has cost by whose account, and whether it could begin."""

import sys
from typing import TYPE_CHECKING

import click

from provisioning.commands.fleet_options import fleet_options, json_option

if TYPE_CHECKING:
    from provisioning.fleet_accounts import Accounts
    from provisioning.fleet_place import Place


@click.command(short_help="What the fleet has cost, and what credit is left.")
@click.option("--offline", is_flag=True, help="The meter alone, without asking the market.")
@fleet_options
@json_option
def cost(place: "Place", offline: bool, as_json: bool) -> None:
    """Show what each machine and each kind of GPU has cost.

    The meter counts by the second what bills when, in doubt too much. The market's own charges come hours later: they
    are shown beside it, and are less until they are complete.
    """
    import json

    from provisioning.fleet_accounts import accounts

    told = accounts(place, ask_market=not offline)
    if as_json:
        print(json.dumps(told.to_json(), indent=1))
    else:
        _show(told)


def _show(told: "Accounts") -> None:
    from provisioning.fleet_display import dollars, print_table

    if not told.machines:
        print(f"Fleet '{told.fleet}' has rented nothing, as far as its database remembers.")
    else:
        rows = [
            (
                str(each.instance_id or "-"), each.gpu_name[:16], each.state, dollars(each.gpu_usd),
                dollars(each.storage_usd), dollars(each.traffic_usd), dollars(each.usd),
                "" if each.charged_usd is None else dollars(each.charged_usd),
            )
            for each in told.machines
        ]  # fmt: skip
        print_table((">Instance", "GPU", "State", ">GPU $", ">Disk $", ">Traffic $", ">Sum $", ">Charged $"), rows)
        print()
        kinds = [(name, str(count), dollars(usd)) for name, (count, usd) in told.by_gpu.items()]
        print_table(("GPU", ">Machines", ">Sum $"), kinds)
        print()
    print("\n".join(told.sentences()))


@click.command(short_help="Whether machines could be rented now, and what is in the way.")
@click.option("--image", metavar="NAME", help="What they would run.  [default: WHISPERFLEET_WORKER_IMAGE]")
@fleet_options
@json_option
def doctor(place: "Place", image: str | None, as_json: bool) -> None:
    """Check all that renting needs, and rent nothing: key, credit, account, gateway, clocks, server, image.

    Exit code 1 where something is in the way.
    """
    import json
    from dataclasses import asdict

    from provisioning.fleet_checkup import examine

    findings = []
    for finding in examine(place, image or place.renting.worker_image):
        findings.append(finding)
        if not as_json:
            print(f"{finding.verdict:<5} {finding.what}: {finding.detail}", flush=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    sys.exit(1 if any(finding.verdict == "fails" for finding in findings) else 0)
