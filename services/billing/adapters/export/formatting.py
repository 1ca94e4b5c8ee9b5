"""What all forms of a report share: its days, its span, and the parts that are worth a row."""

from collections.abc import Sequence
from typing import TypeVar

from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import Cause, DayReport, KeyFigure, ModelFigure, PeriodReport, TierFigure
from shared.messages.explanation import CostLine, Explanation

NOBODY = "nobody"
"""Cost of a tier that served no token."""
UNATTRIBUTED: Cause = "unattributed"
"""The cause that belongs to no tier: with it the tiers sum to the spend."""
HEADLINE_DAYS = 7
TRAILING = (HEADLINE_DAYS, 28)

Report = DayReport | PeriodReport
P = TypeVar("P", bound=TierFigure | ModelFigure | KeyFigure)


def line_name(line: CostLine) -> str:
    """Return what a line of an explanation is about."""
    if line.what == "shared":
        return "its part of the shared cost"
    if line.what == "estimate":
        return f"no bill yet: {line.resource}, estimated"
    return line.resource or "no resource"


def missing_reason(report: Report, one: Explanation) -> str | None:
    """Return why the explained figure is not completely known; None where it is."""
    if not one.is_tier:  # the bill that is missing may have more of it
        return None if report.spend is not None else report.reason or "not known"
    tier = next((tier for tier in report.tiers if tier.tier == one.figure), None)
    return None if tier is None or tier.spend is not None else tier.reason or "not known"


def days_of(report: Report) -> Sequence[DayReport]:
    return report.days if isinstance(report, PeriodReport) else (report,)


def span_of(report: Report) -> str:
    """`2026-05-03`, or `2026-05-01 to 2026-05-07`."""
    if isinstance(report, DayReport):
        return report.day
    return report.first if report.first == report.to else f"{report.first} to {report.to}"


def trailing_period(report: PeriodReport, days: int) -> PeriodReport | None:
    """The last so many of its days; None where it has no more than these."""
    return build_period_report(report.days[-days:], {}) if len(report.days) > days else None


def split_top(parts: Sequence[P], most: int) -> tuple[list[P], list[P]]:
    """The dearest, after those whose spend is not known, and the rest; a rest of one is not worth a row of its own."""
    ordered = sorted(parts, key=lambda part: (part.spend is not None, -(part.spend or 0)))
    return (ordered, []) if len(ordered) <= most + 1 else (ordered[:most], ordered[most:])
