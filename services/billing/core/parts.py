"""Where a machine's own charge goes: parts of it by tier, cause and waking key, in proportion to the machine's time."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from services.billing.core.days import Window
from services.billing.core.machine_time import BILLABLE, TimeUse
from services.billing.core.money import split
from shared.messages.billing import CAUSES, Cause


class Part(NamedTuple):
    """A tier's cost of one cause; of a wake also by the key that caused it."""

    tier: str
    cause: Cause
    key_id: str | None = None


def time_parts(home: str, window: Window, use: TimeUse, billed: int | None) -> Counter[Part]:
    """Weights by what the machine did in the window. `home` is its tier where the journal says none.

    `billed` are the milliseconds that it was billed for, None of storage, which costs in every state. Billed time
    beyond what the journal can explain is unexplained as far as it is silent about the window; the rest follows the
    billable time that it knows, and is the cost of being asleep where there is none.
    """
    silence = Part(home, "unexplained")
    if not window.length or use.uncovered == window.length:
        return Counter({silence: 1})  # a window about which the journal knows nothing tells nothing about sleep either
    if billed is None:
        spent, known, unknown = _spent(home, use, all_of_it=True), 1, use.uncovered
    else:
        spent = _spent(home, use, all_of_it=not use.billable)
        unexplained = min(use.uncovered, max(0, billed - use.billable))
        known, unknown = billed - unexplained, unexplained * spent.total()
    weights = Counter({part: time * known for part, time in spent.items()})
    weights[silence] += unknown
    return weights


def parts_of(cost: int, weights: Mapping[Part, int]) -> Counter[Part]:
    """They sum to `cost`; some weight is not 0."""
    order = sorted(weights, key=lambda part: (CAUSES.index(part.cause), part.tier, part.key_id or ""))  # for ties
    return Counter(dict(zip(order, split(cost, [weights[part] for part in order]), strict=True)))


def _spent(home: str, use: TimeUse, *, all_of_it: bool) -> Counter[Part]:
    """The billable time, or all that the journal knows."""
    found: Counter[Part] = Counter()
    for spell, time in use.spells.items():
        if all_of_it or spell.cause in BILLABLE:
            found[Part(spell.tier or home, spell.cause, spell.key_id)] += time
    return found
