"""The report of one day, from its allocated cost and its token usage."""

from collections.abc import Mapping
from decimal import Decimal

from services.billing.core.allocation import machine_hours, unbilled_time
from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.allocation.unbilled_time import missing_bill_reason
from services.billing.core.money import PLACES, divide, per_mtok, to_usd
from services.billing.core.reports.cost_by_model import cost_by_model_and_key
from services.billing.core.reports.figures import NO_TOKENS, ReportSums, build_figures, cost_by_direction
from services.billing.core.token_usage import TokenUsage, total_tokens
from services.billing.core.utc_time import Window
from shared.messages.billing import (
    AlwaysOn,
    DayReport,
    FigureState,
    TierFigure,
)
from shared.messages.meter import TokenSums
from shared.units import HOUR_MS

NOT_DELIVERED = "cost not delivered"
FAILED = "the day could not be made"


def report_state(allocation: Allocation, *, settled: bool = False, complete: bool = False) -> FigureState | None:
    """Return None if nothing is known of the cost.

    An accrual, a missing bill, or a bill that came before its hours were over makes the report an estimate.
    `settled`: the invoices of all of the day's billing periods tie, so no charge is still to come.
    """
    if allocation.unestimated:
        return "estimated"
    if allocation.accrued or allocation.uncertain or not (allocation.billed or settled):
        return "estimated" if allocation.billed or allocation.observed else None
    return "final" if settled and complete else "provisional"


def build_day_report(
    day: str,
    allocation: Allocation,
    usage: TokenUsage,
    weights: Mapping[str, int],
    *,
    sources: tuple[str, ...],
    always_on: AlwaysOn | None = None,
    settled: bool = False,
) -> DayReport:
    """Return revision 0; `next_revision` numbers later ones. `weights` are as in `build_figures`.

    If a bill is missing, the report has what is known, and every sum that the bill is part of is None.
    """
    state = report_state(allocation, settled=settled, complete=usage.complete)
    missing = allocation.unestimated
    known = state is not None and not missing
    in_part = known or allocation.billed or allocation.observed
    total = usage.total
    served = total_tokens(total)
    models, keys = cost_by_model_and_key(allocation, usage, weights) if known else ((), ())
    reason = missing_bill_reason(missing) if missing else NOT_DELIVERED if not known else None if served else NO_TOKENS
    sums = ReportSums(
        spend=allocation.spend if known else None,
        spend_before_credits=allocation.before_credits if known else None,
        effective_spend=allocation.effective if known else None,
        spend_known=allocation.spend if missing and in_part else None,
        tax=allocation.tax,
        causes=allocation.causes if in_part else None,
        accrued_and_billed=allocation.variance,
        tokens=served,
        tokens_failed=usage.failed,
        served=total,
    )
    tiers = _tiers(allocation, usage.by_tier(), in_part=in_part)
    return DayReport(
        **build_figures(
            sums, weights, state=state, reason=reason, tiers=tiers, models=models, keys=keys, always_on=always_on
        ),
        day=day,
        revision=0,
        currency="USD",
        sources=sources,
        usage_complete=usage.complete,
        usage_reasons=usage.reasons,
        billed_share=_billed_share(allocation) if known else None,
        shared_by=allocation.shared_by if in_part else None,
        charges=allocation.charges,
        hours=machine_hours.machine_hours_figures(allocation.hours),
        unbilled=unbilled_time.unbilled_figures(allocation.unbilled),
    )


def failed_report(day: str, why: str) -> DayReport:
    """Return a report without figures, for a day that cannot be calculated. `why` becomes its reason."""
    return DayReport(
        day=day,
        state=None,
        revision=0,
        currency="USD",
        spend=None,
        tokens=0,
        usd_per_mtok=None,
        reason=f"{FAILED}: {why}",
        causes={},
        tiers=(),
        directions=cost_by_direction(TokenSums(), None, {}),
        tax=Decimal(0),
        spend_before_credits=None,
        usage_reasons=(FAILED,),
        failed=True,
    )


def always_on_cost(tier_of: Mapping[str, str], prices: Mapping[str, int], elapsed: Window, tokens: int) -> AlwaysOn:
    """Return the cost of every machine at its tier's price for all of the elapsed time. `tier_of`: machine to tier."""
    unpriced = sorted(set(tier_of.values()) - set(prices))
    if unpriced or not tier_of:
        reason = f"no price_per_hour: {', '.join(unpriced)}" if unpriced else "no machines"
        return AlwaysOn(spend=None, usd_per_mtok=None, reason=reason)
    spend = divide(sum(prices[tier] for tier in tier_of.values()) * elapsed.length, HOUR_MS)
    return AlwaysOn(spend=to_usd(spend), usd_per_mtok=per_mtok(spend, tokens), reason=None if tokens else NO_TOKENS)


def _tiers(allocation: Allocation, tokens: Mapping[str, int], *, in_part: bool) -> tuple[TierFigure, ...]:
    """Return all tiers; if nothing is known of the day, only those with a missing bill."""
    figures = []
    for name in [*allocation.tiers, *sorted({one.tier for one in allocation.unestimated} - set(allocation.tiers))]:
        spend, count = allocation.tiers.get(name, 0), tokens.get(name, 0)
        missing = [one for one in allocation.unestimated if one.tier == name]
        if missing:
            reason, known = missing_bill_reason(missing), to_usd(spend) if in_part else None
            figure = TierFigure(
                tier=name, spend=None, tokens=count, usd_per_mtok=None, reason=reason, spend_known=known
            )
            figures.append(figure)
        elif in_part:
            figures.append(
                TierFigure(tier=name, spend=to_usd(spend), tokens=count, usd_per_mtok=per_mtok(spend, count))
            )
    return tuple(figures)


def _billed_share(allocation: Allocation) -> Decimal:
    """Compare absolute amounts, so that a credit does not make the share larger than 1."""
    charged, accrued = abs(allocation.spend - allocation.accrued), abs(allocation.accrued)
    return to_usd(divide(charged * 10**PLACES, charged + accrued)) if charged + accrued else Decimal(allocation.billed)
