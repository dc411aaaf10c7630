"""What a stage may use besides its input: storage, a recognizer, and news of whether it is still wanted."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.errors import WorkAborted
from workers.messages import RecognizeOptions
from workers.recognizers import Recognizer
from workers.settings import Settings
from workers.storage import Storage


@dataclass(frozen=True)
class Context:
    """Services of one task execution.

    attempt counts from 1. live_workers asks the server how many recognizing workers are alive.
    recognizer returns the loaded engine, alone for the caller until the stage returns.
    aborted turns true when the task was cancelled or its lease lost: long work asks now and then.
    """

    settings: Settings
    worker: str
    attempt: int
    open_storage: Callable[[str], Storage]
    recognizer: Callable[[RecognizeOptions], Recognizer]
    live_workers: Callable[[], int]
    aborted: Callable[[], bool]

    @property
    def media_cache(self) -> Path:
        """Where media from http and s3 addresses are kept between the plan and the split."""
        return self.settings.home / "media"

    def check_wanted(self) -> None:
        """Raises WorkAborted once nobody wants the result any more."""
        if self.aborted():
            raise WorkAborted("The task was cancelled, or given to another worker.")
