"""What a fleet does next: one pure function from what is seen, meant and wanted to the actions that follow from it.

Every action is derived anew from the world and the ledger at each tick, so that a controller may die between any
two of them. Nothing here asks, does, or looks at a clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from provisioning.classify import Class, Memory
from provisioning.fleet import Action, Demand, Intent, Limits, Observed, Speeds, Strike

Mode = Literal["run", "up", "drain", "down"]


@dataclass(frozen=True)
class Plan:
    """Actions in the order in which they are to be done; a failed one does not stop those after it.

    For each machine that has to go: FreeTasks, Settle(closing), Destroy. Then Settle of what was found or missed,
    DrainWorker, Alarm, and Rent last. target: machines wanted; reason: why that many, for a person.
    classes: by instance id, of all rows with a label of this fleet, and of expired ones of our other fleets.
    """

    actions: tuple[Action, ...]
    target: int
    memory: Memory
    classes: Mapping[int, Class]
    reason: str = ""


def plan(
    observed: Observed,
    intents: Sequence[Intent],
    demand: Demand,
    limits: Limits,
    speeds: Speeds,
    strikes: Sequence[Strike],
    spent_usd: float,
    now_ms: int,
    fleet: str,
    mode: Mode = "run",
    memory: Memory | None = None,
    image_gb: float = 4.0,
) -> Plan:
    """One tick's actions.

    mode: "run" follows the demand; "up" keeps `limits.max_instances` machines whatever the demand; "drain" rents
    nothing, lets workers finish and destroys them; "down" destroys everything of this fleet at once.
    intents: all that are not closed; closed ones may be among them. At the time of a plan an intent in state asked is
    taken for unknown: whoever was to write down its answer is dead.
    spent_usd: the meter's (see `provisioning.budget`), a rent counting from its request.
    demand.known: whether server and gateway answered, in every mode: nobody is called silent while they do not.
    memory: what the plan before returned, None at the start.

    How to apply: Settle writes `state`, `instance_id` and `reason`; one with `missed_ms` also adds one to
    `lists_without` and sets `last_missed_ms`, one without puts them back to 0 and None. Destroy: note the strike, then
    ask the market; it is asked again at every tick until a list lacks the instance. FreeTasks also revokes the token.
    Rent: as many as `count`, never two on the machine of a request that is unsettled, see `offers.choose`.
    """
    del intents, demand, speeds, strikes, spent_usd, now_ms, fleet, mode, image_gb, observed
    return Plan((), limits.min_instances, memory or Memory(), {})
