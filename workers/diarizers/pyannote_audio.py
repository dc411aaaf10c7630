"""pyannote.audio's pipelines, cut in two: what a window has, and whose voices they are. Extra `pyannote`.

Takes pipelines of the kind SpeakerDiarization of pyannote.audio 4: community-1 (VBx clustering), 3.1 (agglomerative),
and those that are laid out like them. Models and clustering are pyannote.audio's own; a window goes through the
embedding model once for all of its voices and not once for each, which gives the same in a third of the time; its
votes are counted by `reconstruction`, which says where it differs. Of overlapping voices each has a turn.
"""

import hashlib
import logging
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Clustered, DiarizerSpec, Pcm, Windows
from workers.diarizers.failures import engine_failure
from workers.diarizers.grid import count_windows
from workers.diarizers.pyannote_config import read_config
from workers.diarizers.reconstruction import NOBODY, FrameGrid
from workers.diarizers.voices import bounds, by_vote, mean_voice, nearest_apart, renumbered, to_cluster, voice_of_clip
from workers.errors import ModelElsewhere, ModelError, OptionError, WhisperfleetError, one_line
from workers.messages import SpeakerHints
from workers.settings import refuse_telemetry
from workers.spans import SAMPLE_RATE, Span

log = logging.getLogger(__name__)

HUB_SECONDS = 5  # to answer at all, before the hub counts as out of reach
GPU_BATCH = 30  # windows; the default chunk of 300 s has 300 of them, ten full batches
CPU_BATCH = 1  # on a processor more at once are no faster, and a silent window is skipped alone
MOST_CLUSTERED = 12_000
"""Voices that are clustered; of more, those of every second, third, … window, and the others join the nearest.
Linkage takes their square: 1.2 GB and 12 s for these, about two and a half hours of talk."""
SAME_PERSON = 0.75
"""Cosine, where the pipeline does not say: the threshold that pyannote's 3.1 pipeline was tuned to for the embedding
that community-1 has too, 0.7046 between unit vectors. VBx's own 0.6 is for a start with far too many clusters."""
_LOUD = (
    "pyannote",
    "lightning",
    "pytorch_lightning",
    "torch",
    "asteroid",
    "huggingface_hub",
    "numpy",
    "scipy",
    "sklearn",
)
"""Libraries whose warnings are for their developers: their failures are raised as well."""
_WEIGHTS = ["*.yaml", "*.bin", "*.npz"]


