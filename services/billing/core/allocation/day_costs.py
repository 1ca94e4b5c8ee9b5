"""Sums of a day's charges by cause, tier and machine, as they are added one kind after the other."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from services.billing.core.allocation.accrual import Accrual
from services.billing.core.allocation.attribution import DirectOwner, Fleet
from services.billing.core.allocation.charge_groups import ChargeKey, ChargeSum, billed_time_ms, cost_on_day
from services.billing.core.allocation.cost_parts import (
    CostPart,
    CostSplit,
    positive_parts,
    split_cost,
    sum_by_tier,
    weights_by_time,
    weights_by_use,
)
from services.billing.core.allocation.estimates import CostEstimator
from services.billing.core.allocation.machine_hours import BilledHours, ChargedHours
from services.billing.core.allocation.machine_time import MachineTime, TimeUse
from services.billing.core.allocation.shared_cost import Unowned
from services.billing.core.allocation.unbilled_time import UnbilledTime, find_unbilled_time
from services.billing.core.cost_row import CostRow
from services.billing.core.utc_time import Window

CostOwner = tuple[str, str | None]
"""A tier, and a machine of it; None: only a tag says whose it is."""


@dataclass(frozen=True, kw_only=True)
class DayInputs:
    """All that a day's allocation is made from."""

    day: Window
    now: int
    rows: Sequence[CostRow]
    fleet: Fleet
    times: Mapping[str, MachineTime] = field(default_factory=dict)
    """By machine."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Served, by tier."""
    prices: Mapping[str, int] = field(default_factory=dict)
    """By tier, in units per machine and hour."""
    accruals: Mapping[str, Sequence[Accrual]] = field(default_factory=dict)
    """By machine, what its provider's running bill says of the day's hours."""
    settled: bool = False
    """Whether every invoice of the day's billing periods ties: no charge is still to come."""
    on_bill: frozenset[str] = frozenset()
    """Machines that have charges on some day of the billing periods."""


