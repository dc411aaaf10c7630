"""The transcript and its parts, frozen: what stages hand on and what the JSON file holds.

All times are integer milliseconds on the media's clock, from the start of the media (also when
only a part of it, --start to --end, was transcribed).
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from workers.spans import Span

SCHEMA_VERSION: Literal[2] = 2

NoSpeaker = Literal["off", "failed", "not diarized", "no turn near"]
"""Why nobody is named: diarization was not asked for; it failed or was late; this part of the recording
was lost to it; or it heard nobody speak near the word."""


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Word(Part):
    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=0)
    text: str = Field(description="as written, with its punctuation, without surrounding spaces")
    probability: float = Field(ge=0, le=1)
    speaker: str | None = None
    speaker_confidence: float | None = Field(
        default=None, ge=0, le=1, description="share of the word that the speaker's turns cover; null without a speaker"
    )
    no_speaker: NoSpeaker | None = Field(default=None, description="why speaker is null; null where there is one")

    @property
    def span(self) -> Span:
        return Span.of(self.start_ms, self.end_ms)

    def shifted(self, by_ms: int) -> Self:
        return self.model_copy(update={"start_ms": self.start_ms + by_ms, "end_ms": self.end_ms + by_ms})


class Segment(Part):
    """A stretch of speech; its text is the engine's, its words (may be empty) lie within it."""

    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=0)
    text: str
    speaker: str | None = None
    no_speaker: NoSpeaker | None = Field(default=None, description="why speaker is null; null where there is one")
    words: tuple[Word, ...] = ()

    @property
    def span(self) -> Span:
        return Span.of(self.start_ms, self.end_ms)

    def shifted(self, by_ms: int) -> Self:
        """The same segment on another clock; its words move with it."""
        return self.model_copy(
            update={
                "start_ms": self.start_ms + by_ms,
                "end_ms": self.end_ms + by_ms,
                "words": tuple(word.shifted(by_ms) for word in self.words),
            }
        )


class SpeakerTurn(Part):
    """A stretch in which one person speaks; another's turn may overlap it."""

    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=0)
    speaker: str

    @property
    def span(self) -> Span:
        return Span.of(self.start_ms, self.end_ms)


class Speaker(Part):
    """One person in the recording."""

    name: str = Field(
        description="as turns, segments and words have it: SPEAKER_00 by first appearance, or the given one"
    )
    spoken_ms: int = Field(ge=0, description="length of all turns together")
    similarity: float | None = Field(
        default=None, description="cosine of the voice to the reference clip that gave the name; null where none did"
    )


class Gap(Part):
    """Seconds of the media that nobody transcribed, and why: never to be read as silence."""

    start_ms: int = Field(ge=0)
    end_ms: int = Field(ge=0)
    chunk: int | None = Field(description="index of the lost chunk; null where the media itself is missing")
    error: str = Field(description="type of the last error")
    reason: str = Field(description="its sentence")


class Decode(Part):
    """One pass of the engine over a chunk: how, and how it looked."""

    settings: dict[str, str | int | float | bool | None] = Field(description="what this pass was asked to do")
    kept: bool
    suspicions: tuple[str, ...] = Field(default=(), description="structural faults found in this pass's text")
    score: float = Field(description="lower is better; how the kept pass was chosen")


class ChunkRecord(Part):
    """Where a chunk's text came from."""

    index: int
    core: Span
    audio: Span
    language: str | None = None
    worker: str | None = None
    attempts: int = 0
    reused: bool = Field(default=False, description="the result was found done from an earlier run")
    rtfx: float | None = Field(default=None, description="audio seconds per second of inference")
    decodes: tuple[Decode, ...] = ()


class Provenance(Part):
    """How the transcript came about; the only part of the file that differs from run to run."""

    whisperfleet: str
    job: str = Field(description="key of the job's objects in storage: a hash of media and options")
    workflow_id: str | None = None
    media: str
    model: str
    engine: str
    options: dict[str, str | int | float | bool | None]
    language_votes: dict[str, float] = Field(default_factory=dict, description="language to summed probability")
    chunks: tuple[ChunkRecord, ...] = ()
    seconds: dict[str, float] = Field(default_factory=dict, description="by stage: plan, language, split, inference …")
    diarization: dict[str, str | int | float | bool | list[float] | None] = Field(
        default_factory=dict, description="diarizer, version of its model, and how the number of speakers came about"
    )


class Transcript(Part):
    """What whisperfleet writes as STEM.json."""

    schema_version: Literal[2] = SCHEMA_VERSION
    duration_ms: int = Field(ge=0)
    language: str | None = Field(description="ISO 639-1 code; null where nothing was spoken")
    segments: tuple[Segment, ...] = ()
    speakers: tuple[Speaker, ...] = Field(default=(), description="by first appearance; empty without diarization")
    turns: tuple[SpeakerTurn, ...] = Field(default=(), description="who speaks when, by start; turns may overlap")
    gaps: tuple[Gap, ...] = ()
    warnings: tuple[str, ...] = ()
    provenance: Provenance

    @property
    def text(self) -> str:
        return " ".join(segment.text.strip() for segment in self.segments)
