"""What the stages of the diarization branch share: its plan, what is done of it, and how long audio is waited for."""

from collections.abc import Iterator
from contextlib import contextmanager

from workers.context import Context
from workers.diarizers import SPEECH_MAPPED
from workers.errors import AudioMissing, ObjectMissing, ServerError, StorageUnavailable
from workers.messages import JobKeys, SpeakerPlan, SpeakerResult
from workers.storage import Storage

BLIND_WAIT_S = (
    600.0  # since the task was scheduled; ten hours of media are cut in a minute, fetching them may take more
)


def read_speaker_plan(storage: Storage, keys: JobKeys, speakers: str) -> SpeakerPlan:
    return SpeakerPlan.model_validate_json(storage.get_bytes(keys.speaker_plan(speakers)))


def complete_answer(storage: Storage, keys: JobKeys, speakers: str) -> bytes | None:
    """The speaker result of an earlier run, if no part was lost to it: then it stands, and no audio is needed."""
    try:
        data = storage.get_bytes(keys.speaker_result(speakers))
    except ObjectMissing:
        return None
    return data if not SpeakerResult.model_validate_json(data).missing else None


def needs_audio(storage: Storage, keys: JobKeys, speakers: str, there: set[str]) -> bool:
    """Whether a voice of the branch is not heard yet, or the speech not mapped; `there` are the job's objects."""
    if complete_answer(storage, keys, speakers) is not None:
        return False
    plan = read_speaker_plan(storage, keys, speakers)
    if plan.diarizer in SPEECH_MAPPED and keys.speech not in there:
        return True
    begun = tuple(keys.windows(plan.voices, index) for index in range(plan.chunk_count))
    return any(not any(key.startswith(beginning) for key in there) for beginning in begun)


def any_needs_audio(storage: Storage, keys: JobKeys) -> bool:
    """Whether any run of this job, with whatever hints and diarizer, has not told the speakers apart yet."""
    planned = {key.removeprefix(keys.speakers).partition("/")[0] for key in storage.keys(keys.speakers)}
    return any(complete_answer(storage, keys, speakers) is None for speakers in planned)


def _split_is_over(context: Context) -> bool:
    """Whether this run's split wrote all it will. Behind a gateway nobody may look: then after BLIND_WAIT_S."""
    try:
        return any(sibling.kind == "split_media" and sibling.decided for sibling in context.siblings())
    except ServerError:
        return context.waited_s > BLIND_WAIT_S


@contextmanager
def audio_awaited(context: Context) -> Iterator[None]:
    """Audio that is gone is waited for while this run's split may still write it.

    Raises StorageUnavailable, which costs an attempt, once it has not: another run of the same job freed it since.
    """
    try:
        yield
    except AudioMissing as error:
        if _split_is_over(context):
            raise StorageUnavailable(
                "the audio was freed by another run of the same recording that ended meanwhile"
            ) from error
        raise
