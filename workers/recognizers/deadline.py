"""How long a chunk may take before it is taken for hung."""

HEADROOM = 8.0  # a busy neighbour, a hotter GPU, a second decode of a suspicious chunk: still not eight times slower
SLOWEST_RTFX = (
    1 / 30
)  # half a minute for a second of audio: slower than large-v3 on one old core, nobody waits for that
MINIMUM_SECONDS = 120.0  # the first window after a load compiles kernels and fills caches


def deadline_seconds(audio_ms: int, rtfx: float | None) -> float:
    """Seconds that one pass over `audio_ms` of audio may take.

    rtfx: audio seconds per wall second, as measured on this engine lately; None where nothing is
    known yet, and then the slowest engine that anybody would still use is assumed. A deadline only
    ends a hang (a decoder that loops for ever, a GPU that fell off its bus), so it is generous:
    killing a slow worker's honest work would make the job fail everywhere in the same way.
    """
    seconds = audio_ms / 1000
    if rtfx is None or rtfx <= 0:
        return MINIMUM_SECONDS + seconds / SLOWEST_RTFX
    return MINIMUM_SECONDS + HEADROOM * seconds / max(rtfx, SLOWEST_RTFX)
