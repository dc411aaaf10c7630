"""Whatever an engine says, segments are ascending, inside the audio, and hold their words."""

from hypothesis import given
from hypothesis import strategies as st

from workers.recognizers.tidy import Heard, HeardWord, tidy

seconds = st.floats(-2, 40, allow_nan=False)
heard_words = st.builds(HeardWord, seconds, seconds, st.sampled_from(["one", " two", " ", ""]), st.floats(-1, 2))
heard_segments = st.builds(
    Heard, seconds, seconds, st.sampled_from([" One two. ", "", " "]), st.lists(heard_words, max_size=6).map(tuple)
)


@given(heard=st.lists(heard_segments, max_size=8), audio_ms=st.integers(1, 30_000))
def test_segments_and_words_are_in_order_and_inside(heard: list[Heard], audio_ms: int) -> None:
    segments = tidy(heard, audio_ms)
    assert len(segments) == sum(bool(item.text.strip()) for item in heard)
    at = 0
    for segment in segments:
        assert at <= segment.start_ms <= segment.end_ms <= audio_ms
        at = inner = segment.start_ms
        for word in segment.words:
            assert inner <= word.start_ms <= word.end_ms <= segment.end_ms
            inner = word.end_ms
        at = segment.end_ms


def test_words_past_their_segment_are_drawn_together() -> None:
    words = (HeardWord(0.0, 1.0, " a", 1), HeardWord(1.0, 2.0, " b", 1))
    (segment,) = tidy([Heard(0.0, 1.0, "a b", words)], 5000)
    assert [(word.start_ms, word.end_ms) for word in segment.words] == [(0, 500), (500, 1000)]
