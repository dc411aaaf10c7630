"""`whisperfleet transcribe`."""

import sys
from pathlib import Path
from typing import Any

import click


@click.command(short_help="Transcribe recordings.")
@click.argument("media", nargs=-1, required=True, metavar="MEDIA...")
@click.option("--model", metavar="NAME|DIR", default="turbo", show_default=True, help="See `whisperfleet models list`.")
@click.option("--language", metavar="CODE", default="auto", show_default=True, help="auto, per-chunk, en, de, …")
@click.option("--task", type=click.Choice(["transcribe", "translate"]), default="transcribe", show_default=True)
@click.option(
    "--engine",
    metavar="NAME",
    default="faster-whisper",
    show_default=True,
    help="faster-whisper, faster-whisper-sequential or openai-whisper.",
)
@click.option("--formats", metavar="LIST", default="json,srt,vtt,txt,tsv", show_default=True)
@click.option("-o", "--output-dir", type=click.Path(path_type=Path), default=Path("transcripts"), show_default=True)
@click.option("--chunk-seconds", metavar="auto|N", default="auto", show_default=True, help="Length of a chunk.")
@click.option(
    "--processes", type=click.IntRange(1, 256), help="Worker processes here.  [default: one a GPU, or cores / 4]"
)
@click.option("--threads", type=click.IntRange(1, 256), help="Processor threads of each.  [default: cores / processes]")
@click.option("--device", metavar="NAME", default="auto", show_default=True, help="auto, cpu, cuda or cuda:0,1.")
@click.option("--server", metavar="URL", help="A Conductor server instead of the embedded one.")
@click.option("--start", metavar="T", help="Begin at T: 90, 1:30 or 1:01:30.5.")
@click.option("--end", metavar="T", help="End at T.")
@click.option("--audio-track", metavar="N", type=int, default=1, show_default=True, help="1 is the first.")
@click.option("--prompt", metavar="TEXT", help="Text in the style and spelling that you want.")
@click.option("--hotwords", metavar="TEXT", help="Names and terms to expect.")
@click.option("--beam-size", metavar="N", type=int, default=5, show_default=True)
@click.option("--batch-size", metavar="auto|N", default="auto", show_default=True, help="Windows decoded at once.")
@click.option("--word-timestamps/--no-word-timestamps", default=True, show_default=True)
@click.option("--allow-gaps", is_flag=True, help="Finish although parts were lost; the transcript names them.")
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
