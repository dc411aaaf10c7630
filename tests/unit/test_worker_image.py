"""The rented machines' image, read: no engine builds it here, so what can be known without one is held to."""

import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provisioning.cloud import OfferQuery

ROOT = Path(__file__).parents[2]
FILE = ROOT / "provisioning" / "worker.Dockerfile"


@dataclass(frozen=True)
class Step:
    """One instruction: its name, and the rest with its lines joined. stage: the number of its FROM."""

    name: str
    rest: str
    stage: int


def steps(text: str) -> list[Step]:
    found: list[Step] = []
    stage = -1
    kept = "\n".join(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for line in re.sub(r"\s*\\\n\s*", " ", kept).splitlines():
        name, _, rest = line.partition(" ")
        stage += name == "FROM"
        found.append(Step(name, rest.strip(), stage))
    return found


IMAGE = steps(FILE.read_text(encoding="utf-8"))
LAST = IMAGE[-1].stage


def rests(name: str, stage: int | None = None) -> list[str]:
    return [step.rest for step in IMAGE if step.name == name and stage in (None, step.stage)]


def variables() -> dict[str, str]:
    pairs = (re.findall(r'(\w+)=("[^"]*"|\S+)', rest) for rest in rests("ENV", LAST))
    return {name: value.strip('"') for found in pairs for name, value in found}


def project() -> dict[str, object]:
    found: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def test_the_parser_joins_lines_and_counts_stages() -> None:
    text = "# c\nFROM a AS b\nRUN x \\\n    && y\n\nFROM b\nUSER 1\n"
    assert steps(text) == [
        Step("FROM", "a AS b", 0),
        Step("RUN", "x && y", 0),
        Step("FROM", "b", 1),
        Step("USER", "1", 1),
    ]


def test_every_base_is_pinned_by_tag_and_digest_or_is_a_stage() -> None:
    stages: set[str] = set()
    for rest in rests("FROM"):
        image, _, name = rest.partition(" AS ")
        assert image in stages or re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image)
        stages.add(name)
    assert len(stages) == 4


def test_everything_that_is_copied_is_there() -> None:
    for rest in rests("COPY"):
        words = [word for word in rest.split() if not word.startswith("--")]
        if "--from=" not in rest:
            assert [source for source in words[:-1] if not (ROOT / source).exists()] == []
    package = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packed = tomllib.loads(package)["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert set(packed) <= set(" ".join(rests("COPY")).split()), "the wheel needs them"


def test_the_engine_is_sent_what_is_copied_and_nothing_else() -> None:
    lines = (ROOT / "provisioning" / "worker.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    copied = [rest.split()[:-1] for rest in rests("COPY") if "--from=" not in rest]
    assert rules[0] == "**"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == {
        name for names in copied for name in names
    }


def test_what_it_starts_is_the_supervisor_that_the_package_installs() -> None:
    (entry,) = rests("ENTRYPOINT")
    (program,) = json.loads(entry)
    scripts = project()["scripts"]
    assert isinstance(scripts, dict)
    folder, _, name = program.rpartition("/")
    module, _, function = scripts[name].partition(":")
    assert folder == "/opt/whisperfleet/bin"
    assert hasattr(importlib.import_module(module), function)
    assert rests("CMD") == rests("EXPOSE") == rests("VOLUME") == []


def test_it_is_nobody_and_has_no_secret() -> None:
    assert rests("USER", LAST) == ["10001:10001"]
    names = [*variables(), *(rest.partition("=")[0] for rest in rests("ARG"))]
    assert [name for name in names if re.search("KEY|TOKEN|SECRET|PASSWORD", name)] == []
    assert "://" not in FILE.read_text(encoding="utf-8"), "it names no place on the net"
    assert variables()["WHISPERFLEET_NEEDS_GPU"] == "1"


def test_it_takes_the_drivers_that_offers_are_sought_with() -> None:
    assert variables()["NVIDIA_REQUIRE_CUDA"] == f"cuda>={OfferQuery().min_cuda}"


def test_it_brings_the_libraries_that_the_engine_loads_and_no_others() -> None:
    """Read in the engine that is installed here: another version may load others."""
    (engine,) = (ROOT_OF_ENGINE.parent / "ctranslate2.libs").glob("libctranslate2*.so*")
    code = engine.read_bytes()
    loaded = {name.decode() for name in re.findall(rb"lib(?:cublas|cudnn|cufft|cusolver|curand)\.so\.\d+", code)}
    (install,) = [rest for rest in rests("RUN") if "pip install" in rest]
    (brought,) = re.findall(r"nvidia-(\w+)-cu(\d+)==\d+\.\d+", install)
    assert loaded == {f"lib{brought[0]}.so.{brought[1]}"}
    assert b"cudnn" not in code
    cuda = rests("FROM")[0].partition(":")[2]
    assert re.search(r"-cu\d+==(\d+\.\d+)", install).group(1) == ".".join(cuda.split(".")[:2])  # type: ignore[union-attr]
    python = "python3.12" if "ubuntu24.04" in cuda else "unknown"
    assert variables()["LD_LIBRARY_PATH"] == f"/opt/whisperfleet/lib/{python}/site-packages/nvidia/{brought[0]}/lib"


ROOT_OF_ENGINE = Path(importlib.util.find_spec("ctranslate2").origin).parent  # type: ignore[union-attr, arg-type]


# ---- what pip puts into it ----


def closure(wanted: list[str]) -> Iterator[str]:
    """Names of all that a plain install brings, by what is installed here."""
    todo, seen = [Requirement(each) for each in wanted], set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        yield name
        try:
            below = requires(name) or []
        except PackageNotFoundError:
            continue  # for another system than this
        for each in map(Requirement, below):
            if each.marker is None or any(
                each.marker.evaluate({"extra": extra}) for extra in requirement.extras | {""}
            ):
                todo.append(each)


@pytest.fixture(scope="module")
def installed() -> set[str]:
    dependencies = project()["dependencies"]
    assert isinstance(dependencies, list)
    return set(closure(dependencies))


def test_it_installs_the_package_without_extras_and_with_constraints() -> None:
    (install,) = [rest for rest in rests("RUN") if "pip install" in rest]
    assert install.split()[1:-1] == ["install", "--no-cache-dir", "-c", "constraints.txt", "."]


def test_neither_torch_nor_the_market_s_client_comes_with_it(installed: set[str]) -> None:
    assert "faster-whisper" in installed
    assert "ctranslate2" in installed
    heavy = ("torch", "vastai", "openai-whisper", "pyannote", "nvidia", "starlette", "tensorflow", "cudnn")
    assert [name for name in installed if name.startswith(heavy)] == []


def test_every_package_of_it_is_constrained(installed: set[str]) -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}
    assert installed - pinned == set()
