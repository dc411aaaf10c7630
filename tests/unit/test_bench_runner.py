"""What all benchmarks share: the order of repetitions, the table, the record, and a sentence for wrong options."""

import argparse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import result
from benchmarks.result import Result, Table, Target
from benchmarks.runner import Benchmark, Findings, interleaved, run, table_lines, told
from workers.errors import OptionError, StorageError

TABLE = Table(title="Speed", columns=("engine", "RTFx"), rows=(("whisper", 1.5), ("a longer name", None)))


def measured(options: argparse.Namespace, folder: Path) -> Findings:
    assert list(folder.iterdir()) == []
    return Findings(
        repetitions=[{"seconds": 1.0, "number": number} for number in range(options.repeat)],
        tables=[TABLE],
        figures={"seconds": (1.0, 2.0)},
        shows=["It runs."],
        targets=[
            Target(name="speed", wanted="1", found="2", reached=True),
            Target(name="size", wanted="1", found="3", reached=False),
            Target(name="taste", wanted="good", found="nobody asked", reached=None),
        ],
        caveats=["Today only."],
    )


def made(measure: object = measured) -> Benchmark:
    def draw(found: Result, figure: object) -> None:
        assert found.figures == {"seconds": [1.0, 2.0]}, "drawn is what was kept"

    return Benchmark("sample", "A sample.", measure, draw, ("Of no use.",), ("numpy", "no-such-package"))  # type: ignore[arg-type]


@given(st.lists(st.text(min_size=1), min_size=1, max_size=6, unique=True), st.integers(1, 8), st.integers(0, 9))
def test_each_repetition_has_every_name_once(names: list[str], repeat: int, seed: int) -> None:
    order = list(interleaved(names, repeat, seed))
    for number in range(repeat):
        part = order[number * len(names) : (number + 1) * len(names)]
        assert {at for at, _ in part} == {number}
        assert sorted(name for _, name in part) == sorted(names)


def test_nobody_is_always_first() -> None:
    order = list(interleaved(["a", "b"], 20))
    assert {name for _, name in order[::2]} == {"a", "b"}


def test_words_stand_left_and_numbers_right() -> None:
    assert list(table_lines(TABLE)) == ["Speed", "engine         RTFx", "whisper         1.5", "a longer name     –"]


def test_a_run_leaves_a_whole_record_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(made(), ["--repeat", "3", "--out", str(tmp_path / "new")])
    found = result.read(tmp_path / "new" / "sample.json")
    assert [one["number"] for one in found.repetitions] == [0, 1, 2]
    assert found.options == {"repeat": 3}
    assert found.machine["no-such-package"] is None
    assert found.machine["numpy"]
    assert found.caveats == ("Today only.", "Of no use.")
    assert (tmp_path / "new" / "sample.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["sample.json", "sample.png"]
    said = capsys.readouterr().out
    assert "reached: speed: wanted 1, found 2\nMISSED: size" in said
    assert "not measured: taste" in said
    assert result.read_all(tmp_path / "new") == {"sample": found}


def test_a_quick_run_is_one_repetition_and_says_so(tmp_path: Path) -> None:
    run(made(), ["--quick", "--out", str(tmp_path)])
    found = result.read(tmp_path / "sample.json")
    assert (found.quick, len(found.repetitions)) == (True, 1)
    assert next(told(found)).startswith("A quick run")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--repeat", "0"], "--repeat is 0: write 1 or more."),
        (["--folder", "nowhere"], "--folder nowhere is no folder"),
    ],
)
def test_wrong_options_are_told_before_anything_is_measured(arguments: list[str], sentence: str) -> None:
    def measure(options: argparse.Namespace, folder: Path) -> Findings:
        raise AssertionError("it measures")

    with pytest.raises(OptionError, match=sentence):
        run(made(measure), arguments)


def test_a_folder_that_cannot_be_written_keeps_the_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another --out"):
        run(made(), ["--out", str(tmp_path / "file")])


def test_a_broken_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="There are no results in"):
        result.read_all(tmp_path)
    (tmp_path / "broken.json").write_text('{"benchmark": "scaling"}')
    with pytest.raises(OptionError, match=r"broken\.json is no result of a benchmark"):
        result.read_all(tmp_path)
