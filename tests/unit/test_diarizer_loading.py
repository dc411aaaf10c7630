"""What is refused before anything is started: options that do not fit together, models that are not here."""

import importlib.metadata
from pathlib import Path

import pytest

from workers.diarizers.loading import ONNX_FILES, check, check_anywhere, load
from workers.errors import ModelError, OptionError


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
    for refuse in (check, load):
        with pytest.raises(ModelError, match=sentence):
            refuse("pyannote", None)
    check_anywhere("pyannote", None)
