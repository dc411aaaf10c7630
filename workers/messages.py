"""The wire contract: input and output of each task of the workflow, and the objects they share.

Tasks carry keys and numbers, never audio or text: those are objects in storage, below
`jobs/<job>/` (see `JobKeys`). The Conductor UI sends "" for every field left empty, so an
empty string reads as "the default" everywhere.
"""

import hashlib
import json
import re
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from workers.errors import OptionError
from workers.spans import Span, parse_time
from workers.transcript import Decode, Segment, Speaker, SpeakerTurn

Engine = Literal["faster-whisper", "faster-whisper-sequential", "openai-whisper"]
DiarizerName = Literal["ge2e", "pyannote", "onnx"]
Format = Literal["json", "srt", "vtt", "txt", "tsv", "html", "rttm"]

DEFAULT_MODEL = "turbo"
DEFAULT_FORMATS: tuple[Format, ...] = ("json", "srt", "vtt", "txt", "tsv", "html")
DEFAULT_DIARIZER: DiarizerName = "ge2e"
SPEAKER_CHUNK_SECONDS = 300  # a window's margin is 3 % of that (and 30 % of 30 s), and an hour is still 12 tasks
MOST_SPEAKERS = 100
PER_CHUNK = "per-chunk"  # --language per-chunk: every chunk decides for itself
_TIME = "seconds (90.5) or H:MM:SS (1:01:30.250)"
_SOME = f"a number from 1 to {MOST_SPEAKERS}"
_AUTOMATIC_NAME = "SPEAKER_"


