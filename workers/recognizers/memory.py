"""How many windows an engine decodes at once, and what happens when memory runs out. Knows no engine."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import TypeVar

from workers.errors import EngineError

log = logging.getLogger(__name__)

CPU_BATCH = 4
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


def batch_for(device: str, device_index: int) -> int:
    """Windows at once where nobody said: few on a CPU, more where the GPU's free memory holds them.

    Four minutes of speech with the demo model on two cores: 9.2 s of processor time with 1 window at once,
    7.9 with 2, 5.9 with 4, 5.2 with 8. Memory grows with the batch, so 4. The GPU's figures are not measured
    here; too large a batch is halved by `in_batches`.
    """
    if device != "cuda":
        return CPU_BATCH
    free = _free_mib(device_index)
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


def _free_mib(device_index: int) -> int | None:
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
