"""A day's spend by cause and by tier, from charges, machine time and tokens. Every part of it sums exactly."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from services.billing.core.accrual import Accrual
from services.billing.core.attribution import Direct, Fleet
from services.billing.core.charges import Charge, Kind, billed_time, day_part, grouped
from services.billing.core.days import Window
from services.billing.core.delivered import Unbilled, still_to_come
from services.billing.core.estimate import Basis
from services.billing.core.focus import CostRow
from services.billing.core.hours import BilledHours, HourClaims
from services.billing.core.machine_time import MachineTime, TimeUse, without
from services.billing.core.parts import Part, parts_of, positive, tier_sums, time_parts, use_parts
from services.billing.core.spread import Loose, SharedBy, spread
from shared.messages.billing import Cause

K = TypeVar("K")
Whose = tuple[str, str | None]
"""A tier, and a machine of it; None: only a tag says whose it is."""


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
    """By tier, what the hours cost by estimate for which no charge came that was made when they were over."""
    hours: Mapping[str, BilledHours]
    """By machine, those that charges for its use are for."""
    unbilled: tuple[Unbilled, ...]
    loose: Mapping[Loose, int] = field(default_factory=dict)
    """What belongs to no tier by itself."""
    charged: Mapping[Whose, Mapping[str, int]] = field(default_factory=dict)
    """Of the charges of each tier and machine, by the configuration, what each tier bears."""
    estimated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of what each machine accrued and no charge covers yet, what each tier bears."""

    @property
    def missing(self) -> tuple[Unbilled, ...]:
        """The machines whose cost is unknown: with one of them, the spend and its tier's are, too."""
        return tuple(one for one in self.unbilled if not one.estimated)


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
    accruals: Mapping[str, Sequence[Accrual]] = field(default_factory=dict)
    """By machine, what its provider's running bill says of the day's hours."""
    settled: bool = False
    """Whether every invoice of the day's billing periods ties: no charge is still to come."""
    on_bill: frozenset[str] = frozenset()
    """Machines that have charges on some day of the billing periods."""


def allocate(facts: DayFacts) -> Allocation:
    """The day's spend, all of it.

    Accrual is replaced by the bill hour by hour: a machine's UTC hour in which a charge for its use lies costs what
    the charges say. Any other hour costs what the running bill says, and where that says nothing its billable time
    costs the tier's price; nothing, where the bill is settled and has the machine's other charges of the day. A charge
    that came before its hours were over takes the place of nothing: the larger of it and the accrual counts.
    """
    sums = _Sums(facts)
    for kind, charge in grouped(facts.rows, facts.fleet.owner, facts.now).items():
        sums.add(kind, charge)
    basis = Basis(use=sums.use, tier_of=facts.fleet.tier_of, prices=facts.prices, told=facts.accruals)
    machines = sorted({*facts.times, *facts.accruals})
    accrued = 0
    variance: list[tuple[int, int]] = []
    estimates: Counter[str] = Counter()
    unbilled: list[Unbilled] = []
    for machine in machines:
        free = without(facts.day, sums.billed_hours.get(machine, []))
        if not (facts.settled and (machine in sums.named or machine in facts.on_bill)):
            found = basis.beyond(machine, free, sums.early.get(machine, {}))
            accrued += found.total()
            sums.estimated[machine] = tier_sums(found)
            sums.add_parts((facts.fleet.tier_of.get(machine, ""), machine), found)
            for part, amount in basis.accrual(machine, free).items():
                estimates[part.tier] += amount
            estimated = {part.tier for part, amount in found.items() if amount}
            unbilled += sums.unbilled(machine, basis, estimated)
        billed = without(facts.day, free)
        if basis.observes(machine, billed):
            variance.append((basis.accrual(machine, billed).total(), sums.billed_use[machine]))
    sums.adjust()
    spread_over = partial(spread, facts.fleet.tiers, facts.tokens)
    causes, tiers, shared_by = spread_over(sums.parts, sums.loose)
    spend = sum(causes.values())
    return Allocation(
        spend=spend,
        causes=causes,
        tiers=tiers,
        tiers_before=spread_over(_less(sums.parts, sums.credit_parts), _less(sums.loose, sums.credit_loose))[1],
        wakes=sums.wakes(),
        shared_by=shared_by,
        tax=sums.tax,
        before_credits=spend - sums.credit_parts.total() - sums.credit_loose.total(),
        effective=sums.effective + accrued if sums.tells_effective else None,
        billed=sums.billed,
        accrued=accrued,
        observed=any(basis.observes(machine, [facts.day]) for machine in machines),
        variance=(sum(told for told, _ in variance), sum(paid for _, paid in variance)) if variance else None,
        charges=sum(row.rows for row in facts.rows),
        estimates=estimates,
        hours=sums.hours(),
        loose=sums.loose,
        charged=sums.charged,
        estimated=sums.estimated,
        unbilled=tuple(unbilled),
    )


