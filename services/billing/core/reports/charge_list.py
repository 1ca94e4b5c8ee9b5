"""A day's charges one by one, each with where its cost went: their parts sum to exactly the day's figures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from services.billing.core.allocation.charge_groups import ChargeKey, charge_keys, cost_on_day
from services.billing.core.allocation.cost_parts import CostPart, CostSplit, split_cost
from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.cost_row import CostRow
from services.billing.core.money import to_units
from services.billing.core.reports.cost_lines import ChargeOrigin
from shared.messages.billing import Cause

Destination = tuple[str | None, Cause]
"""A tier and a cause; None: no tier's own."""


class ListedCharge(NamedTuple):
    """A charge, and what the day has of it, in units of USD."""

    row: CostRow
    origin: ChargeOrigin
    amount: int
    parts: Mapping[Destination, int]
    """They sum to `amount`. Empty for tax, which stands beside the spend."""


def list_charges(facts: DayInputs, origins: Sequence[ChargeOrigin], allocation: Allocation) -> list[ListedCharge]:
    """Return the charges, those of the largest amounts first. `origins` says where each of the rows is from.

    Charges that were converted and split as one sum are taken one after the other, each for what it adds to the sum's
    parts: so they sum to the figures whatever was rounded, and each differs from its own share by a few units at most.
    """
    groups: dict[ChargeKey, list[tuple[CostRow, ChargeOrigin]]] = defaultdict(list)
    for kind, row, origin in zip(
        charge_keys(facts.rows, facts.fleet.owner_of, facts.day, facts.now), facts.rows, origins, strict=True
    ):
        groups[kind].append((row, origin))
    splits = [*allocation.splits]
    is_split = {kind for split in splits for kind in split.kinds}
    splits += [CostSplit(frozenset([kind]), _weights(kind, allocation)) for kind in groups if kind not in is_split]
    charges = [charge for split in splits for charge in _split(split, groups, facts)]
    return sorted(charges, key=lambda charge: (-abs(charge.amount), _order(charge.row, charge.origin)))


def _weights(kind: ChargeKey, allocation: Allocation) -> Mapping[CostPart, int]:
    """What belongs to no tier by itself goes to one cause; tax to none."""
    if kind.category == "Tax":
        return {}
    is_shared = kind.owner == "shared" and bool(allocation.tiers)  # without a tier to bear it, it is unattributed
    return {CostPart("", "shared" if is_shared else "unattributed"): 1}


def _split(
    split: CostSplit, groups: Mapping[ChargeKey, Sequence[tuple[CostRow, ChargeOrigin]]], facts: DayInputs
) -> Iterator[ListedCharge]:
    cost, before = 0, Counter[CostPart]()
    for kind in sorted(split.kinds, key=str):
        billed, of_kind = 0, 0
        is_loose = isinstance(kind.owner, str)
        for row, origin in sorted(groups[kind], key=lambda one: _order(*one)):
            billed += to_units(row.billed)
            amount = cost_on_day(billed, kind, facts.day) - of_kind
            of_kind += amount
            cost += amount
            after = split_cost(cost, split.weights) if split.weights else Counter[CostPart]()
            parts: Counter[Destination] = Counter()
            for part, whole in after.items():
                parts[None if is_loose else part.tier, part.cause] += whole - before[part]
            before = after
            yield ListedCharge(row, origin, amount, {where: part for where, part in parts.items() if part})


def _order(row: CostRow, origin: ChargeOrigin) -> tuple[object, ...]:
    """An order that does not depend on how the charges are stored."""
    texts = (row.category, row.service_category, row.resource_id, row.tags, origin.source, origin.delivery)
    return (row.charge_start, row.charge_end, row.billed, row.rows, *(text or "" for text in texts), str(row))
