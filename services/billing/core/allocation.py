"""A day's spend by cause and by tier, from cost rows, machine time and tokens. Every part of it sums exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.billing.core.attribution import STORAGE, Direct, Fleet
from services.billing.core.days import DAY, HOUR, Window
from services.billing.core.focus import CostRow
from services.billing.core.machine_time import BILLABLE, TIME_CAUSES, MachineTime, TimeUse, without
from services.billing.core.money import converted, divided, split
from shared.messages.billing import CAUSES, Cause

HOUR_UNITS = frozenset({"h", "hr", "hrs", "hour", "hours"})


@dataclass(frozen=True)
class Allocation:
    """Units of 10⁻¹² USD. `causes` sum to `spend`, and so do `tiers` and `causes["unattributed"]`."""

    spend: int
    causes: Mapping[Cause, int]
    tiers: Mapping[str, int]
    """Each with its part of the shared cost."""
    tax: int
    before_credits: int
    billed: bool
    """Whether a charge other than tax covers the day."""
    accrued: int
    """The part of `spend` that no charge covers yet: machine time at the tier's price."""
    observed: bool
    """Whether the journal knows any of the day of a machine that has a price."""


@dataclass(frozen=True, kw_only=True)
class DayFacts:
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


def allocate(facts: DayFacts) -> Allocation:
    """The day's spend, all of it.

    Accrual is replaced by the bill hour by hour: a machine's UTC hour in which a charge for its use lies costs what
    the charges say, any other hour of its billable time costs the tier's price.
    """
    sums = _Sums(facts)
    for row in facts.rows:
        _add_row(sums, row)
    for machine in facts.times:
        tier = facts.fleet.tier_of.get(machine)
        if tier is not None and tier in facts.prices:
            _accrue(sums, machine, tier)
    tiers = _with_shared(sums)
    spend = sum(sums.causes.values())
    return Allocation(
        spend=spend,
        causes=sums.causes,
        tiers=tiers,
        tax=sums.tax,
        before_credits=spend - sums.credits,
        billed=sums.billed,
        accrued=sums.accrued,
        observed=sums.observed,
    )


@dataclass
class _Sums:
    facts: DayFacts
    causes: dict[Cause, int] = field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    direct: dict[str, int] = field(default_factory=dict)
    tax: int = 0
    credits: int = 0
    billed: bool = False
    accrued: int = 0
    observed: bool = False
    billed_hours: dict[str, list[Window]] = field(default_factory=dict)
    """Machine to the hours for which there are charges: there the bill replaces the accrual."""
    _uses: dict[tuple[str, Window], TimeUse] = field(default_factory=dict)

    def use(self, machine: str | None, window: Window) -> TimeUse:
        """Remembered: the rows of a day share a few windows."""
        name = machine or ""
        if (name, window) not in self._uses:
            self._uses[name, window] = self.facts.times.get(name, MachineTime()).use(window)
        return self._uses[name, window]

    def add_direct(self, tier: str, causes: Mapping[Cause, int]) -> None:
        self.direct[tier] = self.direct.get(tier, 0) + sum(causes.values())
        for cause, amount in causes.items():
            self.causes[cause] += amount


