"""The rules of the layout, kept by looking: who may import whom, what a fast command loads, what no file may name."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("workers", "workflows", "provisioning", "benchmarks")

# library -> the only modules that may import it; where a name ends in a dot, all below it
KEEPERS: dict[str, tuple[str, ...]] = {
    "conductor": ("workers.tasks", "workflows.client"),
    "ffmpeg": ("workers.media",),
    "boto3": ("workers.storage", "workers.storage.", "workers.sources"),
    "botocore": ("workers.storage", "workers.storage.", "workers.sources"),
    "pyannote": ("workers.diarizers.pyannote_audio", "workers.diarizers.loading"),
    "vastai": ("provisioning.vast",),
}
PURE = (
    "provisioning.cloud",
    "provisioning.fleet",
    "provisioning.vast_answers",
    "provisioning.vast_checks",
    "provisioning.vast_rows",
    "provisioning.status",
    "provisioning.scaling",
    "provisioning.policy",
    "provisioning.scene",
    "provisioning.endings",
    "provisioning.gateway_results",
    "provisioning.gateway_windows",
    "provisioning.offers",
    "provisioning.grants",
    "provisioning.gateway_limits",
    "provisioning.gateway_leases",
    "provisioning.classify",
    "provisioning.budget",
    "workers.attribution",
    "workers.chunking",
    "workers.diarizers.clustering",
    "workers.diarizers.grid",
    "workers.diarizers.naming",
    "workers.diarizers.packing",
    "workers.diarizers.reconstruction",
    "workers.diarizers.voices",
    "workers.errors",
    "workers.formats",
    "workers.messages",
    "workers.spans",
    "workers.stitching",
    "workers.suspicion",
    "workers.transcript",
    "workflows.progress",
)
IMPURE = {
    "av",
    "boto3",
    "botocore",
    "conductor",
    "ctranslate2",
    "faster_whisper",
    "ffmpeg",
    "httpx",
    "soundfile",
    "sqlite3",
    "starlette",
    "subprocess",
    "vastai",
}
HEAVY = (
    "av",
    "boto3",
    "botocore",
    "conductor",
    "ctranslate2",
    "faster_whisper",
    "httpx",
    "jgo",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "rich",
    "soundfile",
    "starlette",
    "torch",
    "uvicorn",
    "vastai",
)


@cache
def modules() -> dict[str, ast.Module]:
    """Every module of the project, parsed, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all that is imported, in functions too; `from a import b` counts as a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that they can be scanned and moved"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def libraries(tree: ast.AST) -> set[str]:
    return {name.partition(".")[0] for name in imports(tree)}


def test_the_scan_sees_the_project() -> None:
    assert len(modules()) >= 20
    assert {"workers.messages", "workers.settings", "workers.stages"} <= set(modules())
    assert "workers.errors" in set(imports(modules()["workers.settings"]))


def test_the_scan_sees_an_import_wherever_it_stands() -> None:
    tree = ast.parse("import a.b\ndef f():\n  if x:\n    from c.d import e\n")
    assert set(imports(tree)) == {"a.b", "c.d", "c.d.e"}
    assert libraries(tree) == {"a", "c"}


def test_workers_know_nothing_of_workflows_and_provisioning() -> None:
    others = {"workflows", "provisioning", "benchmarks", "tests"}
    wrong = {
        name: found
        for name, tree in modules().items()
        if name.startswith("workers")
        if (found := libraries(tree) & others)
    }
    assert wrong == {}


def test_nothing_that_is_installed_imports_tests() -> None:
    """But for the cost of a fleet: its market is the emulator of the tests. Without it, it says so in a sentence."""
    importers = [name for name, tree in modules().items() if "tests" in libraries(tree)]
    assert importers == ["benchmarks.cost_market"]


