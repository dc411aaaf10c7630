"""Who said each word: golden cases of each rule, a slow second implementation, and what may never be lost."""

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.attribution import attribute, without_speakers
from workers.spans import Span
from workers.transcript import Segment, SpeakerTurn, Word

Said = tuple[str, int, int]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def turn(speaker: str, start_ms: int, end_ms: int) -> SpeakerTurn:
    return SpeakerTurn(start_ms=start_ms, end_ms=end_ms, speaker=speaker)


def segment(*said: Said, joint: str = " ") -> Segment:
    words = tuple(Word(start_ms=start, end_ms=end, text=text, probability=1) for text, start, end in said)
    return Segment(
        start_ms=min(word.start_ms for word in words),
        end_ms=max(word.end_ms for word in words),
        text=joint.join(word.text for word in words),
        words=words,
    )


def words_of(segments: Sequence[Segment]) -> list[Word]:
    return [word for one in segments for word in one.words]


def speakers(segments: Sequence[Segment]) -> list[str | None]:
    return [word.speaker for word in words_of(segments)]


def bare(segment: Segment) -> str:
    return "".join(segment.text.split())


# ---- golden cases ----


def test_the_largest_overlap_says_who_spoke_and_how_surely() -> None:
    (one,) = attribute([segment(("yes", 1_000, 1_400))], [turn("A", 0, 1_100), turn("B", 1_150, 3_000)])

    assert (one.speaker, one.no_speaker) == ("B", None)
    assert (one.words[0].speaker, one.words[0].speaker_confidence) == ("B", 0.625)


def test_two_turns_of_one_speaker_count_together() -> None:
    turns = [turn("A", 0, 1_150), turn("B", 1_150, 1_350), turn("A", 1_350, 2_000)]
    (one,) = attribute([segment(("yes", 1_000, 1_500))], turns)

    assert (one.speaker, one.words[0].speaker_confidence) == ("A", 0.6)


def test_a_tie_goes_to_the_speaker_of_the_word_before_and_else_to_who_spoke_first() -> None:
    turns = [turn("A", 0, 1_000), turn("B", 1_000, 2_000), turn("C", 2_000, 3_000)]
    tied = ("tied", 910, 1_110)  # A covers 90 ms, B 110

    assert speakers(attribute([segment(("so", 500, 700), tied)], turns)) == ["A", "A"]
    assert speakers(attribute([segment(("so", 500, 700)), segment(tied)], turns)) == ["A", "A"]
    assert speakers(attribute([segment(tied)], turns)) == ["B"]
    assert speakers(attribute([segment(("even", 900, 1_100))], turns)) == ["A"]
    assert speakers(attribute([segment(("so", 500, 700), ("not", 909, 1_110))], turns)) == ["A", "A"]
    assert speakers(attribute([segment(("so", 500, 700), ("not", 911, 1_110))], turns)) == ["A", "B"]
    assert speakers(attribute([segment(("so", 2_500, 2_700), ("even", 900, 1_100))], turns)) == ["C", "A"]


def test_a_word_right_after_a_long_turn_is_not_of_a_short_one_further_on() -> None:
    """By the middles of turns it would be: that of the long one is 30 s away."""
    turns = [turn("A", 0, 60_000), turn("B", 62_300, 62_800)]
    (one,) = attribute([segment(("well", 60_300, 60_500))], turns)

    assert (one.speaker, one.words[0].speaker_confidence) == ("A", 0.0)


def test_beside_all_turns_the_nearest_edge_counts_up_to_half_a_second() -> None:
    turns = [turn("A", 1_000, 2_000), turn("B", 4_000, 5_000)]

    assert speakers(attribute([segment(("near", 2_500, 2_600))], turns)) == ["A"]
    assert speakers(attribute([segment(("near", 3_300, 3_500))], turns)) == ["B"]
    for gone in (("far", 2_501, 2_600), ("far", 3_300, 3_499), ("far", 5_501, 5_600), ("far", 100, 499)):
        (one,) = attribute([segment(gone)], turns)
        assert (one.speaker, one.no_speaker) == (None, "no turn near")
        assert (one.words[0].speaker_confidence, one.words[0].no_speaker) == (None, "no turn near")


