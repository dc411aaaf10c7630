"""What is said of a library that failed under a diarizer."""

from workers.errors import EngineError, one_line
from workers.recognizers.memory import is_out_of_memory


def engine_failure(error: BaseException, what: str) -> EngineError:
    """`what` names what failed, as the beginning of a sentence; too little memory has a sentence of its own."""
    if is_out_of_memory(error):
        return EngineError(
            "The device's memory does not hold the diarizer at work: give the worker a device with more memory, "
            "or fewer --processes."
        )
    return EngineError(f"{what}: {one_line(error)}.")