def _choice(names: tuple[str, ...]) -> str:
    """`a, b or c`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


class Message(BaseModel):
    """A frozen message; unknown fields are ignored so that old and new workers can share a queue."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None and value != ""}

    @classmethod
    def decode(cls, data: Any) -> Self:
        """A message from what came over the wire or from a form.

        Raises OptionError that begins with the first field that is wrong, and tells its value and what it takes.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = str(first["loc"][0]) if first["loc"] else "input"
            if first["type"] == "missing":
                raise OptionError(f"{field} is missing: give it a value.") from None
            if not first["loc"]:  # of two fields together: the validator's sentence names them
                raise OptionError(f"{first['msg']}.") from None
            known = cls.model_fields.get(field)
            takes = known.description if known else None
            advice = f"write {takes}" if takes else first["msg"].removeprefix("Value error, ")
            value = first["input"] or data.get(field)  # of an empty list, what it was made from
            # of an address, what comes after the question mark may be a signature
            told = re.sub(r"\?[^\s,'\"]+", "?…", str(value))
            raise OptionError(f"{field} is '{told}': {advice}.") from None


class RecognizeOptions(Message):
    """All that decides what text comes out of a chunk of audio."""

    engine: Engine = "faster-whisper"
    model: str = DEFAULT_MODEL
    language: str | None = Field(default=None, description="ISO 639-1; None: not decided yet, or per chunk")
    task: Literal["transcribe", "translate"] = "transcribe"
    beam_size: int = Field(default=5, ge=1, le=20)
    batch_size: int | None = Field(default=None, ge=1, le=256, description="None: chosen from the device's memory")
    word_timestamps: bool = True
    prompt: str | None = None
    hotwords: str | None = None


class JobInput(Message):
    """Input of the workflow `transcribe_media`; `media` alone is enough. Descriptions end the sentence "write …"."""

    media: str = Field(min_length=1, description="a path on the workers' machine, or file://, http(s):// or s3://")
    model: str = Field(default=DEFAULT_MODEL, description="a name that `whisperfleet models list` shows, or a folder")
    language: str = Field(default="auto", description="auto, per-chunk, or an ISO 639-1 code")
    task: Literal["transcribe", "translate"] = Field(default="transcribe", description="transcribe or translate")
    engine: Engine = Field(default="faster-whisper", description=_choice(get_args(Engine)))
    formats: tuple[Format, ...] = Field(
        default=DEFAULT_FORMATS, min_length=1, description=f"some of {', '.join(get_args(Format))}"
    )
    chunk_seconds: Literal["auto"] | int = Field(default="auto", description="auto, or a number from 5 to 3600")
    start: str | None = Field(default=None, description=_TIME)
    end: str | None = Field(default=None, description=_TIME)
    audio_track: int = Field(default=1, ge=1, description="1 for the first audio track, 2 for the second")
    prompt: str | None = Field(default=None, description="text in the style and spelling that is wanted")
    hotwords: str | None = Field(default=None, description="names and terms to expect")
    beam_size: int = Field(default=5, ge=1, le=20, description="a number from 1 to 20")
    batch_size: Literal["auto"] | int = Field(default="auto", description="auto, or a number from 1 to 256")
    word_timestamps: bool = Field(default=True, description="true or false")
    allow_gaps: bool = Field(default=False, description="true or false")
    storage: str | None = Field(default=None, description="a folder or s3://bucket/prefix; else the worker's own")
    diarize: bool = Field(default=True, description="true or false")
    diarizer: DiarizerName = Field(default=DEFAULT_DIARIZER, description=_choice(get_args(DiarizerName)))
    diarizer_model: str | None = Field(default=None, description="a folder, or for pyannote a name on the hub")
    speakers: int | None = Field(default=None, ge=1, le=MOST_SPEAKERS, description=_SOME)
    min_speakers: int | None = Field(default=None, ge=1, le=MOST_SPEAKERS, description=_SOME)
    max_speakers: int | None = Field(default=None, ge=1, le=MOST_SPEAKERS, description=_SOME)
    speaker_names: dict[str, str] = Field(default_factory=dict, description="NAME=CLIP, more of them after commas")
    speaker_wait: Literal["auto"] | int = Field(default="auto", description="auto, or a number of seconds")
    speaker_chunk_seconds: int = Field(
        default=SPEAKER_CHUNK_SECONDS, ge=10, le=3600, description="a number from 10 to 3600"
    )

    @field_validator("formats", mode="before")
    @classmethod
    def _split_formats(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(dict.fromkeys(part.strip().lower() for part in value.split(",") if part.strip()))
        return value

    @field_validator("start", "end", mode="before")
    @classmethod
    def _readable_time(cls, value: Any) -> Any:
        text = str(value) if isinstance(value, int | float) else value  # who writes JSON may send 90 for "90"
        if isinstance(text, str):
            try:
                parse_time(text)
            except OptionError as error:
                raise ValueError(str(error)) from None
        return text

    @field_validator("chunk_seconds")
    @classmethod
    def _bounded_chunk(cls, value: Any) -> Any:
        if value != "auto" and not 5 <= value <= 3600:
            raise ValueError("out of bounds")
        return value

    @field_validator("batch_size")
    @classmethod
    def _bounded_batch(cls, value: Any) -> Any:
        if value != "auto" and not 1 <= value <= 256:
            raise ValueError("out of bounds")
        return value

    @field_validator("speaker_wait")
    @classmethod
    def _bounded_wait(cls, value: Any) -> Any:
        if value != "auto" and value < 0:
            raise ValueError("out of bounds")
        return value

    @field_validator("speaker_names", mode="before")
    @classmethod
    def _named_clips(cls, value: Any) -> Any:
        """ "Ann=ann.wav,Bob=bob.wav", the same as a list, or an object."""
        if isinstance(value, dict):
            pairs = [(str(name).strip(), str(clip).strip()) for name, clip in value.items()]
        else:
            texts = value.split(",") if isinstance(value, str) else value
            if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
                raise ValueError("not NAME=CLIP")
            parts = [text.partition("=") for text in texts if text.strip()]
            pairs = [(name.strip(), clip.strip()) for name, _, clip in parts]
        if any(not name or not clip or name.startswith(_AUTOMATIC_NAME) for name, clip in pairs):
            raise ValueError("not NAME=CLIP")
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name twice")
        return dict(pairs)

    @model_validator(mode="after")
    def _speakers_in_order(self) -> Self:
        if self.min_speakers and self.max_speakers and self.min_speakers > self.max_speakers:
            raise PydanticCustomError(
                "min_over_max",
                "min_speakers ({low}) is over max_speakers ({high}): change one of them",
                {"low": self.min_speakers, "high": self.max_speakers},
            )
        return self

    @field_validator("language", mode="after")
    @classmethod
    def _lower_language(cls, value: str) -> str:
        return value.strip().lower()

    @property
    def start_ms(self) -> int:
        return parse_time(self.start) if self.start else 0

    @property
    def end_ms(self) -> int | None:
        return parse_time(self.end) if self.end else None

    def recognize_options(self, language: str | None = None) -> RecognizeOptions:
        decided = self.language if self.language not in ("auto", PER_CHUNK) else language
        return RecognizeOptions(
            engine=self.engine,
            model=self.model,
            language=decided,
            task=self.task,
            beam_size=self.beam_size,
            batch_size=None if self.batch_size == "auto" else self.batch_size,
            word_timestamps=self.word_timestamps,
            prompt=self.prompt,
            hotwords=self.hotwords,
        )


SPEAKER_OPTIONS = frozenset(
    (
        "diarize",
        "diarizer",
        "diarizer_model",
        "speakers",
        "min_speakers",
        "max_speakers",
        "speaker_names",
        "speaker_wait",
        "speaker_chunk_seconds",
    )
)
"""Options that change who said something, and no word of what was said: another number of speakers finds
the words done. Tasks read them from the speaker plan, never from the job's plan."""


