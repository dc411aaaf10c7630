"""How much memory a process took at most, and its children."""

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOOK_S = 0.02
_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """What of this process is in memory now."""
    import psutil  # type: ignore[import-untyped]

    return int(psutil.Process().memory_info().rss)


def peak_bytes() -> int:
    """The most that this process ever had in memory since it became this program.

    On Linux ru_maxrss is inherited: a small program that a large one starts seems as large. VmHWM is not.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, else kB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def largest_child() -> Iterator[list[int]]:
    """Resident bytes of this process's children, each look of LOOK_S seconds; the list grows until the block ends."""
    import psutil

    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        this = psutil.Process()
        while not done.wait(LOOK_S):
            for child in this.children():
                with suppress(psutil.NoSuchProcess):
                    seen.append(child.memory_info().rss)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
