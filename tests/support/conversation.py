"""Made-up transcripts for the page: an interview as people talk, and one of any length."""

import random
from collections.abc import Iterable
from itertools import groupby

from workers.transcript import Gap, NoSpeaker, Provenance, Segment, Speaker, SpeakerTurn, Transcript, Word

INTERVIEW = (
    ("Mara", 400, "Good evening, and welcome to the second part of our series on the river."),
    ("Mara", 300, "With me are Jonas, who has measured its water for eleven years, and Wanjiru, who plans its banks."),
    ("Jonas", 500, "Thank you for having us."),
    ("Wanjiru", -350, "Thanks, it's good to be here."),
    ("Mara", 700, "Jonas, when you began, people told you that nothing lived in it any more. Was that so?"),
    ("Jonas", 900, "Almost. In the first summer we found four kinds of fish, all of them just below the weir."),
    ("Jonas", 350, "Last year there were nineteen, and for the first time young barbel, which need clean gravel."),
    ("Jonas", 400, "So the short answer is: it was not dead, but it was holding its breath."),
    ("Mara", 600, "And what changed? The treatment plant?"),
    ("Jonas", -250, "The plant, yes, but above all the small things: two leaking sewers that nobody had on a map."),
    ("Wanjiru", 450, "May I add something? Because the map is where our work begins."),
    (
        "Wanjiru",
        300,
        "For sixty years the river was drawn as a straight line, so everybody planned along a straight line.",
    ),
    (
        "Wanjiru",
        350,
        "When we laid the old survey of 1880 over it, we saw eleven bends that had simply been forgotten.",
    ),
    ("Mara", 800, "Forgotten, or filled in?"),
    ("Wanjiru", 400, "Filled in first. And then forgotten."),
    ("Jonas", -300, "Exactly."),
    (
        "Wanjiru",
        500,
        "Three of them are still there under a car park, with the groundwater standing in them each spring.",
    ),
    ("Mara", 900, "Let us stay with the car park for a moment, because we have had many letters about it."),
    ("Mara", 350, "What would you say to someone who parks there every morning and takes the train?"),
    ("Wanjiru", 1000, "That they will still take the train. We move the spaces two hundred metres, up the slope."),
    ("Wanjiru", 300, "What they get for it is a meadow that floods instead of their cellar."),
    (
        "Jonas",
        700,
        "And shade. In the heat of July the water at the weir was three degrees warmer than above the town.",
    ),
)
_SECONDS_A_LETTER = 0.062
_ODD_NAMES = (None, "Ann", "B <& C>", "日本語の名前", "A name longer than any line has room for", " odd\x1f\u2028name ")
_ODD_WORDS = (
    *("so", "-->", "on;", "Tom", "&", "all.", "they?", "今日", "は、", "いい", "です。", "今日は天気がいいですね😀"),
    *(
        "x😀y",
        "a\u2003b",
        "supercalifragilisticexpialidociousandlongerthanalinecanbe",
        "“quoted.”",
        "…",
        "한국어",
        "\u0301",
    ),
)


def interview(media: str = "River talk, part 2.flac") -> Transcript:
    """Three people, turns that overlap, doubtful words, a lost stretch, a sentence nobody is named for."""
    segments: list[Segment] = []
    at_ms = 800
    for speaker, pause_ms, text in INTERVIEW:
        at_ms = max(0, at_ms + pause_ms)
        segments.append(_said(text, at_ms, speaker))
        at_ms = segments[-1].end_ms
    lost = Gap(start_ms=at_ms + 400, end_ms=at_ms + 15_400, chunk=4, error="EngineError", reason="out of memory")
    segments.append(_said("And the school?", lost.end_ms + 500, None, "no turn near"))
    segments.append(_said("The school keeps its garden, and gets a bank to sit on.", lost.end_ms + 2_900, "Wanjiru"))
    return _transcript(
        media,
        segments,
        (lost,),
        ("The text of 00:01:10–00:01:20 may be wrong, also after a second try: words repeat.",),
    )


def long_talk(hours: float, speakers: int = 4, seed: int = 1) -> Transcript:
    """Some 9,000 words an hour in turns of a few seconds."""
    dice = random.Random(seed)
    vocabulary = " ".join(text for _, _, text in INTERVIEW).split()
    segments, at_ms, speaker = [], 0, 0
    while at_ms < hours * 3_600_000 - 30_000:
        if dice.random() < 0.6:
            speaker = dice.randrange(speakers)
        text = " ".join(dice.choices(vocabulary, k=dice.randint(3, 28)))
        segments.append(_said(text, at_ms + dice.randint(0, 1_500), f"SPEAKER_{speaker:02d}"))
        at_ms = segments[-1].end_ms
    return _transcript("board meeting.mp3", segments, (), ())