def test_in_the_middle_between_two_turns_the_one_before_goes_on() -> None:
    turns = [turn("A", 0, 1_000), turn("B", 1_400, 2_000)]

    assert speakers(attribute([segment(("um", 1_100, 1_300))], turns)) == ["A"]
    assert speakers(attribute([segment(("um", 1_110, 1_310))], turns)) == ["B"]


def test_a_pause_is_bridged_inside_a_segment_only() -> None:
    turns = [turn("A", 0, 1_000)]
    first, second = ("one", 500, 1_200), ("two", 2_200, 2_300)

    assert speakers(attribute([segment(first, second)], turns)) == ["A", "A"]
    assert speakers(attribute([segment(first), segment(second)], turns)) == ["A", None]
    assert speakers(attribute([segment(first, ("two", 2_201, 2_300))], turns)) == ["A", None]


def test_what_was_not_diarized_says_so_and_nobody_is_carried_into_it() -> None:
    turns, missing = [turn("A", 0, 10_000)], [Span.of(20_000, 25_000), Span.of(10_000, 12_000)]
    said = segment(("a", 9_000, 9_200), ("b", 10_400, 10_500), ("c", 10_700, 10_900), ("d", 12_100, 12_200))
    parts = attribute([said, segment(("e", 19_500, 20_001)), segment(("f", 25_000, 25_100))], turns, missing)

    assert [(word.speaker, word.no_speaker) for word in words_of(parts)] == [
        ("A", None),
        ("A", None),
        (None, "not diarized"),
        (None, "no turn near"),
        (None, "not diarized"),
        (None, "no turn near"),
    ]
    assert [part.text for part in parts] == ["a b", "c", "d", "e", "f"]
    assert [part.no_speaker for part in parts] == [None, "not diarized", "no turn near", "not diarized", "no turn near"]


def test_a_word_without_length_is_heard_where_it_stands() -> None:
    (one,) = attribute([segment(("a", 1_000, 1_000))], [turn("A", 0, 1_000), turn("B", 1_000, 2_000)])

    assert (one.speaker, one.words[0].speaker_confidence) == ("B", 1.0)


def test_the_last_word_before_a_silence_is_not_as_long_as_it_looks() -> None:
    """It is reported until the next speaker's first word, 4 s later."""
    turns = [turn("A", 0, 1_200), turn("B", 3_000, 9_000)]
    (one,) = attribute([segment(("bye.", 1_000, 5_000))], turns)

    assert (one.speaker, one.words[0].speaker_confidence) == ("A", 0.133)
    assert (one.start_ms, one.end_ms) == (1_000, 5_000)


def test_of_people_who_speak_at_once_a_word_has_the_one_of_the_exclusive_turns() -> None:
    turns = [turn("A", 0, 2_000), turn("B", 2_000, 2_600), turn("A", 2_600, 4_000)]
    said = segment(("I", 1_800, 1_990), ("really", 2_050, 2_500), ("do", 2_650, 2_800))

    assert speakers(attribute([said], turns)) == ["A", "B", "A"]


def test_a_segment_is_divided_where_the_speaker_changes() -> None:
    said = segment(
        ("How", 0, 200), ("are", 250, 400), ("you?", 450, 900), ("Fine,", 1_100, 1_500), ("you?", 1_600, 2_000)
    )
    said = said.model_copy(update={"start_ms": 0, "end_ms": 2_400, "text": " How are you?  - Fine, you? "})
    question, answer = attribute([said], [turn("A", 0, 950), turn("B", 1_050, 2_100)])

    assert (question.start_ms, question.end_ms, question.text, question.speaker) == (0, 900, "How are you?  -", "A")
    assert (answer.start_ms, answer.end_ms, answer.text, answer.speaker) == (1_100, 2_000, "Fine, you?", "B")
    assert [word.text for word in answer.words] == ["Fine,", "you?"]


def test_a_segment_of_one_speaker_stays_as_it_is() -> None:
    said = segment(("a", 100, 200), ("b", 300, 400)).model_copy(update={"start_ms": 0, "end_ms": 900, "text": " a  b "})
    (one,) = attribute([said], [turn("A", 0, 950)])

    assert (one.start_ms, one.end_ms, one.text) == (0, 900, " a  b ")


