"""Synthetic recordings whose words, times and speakers are known exactly, spoken by espeak-ng and flite.

The sentences are those of the grammar the demo model was trained on: it knows no other words, so
keep the tables as they are. A recording is cached by its parameters and this file's text. However long it is, it is
made and written piece by piece: 10 hours take no more memory than a minute.
"""

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
import wave
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import gcd
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import soundfile
from filelock import FileLock

from benchmarks.surroundings import bench_extra
from workers.errors import OptionError
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS

Audio = npt.NDArray[np.float32]
Language = Literal["en", "es"]


@dataclass(frozen=True)
class Sentence:
    """One spoken sentence: what was said, by whom, and when (milliseconds of the recording)."""

    start_ms: int
    end_ms: int
    speaker: str
    text: str

    def shifted(self, by_ms: int) -> "Sentence":
        return replace(self, start_ms=self.start_ms + by_ms, end_ms=self.end_ms + by_ms)


@dataclass(frozen=True)
class Recorded:
    """A FLAC file (16 kHz, mono) and the truth about it, in the order in which the sentences begin.

    made_in_s: how long it took to make when it was made, with others on the machine or not.
    """

    path: Path
    duration_ms: int
    truth: tuple[Sentence, ...]
    made_in_s: float

    @property
    def text(self) -> str:
        return " ".join(sentence.text for sentence in self.truth)


@dataclass(frozen=True)
class Script:
    """What to record. Equal scripts give equal bytes.

    turn: sentences a speaker says before another takes over, from..to; pause_s: seconds between
    sentences, from..to; long_gap: chance of 4 to 20 s of silence after a turn; noise_db: level of
    white noise against full scale; level_db: of a speaker's loudest sample, from..to; voices: flite has
    four recorded voices (all English), espeak is synthetic throughout, and distinct is flite's four and,
    for a fifth and a sixth speaker, a man and a woman of espeak: no two of them alike (espeak's other voices differ
    in pitch and filter alone, and a speaker encoder takes them for one person).
    overlap: chance that who speaks next falls in 0.5 to 2 s before the one before has ended; never do more than two
    speak at once. questions: chance that a turn of speaker_0 is followed by one of somebody else, who then gives the
    word back; 0: all speak alike.
    """

    seconds: float
    speakers: int = 2
    seed: int = 1
    language: Language = "en"
    turn: tuple[int, int] = (1, 4)
    pause_s: tuple[float, float] = (0.25, 1.2)
    long_gap: float = 0.04
    noise_db: float = -60.0
    level_db: tuple[float, float] = (-7.0, -2.0)
    voices: Literal["any", "flite", "espeak", "distinct"] = "any"
    overlap: float = 0.0
    questions: float = 0.0


def no_pause_script(seconds: float = 600, speakers: int = 3, seed: int = 8) -> Script:
    """Talk without a breath: nowhere a pause of the 300 ms that a cut in silence needs.

    Not denser than that: with pauses under 50 ms the demo model errs in 60 % of the words of any run, split or
    not (it was trained on sentences apart), and from 100 ms on in 4 %: only there can a cut's errors be seen.
    """
    return Script(seconds=seconds, speakers=speakers, seed=seed, pause_s=(0.1, 0.2), long_gap=0.0)


def conversation(speakers: int, seed: int = 1, seconds: float = 300) -> Script:
    """`speakers` people (1 to 6) take turns of one to four sentences, 0.1 to 0.6 s apart, never at once.

    What diarization is measured on. Their levels lie within 8 dB of each other, over a noise of -55 dBFS. The truth
    of the recording has one turn for each sentence, from its first sound to its last.
    """
    return Script(
        seconds=seconds,
        speakers=speakers,
        seed=seed,
        pause_s=(0.1, 0.6),
        long_gap=0.0,
        noise_db=-55.0,
        level_db=(-9.0, -1.0),
        voices="distinct",
    )


def record(script: Script, cache: Path) -> Recorded:
    """The recording of `script`, made once and then found in `cache`.

    Raises OptionError where a program or package that speaks is missing.
    """
    return _cached(cache, asdict(script), lambda: _perform(script))


