"""Several days in a row as one figure: sums of the days' sums, and ratios of those, never means of ratios."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import TypeVar

from services.billing.core.allocation.unbilled_time import NO_BILL_YET, abbreviate
from services.billing.core.money import per_mtok, to_units, to_usd
from services.billing.core.reports.day_report import FAILED, NOT_DELIVERED
from services.billing.core.reports.figures import NO_TOKENS, ReportSums, build_figures
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    DayReport,
    Directions,
    FigureState,
    KeyFigure,
    ModelFigure,
    PeriodReport,
    TierFigure,
)
from shared.messages.meter import TokenSums

N = TypeVar("N", str, str | None)

CERTAINTY: tuple[FigureState, ...] = ("estimated", "provisional", "restated", "final")
"""The states, the least certain first."""


def build_period_report(days: Sequence[DayReport], weights: Mapping[str, int]) -> PeriodReport:
    """Add up consecutive `days`. `weights` are as in `build_figures`.

    A day with neither cost nor tokens adds nothing. Tokens without their cost, and a day that failed, make the whole
    unknown. A day that lacks a bill makes every sum unknown that the bill is part of; the known part is reported.
    """
    known = [day for day in days if day.spend is not None]
    lacking = [day for day in days if _lacks_bill(day)]
    unknown = [day.day for day in days if day.failed or (day.spend is None and day.tokens and not _lacks_bill(day))]
    tokens = sum(day.tokens for day in days)
    spend = None if unknown or lacking or not known else _sum(day.spend for day in known)
    priced = known if spend is not None else []
    counted = [] if unknown else [*known, *lacking]
    sums = ReportSums(
        spend=spend,
        spend_before_credits=None if spend is None else _sum(day.spend_before_credits for day in known),
        effective_spend=_effective(priced),
        spend_known=_sum(day.spend_known if day.spend is None else day.spend for day in counted)
        if lacking and counted
        else None,
        tax=_sum(day.tax for day in days),
        causes={cause: _sum(day.causes.get(cause) for day in counted) for cause in CAUSES} if counted else None,
        accrued_and_billed=_accrued_and_billed(priced),
        tokens=tokens,
        tokens_failed=sum(day.tokens_failed for day in days),
        served=_served_tokens(days),
    )
    figures = build_figures(
        sums,
        weights,
        state=None if unknown else min((d.state for d in counted if d.state), key=CERTAINTY.index, default=None),
        reason=_reason(days, unknown, counted, tokens),
        tiers=_tiers(counted),
        models=_models(priced),
        keys=_keys(priced),
        always_on=_always_on(priced, tokens),
    )
    return PeriodReport(
        **figures,
        first=days[0].day,
        to=days[-1].day,
        complete_through=complete_through(days),
        days=tuple(days),
    )


def complete_through(days: Iterable[DayReport]) -> str | None:
    """The last day up to which bills and usage are whole. Days with neither cost nor tokens do not hold it up."""
    through = None
    for day in days:
        if day.state not in (None, "estimated") and day.usage_complete:
            through = day.day
        elif day.failed or day.spend is not None or day.tokens or _lacks_bill(day):
            break
    return through


def _lacks_bill(day: DayReport) -> bool:
    """Whether its cost is unknown because a bill is missing."""
    return day.spend is None and day.state == "estimated"


def format_days(days: Sequence[str]) -> str:
    """Sorted days as text: `2026-05-03, 2026-05-07 to 2026-05-09`."""
    runs: list[list[date]] = []
    for day in map(date.fromisoformat, days):
        if runs and day - runs[-1][-1] == timedelta(days=1):
            runs[-1].append(day)
        else:
            runs.append([day])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _reason(days: Sequence[DayReport], unknown: Sequence[str], counted: Sequence[DayReport], tokens: int) -> str | None:
    failed = [day.day for day in days if day.failed]
    if failed:
        return f"{FAILED}: {format_days(failed)}"
    faults = [f"{NOT_DELIVERED}: {format_days(unknown)}"] if unknown else []
    lacking = [day for day in days if _lacks_bill(day)]
    if lacking:
        names = dict.fromkeys(one.machine for day in lacking for one in day.unbilled if not one.estimated)
        whose = f": {abbreviate(list(names))}" if names else ""
        faults.append(f"{NO_BILL_YET}{whose} on {format_days([day.day for day in lacking])}")
    if faults:
        through = complete_through(days)
        return "; ".join([*faults, *([f"the days up to {through} are whole"] if through else [])])
    if not counted:
        return f"neither cost nor tokens: {format_days([day.day for day in days])}"
    return None if tokens else NO_TOKENS


def _served_tokens(days: Sequence[DayReport]) -> TokenSums:
    directions = [day.directions for day in days]
    uncached, cached, output = (
        sum(getattr(d, name).tokens for d in directions) for name in Directions.__struct_fields__
    )
    return TokenSums(prompt_tokens=uncached + cached, cached_tokens=cached, completion_tokens=output)


def _tiers(days: Sequence[DayReport]) -> tuple[TierFigure, ...]:
    every = [tier for day in days for tier in day.tiers]
    sums = _sum_by_name(
        (t.tier, (t.spend_known if t.spend is None else t.spend) or Decimal(0), t.tokens) for t in every
    )
    lacking = {tier.tier: tier.reason for tier in reversed(every) if tier.spend is None}
    return tuple(
        TierFigure(
            tier=name,
            spend=None if name in lacking else to_usd(spend),
            tokens=tokens,
            usd_per_mtok=None if name in lacking else per_mtok(spend, tokens),
            reason=lacking.get(name),
            spend_known=to_usd(spend) if name in lacking else None,
        )
        for name, (spend, tokens) in sums.items()
    )


def _models(days: Sequence[DayReport]) -> tuple[ModelFigure, ...]:
    every = [figure for day in days for figure in day.models]
    untold = {figure.model for figure in every if figure.spend_before_credits is None}
    before = _sum_by_name((m.model, m.spend_before_credits or Decimal(0), 0) for m in every)
    return tuple(
        ModelFigure(
            model=name,
            spend=to_usd(spend),
            tokens=tokens,
            usd_per_mtok=per_mtok(spend, tokens),
            spend_before_credits=None if name in untold else to_usd(before[name][0]),
        )
        for name, (spend, tokens) in _sum_by_name((m.model, m.spend, m.tokens) for m in every).items()
    )


def _keys(days: Sequence[DayReport]) -> tuple[KeyFigure, ...]:
    wakes = _sum_by_name((k.key_id, k.wakes, 0) for day in days for k in day.keys)
    return tuple(
        KeyFigure(
            key_id=name,
            spend=to_usd(spend),
            tokens=tokens,
            usd_per_mtok=per_mtok(spend, tokens),
            wakes=to_usd(wakes[name][0]),
        )
        for name, (spend, tokens) in _sum_by_name(
            (k.key_id, k.spend, k.tokens) for day in days for k in day.keys
        ).items()
    )


def _sum_by_name(parts: Iterable[tuple[N, Decimal, int]]) -> dict[N, tuple[int, int]]:
    """Units and tokens by name, in the order in which the names first appear."""
    sums: dict[N, tuple[int, int]] = {}
    for name, spend, tokens in parts:
        so_far = sums.get(name, (0, 0))
        sums[name] = (so_far[0] + to_units(spend), so_far[1] + tokens)
    return sums


def _effective(days: Sequence[DayReport]) -> int | None:
    amounts = [day.effective_spend for day in days if day.effective_spend is not None]
    return _sum(amounts) if amounts and len(amounts) == len(days) else None


def _accrued_and_billed(days: Sequence[DayReport]) -> tuple[int, int] | None:
    variances = [day.variance for day in days if day.variance is not None]
    if not variances:
        return None
    return _sum(variance.accrued for variance in variances), _sum(variance.billed for variance in variances)


def _always_on(days: Sequence[DayReport], tokens: int) -> AlwaysOn | None:
    comparisons = [day.always_on for day in days if day.always_on is not None]
    if not comparisons:
        return None
    silent = next((figure.reason for figure in comparisons if figure.spend is None), None)
    if silent is not None or len(comparisons) < len(days):
        return AlwaysOn(spend=None, usd_per_mtok=None, reason=silent or "not known of every day")
    spend = _sum(figure.spend for figure in comparisons)
    return AlwaysOn(spend=to_usd(spend), usd_per_mtok=per_mtok(spend, tokens))


def _sum(amounts: Iterable[Decimal | None]) -> int:
    """Units; None adds nothing."""
    return sum(to_units(amount) for amount in amounts if amount is not None)
