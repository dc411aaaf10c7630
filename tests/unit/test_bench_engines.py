"""What the figures of engines come to, from rows made by hand."""

import json
from typing import Any

import pytest

from benchmarks.engines_tables import BARE, JOB, WORKER, findings
from benchmarks.weights import POSITIONS, SHAPES, WORDS_A_WINDOW, script
from workers.models import demo_folder


def row(way: str, number: int, rtfx: float | None, shape: str = "base", **more: Any) -> dict[str, Any]:
    return {"shape": shape, "way": way, "number": number, "rtfx": rtfx, **more}


def worker(number: int, rtfx: float, job: float) -> dict[str, Any]:
    return row(WORKER, number, rtfx, job_rtfx=job, inference_rtfx=rtfx + 1)


def test_a_ratio_is_of_one_repetition() -> None:
    rows = [row(BARE, 0, 10.0), row(BARE, 1, 20.0), worker(1, 19.0, 16.0), worker(0, 10.0, 8.0)]
    found = findings(rows, "cpu", quick=False)
    assert found.figures["ratios"]["base"] == {
        BARE: [1.0, 1.0],
        WORKER: pytest.approx([0.95, 1.0]),
        JOB: pytest.approx([0.8, 0.8]),
    }
    (target,) = found.targets
    assert target.reached, "97 % in the middle of 95 and 100"


@pytest.mark.parametrize(("rate", "quick", "reached"), [(9.7, False, True), (9.6, False, False), (9.9, True, None)])
def test_the_target_is_97_of_100(rate: float, quick: bool, reached: bool | None) -> None:
    found = findings([row(BARE, 0, 10.0), row("other", 0, 5.0), worker(0, rate, 5.0)], "cpu", quick)
    assert [target.reached for target in found.targets] == [reached]


def test_what_failed_is_told_and_in_no_ratio() -> None:
    rows = [row(BARE, 0, 10.0), row("other", 0, None, failure="out of memory"), worker(0, 9.0, 5.0)]
    rows += [row(BARE, 0, None, "small", failure="not done after 600 s"), row("other", 0, 5.0, "small")]
    found = findings(rows, "cuda", quick=False)
    assert "other" not in found.figures["ratios"]["base"]
    assert found.figures["ratios"]["small"] == {}
    assert "base, other: out of memory" in found.shows
    assert [target.reached for target in found.targets] == [False, None]
    assert found.targets[1].found == "not measured: not done after 600 s"
    (failed,) = [cells for cells in found.tables[0].rows if cells[0] == "other"]
    assert failed[1:3] == (None, "not measured")


def test_the_script_fits_the_decoder_and_repeats_no_word() -> None:
    tokens = json.loads((demo_folder() / "vocabulary.json").read_text("utf-8"))
    said = script(tokens)
    assert len(said) == 112
    assert len(said) < POSITIONS // 2, "a prompt fits before it"
    words = [number for number in said if not tokens[number].startswith("<|")]
    assert len(set(words)) == len(words) == WORDS_A_WINDOW
    stamps = [tokens[number] for number in said if tokens[number].startswith("<|")]
    assert stamps[:4] == ["<|0.00|>", "<|0.50|>", "<|0.50|>", "<|1.00|>"]
    assert stamps[-2:] == ["<|6.00|>", "<|30.00|>"], "a window is heard to its end"


def test_heads_are_64_wide_in_every_shape() -> None:
    assert all(shape.width == 64 * shape.heads for shape in SHAPES.values())
