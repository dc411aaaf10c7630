"""await_speakers: how long a finished text waits for the speakers, where it may do without them.

Runs beside the diarization branch once the text is complete, only with --allow-gaps; it gives itself back
between looks, so it holds no worker. A run that finds all its text done (a retry, mostly) is there for
the speakers, and waits as long as anybody is at them.
"""

from collections.abc import Sequence

from workers.context import Context
from workers.errors import ServerError, SpeakersLate, SpeakersPending
from workers.messages import AwaitSpeakersInput, AwaitSpeakersOutput, JobKeys
from workers.stages.recognize import read_plan
from workers.tasks import Sibling

DIARIZATION = frozenset({"diarize_chunk", "map_speech", "cluster_speakers"})
SHORTEST_WAIT_S = 60.0
WAIT_SHARE = 0.25  # of the recording's length: diarizing takes 1 % of it on a processor core, on a busy one some more
CLUSTERING_S = 60.0  # ten hours take half of it
NOBODY_S = 20.0  # a worker's start; with nobody there by then waiting longer brings nothing


def await_speakers(task: AwaitSpeakersInput, context: Context) -> AwaitSpeakersOutput:
    """Return once the branch is over; after the wait end what is left of it, so that it is.

    Raises SpeakersPending while there is something to wait for.
    """
    try:
        branch = [sibling for sibling in context.siblings() if sibling.kind in DIARIZATION]
        if any(sibling.kind == "cluster_speakers" and sibling.decided for sibling in branch):
            return AwaitSpeakersOutput(waited_seconds=round(context.waited_s, 3))
        _end_what_is_late(branch, task, context)
    except ServerError as error:  # a task that ended meanwhile, most likely; no reason for the job to fail
        raise SpeakersPending(str(error)) from error
    raise SpeakersPending("The speakers are not told apart yet.")


def _end_what_is_late(branch: Sequence[Sibling], task: AwaitSpeakersInput, context: Context) -> None:
    """Give up what is open once the wait is over.

    What was heard until then is still clustered, and has some time for that.
    """
    wait_s = _wait_seconds(task, context)
    over_s = context.waited_s - wait_s if not task.text_is_old else float("-inf")
    if context.waited_s >= NOBODY_S and context.live_diarizers() == 0:
        late, reason = DIARIZATION, "no worker takes diarize_chunk"
    elif over_s >= 0:
        heard = any(sibling.kind == "diarize_chunk" and sibling.status == "COMPLETED" for sibling in branch)
        late = DIARIZATION - ({"cluster_speakers"} if heard and over_s < CLUSTERING_S else set())
        reason = f"the speakers were not told apart within {wait_s:.0f} s after the text was complete"
    else:
        return
    for sibling in branch:
        if sibling.open and sibling.kind in late:
            context.give_up(sibling, SpeakersLate(reason))


def _wait_seconds(task: AwaitSpeakersInput, context: Context) -> float:
    if task.speaker_wait != "auto":
        return float(task.speaker_wait)
    plan = read_plan(context.open_storage(task.storage), JobKeys(task.job))
    return max(SHORTEST_WAIT_S, WAIT_SHARE * plan.span.duration_ms / 1000)
