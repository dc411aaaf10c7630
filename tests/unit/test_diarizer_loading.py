"""What is refused before anything is started: options that do not fit together, models that are not here."""

import importlib.metadata
from pathlib import Path

import pytest

from workers.diarizers.loading import ONNX_FILES, check, check_anywhere, load, permitted
from workers.errors import ModelElsewhere, ModelError, OptionError, by_name
from workers.settings import pyannote_models


def installed(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def answer(_: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(importlib.metadata, "version", answer)


@pytest.mark.parametrize(
    ("name", "model", "sentence"),
    [
        ("nemo", None, "There is no diarizer 'nemo': take ge2e, pyannote, onnx."),
        ("ge2e", "somewhere", "The diarizer ge2e has its one model inside and takes no other: leave 'somewhere' out"),
        ("onnx", None, "The diarizer onnx brings no models of its own: name a folder"),
        ("onnx", "", "The diarizer onnx brings no models of its own: name a folder"),
    ],
)
def test_options_that_do_not_fit_together(name: str, model: str | None, sentence: str) -> None:
    for refuse in (check, check_anywhere, load):
        with pytest.raises(OptionError) as raised:
            refuse(name, model)
        assert str(raised.value).startswith(sentence)


def test_a_device_that_is_none() -> None:
    with pytest.raises(OptionError, match="no device 'tpu': take auto, cpu, cuda"):
        load("ge2e", None, device="tpu")


def test_what_may_be_on_another_machine() -> None:
    check_anywhere("ge2e", None)
    check_anywhere("pyannote", None)
    check_anywhere("pyannote", "pyannote/speaker-diarization-3.1")
    check_anywhere("pyannote", "/models/community-1")
    check_anywhere("onnx", "/models/mine")
    with pytest.raises(ModelError, match="no model 'community' for the diarizer pyannote: give a folder"):
        check_anywhere("pyannote", "community")


def test_folders_for_onnx(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no model folder"):
        check("onnx", str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is no folder"):
        check("onnx", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"lacks segmentation\.onnx and embedding\.onnx"):
        check("onnx", str(tmp_path))
    for name in ONNX_FILES:
        (tmp_path / name).touch()
    check("onnx", str(tmp_path))


def test_folders_for_pyannote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "4.0.7")
    check("pyannote", None)
    check("pyannote", "pyannote/speaker-diarization-3.1")
    with pytest.raises(ModelError, match="There is no model folder"):
        check("pyannote", str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"lacks config\.yaml: give a pipeline's folder"):
        check("pyannote", str(tmp_path))
    (tmp_path / "config.yaml").touch()
    check("pyannote", str(tmp_path))


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (None, r'not installed here: pip install "whisperfleet\[pyannote\]"'),
        ("3.4.0", r'pyannote.audio 3.4.0 is too old .* pip install --upgrade "whisperfleet\[pyannote\]"'),
    ],
)
def test_pyannote_that_is_not_installed(version: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, version)
    with pytest.raises(ModelError, match=sentence):
        check("pyannote", None)
    with pytest.raises(ModelElsewhere, match=sentence):
        load("pyannote", None)
    check_anywhere("pyannote", None)


def test_what_another_machine_may_have_is_tried_again_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without it may poll first: its failure must not end the task, and its sentence is that of `check`."""
    installed(monkeypatch, "4.0.7")
    for name in ("pyannote", "onnx"):
        folder = str(tmp_path / "none")
        with pytest.raises(ModelElsewhere, match="There is no model folder") as elsewhere:
            load(name, folder)
        with pytest.raises(ModelError) as here:
            check(name, folder)
        assert str(elsewhere.value) == str(here.value)
        assert (elsewhere.value.transient, here.value.transient) == (True, False)
        assert elsewhere.value.exit_code == here.value.exit_code == 6
        with pytest.raises(ModelError, match="lacks"):  # wrong wherever it is
            load(name, str(tmp_path))
    assert by_name("ModelElsewhere") is ModelElsewhere


def test_of_the_hub_only_what_the_operator_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "4.0.7")
    assert permitted("pyannote/speaker-diarization-community-1")
    for name in ("somebody/pipeline", "pyannotes/x", "x/pyannote/y", "Pyannote/x", "pyannote/", "pyannote/x@main", ""):
        assert not permitted(name)
    with pytest.raises(
        ModelError, match=r"'somebody/pipeline' may not be loaded here, .* WHISPERFLEET_PYANNOTE_MODELS"
    ):
        check("pyannote", "somebody/pipeline")
    with pytest.raises(ModelElsewhere, match="may not be loaded here"):
        load("pyannote", "somebody/pipeline")
    check_anywhere("pyannote", "somebody/pipeline")
    monkeypatch.setenv("WHISPERFLEET_PYANNOTE_MODELS", " somebody/pipeline, ,else/other")
    assert pyannote_models() == ("somebody/pipeline", "else/other")
    check("pyannote", "somebody/pipeline")
    check("pyannote", "pyannote/speaker-diarization-3.1")
    monkeypatch.setenv("WHISPERFLEET_PYANNOTE_MODELS", "somebody")
    with pytest.raises(OptionError, match="WHISPERFLEET_PYANNOTE_MODELS has 'somebody'"):
        check("pyannote", "somebody/pipeline")
