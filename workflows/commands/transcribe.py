"""`whisperfleet transcribe`."""

import sys
from pathlib import Path
from typing import Any

import click

# Heading to the first option below it, in the order in which the options are declared.
HEADINGS = {
    "model": "What is written",
    "diarize": "Who speaks",
    "output_dir": "Files",
    "processes": "Where the work is done",
    "allow_gaps": "The command",
}


class Grouped(click.Command):
    """A command whose help has its options under headings: thirty in one list are read by nobody."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: list[tuple[str, list[tuple[str, str]]]] = []
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is None:
                continue
            if param.name in HEADINGS:
                groups.append((HEADINGS[param.name], []))
            groups[-1][1].append(record)
        for heading, records in groups:
            with formatter.section(heading):
                formatter.write_dl(records)


@click.command(short_help="Transcribe recordings.", cls=Grouped)
@click.argument("media", nargs=-1, required=True, metavar="MEDIA...")
@click.option("--model", metavar="NAME|DIR", default="turbo", show_default=True, help="See `whisperfleet models list`.")
@click.option("--language", metavar="CODE", default="auto", show_default=True, help="auto, per-chunk, en, de, …")
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    metavar="NAME",
    default="transcribe",
    show_default=True,
    help="transcribe or translate.",
)
@click.option(
    "--engine",
    metavar="NAME",
    default="faster-whisper",
    show_default=True,
    help="faster-whisper, faster-whisper-sequential or openai-whisper.",
)
@click.option("--start", metavar="T", help="Begin at T: 90, 1:30 or 1:01:30.5.")
@click.option("--end", metavar="T", help="End at T.")
@click.option("--audio-track", metavar="N", type=int, default=1, show_default=True, help="1 is the first.")
@click.option("--prompt", metavar="TEXT", help="Text in the style and spelling that you want.")
@click.option("--hotwords", metavar="TEXT", help="Names and terms to expect.")
@click.option("--beam-size", metavar="N", type=int, default=5, show_default=True)
@click.option("--batch-size", metavar="auto|N", default="auto", show_default=True, help="Windows decoded at once.")
@click.option("--word-timestamps/--no-word-timestamps", default=True, show_default=True)
@click.option("--diarize/--no-diarize", default=True, show_default=True, help="Tell the speakers apart, or do not.")
@click.option("--speakers", metavar="N", help="How many people speak: where you know, say so.")
@click.option("--min-speakers", metavar="N", help="At least so many.")
@click.option("--max-speakers", metavar="N", help="At most so many.")
@click.option(
    "--speaker-names",
    metavar="NAME=CLIP",
    multiple=True,
    help="Call the person who is heard in the recording CLIP by NAME; again for the next one.",
)
@click.option("--diarizer", metavar="NAME", default="ge2e", show_default=True, help="ge2e, pyannote or onnx.")
@click.option("--diarizer-model", metavar="DIR|NAME", help="Models for pyannote or onnx.")
@click.option(
    "--speaker-wait",
    metavar="auto|SECONDS",
    default="auto",
    show_default=True,
    help="With --allow-gaps: how long the finished text waits for the speakers.",
)
@click.option(
    "--speaker-chunk-seconds", metavar="N", default="300", show_default=True, help="Length of a diarizer's chunk."
)
@click.option("-o", "--output-dir", type=click.Path(path_type=Path), default=Path("transcripts"), show_default=True)
@click.option(
    "--formats",
    metavar="LIST",
    default="json,srt,vtt,txt,tsv,html",
    show_default=True,
    help="Separated by commas; also rttm.",
)
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1, 256),
    help="Worker processes here.  [default: one a GPU, or cores / 4]",
)
@click.option(
    "--threads",
    metavar="N",
    type=click.IntRange(1, 256),
    help="Processor threads of each.  [default: cores / processes]",
)
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0,1.")
@click.option("--server", metavar="URL", help="A Conductor server instead of the embedded one.")
@click.option("--chunk-seconds", metavar="auto|N", default="auto", show_default=True, help="Length of a chunk.")
@click.option(
    "--allow-gaps", is_flag=True, help="Finish although parts or the speakers were lost; the transcript says so."
)
@click.option("--follow", is_flag=True, help="Print the transcript as it grows.")
@click.option("--json", "as_json", is_flag=True, help="Progress and results as JSON lines.")
def transcribe(media: tuple[str, ...], **options: Any) -> None:
    """Transcribe MEDIA: files, or file://, http(s):// and s3:// addresses.

    Writes OUTPUT_DIR/STEM.EXT for each. Without --server, a Conductor server and workers run here
    for as long as they are needed. `whisperfleet transcribe demo --model demo` tries it out
    on a recording and with a model that come with the package.
    """
    from workers import settings as environment
    from workflows.display import make_display
    from workflows.transcription import Wish, run

    options["speaker_names"] = list(options["speaker_names"])
    output_dir = options.pop("output_dir")
    wish = Wish(
        media=media,
        output_dir=output_dir,
        processes=options.pop("processes"),
        threads=options.pop("threads"),
        device=options.pop("device"),
        follow=options.pop("follow"),
        server=options.pop("server"),
        options=tuple((k, v) for k, v in options.items() if k != "as_json"),
    )
    display = make_display(options["as_json"], sys.stderr.isatty())
    try:
        sys.exit(run(wish, environment.load(), display))
    finally:
        display.close()