def record_bilingual(seconds: float, cache: Path, seed: int = 1) -> Recorded:
    """First half English, second half Spanish, by another person. Raises OptionError as `record` does."""

    def perform() -> Iterator[Piece]:
        for half, language in enumerate(("en", "es")):
            script = Script(seconds / 2, speakers=1, seed=seed + half, language=language)  # type: ignore[arg-type]
            later_ms = half * _samples(seconds / 2) // SAMPLES_PER_MS
            for audio, said in _perform(script):
                yield audio, tuple(replace(one.shifted(later_ms), speaker=f"speaker_{half}") for one in said)

    return _cached(cache, {"bilingual": seconds, "seed": seed}, perform)


def join_recordings(parts: Sequence[tuple[str, Recorded]], seconds: float, cache: Path) -> Recorded:
    """The named parts one after the other as one recording, each as often as it is given, up to `seconds`.

    A sentence that the end would cut is not in the truth, nor its sound in the recording: silence is. Speakers get
    their part's name before their own, for speaker_0 of one part is somebody else than speaker_0 of another.
    """
    made_of = [(name, part.path.name) for name, part in parts]
    return _cached(cache, {"joined": made_of, "seconds": seconds}, lambda: _joined(parts, seconds))


# ---- the cache ----

Piece = tuple[Audio | npt.NDArray[np.int16], tuple[Sentence, ...]]  # the next stretch, the next sentences of the truth
BLOCK = 30 * SAMPLE_RATE
PROGRAMS = ("espeak-ng", "flite")


def _cached(cache: Path, made_of: dict[str, Any], perform: Callable[[], Iterable[Piece]]) -> Recorded:
    recipe = json.dumps(made_of, sort_keys=True) + Path(__file__).read_text(encoding="utf-8")
    name = hashlib.sha256(recipe.encode()).hexdigest()[:20]
    truth_file = cache / f"{name}.json"
    if not truth_file.exists():  # written last: where the truth is, the audio is whole
        _need_programs()
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{name}.lock"):
            if not truth_file.exists():
                _make(cache / f"{name}.flac", truth_file, perform())
    found = json.loads(truth_file.read_text(encoding="utf-8"))
    return Recorded(
        path=cache / f"{name}.flac",
        duration_ms=found["duration_ms"],
        truth=tuple(Sentence(**sentence) for sentence in found["truth"]),
        made_in_s=found["made_in_s"],
    )


