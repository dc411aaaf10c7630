"""`whisperfleet doctor`."""

import sys

import click


@click.command(short_help="What this machine has and lacks.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(as_json: bool) -> None:
    """Say what this machine has and lacks for the work, a line each, and what to do.

    Exit code 1 where something that every job needs is missing.
    """
    import json
    from dataclasses import asdict

    from workers import settings as environment
    from workflows.checkup import examine

    findings = examine(environment.load())
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            print(f"{finding.verdict:<5} {finding.what}: {finding.detail}")
    sys.exit(1 if any(finding.verdict == "lacks" for finding in findings) else 0)