def test_scripts_without_spaces_stay_without() -> None:
    said = segment(("今日", 0, 400), ("は、", 400, 600), ("はい", 1_000, 1_400), ("。", 1_400, 1_500), joint="")
    parts = attribute([said], [turn("A", 0, 700), turn("B", 900, 2_000)])

    assert [(part.speaker, part.text) for part in parts] == [("A", "今日は、"), ("B", "はい。")]


def test_words_that_are_not_in_the_text_are_the_text_of_their_part() -> None:
    said = segment(("five", 0, 400), ("yes", 1_000, 1_400)).model_copy(update={"text": "5 yes"})
    parts = attribute([said], [turn("A", 0, 700), turn("B", 900, 2_000)])

    assert [part.text for part in parts] == ["five", "yes"]


def test_a_short_word_alone_inside_a_sentence_is_no_change_of_speaker() -> None:
    turns = [turn("A", 0, 1_000), turn("B", 1_000, 1_250), turn("A", 1_250, 3_000)]
    island = segment(("I", 800, 950), ("a", 990, 1_240), ("dog", 1_300, 1_600))
    (one,) = attribute([island], turns)

    assert (one.speaker, one.text) == ("A", "I a dog")
    assert [word.speaker_confidence for word in one.words] == [1.0, 0.04, 1.0]

    answers = segment(("Dog?", 800, 950), ("Yes.", 1_010, 1_240), ("Good.", 1_300, 1_600))
    assert speakers(attribute([answers], turns)) == ["A", "B", "A"]
    quoted = segment(("(dog?)", 800, 950), ("yes", 1_010, 1_240), ("good", 1_300, 1_600))
    assert speakers(attribute([quoted], turns)) == ["A", "B", "A"]
    long = [turn("A", 0, 1_000), turn("B", 1_000, 1_300), turn("A", 1_300, 3_000)]
    assert (
        speakers(attribute([segment(("I", 800, 950), ("own", 1_000, 1_300), ("dogs", 1_300, 1_600))], long))[1] == "B"
    )
    two = segment(("I", 800, 950), ("a", 1_000, 1_100), ("b", 1_100, 1_240), ("dog", 1_300, 1_600))
    assert speakers(attribute([two], turns)) == ["A", "B", "B", "A"]


def test_words_that_flicker_settle_on_the_first_speaker() -> None:
    said = segment(*((f"w{at}", at * 200, at * 200 + 200) for at in range(7)))
    turns = [turn("AB"[at % 2], at * 200, at * 200 + 200) for at in range(7)]

    assert speakers(attribute([said], turns)) == ["A"] * 7


def test_words_out_of_order_are_each_heard_at_their_own_time() -> None:
    said = segment(("late", 5_000, 5_400), ("early", 1_000, 1_400), ("last", 9_000, 9_300))
    parts = attribute([said], [turn("A", 0, 2_000), turn("B", 4_000, 6_000), turn("C", 8_000, 9_999)])

    assert [(part.speaker, part.text, part.start_ms) for part in parts] == [
        ("B", "late", 5_000),
        ("A", "early", 1_000),
        ("C", "last", 9_000),
    ]


def test_a_segment_without_words_has_one_speaker_as_a_whole() -> None:
    turns = [turn("A", 0, 2_000), turn("B", 2_000, 9_000)]

    def whole(start_ms: int, end_ms: int) -> Segment:
        return Segment(start_ms=start_ms, end_ms=end_ms, text="one two")

    parts = attribute([whole(0, 5_000), whole(9_500, 9_900), whole(9_501, 12_000), whole(20_000, 21_000)], turns)
    assert [(part.speaker, part.no_speaker) for part in parts] == [
        ("B", None),
        ("B", None),
        (None, "no turn near"),
        (None, "no turn near"),
    ]
    (lost,) = attribute([whole(20_000, 21_000)], turns, [Span.of(20_900, 30_000)])
    assert (lost.speaker, lost.no_speaker) == (None, "not diarized")


