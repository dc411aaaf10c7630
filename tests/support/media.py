"""Media files whose sound is known to the millisecond: tone bursts at planted times, in any container."""

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from tests.support.stages import make_context
from workers.context import Context
from workers.media import ffmpeg_executable
from workers.messages import Chunk, JobInput, JobKeys, PlanMediaOutput, SplitMediaInput, SplitMediaOutput
from workers.settings import Settings
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS
from workers.stages.plan import plan_media
from workers.stages.split import split_media
from workers.storage import Storage

Audio = npt.NDArray[np.float32]


def bursts(seconds: float, at_ms: Sequence[int]) -> Audio:
    """Silence with 60 ms of a 1 kHz tone from each of `at_ms` on."""
    sound = np.zeros(round(seconds * SAMPLE_RATE), np.float32)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(60 * SAMPLES_PER_MS) / SAMPLE_RATE)
    for start in at_ms:
        sound[start * SAMPLES_PER_MS :][: len(tone)] = tone
    return sound


def onsets(sound: Audio) -> list[int]:
    """Milliseconds at which it becomes loud after 200 ms of quiet; a mix of six channels into one lowers them."""
    loud = np.flatnonzero(np.abs(sound) > 0.3 * np.abs(sound).max(initial=0.05))
    if not len(loud):
        return []
    first = np.concatenate([[True], np.diff(loud) > 200 * SAMPLES_PER_MS])
    return [int(sample) // SAMPLES_PER_MS for sample in loud[first]]


def write_wav(path: Path, sound: Audio) -> Path:
    soundfile.write(path, sound, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return path


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg with these arguments; what it says is in the error when it fails."""
    command = [ffmpeg_executable(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def context(home: Path, workers: int = 2, aborted: bool = False) -> Context:
    """A stage's surroundings with the real local storage below `home`, and no recognizer."""
    settings = Settings(
        home=home, server=None, storage=str(home / "objects"), s3_endpoint=None, ui=None, server_jar=None
    )
    return make_context(settings, live_workers=lambda: workers, aborted=lambda: aborted)


class Job:
    """A media file after plan and split; what they stored."""

    def __init__(self, job: JobInput, around: Context) -> None:
        self.plan: PlanMediaOutput = plan_media(job, around)
        self.ref = SplitMediaInput(storage=self.plan.storage, job=self.plan.job, speakers=self.plan.speakers)
        self.split: SplitMediaOutput = split_media(self.ref, around)
        self.keys = JobKeys(self.plan.job)
        self.storage: Storage = around.open_storage(self.plan.storage)

    @property
    def chunks(self) -> list[Chunk]:
        records = (self.storage.get_bytes(self.keys.chunk(index)) for index in range(self.plan.chunk_count))
        return [Chunk.model_validate_json(record) for record in records]

    def audio(self, chunk: Chunk, folder: Path) -> Audio:
        path = folder / f"{chunk.index}.flac"
        self.storage.get_file(self.keys.audio(chunk.index), path)
        sound, rate = soundfile.read(path, dtype="float32")
        assert rate == SAMPLE_RATE
        assert sound.ndim == 1
        return np.asarray(sound, np.float32)

    def found(self, folder: Path) -> list[int]:
        """Where on the media's clock the chunks' cores hold bursts."""
        times = []
        for chunk in self.chunks:
            if chunk.audio_sha256 is None:
                continue
            sound = self.audio(chunk, folder)
            assert len(sound) == chunk.audio.duration_ms * SAMPLES_PER_MS
            heard = [chunk.audio.start_ms + at for at in onsets(sound)]
            times += [at for at in heard if chunk.core.holds(at)]
        return times


def assert_tiled(chunks: Sequence[Chunk], start_ms: int, end_ms: int) -> None:
    """Cores tile [start_ms, end_ms); each lies in its audio."""
    assert chunks[0].core.start_ms == start_ms
    assert chunks[-1].core.end_ms == end_ms
    for before, after in itertools.pairwise(chunks):
        assert before.core.end_ms == after.core.start_ms
    for chunk in chunks:
        assert chunk.audio.start_ms <= chunk.core.start_ms
        assert chunk.audio.end_ms >= chunk.core.end_ms
