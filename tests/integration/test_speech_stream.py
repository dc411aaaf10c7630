"""The streaming speech map against the function of faster-whisper that wants the whole recording at once."""

import tracemalloc
from importlib.resources import files

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from workers.media import as_float
from workers.spans import SAMPLE_RATE, SAMPLES_PER_MS, Span
from workers.voice import RUN, STEP, SpeechStream, speech_regions

pytestmark = pytest.mark.integration

Pcm = NDArray[np.int16]


@pytest.fixture(scope="module")
def talk() -> Pcm:
    """70 s of two speakers, the demo of the package."""
    with files("workers.demo").joinpath("demo.flac").open("rb") as file:
        samples, rate = soundfile.read(file, dtype="int16")
    assert rate == SAMPLE_RATE
    return np.asarray(samples, np.int16)


def streamed(audio: Pcm, cuts: list[int]) -> list[Span]:
    stream = SpeechStream()
    for block in np.split(audio, sorted(cuts)):
        stream.feed(block)
    return stream.finish()


def whole(audio: Pcm) -> list[Span]:
    return speech_regions(as_float(audio))


def test_a_stream_finds_what_the_whole_recording_gives(talk: Pcm) -> None:
    regions = streamed(talk, list(range(0, len(talk), 7 * SAMPLE_RATE)))
    assert regions == whole(talk)
    assert len(regions) >= 20


@given(cuts=st.lists(st.integers(0, 70 * SAMPLE_RATE), max_size=12))
@settings(max_examples=15, deadline=None)
def test_no_division_into_blocks_changes_a_region(talk: Pcm, cuts: list[int]) -> None:
    assert streamed(talk, [min(cut, len(talk)) for cut in cuts]) == streamed(talk, [])


@given(samples=st.integers(0, 12 * SAMPLE_RATE))
@settings(max_examples=15, deadline=None)
def test_a_recording_may_end_anywhere(talk: Pcm, samples: int) -> None:
    assert streamed(talk[:samples], [samples // 3]) == whole(talk[:samples])


@pytest.mark.parametrize("samples", [1, STEP - 1, STEP, STEP + 1, RUN - 64 - 1, RUN - 64, RUN - 64 + 1])
def test_at_the_edges_of_steps_and_runs(talk: Pcm, samples: int) -> None:
    assert streamed(talk[8000 : 8000 + samples], []) == whole(talk[8000 : 8000 + samples])


def test_nothing_and_silence_hold_no_speech() -> None:
    assert streamed(np.zeros(0, np.int16), []) == []
    assert streamed(np.zeros(20 * SAMPLE_RATE, np.int16), [5]) == []


def test_memory_does_not_grow_with_the_recording(talk: Pcm) -> None:
    def most(times: int) -> int:
        stream = SpeechStream()
        stream.feed(talk)
        tracemalloc.start()
        for _ in range(times):
            stream.feed(talk)
        stream.finish()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert most(times=8) < most(times=1) + 1_000_000  # the regions; eight minutes of sound are 16 MB


def test_runs_that_begin_where_blocks_do_would_change_the_map(talk: Pcm) -> None:
    """Negative control: what a chunk's own pass over its own sound gives differs around the cuts."""
    cut = 33 * SAMPLE_RATE + 77
    second = [region.shifted(cut // SAMPLES_PER_MS) for region in whole(talk[cut:])]
    assert whole(talk[:cut]) + second != whole(talk)
