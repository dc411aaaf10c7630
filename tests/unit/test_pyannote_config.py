"""What a pipeline's config.yaml may say: whatever could run code of others is refused before it is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from workers.diarizers.pyannote_config import read_config
from workers.errors import ModelError

COMMUNITY: dict[str, Any] = {
    "dependencies": {"pyannote.audio": "4.0.0"},
    "pipeline": {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "clustering": "VBxClustering",
            "segmentation": "$model/segmentation",
            "segmentation_batch_size": 32,
            "embedding": "$model/embedding",
            "embedding_batch_size": 32,
            "embedding_exclude_overlap": True,
            "plda": "$model/plda",
        },
    },
    "params": {"clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8}, "segmentation": {"min_duration_off": 0.0}},
}
OF_3_1: dict[str, Any] = {
    "version": "3.1.0",
    "pipeline": {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "clustering": "AgglomerativeClustering",
            "embedding": "pyannote/wespeaker-voxceleb-resnet34-LM",
            "embedding_batch_size": 32,
            "embedding_exclude_overlap": True,
            "segmentation": "pyannote/segmentation-3.0",
            "segmentation_batch_size": 32,
        },
    },
    "params": {
        "clustering": {"method": "centroid", "min_cluster_size": 12, "threshold": 0.7045654963945799},
        "segmentation": {"min_duration_off": 0.0},
    },
}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """A folder with all files of community-1, and this config.yaml."""
    for name in ("segmentation/pytorch_model.bin", "embedding/pytorch_model.bin", "plda/xvec_transform.npz"):
        (tmp_path / "pipeline" / name).parent.mkdir(parents=True)
        (tmp_path / "pipeline" / name).touch()
    (tmp_path / "pipeline" / "plda" / "plda.npz").touch()

    def put(config: object) -> Path:
        (tmp_path / "pipeline" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        return tmp_path / "pipeline"

    return put


def changed(of: dict[str, Any], **parameters: object) -> dict[str, Any]:
    return {**of, "pipeline": {**of["pipeline"], "params": {**of["pipeline"]["params"], **parameters}}}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("config", [COMMUNITY, OF_3_1])
def test_pipelines_of_pyannote_pass(write: Callable[[object], Path], config: dict[str, Any], own: bool) -> None:
    assert read_config(write(config), own) == config


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "describes no pipeline"),
        ([], "describes no pipeline"),
        ({"just": "this"}, "describes no pipeline"),
        ({"pipeline": "this"}, "describes no pipeline"),
        ({"pipeline": {"name": "x"}}, "describes no pipeline"),
        ({**COMMUNITY, "pipeline": {"params": {}}}, "is no pipeline this diarizer can use: take a SpeakerDiarization"),
        ({**COMMUNITY, "pipeline": {**COMMUNITY["pipeline"], "name": "subprocess.Popen"}}, "is no pipeline"),
        ({**COMMUNITY, "pipeline": {**COMMUNITY["pipeline"], "name": ["subprocess.Popen"]}}, "is no pipeline"),
        (changed(COMMUNITY, clustering="OracleClustering"), "with VBxClustering or AgglomerativeClustering"),
        ({**COMMUNITY, "preprocessors": {"audio": {"name": "os.system", "params": {}}}}, "has preprocessors, which"),
        (changed(COMMUNITY, args="rm", cache_dir="/etc"), "has args, cache_dir, which could run code of others"),
        (changed(COMMUNITY, embedding="speechbrain/spkrec-ecapa-voxceleb"), "takes its embedding from 'speechbrain/"),
        (changed(COMMUNITY, segmentation="nobody/knows"), "takes its segmentation from 'nobody/knows'"),
        (changed(COMMUNITY, segmentation="$model/../../secret"), "which is not in its folder"),
        (changed(COMMUNITY, segmentation="$model//etc"), "which is not in its folder"),
        (changed(COMMUNITY, plda={"checkpoint": "nobody/knows"}), "takes its plda from"),
        (changed(COMMUNITY, plda="$model/none"), r"lacks .*none/xvec_transform\.npz: copy the pipeline"),
    ],
)
def test_what_could_run_other_code_is_refused(
    write: Callable[[object], Path], config: object, sentence: str, own: bool
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_config(write(config), own)


def test_yaml_makes_no_objects(write: Callable[[object], Path]) -> None:
    folder = write(COMMUNITY)
    (folder / "config.yaml").write_text("pipeline: !!python/object/apply:os.getcwd []")
    with pytest.raises(yaml.YAMLError):
        read_config(folder, True)


def test_only_the_operators_own_pipeline_names_folders_outside(write: Callable[[object], Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = write(changed(COMMUNITY, embedding=str(tmp_path / "elsewhere")))
    read_config(folder, own=True)
    with pytest.raises(ModelError, match="takes its embedding from"):
        read_config(folder, own=False)


def test_the_operator_may_allow_more(write: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(changed(COMMUNITY, segmentation="nobody/knows"))
    with pytest.raises(ModelError, match="nobody/knows"):
        read_config(folder, own=False)
    monkeypatch.setenv("WHISPERFLEET_PYANNOTE_MODELS", "nobody/knows")
    assert read_config(folder, own=False)["pipeline"]["params"]["segmentation"] == "nobody/knows"
