"""What the stages of the diarization branch share: its plan, and its answer once it is complete."""

from workers.errors import ObjectMissing
from workers.messages import JobKeys, SpeakerPlan, SpeakerResult
from workers.storage import Storage


def read_speaker_plan(storage: Storage, keys: JobKeys, speakers: str) -> SpeakerPlan:
    return SpeakerPlan.model_validate_json(storage.get_bytes(keys.speaker_plan(speakers)))


def complete_answer(storage: Storage, keys: JobKeys, speakers: str) -> bytes | None:
    """The speaker result of an earlier run, if no part was lost to it: then it stands, and no audio is needed."""
    try:
        data = storage.get_bytes(keys.speaker_result(speakers))
    except ObjectMissing:
        return None
    return data if not SpeakerResult.model_validate_json(data).missing else None
