"""Planted words, heard by chunks that overlap and disagree about times, must come out once each and in order."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.errors import JobError
from workers.messages import Chunk, ChunkResult
from workers.spans import Span
from workers.stitching import Stitched, final_prefix, stitch
from workers.transcript import Gap, Segment, Word

COMMON = (
    "the a of and to in is that it for on was with as at by be this had not are but from or have an they which one "
    "were all there when your can said so what up out if about who get whisper fleet conductor chunk river"
)
VOCABULARY = COMMON.split()
JITTER_MS = 200
OVERLAP_MS = 3000
SEEDS = st.integers(0, 2**32)


@dataclass(frozen=True)
class Planted:
    words: tuple[Word, ...]
    chunks: tuple[Chunk, ...]
    results: tuple[ChunkResult, ...]
    span: Span

    @property
    def texts(self) -> list[str]:
        return [word.text for word in self.words]


def word(text: str, start_ms: int, end_ms: int) -> Word:
    return Word(start_ms=start_ms, end_ms=end_ms, text=text, probability=0.9)


def speech(rng: random.Random, length_ms: int, pauses: bool) -> tuple[Word, ...]:
    """Words of 120 to 600 ms up to `length_ms`, with a breath now and then if there are `pauses`."""
    words: list[Word] = []
    at_ms = rng.randint(0, 800)
    while True:
        end_ms = at_ms + rng.randint(120, 600)
        if end_ms > length_ms:
            return tuple(words)
        words.append(word(rng.choice(VOCABULARY), at_ms, end_ms))
        at_ms = end_ms + (rng.randint(400, 1500) if pauses and rng.random() < 0.15 else rng.randint(0, 60))


def cut(rng: random.Random, words: tuple[Word, ...], span: Span, overlapping: bool) -> tuple[Chunk, ...]:
    """Chunks of 5 to 30 s: in a pause without overlap where there is one near, else anywhere with overlap."""
    cuts, reach = [], []
    at_ms = span.start_ms
    while (at_ms := at_ms + rng.randint(5_000, 30_000)) < span.end_ms - 5_000:
        pauses = [
            (a.end_ms + b.start_ms) // 2
            for a, b in pairwise(words)
            if b.start_ms - a.end_ms >= 400 and abs((a.end_ms + b.start_ms) // 2 - at_ms) < 2_000
        ]
        clean = bool(pauses) and not overlapping
        cuts.append(pauses[0] if clean else at_ms)
        reach.append(0 if clean else OVERLAP_MS)
        at_ms = cuts[-1]
    bounds, reaches = [span.start_ms, *cuts, span.end_ms], [0, *reach, 0]
    return tuple(
        Chunk(
            index=index,
            core=Span.of(start, end),
            audio=Span.of(max(span.start_ms, start - reaches[index]), min(span.end_ms, end + reaches[index + 1])),
        )
        for index, (start, end) in enumerate(pairwise(bounds))
    )


def hear(rng: random.Random, chunk: Chunk, words: tuple[Word, ...], jitter_ms: int) -> ChunkResult:
    """What an engine makes of a chunk: the words that lie in it whole, each with times of its own."""
    heard: list[Word] = []
    for planted in words:
        if planted.start_ms < chunk.audio.start_ms or planted.end_ms > chunk.audio.end_ms:
            continue
        middle_ms = planted.span.midpoint_ms + rng.randint(-jitter_ms, jitter_ms)
        length_ms = planted.span.duration_ms
        start_ms = max(0, middle_ms - length_ms // 2, heard[-1].start_ms if heard else 0)  # engines keep the order
        heard.append(word(planted.text, start_ms, start_ms + length_ms))
    return result(chunk, segmented(rng, heard))


def segmented(rng: random.Random, words: list[Word]) -> tuple[Segment, ...]:
    segments = []
    while words:
        count = rng.randint(1, 12)
        segments.append(segment(*words[:count]))
        words = words[count:]
    return tuple(segments)


def segment(*words: Word) -> Segment:
    return Segment(
        start_ms=words[0].start_ms,
        end_ms=max(w.end_ms for w in words),
        text=" ".join(w.text for w in words),
        words=words,
    )


def result(chunk: Chunk, segments: tuple[Segment, ...]) -> ChunkResult:
    return ChunkResult(
        index=chunk.index, chunk=chunk, language="en", segments=segments, decodes=(), worker="w", attempts=1, seconds={}
    )


def planted(seed: int, pauses: bool = True, overlapping: bool = False, jitter_ms: int = JITTER_MS) -> Planted:
    rng = random.Random(seed)
    span = Span.of(0, rng.randint(1, 120_000))
    words = speech(rng, span.end_ms, pauses)
    chunks = cut(rng, words, span, overlapping)
    return Planted(words, chunks, tuple(hear(rng, chunk, words, jitter_ms) for chunk in chunks), span)


def texts(segments: tuple[Segment, ...]) -> list[str]:
    return [w.text for s in segments for w in s.words]


def assert_in_order(segments: tuple[Segment, ...]) -> None:
    for earlier, later in pairwise(segments):
        assert earlier.end_ms <= later.start_ms
    words = [w for s in segments for w in s.words]
    for before, after in pairwise(words):
        assert before.end_ms <= after.start_ms
    for s in segments:
        assert s.start_ms <= s.end_ms
        assert all(s.start_ms <= w.start_ms <= w.end_ms <= s.end_ms for w in s.words)
        assert " ".join(w.text for w in s.words) == s.text


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, pauses=st.booleans(), overlapping=st.booleans())
def test_every_planted_word_comes_out_once_and_in_order(seed: int, pauses: bool, overlapping: bool) -> None:
    case = planted(seed, pauses, overlapping)

    stitched = stitch(case.results, (), case.span)

    assert texts(stitched.segments) == case.texts
    assert_in_order(stitched.segments)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_without_jitter_the_times_come_out_as_planted(seed: int) -> None:
    case = planted(seed, overlapping=True, jitter_ms=0)

    stitched = stitch(case.results, (), case.span)

    assert [w for s in stitched.segments for w in s.words] == list(case.words)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_the_order_in_which_results_arrive_does_not_matter(seed: int) -> None:
    case = planted(seed)
    shuffled = random.Random(seed).sample(case.results, len(case.results))

    assert stitch(shuffled, (), case.span) == stitch(case.results, (), case.span)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, overlapping=st.booleans())
def test_a_prefix_once_final_stays(seed: int, overlapping: bool) -> None:
    case = planted(seed, overlapping=overlapping)
    whole = [s.text for s in stitch(case.results, (), case.span).segments]

    for count in range(len(case.results) + 1):
        known = {r.index: r for r in case.results if r.index < count or r.index > count}
        prefix = final_prefix(known)
        assert [s.text for s in prefix] == whole[: len(prefix)]
        assert_in_order(prefix)
    assert [s.text for s in final_prefix({r.index: r for r in case.results})] == whole


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS)
def test_a_lost_chunk_is_a_gap_and_takes_only_its_own_words(seed: int) -> None:
    case = planted(seed, overlapping=True, jitter_ms=0)
    lost = random.Random(seed).choice(case.chunks)
    gap = Gap(start_ms=lost.core.start_ms, end_ms=lost.core.end_ms, chunk=lost.index, error="EngineError", reason="x")

    stitched = stitch([r for r in case.results if r.index != lost.index], [gap], case.span)

    assert stitched.gaps == (gap,)
    assert texts(stitched.segments) == [w.text for w in case.words if not lost.core.holds(w.span.midpoint_ms)]


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, which=st.sampled_from(["missing", "twice", "short", "early"]))
def test_what_is_not_accounted_for_is_an_error(seed: int, which: str) -> None:
    case = planted(seed)
    chosen = random.Random(seed).choice(case.results)
    core = chosen.chunk.core
    results = list(case.results)
    span = case.span
    if which == "missing":
        results.remove(chosen)
    elif which == "twice":
        results.append(chosen)
    elif which == "short":
        span = Span.of(span.start_ms, span.end_ms + 1)
    else:
        results[chosen.index] = chosen.model_copy(
            update={"chunk": chosen.chunk.model_copy(update={"core": Span.of(core.start_ms + 1, core.end_ms + 1)})}
        )

    with pytest.raises(JobError, match="00:0"):
        stitch(results, (), span)


LEFT = Chunk(index=0, core=Span.of(0, 10_000), audio=Span.of(0, 13_000))
RIGHT = Chunk(index=1, core=Span.of(10_000, 20_000), audio=Span.of(7_000, 20_000))
WHOLE = Span.of(0, 20_000)


def spoken(text: str, start_ms: int, pace_ms: int = 400) -> list[Word]:
    return [word(t, start_ms + n * pace_ms, start_ms + n * pace_ms + pace_ms - 20) for n, t in enumerate(text.split())]


def joined(left: list[Word], right: list[Word]) -> Stitched:
    return stitch([result(LEFT, (segment(*left),)), result(RIGHT, (segment(*right),))], (), WHOLE)


@pytest.mark.parametrize(("left_ms", "right_ms"), [(-150, 150), (150, -150)])
def test_a_word_that_each_side_puts_on_the_other_is_kept_once(left_ms: int, right_ms: int) -> None:
    left = spoken("we will now go down to the river", 7_200 + left_ms)
    right = spoken("we will now go down to the river", 7_200 + right_ms)

    assert texts(joined(left, right).segments) == ["we", "will", "now", "go", "down", "to", "the", "river"]


@pytest.mark.parametrize(
    ("heard_left", "heard_right"),
    [
        ("we will now go town to the river", "we will now go down to the river"),
        ("we will now go down", "we will now go down to the river bank"),
        ("go now go down to the river", "will now go down to the river"),
        ("We will now, go down to the river.", "we will now go down to the river"),
    ],
)
def test_a_border_heard_differently_has_each_place_once(heard_left: str, heard_right: str) -> None:
    out = texts(
        joined(spoken(heard_left, 7_100), spoken(heard_right, 7_100 if "we" in heard_right else 7_500)).segments
    )

    assert len(out) == max(len(heard_left.split()), len(heard_right.split()))
    assert [t.strip(",.").lower() for t in out[-2:]] == [t.strip(",.") for t in heard_right.split()[-2:]]


def test_a_misheard_word_at_the_cut_is_neither_doubled_nor_lost() -> None:
    left = spoken("one two three four five sex seven", 7_600)  # "sex" from 9_600 to 9_980, at the cut
    right = spoken("one two three four five six seven", 7_800)

    out = texts(joined(left, right).segments)

    assert out[:5] + out[6:] == ["one", "two", "three", "four", "five", "seven"]
    assert out[5] in ("sex", "six")


def test_sides_that_share_no_word_fall_back_on_the_times() -> None:
    out = texts(joined(spoken("alpha beta gamma", 8_000, 1_300), spoken("delta epsilon zeta", 8_600, 1_300)).segments)

    assert out == ["alpha", "epsilon", "zeta"] or out == ["alpha", "beta", "zeta"]


def test_a_divided_segment_keeps_its_punctuation_and_its_script() -> None:
    left = Segment(
        start_ms=8_000, end_ms=11_000, text="今日は、天気がいい。", words=tuple(
            word(t, 8_000 + n * 500, 8_480 + n * 500) for n, t in enumerate(["今日", "は、", "天気", "が", "いい。"])
        ),
    )  # fmt: skip
    right = left.shifted(40)

    stitched = stitch([result(LEFT, (left,)), result(RIGHT, (right,))], (), WHOLE)

    assert "".join(s.text for s in stitched.segments) == "今日は、天気がいい。"


def test_segments_without_words_go_whole_to_the_core_of_their_midpoint() -> None:
    def plain(text: str, start_ms: int, end_ms: int) -> Segment:
        return Segment(start_ms=start_ms, end_ms=end_ms, text=text)

    left = result(LEFT, (plain("first", 0, 9_000), plain("second", 9_000, 12_500)))
    right = result(RIGHT, (plain("second", 9_100, 12_400), plain("third", 12_400, 20_000)))

    stitched = stitch([left, right], (), WHOLE)

    assert [s.text for s in stitched.segments] == ["first", "second", "third"]


def test_words_are_taken_off_at_the_end_where_they_were_not_asked_for() -> None:
    words = spoken("we will now go down to the river", 7_200)

    stitched = stitch(
        [result(LEFT, (segment(*words),)), result(RIGHT, (segment(*words),))], (), WHOLE, keep_words=False
    )

    assert " ".join(s.text for s in stitched.segments) == "we will now go down to the river"
    assert all(s.words == () for s in stitched.segments)


def test_a_chunk_planned_past_the_end_changes_nothing() -> None:
    empty = Chunk(index=2, core=Span.of(20_000, 20_000), audio=Span.of(20_000, 20_000))
    parts = [result(LEFT, (segment(*spoken("a b", 100)),)), result(RIGHT, ()), result(empty, ())]

    assert stitch(parts, (), WHOLE) == stitch(parts[:2], (), WHOLE)
