"""The voice encoder: its front end against a second implementation, and that nothing but a window's samples counts."""

import itertools
import random
from importlib.resources import files

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.signal import stft

from workers.diarizers import Pcm, Windows
from workers.diarizers import ge2e as module
from workers.diarizers.ge2e import BATCH, DIMENSION, FFT, FRAMES, HOP, MELS, STEP, WINDOW, Ge2e
from workers.diarizers.grid import count_windows, reach
from workers.diarizers.packing import joined, pack, unpack
from workers.errors import ModelError, OptionError, WorkAborted
from workers.spans import SAMPLE_RATE

SECONDS = 13  # 30 windows, two batches


@pytest.fixture(scope="module")
def diarizer() -> Ge2e:
    return Ge2e()


@pytest.fixture(scope="module")
def talk() -> Pcm:
    """A stretch of the demo with two voices in it; its end is in the middle of a step."""
    with files("workers.demo").joinpath("demo.flac").open("rb") as file:
        samples, _ = soundfile.read(file, dtype="int16")
    return np.asarray(samples[: SECONDS * SAMPLE_RATE - 1234], np.int16)


@pytest.fixture(scope="module")
def undivided(diarizer: Ge2e, talk: Pcm) -> Windows:
    return diarizer.hear(talk, range(count_windows(len(talk), diarizer.spec)), go_on)


def go_on() -> None:
    pass


def hear_part(diarizer: Ge2e, talk: Pcm, windows: range) -> Windows:
    """As a chunk's task does it: from the samples of its windows and no others."""
    start, end = reach(windows.start, windows.stop, diarizer.spec) if len(windows) else (0, 0)
    return diarizer.hear(talk[start:end], windows, go_on)


# ---- the front end ----


def hertz(mel: float) -> float:
    """Slaney's scale by its definition: 200/3 Hz a mel up to 1 kHz, then 27 mels for a factor of 6.4."""
    return float(mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27))