def job_key(media_identity: str, job: JobInput) -> str:
    """Content address of a job: what was heard, and all options that change a word or a cut.

    `media_identity` is a hash of the media's bytes, or what its server says of them.
    """
    made_of = job.model_dump(mode="json", exclude={"media", "formats", "allow_gaps", "storage", *SPEAKER_OPTIONS})
    made_of["media_identity"] = media_identity
    made_of["contract"] = 1  # raise when the same options come to mean another text
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


class JobKeys:
    """Names of a job's objects. Deleting the prefix deletes the job."""

    def __init__(self, job: str) -> None:
        self.prefix = f"jobs/{job}/"

    @property
    def plan(self) -> str:
        return f"{self.prefix}plan.json"

    @property
    def language(self) -> str:
        return f"{self.prefix}language.json"

    def language_sample(self, number: int) -> str:
        return f"{self.prefix}language/{number:02d}.flac"

    @property
    def split(self) -> str:
        """The split's output, written when every chunk record is."""
        return f"{self.prefix}split.json"

    def audio(self, index: int) -> str:
        return f"{self.prefix}audio/{index:05d}.flac"

    def chunk(self, index: int) -> str:
        """The chunk's record, written after its audio: where it is, the audio is whole."""
        return f"{self.prefix}audio/{index:05d}.json"

    def result(self, index: int) -> str:
        return f"{self.prefix}results/{index:05d}.json"

    def transcript(self, extension: str) -> str:
        return f"{self.prefix}transcript.{extension}"

    @property
    def speech(self) -> str:
        """The speech map of the whole recording."""
        return f"{self.prefix}speech.json"

    def clip(self, identity: str) -> str:
        """Reference clip of a speaker, by its content."""
        return f"{self.prefix}clips/{identity}.flac"

    def windows(self, voices: str, index: int, sha256: str = "") -> str:
        """What a diarizer found in its chunk `index`; `voices` is the speaker plan's. Without a hash, how all begin.

        With the hash in the name, since two attempts on different processors may differ in a bit: who was handed the
        name of one must not find the other.
        """
        return f"{self.prefix}voices/{voices}/{index:05d}-{sha256 and f'{sha256[:16]}.npz'}"

    @property
    def speakers(self) -> str:
        """Below it a folder for each speaker plan that was asked for."""
        return f"{self.prefix}speakers/"

    def speaker_plan(self, speakers: str) -> str:
        return f"{self.speakers}{speakers}/plan.json"

    def speaker_result(self, speakers: str) -> str:
        return f"{self.speakers}{speakers}/result.json"


class JobPlan(Message):
    """Object `plan.json`: what all tasks of a job agree on. The cuts are decided once and kept by later runs."""

    job: str
    request: JobInput
    media_name: str
    media_identity: str
    duration_ms: int = Field(description="probed; the split counts samples and knows better")
    span: Span = Field(description="what of the media is wanted, --start to --end")
    wanted_cuts_ms: tuple[int, ...] = Field(description="ascending, inside span; one chunk more than cuts")
    language_samples: int = Field(default=0, description="how many samples were stored for the vote")

    @property
    def chunk_count(self) -> int:
        return len(self.wanted_cuts_ms) + 1


class LanguageVote(Message):
    """Object `language.json`: the vote, once for the whole recording."""

    language: str | None = Field(default=None, description="None where no sample had speech")
    votes: dict[str, float] = Field(default_factory=dict)


