"""Hours that a machine was billed for in a day, against the hours that the journal knows it was awake."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from services.billing.core.allocation.machine_time import TimeUse
from services.billing.core.money import to_usd
from services.billing.core.utc_time import Window
from shared.messages.bill_coverage import MachineHours
from shared.units import DAY_MS, HOUR_MS

_PLACES = Decimal("0.0001")
"""The precision of hours: a third of a second."""


@dataclass(frozen=True, kw_only=True)
class BilledHours:
    """Milliseconds of one machine and day."""

    billed: int | None
    """None: its charges count no hours."""
    known: int
    """Billable time that the journal knows."""
    unexplained: int
    """Billed above what is known, window by window."""
    asleep: int
    """The part of `unexplained` in which the journal knows that the machine slept; of the rest it knows nothing."""
    cost: int
    """What that part of the charges costs, in units of USD."""


@dataclass
class ChargedHours:
    """What the charges for one machine's use say of its hours."""

    windows: dict[Window, int | None] = field(default_factory=dict)
    """The time that each window's charges count, None where none of them counts any."""
    cost: int = 0

    def add(self, window: Window, billed: int | None, unexplained: int) -> None:
        """Charges for the same window are for the same hours: the largest count of them holds."""
        known = self.windows.get(window)
        self.windows[window] = known if billed is None else max(billed, known or 0)
        self.cost += unexplained

    def compare(self, use: Callable[[Window], TimeUse], day: Window) -> BilledHours:
        """`day` is what has passed of it.

        Charges by the hour and a charge for the whole day are for the same hours: the larger of the two counts.
        """
        by_length = {length: _sum_hours(self.windows, use, is_day=length) for length in (False, True)}
        billed, unexplained, asleep = (max(counts) for counts in zip(*by_length.values(), strict=True))
        return BilledHours(
            billed=None if all(time is None for time in self.windows.values()) else min(billed, day.length),
            known=use(day).billable,
            unexplained=min(unexplained, day.length),
            asleep=min(asleep, day.length),
            cost=self.cost,
        )


def _sum_hours(
    windows: Mapping[Window, int | None], use: Callable[[Window], TimeUse], *, is_day: bool
) -> tuple[int, int, int]:
    """Return the time billed in windows of that length, the part above what is known, and its part asleep.

    A charge that counts no time is for its whole window where the machine was not awake in it, else for time awake.
    """
    billed = unexplained = asleep = 0
    for window, counted in windows.items():
        if (window.length >= DAY_MS) != is_day:
            continue
        spent = use(window)
        time = counted if counted is not None else spent.billable or window.length
        billed += time
        unexplained += max(0, time - spent.billable)
        asleep += max(0, time - spent.billable - spent.uncovered)
    return billed, unexplained, asleep


def machine_hours_figures(hours: Mapping[str, BilledHours]) -> tuple[MachineHours, ...]:
    """Return the hours of each machine as a report shows them."""
    return tuple(
        MachineHours(
            machine=machine,
            billed=None if one.billed is None else _to_hours(one.billed),
            known=_to_hours(one.known),
            unexplained=_to_hours(one.unexplained),
            asleep=_to_hours(one.asleep),
            spend=to_usd(one.cost),
        )
        for machine, one in hours.items()
    )


def _to_hours(time: int) -> Decimal:
    return (Decimal(time) / HOUR_MS).quantize(_PLACES)