@pytest.mark.parametrize("library", KEEPERS)
def test_a_library_is_imported_by_its_keeper_only(library: str) -> None:
    def may(name: str) -> bool:
        return any(name == keeper or (keeper.endswith(".") and name.startswith(keeper)) for keeper in KEEPERS[library])

    users = [name for name, tree in modules().items() if library in libraries(tree)]
    assert [name for name in users if not may(name)] == []


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_import_no_edge_not_even_through_others(name: str) -> None:
    assert name in modules(), f"{name} is gone: rename it in this list too"
    seen: set[str] = set()
    reached = {name}
    while reached:
        module = reached.pop()
        seen.add(module)
        found = libraries(modules()[module]) & IMPURE
        assert not found, f"{name} imports {', '.join(sorted(found))} through {module}"
        reached |= {other for other in imports(modules()[module]) if other in modules()} - seen


def test_settings_is_the_only_reader_of_the_environment() -> None:
    def reads(tree: ast.AST) -> bool:
        asked = {"environ", "environb", "getenv"}
        return any(isinstance(node, ast.Attribute) and node.attr in asked for node in ast.walk(tree)) or bool(
            {f"os.{name}" for name in asked} & set(imports(tree))
        )

    assert [name for name, tree in modules().items() if reads(tree)] == ["workers.settings"]


# One process asks for every help in turn and says after each what it has loaded.
ASK_FOR_HELP = """
import contextlib, io, sys
import click
from workflows.cli import cli

def ask(path):
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        try:
            cli([*path, "--help"], prog_name="whisperfleet")
        except SystemExit as exit:
            assert not exit.code, (path, exit.code)
    assert "Usage:" in text.getvalue(), path
    print(" ".join(path) or "whisperfleet", *sorted({name.partition(".")[0] for name in sys.modules}), sep=",")

def walk(command, path, context):
    ask(path)
    if isinstance(command, click.Group) and path != ["bench"]:  # a benchmark's options are its module's: it is imported
        for name in command.list_commands(context):
            walk(command.get_command(context, name), [*path, name], context)

walk(cli, [], click.Context(cli))
"""


def test_help_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", ASK_FOR_HELP], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    answers = [line.split(",") for line in done.stdout.splitlines()]
    assert {"whisperfleet", "transcribe"} <= {answer[0] for answer in answers}
    loaded = {answer[0]: heavy for answer in answers if (heavy := sorted(set(answer[1:]) & set(HEAVY)))}
    assert loaded == {}


# Written in halves, so that this file does not name what it forbids.
HOSTS = [
    first + second
    for first, second in (
        ("pypi", ".org"),
        ("pythonhosted", ".org"),
        ("maven", ".org"),
        ("maven.apache", ".org"),
        ("sonatype", ".org"),
        ("npmjs", ".org"),
        ("download.pytorch", ".org"),
        ("docker", ".io"),
        ("ghcr", ".io"),
    )
]
FOLDERS = ["/" + name + "/" for name in ("work", "tmp", "root")]
FORBIDDEN = re.compile("|".join([*map(re.escape, HOSTS), *(rf"(?<![\w.:/}}\]]){folder}" for folder in FOLDERS)]))


def test_no_file_names_a_registry_or_a_folder_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, cwd=ROOT, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name and name != "constraints.txt"]
    assert len(files) >= 20
    wrong = []
    for file in files:
        if not file.is_file():
            continue  # deleted here, and not committed yet
        data = file.read_bytes()
        if b"\0" in data[:8192]:
            continue  # not text
        lines = data.decode("utf-8").splitlines()
        wrong += [
            f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(lines, 1)
            if FORBIDDEN.search(line)
        ]
    assert wrong == []


def test_the_forbidden_is_recognised() -> None:
    assert all(FORBIDDEN.search(f"see https://{host}/simple") for host in HOSTS)
    assert all(FORBIDDEN.search(f"open('{folder}file')") for folder in FOLDERS)
    assert not FORBIDDEN.search("the homework/ of example.org, and {home}" + FOLDERS[0])
