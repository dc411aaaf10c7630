"""Models of pyannote.audio's own classes with random weights: no download, no accuracy, all of the plumbing.

Windows of 2 s and small layers, so that a test takes seconds. Import it only where pyannote.audio is installed.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pyannote.audio import Model
from pyannote.audio.core.task import Problem, Resolution, Specifications
from pyannote.audio.models.embedding import WeSpeakerResNet34
from pyannote.audio.models.segmentation import PyanNet

WINDOW_SECONDS = 2.0
DIMENSION = 256  # of WeSpeakerResNet34, whatever its input
PLDA_DIMENSION = 128

VBX = {"clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8}, "segmentation": {"min_duration_off": 0.0}}
AGGLOMERATIVE = {
    "clustering": {"method": "centroid", "min_cluster_size": 3, "threshold": 0.5},
    "segmentation": {"min_duration_off": 0.0},
}


def segmentation_model(seed: int = 0) -> Any:
    """Three speakers, at most two at once, as a powerset of seven classes; weights that make all of them happen."""
    torch.manual_seed(seed)
    model = PyanNet(lstm={"hidden_size": 16, "num_layers": 1}, linear={"hidden_size": 16, "num_layers": 1})
    model.specifications = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION,
        resolution=Resolution.FRAME,
        duration=WINDOW_SECONDS,
        warm_up=(0.0, 0.0),
        classes=["speaker#1", "speaker#2", "speaker#3"],
        powerset_max_classes=2,
        permutation_invariant=True,
    )
    model.build()
    with torch.no_grad():  # as it is drawn, one class wins nearly everywhere
        for weights in model.parameters():
            weights.mul_(3)
    return model.eval()


def embedding_model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = WeSpeakerResNet34(num_mel_bins=8, frame_shift=20)
    model.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=WINDOW_SECONDS
    )
    return model.eval()


def save_community(folder: Path) -> Path:
    """A folder laid out like community-1: segmentation, embedding, PLDA, VBx clustering."""
    save_model(segmentation_model(), folder / "segmentation")
    save_model(embedding_model(), folder / "embedding")
    save_plda(folder / "plda")
    return save_config(folder, "VBxClustering", VBX, plda="$model/plda")


def save_agglomerative(folder: Path) -> Path:
    """The same models with the clustering of 3.1, which has no PLDA."""
    save_model(segmentation_model(), folder / "segmentation")
    save_model(embedding_model(), folder / "embedding")
    return save_config(folder, "AgglomerativeClustering", AGGLOMERATIVE)


def save_config(folder: Path, clustering: str, parameters: dict[str, Any], **more: str) -> Path:
    config = {
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                "clustering": clustering,
                "segmentation": "$model/segmentation",
                "segmentation_batch_size": 32,
                "embedding": "$model/embedding",
                "embedding_batch_size": 32,
                "embedding_exclude_overlap": True,
                **more,
            },
        },
        "params": parameters,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def save_model(model: Model, folder: Path) -> None:
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": "2.0.0",
    }
    model.on_save_checkpoint(checkpoint)
    folder.mkdir(parents=True)
    torch.save(checkpoint, folder / "pytorch_model.bin")


def save_plda(folder: Path) -> None:
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    np.savez(
        folder / "xvec_transform.npz",
        mean1=random.normal(0, 0.1, DIMENSION),
        mean2=random.normal(0, 0.1, PLDA_DIMENSION),
        lda=np.linalg.qr(random.normal(size=(DIMENSION, PLDA_DIMENSION)))[0],
    )
    np.savez(
        folder / "plda.npz",
        mu=random.normal(0, 0.1, PLDA_DIMENSION),
        tr=np.linalg.qr(random.normal(size=(PLDA_DIMENSION, PLDA_DIMENSION)))[0],
        psi=np.sort(random.uniform(0.1, 5, PLDA_DIMENSION))[::-1].copy(),
    )
