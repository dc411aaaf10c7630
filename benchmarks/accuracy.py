"""What a shorter chunk costs in accuracy, and what it gains in speed.

    whisperfleet bench accuracy [--repeat 5] [--first 30] [--minutes 8] [--pauseless 4] [--processes 2] [--quick]

Recordings whose words, times and speakers are known, some with pauses (four people, 0.1 to 0.6 s between sentences)
and some without one that a cut could lie in, are heard whole by one engine, which is the serial run, and in chunks of
30 s to 15 minutes, cut and joined by the stages of a real job (plan, split, every chunk, stitch) with the same engine.
The stages run in this process and its children, without a server: who does a chunk changes no byte of it, which
tests/e2e/test_transcribe.py shows on the real server. Equal cuts are heard once. Nothing here depends on time, so a
repetition is another recording by another seed: the first with pauses is longer than the others, so that chunks of 10
and 15 minutes are chunks of it; of a shorter one they are the whole.

* WER: errors of each word said, against the truth; and how much of the text differs from the serial text. Fleet and
  serial are compared on the same stretches of 30 s, and the 95 % interval is a bootstrap over these: the model's
  errors come and go with where its windows happen to begin, in a serial run too.
* Beside cuts: errors within 2 s of a cut, and the serial run's errors in the same places, where it has no cut. Only
  what the fleet has more is the cut's fault. The interval is a bootstrap over the cuts; "no extra errors" means that
  it reaches down to 0. A cut in a pause has few words near it, so what is more is told for each word near a cut.
* Word times: the truth knows exactly when a sentence begins and ends, and not its words' times; so |heard - true| is
  taken of the first word's start and the last word's end, where that word was heard rightly.
* Coverage: the cores of the chunks add up to the recording, without a gap or an overlap, to the millisecond.
* Speakers: DER without a collar, overlap counted, by benchmarks/speaker_scoring.py (which agrees with
  pyannote.metrics); WDER is the share of heard words that are given to the wrong person. The voices of one recording
  are heard anew for every chunk length, in diarization chunks of that length; for all others it is shown that the
  samples that the diarizer reads back from the chunks are the same to the bit.
* Speed is not measured here but computed (benchmarks/accuracy_speed.py): the wall time of a job of 94.5 minutes on 4,
  16 and 64 workers of 13 times real time, each cut as far from its wanted place as the cuts of this run were, from
  the figures of `Pace`. `whisperfleet bench scaling` measures it.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy_report import Scored, Talk, draw, findings, score
from benchmarks.accuracy_runs import LONGEST_CHUNK_S, SERIAL, Heard, Length, Task, hear_all
from benchmarks.corpus import cache_folder
from benchmarks.runner import Benchmark, Findings, main, progress, run
from benchmarks.speech import conversation, no_pause_script, record
from workers.errors import OptionError
from workers.messages import SPEAKER_CHUNK_SECONDS

LENGTHS = (30, 60, 120, 300, 600, 900)
QUICK_LENGTHS = (20, 30)
FLEETS = (1, 16)  # workers that "auto" is planned for
SEED = 100

Key = tuple[str, tuple[int, ...]]
"""A recording and its cuts: what is heard once."""


def _measure(options: argparse.Namespace, folder: Path) -> Findings:
    _check(options)
    talks = _talks(options)
    lengths = (
        *(Length(f"{seconds} s", seconds) for seconds in (QUICK_LENGTHS if options.quick else LENGTHS)),
        *(Length(f"auto for {workers}", "auto", workers) for workers in FLEETS),
    )
    tasks = _tasks(talks, lengths, folder)
    keys = {task.home: key for key, task in tasks.items()}
    heard: dict[Key, Heard] = {}
    for one in hear_all(list(tasks.values()), options.model, options.processes or os.cpu_count() or 1):
        heard[keys[one.task.home]] = one
        progress(f"{len(heard)} of {len(tasks)} heard: {one.task.recording}, {one.task.length.label}")
    scored: list[Scored] = []
    for talk in talks:
        serial = heard[_key(talk, SERIAL)]
        scored += [score(talk, length, heard[_key(talk, length)], serial) for length in (*lengths, SERIAL)]
    return findings(scored)


def _check(options: argparse.Namespace) -> None:
    for name in ("first", "minutes", "pauseless"):
        if not 1 <= getattr(options, name) <= LONGEST_CHUNK_S / 60:
            raise OptionError(f"--{name} is {getattr(options, name):g}: write 1 to 60 minutes, which are one chunk.")
    if options.processes is not None and options.processes < 1:
        raise OptionError(f"--processes is {options.processes}: write 1 or more.")


def _talks(options: argparse.Namespace) -> list[Talk]:
    cache = cache_folder()
    talks = []
    for seed in range(SEED, SEED + options.repeat):
        minutes = options.minutes if seed > SEED else options.first
        seconds, pauseless_seconds = (60.0, 40.0) if options.quick else (60.0 * minutes, 60.0 * options.pauseless)
        for kind, script in (
            ("with pauses", conversation(4, seed, seconds)),
            ("without pauses", no_pause_script(pauseless_seconds, seed=seed)),
        ):
            progress(f"{kind}, seed {seed}, {script.seconds / 60:.3g} minutes: spoken once, then kept in {cache}")
            talks.append(Talk(f"{kind}, seed {seed}", kind, record(script, cache)))
    return talks


def _key(talk: Talk, length: Length) -> Key:
    return talk.name, length.cuts(talk.recorded.duration_ms)


def _tasks(talks: Sequence[Talk], lengths: Sequence[Length], folder: Path) -> dict[Key, Task]:
    """Every division of every recording once, the longest recordings first, so that all processes end together."""
    shortest = min((talk for talk in talks if talk.kind == "with pauses"), key=lambda talk: talk.recorded.duration_ms)
    tasks: dict[Key, Task] = {}
    for talk in sorted(talks, key=lambda talk: -talk.recorded.duration_ms):
        for length in (SERIAL, *lengths):
            task = Task(
                recording=talk.name,
                media=talk.recorded.path,
                length=length,
                diarize=talk is shortest or (length is SERIAL and talk.kind == "with pauses"),
                voices_s=_voices_s(length),
                home=folder / f"{len(tasks):03d}",
            )
            tasks.setdefault(_key(talk, length), task)
    return tasks


def _voices_s(length: Length) -> int:
    """Voices are heard in chunks of the same length, up to the product's own; those of the serial run in one."""
    if length is SERIAL or length.chunk_seconds == "auto":
        return LONGEST_CHUNK_S if length is SERIAL else SPEAKER_CHUNK_SECONDS
    return min(length.chunk_seconds, SPEAKER_CHUNK_SECONDS)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--first", type=float, default=30, help="minutes of the first recording with pauses (30)")
    parser.add_argument("--minutes", type=float, default=8, help="minutes of the other ones with pauses (8)")
    parser.add_argument("--pauseless", type=float, default=4, help="minutes of each one without pauses (4)")
    parser.add_argument("--model", default="demo", help="that faster-whisper can load (default demo)")
    parser.add_argument("--processes", type=int, help="that hear at once, a thread each (default: as many as cores)")


BENCHMARK = Benchmark(
    name="accuracy",
    about="Word errors, errors beside cuts, word times and speakers over chunk lengths, against one serial run.",
    measure=_measure,
    draw=draw,
    caveats=(
        "The demo model is small and errs often; a large one errs less, and depends more on context.",
        "Synthetic speech of short sentences in a vocabulary of a hundred words: no hesitation, no room, no music.",
        "Serial is the same engine over the undivided recording; it, too, cuts it into windows of 20 to 30 s.",
        "Recordings of up to 10 minutes are one chunk for 600 s, 900 s and auto for one worker: only the first "
        "recording tells of these.",
        "The speed is a model's, on a job without words, faults or slow workers; what is heard twice, as its "
        "text looks wrong, is not in it.",
    ),
    packages=("faster-whisper", "ctranslate2", "onnxruntime", "jiwer", "numpy"),
    options=_options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
