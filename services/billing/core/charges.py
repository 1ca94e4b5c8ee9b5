"""Charges that are alike in all that decides where their cost goes, taken together: what is split, is split once.

So no figure depends on how many rows a charge was delivered, or is kept, in.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from services.billing.core.attribution import STORAGE, Direct, Owner
from services.billing.core.days import DAY, HOUR, Window
from services.billing.core.focus import CostRow
from services.billing.core.money import divided, exchanged, split, units

HOUR_UNITS = frozenset({"h", "hr", "hrs", "hour", "hours"})
MACHINE_CATEGORIES = frozenset({"Compute", "AI and Machine Learning", None})
"""Service categories of a machine's own use, where the provider names one."""
_QUANTUM = 10**30
"""No quantity has more decimals."""


class Kind(NamedTuple):
    """All of a charge that decides where its cost goes."""

    start: int
    end: int
    owner: Owner
    category: str
    service_category: str | None
    hourly: bool
    """Whether its quantity counts hours."""
    per_usd: str

    @property
    def machine(self) -> str | None:
        return self.owner.machine if isinstance(self.owner, Direct) else None

    @property
    def is_storage(self) -> bool:
        return self.service_category == STORAGE

    @property
    def is_use(self) -> bool:
        """Whether it is for the machine itself: the bill that takes the place of an accrual."""
        return self.machine is not None and self.category == "Usage" and self.service_category in MACHINE_CATEGORIES

    @property
    def hours(self) -> Window:
        """The UTC hours that it touches, whole."""
        return Window(self.start - self.start % HOUR, self.end + -self.end % HOUR)


@dataclass(slots=True)
class Charge:
    """Sums of the rows of one kind, in units of their currency."""

    billed: int = 0
    effective: int = 0
    """What is billed where a row tells no other."""
    tells_effective: bool = False
    quantity: int = 0
    """Hours, in 10⁻³⁰."""
    rows: int = 0


def grouped(rows: Iterable[CostRow], owner: Callable[[CostRow], Owner]) -> dict[Kind, Charge]:
    """By kind, in the order in which they come."""
    owners: dict[tuple[str | None, ...], Owner] = {}
    found: dict[Kind, Charge] = {}
    for row in rows:
        named = (row.resource_id, row.tags, row.parent_id, row.service_category)
        if (whose := owners.get(named)) is None:
            whose = owners[named] = owner(row)
        hourly = (row.consumed_unit or "").strip().lower() in HOUR_UNITS
        start, end = _span(row, whose)
        kind = Kind(start, end, whose, row.category, row.service_category, hourly, row.per_usd)
        if (charge := found.get(kind)) is None:
            charge = found[kind] = Charge()
        billed = units(row.billed)
        charge.billed += billed
        charge.effective += billed if row.effective is None else units(row.effective)
        charge.tells_effective = charge.tells_effective or row.effective is not None
        charge.rows += row.rows
        if hourly and row.consumed_quantity is not None:
            above, below = row.consumed_quantity.as_integer_ratio()
            charge.quantity += divided(above * _QUANTUM, below)
    return found


def _span(row: CostRow, owner: Owner) -> tuple[int, int]:
    """Return the time that the charge counts for: its own if it is a machine's or longer than a UTC day, else its day.

    The reader sums such charges by day. An amount in another currency is rounded once for each sum, so the figures
    would depend on who summed them.
    """
    start, end = row.charge_start, row.charge_end
    day = start - start % DAY
    is_machines = isinstance(owner, Direct) and owner.machine is not None
    return (start, end) if is_machines or end > day + DAY else (day, day + DAY)


def day_part(amount: int, kind: Kind, day: Window) -> int:
    """USD of a charge's amount that fall on the day, by its time there; what has no time is its start's.

    The days' parts sum to the amount.
    """
    cost = exchanged(amount, kind.per_usd)
    if day.start <= kind.start and kind.end <= day.end:
        return cost
    first = kind.start - kind.start % DAY
    return split(cost, _lengths(kind.start, kind.end))[(day.start - first) // DAY]


@lru_cache(maxsize=1024)
def _lengths(start: int, end: int) -> tuple[int, ...]:
    """A charge's time on each of its days."""
    first = start - start % DAY
    return tuple(Window(start, end).overlap(Window(at, at + DAY)).length for at in range(first, end, DAY))


def billed_time(kind: Kind, charge: Charge, window: Window) -> int:
    """Milliseconds of the window for which a machine was billed: the hours that the charge counts, else all of it.

    Several rows for the same time do not make it longer: it is their mean.
    """
    if not charge.quantity or not window.length:
        return window.length
    whole = charge.rows * _QUANTUM * (kind.end - kind.start)
    return min(window.length, max(1, divided(abs(charge.quantity) * HOUR * window.length, whole)))
