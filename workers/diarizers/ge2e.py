"""The default diarizer: GE2E voice embeddings (Resemble AI's weights) on onnxruntime, without torch or a network.

A window of 160 frames, 1.6 s, gives the embedding of the one voice that is taken to speak in it; there is no
overlap of speakers here. Everything about a window is computed from its own samples in arrays of a fixed
shape, at a place in them that follows from its number on the grid: no division of the recording can
change a bit of it, whatever a library does with other shapes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from workers.diarizers import Clustered, DiarizerSpec, Pcm, Windows
from workers.diarizers.clustering import cluster_voices
from workers.errors import EngineError, ModelError, OptionError
from workers.media import as_float
from workers.messages import SpeakerHints
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.voice import speech_regions

# The front end the weights were trained with (Resemblyzer, hparams.py): 25 ms frames every 10 ms, 40 mel bands.
FFT = 400
HOP = 160
MELS = 40
FRAMES = 160  # in a window, as in training
WINDOW = (FRAMES - 1) * HOP + FFT  # 25 840 samples, 1.615 s
# 0.4 s from window to window. On mixtures 0.5 s finds the speakers as well (DER 3.1 % with either) at four fifths of
# the cost, but in real talk turns are shorter: on the one conversation at hand, the 30 s sample that comes with
# pyannote.audio, DER without a collar is 14.5 % with 0.32 and 0.4 s, and about 20 % with 0.5 and 0.8 s.
BLOCK_FRAMES = 40
STEP = BLOCK_FRAMES * HOP  # 6 400 samples, 0.4 s
BLOCK = (BLOCK_FRAMES - 1) * HOP + FFT  # samples that the frames of a block reach over
BLOCKS = FRAMES // BLOCK_FRAMES  # in a window
DIMENSION = 256
BATCH = 16  # windows; no slower a window than 64 (4.6 against 5.1 ms), and silence is skipped in finer pieces

# The weights hear mel power, not its logarithm: a voice that is twice as loud would be another one. They were trained
# on files brought to -30 dBFS, pauses included. Each window is brought to LEVEL_DB as a whole: from -30 to -20 no
# window that one of flite's voices fills is nearer to another's mean, and six voices with espeak's are furthest apart
# at -27 (by 0.233 of cosine; 0.229 at -30, 0.217 at -20). Levelling by the louder frames alone parts them less.
LEVEL_DB = -27.0  # dBFS
SILENT_DB = -60.0  # dBFS; a window that is softer has no voice in it

Mel = NDArray[np.float64]  # shape (frames, MELS), power
Level = NDArray[np.float64]  # shape (frames,), mean square, 1 at full scale


class Ge2e:
    """Implements Diarizer. Raises ModelError where the model in the package cannot be loaded."""

    # Clips of 3 and 8 s against half a minute of another recording, on flite's four recorded voices and twelve of
    # espeak-ng: the same voice 0.87 and more, 0.80 where one of the two is 10 dB noisier; another one at most 0.76.
    # Where one has 15 dB less between voice and noise, the same voice comes down to 0.68: no name, not a wrong one.
    # (espeak-ng's variants are one synthesiser: among themselves they reach 0.98, and no threshold parts them.)
    same_person = 0.78
    needs_speech = True

    def __init__(self) -> None:
        import onnxruntime

        model = files("workers.diarizers").joinpath("ge2e_model", "ge2e.onnx").read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the order of sums must not hang on the cores
        options.log_severity_level = 4  # what it has to say is raised as well
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise ModelError(f"The voice model is damaged, install whisperfleet again: {error}") from error
        self._sha256 = hashlib.sha256(model).hexdigest()

    @cached_property
    def spec(self) -> DiarizerSpec:
        return DiarizerSpec(
            name="ge2e",
            version=1,
            model_sha256=self._sha256,
            window=WINDOW,
            step=STEP,
            frames=0,
            local_speakers=1,
            dimension=DIMENSION,
        )

    def hear(self, audio: Pcm, windows: range, wanted: Callable[[], None]) -> Windows:
        embedding = np.full((len(windows), 1, DIMENSION), np.nan, np.float32)
        for numbers, mel, level in _batches(audio, windows):
            wanted()
            own = range(max(numbers.start, windows.start), min(numbers.stop, windows.stop))
            here, there = _slice(own, windows.start), _slice(own, numbers.start)
            power = np.mean(level, axis=1)
            voiced = power >= 10 ** (SILENT_DB / 10)
            if voiced[there].any():
                gain = 10 ** (LEVEL_DB / 10) / np.where(voiced, power, 1)
                found = self._embeddings(mel * gain[:, None, None])
                embedding[here, 0] = np.where(voiced[:, None], found, np.nan)[there]
        return Windows(
            spec_hash=self.spec.hash,
            index=np.arange(windows.start, windows.stop, dtype=np.int32),
            activity=np.zeros((len(windows), 0, 1), np.bool_),
            embedding=embedding,
        )

    def cluster(
        self,
        windows: Windows,
        speech: Sequence[Span] | None,
        duration_ms: int,
        hints: SpeakerHints,
        wanted: Callable[[], None],
    ) -> Clustered:
        return cluster_voices(windows, speech or (), duration_ms, hints, self.spec, wanted)

    def embed(self, audio: Pcm) -> NDArray[np.float32]:
        said = _said(audio)
        starts = range(0, len(audio) - WINDOW + 1, STEP)
        telling = [number for number, start in enumerate(starts) if said[start : start + WINDOW].mean() >= 0.8]
        if telling:
            heard = self.hear(audio, range(len(starts)), _go_on).embedding[telling, 0]
        elif said.any():
            # all that is said, again and again: silence up to the end would be most of what the model remembers
            heard = self.hear(np.resize(audio[said], WINDOW), range(1), _go_on).embedding[:, 0]
        else:
            heard = np.zeros((0, DIMENSION), np.float32)
        heard = heard[np.isfinite(heard).all(axis=1)]
        if not len(heard):
            raise OptionError("Nobody speaks in the clip: give some seconds in which only that person speaks.")
        mean = heard.mean(axis=0, dtype=np.float64)
        return np.asarray(mean / np.linalg.norm(mean), np.float32)

    def _embeddings(self, mel: NDArray[np.float64]) -> NDArray[np.float32]:
        """(BATCH, DIMENSION), each row of length 1, of mel spectra of the shape (BATCH, FRAMES, MELS)."""
        try:
            (found,) = self._session.run(None, {"mels": mel.astype(np.float32)})
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise EngineError(f"The voice model failed: {error}") from error
        return np.asarray(found, np.float32)


# ---- from samples to batches of windows ----


def _batches(audio: Pcm, windows: range) -> Iterator[tuple[range, NDArray[np.float64], NDArray[np.float64]]]:
    """The batches of the grid that hold some of `windows`: their numbers, mel spectra and levels.

    Shapes (BATCH, FRAMES, MELS) and (BATCH, FRAMES). Batch j has windows j * BATCH and on; those that are not
    wanted are left zero. Neighbours share their frames, so each block of frames is computed once, and the
    last ones go from batch to batch.
    """
    mels = np.zeros((BATCH + BLOCKS - 1, BLOCK_FRAMES, MELS))
    levels = np.zeros((BATCH + BLOCKS - 1, BLOCK_FRAMES))
    done = windows.start  # blocks before it are computed
    for begin in range(windows.start // BATCH * BATCH, windows.stop if len(windows) else 0, BATCH):
        mels[: BLOCKS - 1], mels[BLOCKS - 1 :] = mels[BATCH:].copy(), 0
        levels[: BLOCKS - 1], levels[BLOCKS - 1 :] = levels[BATCH:].copy(), 0
        end = min(begin + BATCH, windows.stop) + BLOCKS - 1
        for block in range(done, end):
            mels[block - begin], levels[block - begin] = _block(audio, (block - windows.start) * STEP)
        done = end
        yield range(begin, begin + BATCH), _as_windows(mels), _as_windows(levels)


def _as_windows(blocks: NDArray[np.float64]) -> NDArray[np.float64]:
    """(BATCH, FRAMES, …) from (BATCH + BLOCKS - 1, BLOCK_FRAMES, …): window k is the blocks k to k + BLOCKS - 1."""
    return np.concatenate([blocks[first : first + BATCH] for first in range(BLOCKS)], axis=1)


def _block(audio: Pcm, start: int) -> tuple[Mel, Level]:
    """Mel power and level of the BLOCK_FRAMES frames from sample `start` on; zeros follow the end of `audio`.

    In double precision, which costs the same here: single would leave more to the processor's order of sums.
    """
    samples = np.zeros(BLOCK)
    heard = audio[start : start + BLOCK]
    samples[: len(heard)] = heard / 32768
    frames = np.lib.stride_tricks.sliding_window_view(samples, FFT)[::HOP]
    spectrum = np.fft.rfft(frames * HANN)
    return (spectrum.real**2 + spectrum.imag**2) @ FILTERS, np.mean(frames**2, axis=1)


def _slice(numbers: range, origin: int) -> slice:
    return slice(numbers.start - origin, numbers.stop - origin)


# ---- mel filters ----


def _mel_filters() -> NDArray[np.float64]:
    """(FFT // 2 + 1, MELS): Slaney's triangles of equal area (Auditory Toolbox), 0 to 8 kHz, as librosa's default.

    His mel scale is linear below 1 kHz (3 mels for 200 Hz) and logarithmic above (27 mels for a factor of 6.4).
    """
    top = 15 + np.log(SAMPLE_RATE / 2 / 1000) / (np.log(6.4) / 27)
    mels = np.linspace(0, top, MELS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1)[:, None]
    rising, falling = (bins - lower) / (centre - lower), (upper - bins) / (upper - centre)
    return np.asarray(np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower), np.float64)


HANN = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT) / FFT)  # periodic
FILTERS = _mel_filters()


# ---- reference clips ----


def _said(audio: Pcm) -> NDArray[np.bool_]:
    """Of each sample, whether somebody speaks."""
    said = np.zeros(len(audio), np.bool_)
    for region in speech_regions(as_float(audio)):
        said[region.start_ms * SAMPLES_PER_MS : region.end_ms * SAMPLES_PER_MS] = True
    return said


def _go_on() -> None:
    """A clip is short: nothing stops its hearing."""
