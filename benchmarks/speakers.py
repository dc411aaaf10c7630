"""What telling speakers apart costs: processor time for an hour of audio, and clustering of ten hours.

    whisperfleet bench speakers [--hours 1] [--repeat 3] [--quick] [--media FILE]

Runs the real stages of the default diarizer on a recording that is split, in a folder as storage: map_speech,
diarize_chunk for every chunk of 300 s and cluster_speakers, with all that belongs to them (FLAC, compression,
hashes, atomic writes). Counted are processor seconds, user and system, of all threads: on a busy machine they
hardly change, wall time does. The targets are 60 of them for an hour of audio in all; and for cluster_speakers on
ten hours, in a process of its own, 30 s and 1.5 GB.

Peak memory is that of the whole process, interpreter and models included. What the margins of chunks cost is computed.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from benchmarks.peak import peak_bytes
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, main, progress, run
from benchmarks.surroundings import make_context, spread
from workers.context import Context
from workers.diarizers import DiarizerSpec, Windows
from workers.diarizers.ge2e import Ge2e
from workers.diarizers.grid import count_windows, owned, reach
from workers.diarizers.packing import joined, pack, unpack
from workers.messages import (
    Chunk,
    ClusterSpeakersInput,
    DiarizeChunkInput,
    DiarizeChunkOutput,
    JobInput,
    JobKeys,
    JobPlan,
    PlanMediaOutput,
    SpeakerPlan,
    SpeakerRef,
    SpeechMap,
    SplitMediaInput,
)
from workers.models import demo_recording
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.stages.cluster import cluster_speakers
from workers.stages.diarize import diarize_chunk
from workers.stages.plan import plan_media
from workers.stages.speech import map_speech
from workers.stages.split import split_media

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TARGET_SECONDS = 60.0  # processor seconds for an hour
TARGET_CLUSTER_SECONDS = 30.0
TARGET_CLUSTER_MEGABYTES = 1500
CLUSTER_HOURS = 10.0
QUICK_HOURS, QUICK_CLUSTER_HOURS = 0.05, 0.2
CHUNKS_COMPARED = (30, 60, 120, 300, 600, 1800)  # seconds
PYANNOTE = DiarizerSpec("pyannote", 0, "", 10 * SAMPLE_RATE, SAMPLE_RATE, 589, 3, 256)  # grid of its released models
TURNED = 0.2  # length of what is added to a voice of length 1
SEED = 4


@dataclass(frozen=True)
class Spent:
    """Processor seconds of one repetition over the whole recording, and how many people were found in it."""

    hearing: float
    speech_map: float
    clustering: float
    people: int

    @property
    def total(self) -> float:
        return self.hearing + self.speech_map + self.clustering


@dataclass(frozen=True)
class Job:
    """A recording that is planned and split."""

    plan: PlanMediaOutput
    context: Context
    hours: float

    @property
    def keys(self) -> JobKeys:
        return JobKeys(self.plan.job)

    @property
    def speakers(self) -> str:
        assert self.plan.speakers is not None
        return self.plan.speakers


def measure(options: argparse.Namespace, folder: Path) -> Findings:
    if options.quick:
        options.hours, options.cluster_hours = QUICK_HOURS, QUICK_CLUSTER_HOURS
    job = _split_job(Path(options.media) if options.media else _talk(folder / "talk.flac", options.hours), folder)
    spent = []
    for number in range(options.repeat):
        progress(f"an hour of audio, repetition {number + 1} of {options.repeat}")
        spent.append(_repetition(job))
    clustered = _long(job, options.cluster_hours, options.repeat, folder)
    parts = ("hearing", "speech_map", "clustering", "total")
    per_hour = {name: [getattr(one, name) / job.hours for one in spent] for name in parts}
    stored = sum(len(data) for data in _stored_voices(job)) / job.hours / 1e6
    margins = _margins()
    hearing, total = (statistics.median(per_hour[name]) for name in ("hearing", "total"))
    wall, peak = (statistics.median([one[name] for one in clustered]) for name in ("wall_seconds", "megabytes"))
    return Findings(
        repetitions=[*(asdict(one) for one in spent), *clustered],
        tables=_tables(job.hours, options.cluster_hours, per_hour, clustered, margins),
        figures={
            "hours": job.hours,
            "cluster_hours": options.cluster_hours,
            "processor_seconds_per_hour": {name: _summary(values) for name, values in per_hour.items()},
            "stored_megabytes_per_hour": stored,
            "people": spent[0].people,
            "clustered_people": clustered[0]["speakers"],
            "heard_twice": margins,
        },
        shows=[
            f"An hour of audio costs {total:.1f} processor seconds, {hearing / total:.0%} of them for hearing voices, "
            f"and {stored:.1f} MB of storage.",
            f"Clustering {options.cluster_hours:g} hours takes {wall:.1f} s and {peak:.0f} MB on one machine.",
        ],
        targets=[
            _target("processor seconds for an hour of audio", TARGET_SECONDS, total, "s", not options.quick),
            _target(f"clustering {CLUSTER_HOURS:g} hours", TARGET_CLUSTER_SECONDS, wall, "s", not options.quick),
            _target("peak memory of that", TARGET_CLUSTER_MEGABYTES, peak, "MB", not options.quick),
        ],
    )


def _tables(
    hours: float,
    cluster_hours: float,
    per_hour: dict[str, list[float]],
    clustered: Sequence[dict[str, float]],
    margins: dict[str, dict[str, float]],
) -> list[Table]:
    return [
        Table(
            title=f"Processor seconds for an hour of audio, of {hours:.2f} hours: min / median / max",
            columns=("part", "seconds"),
            rows=tuple((name.replace("_", " "), spread(values)) for name, values in per_hour.items()),
        ),
        Table(
            title=f"cluster_speakers on {cluster_hours:g} hours in a process of its own: min / median / max",
            columns=("", "found"),
            rows=tuple(
                (name.replace("_", " "), spread([one[name] for one in clustered]))
                for name in ("wall_seconds", "processor_seconds", "megabytes")
            ),
        ),
        Table(
            title="Audio heard twice at the chunks' margins, % of an hour (computed)",
            columns=("diarizer", *(f"{seconds} s" for seconds in CHUNKS_COMPARED)),
            rows=tuple((name, *(round(100 * share, 2) for share in found.values())) for name, found in margins.items()),
        ),
    ]


def _target(name: str, most: float, found: float, unit: str, measured: bool) -> Target:
    return Target(
        name=name, wanted=f"at most {most:g} {unit}", found=f"{found:.1f} {unit}",
        reached=found <= most if measured else None,
    )  # fmt: skip


def draw(result: Result, figure: "Figure") -> None:
    axes = figure.subplots()
    spent = result.figures["processor_seconds_per_hour"]
    reached = 0.0
    for name in ("hearing", "speech_map", "clustering"):
        width = spent[name]["median"]
        axes.barh([0], [width], left=[reached], label=f"{name.replace('_', ' ')}: {width:.1f} s", height=0.5)
        reached += width
    axes.axvline(TARGET_SECONDS, color="black", linestyle="--", label=f"target: {TARGET_SECONDS:.0f} s")
    axes.set(
        xlabel="processor seconds for an hour of audio", yticks=[], ylim=(-0.6, 1.2), title="Telling speakers apart"
    )
    axes.legend(loc="upper left", ncols=2)


# ---- an hour of audio ----


def _repetition(job: Job) -> Spent:
    storage, keys, tasks = job.context.open_storage(job.plan.storage), job.keys, job.plan.speaker_inputs
    for done in (keys.speech, f"{keys.prefix}voices/", keys.speaker_result(job.speakers)):
        storage.delete(done)
    outputs: dict[str, dict[str, Any]] = {}

    def hear() -> None:
        for name, given in tasks.items():
            if name.startswith("voices_"):
                outputs[name] = diarize_chunk(DiarizeChunkInput.decode(given), job.context).model_dump()

    def map_it() -> None:
        outputs["speech"] = map_speech(SpeakerRef.decode(tasks["speech"]), job.context).model_dump()

    def cluster() -> None:
        task = ClusterSpeakersInput(**tasks["speech"], chunks=outputs)
        outputs["clustered"] = cluster_speakers(task, job.context).model_dump()

    hearing, speech_map, clustering = _processor(hear), _processor(map_it), _processor(cluster)
    return Spent(hearing, speech_map, clustering, people=outputs["clustered"]["speakers"])


def _processor(work: Callable[[], None]) -> float:
    """Seconds, user and system, of all threads of this process."""
    began = time.process_time()
    work()
    return time.process_time() - began


def _split_job(media: Path, folder: Path) -> Job:
    diarizer = Ge2e()
    context = make_context(folder / "home", diarizer=lambda name, model: diarizer)
    plan = plan_media(JobInput(media=str(media), language="en"), context)
    split = split_media(SplitMediaInput(storage=plan.storage, job=plan.job, speakers=plan.speakers), context)
    return Job(plan, context, split.duration_ms / 3_600_000)


def _talk(path: Path, hours: float) -> Path:
    """The demo again and again, each time 0 to 12 dB softer, over noise of -60 dBFS."""
    demo, rate = soundfile.read(demo_recording(), dtype="float32")
    random, left = np.random.default_rng(SEED), round(hours * 3600 * rate)
    with soundfile.SoundFile(path, "w", rate, 1, "PCM_16", format="FLAC") as file:
        while left:
            said = demo[:left] * 10 ** (random.uniform(-12, 0) / 20)
            file.write(np.clip(said + random.normal(0, 1e-3, len(said)), -1, 1))
            left -= len(said)
    return path


def _stored_voices(job: Job) -> list[bytes]:
    storage = job.context.open_storage(job.plan.storage)
    return [storage.get_bytes(key) for key in storage.keys(f"{job.keys.prefix}voices/")]


# ---- ten hours of voices ----


def _long(job: Job, hours: float, repeat: int, folder: Path) -> list[dict[str, Any]]:
    """What each of `repeat` fresh processes told of clustering `hours`."""
    task = _long_task(job, hours)
    given = folder / "cluster.json"
    given.write_text(json.dumps({"home": str(folder / "home"), "task": task.model_dump()}))
    command = [sys.executable, "-m", "benchmarks.speakers", "--measure-one", str(given)]
    found = []
    for number in range(repeat):
        progress(f"clustering {hours:g} hours, {number + 1} of {repeat}")
        found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
    return found


def _long_task(job: Job, hours: float) -> ClusterSpeakersInput:
    """A job of `hours` whose chunks are heard: its objects are stored, and this is what cluster_speakers is given."""
    storage = job.context.open_storage(job.plan.storage)
    keys, span = JobKeys(f"{job.plan.job}-long"), Span.of(0, round(hours * 3_600_000))
    plan = JobPlan.model_validate_json(storage.get_bytes(job.keys.plan))
    speakers = SpeakerPlan.model_validate_json(storage.get_bytes(job.keys.speaker_plan(job.speakers)))
    speech = SpeechMap.model_validate_json(storage.get_bytes(job.keys.speech))
    speakers = speakers.model_copy(update={"chunk_count": -(-span.duration_ms // (speakers.chunk_seconds * 1000))})
    for key, message in (
        (keys.plan, plan.model_copy(update={"span": span, "duration_ms": span.duration_ms, "wanted_cuts_ms": ()})),
        (keys.chunk(0), Chunk(index=0, core=span, audio=span)),
        (keys.speaker_plan(speakers.key), speakers),
        (keys.speech, SpeechMap(regions=_again(speech.regions, round(job.hours * 3_600_000), span.end_ms))),
    ):
        storage.put_bytes(key, message.model_dump_json().encode())
    chunks: dict[str, dict[str, Any]] = {"speech": {"key": keys.speech}}
    heard = joined([unpack(data) for data in _stored_voices(job)])
    for index, windows in enumerate(_long_voices(heard, speakers, span.duration_ms * SAMPLES_PER_MS)):
        data = pack(windows)
        sha256 = hashlib.sha256(data).hexdigest()
        key = keys.windows(speakers.voices, index, sha256)
        storage.put_bytes(key, data)
        chunks[f"voices_{index}"] = DiarizeChunkOutput(
            index=index,
            key=key,
            sha256=sha256,
            spec=windows.spec_hash,
            windows=len(windows.index),
            worker="benchmark",
            attempts=1,
            seconds={},
        ).model_dump()
    return ClusterSpeakersInput(
        storage=job.plan.storage, job=f"{job.plan.job}-long", speakers=speakers.key, chunks=chunks
    )


def _long_voices(heard: Windows, speakers: SpeakerPlan, samples: int) -> Iterator[Windows]:
    """The voices of each chunk of a recording of `samples`: those of `heard` again and again, each time others."""
    random, count, spec = np.random.default_rng(SEED), len(heard.index), Ge2e().spec
    there = count_windows(samples, spec)
    for index in range(speakers.chunk_count):
        first, stop = owned(index, speakers.chunk_count, speakers.chunk_seconds, spec)
        numbers = np.arange(first, there if stop is None else stop, dtype=np.int32)
        voices = heard.embedding[numbers % count].astype(np.float64)
        voices += random.normal(0, TURNED / np.sqrt(spec.dimension), voices.shape)
        voices /= np.linalg.norm(voices, axis=-1, keepdims=True)
        activity = np.zeros((len(numbers), 0, 1), np.bool_)
        yield Windows(heard.spec_hash, numbers, activity, voices.astype(np.float32))


def _again(regions: Sequence[Span], length_ms: int, until_ms: int) -> tuple[Span, ...]:
    """The regions of a recording of `length_ms`, repeated until `until_ms`."""
    every = (region.shifted(begin) for begin in range(0, until_ms, length_ms) for region in regions)
    return tuple(region for region in every if region.end_ms <= until_ms)


def _measured_clustering(given: Path) -> dict[str, float]:
    """cluster_speakers of the task that `given` holds, in this process, which has done nothing else."""
    asked = json.loads(given.read_text())
    diarizer = Ge2e()
    context = make_context(Path(asked["home"]), diarizer=lambda name, model: diarizer)
    task = ClusterSpeakersInput.decode(asked["task"])
    context.open_storage(task.storage).delete(JobKeys(task.job).speaker_result(task.speakers))  # it would be found
    wall, processor = time.monotonic(), time.process_time()
    output = cluster_speakers(task, context)
    return {
        "wall_seconds": time.monotonic() - wall,
        "processor_seconds": time.process_time() - processor,
        "megabytes": peak_bytes() / 1e6,
        "speakers": output.speakers,
        "turns": output.turns,
    }


# ---- what the margins of the chunks cost ----


def _margins() -> dict[str, dict[str, float]]:
    """Computed, not measured: what is heard twice because windows reach over the end of their chunk."""
    return {
        spec.name: {str(seconds): _heard_twice(seconds, spec) for seconds in CHUNKS_COMPARED}
        for spec in (Ge2e().spec, PYANNOTE)
    }


def _heard_twice(chunk_seconds: int, spec: DiarizerSpec) -> float:
    """Share of an hour that more than one chunk has to hear."""
    hour = 3600 * SAMPLE_RATE
    chunks = 3600 // chunk_seconds
    heard = 0
    for index in range(chunks):
        start, end = reach(*owned(index, chunks, chunk_seconds, spec), spec)
        heard += (hour if end is None else min(end, hour)) - start
    return heard / hour - 1


# ---- the frame ----


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=float, default=1.0, help="length of the recording that is made")
    parser.add_argument("--media", help="measure on this recording instead")
    parser.add_argument(
        "--cluster-hours", type=float, default=CLUSTER_HOURS, help="length of what is clustered at once"
    )


BENCHMARK = Benchmark(
    name="speakers",
    about=__doc__ or "",
    measure=measure,
    draw=draw,
    options=_options,
    repeat=3,
    packages=("onnxruntime", "numpy", "soundfile", "faster-whisper"),
    caveats=(
        "Without --media the recording is the package's demo (two people, 70 s) again and again at changing levels "
        "over faint noise: as full of speech as people can be, and with few voices.",
        "The hours of voices that are clustered are those of the recording, each time moved at random by some 10 "
        "degrees: of the right size, and of no use to judge accuracy by.",
        "Models are loaded before, as they are in a worker. Decoding and splitting are not counted: transcription "
        "needs them anyhow.",
    ),
)


def command(arguments: list[str]) -> None:
    run(BENCHMARK, arguments)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure-one"]:
        print(json.dumps(_measured_clustering(Path(sys.argv[2]))))
    else:
        main(BENCHMARK)
