"""Where a machine's own charge goes: parts of it by tier, cause and waking key, in proportion to the machine's time."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from services.billing.core.allocation.charge_groups import ChargeKey
from services.billing.core.allocation.machine_time import BILLABLE_CAUSES, TimeUse
from services.billing.core.money import split_exactly
from services.billing.core.utc_time import Window
from shared.messages.billing import CAUSES, Cause


class CostPart(NamedTuple):
    """A tier's cost of one cause; of a wake also by the key that caused it."""

    tier: str
    cause: Cause
    key_id: str | None = None


@dataclass(frozen=True)
class CostSplit:
    """Charges whose cost was split as one sum, and by what: so each of them can be split alike."""

    kinds: frozenset[ChargeKey]
    weights: Mapping[CostPart, int]


def weights_by_time(home: str, window: Window, use: TimeUse, *, in_every_state: bool = False) -> Counter[CostPart]:
    """Weights by what the machine did in the window. `home` is its tier where the journal says none.

    They follow the billable time, and where there is none the time asleep; `in_every_state` all of it, as a disk costs.
    Time that the journal does not cover is unexplained.
    """
    silence = CostPart(home, "unexplained")
    if not window.length or use.uncovered == window.length:
        return Counter({silence: 1})  # a window about which the journal knows nothing tells nothing about sleep either
    spent = _time_by_part(home, use, all_of_it=in_every_state or not use.billable)
    known, unknown = (1, use.uncovered) if in_every_state else (use.covered, use.uncovered * spent.total())
    weights = Counter({part: time * known for part, time in spent.items()})
    weights[silence] += unknown
    return weights


def weights_by_use(home: str, window: Window, use: TimeUse, billed: Fraction | None) -> Counter[CostPart]:
    """Weights of a machine's own use, which costs only while it is awake; `billed`: the milliseconds that it counts.

    Billed time beyond the billable time that the journal knows is unexplained, and so is a charge for a window in which
    the machine slept. A charge that counts no time follows the billable time of its window, however little that is.
    What the journal does not cover of the window is unexplained.
    """
    silence = CostPart(home, "unexplained")
    if not use.billable:
        return Counter({silence: 1})
    if billed is None:
        return weights_by_time(home, window, use)
    above, below = billed.as_integer_ratio()
    unexplained = max(0, above - use.billable * below)
    weights = Counter(
        {p: time * (above - unexplained) for p, time in _time_by_part(home, use, all_of_it=False).items()}
    )
    weights[silence] += unexplained * use.billable
    return weights


def split_cost(cost: int, weights: Mapping[CostPart, int]) -> Counter[CostPart]:
    """They sum to `cost`; some weight is not 0."""
    order = sorted(weights, key=lambda part: (CAUSES.index(part.cause), part.tier, part.key_id or ""))  # for ties
    return Counter(dict(zip(order, split_exactly(cost, [weights[part] for part in order]), strict=True)))


def positive_parts(parts: Mapping[CostPart, int]) -> Counter[CostPart]:
    """Return the parts with a positive cost, as weights."""
    return Counter({part: amount for part, amount in parts.items() if amount > 0})


def sum_parts(parts: Iterable[Mapping[CostPart, int]]) -> Counter[CostPart]:
    sums: Counter[CostPart] = Counter()
    for some in parts:
        sums.update(some)
    return sums


def sum_by_tier(parts: Mapping[CostPart, int]) -> Counter[str]:
    """Return each tier's sum of them."""
    sums: Counter[str] = Counter()
    for part, amount in parts.items():
        sums[part.tier] += amount
    return sums


def _time_by_part(home: str, use: TimeUse, *, all_of_it: bool) -> Counter[CostPart]:
    """The billable time, or all that the journal knows."""
    times: Counter[CostPart] = Counter()
    for spell, time in use.spells.items():
        if all_of_it or spell.cause in BILLABLE_CAUSES:
            times[CostPart(spell.tier or home, spell.cause, spell.key_id)] += time
    return times
