"""Kaldi's log mel filter bank, which speaker models were trained with, in numpy. Pure."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from workers.spans import SAMPLE_RATE

FRAME = 400  # samples, 25 ms
SHIFT = 160  # samples, 10 ms
BANDS = 80
_FFT = 512
_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
_FLOOR = float(np.finfo(np.float32).eps)  # of a band's power, before the logarithm


def fbank(samples: NDArray[np.float32], window: str) -> NDArray[np.float32]:
    """(frames, 80); frame i hears samples [160 i, 160 i + 400), and there are as many as fit.

    window: "hamming", or Kaldi's own "povey". No dither: the same samples give the same features.
    """
    if len(samples) < FRAME:
        return np.zeros((0, BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), FRAME)[::SHIFT]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    spectrum = np.abs(np.fft.rfft((frames - _PREEMPHASIS * before) * _window(window), _FFT)) ** 2
    return np.log(np.maximum(spectrum @ _bands(), _FLOOR)).astype(np.float32)


@cache
def _window(name: str) -> NDArray[np.float64]:
    return np.hamming(FRAME) if name == "hamming" else np.hanning(FRAME) ** 0.85


@cache
def _bands() -> NDArray[np.float64]:
    """(bins, bands): triangles of equal width on the mel scale, from 20 Hz to half the sample rate."""
    edges = np.linspace(_mel(_LOWEST_HZ), _mel(SAMPLE_RATE / 2), BANDS + 2)
    at = _mel(np.arange(_FFT // 2 + 1) * SAMPLE_RATE / _FFT)[:, None]
    width = edges[1] - edges[0]
    rising, falling = (at - edges[:-2]) / width, (edges[2:] - at) / width
    return np.asarray(np.maximum(0, np.minimum(rising, falling)), np.float64)


def _mel(hertz: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log(1 + np.asarray(hertz) / 700), np.float64)
