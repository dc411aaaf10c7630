"""`whisperfleet bench`: each benchmark's module is imported when it is called, not before."""

import importlib

import click

NAMES = {
    "corpus": "recordings with known words, times and speakers",
    "peers": "against openai-whisper, faster-whisper, whisperX and whisperX on Ray",
    "engines": "weights of real size: each engine, and the worker beside the bare one",
    "scaling": "speedup and efficiency from 1 to 64 workers",
    "server": "what the Conductor server can do, on SQLite and PostgreSQL",
    "overhead": "where the time of a job goes",
    "workers": "processes, threads and devices",
    "accuracy": "what a shorter chunk costs in accuracy and gains in speed",
    "cost": "dollars per hour of audio",
    "memory": "peak memory at 1, 3 and 10 hours",
    "split": "splitting against a bare decode",
    "speakers": "what telling speakers apart costs",
    "gateway": "what the gateway adds to each request",
    "report": "one page of all results",
}


class Benchmarks(click.Group):
    """Names with their sentences; a benchmark reads its own arguments."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NAMES:
            return None

        @click.command(
            cmd_name,
            short_help=NAMES[cmd_name],
            add_help_option=False,
            context_settings={"ignore_unknown_options": True},
        )
        @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
        def benchmark(arguments: tuple[str, ...]) -> None:
            importlib.import_module(f"benchmarks.{cmd_name}").command(list(arguments))

        return benchmark


@click.command(cls=Benchmarks, short_help="Measure it yourself: tables, JSON, pictures.")
def bench() -> None:
    """Measure it yourself: each prints a table and writes JSON and a picture.

    `whisperfleet bench NAME --help` has its options; --quick shows in a minute that it runs.
    """