def _make(flac: Path, truth_file: Path, pieces: Iterable[Piece]) -> None:
    began, samples, truth = time.monotonic(), 0, list[Sentence]()
    temporary = flac.with_name(f"{flac.name}.{os.getpid()}")
    try:
        with soundfile.SoundFile(temporary, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC") as file:
            for audio, said in pieces:
                file.write(audio)
                samples += len(audio)
                truth += said
        temporary.replace(flac)
    finally:
        temporary.unlink(missing_ok=True)
    told = {
        "duration_ms": samples // SAMPLES_PER_MS,
        "made_in_s": round(time.monotonic() - began, 3),
        "truth": [asdict(sentence) for sentence in truth],
    }
    _write_whole(truth_file, json.dumps(told, ensure_ascii=False, indent=1).encode())


def _need_programs() -> None:
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise OptionError(
            f"The recordings are spoken by {' and '.join(missing)}, which this machine does not have: "
            f"install it (apt-get install {' '.join(missing)})."
        )


def _write_whole(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _joined(parts: Sequence[tuple[str, Recorded]], seconds: float) -> Iterator[Piece]:
    left = _samples(seconds)
    for name, part in parts:
        later_ms = (_samples(seconds) - left) // SAMPLES_PER_MS
        until_ms = _before_any_cut(part.truth, left // SAMPLES_PER_MS)
        said = tuple(
            replace(sentence.shifted(later_ms), speaker=f"{name}_{sentence.speaker}")
            for sentence in part.truth
            if sentence.end_ms <= until_ms
        )
        with soundfile.SoundFile(part.path) as file:
            for audio in file.blocks(BLOCK, frames=min(len(file), until_ms * SAMPLES_PER_MS), dtype="int16"):
                yield audio, said
                left -= len(audio)
                said = ()
    while left:
        yield np.zeros(min(left, BLOCK), np.int16), ()
        left -= min(left, BLOCK)


def _before_any_cut(truth: Sequence[Sentence], at_ms: int) -> int:
    """The last instant up to `at_ms` at which nobody is in the middle of a sentence."""
    while cut := [sentence.start_ms for sentence in truth if sentence.start_ms < at_ms < sentence.end_ms]:
        at_ms = min(cut)
    return at_ms


# ---- the performance: lines are written endlessly, spoken ahead of need on all cores, and laid on a tape ----


SOONEST = SAMPLE_RATE // 10  # 100 ms: no two begin closer to each other, and nobody goes on sooner


@dataclass(frozen=True)
class Voice:
    engine: Literal["flite", "espeak-ng"]
    name: str
    speed: float  # words per minute for espeak-ng, stretch for flite
    pitch: int


@dataclass(frozen=True)
class Line:
    speaker: int
    text: str
    then_silent_s: float


def _perform(script: Script) -> Iterator[Piece]:
    """The recording in pieces of a sentence or so: what lies before the next sentence's beginning is finished."""
    cast_by, lines_by = random.Random(f"cast {script.seed}"), random.Random(f"lines {script.seed}")
    cast = _cast(cast_by, script)
    gains = [10 ** (cast_by.uniform(*script.level_db) / 20) for _ in cast]
    noise = np.random.RandomState(script.seed)
    loud = np.float32(10 ** (script.noise_db / 20))

    def finished(audio: Audio) -> Audio:
        return np.clip(audio + noise.randn(len(audio)).astype(np.float32) * loud, -1, 1)

    length = _samples(script.seconds)
    tape, begins, said = np.zeros(0, np.float32), 0, tuple[Sentence, ...]()
    at, ends = 0, [0] * len(cast)
    silent = _samples(lines_by.uniform(0.2, 1.0))
    for line, voice in _spoken(_lines(lines_by, script), cast):
        quiet = sorted(ends)[-2] if len(ends) > 1 else 0  # then one speaks at most
        at = max(at + SOONEST, ends[line.speaker] + max(silent, SOONEST), max(ends) + silent, quiet)
        if at + len(voice) > length:
            break
        tape = _lengthened(tape, at + len(voice) - begins)
        yield finished(tape[: at - begins]), said
        tape, begins = tape[at - begins :], at
        tape[: len(voice)] += voice * gains[line.speaker]
        ends[line.speaker] = at + len(voice)
        said = (Sentence(_ms(at), _ms(at + len(voice)), f"speaker_{line.speaker}", line.text),)
        silent = round(line.then_silent_s * SAMPLE_RATE)
    tape = _lengthened(tape, length - begins)
    for start in range(0, len(tape), BLOCK):
        yield finished(tape[start : start + BLOCK]), said if start == 0 else ()


def _samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _lengthened(tape: Audio, length: int) -> Audio:
    return np.concatenate([tape, np.zeros(max(0, length - len(tape)), np.float32)])


def _ms(sample: int) -> int:
    return round(sample / SAMPLES_PER_MS)


def _lines(rng: random.Random, script: Script) -> Iterator[Line]:
    speaker = 0
    while True:
        for left in reversed(range(rng.randint(*script.turn))):
            silent_s = rng.uniform(*script.pause_s)
            if left == 0 and rng.random() < script.long_gap:
                silent_s += rng.uniform(4, 20)
            if left == 0 and script.overlap and rng.random() < script.overlap:
                silent_s = -rng.uniform(0.5, 2)
            yield Line(speaker, SENTENCES[script.language](rng), silent_s)
        if script.questions:
            speaker = rng.randrange(1, script.speakers) if not speaker and rng.random() < script.questions else 0
        elif script.speakers > 1:
            speaker = rng.choice([other for other in range(script.speakers) if other != speaker])


def _spoken(lines: Iterator[Line], cast: list[Voice]) -> Iterator[tuple[Line, Audio]]:
    """Each line with its sound, in order; speaking is a process a line, so cores are what limits it."""
    cores = os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:

        def begin(line: Line) -> tuple[Line, Future[Audio]]:
            return line, pool.submit(speak, cast[line.speaker], line.text)

        ahead = deque(begin(line) for line in islice(lines, 2 * cores))
        while True:
            line, sound = ahead.popleft()
            ahead.append(begin(next(lines)))
            yield line, sound.result()


# ---- voices ----

ESPEAK_VARIANTS = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "adam",
    "Alex",
    "Andy",
    "Annie",
    "belinda",
    "benjamin",
    "david",
    "ed",
    "Gene",
    "john",
    "linda",
    "michael",
    "pablo",
    "paul",
    "Alicia",
    "Andrea",
    "steph3",
    "rob",
]
ESPEAK_BASES: dict[Language, tuple[str, ...]] = {"en": ("en-us", "en-us", "en-gb"), "es": ("es", "es-419")}
FLITE_VOICES = ("rms", "slt", "awb", "kal16")
ESPEAK_PAIR = (("en-us", 35), ("en-us+f4", 90))  # a man and a woman, with their pitch: as unlike as espeak-ng can


def _cast(rng: random.Random, script: Script) -> list[Voice]:
    if script.voices == "distinct":
        return _distinct(rng, script)
    if script.voices == "flite" and (script.language != "en" or script.speakers > len(FLITE_VOICES)):
        raise ValueError(f"flite has {len(FLITE_VOICES)} voices, all English")
    cast: list[Voice] = []
    while len(cast) < script.speakers:
        voice = _audition(rng, script)
        if all(voice.name != other.name for other in cast):
            cast.append(voice)
    return cast


def _distinct(rng: random.Random, script: Script) -> list[Voice]:
    if script.language != "en" or script.speakers > len(FLITE_VOICES) + len(ESPEAK_PAIR):
        raise ValueError(f"there are {len(FLITE_VOICES) + len(ESPEAK_PAIR)} distinct voices, all English")
    recorded = [Voice("flite", name, round(rng.uniform(0.9, 1.12), 2), 0) for name in FLITE_VOICES]
    made_up = [Voice("espeak-ng", name, rng.randint(130, 175), pitch) for name, pitch in ESPEAK_PAIR]
    few = rng.sample(recorded, min(script.speakers, len(recorded)))
    return few + made_up[: script.speakers - len(few)]


def _audition(rng: random.Random, script: Script) -> Voice:
    flite = script.voices == "flite" or (script.voices == "any" and script.language == "en" and rng.random() < 0.3)
    if flite:
        return Voice("flite", rng.choice(FLITE_VOICES), round(rng.uniform(0.9, 1.12), 2), 0)
    name = f"{rng.choice(ESPEAK_BASES[script.language])}+{rng.choice(ESPEAK_VARIANTS)}"
    return Voice("espeak-ng", name, rng.randint(130, 175), rng.randint(25, 75))


def speak(voice: Voice, text: str) -> Audio:
    """`text` spoken: samples at 16 kHz, the silence around it trimmed, peak 1."""
    with bench_extra():
        from scipy.signal import resample_poly
    with wave.open(io.BytesIO(_flite(voice, text) if voice.engine == "flite" else _espeak(voice, text))) as spoken:
        rate = spoken.getframerate()
        # espeak-ng streams, so its header claims more frames than there are; readframes stops at the end
        samples = np.frombuffer(spoken.readframes(spoken.getnframes()), np.int16).astype(np.float32)
    common = gcd(SAMPLE_RATE, rate)
    samples = resample_poly(samples, SAMPLE_RATE // common, rate // common)
    loud = np.flatnonzero(np.abs(samples) > 200)
    samples = samples[max(0, loud[0] - 160) : loud[-1] + 320]
    spoken_once: Audio = (samples / np.abs(samples).max()).astype(np.float32)
    return spoken_once


def _espeak(voice: Voice, text: str) -> bytes:
    command = ["espeak-ng", "--stdout", "-v", voice.name, "-s", str(voice.speed), "-p", str(voice.pitch), text]
    return subprocess.run(command, check=True, capture_output=True).stdout


def _flite(voice: Voice, text: str) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".wav") as out:
        stretch = f"duration_stretch={voice.speed}"
        command = ["flite", "-voice", voice.name, "--setf", stretch, "-t", text, "-o", out.name]
        subprocess.run(command, check=True, capture_output=True)
        return Path(out.name).read_bytes()


# ---- sentences ----

ENGLISH = {
    name: words.split("|")
    for name, words in {
        "subject": "the captain|my sister|the doctor|a farmer|our teacher|the old man|a young woman|the driver|"
        "your brother|the singer|a soldier|the baker|my friend|the lawyer|a stranger|the queen",
        "past": "opened|found|carried|painted|sold|bought|watched|followed|cleaned|broke|lost|moved|remembered|"
        "wanted|built|washed",
        "verb": "open|find|carry|paint|sell|buy|watch|follow|clean|break|lose|move|remember|want|build|wash",
        "determiner": "the|a|this|every|another|his|her|our",
        "adjective": "small|heavy|green|broken|yellow|empty|ancient|golden|quiet|dirty|simple|modern|frozen|hidden|"
        "narrow|purple",
        "noun": "box|river|window|garden|bottle|letter|bridge|mountain|kitchen|computer|camera|candle|market|hammer|"
        "island|picture|guitar|basket|ticket|machine|paper|village|engine|blanket",
        "preposition": "near|behind|under|beside|across from|inside",
        "time": "yesterday|in the morning|after dinner|on Monday|last winter|before sunset|in July|at midnight",
        "question": "where did|when did|why did|how did",
        "number": "zero|one|two|three|four|five|six|seven|eight|nine|ten",
    }.items()
}
SPANISH = {
    name: words.split("|")
    for name, words in {
        "subject": "el capitán|mi hermana|el doctor|la maestra|un soldado|la reina|mi amigo|el panadero|una mujer|"
        "el conductor",
        "past": "abrió|encontró|vendió|compró|perdió|pintó|limpió|rompió|llevó|quiere",
        "noun": "la caja|el río|la ventana|el jardín|una botella|la carta|el puente|la montaña|la cocina|una cámara|"
        "el mercado|la isla|el papel|la guitarra",
        "adjective": "grande|verde|nuevo|simple|enorme|azul",
        "preposition": "cerca de|detrás de|debajo de|al lado de",
        "time": "ayer|por la mañana|el lunes|en julio|esta noche|después",
        "number": "cero|uno|dos|tres|cuatro|cinco|seis|siete|ocho|nueve|diez",
    }.items()
}


def english(rng: random.Random) -> str:
    def pick(kind: str) -> str:
        return rng.choice(ENGLISH[kind])

    def thing() -> str:
        adjective = f"{pick('adjective')} " if rng.random() < 0.6 else ""
        return f"{pick('determiner')} {adjective}{pick('noun')}"

    form = rng.random()
    if form < 0.5:
        place = f" {pick('preposition')} {thing()}" if rng.random() < 0.5 else ""
        time = f" {pick('time')}" if rng.random() < 0.4 else ""
        return _sentence(f"{pick('subject')} {pick('past')} {thing()}{place}{time}.")
    if form < 0.62:
        return _sentence(f"{pick('question')} {pick('subject')} {pick('verb')} {thing()}?")
    if form < 0.75:
        return _sentence(f"{pick('time')} {pick('subject')} {pick('past')} {thing()}.")
    if form < 0.88:
        return _counting(rng, ENGLISH["number"])
    many = rng.choice(ENGLISH["number"][2:])
    return _sentence(f"{pick('subject')} and {pick('subject')} {pick('past')} {many} {pick('adjective')} things.")


def spanish(rng: random.Random) -> str:
    def pick(kind: str) -> str:
        return rng.choice(SPANISH[kind])

    if rng.random() >= 0.75:
        return _counting(rng, SPANISH["number"])
    adjective = f" {pick('adjective')}" if rng.random() < 0.4 else ""
    place = f" {pick('preposition')} {pick('noun')}" if rng.random() < 0.4 else ""
    time = f" {pick('time')}" if rng.random() < 0.4 else ""
    return _sentence(f"{pick('subject')} {pick('past')} {pick('noun')}{adjective}{place}{time}.")


def _counting(rng: random.Random, numbers: list[str]) -> str:
    return _sentence(" ".join(rng.choice(numbers) for _ in range(rng.randint(2, 6))) + ".")


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


SENTENCES: dict[Language, Callable[[random.Random], str]] = {"en": english, "es": spanish}