def test_nobody_speaks_where_there_are_no_turns() -> None:
    assert attribute([], [turn("A", 0, 1)]) == ()
    (one,) = attribute([segment(("a", 0, 100))], [turn("A", 50, 50)])
    assert (one.speaker, one.no_speaker, one.words[0].no_speaker) == (None, "no turn near", "no turn near")


@pytest.mark.parametrize("reason", ["off", "failed", "not diarized"])
def test_without_speakers_every_word_says_why(reason: str) -> None:
    known = attribute([segment(("a", 0, 100)), segment(("b", 200, 300), ("c", 300, 400))], [turn("A", 0, 400)])
    nobody = without_speakers(known, reason)  # type: ignore[arg-type]

    assert [one.text for one in nobody] == ["a", "b c"]
    said = [(one.speaker, one.no_speaker) for one in nobody] + [(w.speaker, w.no_speaker) for w in words_of(nobody)]
    assert set(said) == {(None, reason)}
    assert {word.speaker_confidence for word in words_of(nobody)} == {None}


def test_no_step_is_quadratic() -> None:
    """In one segment, with as many turns and a change at every word: one quadratic step would take minutes."""
    said = segment(*((LETTERS[at % 26], at * 400, at * 400 + 390) for at in range(30_000)))
    turns = [turn("AB"[at % 2], at * 400, at * 400 + 400) for at in range(30_000)]
    parts = attribute([said.model_copy(update={"text": said.text.replace(" ", "")})], turns)

    assert "".join(part.text + str(part.speaker) for part in parts[:3]) == "aAbBcA"
    assert len(parts) == len(words_of(parts)) == 30_000


# ---- properties ----


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Segment], list[SpeakerTurn], list[Span]]:
    """Random words (sometimes out of order), exclusive turns and holes; small times, so that edges meet often."""
    turns, at_ms = [], 0
    for speaker, pause, length in draw(
        st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 1_500), st.integers(1, 2_000)), max_size=8)
    ):
        turns.append(turn(speaker, at_ms + pause, at_ms + pause + length))
        at_ms += pause + length
    said = st.tuples(st.sampled_from(["a", "aa", "no.", "は", "b,"]), st.integers(0, 900), st.integers(0, 2_500))
    segments, at_ms = [], 0
    for several in draw(st.lists(st.lists(said, max_size=8), max_size=4)):
        words: list[Said] = []
        for text, pause, length in several:
            words.append((text, at_ms + pause, at_ms + pause + length))
            at_ms += pause + min(length, 400)
        if draw(st.booleans()):
            words = words[::-1]
        joint = draw(st.sampled_from([" ", "", "  - "]))
        segments.append(
            segment(*words, joint=joint) if words else Segment(start_ms=at_ms, end_ms=at_ms + 700, text="w o w")
        )
        at_ms += 0 if words else 700
    holes = [
        Span.of(a, a + n)
        for a, n in draw(st.lists(st.tuples(st.integers(0, 9_000), st.integers(0, 2_000)), max_size=3))
    ]
    return segments, turns, holes


@settings(max_examples=100, deadline=None)
@given(scene=scenes())
def test_nothing_is_lost_doubled_or_moved_and_everybody_is_named_or_explained(
    scene: tuple[list[Segment], list[SpeakerTurn], list[Span]],
) -> None:
    segments, turns, missing = scene
    parts = attribute(segments, turns, missing)

    assert [(w.text, w.start_ms, w.end_ms) for w in words_of(parts)] == [
        (w.text, w.start_ms, w.end_ms) for w in words_of(segments)
    ]
    assert "".join(map(bare, parts)) == "".join(map(bare, segments))
    assert all(part.text in {s.text for s in segments} or part.text == part.text.strip() for part in parts)
    for part in parts:
        assert (part.speaker is None) != (part.no_speaker is None)
        assert all((w.speaker, w.no_speaker) == (part.speaker, part.no_speaker) for w in part.words)
        assert all(part.start_ms <= w.start_ms and w.end_ms <= part.end_ms for w in part.words)
    for word in words_of(parts):
        assert (word.speaker_confidence is None) == (word.speaker is None)
        assert word.speaker_confidence is None or 0 <= word.speaker_confidence <= 1


