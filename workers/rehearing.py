"""Which parts of a chunk's text are to blame for a suspicion, and what becomes of them when heard again. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workers.recognizers.windows import plan_windows
from workers.spans import Span
from workers.suspicion import suspect
from workers.transcript import Segment


@dataclass(frozen=True)
class Window:
    """Up to 30 s of a chunk between two pauses: the speech that was detected in it, and the text of it."""

    span: Span
    speech: tuple[Span, ...]
    segments: tuple[Segment, ...]


def blamed(
    audio: NDArray[np.float32], speech: Sequence[Span], segments: Sequence[Segment], audio_ms: int
) -> list[Window]:
    """The windows whose text is suspicious by itself; all as one where only the whole is: a text that returns, say."""
    spans = plan_windows(audio, speech)
    windows = [
        Window(span, tuple(_inside(span, speech)), texts)
        for span, texts in zip(spans, _shared_out(spans, segments), strict=True)
    ]
    guilty = [window for window in windows if suspect(window.segments, window.speech, audio_ms).reasons]
    return guilty or [Window(Span.of(0, audio_ms), tuple(speech), tuple(segments))]


def spliced(
    first: Sequence[Segment], windows: Sequence[Window], second: Sequence[Segment], audio_ms: int
) -> tuple[tuple[Segment, ...], int]:
    """The first pass's text with that of `second` in each of `windows` where it is the less doubtful one.

    Also how many windows were replaced. Segments stay in order and do not overlap.
    """
    kept, replaced = list(first), 0
    for window, again in zip(windows, _shared_out([window.span for window in windows], second), strict=True):
        before, after = (suspect(text, window.speech, audio_ms).score for text in (window.segments, again))
        if after < before:
            kept = [segment for segment in kept if segment not in window.segments] + list(again)
            replaced += 1
    return _in_order(kept), replaced


def _inside(span: Span, speech: Sequence[Span]) -> list[Span]:
    return [
        Span.of(max(span.start_ms, region.start_ms), min(span.end_ms, region.end_ms))
        for region in speech
        if span.overlap_ms(region)
    ]


def _shared_out(spans: Sequence[Span], segments: Sequence[Segment]) -> list[tuple[Segment, ...]]:
    """Each segment to the last of the ascending `spans` that begins before its middle, or to the first."""
    if not spans:
        return []
    shares: list[list[Segment]] = [[] for _ in spans]
    for segment in segments:
        begun = [at for at, span in enumerate(spans) if span.start_ms <= segment.span.midpoint_ms]
        shares[begun[-1] if begun else 0].append(segment)
    return [tuple(share) for share in shares]


def _in_order(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """By their beginnings; where two passes meet, one may reach into the other, and then begins where that one ends."""
    ordered: list[Segment] = []
    floor = 0
    for segment in sorted(segments, key=lambda each: each.start_ms):
        if segment.start_ms < floor:
            end = max(segment.end_ms, floor)
            words = tuple(
                word.model_copy(update={"start_ms": max(word.start_ms, floor), "end_ms": max(word.end_ms, floor)})
                for word in segment.words
            )
            segment = segment.model_copy(update={"start_ms": floor, "end_ms": end, "words": words})
        ordered.append(segment)
        floor = segment.end_ms
    return tuple(ordered)
