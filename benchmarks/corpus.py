"""Recordings whose words, times and speakers are known exactly, the same for all benchmarks and on every machine.

    whisperfleet bench corpus [--names lecture,talk] [--into FOLDER] [--seed 1] [--quick]

They are spoken by espeak-ng and flite (benchmarks/speech.py), each once: then they lie in the user's cache folder.
`lecture` has the length of the recording that the project began with (94 min 30 s) and its likeness: one person talks
English, and a few times somebody asks. `hours` is 10 hours: lecture, talk and short ones joined in an order drawn by
the seed, and again in another order until it is full. So its sentences come up to five times each: what takes memory
or time grows as with 10 hours that are all different, but nobody should count its different words.

Measured is how long making each took (when it was made: it is kept with the recording), and whether one, made
again in an empty folder, has the same sound and the same truth. The JSON has the SHA-256 of the samples and of the
truth of each, so that two machines can see whether they measured on the same recordings. The sound is that of the
versions of espeak-ng and flite here, so another version may give another.

--into writes NAME.flac, NAME.json (the truth) and NAME.rttm for whoever wants to measure something else on them.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import soundfile
from filelock import FileLock

from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, main, progress, run
from benchmarks.speech import (
    Recorded,
    Script,
    Sentence,
    conversation,
    join_recordings,
    no_pause_script,
    record,
    record_bilingual,
)
from workers.errors import OptionError, StorageError
from workers.media import ffmpeg_executable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Encoding = Literal["flac", "mp3", "wav", "m4a"]

LECTURE_S = 5670.0  # 94 min 30 s
HOURS_S = 36_000.0
SHORTS = tuple(f"short-{number}" for number in range(10))
NAMES = ("lecture", "talk", *SHORTS, "noisy", "pauseless", "overlapping", "bilingual", "hours")
PARTS_OF_HOURS = ("lecture", "talk", *SHORTS)
QUICK_NAMES = ("talk", "short-0", "noisy", "pauseless", "overlapping", "bilingual", "hours")
QUICK_PARTS_OF_HOURS = ("talk", "short-0", "short-1")
NOISE_DB = -36.0  # measured: 15 dB below the speech of `noisy`, in pauses and all
ENCODED: dict[Encoding, tuple[str, ...]] = {
    "mp3": ("-ac", "1", "-ar", "44100", "-c:a", "libmp3lame", "-b:a", "64k", "-f", "mp3"),
    "m4a": ("-ac", "1", "-ar", "44100", "-c:a", "aac", "-b:a", "64k", "-f", "ipod"),
    "wav": ("-c:a", "pcm_s16le", "-f", "wav"),
}


def cache_folder() -> Path:
    """Where the benchmarks keep their recordings, below the user's cache folder."""
    from platformdirs import user_cache_path

    return user_cache_path("whisperfleet") / "benchmarks"


def recording(name: str, cache: Path, quick: bool = False, seed: int = 1) -> Recorded:
    """One of NAMES, made when it is asked for first and then found in `cache`; quick: 20 to 60 s, `hours` 180 s.

    Equal arguments give equal samples and truth, another seed other words and voices. `lecture` takes a minute of
    two quiet cores. Raises OptionError for another name, or where what speaks is missing.
    """
    if name not in NAMES:
        raise OptionError(f"There is no recording '{name}': the names are {', '.join(NAMES)}.")
    if name == "hours":
        return _hours(cache, quick, seed)
    if name == "bilingual":
        return record_bilingual(40.0 if quick else 300.0, cache, seed)
    return record(_script(name, quick, seed), cache)


