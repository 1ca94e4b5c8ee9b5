"""How far the bills have come, by source and day, in words."""

from collections.abc import Sequence
from itertools import groupby

from services.billing.core.allocation.unbilled_time import abbreviate
from shared.messages.bill_coverage import SourceBills
from shared.messages.billing import PeriodReport

NO_SOURCE = "no source yet"
NOTHING_DUE = "nothing due"


def source_heading(bills: SourceBills) -> str:
    """`cloud, through 2026-05-19`."""
    if bills.source is None:
        return NO_SOURCE
    return f"{bills.source}, {f'through {bills.delivered_through}' if bills.delivered_through else 'no day is whole'}"


def coverage_by_days(report: PeriodReport) -> list[tuple[str, Sequence[str]]]:
    """Days in a row that are alike, as text, each with what is to be said of every source."""
    days = [(day.day, tuple(_status(bills, day.day) for bills in report.bills)) for day in report.days]
    spans = []
    for status, group in groupby(days, key=lambda day: day[1]):
        names = [name for name, _ in group]
        spans.append((names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", status))
    return spans


def coverage_lines(report: PeriodReport) -> list[str]:
    """A line for each source, and one for each run of days on which a bill of it is missing."""
    lines = []
    for number, bills in enumerate(report.bills):
        lines.append(f"bills of {source_heading(bills)}")
        lines += [
            f"  {days}: {statuses[number]}"
            for days, statuses in coverage_by_days(report)
            if statuses[number].startswith("no bill")
        ]
    return lines


def _status(bills: SourceBills, day: str) -> str:
    if (machines := bills.missing.get(day)) is not None:
        return f"no bill: {abbreviate(machines)}"
    return "delivered" if bills.charges_through is not None and day <= bills.charges_through else NOTHING_DUE