def day_part(row: CostRow, day: Window) -> int:
    """The row's cost that falls on the day in USD, by seconds. The days' parts sum to it; no time is its start's."""
    cost = converted(row.billed, row.per_usd)
    start, end = row.charge_start, row.charge_end
    if day.start <= start and end <= day.end:
        return cost
    first = start - start % DAY
    every = [Window(start, end).overlap(Window(at, at + DAY)).length for at in range(first, end, DAY)]
    return split(cost, every)[(day.start - first) // DAY]


def time_causes(row: CostRow, window: Window, use: TimeUse) -> dict[Cause, int]:
    """Weights of the causes of a machine's own charge. `window` is the charge period within the day, `use` its time.

    Storage costs in every state. Anything else is billed for the hours that the row says it consumed, else for the
    whole window: hours beyond what the journal can explain are unexplained as far as it is silent about the window;
    the rest follows the billable time that it knows, and is the cost of being asleep where there is none.
    """
    if not window.length:
        return {"unexplained": 1}
    if row.service_category == STORAGE:
        weights: dict[Cause, int] = {cause: use.by_cause[cause] for cause in TIME_CAUSES}
        return {**weights, "unexplained": use.uncovered}
    billed, billable = _billed_time(row, window), use.billable
    unexplained = min(use.uncovered, max(0, billed - billable))
    explained = billed - unexplained
    if billable == 0:
        # A window about which the journal knows nothing tells nothing about sleep either.
        silent = use.uncovered == window.length
        return {"unexplained": 1} if silent else {"unexplained": unexplained, "asleep": explained}
    weights = {cause: use.by_cause[cause] * explained for cause in BILLABLE}
    return {**weights, "unexplained": unexplained * billable}


def _billed_time(row: CostRow, window: Window) -> int:
    """Milliseconds: the row's hours, as far as they fall into the window; all of it where it names none."""
    unit = (row.consumed_unit or "").strip().lower()
    if unit not in HOUR_UNITS or not row.consumed_quantity:
        return window.length
    numerator, denominator = abs(row.consumed_quantity).as_integer_ratio()
    whole = row.charge_end - row.charge_start
    return max(1, divided(numerator * HOUR * window.length, denominator * whole))


def _add_row(sums: _Sums, row: CostRow) -> None:
    facts = sums.facts
    cost = day_part(row, facts.day)
    if row.category == "Tax":
        sums.tax += cost
        return
    sums.billed = True
    if row.category == "Credit":
        sums.credits += cost
    owner = facts.fleet.owner(row)
    if not isinstance(owner, Direct):
        sums.causes[owner] += cost
        return
    window = Window(row.charge_start, row.charge_end).overlap(facts.day)
    if window.start < facts.now < window.end:
        window = Window(window.start, facts.now)  # what has not happened yet explains nothing
    weights = time_causes(row, window, sums.use(owner.machine, window))
    sums.add_direct(owner.tier, _parts(cost, weights))
    if owner.machine is not None and row.category == "Usage" and row.service_category != STORAGE:
        sums.billed_hours.setdefault(owner.machine, []).append(_hours(row))


def _parts(cost: int, weights: Mapping[Cause, int]) -> dict[Cause, int]:
    names = [cause for cause in CAUSES if cause in weights]  # one order for ties
    return dict(zip(names, split(cost, [weights[cause] for cause in names]), strict=True))


def _hours(row: CostRow) -> Window:
    return Window(row.charge_start - row.charge_start % HOUR, row.charge_end + -row.charge_end % HOUR)


def _accrue(sums: _Sums, machine: str, tier: str) -> None:
    facts = sums.facts
    if sums.use(machine, facts.day).uncovered < facts.day.length:
        sums.observed = True
    uses = [sums.use(machine, window) for window in without(facts.day, sums.billed_hours.get(machine, []))]
    weights: dict[Cause, int] = {cause: sum(use.by_cause[cause] for use in uses) for cause in BILLABLE}
    billable = sum(weights.values())
    if billable:
        cost = divided(facts.prices[tier] * billable, HOUR)
        sums.accrued += cost
        sums.add_direct(tier, _parts(cost, weights))


def _with_shared(sums: _Sums) -> dict[str, int]:
    """Every tier's spend. Shared cost follows direct cost, else tokens, else it is spread evenly."""
    tiers, tokens = sums.facts.fleet.tiers, sums.facts.tokens
    names = [*tiers, *sorted((set(tokens) | set(sums.direct)) - set(tiers))]
    if not names:
        sums.causes["unattributed"] += sums.causes["shared"]
        sums.causes["shared"] = 0
        return {}
    direct = {name: sums.direct.get(name, 0) for name in names}
    by_cost = [max(0, direct[name]) for name in names]
    by_tokens = [tokens.get(name, 0) for name in names]
    weights = next(w for w in (by_cost, by_tokens, [1] * len(names)) if any(w))
    shares = split(sums.causes["shared"], weights)
    return {name: direct[name] + share for name, share in zip(names, shares, strict=True)}
