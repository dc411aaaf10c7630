"""Which windows there are, which chunk owns them, and what it must hear for that. Pure.

Window k covers samples [k * step, k * step + window) of the wanted span. The chunk that holds a
window's first sample owns it, so cuts may fall anywhere and the only margin is to the right.
"""

from workers.diarizers import DiarizerSpec
from workers.spans import SAMPLES_PER_MS


def count_windows(samples: int, spec: DiarizerSpec) -> int:
    """How many windows a recording of `samples` has; the last one is filled up with zeros.

    pyannote.audio's rule (Inference.slide): as many as fit, and one more where something is left over.
    """
    if samples <= 0:
        return 0
    return 1 + max(0, -(-(samples - spec.window) // spec.step))


def owned(index: int, chunk_count: int, chunk_seconds: int, spec: DiarizerSpec) -> tuple[int, int | None]:
    """(first, stop): the windows of chunk `index`, as far as the recording has them; stop None for the last chunk."""
    length = chunk_seconds * 1000 * SAMPLES_PER_MS
    first = -(-index * length // spec.step)
    stop = None if index + 1 == chunk_count else -(-(index + 1) * length // spec.step)
    return first, stop


def reach(first: int, stop: int | None, spec: DiarizerSpec) -> tuple[int, int | None]:
    """(start, end) in samples of what must be heard for windows [first, stop); end None: all there is."""
    return first * spec.step, None if stop is None else (stop - 1) * spec.step + spec.window
