"""await_speakers: how long a finished text waits for the speakers, where it may do without them.

Runs beside the diarization branch once the text is complete, only with --allow-gaps; it gives itself back
between looks, so it holds no worker. A run that finds all its text done (a retry, mostly) is there for
the speakers, and waits as long as anybody is at them.
"""

from workers.context import Context
from workers.errors import SpeakersLate, SpeakersPending
from workers.messages import AwaitSpeakersInput, AwaitSpeakersOutput, JobKeys
from workers.stages.recognize import read_plan

DIARIZATION = frozenset({"diarize_chunk", "map_speech", "cluster_speakers"})
SHORTEST_WAIT_S = 60.0
WAIT_SHARE = 0.25  # of the recording's length: diarizing takes 1 % of it on a processor core, on a busy one some more
NOBODY_S = 20.0  # a worker's start; with nobody there by then waiting longer brings nothing


def await_speakers(task: AwaitSpeakersInput, context: Context) -> AwaitSpeakersOutput:
    """Return once the branch is over; after the wait end what is left of it, so that it is.

    Raises SpeakersPending while there is something to wait for.
    """
    branch = [sibling for sibling in context.siblings() if sibling.kind in DIARIZATION]
    if any(sibling.kind == "cluster_speakers" and sibling.decided for sibling in branch):
        return AwaitSpeakersOutput(waited_seconds=round(context.waited_s, 3))
    reason = _why_no_longer(task, context)
    if reason is not None:
        for sibling in branch:
            if sibling.open:
                context.give_up(sibling, SpeakersLate(reason))
    raise SpeakersPending("The speakers are not told apart yet.")


def _why_no_longer(task: AwaitSpeakersInput, context: Context) -> str | None:
    """The reason to go on without speakers; None while the wait goes on."""
    wait_s = _wait_seconds(task, context)
    if context.waited_s >= wait_s and not task.text_is_old:
        return f"the speakers were not told apart within {wait_s:.0f} s after the text was complete"
    if context.waited_s >= NOBODY_S and context.live_diarizers() == 0:
        return "no worker takes diarize_chunk"
    return None


def _wait_seconds(task: AwaitSpeakersInput, context: Context) -> float:
    if task.speaker_wait != "auto":
        return float(task.speaker_wait)
    plan = read_plan(context.open_storage(task.storage), JobKeys(task.job))
    return max(SHORTEST_WAIT_S, WAIT_SHARE * plan.span.duration_ms / 1000)