def encoded(recorded: Recorded, format: Encoding, cache: Path) -> Path:
    """The recording as users have theirs (mp3 and m4a: 44.1 kHz, one channel, 64 kbit/s), made once and kept.

    Raises OptionError where this ffmpeg has no such encoder.
    """
    if format == "flac":
        return recorded.path
    path = cache / f"{recorded.path.stem}.{format}"
    temporary = path.with_name(f".{path.name}.part")
    with FileLock(cache / f"{path.name}.lock"):
        if path.exists():
            return path
        command = [ffmpeg_executable(), "-v", "error", "-nostdin", "-y", "-i", str(recorded.path), *ENCODED[format]]
        done = subprocess.run([*command, str(temporary)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OptionError(f"ffmpeg made no {format} of a recording: {done.stderr.strip()[-300:]}")
        temporary.replace(path)
    return path


def words_in(truth: Sequence[Sentence]) -> int:
    """Words as they are written."""
    return sum(len(sentence.text.split()) for sentence in truth)


def rttm(name: str, truth: Sequence[Sentence]) -> str:
    """A SPEAKER line for each sentence, in seconds of the recording."""
    return "".join(
        f"SPEAKER {name} 1 {sentence.start_ms / 1000:.3f} {(sentence.end_ms - sentence.start_ms) / 1000:.3f} "
        f"<NA> <NA> {sentence.speaker} <NA> <NA>\n"
        for sentence in truth
    )


# ---- what each is ----


def _script(name: str, quick: bool, seed: int) -> Script:
    """Seeds of neighbouring recordings differ, so that they have other voices and words."""
    own = 100 * seed + NAMES.index(name)
    match name:
        case "lecture":
            return Script(60.0 if quick else LECTURE_S, speakers=4, seed=own, questions=0.015, level_db=(-6, -2))
        case "talk":
            return conversation(4, own, 60.0 if quick else 1200.0)
        case "noisy":
            return Script(30.0 if quick else 300.0, seed=own, noise_db=NOISE_DB)
        case "pauseless":
            return replace(no_pause_script(30.0 if quick else 600.0), seed=own)
        case "overlapping":
            return replace(conversation(3, own, 40.0 if quick else 300.0), overlap=0.6)
        case _:
            seconds = random.Random(f"length {own}").uniform(45, 90)
            return Script(20.0 if quick else round(seconds, 1), seed=own)


def _hours(cache: Path, quick: bool, seed: int) -> Recorded:
    names = list(QUICK_PARTS_OF_HOURS if quick else PARTS_OF_HOURS)
    made = {name: recording(name, cache, quick, seed) for name in names}
    wanted, dice = 180.0 if quick else HOURS_S, random.Random(f"hours {seed}")
    parts: list[tuple[str, Recorded]] = []
    while sum(part.duration_ms for _, part in parts) < wanted * 1000:
        dice.shuffle(names)
        parts += [(name, made[name]) for name in names]
    return join_recordings(parts, wanted, cache)


# ---- the benchmark ----


@dataclass(frozen=True)
class Made:
    """One recording as it is told of in the result."""

    name: str
    seed: int
    seconds: float
    words: int
    sentences: int
    speakers: int
    made_in_s: float
    audio_sha256: str
    truth_sha256: str

    @classmethod
    def of(cls, name: str, seed: int, recorded: Recorded) -> "Made":
        return cls(
            name=name,
            seed=seed,
            seconds=recorded.duration_ms / 1000,
            words=words_in(recorded.truth),
            sentences=len(recorded.truth),
            speakers=len({sentence.speaker for sentence in recorded.truth}),
            made_in_s=recorded.made_in_s,
            audio_sha256=_audio_hash(recorded.path),
            truth_sha256=hashlib.sha256(_truth_json(name, seed, recorded).encode()).hexdigest(),
        )


def _audio_hash(path: Path) -> str:
    """Of the samples, 16 bits little-endian: a FLAC file's bytes depend on who encoded it."""
    found = hashlib.sha256()
    for block in soundfile.blocks(path, 1 << 20, dtype="int16"):
        found.update(block.astype("<i2").tobytes())
    return found.hexdigest()


def _truth_json(name: str, seed: int, recorded: Recorded) -> str:
    told = {
        "name": name,
        "seed": seed,
        "duration_ms": recorded.duration_ms,
        "words": words_in(recorded.truth),
        "speakers": sorted({sentence.speaker for sentence in recorded.truth}),
        "sentences": [asdict(sentence) for sentence in recorded.truth],
    }
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


def _measure(options: argparse.Namespace, folder: Path) -> Findings:
    names = _chosen(options)
    cache = Path(options.cache) if options.cache else cache_folder()
    made: list[Made] = []
    timelines: dict[str, list[tuple[str, float, float]]] = {}
    for name in names:
        progress(f"{name}: spoken once, then kept in {cache}")
        recorded = recording(name, cache, options.quick, options.seed)
        made.append(Made.of(name, options.seed, recorded))
        timelines[name] = [
            (said.speaker, said.start_ms / 1000, said.end_ms / 1000)
            for said in recorded.truth
            if said.start_ms < SHOWN_S * 1000
        ]
        if options.into:
            _write_into(Path(options.into), name, options.seed, recorded)
    again = _made_again(made, options, folder)
    return Findings(
        repetitions=[asdict(one) for one in (*made, *again)],
        tables=[_table(made)],
        figures={"timelines": timelines},
        targets=[_same(made, again)],
        shows=[
            f"{len(made)} recordings, {sum(one.seconds for one in made) / 3600:.2f} hours with "
            f"{sum(one.words for one in made)} words, were made in {sum(one.made_in_s for one in made):.0f} s in all."
        ],
    )


def _chosen(options: argparse.Namespace) -> tuple[str, ...]:
    if not options.names:
        return QUICK_NAMES if options.quick else NAMES
    names = tuple(dict.fromkeys(name.strip() for name in options.names.split(",")))
    if unknown := [name for name in names if name not in NAMES]:
        raise OptionError(f"There is no recording '{unknown[0]}': the names are {', '.join(NAMES)}.")
    return names


def _made_again(made: Sequence[Made], options: argparse.Namespace, folder: Path) -> list[Made]:
    """The shortest, anew and `repeat` times, each time with nothing to find."""
    name = min(made, key=lambda one: one.seconds).name
    again = []
    for number in range(options.repeat):
        progress(f"{name}: made again in an empty folder")
        recorded = recording(name, folder / f"again-{number}", options.quick, options.seed)
        again.append(Made.of(name, options.seed, recorded))
    return again


def _same(made: Sequence[Made], again: Sequence[Made]) -> Target:
    first = next(one for one in made if one.name == again[0].name)
    same = sum((one.audio_sha256, one.truth_sha256) == (first.audio_sha256, first.truth_sha256) for one in again)
    return Target(
        name="equal seeds give equal recordings",
        wanted=f"{first.name} made again has the same samples and truth each time",
        found=f"{same} of {len(again)} times",
        reached=same == len(again),
    )


def _table(made: Sequence[Made]) -> Table:
    return Table(
        title="Recordings (words as written; making includes what else the machine did)",
        columns=("name", "length", "words", "sentences", "speakers", "made in s", "RTFx of making", "samples' SHA-256"),
        rows=tuple(
            (
                one.name,
                _clock(one.seconds),
                one.words,
                one.sentences,
                one.speakers,
                one.made_in_s,
                one.seconds / one.made_in_s if one.made_in_s else None,
                one.audio_sha256[:12],
            )
            for one in made
        ),
    )


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _write_into(folder: Path, name: str, seed: int, recorded: Recorded) -> None:
    """Each file whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{name}.part"
        shutil.copyfile(recorded.path, temporary)
        temporary.replace(folder / f"{name}.flac")
        for suffix, text in (("json", _truth_json(name, seed, recorded)), ("rttm", rttm(name, recorded.truth))):
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / f"{name}.{suffix}")
    except OSError as error:
        raise StorageError(
            f"{name} cannot be written into {folder} ({error.strerror}): choose another --into."
        ) from error


# ---- the picture ----

SHOWN_S = 120.0


def _draw(found: Result, figure: "Figure") -> None:
    """Who speaks in the first two minutes of each."""
    axes = figure.subplots()
    timelines: dict[str, list[list[Any]]] = found.figures["timelines"]
    for row, said in enumerate(timelines.values()):
        people = list(dict.fromkeys(speaker for speaker, _, _ in said))
        height = 0.8 / max(1, len(people))
        for lane, speaker in enumerate(people):
            spans = [(start, min(end, SHOWN_S) - start) for who, start, end in said if who == speaker]
            axes.broken_barh(spans, (row - 0.4 + lane * height, height), color=f"C{lane % 10}", linewidth=0)
    _label(axes, found, list(timelines))


def _label(axes: "Axes", found: Result, names: list[str]) -> None:
    columns = found.tables[0].columns
    lengths = {str(row[0]): str(row[columns.index("length")]) for row in found.tables[0].rows}
    axes.set_yticks(range(len(names)), [f"{name}  {lengths[name]}" for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, SHOWN_S)
    axes.set_xlabel("seconds")
    axes.set_title("Who speaks in the first two minutes of each recording (a colour and a lane a person)", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--names", help=f"some of {','.join(NAMES)} (default: all; with --quick seven of them)")
    parser.add_argument("--into", help="a folder for NAME.flac, NAME.json and NAME.rttm of each (default: none)")
    parser.add_argument("--seed", type=int, default=1, help="other seed, other words and voices (default 1)")
    parser.add_argument("--cache", help="where recordings are found or kept (default: in your cache folder)")


BENCHMARK = Benchmark(
    name="corpus",
    about="Recordings with known words, times and speakers: made, counted, and made again.",
    measure=_measure,
    draw=_draw,
    caveats=(
        "Spoken by programs in the demo model's small vocabulary: no hesitation, no room, no music.",
        "Of a sentence the times are known to the sample, of a word within it only by its letters, to some 0.2 s.",
        "Making was timed when a recording was made first, whatever the machine did besides.",
        "`hours` is made of the others, each repeated up to five times; its making is only the joining.",
    ),
    packages=("numpy", "scipy", "soundfile"),
    options=_options,
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    main(BENCHMARK)
