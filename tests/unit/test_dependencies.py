"""What is imported is declared: a dependency's own dependency may be gone with its next version."""

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("workers", "workflows", "provisioning", "benchmarks")
SOLD_AS = {
    "conductor": "conductor-python",
    "ffmpeg": "ffmpeg-python",
    "jwt": "pyjwt",
    "pyannote": "pyannote-audio",
    "whisper": "openai-whisper",
}
# parts of a declared library's interface, of the version that it wants
BROUGHT = {
    "av": "faster-whisper",
    "botocore": "boto3",
    "ctranslate2": "faster-whisper",
    "huggingface_hub": "faster-whisper",
    "pydantic_core": "pydantic",
    "requests": "vastai",
    "yaml": "pyannote-audio",
}


def imported() -> set[str]:
    """Libraries imported anywhere in the packages, in functions too."""
    found = set()
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    found.add(node.module.partition(".")[0])
    ours = {*PACKAGES, "tests"}  # the emulated market, which one benchmark needs and says so (test_architecture.py)
    return found - set(sys.stdlib_module_names) - ours


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return {re.sub(r"[._]", "-", re.split(r"[\[<>=; ]", one)[0]).lower() for wanted in lists for one in wanted}


def test_every_library_that_is_imported_is_declared() -> None:
    found = imported()
    assert len(found) > 20
    names = {library: BROUGHT.get(library) or SOLD_AS.get(library) or library.replace("_", "-") for library in found}
    assert {library: name for library, name in names.items() if name not in declared()} == {}
    assert set(BROUGHT) <= found, "an exception that nothing needs"
