"""How peers are scored and compared: planted words, times and repetitions."""

import pytest

pytest.importorskip("jiwer")

from pathlib import Path
from typing import Any

from benchmarks.peers_process import Sample, cost_between
from benchmarks.peers_scores import Errors, Part, percentile, time_errors, word_errors
from benchmarks.peers_tables import Measured, findings, ratios
from benchmarks.speech import Recorded, Sentence

SAID = (Sentence(1000, 2000, "a", "One two."), Sentence(3000, 4000, "b", "Three four."))
RECORDED = Recorded(Path("x.flac"), 5000, SAID, 0.0)


def test_words_heard_beyond_an_excerpt_are_no_errors() -> None:
    heard = (Part(1000, 2000, "One two."), Part(3000, 4000, "three for"), Part(5200, 6000, "and more"))
    assert word_errors([RECORDED], [heard]) == Errors(1, 4)
    assert Errors(1, 4).percent == 25
    assert Errors(0, 0).percent == 0


def test_times_are_judged_where_words_are_right() -> None:
    words = ((1100, 1400, "One"), (1500, 1900, "two."), (3000, 3400, "tree"), (3500, 4050, "four."))
    found = time_errors(SAID, (Part(1000, 4000, "One two. tree four.", words),))
    assert found.borders == (100, 100, 50), "the first word's beginning, and the last words' ends"
    assert len(found.words) == 3, "the wrong word has no time to be right about"
    assert time_errors(SAID, (Part(0, 9, "One two", ()),)).words == ()


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.95, 10), (0.0, 1), (1.0, 10)])
def test_percentile(share: float, value: int) -> None:
    assert percentile(range(1, 11), share) == value
    assert percentile([], share) is None


def test_cost_is_what_was_spent_between() -> None:
    samples = [Sample(0, 10, 50), Sample(2, 14, 90), Sample(4, 14, 60), Sample(9, 24, 500)]
    cost = cost_between(samples, 1, 4)
    assert (cost.processor_s, cost.peak_mib) == (2, 90)
    assert cost_between(samples, 4.5, 5).peak_mib == 500, "none within: the first one after"


def row(name: str, number: int, wall_s: float | None, audio_s: float = 60, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "shape": "long",
        "number": number,
        "pass": "speed",
        "audio_s": audio_s,
        "wall_s": wall_s,
        "load_s": 1.0,
        "processor_s": 1.0,
        "peak_mib": 1.0,
        **more,
    }


def measured(*rows: dict[str, Any], wer: int = 0) -> Measured:
    ours = {("whisperfleet-1-worker", "long"): Errors(wer, 1000), ("faster-whisper", "long"): Errors(0, 1000)}
    audio, counts = {"long": 60.0, "short": 60.0}, {"long": 1, "short": 10}
    return Measured(rows, ours, ours, {"whisperx": "not here"}, audio, counts, 2, False, {}, {})


def test_a_ratio_is_of_one_repetition_and_by_the_second_of_audio() -> None:
    ours = [row("whisperfleet-1-worker", 0, 10.0), row("whisperfleet-1-worker", 1, 20.0)]
    found = measured(*ours, row("faster-whisper", 1, 30.0, audio_s=30), row("faster-whisper", 0, 15.0))
    assert ratios(found, "faster-whisper", "whisperfleet-1-worker", "long") == pytest.approx([3.0, 1.5])
    slow = measured(*ours, row("openai-whisper", 0, None, at_least_s=50.0), row("openai-whisper", 1, None))
    assert ratios(slow, "openai-whisper", "whisperfleet-1-worker", "long") == [pytest.approx(5.0)], (
        "at least; a failure counts not"
    )


@pytest.mark.parametrize(("wer", "reached"), [(0, True), (1, True), (2, False)])
def test_targets_tell_what_was_reached_and_what_was_not_measured(wer: int, reached: bool) -> None:
    found = findings(measured(row("whisperfleet-1-worker", 0, 10.0), row("faster-whisper", 0, 11.0), wer=wer))
    told = {target.name: target for target in found.targets}
    assert told["ahead of faster-whisper on one long recording"].reached
    assert told["words no worse than faster-whisper's"].reached is reached, "a tenth of a point is no worse"
    assert told["ahead of whisperx on one long recording"].reached is None
    assert "not here" in told["ahead of whisperx on one long recording"].found
