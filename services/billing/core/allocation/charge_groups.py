"""Charges that are alike in all that decides where their cost goes, taken together: what is split, is split once.

So no figure depends on how many rows a charge was delivered, or is kept, in.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from services.billing.core.allocation.attribution import STORAGE, DirectOwner, Owner
from services.billing.core.cost_row import CostRow
from services.billing.core.money import convert_to_usd, divide, split_exactly, to_units
from services.billing.core.utc_time import Window
from shared.units import DAY_MS, HOUR_MS

UNITS_PER_HOUR = {
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 1),
    **dict.fromkeys(("min", "mins", "minute", "minutes"), 60),
}
"""How many of a unit make an hour of a machine. Seconds do not count: Google's are of cores, memory and GPUs."""
MACHINE_CATEGORIES = frozenset({"Compute", "AI and Machine Learning", None})
"""Service categories of a machine's own use, where the provider names one."""
_QUANTUM = 10**30
"""No quantity has more decimals."""


class ChargeKey(NamedTuple):
    """Everything about a charge that decides where its cost goes."""

    start: int
    end: int
    owner: Owner
    category: str
    service_category: str | None
    counts_hours: bool
    """Whether its quantity counts a machine's time."""
    per_usd: str
    arrived: int | None = None
    """The beginning of the UTC hour in which a machine's charge came; None: each hour that it touches was over."""

    @property
    def machine(self) -> str | None:
        return self.owner.machine if isinstance(self.owner, DirectOwner) else None

    @property
    def is_storage(self) -> bool:
        return self.service_category == STORAGE

    @property
    def is_use(self) -> bool:
        """Whether it is for the machine itself: the bill that takes the place of an accrual."""
        return self.machine is not None and self.is_for_use

    @property
    def is_for_use(self) -> bool:
        """Whether it is for time on some machine, and not for its disks or what it has sent."""
        is_part = isinstance(self.owner, DirectOwner) and self.owner.is_part
        return self.category == "Usage" and self.service_category in MACHINE_CATEGORIES and not is_part

    @property
    def hours(self) -> Window:
        """The UTC hours that it touches, whole."""
        return _whole_hours(self.start, self.end)

    @property
    def covers(self) -> Window:
        """The hours that a charge for use can be for, whose estimate therefore is not added to it.

        A charge of one UTC hour is for that hour. A longer one that came early is for the hours that were over then,
        and one longer than a day for none: a month's licence does not say what its machine costs in an hour.
        """
        hours = self.hours
        if self.arrived is None or hours.length <= HOUR_MS:
            return hours
        end = hours.start if self.end - self.start > DAY_MS else min(hours.end, self.arrived)
        return Window(hours.start, max(hours.start, end))

    def known_until(self, arrived: int) -> Window:
        """The time that the charge tells the cost of when it came early: of a single hour up to then, else none."""
        hours = self.hours
        return Window(hours.start, min(hours.end, arrived) if hours.length <= HOUR_MS else hours.start)


@dataclass(slots=True)
class ChargeSum:
    """Sums of the rows of one kind, in units of their currency."""

    billed: int = 0
    effective: int = 0
    """What is billed where a row tells no other."""
    has_effective: bool = False
    quantity: int = 0
    """Hours, in 10⁻³⁰."""
    rows: int = 0
    arrived: int = 0
    """When the last of them came."""
    is_negative: bool = True
    """Whether all of them are negative: no bill of the time, whatever hours they count."""

    @property
    def is_refund(self) -> bool:
        """Whether it returns money without naming the hours."""
        return self.billed < 0 and not self.quantity


def is_early(row: CostRow, now: int) -> bool:
    """Whether an hour of the charge was not over when it came; at the latest it came `now`."""
    return _arrival_ms(row, now) < _whole_hours(row.charge_start, row.charge_end).end


def group_charges(
    rows: Collection[CostRow], owner: Callable[[CostRow], Owner], day: Window, now: int
) -> dict[ChargeKey, ChargeSum]:
    """Add up charges by key, in the order in which they come."""
    sums: dict[ChargeKey, ChargeSum] = {}
    for kind, row in zip(charge_keys(rows, owner, day, now), rows, strict=True):
        if (charge := sums.get(kind)) is None:
            charge = sums[kind] = ChargeSum()
        billed = to_units(row.billed)
        charge.billed += billed
        charge.effective += billed if row.effective is None else to_units(row.effective)
        charge.has_effective = charge.has_effective or row.effective is not None
        charge.rows += row.rows
        charge.is_negative = charge.is_negative and billed < 0
        charge.arrived = max(charge.arrived, _arrival_ms(row, now))
        if kind.counts_hours and row.consumed_quantity is not None:
            charge.quantity += divide(quantity_units(row.consumed_quantity), _units_per_hour(row))
    return sums