@dataclass
class DayCosts:
    facts: DayInputs
    parts: Counter[CostPart] = field(default_factory=Counter)
    """What belongs to a tier by itself."""
    loose: Counter[Unowned] = field(default_factory=Counter)
    credit_parts: Counter[CostPart] = field(default_factory=Counter)
    credit_loose: Counter[Unowned] = field(default_factory=Counter)
    """The credits in the two."""
    tax: int = 0
    effective: int = 0
    has_effective: bool = False
    billed: bool = False
    billed_hours: dict[str, list[Window]] = field(default_factory=dict)
    """By machine, the hours for which there are charges: in these, the bill replaces the accrual."""
    billed_use: Counter[str] = field(default_factory=Counter)
    early: dict[str, dict[Window, int]] = field(default_factory=dict)
    """By machine, the hours for which charges came before the hours were over, with the cost of those charges."""
    early_time: dict[str, list[Window]] = field(default_factory=dict)
    """By machine, the time before those charges came."""
    named: set[str] = field(default_factory=set)
    """The machines that any charge is for."""
    tagged: set[str] = field(default_factory=set)
    """The tiers with charges for use that only a tag attributes."""
    tagged_after: set[str] = field(default_factory=set)
    """Those of them with such charges that came when the day was over."""
    _owned: dict[CostOwner, Counter[CostPart]] = field(default_factory=dict)
    """The cost parts, by owner."""
    _adjustments: dict[tuple[CostOwner, bool], Counter[ChargeKey]] = field(default_factory=dict)
    """By owner, and whether they are credits, the cost of each kind."""
    splits: list[CostSplit] = field(default_factory=list)
    """How the charges of tiers were split."""
    _claims: dict[str, ChargedHours] = field(default_factory=dict)
    charged: dict[CostOwner, Counter[str]] = field(default_factory=dict)
    estimated: dict[str, Counter[str]] = field(default_factory=dict)
    _uses: dict[tuple[str, Window], TimeUse] = field(default_factory=dict)

    def use(self, machine: str | None, window: Window) -> TimeUse:
        """Remembered: the charges of a day share a few windows."""
        name = machine or ""
        if (name, window) not in self._uses:
            self._uses[name, window] = self.facts.times.get(name, MachineTime()).use(window)
        return self._uses[name, window]

    def add(self, kind: ChargeKey, charge: ChargeSum) -> None:
        day = self.facts.day
        cost = cost_on_day(charge.billed, kind, day)
        if kind.category == "Tax":
            self.tax += cost
            return
        self.billed = True
        self.effective += cost_on_day(charge.effective, kind, day)
        self.has_effective = self.has_effective or charge.has_effective
        is_credit = kind.category == "Credit"
        if not isinstance(kind.owner, DirectOwner):
            self.loose[kind.owner] += cost
            self.credit_loose[kind.owner] += cost if is_credit else 0
            return
        if kind.machine is not None:
            self.named.add(kind.machine)
        elif kind.is_for_use:
            self.tagged.add(kind.owner.tier)
            if charge.arrived >= day.end:
                self.tagged_after.add(kind.owner.tier)
        if kind.category != "Usage" or (charge.is_refund and not self._use_in(kind).billable):
            whose = kind.owner.tier, kind.machine
            self._adjustments.setdefault((whose, is_credit), Counter())[kind] += cost
        else:
            self._add_usage(kind, charge, kind.owner, cost)

    def _add_usage(self, kind: ChargeKey, charge: ChargeSum, owner: DirectOwner, cost: int) -> None:
        window, use = self._window(kind), self._use_in(kind)
        if not kind.is_use or owner.machine is None:
            weights = weights_by_time(owner.tier, window, use, in_every_state=kind.is_storage or owner.is_part)
            self._charge(kind, owner, cost, weights)
            return
        hours = billed_time_ms(kind, charge, self.facts.day, window)
        parts = self._charge(kind, owner, cost, weights_by_use(owner.tier, window, use, hours))
        if charge.is_negative:
            return
        unexplained = sum(amount for part, amount in parts.items() if part.cause == "unexplained")
        if cost >= 0:
            self._claims.setdefault(owner.machine, ChargedHours()).add(
                window, None if hours is None else round(hours), unexplained
            )
        if kind.arrived is None:
            self.billed_hours.setdefault(owner.machine, []).append(kind.hours)
            self.billed_use[owner.machine] += cost
        else:
            early = self.early.setdefault(owner.machine, {})
            early[kind.covers] = early.get(kind.covers, 0) + cost
            self.early_time.setdefault(owner.machine, []).append(kind.known_until(charge.arrived))

    def _charge(
        self, kind: ChargeKey, owner: DirectOwner, cost: int, weights: Mapping[CostPart, int]
    ) -> Mapping[CostPart, int]:
        whose, parts = (owner.tier, owner.machine), split_cost(cost, weights)
        self.splits.append(CostSplit(frozenset([kind]), weights))
        self.add_parts(whose, parts)
        self.charged.setdefault(whose, Counter()).update(sum_by_tier(parts))
        return parts

    def add_parts(self, whose: CostOwner, parts: Mapping[CostPart, int]) -> None:
        self.parts.update(parts)
        self._owned.setdefault(whose, Counter()).update(parts)

    def adjust(self) -> None:
        """Spread what is no cost of its own time: as the machine's other costs of the day are, else as its tier's."""
        by_tier: dict[str, Counter[CostPart]] = {}
        for parts in self._owned.values():
            for part, amount in parts.items():
                by_tier.setdefault(part.tier, Counter())[part] += amount
        for (whose, is_credit), costs in self._adjustments.items():
            tier, machine = whose
            weights = positive_parts(self._owned.get(whose, {})) or positive_parts(by_tier.get(tier, {}))
            if not weights:
                day = self._elapsed(self.facts.day)
                weights = weights_by_time(tier, day, self.use(machine, day))
            self.splits.append(CostSplit(frozenset(costs), weights))
            parts = split_cost(costs.total(), weights)
            self.parts.update(parts)
            self.charged.setdefault(whose, Counter()).update(sum_by_tier(parts))
            self.credit_parts.update(parts if is_credit else {})

    def hours(self) -> dict[str, BilledHours]:
        day = self._elapsed(self.facts.day)
        return {name: c.compare(partial(self.use, name), day) for name, c in sorted(self._claims.items())}

    def unbilled(
        self, machine: str, basis: CostEstimator, estimated: Collection[str], charged: Sequence[Window]
    ) -> list[UnbilledTime]:
        """Return what lacks a bill; `charged` is the time of which a charge tells the cost."""
        if not self.facts.fleet.expects_bill(machine, self.tagged):
            return []
        time = self.facts.times.get(machine, MachineTime())
        day = Window(self.facts.day.start, min(self.facts.day.end, self.facts.now))
        return find_unbilled_time(machine, time, [w for w in charged if w.length], basis, day=day, estimated=estimated)

    def wakes(self) -> dict[str | None, int]:
        costs: Counter[str | None] = Counter()
        for part, amount in self.parts.items():
            if part.cause in ("waking", "failed_wake"):
                costs[part.key_id] += amount
        return dict(costs)

    def _window(self, kind: ChargeKey) -> Window:
        return self._elapsed(Window(kind.start, kind.end).overlap(self.facts.day))

    def _use_in(self, kind: ChargeKey) -> TimeUse:
        return self.use(kind.machine, self._window(kind))

    def _elapsed(self, window: Window) -> Window:
        """Cut the window at now: what has not happened yet explains nothing."""
        ongoing = window.start < self.facts.now < window.end
        return Window(window.start, self.facts.now) if ongoing else window
