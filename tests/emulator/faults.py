"""What can go wrong, F1 to F17, as rules that look at every call before and after it is done, or at every create.

`faults.add("F3", how="rst")` adds one; any number may be there at once. Where chance has a part it is the rule's own
generator, seeded from the emulator's seed and the number of the rule, so that one rule does not disturb another.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.emulator.api import Answer, Call
from tests.emulator.contracts import Fate
from tests.emulator.market import Slot

Before = Callable[[Call], Answer | None]
After = Callable[[Call, Answer], Answer]


@dataclass
class Rule:
    """Fires for calls of these endpoints (none: all), from the nth on, count times (None: always), by chance.

    fired: how often it did. target: only calls about this instance or offer.
    """

    id: str
    rng: random.Random
    endpoints: tuple[str, ...] = ()
    nth: int = 1
    count: int | None = 1
    probability: float = 1.0
    target: int | None = None
    until: float | None = None
    before: Before | None = None
    after: After | None = None
    fate: Callable[[Fate, Slot], None] | None = None
    fired: int = 0
    seen: int = 0

    def fires(self) -> bool:
        """Counts what it is asked about, so ask once a call."""
        self.seen += 1
        if self.seen < self.nth or (self.count is not None and self.fired >= self.count):
            return False
        if self.probability < 1 and self.rng.random() >= self.probability:
            return False
        self.fired += 1
        return True

    def concerns(self, call: Call) -> bool:
        if self.endpoints and call.endpoint not in self.endpoints:
            return False
        if self.until is not None and call.at >= self.until:
            return False
        return self.target is None or call.target == self.target