def charge_keys(
    rows: Iterable[CostRow], owner: Callable[[CostRow], Owner], day: Window, now: int
) -> Iterator[ChargeKey]:
    """Yield the key of each charge.

    As long as the day goes on, a charge longer than a day is taken for one that came early: it may have ended a while
    ago, and still does not say what its machine costs in an hour.
    """
    owners: dict[tuple[str | None, ...], Owner] = {}
    for row in rows:
        identity = (row.resource_id, row.tags, row.parent_id, row.service_category)
        if (row_owner := owners.get(identity)) is None:
            row_owner = owners[identity] = owner(row)
        start, end = _counted_period(row, row_owner)
        is_machines = isinstance(row_owner, DirectOwner) and row_owner.machine is not None
        early = is_early(row, now) or (now < day.end and row.charge_end - row.charge_start > DAY_MS)
        arrived = _arrival_ms(row, now) // HOUR_MS * HOUR_MS if is_machines and early else None
        counts_hours = _units_per_hour(row) > 0
        yield ChargeKey(start, end, row_owner, row.category, row.service_category, counts_hours, row.per_usd, arrived)


def _units_per_hour(row: CostRow) -> int:
    return UNITS_PER_HOUR.get((row.consumed_unit or "").strip().lower(), 0)


def quantity_units(quantity: Decimal) -> int:
    """Return the quantity in 10⁻³⁰, so that sums of it are exact."""
    above, below = quantity.as_integer_ratio()
    return divide(above * _QUANTUM, below)


def _arrival_ms(row: CostRow, now: int) -> int:
    """Nothing has come later than now, whatever the clock said."""
    return now if row.arrived is None else min(now, row.arrived)


def _whole_hours(start: int, end: int) -> Window:
    return Window(start - start % HOUR_MS, end + -end % HOUR_MS)


def _counted_period(row: CostRow, owner: Owner) -> tuple[int, int]:
    """Return the time that the charge counts for: its own if it is a machine's or longer than a UTC day, else its day.

    The reader sums such charges by day. An amount in another currency is rounded once for each sum, so the figures
    would depend on who summed them.
    """
    start, end = row.charge_start, row.charge_end
    day = start - start % DAY_MS
    is_machines = isinstance(owner, DirectOwner) and owner.machine is not None
    return (start, end) if is_machines or end > day + DAY_MS else (day, day + DAY_MS)


def cost_on_day(amount: int, kind: ChargeKey, day: Window) -> int:
    """USD of a charge's amount that fall on the day, by its time there; what has no time is its start's.

    The days' parts sum to the amount.
    """
    cost = convert_to_usd(amount, kind.per_usd)
    if day.start <= kind.start and kind.end <= day.end:
        return cost
    first = kind.start - kind.start % DAY_MS
    return split_exactly(cost, _lengths_by_day(kind.start, kind.end))[(day.start - first) // DAY_MS]


@lru_cache(maxsize=1024)
def _lengths_by_day(start: int, end: int) -> tuple[int, ...]:
    """A charge's time on each of its days."""
    first = start - start % DAY_MS
    return tuple(Window(start, end).overlap(Window(at, at + DAY_MS)).length for at in range(first, end, DAY_MS))


def billed_time_ms(kind: ChargeKey, charge: ChargeSum, day: Window, elapsed: Window) -> Fraction | None:
    """Milliseconds of the day for which a machine was billed, as the charge counts its hours, or None.

    `elapsed` is its part of the day that has passed: no more can have been used. Several rows for the same time do not
    make it longer: it is their mean. More hours than the period has are those of GPUs or cores, not of the machine.
    """
    if not charge.quantity or not elapsed.length:
        return None
    if abs(charge.quantity) * HOUR_MS > charge.rows * _QUANTUM * kind.hours.length:
        return None
    on_day = Window(kind.start, kind.end).overlap(day).length
    whole = charge.rows * _QUANTUM * (kind.end - kind.start)
    return min(Fraction(elapsed.length), Fraction(abs(charge.quantity) * HOUR_MS * on_day, whole))
