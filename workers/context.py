"""What a stage may use besides its input: storage, a recognizer, and news of whether it is still wanted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.diarizers import Diarizer
from workers.errors import WhisperfleetError, WorkAborted
from workers.messages import RecognizeOptions
from workers.recognizers import Recognizer
from workers.settings import Settings
from workers.storage import Storage
from workers.tasks import Sibling


@dataclass(frozen=True)
class Context:
    """Services of one task execution.

    attempt counts from 1. live_workers asks the server how many recognizing workers are alive.
    recognizer returns the loaded engine, alone for the caller until it says `recognized` or returns; diarizer the
    one of that name and model. siblings are the other tasks of the job, which give_up ends as failed.
    waited_s: since the task was first scheduled, in seconds. prepared is told how many seconds a chunk took to be
    ready for the recognizer: the next one is fetched so much ahead. recognized says that the recognizer is needed no
    longer: while a result is stored, the next chunk is heard.
    aborted turns true when the task was cancelled or its lease lost: long work asks now and then.
    """

    settings: Settings
    worker: str
    attempt: int
    open_storage: Callable[[str], Storage]
    recognizer: Callable[[RecognizeOptions], Recognizer]
    live_workers: Callable[[], int]
    aborted: Callable[[], bool]
    diarizer: Callable[[str, str | None], Diarizer]
    live_diarizers: Callable[[], int]
    siblings: Callable[[], tuple[Sibling, ...]]
    give_up: Callable[[Sibling, WhisperfleetError], None]
    waited_s: float = 0.0
    prepared: Callable[[float], None] = lambda seconds: None
    recognized: Callable[[], None] = lambda: None

    @property
    def media_cache(self) -> Path:
        """Where media from http and s3 addresses are kept between the plan and the split."""
        return self.settings.home / "media"

    def check_wanted(self) -> None:
        """Raises WorkAborted once nobody wants the result any more."""
        if self.aborted():
            raise WorkAborted("The task was cancelled, or given to another worker.")