def odd_talk(seed: int) -> Transcript:
    """A few segments with all that can go wrong: no words, other words than the text, times that overlap."""
    dice = random.Random(seed)
    segments: list[Segment] = []
    at_ms = 0
    for _ in range(dice.randint(0, 8)):
        speaker = dice.choice(_ODD_NAMES)
        at_ms = begin_ms = max(0, at_ms + dice.randint(-600, 2_500))
        words: list[Word] = []
        for _ in range(dice.randint(1, 25)):
            at_ms += dice.choice((0, 0, 0, 50, 400, 1_600))
            who = dice.choice((speaker, speaker, None, "Ann")) if dice.random() < 0.2 else speaker
            end_ms = at_ms + dice.randint(0, 900)
            said = dice.choice(_ODD_WORDS)
            words.append(Word(start_ms=at_ms, end_ms=end_ms, text=said, probability=0.5, speaker=who))
            at_ms = end_ms
        joined = dice.choice((" ", "", "  ")).join(word.text for word in words)
        text = joined if dice.random() < 0.8 else "something else entirely"
        kept = tuple(words) if dice.random() < 0.8 else ()
        segments.append(Segment(start_ms=begin_ms, end_ms=at_ms, text=text, speaker=speaker, words=kept))
    gaps = []
    for _ in range(dice.randint(0, 2)):
        start_ms, reason = dice.randrange(200_000), " ".join(dice.choices(_ODD_WORDS, k=12))
        gaps.append(Gap(start_ms=start_ms, end_ms=start_ms + 9_999_999, chunk=None, error="E", reason=reason))
    provenance = Provenance(whisperfleet="0", job="j", media="m.mp3", model="m", engine="e", options={})
    return Transcript(
        duration_ms=at_ms, language=None, segments=tuple(segments), gaps=tuple(gaps), provenance=provenance
    )


def renamed(transcript: Transcript, names: dict[str, str]) -> Transcript:
    """What the page is to save after its user gave these names; nobody is merged."""

    def named(part: Segment | Word | SpeakerTurn) -> dict[str, str]:
        return {"speaker": names.get(part.speaker, part.speaker)} if part.speaker is not None else {}

    segments = [
        segment.model_copy(
            update={**named(segment), "words": tuple(word.model_copy(update=named(word)) for word in segment.words)}
        )
        for segment in transcript.segments
    ]
    people = [
        one.model_copy(update={"name": names[one.name], "similarity": None}) if one.name in names else one
        for one in transcript.speakers
    ]
    turns = [turn.model_copy(update=named(turn)) for turn in transcript.turns]
    return transcript.model_copy(update={"segments": tuple(segments), "speakers": tuple(people), "turns": tuple(turns)})


def _said(text: str, at_ms: int, speaker: str | None, no_speaker: NoSpeaker | None = None) -> Segment:
    words = []
    for number, word in enumerate(text.split()):
        end_ms = at_ms + round(1000 * _SECONDS_A_LETTER * (len(word) + 1))
        probability = 0.31 if word in ("barbel,", "weir.", "1880") else 0.9 + 0.01 * (number % 10)
        confidence = 1.0 if speaker else None
        words.append(
            Word(
                start_ms=at_ms,
                end_ms=end_ms,
                text=word,
                probability=probability,
                speaker=speaker,
                speaker_confidence=confidence,
                no_speaker=no_speaker,
            )
        )
        at_ms = end_ms + (140 if word[-1] in ".,:?" else 0)
    return Segment(
        start_ms=words[0].start_ms,
        end_ms=words[-1].end_ms,
        text=text,
        speaker=speaker,
        no_speaker=no_speaker,
        words=tuple(words),
    )


def _transcript(media: str, segments: list[Segment], gaps: tuple[Gap, ...], warnings: tuple[str, ...]) -> Transcript:
    turns = tuple(_turns(segments))
    return Transcript(
        duration_ms=segments[-1].end_ms + 1_200,
        language="en",
        segments=tuple(segments),
        speakers=tuple(_people(turns)),
        turns=turns,
        gaps=gaps,
        warnings=warnings,
        provenance=Provenance(
            whisperfleet="0.1.0",
            job="0123456789abcdef",
            media=media,
            model="turbo",
            engine="faster-whisper",
            options={},
        ),
    )


def _turns(segments: Iterable[Segment]) -> Iterable[SpeakerTurn]:
    for speaker, said in groupby(segments, key=lambda one: one.speaker):
        group = list(said)
        if speaker is not None:
            yield SpeakerTurn(start_ms=group[0].start_ms, end_ms=group[-1].end_ms, speaker=speaker)


def _people(turns: Iterable[SpeakerTurn]) -> Iterable[Speaker]:
    spoken: dict[str, int] = {}
    for turn in turns:
        spoken[turn.speaker] = spoken.get(turn.speaker, 0) + turn.end_ms - turn.start_ms
    return (Speaker(name=name, spoken_ms=ms, similarity=0.83) for name, ms in spoken.items())
