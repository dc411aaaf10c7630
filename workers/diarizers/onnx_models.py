"""Two ONNX files that the operator names, on onnxruntime: segmentation as pyannote's, and embeddings of voices.

`segmentation.onnx` takes samples (windows, 1, samples) and gives (windows, frames, classes of a powerset), as the
exports of pyannote's segmentation-3.0 do; `embedding.onnx` takes Kaldi's filter bank (1, frames, 80) and gives
(1, dimension), as those of WeSpeaker and 3D-Speaker do. What their metadata does not say (the keys are sherpa-onnx's)
is taken to be as in segmentation-3.0 and in WeSpeaker. Clustering is that of pyannote's 3.1 pipeline, but that the
voices of a window are different people, as in community-1. A file diarizer.json beside the models may set the
`threshold` of clustering, for embeddings that lie closer together or farther apart than WeSpeaker's.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Clustered, DiarizerSpec, Pcm, Windows
from workers.diarizers.agglomerative import agglomerate
from workers.diarizers.failures import engine_failure
from workers.diarizers.fbank import BANDS, FRAME, SHIFT, fbank
from workers.diarizers.grid import count_windows
from workers.diarizers.loading import ONNX_FILES
from workers.diarizers.reconstruction import FrameGrid
from workers.diarizers.voices import bounds, by_vote, mean_voice, nearest_apart, to_cluster, voice_of_clip
from workers.errors import EngineError, ModelError, OptionError, one_line
from workers.messages import SpeakerHints
from workers.spans import SAMPLE_RATE, Span

log = logging.getLogger(__name__)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
GPU_BATCH = 30  # windows; the default chunk of 300 s has 300 of them
CPU_BATCH = 1  # the sums of a window must not hang on its neighbours
STEP_SHARE = 10  # a window begins every tenth of a window, as in pyannote's pipelines
LEAST_FRAMES = 20  # of the filter bank, 0.2 s: with fewer a voice has no embedding
MOST_CLUSTERED = 4_000
"""Voices that are clustered, 128 MB; of more, those of every second, third, … window, and all join the nearest."""
THRESHOLD = 0.7046  # between centroids of unit vectors: what pyannote's 3.1 pipeline was tuned to


@dataclass(frozen=True)
class Segmenter:
    """What segmentation.onnx says of itself; lengths in samples."""

    window: int
    frame_size: int
    frame_step: int
    speakers: int
    at_once: int

    @property
    def classes(self) -> NDArray[np.bool_]:
        """(classes, speakers): nobody, each alone, each two at once, …"""
        sets = [one for size in range(self.at_once + 1) for one in combinations(range(self.speakers), size)]
        return np.array([[speaker in one for speaker in range(self.speakers)] for one in sets], np.bool_)


@dataclass(frozen=True)
class FrontEnd:
    """What embedding.onnx was trained on: samples times `scale` in frames under `window`, centred or not."""

    window: str
    scale: float
    centred: bool


class OnnxModels:
    """Implements Diarizer with the models of a folder.

    Raises ModelError where they are missing or are not what they should be, OptionError where there is no such device.
    """

    needs_speech = False

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        self._folder = folder
        files = [folder / name for name in ONNX_FILES]
        self._segmentation, self._embedding = (_session(file, device, threads) for file in files)
        self._on_gpu = self._segmentation.get_providers()[0] == CUDA
        self._sha256 = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files))
        self._batch = GPU_BATCH if self._on_gpu else CPU_BATCH
        self._segmenter = _segmenter(self._segmentation, files[0])
        self._front_end = _front_end(self._embedding, files[1])
        self._threshold = _threshold(folder / "diarizer.json")
        self._classes = self._segmenter.classes
        self._frames = self._try_segmentation(files[0])
        self._dimension = self._try_embedding(files[1])
        self._grid = FrameGrid(
            size=self._segmenter.frame_size,
            step=self._segmenter.frame_step,
            window=self._segmenter.window,
            window_step=self._segmenter.window // STEP_SHARE,
        )

    @cached_property
    def spec(self) -> DiarizerSpec:
        return DiarizerSpec(
            name="onnx",
            version=1,
            model_sha256=self._sha256.hexdigest(),
            window=self._grid.window,
            step=self._grid.window_step,
            frames=self._frames,
            local_speakers=self._segmenter.speakers,
            dimension=self._dimension,
        )

    @property
    def same_person(self) -> float:
        """The cosine between unit vectors that are as far apart as the clustering's threshold."""
        return 1 - self._threshold**2 / 2

    # ---- windows ----

    def hear(self, audio: Pcm, windows: range, wanted: Callable[[], None]) -> Windows:
        spec = self.spec
        activity = np.zeros((len(windows), spec.frames, spec.local_speakers), np.bool_)
        embedding = np.full((len(windows), spec.local_speakers, spec.dimension), np.nan, np.float32)
        # full batches at places that follow from the windows' numbers: the same arithmetic in whichever chunk
        for begin in range(windows.start // self._batch * self._batch, windows.stop, self._batch):
            wanted()
            samples = np.zeros((self._batch, spec.window), np.float32)
            own = range(max(begin, windows.start), min(begin + self._batch, windows.stop))
            for number in own:
                first = (number - windows.start) * spec.step
                heard = audio[first : first + spec.window]
                samples[number - begin, : len(heard)] = heard.astype(np.float32) / 32768
            active = self._segment(samples)
            for number in own:
                activity[number - windows.start] = active[number - begin]
                embedding[number - windows.start] = self._voices(samples[number - begin], active[number - begin])
        return Windows(spec.hash, np.arange(windows.start, windows.stop, dtype=np.int32), activity, embedding)

    def _segment(self, samples: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(windows, frames, local speakers), of (windows, samples)."""
        likely = self._run(self._segmentation, samples[:, None]).argmax(axis=2)
        return np.asarray(self._classes[likely], np.bool_)

    def _voices(self, samples: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """(local speakers, dimension): of each, the embedding of the frames in which it is heard, alone if that is
        enough. What is pooled is chosen before the model and not inside it, as these models have no mask."""
        found = np.full((self._segmenter.speakers, self._dimension), np.nan, np.float32)
        if not active.any():
            return found
        features = fbank(samples * np.float32(self._front_end.scale), self._front_end.window)
        centre = (np.arange(len(features)) * SHIFT + FRAME / 2 - self._grid.size / 2) / self._grid.step
        nearest_frame = np.clip(np.rint(centre).astype(np.int64), 0, self._frames - 1)
        alone = np.where(active.sum(axis=1, keepdims=True) == 1, active, False)
        for speaker in range(self._segmenter.speakers):
            chosen = alone[nearest_frame, speaker]
            if chosen.sum() < LEAST_FRAMES:
                chosen = active[nearest_frame, speaker]
            if chosen.sum() >= LEAST_FRAMES:
                found[speaker] = self._embed(features[chosen])
        return found

    def _embed(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._front_end.centred:
            features = features - features.mean(axis=0)
        return np.asarray(self._run(self._embedding, features[None])[0], np.float32)

    def _run(self, session: Any, array: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return np.asarray(session.run(None, {session.get_inputs()[0].name: array})[0], np.float32)
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise engine_failure(error, f"A model in {self._folder} failed") from error

    # ---- the whole recording ----

    def cluster(
        self,
        windows: Windows,
        speech: Sequence[Span] | None,
        duration_ms: int,
        hints: SpeakerHints,
        wanted: Callable[[], None],
    ) -> Clustered:
        if not windows.activity.any():
            return Clustered((), (), np.zeros((0, self._dimension), np.float32))
        centroids, clustered = self._people(windows, hints, wanted)
        # of two who speak at once, both embeddings are nearest to the louder
        labels = nearest_apart(windows, centroids)
        return by_vote(
            windows,
            labels,
            centroids,
            self._grid,
            duration_ms,
            hints,
            clustering="agglomerative",
            threshold=self._threshold,
            voices_clustered=clustered,
        )

    def _people(
        self, windows: Windows, hints: SpeakerHints, wanted: Callable[[], None]
    ) -> tuple[NDArray[np.float32], int]:
        """The centroids, and how many voices they were made of."""
        voices = windows.embedding[to_cluster(windows, MOST_CLUSTERED)[0]]
        low, high = bounds(hints, len(voices))
        if not len(voices) or high == 1:
            return (voices.mean(axis=0, keepdims=True) if len(voices) else mean_voice(windows)), len(voices)
        labels = agglomerate(voices, self._threshold, low, high, wanted)
        means = [voices[labels == cluster].mean(axis=0, dtype=np.float64) for cluster in range(labels.max() + 1)]
        return np.stack(means).astype(np.float32), len(voices)

    # ---- a reference clip ----

    def embed(self, audio: Pcm) -> NDArray[np.float32]:
        return voice_of_clip(self.hear(audio, range(count_windows(len(audio), self.spec)), lambda: None))

    # ---- trying the models out ----

    def _try_segmentation(self, file: Path) -> int:
        """Frames of a window."""
        silence = np.zeros((1, 1, self._segmenter.window), np.float32)
        try:
            shape = self._run(self._segmentation, silence).shape
        except EngineError as error:
            raise ModelError(
                f"'{file}' does not take windows of {silence.shape[2]} samples ({one_line(error.__cause__ or error)}): "
                "take a segmentation model."
            ) from error
        if len(shape) != 3 or shape[2] != len(self._classes):
            raise ModelError(
                f"'{file}' gives {list(shape)} where [1, frames, {len(self._classes)}] is wanted, the sets of up to "
                f"{self._segmenter.at_once} of {self._segmenter.speakers} speakers: take a segmentation model."
            )
        return int(shape[1])

    def _try_embedding(self, file: Path) -> int:
        """Dimension of an embedding."""
        taken = self._embedding.get_inputs()[0].shape
        if len(self._embedding.get_inputs()) != 1 or len(taken) != 3 or taken[2] not in (BANDS, None, str(taken[2])):
            raise ModelError(
                f"'{file}' takes {[one.shape for one in self._embedding.get_inputs()]} where one input of "
                f"[1, frames, {BANDS}] is wanted: take a speaker model of WeSpeaker or 3D-Speaker."
            )
        noise = np.random.default_rng(0).normal(size=(200, BANDS)).astype(np.float32)
        try:
            shape = self._run(self._embedding, noise[None]).shape
        except EngineError as error:
            raise ModelError(
                f"'{file}' does not take a filter bank of {BANDS} bands ({one_line(error.__cause__ or error)}): "
                "take a speaker model of WeSpeaker or 3D-Speaker."
            ) from error
        if len(shape) != 2:
            raise ModelError(f"'{file}' gives {list(shape)} where [1, dimension] is wanted: take a speaker model.")
        said = _metadata(self._embedding).get("output_dim")
        if said and said != str(shape[1]):
            raise ModelError(
                f"'{file}' says that its embeddings have {said} numbers, and they have {shape[1]}: take another export."
            )
        return int(shape[1])


# ---- loading ----


def _session(file: Path, device: str, threads: int) -> Any:
    """Raises ModelError, or OptionError where a GPU was asked for and is not used."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say is raised as well
    options.intra_op_num_threads = threads
    wanted: list[Any] = [CPU]
    if device != "cpu" and CUDA in onnxruntime.get_available_providers():
        # TF32 keeps 10 bits of the mantissa; a search by stopwatch would choose another algorithm each time
        wanted.insert(0, (CUDA, {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}))
    elif device == "cuda":
        raise OptionError(
            "The onnxruntime installed here cannot use a GPU: install onnxruntime-gpu in its place, "
            "or take --device cpu."
        )
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=wanted)
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise ModelError(
            f"'{file}' cannot be loaded ({one_line(error)}): copy it again, or take another model."
        ) from error
    # where CUDA's libraries are missing it takes the processor, and says so to nobody
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise OptionError("onnxruntime does not get a GPU to work here (CUDA or cuDNN is missing): take --device cpu.")
    return session


def _segmenter(session: Any, file: Path) -> Segmenter:
    """Defaults are segmentation-3.0's: 10 s, three speakers of which two at once, a frame every 16.875 ms."""
    said = _metadata(session)
    if said.get("sample_rate", str(SAMPLE_RATE)) != str(SAMPLE_RATE):
        raise ModelError(f"'{file}' hears {said['sample_rate']} Hz: take a model for {SAMPLE_RATE} Hz.")
    try:
        return Segmenter(
            window=int(said.get("window_size", 160_000)),
            frame_size=int(said.get("receptive_field_size", 991)),
            frame_step=int(said.get("receptive_field_shift", 270)),
            speakers=int(said.get("num_speakers", 3)),
            at_once=int(said.get("powerset_max_classes", 2)),
        )
    except ValueError as error:
        raise ModelError(f"The metadata of '{file}' is damaged: {error}.") from error


def _front_end(session: Any, file: Path) -> FrontEnd:
    """Each framework's training recipe: WeSpeaker with 16-bit samples and Hamming's window, 3D-Speaker with Kaldi's."""
    said = _metadata(session)
    framework = said.get("framework", "wespeaker")
    if framework not in ("wespeaker", "3d-speaker"):
        raise ModelError(f"'{file}' is of {framework}: take a speaker model of WeSpeaker or 3D-Speaker.")
    if said.get("sample_rate", str(SAMPLE_RATE)) != str(SAMPLE_RATE):
        raise ModelError(f"'{file}' hears {said['sample_rate']} Hz: take a model for {SAMPLE_RATE} Hz.")
    return FrontEnd(
        window="hamming" if framework == "wespeaker" else "povey",
        scale=1.0 if said.get("normalize_samples", "0" if framework == "wespeaker" else "1") == "1" else 32768.0,
        centred=said.get("feature_normalize_type", "global-mean") == "global-mean",
    )


def _threshold(file: Path) -> float:
    if not file.is_file():
        return THRESHOLD
    try:
        value = json.loads(file.read_text(encoding="utf-8"))["threshold"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"'{file}' is damaged: write {{\"threshold\": {THRESHOLD}}}.") from error
    if not isinstance(value, int | float) or not 0 < value < 2:
        raise ModelError(f"The threshold in '{file}' is {value}: write a number between 0 and 2.")
    return float(value)


def _metadata(session: Any) -> dict[str, str]:
    return dict(session.get_modelmeta().custom_metadata_map)
