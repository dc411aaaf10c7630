"""Which models there are, said without loading any."""

from pathlib import Path

import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES
from faster_whisper.utils import available_models

from workers.errors import ModelError, OptionError
from workers.messages import RecognizeOptions
from workers.models import DEMO, catalogue, check_name, demo_folder, demo_recording, locate
from workers.recognizers.options import LANGUAGES, check_options


def test_the_catalogue_has_every_name_of_faster_whisper_and_the_demo() -> None:
    assert {info.name for info in catalogue()} == {*available_models(), DEMO}


def test_the_languages_are_those_of_the_library() -> None:
    assert set(LANGUAGES) == set(_LANGUAGE_CODES)


def test_the_demo_is_in_the_package() -> None:
    assert locate(DEMO, "faster-whisper") == demo_folder()
    assert demo_recording().is_file()


@pytest.mark.parametrize(
    ("model", "engine", "sentence"),
    [
        ("larg-v3", "faster-whisper", "did you mean large-v3"),
        ("zzzzzz", "faster-whisper", "take one of demo, tiny.en"),
        ("/no/such/folder", "faster-whisper", "no model folder '/no/such/folder'"),
        ("demo", "openai-whisper", "runs on faster-whisper only"),
        ("distil-large-v3", "openai-whisper", "no model named"),
        ("/no/such.pt", "openai-whisper", "no model of openai-whisper"),
    ],
)
def test_a_model_that_cannot_work_is_refused_in_a_sentence(model: str, engine: str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        check_name(model, engine)


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lacks model\.bin and config\.json"):
        check_name(str(tmp_path), "faster-whisper")


def test_a_model_without_a_hub_says_how_to_bring_it() -> None:
    with pytest.raises(ModelError, match="whisperfleet models fetch tiny") as raised:
        locate("tiny", "faster-whisper")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"language": "klingon"}, "no language 'klingon'"),
        ({"language": "english"}, "did you mean en"),
        ({"language": "de", "model": "small.en"}, "knows only English"),
        ({"language": "yue", "model": "large-v2"}, "Cantonese"),
        ({"task": "translate", "model": "turbo"}, "not trained to translate"),
        ({"task": "translate", "model": "base.en"}, "cannot translate"),
        ({"hotwords": "Ada", "engine": "openai-whisper"}, "--hotwords"),
        ({"hotwords": "Ada", "prompt": "Talk."}, "share one place"),
        ({"prompt": "word " * 300}, "shorten it"),
        ({"batch_size": 4, "engine": "faster-whisper-sequential"}, "--batch-size"),
    ],
)
def test_what_an_engine_would_override_is_refused(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        check_options(RecognizeOptions.model_validate(options))


@pytest.mark.parametrize(
    "options", [{}, {"language": "yue", "model": "large-v3"}, {"task": "translate", "model": "large-v3"}]
)
def test_what_an_engine_honours_passes(options: dict[str, str]) -> None:
    check_options(RecognizeOptions.model_validate(options))