@settings(max_examples=60, deadline=None)
@given(scene=scenes())
def test_every_text_of_a_part_stands_in_the_text_of_its_segment(
    scene: tuple[list[Segment], list[SpeakerTurn], list[Span]],
) -> None:
    segments, turns, missing = scene
    for one in segments:
        at = 0
        for part in attribute([one], turns, missing):
            at = one.text.index(part.text, at) + len(part.text)
            assert part.text.strip().startswith(part.words[0].text if part.words else "")


def by_rules(word: Word, turns: Sequence[SpeakerTurn]) -> set[str]:
    """Rules 1 to 3 for a word alone, every millisecond looked at: who may be named; nobody: nothing is near."""
    heard = range(word.start_ms, max(min(word.end_ms, word.start_ms + 1_500), word.start_ms + 20))
    counts: dict[str, int] = {}
    for ms in heard:
        for one in turns:
            if one.start_ms <= ms < one.end_ms:
                counts[one.speaker] = counts.get(one.speaker, 0) + 1
    if counts:
        return {speaker for speaker, count in counts.items() if count >= max(counts.values()) - 20}
    edges = [(max(one.start_ms - heard.stop, heard.start - one.end_ms), one.speaker) for one in turns]
    nearest = min(edges, default=(501, ""))[0]
    return {speaker for apart, speaker in edges if apart == nearest} if nearest <= 500 else set()


@settings(max_examples=60, deadline=None)
@given(scene=scenes())
def test_a_second_slow_implementation_names_the_same(
    scene: tuple[list[Segment], list[SpeakerTurn], list[Span]],
) -> None:
    """Each word as a segment of its own: no island, no pause to bridge."""
    segments, turns, missing = scene
    alone = [
        one.model_copy(update={"start_ms": w.start_ms, "end_ms": w.end_ms, "text": w.text, "words": (w,)})
        for one in segments
        for w in one.words
    ]
    previous: str | None = None
    for part in attribute(alone, turns, missing):
        may = by_rules(part.words[0], turns)
        assert part.speaker in may if may else part.speaker is None
        if previous in may and part.words[0].speaker_confidence != 0:
            assert part.speaker == previous
        previous = part.speaker


# ---- with the truth known ----


def conversation(rng: random.Random, words: int) -> tuple[list[Segment], list[SpeakerTurn], list[str]]:
    """Segments that ignore who speaks, exclusive turns off by up to 200 ms at their edges, and the truth."""
    said: list[Said] = []
    truth: list[str] = []
    turns: list[SpeakerTurn] = []
    at_ms, speaker = 0, "A"
    while len(said) < words:
        speaker = rng.choice([other for other in "ABCD" if other != speaker])
        at_ms += rng.randint(0, 600)
        start_ms = at_ms
        for number in range(length := rng.randint(1, 30)):
            end_ms = at_ms + rng.randint(120, 500)
            said.append((f"w{number}" + "." * (number + 1 == length), at_ms, end_ms))
            truth.append(speaker)
            at_ms = end_ms + rng.choice([0, 0, 0, 20, 300])
        turns.append(turn(speaker, max(0, start_ms + rng.randint(-200, 200)), said[-1][2] + rng.randint(-200, 200)))
    apart = [
        one.model_copy(update={"end_ms": min(one.end_ms, two.start_ms)}) for one, two in pairwise([*turns, turns[-1]])
    ]
    apart[-1] = turns[-1]
    segments, first = [], 0
    while first < len(said):
        count = rng.randint(3, 25)
        segments.append(segment(*said[first : first + count]))
        first += count
    return segments, apart, truth


@pytest.mark.parametrize("seed", range(4))
def test_words_of_a_conversation_have_their_speakers(seed: int) -> None:
    """WDER with oracle words; the edges of turns are off by more than a good diarizer's."""
    segments, turns, truth = conversation(random.Random(seed), 3_000)

    def wder(turns: Sequence[SpeakerTurn]) -> float:
        found = speakers(attribute(segments, turns))
        return sum(one != other for one, other in zip(found, truth, strict=True)) / len(truth)

    assert wder(turns) <= 0.01
    late = [one.model_copy(update={"start_ms": one.start_ms + 900, "end_ms": one.end_ms + 900}) for one in turns]
    assert wder(late) > 0.05
