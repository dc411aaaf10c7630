"""Does a text look like speech at all? Structure only, because a model that loops is sure of itself. Pure.

A suspicion costs a second decode and nothing else, so the thresholds lie where honest speech does
not reach: none of them fires on the truth of the synthetic recordings, whose sentences repeat
number words and draw on a hundred words (tests/unit/test_suspicion.py).
"""

import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from workers.spans import Span
from workers.transcript import Segment

LONGEST_PHRASE = 12  # words; a longer phrase that repeats shows in the compression ratio
LOOP_WORDS = 10  # "no, no, no, no" and lists of six numbers are said; ten words of one phrase are not
LOOP_TIMES = 4
LOOP_TIMES_LONG = 3  # phrases of five words and more: people say a sentence twice, not three times in a row
LONG_PHRASE = 5
SAME_SEGMENT_TIMES = 5  # and at least half of all segments: "Thank you." all over again
RATIO_WORDS = 80  # about half a minute of speech, the window for which Whisper's authors chose their ratio
RATIO = 2.4  # Whisper's own compression_ratio_threshold; the synthetic truth reaches 2.15 (3,000 random texts)
WORDS_A_SECOND = 8.0  # conversation has 2 to 4, the fastest readers 6
FAST_WORDS = 8  # fewer words than this prove no speed: their times are rounded
SILENT_SHARE = 0.8  # of a segment's time that lies outside speech
SILENT_WORDS = 3  # fewer are an interjection that the voice detector missed
NEAR_SPEECH_MS = 400  # faster-whisper's own padding of detected speech: soft onsets and time stamps that are off
MUCH_SPEECH_MS = 10_000
FEW_WORDS_A_SECOND = 0.1  # of detected speech; slow singing has 1

# Scripts without spaces: a character is taken for half a word
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKENS = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])[^\W_])+(?:['’](?:(?![{_UNSPACED}])[^\W_])+)*")
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


@dataclass(frozen=True)
class Suspicion:
    """What looks wrong with a pass (nothing: the tuple is empty), and how bad the pass is, from 0.

    score: the share of its words that are doubtful plus the share of speech that has no text; it orders
    two passes over the same audio and means nothing else.
    """

    reasons: tuple[str, ...]
    score: float


def suspect(segments: Sequence[Segment], speech: Sequence[Span], audio_ms: int) -> Suspicion:
    """Judge one pass over `audio_ms` of audio in which `speech` was detected (all on the same clock)."""
    words = [token for segment in segments for token in tokens(segment.text)]
    total = max(1, len(words))
    reasons: list[str] = []
    doubtful = 0.0
    for reason, count in (
        _loop(words),
        _same_segment(segments),
        _repetitive(words),
        _too_fast(segments),
        _over_silence(segments, speech, audio_ms),
    ):
        if reason:
            reasons.append(reason)
            doubtful += count / total
    voiced = sum(region.duration_ms for region in speech)
    if voiced >= MUCH_SPEECH_MS and _weight(words) < FEW_WORDS_A_SECOND * voiced / 1000:
        reasons.append(f"{len(words)} words in {voiced / 1000:.0f} s of speech")
        doubtful += 1.0
    return Suspicion(tuple(reasons), round(doubtful + _unheard(segments, speech), 4))


def tokens(text: str) -> list[str]:
    """The words of a text in lower case without punctuation; characters where a script has no spaces."""
    return _TOKENS.findall(text.lower())


def _loop(words: Sequence[str]) -> tuple[str, int]:
    """The longest run of one phrase back to back, where it is a loop."""
    longest, phrase_of, times_of = 0, 1, 0
    start_of = 0
    for phrase in range(1, LONGEST_PHRASE + 1):
        run = 0  # words in a row that equal the word one phrase before
        for at in range(phrase, len(words) + 1):
            if at < len(words) and words[at] == words[at - phrase]:
                run += 1
                continue
            times = run // phrase + 1
            enough = LOOP_TIMES_LONG if phrase >= LONG_PHRASE else LOOP_TIMES
            if times >= enough and times * phrase >= LOOP_WORDS and run + phrase > longest:
                longest, phrase_of, times_of, start_of = run + phrase, phrase, times, at - run - phrase
            run = 0
    if not longest:
        return "", 0
    text = " ".join(words[start_of : start_of + phrase_of])
    return f"'{text}' {times_of} times in a row", longest


def _same_segment(segments: Sequence[Segment]) -> tuple[str, int]:
    texts = Counter(" ".join(tokens(segment.text)) for segment in segments)
    if not texts:
        return "", 0
    text, times = texts.most_common(1)[0]
    if times < SAME_SEGMENT_TIMES or times * 2 < len(segments):
        return "", 0
    return f"'{text}' is {times} of {len(segments)} segments", times * len(text.split())


def _repetitive(words: Sequence[str]) -> tuple[str, int]:
    """Stretches of RATIO_WORDS that compress better than speech does."""
    bad, worst = 0, 0.0
    for at in range(0, len(words) - RATIO_WORDS + 1, RATIO_WORDS // 2):
        ratio = compression_ratio(" ".join(words[at : at + RATIO_WORDS]))
        if ratio > RATIO:
            bad, worst = bad + RATIO_WORDS // 2, max(worst, ratio)
    return (f"text compresses {worst:.1f} times", bad) if bad else ("", 0)


def compression_ratio(text: str) -> float:
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _too_fast(segments: Sequence[Segment]) -> tuple[str, int]:
    bad = 0
    for segment in segments:
        words = tokens(segment.text)
        if len(words) >= FAST_WORDS and _weight(words) > WORDS_A_SECOND * max(segment.span.duration_ms, 1) / 1000:
            bad += len(words)
    return (f"{bad} words faster than anyone speaks", bad) if bad else ("", 0)


def _over_silence(segments: Sequence[Segment], speech: Sequence[Span], audio_ms: int) -> tuple[str, int]:
    near = _widened(speech, audio_ms)
    bad = 0
    for segment in segments:
        words = len(tokens(segment.text))
        length = segment.span.duration_ms
        voiced = sum(segment.span.overlap_ms(region) for region in near)
        if words >= SILENT_WORDS and length and voiced < (1 - SILENT_SHARE) * length:
            bad += words
    return (f"{bad} words over silence", bad) if bad else ("", 0)


def _unheard(segments: Sequence[Segment], speech: Sequence[Span]) -> float:
    """Share of detected speech that no segment covers."""
    voiced = sum(region.duration_ms for region in speech)
    covered = sum(region.overlap_ms(segment.span) for region in speech for segment in segments)
    return max(0.0, 1 - covered / voiced) if voiced else 0.0


def _widened(speech: Sequence[Span], audio_ms: int) -> list[Span]:
    """Speech with NEAR_SPEECH_MS around it, joined where that touches."""
    wide: list[Span] = []
    for region in speech:
        start = max(0, region.start_ms - NEAR_SPEECH_MS)
        end = max(start, min(audio_ms, region.end_ms + NEAR_SPEECH_MS))
        if wide and start <= wide[-1].end_ms:
            wide[-1] = Span.of(wide[-1].start_ms, max(end, wide[-1].end_ms))
        else:
            wide.append(Span.of(start, end))
    return wide


def _weight(words: Sequence[str]) -> float:
    return sum(0.5 if _UNSPACED_CHARACTER.fullmatch(word) else 1.0 for word in words)
