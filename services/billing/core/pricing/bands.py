"""The price list: each model's step of a fixed ladder, from what a million of its tokens cost lately."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from services.billing.core.money import MTOK, UNITS_PER_USD, per_mtok, to_units
from services.billing.core.reports.day_report import NOT_DELIVERED
from services.billing.core.utc_time import day_of, day_window
from shared.messages.billing import Band, DayReport
from shared.units import DAY_MS

SHORT_WINDOW_DAYS, LONG_WINDOW_DAYS = 7, 28
"""Days that a band looks back: the dearer of the two windows decides."""

Step = tuple[Decimal | None, Decimal | None, str | None]
"""`low`, `high`, and the reason where they are None."""


@dataclass(frozen=True)
class Ladder:
    """USD per million tokens, ascending from above 0."""

    steps: tuple[Decimal, ...]
    min_tokens: int
    """A model that had fewer tokens in the short window gets no new band."""


def next_band(model: str, day: str, reports: Sequence[DayReport], ladder: Ladder, standing: Band | None) -> Band | None:
    """The band that takes the place of `standing` from `day` on; None: that one stays.

    `reports` cover the `LONG_WINDOW_DAYS` days before. Estimates make no band, and credits do not lower one. With too
    few tokens the band in force stays: a quiet week takes no price from the list.
    """
    short, long = (
        _cost_and_tokens(model, days_before(day, length), reports) for length in (SHORT_WINDOW_DAYS, LONG_WINDOW_DAYS)
    )
    few = short[1] < ladder.min_tokens
    if few and standing is not None:
        return None
    step: Step = (None, None, f"fewer than {ladder.min_tokens} tokens on billed days of the last {SHORT_WINDOW_DAYS}")
    if not few:
        step = _find_step(max(Fraction(cost * MTOK, tokens * UNITS_PER_USD) for cost, tokens in (short, long)), ladder)
    if standing is not None and step == (standing.low, standing.high, standing.reason):
        return None
    low, high, reason = step
    return Band(
        model=model,
        day=day,
        low=low,
        high=high,
        trailing_7=per_mtok(*short),
        trailing_28=per_mtok(*long),
        reason=reason,
        left_out=tuple(f"{report.day}: {why}" for report in reports if (why := _exclusion_reason(model, report))),
    )


def days_before(day: str, length: int) -> list[str]:
    """Return the `length` days that end on the day before `day`, in order."""
    end = day_window(day).start
    return [day_of(end - back * DAY_MS) for back in range(length, 0, -1)]


def _cost_and_tokens(model: str, days: Sequence[str], reports: Sequence[DayReport]) -> tuple[int, int]:
    """Units before credits, and tokens."""
    figures = [
        (figure.spend_before_credits, figure.tokens)
        for report in reports
        if report.day in days and _exclusion_reason(model, report) is None
        for figure in report.models
        if figure.model == model
    ]
    return sum(to_units(cost) for cost, _ in figures if cost is not None), sum(tokens for _, tokens in figures)


def _exclusion_reason(model: str, report: DayReport) -> str | None:
    """Return why the day does not count; None if it does, even if it adds nothing."""
    if report.failed:
        return report.reason
    if report.state == "estimated":
        return report.reason if report.spend is None else "estimated"
    if report.spend is None:
        return NOT_DELIVERED if report.tokens else None
    untold = any(figure.model == model and figure.spend_before_credits is None for figure in report.models)
    return "its cost before credits is not known" if untold else None


def _find_step(ratio: Fraction, ladder: Ladder) -> Step:
    """The step in which the ratio lies: above `low`, not above `high`."""
    if ratio <= 0:
        return None, None, "it cost nothing"
    for low, high in zip((Decimal(0), *ladder.steps), ladder.steps, strict=False):
        if ratio <= Fraction(high):
            return low, high, None
    return None, None, f"above the last step, {ladder.steps[-1]}"
