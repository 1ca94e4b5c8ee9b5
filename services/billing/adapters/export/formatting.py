"""The words and the writing of figures that all forms share, and what is done with text from outside."""

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TypeVar

from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import Cause, DayReport, FigureState, KeyFigure, ModelFigure, PeriodReport, TierFigure
from shared.messages.explanation import CostLine, Explanation

CAUSE_WORDS: dict[Cause, tuple[str, str]] = {
    "serving": ("Serving", "machines with requests in flight"),
    "warm_idle": ("Warm idle", "ready, nobody asking"),
    "waking": ("Waking", "on the way to ready"),
    "failed_wake": ("Failed wakes", "woken, never ready"),
    "asleep": ("Asleep", "disks and what else bills in sleep"),
    "shared": ("Shared", "serves the whole fleet, spread over the tiers"),
    "unattributed": ("Unattributed", "charges that belong to no tier"),
    "unexplained": ("Unexplained", "billed for time that the journal does not know"),
}
STATE_WORDS: dict[FigureState, str] = {
    "estimated": "the bill is not whole yet; machine time that it lacks counts at its tier's price, if that has one",
    "provisional": "from the bill, which may still change",
    "final": "the invoices tie and the usage is complete",
    "restated": "changed after it was final",
}
BASIS = (
    "BilledCost by the UTC day of the charge, credits, refunds and adjustments in, recoverable tax beside it; "
    "all tokens of requests that were delivered, prompt and completion."
)
NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
NOBODY = "nobody"
"""Cost of a tier that served no token."""
UNATTRIBUTED: Cause = "unattributed"
"""The cause that belongs to no tier: with it the tiers sum to the spend."""
HEADLINE_DAYS = 7
TRAILING = (HEADLINE_DAYS, 28)

Report = DayReport | PeriodReport
P = TypeVar("P", bound=TierFigure | ModelFigure | KeyFigure)


def format_decimal(number: Decimal | None) -> str:
    """Format every digit, never as `1E-12`; empty for None."""
    return "" if number is None else f"{number:f}"


def format_usd(amount: Decimal | None, places: int = 2) -> str:
    """`$1 234.50`; small amounts keep enough digits to be seen; a dash where there is none."""
    if amount is None:
        return NOTHING
    if amount and abs(amount) < Decimal("0.01"):
        places = max(places, 6)
    rounded = abs(amount).quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)
    return f"{MINUS if amount < 0 else ''}${f'{rounded:,}'.replace(',', ' ')}"


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
