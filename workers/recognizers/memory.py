"""How many windows an engine decodes at once, and what happens when memory runs out. Knows no engine."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import TypeVar

from workers.errors import EngineError

log = logging.getLogger(__name__)

CPU_BATCHES = ((200_000_000, 16), (600_000_000, 8))  # weights of so many bytes at most, windows at once
CPU_BATCH = 4  # of larger ones
GPU_BATCH = 16
GPU_MIB_PER_WINDOW = 400  # faster-whisper's README: large-v2 in float16 takes 1.6 GB more with 8; doubled
_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "cannot allocate memory",
    "bad_alloc",
    "alloc_failed",
    "failed to allocate",
)

Item = TypeVar("Item")
Result = TypeVar("Result")


def batch_for(device: str, device_index: int, weights_bytes: int) -> int:
    """Windows at once where nobody said: on a CPU fewer for large weights, on a GPU what its free memory holds.

    Ten minutes of speech with the demo model on two threads: 10.5 s with 4 windows at once, 7.6 with 8, 6.7 with 16.
    What the decoder keeps of a window (layers x width x 1500 x 2 floats) is 20 MB for tiny, 110 for small and 490 for
    large, so that on a CPU no model's batch takes more than 2 GB. The GPU's figures are not measured here; too large
    a batch is halved by `in_batches`.
    """
    if device != "cuda":
        return next((windows for most, windows in CPU_BATCHES if weights_bytes <= most), CPU_BATCH)
    free = free_mib(device_index)
    return GPU_BATCH if free is None else max(1, min(GPU_BATCH, free // GPU_MIB_PER_WINDOW))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: numpy, CTranslate2, CUDA, cuBLAS and torch each say it their way."""
    text = f"{type(error).__name__} {error}".lower().replace("outofmemory", "out of memory")
    return isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY)


def in_batches(
    items: Sequence[Item], size: int, work: Callable[[Sequence[Item]], Sequence[Result]]
) -> tuple[list[Result], int]:
    """`work` over `items`, `size` at a time, halving the size each time memory runs out.

    Returns the results in order and the size that held. What was done is not done again.

    Raises EngineError where a single item does not fit; other errors of `work` pass.
    """
    results: list[Result] = []
    while len(results) < len(items):
        batch = items[len(results) : len(results) + size]
        try:
            results.extend(work(batch))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise EngineError(
                    f"The device's memory does not hold the model at work on one window of 30 s ({error}): "
                    "take a smaller --model, or fewer --processes."
                ) from error
            size = max(1, len(batch) // 2)
            log.warning("Out of memory: going on with %d windows at once.", size, extra={"action": "batch_halved"})
    return results, size


def free_mib(device_index: int) -> int | None:
    """Free memory of a GPU; None where nvidia-smi is missing or does not say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits", "-i", str(device_index)]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        return int(answer.strip().splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.debug("nvidia-smi does not tell the free memory: %s", error)
        return None
