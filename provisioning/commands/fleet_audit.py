"""`whisperfleet fleet cost` and `doctor`: what it has cost by whose account, and whether it could begin."""

import sys
from typing import TYPE_CHECKING

import click

from provisioning.commands.fleet_options import fleet_options, json_option

if TYPE_CHECKING:
    from provisioning.fleet_accounts import Accounts
    from provisioning.fleet_checkup import Finding
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
@click.option(
    "--live-probe",
    "probe_usd",
    metavar="USD",
    type=click.FloatRange(0, min_open=True),
    help="Also rent the cheapest machine for some minutes, for at most so much, to try the gateway from there.",
)
@fleet_options
@json_option
def doctor(place: "Place", image: str | None, probe_usd: float | None, as_json: bool) -> None:
    """Check all that renting needs: key, credit, account, gateway, clocks, server, image.

    Rents nothing, unless --live-probe allows some cents. Exit code 1 where something is in the way.
    """
    import json
    from dataclasses import asdict

    from provisioning.fleet_checkup import examine

    findings = []

    def tell(finding: "Finding") -> None:
        findings.append(finding)
        if not as_json:
            print(f"{finding.verdict:<5} {finding.what}: {finding.detail}", flush=True)

    for finding in examine(place, image or place.renting.worker_image):
        tell(finding)
    if probe_usd is not None and not _hinders(findings):
        tell(_probed(place, probe_usd))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    sys.exit(1 if any(finding.verdict == "fails" for finding in findings) else 0)


def _hinders(findings: "list[Finding]") -> bool:
    return any(finding.verdict == "fails" and finding.what in NEEDED_TO_PROBE for finding in findings)


NEEDED_TO_PROBE = ("Vast.ai client", "Vast.ai key", "Gateway from outside", "Vast.ai's clock", "Account")


def _probed(place: "Place", probe_usd: float) -> "Finding":
    """What a rented machine saw; all of it goes into a file beside the fleet's database."""
    import json

    from provisioning.fleet_checkup import Finding
    from provisioning.live_probe import probe
    from workers.errors import WhisperfleetError

    what = "From a rented machine"
    try:
        seen = probe(
            place.cloud, place.renting.gateway or "", probe_usd, place.time, lambda text: click.echo(text, err=True)
        )
    except WhisperfleetError as error:
        return Finding(what, "fails", str(error))
    file = place.database.with_name("live-probe.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(seen.to_json(), indent=1), encoding="utf-8")
    good = seen.reached and not seen.left
    return Finding(what, "ok" if good else "fails", f"{seen.sentence()}; it cost ${seen.usd:.3f} at most, see {file}")
