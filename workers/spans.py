"""Time on the media's clock: integer milliseconds, so that equal on paper is equal in memory."""

import re
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from workers.errors import OptionError

SAMPLE_RATE = 16_000  # Hz; what every Whisper model hears
SAMPLES_PER_MS = SAMPLE_RATE // 1000


class Span(BaseModel):
    """Half-open stretch [start_ms, end_ms) of the media."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_ms: int
    end_ms: int

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end_ms < self.start_ms:
            raise ValueError(f"span ends before it starts: {self.start_ms} to {self.end_ms} ms")
        return self

    @classmethod
    def of(cls, start_ms: int, end_ms: int) -> Self:
        return cls(start_ms=start_ms, end_ms=end_ms)

    @property
    def duration_ms(self) -> int:
        return self.end_ms - self.start_ms

    @property
    def midpoint_ms(self) -> int:
        return (self.start_ms + self.end_ms) // 2

    def holds(self, at_ms: int) -> bool:
        return self.start_ms <= at_ms < self.end_ms

    def shifted(self, by_ms: int) -> Self:
        return type(self)(start_ms=self.start_ms + by_ms, end_ms=self.end_ms + by_ms)

    def overlap_ms(self, other: "Span") -> int:
        return max(0, min(self.end_ms, other.end_ms) - max(self.start_ms, other.start_ms))


_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+)(?:[.,](\d{1,3}))?")


def parse_time(text: str) -> int:
    """Milliseconds of "90", "90.5", "01:30", "1:01:30.250".

    Raises OptionError where it is none of these.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"'{text}' is not a time: write seconds (90.5) or H:MM:SS (1:01:30.250).")
    hours, minutes, seconds, fraction = match.groups()
    if (minutes and int(seconds) > 59) or (hours and int(minutes) > 59):
        raise OptionError(f"'{text}' is not a time: a minute has 60 seconds, and an hour 60 minutes.")
    whole = int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds)
    return whole * 1000 + int((fraction or "0").ljust(3, "0"))


def clock(ms: int, separator: str = ".") -> str:
    """HH:MM:SS.mmm; SRT wants a comma as separator."""
    seconds, millis = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{separator}{millis:03d}"
