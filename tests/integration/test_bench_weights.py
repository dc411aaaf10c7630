"""A written model has the size of the published one, and says its script of whatever it hears, through every engine."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import weights
from workers.errors import OptionError, StorageError
from workers.messages import RecognizeOptions
from workers.models import check_name, demo_folder
from workers.recognizers import DecodeSettings, Recognition
from workers.recognizers.loading import load
from workers.recognizers.windows import plan_windows
from workers.spans import SAMPLE_RATE, Span
from workers.suspicion import suspect

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SECONDS = 70
SPEECH = [Span.of(0, 25_000), Span.of(26_000, 50_000), Span.of(51_000, SECONDS * 1000)]
PUBLISHED_BYTES = 75_500_000  # of tiny's weights in float16, as `whisperfleet models list` has them


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    weights.write("tiny", folder)
    return folder


def hear(engine: str, model: Path, speech: list[Span], one_by_one: bool = False) -> Recognition:
    noise = np.random.default_rng(2).normal(0, 0.1, SECONDS * SAMPLE_RATE).astype(np.float32)
    options = RecognizeOptions(engine=engine, model=str(model), language="en", word_timestamps=False, beam_size=2)
    settings = DecodeSettings(one_by_one=one_by_one)
    return load(engine, str(model), "cpu", threads=2).recognize(
        noise, speech, options, settings, lambda: None, lambda share: None
    )


def said() -> str:
    tokens = json.loads((demo_folder() / "vocabulary.json").read_text("utf-8"))
    texts = [tokens[number] for number in weights.script(tokens)]
    return "".join(text.replace("Ġ", " ") for text in texts if not text.startswith("<|")).strip()


def test_the_weights_are_as_large_as_the_published_ones(tiny: Path) -> None:
    assert (tiny / "model.bin").stat().st_size == pytest.approx(PUBLISHED_BYTES, rel=0.01), "none is kept once for two"
    check_name(str(tiny), "faster-whisper")


@pytest.mark.parametrize("one_by_one", [False, True])
def test_every_window_says_the_script(tiny: Path, one_by_one: bool) -> None:
    found = hear("faster-whisper", tiny, SPEECH, one_by_one)
    # in no order: where a window ends early, the last sentences lie in the next one
    assert Counter(words_of(found)) == Counter(3 * said().split()), "70 s are three windows, planned or moved along"
    assert not suspect(found.segments, SPEECH, SECONDS * 1000).reasons, "nothing is heard again"


@pytest.mark.filterwarnings("ignore")  # of openai-whisper, which leaves its tokenizer's file open
def test_openai_whisper_says_it_too(tiny: Path) -> None:
    pytest.importorskip("whisper")
    assert words_of(hear("openai-whisper", tiny / weights.OPENAI, SPEECH[:1])) == said().split()


def words_of(found: Recognition) -> list[str]:
    return [word for segment in found.segments for word in segment.text.split()]


def test_the_windows_of_the_test_are_three() -> None:
    assert len(plan_windows(np.zeros(SECONDS * SAMPLE_RATE, np.float32), SPEECH)) == 3


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="take one of tiny, base"):
        weights.write("enormous", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be written to .*file/tiny .*: name another one"):
        weights.write("tiny", tmp_path / "file" / "tiny")
