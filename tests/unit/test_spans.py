"""Spans and clocks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import OptionError
from workers.spans import Span, clock, parse_time


@given(st.integers(0, 400 * 3600 * 1000))
def test_a_time_written_is_read_back(ms: int) -> None:
    assert parse_time(clock(ms)) == ms
    assert parse_time(clock(ms, ",")) == ms


@pytest.mark.parametrize(
    ("text", "ms"), [("90", 90_000), ("90.5", 90_500), ("1:30", 90_000), ("1:01:30.25", 3_690_250), (" 7 ", 7000)]
)
def test_people_write_times_in_several_ways(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "1.2345", "1h"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(OptionError, match="is not a time"):
        parse_time(text)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_overlap_is_what_counting_gives(a: int, b: int, c: int, d: int) -> None:
    one, two = Span.of(min(a, b), max(a, b)), Span.of(min(c, d), max(c, d))
    common = max(0, min(one.end_ms, two.end_ms) - max(one.start_ms, two.start_ms))
    assert one.overlap_ms(two) == two.overlap_ms(one) == common


def test_a_span_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        Span.of(5, 4)
