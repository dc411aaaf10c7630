"""What a fleet's bill consists of. Pure; money in US dollars, time in seconds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

PARTS = ("work", "idle", "lost", "boot", "image", "audio", "disk")
TOLD = {
    "work": "inference",
    "idle": "waiting for chunks",
    "lost": "lost to outbids",
    "boot": "boot (GPU)",
    "image": "boot (traffic of the image)",
    "audio": "traffic of the audio",
    "disk": "disk",
}


@dataclass(frozen=True)
class Machine:
    """One rented machine at its end.

    booted_s: seconds of billed GPU before its worker was first heard of; all of them, where it never was. outbid: it
    was taken away. image_usd, audio_usd: traffic of the image's pull, and of chunks and results.
    """

    gpu_usd: float
    gpu_s: float
    booted_s: float
    useful_s: float
    outbid: bool
    image_usd: float
    audio_usd: float
    disk_usd: float

    def parts(self) -> dict[str, float]:
        """Dollars by part; they add up to the bill."""
        rate = self.gpu_usd / self.gpu_s if self.gpu_s else 0.0
        boot_s = min(self.booted_s, self.gpu_s)
        useful_s = min(self.useful_s, self.gpu_s - boot_s)
        rest = rate * (self.gpu_s - boot_s - useful_s)
        return {
            "work": rate * useful_s,
            "idle": 0.0 if self.outbid else rest,
            "lost": rest if self.outbid else 0.0,  # a worker that has work is at it until it is stopped
            "boot": rate * boot_s,
            "image": self.image_usd,
            "audio": self.audio_usd,
            "disk": self.disk_usd,
        }


def summed(machines: Iterable[Machine]) -> dict[str, float]:
    """Dollars by part, over all machines."""
    total = dict.fromkeys(PARTS, 0.0)
    for machine in machines:
        for part, usd in machine.parts().items():
            total[part] += usd
    return total


def middle(bills: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The parts of the run in the middle by its sum: medians part by part would not add up to a median."""
    ordered = sorted(bills, key=lambda bill: sum(bill.values()))
    return dict(ordered[(len(ordered) - 1) // 2])


def shares(bill: Mapping[str, float]) -> dict[str, float]:
    """Each part of the whole, 0 to 1."""
    whole = sum(bill.values())
    return {part: usd / whole if whole else 0.0 for part, usd in bill.items()}


def slowest(bill: Mapping[str, float], most_usd: float) -> float | None:
    """At which part of the assumed speed the bill would reach `most_usd`; None where not even any speed would do.

    Inference and disk take longer then; boot, traffic and waiting are as they were. Both in the same unit.
    """
    longer = bill["work"] + bill["disk"] + bill["lost"]
    left = most_usd - (sum(bill.values()) - longer)
    return longer / left if left > 0 else None


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Minimum, median, maximum."""
    return min(values), median(values), max(values)
