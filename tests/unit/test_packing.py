"""Windows on their way from the workers that hear to the one that clusters: whole, or refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.diarizers import Windows
from workers.diarizers.packing import joined, pack, unpack
from workers.errors import StorageUnavailable


def windows(numbers: list[int], frames: int = 5, voices: int = 2, dimension: int = 3) -> Windows:
    """Made-up windows: what is in one follows from its number alone."""
    made = [np.random.default_rng(number) for number in numbers]
    embedding = np.array([rng.standard_normal((voices, dimension)) for rng in made], np.float32)
    embedding = embedding.reshape(len(numbers), voices, dimension)
    embedding[[number % 4 == 3 for number in numbers]] = np.nan
    activity = np.array([rng.random((frames, voices)) < 0.5 for rng in made], np.bool_)
    return Windows("abcdef", np.array(numbers, np.int32), activity.reshape(len(numbers), frames, voices), embedding)


def assert_equal(one: Windows, other: Windows) -> None:
    """To the last bit, NaN included, and of the same types."""
    assert one.spec_hash == other.spec_hash
    for mine, theirs in zip(
        (one.index, one.activity, one.embedding), (other.index, other.activity, other.embedding), strict=True
    ):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert mine.tobytes() == theirs.tobytes()


shapes = st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(1, 5))


@given(st.lists(st.integers(0, 1000), unique=True, max_size=12).map(sorted), shapes)
@settings(deadline=None)
def test_what_is_unpacked_is_what_was_packed(numbers: list[int], shape: tuple[int, int, int]) -> None:
    there = windows(numbers, *shape)
    data = pack(there)
    assert_equal(unpack(data), there)
    assert pack(unpack(data)) == data


PACKED = pack(windows(list(range(40))))


@pytest.mark.parametrize("damaged", [b"", b"not windows", PACKED[:100], PACKED[: len(PACKED) // 2], PACKED[:-30]])
def test_a_part_of_an_object_is_refused(damaged: bytes) -> None:
    with pytest.raises(StorageUnavailable, match="damaged"):
        unpack(damaged)


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
@pytest.mark.filterwarnings("ignore")  # of zipfile, about names
def test_no_damaged_byte_gives_other_windows_or_another_error(at: int, change: int) -> None:
    damaged = PACKED[:at] + bytes([PACKED[at] ^ change]) + PACKED[at + 1 :]
    try:
        found = unpack(damaged)
    except StorageUnavailable:
        return
    assert_equal(found, unpack(PACKED))  # what was hit has no meaning, such as a time stamp


@given(st.integers(1, 200).flatmap(lambda at: st.tuples(st.just(at), st.permutations(range(6)))))
@settings(deadline=None)
def test_no_order_no_duplicate_and_no_number_of_parts_changes_what_is_joined(drawn: tuple[int, list[int]]) -> None:
    size, order = drawn
    numbers = list(range(200))
    parts = [windows(numbers[first : first + size]) for first in range(0, 200, size)]
    shuffled = sorted(range(len(parts)), key=lambda place: (order[place % 6], place))
    again = [parts[place] for place in shuffled] + parts[: len(parts) // 2]
    assert_equal(joined(again), windows(numbers))


def test_missing_windows_stay_missing() -> None:
    there = joined([windows([7, 8, 9]), windows([0, 1])])
    assert there.index.tolist() == [0, 1, 7, 8, 9]