class PyannoteAudio:
    """Implements Diarizer with a pipeline from a folder, or from the hub by its name.

    The hub's token comes from where huggingface_hub looks for it (HF_TOKEN). Raises ModelElsewhere where the
    pipeline is not here, ModelError where it is none, OptionError where there is no such device.
    """

    needs_speech = False

    def __init__(self, model: str, device: str, threads: int) -> None:
        refuse_telemetry()
        _hush()
        self.model = model
        try:
            import pyannote.audio.pipelines  # noqa: F401 - so that it fails here
            import torch
        except (ImportError, RuntimeError, OSError) as error:  # a torchaudio built for another torch: RuntimeError
            raise ModelElsewhere(f"pyannote.audio cannot be loaded: {one_line(error)}.") from error
        self._torch = torch
        if threads:
            torch.set_num_threads(threads)
        self._device = _device(torch, device)
        # TF32 keeps 10 bits of the mantissa, and the answer would depend on the GPU's age
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = False  # it would choose other kernels from run to run
        self._pipeline = _load(model)
        self._prepare()

    def _prepare(self) -> None:
        torch, pipeline = self._torch, self._pipeline
        self._segmentation = pipeline._segmentation
        self._batch = GPU_BATCH if self._device == "cuda" else CPU_BATCH
        pipeline.segmentation_batch_size = pipeline.embedding_batch_size = self._batch
        pipeline.to(torch.device(self._device))
        model = self._segmentation.model
        if model.audio.sample_rate != SAMPLE_RATE or pipeline._embedding.sample_rate != SAMPLE_RATE:
            raise ModelError(f"'{self.model}' hears another sample rate than {SAMPLE_RATE} Hz: take another pipeline.")
        self._powerset = bool(model.specifications.powerset)
        field = model.receptive_field
        self._grid = FrameGrid(
            size=round(field.duration * SAMPLE_RATE),
            step=round(field.step * SAMPLE_RATE),
            window=self.spec.window,
            window_step=self.spec.step,
        )

    @cached_property
    def spec(self) -> DiarizerSpec:
        model, embedding = self._segmentation.model, self._pipeline._embedding
        window = model.audio.get_num_samples(self._segmentation.duration)
        return DiarizerSpec(
            name="pyannote",
            version=1,
            model_sha256=self._fingerprint(),
            window=window,
            step=round(self._segmentation.step * SAMPLE_RATE),
            frames=model.num_frames(window),
            local_speakers=len(model.specifications.classes),
            dimension=embedding.dimension,
        )

    def _fingerprint(self) -> str:
        """Of all that decides what a window has: the weights as they were loaded, and two options."""
        options = (self._pipeline.embedding_exclude_overlap, getattr(self._pipeline.segmentation, "threshold", None))
        digest = hashlib.sha256(repr(options).encode())
        for model in (self._segmentation.model, self._pipeline._embedding.model_):
            for name, tensor in sorted(model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def same_person(self) -> float:
        """The cosine between unit vectors that are as far apart as the agglomerative clustering's threshold."""
        clustering = self._pipeline.clustering
        if self._pipeline.klustering == "AgglomerativeClustering" and clustering.method == "centroid":
            return float(1 - clustering.threshold**2 / 2)
        return SAME_PERSON

    # ---- windows ----

    def hear(self, audio: Pcm, windows: range, wanted: Callable[[], None]) -> Windows:
        spec = self.spec
        activity = np.zeros((len(windows), spec.frames, spec.local_speakers), np.bool_)
        embedding = np.full((len(windows), spec.local_speakers, spec.dimension), np.nan, np.float32)
        # Batches are full and lie on the grid, so that a window meets the same kernels at the same place in them
        # whichever chunk it is in.
        for begin in range(windows.start // self._batch * self._batch, windows.stop, self._batch):
            wanted()
            own = range(max(begin, windows.start), min(begin + self._batch, windows.stop))
            samples = _cut(audio, (begin - windows.start) * spec.step, (self._batch - 1) * spec.step + spec.window)
            active, voices = self._guarded(samples)
            here = slice(own.start - windows.start, own.stop - windows.start)
            there = slice(own.start - begin, own.stop - begin)
            activity[here], embedding[here] = active[there], voices[there]
        return Windows(spec.hash, np.arange(windows.start, windows.stop, dtype=np.int32), activity, embedding)

    def _guarded(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        try:
            return self._hear_batch(samples)
        except WhisperfleetError:
            raise
        except Exception as error:  # whatever torch throws is this chunk's failure, not the worker's
            raise engine_failure(error, "pyannote.audio failed on this chunk") from error

    def _hear_batch(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        from pyannote.audio.utils.signal import binarize

        pipeline = self._pipeline
        file = {"waveform": self._torch.from_numpy(samples)[None], "sample_rate": SAMPLE_RATE, "uri": "chunk"}
        heard = pipeline.get_segmentations(file)
        if not self._powerset:
            heard = binarize(heard, onset=pipeline.segmentation.threshold, initial_state=False)
        active = heard.data > 0.5
        if not active.any():
            shape = (len(active), self.spec.local_speakers, self.spec.dimension)
            return active, np.full(shape, np.nan, np.float32)
        return active, np.where(active.any(axis=1)[:, :, None], self._embed(samples, active), np.float32(np.nan))

    def _embed(self, samples: NDArray[np.float32], active: NDArray[np.bool_]) -> NDArray[np.float32]:
        """What get_embeddings returns, (windows, local speakers, dimension), with one pass of the model a window.

        A voice's mask comes into play in the model's last layers only, so all masks of a window share the first.
        """
        torch, model = self._torch, self._pipeline._embedding.model_
        masks = active
        if self._pipeline.embedding_exclude_overlap:
            clean = active & (active.sum(axis=2, keepdims=True) < 2)
            masks = np.where(clean.sum(axis=1, keepdims=True) > self._least_frames, clean, active)
        heard = np.lib.stride_tricks.sliding_window_view(samples, self.spec.window)[:: self.spec.step]
        waveforms = torch.from_numpy(heard.copy())[:, None].to(self._device)
        weights = torch.from_numpy(np.ascontiguousarray(masks.transpose(0, 2, 1), np.float32)).to(self._device)
        with torch.inference_mode():
            return np.asarray(model(waveforms, weights=weights).cpu().numpy(), np.float32)

    @cached_property
    def _least_frames(self) -> int:
        """Frames below which an embedding cannot be made of a voice's clean frames alone."""
        return math.ceil(self.spec.frames * int(self._pipeline._embedding.min_num_samples) / self.spec.window)

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
            return Clustered((), (), np.zeros((0, self.spec.dimension), np.float32))
        wanted()
        told, stride = to_cluster(windows, MOST_CLUSTERED)
        clustered = int(told.sum())
        labels, centroids = renumbered(*self._people(windows, stride, *bounds(hints, clustered)))
        wanted()
        return by_vote(
            windows,
            labels,
            centroids,
            self._grid,
            duration_ms,
            hints,
            1000 * float(self._pipeline.segmentation.min_duration_off),
            clustering=str(self._pipeline.klustering),
            voices_clustered=clustered,
        )

    def _people(
        self, windows: Windows, stride: int, low: int, high: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The cluster of each voice, (windows, local speakers), and the clusters' centroids."""
        from pyannote.core import SlidingWindow, SlidingWindowFeature

        spec, clustering = self.spec, self._pipeline.clustering
        grid = SlidingWindow(start=0.0, duration=spec.window / SAMPLE_RATE, step=spec.step / SAMPLE_RATE)
        some = slice(None, None, stride)
        absent = windows.activity.sum(axis=1) == 0
        embedding = np.where(absent[:, :, None], np.float32(1), windows.embedding)  # VBx takes the least of all cosines
        try:
            hard, _, centroids = clustering(
                embeddings=embedding[some],
                segmentations=SlidingWindowFeature(windows.activity[some].astype(np.float32), grid),
                num_clusters=low if low == high else None,
                min_clusters=low,
                max_clusters=high,
            )
        except Exception as error:  # numpy, scipy and scikit-learn each raise their own
            raise engine_failure(error, "pyannote.audio could not tell the voices apart") from error
        means = np.asarray(centroids, np.float32)
        whole = np.isfinite(means).all(axis=1)
        if not whole.any():  # not one voice was alone for long enough: one person, as far as one can tell
            return np.where(absent, NOBODY, 0), mean_voice(windows)
        if stride > 1 or not whole.all():  # k-means leaves clusters empty where voices are equal
            return nearest_apart(windows, means[whole]), means[whole]
        return np.where(absent, NOBODY, hard), means

    # ---- a reference clip ----

    def embed(self, audio: Pcm) -> NDArray[np.float32]:
        heard = self.hear(audio, range(count_windows(len(audio), self.spec)), lambda: None)
        return voice_of_clip(heard)


# ---- loading ----


def _load(model: str) -> Any:
    """The pipeline, whose parts may come from the hub too.

    Raises ModelError, or ModelElsewhere where the hub has to be asked and does not give it: another machine may have
    it in its cache, or a token.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        folder = Path(model).expanduser()
        own = folder.exists()
        return _pipeline_of(folder if own else _from_hub(model), own)
    except WhisperfleetError:
        raise
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise ModelElsewhere(
            f"The Hugging Face hub does not give out what '{model}' needs: accept its conditions there and put "
            f"your token into HF_TOKEN, or give a folder ({one_line(error)})."
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, ConnectionError) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else one_line(error)
        raise ModelElsewhere(
            f"The pipeline '{model}' is not whole on this machine and the Hugging Face hub is out of reach: give a "
            f"folder with config.yaml and all the models that it names ({why})."
        ) from error
    except Exception as error:  # yaml, zip, pickle, torch and lightning each raise their own
        raise ModelError(f"The pipeline '{model}' cannot be loaded: {one_line(error)}.") from error


def _from_hub(model: str) -> Path:
    """The folder in the hub's cache, downloaded where it is not there as a whole."""
    import httpx
    from huggingface_hub import constants, snapshot_download

    try:
        cached = Path(snapshot_download(model, allow_patterns=_WEIGHTS, local_files_only=True))
        read_config(cached, own=False)
        return cached
    except (OSError, ModelError) as error:
        log.info("The pipeline %s has to be fetched: %s", model, error, extra={"action": "pipeline_fetch"})
    if not constants.HF_HUB_OFFLINE:  # the hub's client tries a silent hub for minutes
        try:
            httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS)
        except httpx.HTTPError as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
    return Path(snapshot_download(model, allow_patterns=_WEIGHTS, etag_timeout=HUB_SECONDS))


def _pipeline_of(folder: Path, own: bool) -> Any:
    """What Pipeline.from_pretrained makes of the folder, but for a PLDA that nothing would use.

    pyannote.audio 4 loads one for every pipeline, by default from the hub; those with agglomerative clustering name
    none, and would need a network and a token for it.
    """
    from pyannote.audio import Pipeline
    from pyannote.audio.core.pipeline import expand_subfolders
    from pyannote.audio.core.plda import PLDA

    config = read_config(folder, own)
    parameters = config["pipeline"]["params"]
    expand_subfolders(config, str(folder))
    if isinstance(parameters.get("embedding"), str):  # by some names it would choose the loader of another library
        parameters["embedding"] = {"checkpoint": parameters["embedding"], "strict": False}
    if parameters.get("clustering") == "AgglomerativeClustering" and "plda" not in parameters:
        parameters["plda"] = PLDA.__new__(PLDA)
    return Pipeline.from_pretrained(config)


def _device(torch: Any, device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("There is no GPU that torch can use here: take --device cpu.")
    return device


def _hush() -> None:
    """Once for the process, as this is nothing that a thread could have for itself."""
    warnings.filterwarnings("ignore", module="|".join(_LOUD))
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


# ---- small steps ----


def _cut(audio: Pcm, first: int, length: int) -> NDArray[np.float32]:
    """Samples [first, first + length) of audio from -1 to 1, with zeros for those that it does not have."""
    samples = np.zeros(length, np.float32)
    inside = audio[max(0, first) : max(0, first + length)]
    at = max(0, -first)
    samples[at : at + len(inside)] = inside.astype(np.float32) / 32768
    return samples
