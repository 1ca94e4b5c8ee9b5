"""A day's spend by cause and by tier, from charges, machine time and tokens. Every part of it sums exactly."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from services.billing.core.allocation.charge_groups import group_charges
from services.billing.core.allocation.cost_parts import CostPart, CostSplit, sum_by_tier
from services.billing.core.allocation.day_costs import CostOwner, DayCosts, DayInputs
from services.billing.core.allocation.estimates import CostEstimator
from services.billing.core.allocation.machine_hours import BilledHours
from services.billing.core.allocation.machine_time import subtract_windows
from services.billing.core.allocation.shared_cost import SharedBy, Unowned, spread_shared_cost
from services.billing.core.allocation.unbilled_time import UnbilledTime
from shared.messages.billing import Cause

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Units of 10⁻¹² USD. `causes` sum to `spend`, and so do `tiers` and `causes["unattributed"]`."""

    spend: int
    causes: Mapping[Cause, int]
    tiers: Mapping[str, int]
    """Each with its part of the shared cost."""
    tiers_before: Mapping[str, int]
    """The same before credits: with what is unattributed before credits they sum to `before_credits`."""
    wakes: Mapping[str | None, int]
    """What waking and failed wakes cost, by the key that caused them; None: no key did."""
    shared_by: SharedBy | None
    """What the shared cost follows; None: there is none, or no tier to bear it."""
    tax: int
    before_credits: int
    effective: int | None
    """The spend by EffectiveCost; None where no charge tells one."""
    billed: bool
    """Whether a charge other than tax covers the day."""
    accrued: int
    """The part of `spend` that no charge covers yet."""
    observed: bool
    """Whether anything is known of the day of a machine whose time can be accrued."""
    variance: tuple[int, int] | None
    """What would have been accrued for the machine hours that are billed, and what was billed for them."""
    charges: int
    """Delivered rows."""
    estimates: Mapping[str, int]
    """By tier, the estimated cost of hours without a charge that was made after they were over."""
    hours: Mapping[str, BilledHours]
    """By machine, the hours that charges for its use are for."""
    unbilled: tuple[UnbilledTime, ...]
    uncertain: frozenset[str]
    """The tiers with machine time whose cost nothing says but, at most, a charge that came before its hour was over."""
    loose: Mapping[Unowned, int] = field(default_factory=dict)
    """What belongs to no tier by itself."""
    charged: Mapping[CostOwner, Mapping[str, int]] = field(default_factory=dict)
    """What each tier bears of the charges of each configured tier and machine."""
    estimated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """What each tier bears of what each machine accrued and no charge covers yet."""
    estimate_parts: Mapping[CostPart, int] = field(default_factory=dict)
    """The same by tier, cause and waking key, all machines together: they sum to `accrued`."""
    splits: Sequence[CostSplit] = ()
    """How the charges of tiers were split; the other charges are `loose`."""

    @property
    def unestimated(self) -> tuple[UnbilledTime, ...]:
        """Unbilled time without an estimate. If there is any, the spend of the day and of its tier is unknown."""
        return tuple(one for one in self.unbilled if not one.estimated)


def allocate(facts: DayInputs) -> Allocation:
    """The day's spend, all of it.

    Accrual is replaced by the bill hour by hour: a machine's UTC hour in which a charge for its use lies costs what
    the charges say. Any other hour costs what the running bill says, and where that says nothing its billable time
    costs the tier's price; nothing, where the bill is settled and has the machine's other charges of the day. A charge
    that came before its hours were over takes the place of nothing: the larger of it and the accrual counts.
    """
    sums = DayCosts(facts)
    for kind, charge in group_charges(facts.rows, facts.fleet.owner_of, facts.day, facts.now).items():
        sums.add(kind, charge)
    estimator = CostEstimator(use=sums.use, tier_of=facts.fleet.tier_of, prices=facts.prices, accruals=facts.accruals)
    machines = sorted({*facts.times, *facts.accruals})
    accrued = 0
    variance: list[tuple[int, int]] = []
    estimates: Counter[str] = Counter()
    estimate_parts: Counter[CostPart] = Counter()
    unbilled: list[UnbilledTime] = []
    uncertain: set[str] = set()
    for machine in machines:
        free = subtract_windows(facts.day, sums.billed_hours.get(machine, []))
        settled = facts.settled and (machine in sums.named or machine in facts.on_bill)
        if not (settled or facts.fleet.is_billed_by_tag(machine, sums.tagged_after)):
            estimate = estimator.beyond(machine, free, sums.early.get(machine, {}))
            accrued += estimate.total()
            estimate_parts.update(estimate)
            sums.estimated[machine] = sum_by_tier(estimate)
            sums.add_parts((facts.fleet.tier_of.get(machine, ""), machine), estimate)
            for part, amount in estimator.accrual(machine, free).items():
                estimates[part.tier] += amount
            estimated = {part.tier for part, amount in estimate.items() if amount}
            charged = sums.billed_hours.get(machine, [])
            unbilled += sums.unbilled(machine, estimator, estimated, [*charged, *sums.early_time.get(machine, [])])
            uncertain |= {
                one.tier for one in sums.unbilled(machine, estimator, estimated, charged) if not one.estimated
            }
        billed = subtract_windows(facts.day, free)
        if estimator.observes(machine, billed):
            variance.append((estimator.accrual(machine, billed).total(), sums.billed_use[machine]))
    sums.adjust()
    spread_over = partial(spread_shared_cost, facts.fleet.tiers, facts.tokens)
    causes, tiers, shared_by = spread_over(sums.parts, sums.loose)
    spend = sum(causes.values())
    return Allocation(
        spend=spend,
        causes=causes,
        tiers=tiers,
        tiers_before=spread_over(_subtract(sums.parts, sums.credit_parts), _subtract(sums.loose, sums.credit_loose))[1],
        wakes=sums.wakes(),
        shared_by=shared_by,
        tax=sums.tax,
        before_credits=spend - sums.credit_parts.total() - sums.credit_loose.total(),
        effective=sums.effective + accrued if sums.has_effective else None,
        billed=sums.billed,
        accrued=accrued,
        observed=any(estimator.observes(machine, [facts.day]) for machine in machines),
        variance=(sum(accrued_for for accrued_for, _ in variance), sum(paid for _, paid in variance))
        if variance
        else None,
        charges=sum(row.rows for row in facts.rows),
        estimates=estimates,
        hours=sums.hours(),
        loose=sums.loose,
        charged=sums.charged,
        estimated=sums.estimated,
        estimate_parts=estimate_parts,
        splits=sums.splits,
        unbilled=tuple(unbilled),
        uncertain=frozenset(uncertain),
    )


def _subtract(all_of_it: Counter[K], taken: Counter[K]) -> Counter[K]:
    left = Counter(all_of_it)
    left.subtract(taken)
    return left
