"""Which language is spoken: one vote for the whole recording, so that no chunk decides for itself."""

import logging
import time
from collections.abc import Iterable

from workers.context import Context
from workers.media import as_float
from workers.messages import DetectLanguageOutput, JobKeys, JobPlan, JobRef, LanguageVote, RecognizeOptions
from workers.recording import read_flac
from workers.stages.recognize import read_plan

log = logging.getLogger(__name__)


def detect_language(ref: JobRef, context: Context) -> DetectLanguageOutput:
    """Sum each language's probability over the samples that the plan stored, and store the winner.

    A vote that an earlier attempt stored stands: chunks may be using it already.
    """
    began = time.monotonic()
    storage = context.open_storage(ref.storage)
    keys = JobKeys(ref.job)
    plan = read_plan(storage, keys)
    if storage.exists(keys.language):
        vote = LanguageVote.model_validate_json(storage.get_bytes(keys.language))
    else:
        vote = _vote(plan, ref, context)
        storage.put_bytes(keys.language, vote.model_dump_json().encode())
    log.info("Spoken language: %s.", vote.language, extra={"action": "language_voted", "job": ref.job})
    return DetectLanguageOutput(language=vote.language, votes=vote.votes, seconds=round(time.monotonic() - began, 3))


def tally(ballots: Iterable[dict[str, float]]) -> LanguageVote:
    """The language with the highest summed probability; with equal sums the first by name. None without ballots."""
    votes: dict[str, float] = {}
    for ballot in ballots:
        for language, probability in ballot.items():
            votes[language] = votes.get(language, 0.0) + probability
    ranked = sorted(votes.items(), key=lambda vote: (-vote[1], vote[0]))
    rounded = {language: round(total, 4) for language, total in ranked if total >= 5e-5}
    return LanguageVote(language=ranked[0][0] if ranked else None, votes=rounded)


def _vote(plan: JobPlan, ref: JobRef, context: Context) -> LanguageVote:
    if not plan.language_samples:
        return LanguageVote()
    storage = context.open_storage(ref.storage)
    keys = JobKeys(ref.job)
    samples = [
        as_float(read_flac(storage.get_bytes(keys.language_sample(number)), "a language sample"))
        for number in range(plan.language_samples)
    ]
    options: RecognizeOptions = plan.request.recognize_options()
    recognizer = context.recognizer(options)  # only now: it waits until the engine is free
    ballots = []
    for sample in samples:
        context.check_wanted()
        ballots.append(recognizer.language_probabilities(sample))
    return tally(ballots)