class Chunk(Message):
    """Object `audio/NNNNN.json`: a chunk as it was really cut.

    Cores tile the wanted span exactly; `audio` is what the FLAC file holds, and is longer than
    `core` only where a cut found no silence. A core of no length is a chunk planned past the
    media's true end: it has no audio object.
    """

    index: int
    core: Span
    audio: Span
    audio_sha256: str | None = None


class ChunkResult(Message):
    """Object `results/NNNNN.json`: what was heard in a chunk, on the media's clock.

    Segments cover the chunk's audio span, so they may reach past its core: stitching decides.
    """

    index: int
    chunk: Chunk
    language: str | None = None  # not required: None and "" never arrive (see Message)
    segments: tuple[Segment, ...]
    decodes: tuple[Decode, ...]
    worker: str
    attempts: int
    seconds: dict[str, float]


class SpeakerHints(Message):
    """What is known of the number of speakers; `exactly` goes before the other two."""

    exactly: int | None = None
    at_least: int | None = None
    at_most: int | None = None


class SpeakerPlan(Message):
    """Object `speakers/<key>/plan.json`: what all tasks of the diarization branch agree on.

    Chunk m of `chunk_count` owns the windows that begin in the m-th `chunk_seconds` of the wanted span;
    the last one owns all that are left.
    """

    diarizer: DiarizerName
    model: str | None = None
    chunk_seconds: int
    chunk_count: int
    hints: SpeakerHints = SpeakerHints()
    clips: dict[str, str] = Field(default_factory=dict, description="name to the key of the reference clip's audio")

    @property
    def key(self) -> str:
        """Content address of the result."""
        return _digest({**self.model_dump(mode="json"), "contract": SPEAKER_CONTRACT})

    @property
    def voices(self) -> str:
        """Content address of the windows, which another hint or name does not change."""
        return _digest(self.model_dump(mode="json", include={"diarizer", "model", "chunk_seconds", "chunk_count"}))


SPEAKER_CONTRACT = 1  # raise when the same windows come to mean other speakers: a result that is stored stands


