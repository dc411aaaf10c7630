"""One part of a job in a process of its own, which tells how much memory it took: `benchmarks.memory` starts it.

    python -m benchmarks.memory_part split|worker|stitch FOLDER

FOLDER/task.json says what is to be done (see Task); the answer is a line of JSON on standard output.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.peak import largest_child, peak_bytes, resident_bytes
from benchmarks.surroundings import make_context
from workers.context import Context
from workers.messages import JobInput, JobKeys, SplitMediaInput, StitchTranscriptInput, TranscribeChunkInput
from workers.stages.plan import plan_media
from workers.stages.split import split_media


@dataclass(frozen=True)
class Task:
    """What all parts of one job know. chunks: how many the worker is to hear."""

    media: str
    chunk_seconds: int
    threads: int
    chunks: int

    @property
    def request(self) -> JobInput:
        return JobInput(media=self.media, model="demo", language="en", chunk_seconds=self.chunk_seconds)


@dataclass(frozen=True)
class Took:
    """before: resident when all was loaded and nothing begun; peak, child: the most of this process, of its children.

    Bytes. seconds: wall time of the work alone.
    """

    before: int
    peak: int
    child: int
    seconds: float


def split(task: Task, folder: Path) -> Took:
    """Plan and split."""
    context = make_context(folder / "home")
    before, began = resident_bytes(), time.monotonic()
    plan = plan_media(task.request, context)
    with largest_child() as child:
        ended = split_media(SplitMediaInput(storage=plan.storage, job=plan.job, speakers=plan.speakers), context)
    (folder / "plan.json").write_text(plan.model_dump_json())
    (folder / "split.json").write_text(ended.model_dump_json())
    return Took(before, peak_bytes(), max(child, default=0), time.monotonic() - began)


def worker(task: Task, folder: Path) -> Took:
    """Hear the job's first chunks, model and all."""
    from workers.recognizers.loading import load
    from workers.stages.recognize import transcribe_chunk

    recognizer = load(task.request.engine, task.request.model, device="cpu", threads=task.threads)
    context = make_context(folder / "home", recognizer=lambda options: recognizer)
    plan = json.loads((folder / "plan.json").read_text())
    before, began = resident_bytes(), time.monotonic()
    for index in range(min(task.chunks, plan["chunk_count"])):
        transcribe_chunk(TranscribeChunkInput(storage=plan["storage"], job=plan["job"], index=index), context)
    return Took(before, peak_bytes(), 0, time.monotonic() - began)


def stitch(task: Task, folder: Path) -> Took:
    """Join all results and speakers, and write the transcript in every format that is written by default."""
    from workers.stages.stitch import stitch_transcript

    context = make_context(folder / "home")
    given = StitchTranscriptInput.model_validate_json((folder / "stitch.json").read_bytes())
    before, began = resident_bytes(), time.monotonic()
    stitch_transcript(given, context)
    return Took(before, peak_bytes(), 0, time.monotonic() - began)


PARTS: dict[str, Callable[[Task, Path], Took]] = {"split": split, "worker": worker, "stitch": stitch}


def keys_of(folder: Path) -> tuple[Context, JobKeys]:
    """Where the job's objects are, after its split."""
    return make_context(folder / "home"), JobKeys(json.loads((folder / "plan.json").read_text())["job"])


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    task = Task(**json.loads((folder / "task.json").read_text()))
    print(json.dumps(asdict(PARTS[name](task, folder))))


if __name__ == "__main__":
    main()
