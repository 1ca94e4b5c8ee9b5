"""Which machines have no bill yet for a day on which they were awake. A bill that has not arrived is not zero."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from services.billing.core.allocation.estimates import CostEstimator
from services.billing.core.allocation.machine_time import BILLABLE_CAUSES, Interval, MachineTime, subtract_windows
from services.billing.core.utc_time import Window, format_time
from shared.messages.bill_coverage import Unbilled as UnbilledFigure
from shared.units import HOUR_MS

CLOCK_SLACK_MS = 5 * 60_000
"""Milliseconds of a UTC hour. A provider's clock for a machine starts later and stops earlier than the journal's, and a
running bill is read once a minute. So little of an hour is not missed on a bill that has other hours of that day."""
REFUSED_START_MS = 60_000
"""Milliseconds of a UTC hour. A start that the provider refuses, which nobody bills, ends within this time."""

NO_BILL_YET = "no bill yet"
MAX_NAMES = 8
"""Names in one reason, which people read as a line. The whole list is in a report's `unbilled`."""


@dataclass(frozen=True, order=True)
class UnbilledTime:
    """A machine's day for which charges are still to come."""

    machine: str
    tier: str
    """The machine's tier at that time."""
    since: int | None
    """The beginning of the first hour without its charge, in milliseconds; None: it has no charge on this day."""
    estimated: bool
    """Whether a price or a running bill stands in for the charges; if not, the cost is unknown."""


def find_unbilled_time(
    machine: str,
    time: MachineTime,
    charged: Sequence[Window],
    estimator: CostEstimator,
    *,
    day: Window,
    estimated: Collection[str],
) -> list[UnbilledTime]:
    """The machine's unbilled day, by tier.

    `day` is what has passed of it, `charged` the time that charges for its use tell the cost of. `estimated` names the
    tiers that have an estimate instead.
    """
    free = subtract_windows(day, charged)
    unknown = _unknown_since(machine, time, free, estimator, on_bill=bool(charged))
    unbilled = [UnbilledTime(machine, tier, since, estimated=False) for tier, since in unknown.items()]
    starts = [part.start - part.start % HOUR_MS for _, part in _awake(time, free)]
    since = min(starts, default=None) if charged else None
    return unbilled + [UnbilledTime(machine, tier, since, estimated=True) for tier in sorted({*estimated} - {*unknown})]


def _unknown_since(
    machine: str, time: MachineTime, free: Sequence[Window], estimator: CostEstimator, *, on_bill: bool
) -> dict[str, int | None]:
    """The tiers for which the cost of its time in the windows is unknown, each with the first such hour of its bill.

    Time at a tier's price, or within a running bill, has a known cost.
    """
    home = estimator.tier_of.get(machine, "")
    accrued = [Window(accrual.since, accrual.through) for accrual in estimator.accruals.get(machine, ())]
    served: Counter[tuple[str, int]] = Counter()
    passing: Counter[tuple[str, int]] = Counter()
    for interval, part in _awake(time, [part for window in free for part in subtract_windows(window, accrued)]):
        tier = interval.spell.tier or home
        if tier not in estimator.prices:
            times = served if interval.can_serve else passing
            for window in _split_by_hour(part):
                times[tier, window.start - window.start % HOUR_MS] += window.length
    on_bill = on_bill or bool(accrued)
    first: dict[str, int | None] = {}
    for tier, hour in sorted({*served, *passing}):
        sure, doubtful = served[tier, hour], passing[tier, hour]
        if sure + doubtful > CLOCK_SLACK_MS if on_bill else sure or doubtful > REFUSED_START_MS:
            first.setdefault(tier, hour if on_bill else None)
    return first


def unbilled_figures(unbilled: Sequence[UnbilledTime]) -> tuple[UnbilledFigure, ...]:
    return tuple(
        UnbilledFigure(
            machine=one.machine,
            tier=one.tier,
            since=None if one.since is None else format_time(one.since),
            estimated=one.estimated,
        )
        for one in unbilled
    )


def missing_bill_reason(missing: Sequence[UnbilledTime]) -> str:
    """The reason why a figure is null: each machine, and from when on a part of its day has no bill."""
    names = [
        one.machine if one.since is None else f"{one.machine} (from {format_time(one.since)[11:16]})" for one in missing
    ]
    return f"{NO_BILL_YET}: {abbreviate(names)}"


def abbreviate(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _awake(time: MachineTime, windows: Iterable[Window]) -> list[tuple[Interval, Window]]:
    """The intervals that a provider bills, each with its part of a window."""
    return [
        (interval, interval.window.overlap(window))
        for window in windows
        for interval in time.intervals_in(window)
        if interval.spell.cause in BILLABLE_CAUSES
    ]


def _split_by_hour(window: Window) -> list[Window]:
    first = window.start - window.start % HOUR_MS
    return [window.overlap(Window(hour, hour + HOUR_MS)) for hour in range(first, window.end, HOUR_MS)]