def slaney_filters() -> NDArray[np.float64]:
    top = brentq(lambda mel: hertz(mel) - SAMPLE_RATE / 2, 20, 60, xtol=1e-12)
    edges = [hertz(top * number / (MELS + 1)) for number in range(MELS + 2)]
    filters = np.zeros((MELS, FFT // 2 + 1))
    for band, (low, middle, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for line in range(FFT // 2 + 1):
            at = line * SAMPLE_RATE / FFT
            if low < at <= middle:
                filters[band, line] = (at - low) / (middle - low)
            elif middle < at < high:
                filters[band, line] = (high - at) / (high - middle)
        filters[band] *= 2 / (high - low)
    return filters


def test_mel_spectra_are_those_of_a_second_implementation(talk: Pcm) -> None:
    start = 7 * STEP
    window = talk[start : start + WINDOW] / 32768
    _, _, spectrum = stft(window, SAMPLE_RATE, "hann", FFT, FFT - HOP, boundary=None, padded=False)
    spectrum *= FFT / 2  # scipy divides by the sum of the window
    expected = np.abs(spectrum.T) ** 2 @ slaney_filters().T
    found = np.concatenate([module._block(talk, start + block * STEP)[0] for block in range(FRAMES * HOP // STEP)])
    assert expected.shape == found.shape == (FRAMES, MELS)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_blocks_of_frames_tile_the_window() -> None:
    assert WINDOW == 25_840
    assert STEP == 6_400
    blocks = np.arange(BATCH + 3)[:, None] * np.ones((1, 40))
    assert module._as_windows(blocks)[5].tolist() == sorted([5, 6, 7, 8] * 40)


# ---- what a window depends on ----


@given(cuts=st.lists(st.integers(0, 30), max_size=5), order=st.randoms())
@settings(max_examples=8, deadline=None)
def test_no_division_changes_a_bit(
    diarizer: Ge2e, talk: Pcm, undivided: Windows, cuts: list[int], order: random.Random
) -> None:
    count = len(undivided.index)
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    parts = [hear_part(diarizer, talk, range(first, stop)) for first, stop in itertools.pairwise(edges)]
    order.shuffle(parts)
    assert pack(joined(parts)) == pack(undivided)


def test_a_window_alone_is_what_it_is_among_others(diarizer: Ge2e, talk: Pcm, undivided: Windows) -> None:
    for window in (0, BATCH - 1, BATCH, len(undivided.index) - 1):
        alone = hear_part(diarizer, talk, range(window, window + 1))
        assert alone.embedding.tobytes() == undivided.embedding[window : window + 1].tobytes()


def test_sound_around_a_window_changes_nothing(diarizer: Ge2e, talk: Pcm, undivided: Windows) -> None:
    loud = talk.copy()
    loud[: 10 * STEP] = 30_000
    loud[10 * STEP + WINDOW :] = -30_000
    found = diarizer.hear(loud, range(len(undivided.index)), go_on)
    assert found.embedding[10].tobytes() == undivided.embedding[10].tobytes()
    assert found.embedding[9].tobytes() != undivided.embedding[9].tobytes()


def test_what_a_grid_of_its_own_would_change(diarizer: Ge2e, talk: Pcm, undivided: Windows) -> None:
    """Negative control: windows that begin with the chunk, one sample off the grid, are other windows."""
    moved = diarizer.hear(talk[10 * STEP + 1 :], range(10, 11), go_on)
    assert moved.embedding.tobytes() != undivided.embedding[10:11].tobytes()


# ---- what comes out ----


def test_windows_have_the_shape_that_the_spec_tells(diarizer: Ge2e, undivided: Windows) -> None:
    count = len(undivided.index)
    assert undivided.spec_hash == diarizer.spec.hash
    assert undivided.index.tolist() == list(range(count))
    assert undivided.activity.shape == (count, diarizer.spec.frames, diarizer.spec.local_speakers) == (count, 0, 1)
    assert undivided.embedding.shape == (count, 1, DIMENSION)
    assert undivided.embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(undivided.embedding, axis=2), 1, atol=1e-6)
    again = unpack(pack(undivided))
    assert again.activity.shape == undivided.activity.shape
    assert again.embedding.tobytes() == undivided.embedding.tobytes()


def test_no_windows_are_empty_arrays(diarizer: Ge2e) -> None:
    nothing = diarizer.hear(np.zeros(0, np.int16), range(37, 37), go_on)
    assert (len(nothing.index), nothing.activity.shape, nothing.embedding.shape) == (0, (0, 0, 1), (0, 1, DIMENSION))


def test_a_recording_that_ends_in_a_window_is_followed_by_zeros(diarizer: Ge2e, talk: Pcm) -> None:
    short = talk[: WINDOW + STEP // 3]
    filled = np.concatenate([short, np.zeros(2 * WINDOW, np.int16)])
    assert diarizer.hear(short, range(2), go_on).embedding.tobytes() == (
        diarizer.hear(filled, range(2), go_on).embedding.tobytes()
    )
    assert np.isnan(diarizer.hear(short, range(8), go_on).embedding[-1]).all()


def test_silence_has_no_voice_and_costs_no_inference(
    diarizer: Ge2e, talk: Pcm, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    embeddings = diarizer._embeddings

    def counted(mel: NDArray[np.float64]) -> NDArray[np.float32]:
        runs.append(len(mel))
        return embeddings(mel)

    monkeypatch.setattr(diarizer, "_embeddings", counted)
    hiss = np.random.default_rng(1).integers(-20, 20, 40 * STEP + WINDOW, np.int16)  # -69 dBFS
    assert np.isnan(diarizer.hear(hiss, range(41), go_on).embedding).all()
    assert runs == []
    hiss[: 2 * STEP] = talk[SAMPLE_RATE : SAMPLE_RATE + 2 * STEP]
    found = diarizer.hear(hiss, range(41), go_on).embedding[:, 0]
    assert np.isfinite(found[:2]).all()
    assert np.isnan(found[2:]).all()
    assert runs == [BATCH]


@pytest.mark.parametrize("gain_db", [-20, -6, 6])
def test_level_is_no_voice(diarizer: Ge2e, talk: Pcm, undivided: Windows, gain_db: int) -> None:
    quieter = np.asarray(np.round(np.clip(talk * 10 ** (gain_db / 20), -32768, 32767)), np.int16)
    found = diarizer.hear(quieter, range(len(undivided.index)), go_on)
    alike = np.sum(found.embedding[:, 0] * undivided.embedding[:, 0], axis=1)
    assert alike.min() > 0.99


def test_it_stops_when_nobody_wants_it(diarizer: Ge2e, talk: Pcm) -> None:
    asked = []

    def wanted() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise WorkAborted("enough")

    with pytest.raises(WorkAborted):
        diarizer.hear(talk, range(40), wanted)
    assert len(asked) == 2


def test_a_damaged_model_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaged:
        def joinpath(self, *_: str) -> "Damaged":
            return self

        def read_bytes(self) -> bytes:
            return b"not a model"

    monkeypatch.setattr(module, "files", lambda _: Damaged())
    with pytest.raises(ModelError, match="voice model is damaged"):
        Ge2e()


# ---- reference clips ----


def test_a_clip_has_one_voice_of_length_one(diarizer: Ge2e, talk: Pcm) -> None:
    voice = diarizer.embed(talk[: 8 * SAMPLE_RATE])
    assert voice.shape == (DIMENSION,)
    assert voice.dtype == np.float32
    assert abs(float(np.linalg.norm(voice)) - 1) < 1e-6


def test_a_clip_shorter_than_a_window_has_the_voice_of_a_longer_one(diarizer: Ge2e, talk: Pcm) -> None:
    longer = diarizer.embed(talk[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + 2 * SAMPLE_RATE])
    short = diarizer.embed(talk[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + SAMPLE_RATE])
    assert float(short @ longer) > diarizer.same_person


@pytest.mark.parametrize("samples", [0, 100, 5 * SAMPLE_RATE])
def test_a_clip_without_speech_is_refused(diarizer: Ge2e, samples: int) -> None:
    with pytest.raises(OptionError, match="Nobody speaks in the clip"):
        diarizer.embed(np.zeros(samples, np.int16))
