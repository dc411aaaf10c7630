"""The shipped voice model is what the script makes of the published weights, and computes what torch computes."""

import hashlib
import importlib.util
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from tests.support.services import absent
from workers.diarizers.export_ge2e import build, compare, fetch_weights, main, read_weights

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [module for module in ("torch", "onnx") if importlib.util.find_spec(module) is None]
    if missing:
        absent(f"needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    try:
        return fetch_weights(tmp_path_factory.mktemp("weights"))
    except subprocess.CalledProcessError as error:
        absent(f"needs the published weights: {error.stderr.strip()}")


def test_the_shipped_model_is_made_of_the_published_weights(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "ge2e.onnx"
    main(["--weights", str(checkpoint), "--out", str(made)])
    assert "largest difference to torch" in capsys.readouterr().out
    weights = read_weights(checkpoint)
    found = compare(weights, made.read_bytes())
    assert found.to_torch < 1e-5
    assert found.to_shipped == 0  # the bytes may differ with the version of onnx, the numbers may not
    swapped = dict(weights, **{"lstm.weight_hh_l1": weights["lstm.weight_hh_l2"]})
    assert compare(weights, build(swapped)).to_shipped > 1e-2  # negative control


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    other = tmp_path / "pretrained.pt"
    other.write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the pretrained"):
        read_weights(other)


def test_the_notice_names_the_files_that_are_there() -> None:
    folder = files("workers.diarizers").joinpath("ge2e_model")
    notice = folder.joinpath("NOTICE.md").read_text(encoding="utf-8")
    assert hashlib.sha256(folder.joinpath("ge2e.onnx").read_bytes()).hexdigest() in notice
    assert "Copyright 2019 Resemble.AI" in notice
    assert "Apache License" in folder.joinpath("LICENSE").read_text(encoding="utf-8")
