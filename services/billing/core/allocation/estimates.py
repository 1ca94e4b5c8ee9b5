"""What a machine costs until there is a bill: by its provider's running bill, else by its tier's price."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.billing.core.allocation.accrual import Accrual
from services.billing.core.allocation.cost_parts import CostPart, split_cost, sum_parts, weights_by_time
from services.billing.core.allocation.machine_time import BILLABLE_CAUSES, TimeUse, subtract_windows
from services.billing.core.money import divide, split_exactly
from services.billing.core.utc_time import Window
from shared.units import HOUR_MS


@dataclass(frozen=True, kw_only=True)
class CostEstimator:
    """Estimates a machine's cost from running bills and prices."""

    use: Callable[[str, Window], TimeUse]
    """A machine's time in a window."""
    tier_of: Mapping[str, str]
    """Machine to tier, where the journal says none."""
    prices: Mapping[str, int] = field(default_factory=dict)
    """By tier, in units of USD per machine and hour of billable time."""
    accruals: Mapping[str, Sequence[Accrual]] = field(default_factory=dict)
    """By machine, the accruals from its provider's running bill."""

    def observes(self, machine: str, windows: Sequence[Window]) -> bool:
        """Whether the windows hold hours of a running bill, or time of a tier with a price."""
        if self._accruals_in(machine, windows):
            return True
        home = self.tier_of.get(machine, "")
        return any((spell.tier or home) in self.prices for w in windows for spell in self.use(machine, w).spells)

    def accrual(self, machine: str, windows: Sequence[Window]) -> Counter[CostPart]:
        """The machine's cost in the windows, which are whole hours."""
        home = self.tier_of.get(machine, "")
        costs: Counter[CostPart] = Counter()
        accruals = self._accruals_in(machine, windows)
        for accrual in accruals:
            window = Window(accrual.since, accrual.through)
            weights = weights_by_time(home, window, self.use(machine, window))
            costs.update(split_cost(accrual.amount, weights))
        weights = Counter()
        for rest in (
            part
            for window in windows
            for part in subtract_windows(window, [Window(a.since, a.through) for a in accruals])
        ):
            for spell, time in self.use(machine, rest).spells.items():
                if spell.cause in BILLABLE_CAUSES and (tier := spell.tier or home) in self.prices:
                    weights[CostPart(tier, spell.cause, spell.key_id)] += time * self.prices[tier]
        if weights.total():
            costs.update(split_cost(divide(weights.total(), HOUR_MS), weights))
        return costs

    def beyond(self, machine: str, windows: Sequence[Window], early: Mapping[Window, int]) -> Counter[CostPart]:
        """The accrual beyond what `early` charges cost already, each for its hours: the larger of the two counts."""
        if not early:
            return self.accrual(machine, windows)
        hours = [Window(at, at + HOUR_MS) for window in windows for at in range(window.start, window.end, HOUR_MS)]
        costs = {hour: self.accrual(machine, [hour]) for hour in hours}
        for window, cost in sorted(early.items(), key=lambda item: (item[0].length, item[0].start)):
            here = [hour for hour in hours if hour.overlap(window).length]
            totals = [costs[hour].total() for hour in here]
            if (taken := min(cost, sum(totals))) <= 0:
                continue
            for hour, amount, part in zip(here, totals, split_exactly(taken, totals), strict=True):
                if part:
                    costs[hour] = split_cost(amount - part, costs[hour])
        return sum_parts(costs.values())

    def _accruals_in(self, machine: str, windows: Sequence[Window]) -> list[Accrual]:
        """Return the accruals of the machine's hours that begin in the windows; none where nobody knows its tier."""
        if machine not in self.tier_of:
            return []
        return [a for a in self.accruals.get(machine, ()) if any(w.start <= a.hour < w.end for w in windows)]
