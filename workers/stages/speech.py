"""map_speech: where anybody speaks, in one pass over the whole recording.

The voice-activity model remembers what it heard, for up to a minute: run chunk by chunk it would answer
otherwise around every cut. It takes some 8 processor seconds for an hour of audio, beside the chunks.
"""

import time

from workers.context import Context
from workers.errors import ChunkNotReady
from workers.messages import JobKeys, MapSpeechOutput, SpeakerRef, SpeechMap
from workers.recording import Recording
from workers.stages.recognize import read_plan
from workers.stages.speakers import audio_awaited
from workers.voice import SpeechStream, voiced_ms


def map_speech(task: SpeakerRef, context: Context) -> MapSpeechOutput:
    """Store the speech map of the recording, or find it done.

    Raises ChunkNotReady until the whole recording is split: half a pass would be lost.
    """
    began = time.monotonic()
    storage = context.open_storage(task.storage)
    keys = JobKeys(task.job)
    if storage.exists(keys.speech):
        return _output(SpeechMap.model_validate_json(storage.get_bytes(keys.speech)), keys, reused=True, seconds={})
    plan = read_plan(storage, keys)
    recording = Recording(storage, keys, plan)
    if not recording.is_whole():
        raise ChunkNotReady("The recording is not split yet.")
    stream = SpeechStream()
    with audio_awaited(context):
        for samples in recording.pieces(context.check_wanted):
            stream.feed(samples)
    found = SpeechMap(regions=tuple(region.shifted(plan.span.start_ms) for region in stream.finish()))
    storage.put_bytes(keys.speech, found.model_dump_json().encode())
    return _output(found, keys, reused=False, seconds={"map_speech": round(time.monotonic() - began, 3)})


def _output(found: SpeechMap, keys: JobKeys, reused: bool, seconds: dict[str, float]) -> MapSpeechOutput:
    return MapSpeechOutput(
        key=keys.speech,
        regions=len(found.regions),
        speech_ms=voiced_ms(found.regions),
        reused=reused,
        seconds=seconds,
    )
