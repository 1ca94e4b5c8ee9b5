"""What a day's figures are made of: lines that sum to exactly the figure, from the allocation that made it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.billing.core.allocation.attribution import Owner
from services.billing.core.allocation.charge_groups import cost_on_day, group_charges
from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.allocation.day_costs import CostOwner, DayInputs
from services.billing.core.allocation.shared_cost import Unowned
from services.billing.core.cost_row import CostRow
from services.billing.core.money import divide, to_usd
from shared.messages.explanation import CostLine, Explanation, LineKind

MAX_LINES = 50
"""Lines of one figure; the rest is one sum. All figures of a fleet of ten tiers fit into a message."""


class ChargeOrigin(NamedTuple):
    """Where a charge is from."""

    source: str
    file: str
    """Its name; of several delivered together the first, and how many more."""
    delivery: str = ""
    """The SHA-256 of the delivery: that of its one file, or that of the hashes of several."""


class Figure(NamedTuple):
    """What is explained: a tier, or one of the causes that are nobody's own."""

    is_tier: bool
    name: str


UNATTRIBUTED, SHARED = Figure(False, "unattributed"), Figure(False, "shared")


_Bearer = Unowned | CostOwner
"""Who bears charges: nobody by itself, or a tier and its machine."""


class LineLabel(NamedTuple):
    """What the charges of one line have in common."""

    what: LineKind
    resource: str | None = None
    service: str | None = None
    category: str | None = None
    tag: str | None = None
    source: str | None = None
    file: str | None = None


@dataclass
class LineTotal:
    """A line's amount in units of money, and its delivered charges."""

    amount: int = 0
    charges: int = 0


@dataclass
class CostLines:
    """Cost lines by figure. The lines of several days can be added up."""

    by_figure: dict[Figure, dict[LineLabel, LineTotal]] = field(default_factory=dict)

    def add(self, figure: Figure, label: LineLabel, amount: int, charges: int = 0) -> None:
        line_total = self.by_figure.setdefault(figure, {}).setdefault(label, LineTotal())
        line_total.amount += amount
        line_total.charges += charges

    def add_all(self, others: "CostLines") -> None:
        for figure, lines in others.by_figure.items():
            for label, line_total in lines.items():
                self.add(figure, label, line_total.amount, line_total.charges)

    def total(self, figure: Figure) -> int:
        return sum(line_total.amount for line_total in self.by_figure.get(figure, {}).values())


def build_cost_lines(facts: DayInputs, origins: Sequence[ChargeOrigin], allocation: Allocation) -> CostLines:
    """Return the lines of all figures. `origins` says where each of the rows is from."""
    lines = CostLines()
    for whose, tallies in _charges_by_bearer(facts, origins).items():
        own = {label: line_total.amount for label, line_total in tallies.items()}
        for figure, amounts in _divide_among_figures(own, _targets(whose, allocation)).items():
            for label, amount in amounts.items():
                lines.add(figure, label, amount, tallies[label].charges)
    for machine, tiers in allocation.estimated.items():
        for tier, amount in tiers.items():
            lines.add(Figure(True, tier), LineLabel("estimate", machine), amount)
    for tier, amount in allocation.tiers.items():
        figure = Figure(True, tier)
        lines.add(figure, LineLabel("shared"), amount - lines.total(figure))
    for figure in (UNATTRIBUTED, SHARED):
        lines.by_figure.setdefault(figure, {})
    return lines


def to_explanations(lines: CostLines) -> tuple[Explanation, ...]:
    """Return the lines as shown: what belongs to no tier, then each tier, with its largest lines of either sign."""
    return tuple(_explanation(figure, lines.by_figure[figure]) for figure in sorted(lines.by_figure, key=_order))


def _charges_by_bearer(facts: DayInputs, origins: Iterable[ChargeOrigin]) -> dict[_Bearer, dict[LineLabel, LineTotal]]:
    """Return the charges by who bears them and by label. Their cost may differ from the figures by a rounding."""
    owners: dict[tuple[str | None, ...], Owner] = {}
    alike: dict[tuple[Owner, LineLabel], list[CostRow]] = {}
    for row, origin in zip(facts.rows, origins, strict=True):
        if row.category == "Tax":
            continue  # it stands beside the spend
        named = (row.resource_id, row.tags, row.parent_id, row.service_category)
        if (owner := owners.get(named)) is None:
            owner = owners[named] = facts.fleet.owner_of(row)
        label = LineLabel(
            "charges", row.resource_id, row.service_name, row.category, facts.fleet.tag(row), origin.source, origin.file
        )
        alike.setdefault((owner, label), []).append(row)
    by_figure: dict[_Bearer, dict[LineLabel, LineTotal]] = {}
    for (owner, label), rows in alike.items():
        bearer = owner if isinstance(owner, str) else (owner.tier, owner.machine)
        line_total = by_figure.setdefault(bearer, {}).setdefault(label, LineTotal())
        for kind, charge in group_charges(rows, facts.fleet.owner_of, facts.day, facts.now).items():
            line_total.amount += cost_on_day(charge.billed, kind, facts.day)
            line_total.charges += charge.rows
    return by_figure


def _targets(bearer: _Bearer, allocation: Allocation) -> dict[Figure, int]:
    """The figures that the charges are part of, and how much of them."""
    if isinstance(bearer, str):
        is_shared = bearer == "shared" and bool(allocation.tiers)  # without a tier to bear it, it is unattributed
        return {SHARED if is_shared else UNATTRIBUTED: allocation.loose[bearer]}
    return {Figure(True, tier): amount for tier, amount in allocation.charged[bearer].items()}


def _divide_among_figures(
    own: Mapping[LineLabel, int], targets: Mapping[Figure, int]
) -> dict[Figure, dict[LineLabel, int]]:
    """Divide each target's amount by label, in proportion; the largest label takes what rounding leaves."""
    whole = sum(own.values())
    by_figure: dict[Figure, dict[LineLabel, int]] = {}
    for figure, target in targets.items():
        if len(targets) == 1:
            amounts = dict(own)
        else:
            amounts = {label: _proportion(amount, target, whole) for label, amount in own.items()}
        largest = max(amounts, key=lambda label: abs(amounts[label]))
        amounts[largest] += target - sum(amounts.values())
        by_figure[figure] = amounts
    return by_figure


def _proportion(amount: int, target: int, whole: int) -> int:
    return divide(amount * target * (-1 if whole < 0 else 1), abs(whole)) if whole else 0


def _explanation(figure: Figure, lines: Mapping[LineLabel, LineTotal]) -> Explanation:
    totals = {label: line_total for label, line_total in lines.items() if line_total.amount}
    ordered = sorted(totals, key=lambda label: (-abs(totals[label].amount), tuple(part or "" for part in label)))
    shown = ordered if len(ordered) <= MAX_LINES + 1 else ordered[:MAX_LINES]
    rest = ordered[len(shown) :]
    return Explanation(
        figure=figure.name,
        is_tier=figure.is_tier,
        amount=to_usd(sum(line_total.amount for line_total in totals.values())),
        lines=tuple(
            CostLine(amount=to_usd(totals[label].amount), charges=totals[label].charges, **label._asdict())
            for label in shown
        ),
        more=len(rest),
        rest=to_usd(sum(totals[label].amount for label in rest)),
    )


def _order(figure: Figure) -> tuple[int, str]:
    return (2, figure.name) if figure.is_tier else (int(figure == SHARED), "")
