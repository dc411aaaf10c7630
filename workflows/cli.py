"""The `whisperfleet` command. Each subcommand's module is imported when it is called, not before."""

import importlib
import sys
import traceback

import click

from workers.errors import WhisperfleetError

COMMANDS = {
    "transcribe": "workflows.commands.transcribe:transcribe",
    "jobs": "workflows.commands.jobs:jobs",
    "worker": "workflows.commands.worker:worker",
    "server": "workflows.commands.server:server",
    "workflows": "workflows.commands.workflows:workflows",
    "models": "workflows.commands.models:models",
    "fleet": "provisioning.commands.fleet:fleet",
    "gateway": "provisioning.commands.gateway:gateway",
    "bench": "benchmarks.command:bench",
    "doctor": "workflows.commands.doctor:doctor",
}
BUG_EXIT = 70  # EX_SOFTWARE


class Commands(click.Group):
    """A group whose subcommands are imported by need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="whisperfleet", message="%(prog)s %(version)s")
def cli() -> None:
    """Transcribe long recordings on a fleet of workers, one or forty.

    Exit codes: 0 done; 1 the job failed; 2 wrong options; 3 media; 4 server; 5 storage or output
    folder; 6 model; 7 no worker; 8 the GPU market; 130 cancelled.
    """


def main() -> None:
    """Run the command; every expected error is one sentence and its exit code."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        print("Cancelled.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        sys.stderr.close()
        sys.exit(141)
    except WhisperfleetError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        print(f"Error: {type(error).__name__}: {error}. This is a bug; {_write_crash()}", file=sys.stderr)
        sys.exit(BUG_EXIT)


def _write_crash() -> str:
    """Keep the traceback in a file: it is for a bug report, not for the person at the keyboard."""
    from workers import settings

    path = settings.load().home / "logs" / "crash.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return traceback.format_exc()
    return f"please report it with {path}."


if __name__ == "__main__":
    main()
