"""Every error this project raises on purpose: terminal ones need a person, transient ones a retry.

The text of an error is one sentence for the person at the keyboard: what is wrong with which
thing, and what to do about it. `exit_code` is what the command line leaves with (README, "Exit codes").
"""

from typing import ClassVar


class WhisperfleetError(Exception):
    """Base of all errors whose text may be shown to a user as it is."""

    exit_code: ClassVar[int] = 1
    transient: ClassVar[bool] = False


class TerminalError(WhisperfleetError):
    """Doing the same again would fail again."""


class OptionError(TerminalError):
    """An option or a combination of options that cannot be honoured."""

    exit_code = 2


class MediaError(TerminalError):
    """The media is missing, unreadable, damaged or without sound."""

    exit_code = 3


class ServerError(TerminalError):
    """The Conductor server cannot be reached, started or used."""

    exit_code = 4


class StorageError(TerminalError):
    """Storage or the output folder refuses: rights, address, space."""

    exit_code = 5


class ModelError(TerminalError):
    """The model is unknown, incomplete, or not on this machine with no hub in reach."""

    exit_code = 6


class NoWorkerError(TerminalError):
    """A task waits and no worker that could take it is alive."""

    exit_code = 7


class JobError(TerminalError):
    """The job failed: chunks were lost for good, or a task gave up."""

    exit_code = 1


class JobCancelled(TerminalError):
    """The job was cancelled, here or by somebody else."""

    exit_code = 130


class TransientError(WhisperfleetError):
    """Trying again, perhaps elsewhere, may succeed."""

    transient = True


class StorageUnavailable(TransientError):
    """Storage did not answer, or not whole."""

    exit_code = 5


class ObjectMissing(TransientError):
    """The object is not in storage (yet)."""

    exit_code = 5


class SourceUnavailable(TransientError):
    """The media's server did not answer, or broke off."""

    exit_code = 3


class ChunkNotReady(TransientError):
    """The chunk is not cut yet, or its language not decided: ask again in `callback_seconds`; no attempt is lost."""

    callback_seconds: ClassVar[int] = 1


class AudioMissing(ChunkNotReady):
    """The chunk is cut, and its audio is gone: an earlier run has freed it, and the split is to write it again."""


class SpeakersPending(ChunkNotReady):
    """The diarization branch is still at it: look again in `callback_seconds`."""

    callback_seconds = 2  # a look takes the whole job's tasks from the server


class SpeakersLate(TerminalError):
    """The finished text did not wait for the speakers any longer."""


class EngineError(TransientError):
    """The recognition engine or the diarizer failed on this chunk."""


class DeadlineExceeded(TransientError):
    """A chunk took far longer than its length allows."""


class ModelElsewhere(TransientError):
    """A model, or the library that runs it, is not on this machine: another worker may have it."""

    exit_code = 6


class WorkAborted(TransientError):
    """The work was stopped because nobody wants its result any more (cancelled, or the lease was lost)."""


def one_line(error: BaseException) -> str:
    """What a library's error says, to be put into a sentence: 300 characters at most, without line breaks and stop."""
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def by_name(name: str) -> type[WhisperfleetError]:
    """The error class called `name`, or WhisperfleetError: how a type comes back over the wire."""

    def walk(base: type[WhisperfleetError]) -> list[type[WhisperfleetError]]:
        return [base, *(found for child in base.__subclasses__() for found in walk(child))]

    return next((kind for kind in walk(WhisperfleetError) if kind.__name__ == name), WhisperfleetError)
