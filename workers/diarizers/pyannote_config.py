"""What a pipeline's config.yaml may say, before pyannote.audio makes of it what it says.

pyannote.audio makes an object of whatever class the file names, and gives it what the file says. A job names the
pipeline, and whoever can start a job would choose the code that runs: so only one class passes, and only what it takes.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from workers.diarizers.loading import permitted
from workers.errors import ModelError

CLUSTERINGS = ("VBxClustering", "AgglomerativeClustering")
_CLASS = "SpeakerDiarization"
_NAMES = tuple(f"pyannote.audio.pipelines.{module}{_CLASS}" for module in ("", "speaker_diarization."))
_SECTIONS = {"version", "dependencies", "pipeline", "params", "freeze"}  # the others make objects of more classes
_FILES = {
    "segmentation": ("pytorch_model.bin",),
    "embedding": ("pytorch_model.bin",),
    "plda": ("xvec_transform.npz", "plda.npz"),
}
_OPTIONS = {
    "clustering",
    "der_variant",
    "embedding_batch_size",
    "embedding_exclude_overlap",
    "legacy",
    "segmentation_batch_size",
    "segmentation_step",
}
_INSIDE = "$model/"


def read_config(folder: Path, own: bool) -> dict[str, Any]:
    """config.yaml of a folder that has every file it names.

    own: whether the folder is the operator's, whose file may name other folders; one from the hub may not.

    Raises ModelError that names what is missing or may not be there; yaml's errors pass.
    """
    import yaml

    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    pipeline = config.get("pipeline") if isinstance(config, dict) else None
    parameters = pipeline.get("params") if isinstance(pipeline, dict) else None
    if not isinstance(pipeline, dict) or not isinstance(parameters, dict):
        raise ModelError(f"'{file}' describes no pipeline: take one of pyannote.audio 3 or 4.")
    clustering = parameters.get("clustering", CLUSTERINGS[0])
    if pipeline.get("name") not in _NAMES or clustering not in CLUSTERINGS:
        raise ModelError(
            f"'{file}' is no pipeline this diarizer can use: take a {_CLASS} of pyannote.audio with "
            f"{' or '.join(CLUSTERINGS)}."
        )
    strange = [str(key) for key in (*(set(config) - _SECTIONS), *(set(parameters) - _OPTIONS - set(_FILES)))]
    if strange:
        raise ModelError(
            f"'{file}' has {', '.join(sorted(strange))}, which could run code of others: take a pipeline without."
        )
    for part in _FILES.keys() & parameters.keys():
        _check_place(folder, own, part, parameters[part])
    return dict(config)


def _check_place(folder: Path, own: bool, part: str, place: object) -> None:
    if isinstance(place, str) and place.startswith(_INSIDE):
        inside = PurePosixPath(place.removeprefix(_INSIDE))
        if not inside.is_absolute() and ".." not in inside.parts:
            return _check_files(folder / inside, _FILES[part])
    elif isinstance(place, str) and (permitted(place) or (own and Path(place).exists())):
        return None
    raise ModelError(
        f"'{folder / 'config.yaml'}' takes its {part} from '{place}', which is not in its folder: write '{_INSIDE}' "
        "and the name of a folder in it, or a name on the hub that may be loaded here."
    )


def _check_files(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"The pipeline's folder lacks {folder / name}: copy the pipeline there as a whole.")