def _digest(made_of: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


class SpeechMap(Message):
    """Object `speech.json`: where somebody speaks, from one pass over the whole recording, on the media's clock."""

    regions: tuple[Span, ...] = ()


class SpeakerResult(Message):
    """Object `speakers/<key>/result.json`: who speaks when, on the media's clock.

    Exclusive turns never overlap: of people who speak at once they name one, as a word needs.
    """

    turns: tuple[SpeakerTurn, ...] = ()
    exclusive_turns: tuple[SpeakerTurn, ...] = ()
    speakers: tuple[Speaker, ...] = ()
    missing: tuple[Span, ...] = Field(default=(), description="parts whose windows were lost for good")
    warnings: tuple[str, ...] = ()
    diagnostics: dict[str, str | int | float | bool | list[float] | None] = Field(default_factory=dict)


class PlanMediaOutput(Message):
    storage: str
    job: str
    media_name: str
    duration_ms: int
    chunk_count: int
    detect_language: bool = Field(description="false: given, decided by an earlier run, or per chunk")
    fork_tasks: tuple[dict[str, Any], ...]
    fork_inputs: dict[str, dict[str, Any]]
    speakers: str | None = Field(default=None, description="key of the speaker plan; None: no diarization")
    diarize: bool = False
    await_speakers: bool = Field(default=False, description="the finished text waits for the speakers only so long")
    speaker_tasks: tuple[dict[str, Any], ...] = ()
    speaker_inputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    workers: int = Field(description="live recognizing workers that the chunk length was chosen for")
    started_at_ms: int | None = Field(default=None, description="when the job was asked for, epoch milliseconds")
    seconds: float


class JobRef(Message):
    """Input of every task after the plan: where the job's objects are."""

    storage: str
    job: str


class SplitMediaInput(JobRef):
    speakers: str | None = Field(default=None, description="key of the speaker plan, which needs the audio too")


class DetectLanguageOutput(Message):
    language: str | None = None  # not required: None and "" never arrive (see Message)
    votes: dict[str, float]
    seconds: float


class SplitMediaOutput(Message):
    duration_ms: int = Field(description="of the whole media, samples counted")
    chunks: int
    warnings: tuple[str, ...] = ()
    missing_from_ms: int | None = Field(default=None, description="where a truncated media broke off, with allow_gaps")
    seconds: float


class TranscribeChunkInput(JobRef):
    index: int


class TranscribeChunkOutput(Message):
    index: int
    key: str
    worker: str
    attempts: int
    audio_ms: int
    words: int
    reused: bool = False
    suspicious: bool = False
    seconds: dict[str, float] = Field(description="fetch, speech, wait, inference, store")


class SpeakerRef(JobRef):
    """Input of a task of the diarization branch."""

    speakers: str = Field(description="key of the speaker plan")


class DiarizeChunkInput(SpeakerRef):
    index: int


class DiarizeChunkOutput(Message):
    index: int
    key: str
    sha256: str = Field(description="of the object's bytes")
    spec: str = Field(description="hash of the diarizer's specification: chunks of two cannot be clustered together")
    windows: int
    worker: str
    attempts: int
    reused: bool = False
    seconds: dict[str, float] = Field(description="fetch_voices, diarize, store_voices")


class MapSpeechOutput(Message):
    key: str
    regions: int
    speech_ms: int
    reused: bool = False
    seconds: dict[str, float] = Field(description="map_speech")


class AwaitSpeakersInput(SpeakerRef):
    speaker_wait: Literal["auto"] | int = "auto"
    chunks: dict[str, dict[str, Any]] = Field(default_factory=dict, description="the join of the transcription branch")

    @property
    def text_is_old(self) -> bool:
        """Whether an earlier run had heard everything: then this one is for the speakers."""
        return bool(self.chunks) and all(output.get("reused") for output in self.chunks.values())


class AwaitSpeakersOutput(Message):
    waited_seconds: float


class ClusterSpeakersInput(SpeakerRef):
    allow_gaps: bool = False
    chunks: dict[str, dict[str, Any]] = Field(description="the join's output: reference name to task output")

    def failures(self) -> dict[str, "TaskFailure"]:
        """Reference of each task that was lost for good (speech, voices_N), with what its last attempt said."""
        return {
            reference: TaskFailure.model_validate(output)
            for reference, output in self.chunks.items()
            if "key" not in output
        }


class ClusterSpeakersOutput(Message):
    key: str
    sha256: str
    speakers: int
    turns: int
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(description="cluster")


class TaskFailure(Message):
    """Output of a failed task: its error's type and sentence."""

    error: str = "EngineError"
    reason: str = "the task failed and gave no reason"


class StitchTranscriptInput(JobRef):
    workflow_id: str | None = None
    formats: tuple[Format, ...] = DEFAULT_FORMATS
    allow_gaps: bool = False
    chunks: dict[str, dict[str, Any]] = Field(description="the join's output: reference name to task output")
    split: SplitMediaOutput
    speakers: str | None = Field(default=None, description="key of the speaker plan; None: no diarization")
    clustered: dict[str, Any] = Field(default_factory=dict, description="output of cluster_speakers, or its failure")
    voices: dict[str, dict[str, Any]] = Field(default_factory=dict, description="the join of the diarization branch")
    stage_seconds: dict[str, float] = Field(default_factory=dict, description="stages that ran before, by name")
    started_at_ms: int | None = Field(default=None, description="workflow's start, epoch milliseconds")

    @field_validator("formats", mode="before")
    @classmethod
    def _split_formats(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("stage_seconds", mode="before")
    @classmethod
    def _ran_only(cls, value: Any) -> Any:
        """Conductor sends null for the output of a task that was skipped."""
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    def chunk_failures(self) -> dict[int, TaskFailure]:
        """Index of each chunk that was lost for good, with what its last attempt said."""
        return {
            int(reference.rsplit("_", 1)[1]): TaskFailure.model_validate(output)
            for reference, output in self.chunks.items()
            if "key" not in output
        }


class StitchTranscriptOutput(Message):
    files: dict[str, str] = Field(description="format to address")
    duration_ms: int
    language: str | None = None  # not required: None and "" never arrive (see Message)
    chunks: int
    words: int
    gaps: int
    speakers: int | None = Field(default=None, description="how many people speak; null where nobody knows")
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = Field(description="by stage")
    rtfx: float = Field(description="audio seconds per wall second of the job")