@dataclass
class _Sums:
    facts: DayFacts
    parts: Counter[Part] = field(default_factory=Counter)
    """What belongs to a tier by itself."""
    loose: Counter[Loose] = field(default_factory=Counter)
    credit_parts: Counter[Part] = field(default_factory=Counter)
    credit_loose: Counter[Loose] = field(default_factory=Counter)
    """The credits in the two."""
    tax: int = 0
    effective: int = 0
    tells_effective: bool = False
    billed: bool = False
    billed_hours: dict[str, list[Window]] = field(default_factory=dict)
    """Machine to the hours for which there are charges: there the bill replaces the accrual."""
    billed_use: Counter[str] = field(default_factory=Counter)
    early: dict[str, dict[Window, int]] = field(default_factory=dict)
    """Machine to the hours that charges are for which came before these were over, with what they cost."""
    early_time: dict[str, list[Window]] = field(default_factory=dict)
    """Machine to the time before these came."""
    named: set[str] = field(default_factory=set)
    """The machines that any charge is for."""
    tagged: set[str] = field(default_factory=set)
    """The tiers with charges for use that only a tag attributes."""
    _owned: dict[Whose, Counter[Part]] = field(default_factory=dict)
    """`parts` by whose they are."""
    _adjustments: Counter[tuple[Whose, bool]] = field(default_factory=Counter)
    """By whose they are, and whether they are credits."""
    _claims: dict[str, HourClaims] = field(default_factory=dict)
    charged: dict[Whose, Counter[str]] = field(default_factory=dict)
    estimated: dict[str, Counter[str]] = field(default_factory=dict)
    _uses: dict[tuple[str, Window], TimeUse] = field(default_factory=dict)

    def use(self, machine: str | None, window: Window) -> TimeUse:
        """Remembered: the charges of a day share a few windows."""
        name = machine or ""
        if (name, window) not in self._uses:
            self._uses[name, window] = self.facts.times.get(name, MachineTime()).use(window)
        return self._uses[name, window]

    def add(self, kind: Kind, charge: Charge) -> None:
        day = self.facts.day
        cost = day_part(charge.billed, kind, day)
        if kind.category == "Tax":
            self.tax += cost
            return
        self.billed = True
        self.effective += day_part(charge.effective, kind, day)
        self.tells_effective = self.tells_effective or charge.tells_effective
        is_credit = kind.category == "Credit"
        if not isinstance(kind.owner, Direct):
            self.loose[kind.owner] += cost
            self.credit_loose[kind.owner] += cost if is_credit else 0
            return
        if kind.machine is not None:
            self.named.add(kind.machine)
        elif kind.is_for_use:
            self.tagged.add(kind.owner.tier)
        if kind.category != "Usage" or (charge.is_refund and not self._use_in(kind).billable):
            self._adjustments[(kind.owner.tier, kind.machine), is_credit] += cost
        else:
            self._add_usage(kind, charge, kind.owner, cost)

    def _add_usage(self, kind: Kind, charge: Charge, owner: Direct, cost: int) -> None:
        window, use = self._window(kind), self._use_in(kind)
        if not kind.is_use or owner.machine is None:
            weights = time_parts(owner.tier, window, use, in_every_state=kind.is_storage or owner.is_part)
            self._charge((owner.tier, owner.machine), parts_of(cost, weights))
            return
        hours = billed_time(kind, charge, self.facts.day, window)
        parts = parts_of(cost, use_parts(owner.tier, window, use, hours))
        self._charge((owner.tier, owner.machine), parts)
        if charge.is_refund:
            return
        unexplained = sum(amount for part, amount in parts.items() if part.cause == "unexplained")
        if cost >= 0:
            self._claims.setdefault(owner.machine, HourClaims()).add(
                window, None if hours is None else round(hours), unexplained
            )
        if kind.arrived is None:
            self.billed_hours.setdefault(owner.machine, []).append(kind.hours)
            self.billed_use[owner.machine] += cost
        else:
            early = self.early.setdefault(owner.machine, {})
            early[kind.covers] = early.get(kind.covers, 0) + cost
            self.early_time.setdefault(owner.machine, []).append(kind.known_until(charge.arrived))

    def _charge(self, whose: Whose, parts: Mapping[Part, int]) -> None:
        self.add_parts(whose, parts)
        self.charged.setdefault(whose, Counter()).update(tier_sums(parts))

    def add_parts(self, whose: Whose, parts: Mapping[Part, int]) -> None:
        self.parts.update(parts)
        self._owned.setdefault(whose, Counter()).update(parts)

    def adjust(self) -> None:
        """Spread what is no cost of its own time: as the machine's other costs of the day are, else as its tier's."""
        by_tier: dict[str, Counter[Part]] = {}
        for parts in self._owned.values():
            for part, amount in parts.items():
                by_tier.setdefault(part.tier, Counter())[part] += amount
        for (whose, is_credit), cost in self._adjustments.items():
            tier, machine = whose
            weights = positive(self._owned.get(whose, {})) or positive(by_tier.get(tier, {}))
            if not weights:
                day = self._elapsed(self.facts.day)
                weights = time_parts(tier, day, self.use(machine, day))
            parts = parts_of(cost, weights)
            self.parts.update(parts)
            self.charged.setdefault(whose, Counter()).update(tier_sums(parts))
            self.credit_parts.update(parts if is_credit else {})

    def hours(self) -> dict[str, BilledHours]:
        day = self._elapsed(self.facts.day)
        return {name: c.compared(partial(self.use, name), day) for name, c in sorted(self._claims.items())}

    def unbilled(self, machine: str, basis: Basis, estimated: Collection[str]) -> list[Unbilled]:
        if not self.facts.fleet.expects_bill(machine, self.tagged):
            return []
        time = self.facts.times.get(machine, MachineTime())
        day = Window(self.facts.day.start, min(self.facts.day.end, self.facts.now))
        charged = self.billed_hours.get(machine, []) + [w for w in self.early_time.get(machine, []) if w.length]
        return still_to_come(machine, time, charged, basis, day=day, estimated=estimated)

    def wakes(self) -> dict[str | None, int]:
        found: Counter[str | None] = Counter()
        for part, amount in self.parts.items():
            if part.cause in ("waking", "failed_wake"):
                found[part.key_id] += amount
        return dict(found)

    def _window(self, kind: Kind) -> Window:
        return self._elapsed(Window(kind.start, kind.end).overlap(self.facts.day))

    def _use_in(self, kind: Kind) -> TimeUse:
        return self.use(kind.machine, self._window(kind))

    def _elapsed(self, window: Window) -> Window:
        """What has not happened yet explains nothing."""
        ongoing = window.start < self.facts.now < window.end
        return Window(window.start, self.facts.now) if ongoing else window


def _less(all_of_it: Counter[K], taken: Counter[K]) -> Counter[K]:
    left = Counter(all_of_it)
    left.subtract(taken)
    return left
