"""The day's report: its figures from an allocation and the day's usage."""

from collections.abc import Mapping
from decimal import Decimal

from services.billing.core.allocation import machine_hours, unbilled_time
from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.allocation.unbilled_time import missing_bill_reason
from services.billing.core.money import MTOK, PLACES, divide, per_mtok, to_usd
from services.billing.core.reports.cost_by_model import cost_by_model_and_key, weighted_tokens
from services.billing.core.token_usage import TokenUsage, total_tokens
from services.billing.core.utc_time import Window
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    DayReport,
    DirectionFigure,
    Directions,
    FigureState,
    TierFigure,
    Variance,
)
from shared.messages.meter import TokenSums
from shared.units import HOUR_MS

NOT_DELIVERED = "cost not delivered"
NO_TOKENS = "no tokens"
FAILED = "the day could not be made"


def report_state(allocation: Allocation, *, settled: bool = False, complete: bool = False) -> FigureState | None:
    """None where nothing is known of the cost. An accrual in it, or a bill that is missing or came before its hours
    were over, makes it an estimate.

    `settled`: the invoices of all of the day's billing periods tie, so that no charge of it is still to come.
    """
    if allocation.missing:
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
    """Revision 0: `revised` numbers it. `weights` are whole numbers in proportion to the published ones.

    Where a bill is missing, what is known is told, and every sum that it is part of is None.
    """
    state = report_state(allocation, settled=settled, complete=usage.complete)
    missing = allocation.missing
    known = state is not None and not missing
    in_part = known or allocation.billed or allocation.observed
    total = usage.total
    served = total_tokens(total)
    models, keys = cost_by_model_and_key(allocation, usage, weights)
    return DayReport(
        day=day,
        state=state,
        revision=0,
        currency="USD",
        spend=to_usd(allocation.spend) if known else None,
        tokens=served,
        usd_per_mtok=per_mtok(allocation.spend, served) if known else None,
        reason=missing_bill_reason(missing)
        if missing
        else NOT_DELIVERED
        if not known
        else None
        if served
        else NO_TOKENS,
        causes={cause: to_usd(allocation.causes[cause]) for cause in CAUSES} if in_part else {},
        tiers=_tiers(allocation, usage.by_tier(), in_part=in_part),
        directions=cost_by_direction(total, allocation.spend if known else None, weights),
        tax=to_usd(allocation.tax),
        spend_before_credits=to_usd(allocation.before_credits) if known else None,
        sources=sources,
        usage_complete=usage.complete,
        usage_reasons=usage.reasons,
        tokens_failed=usage.failed,
        billed_share=_billed_share(allocation) if known else None,
        effective_spend=to_usd(allocation.effective) if known and allocation.effective is not None else None,
        usd_per_mtok_before_credits=per_mtok(allocation.before_credits, served) if known else None,
        usd_per_mtok_output=per_mtok(allocation.spend, total.completion_tokens) if known else None,
        models=models if known else (),
        keys=keys if known else (),
        always_on=always_on,
        variance=_variance(allocation),
        shared_by=allocation.shared_by if in_part else None,
        charges=allocation.charges,
        hours=machine_hours.machine_hours_figures(allocation.hours),
        unbilled=unbilled_time.unbilled_figures(allocation.unbilled),
        spend_known=to_usd(allocation.spend) if missing and in_part else None,
    )


def failed_report(day: str, why: str) -> DayReport:
    """What is said of a day whose figures cannot be made: nothing, and why."""
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
    """Every machine at its tier's price for all of the time that has passed. `tier_of`: machine to tier."""
    unpriced = sorted(set(tier_of.values()) - set(prices))
    if unpriced or not tier_of:
        reason = f"no price_per_hour: {', '.join(unpriced)}" if unpriced else "no machines"
        return AlwaysOn(spend=None, usd_per_mtok=None, reason=reason)
    spend = divide(sum(prices[tier] for tier in tier_of.values()) * elapsed.length, HOUR_MS)
    return AlwaysOn(spend=to_usd(spend), usd_per_mtok=per_mtok(spend, tokens), reason=None if tokens else NO_TOKENS)


def cost_by_direction(served: TokenSums, spend: int | None, weights: Mapping[str, int]) -> Directions:
    """Each direction's tokens and price: the spend in units, None where it is not known, by the published weights."""
    counts = {
        "input": served.prompt_tokens - served.cached_tokens,
        "cached": served.cached_tokens,
        "output": served.completion_tokens,
    }
    whole = weighted_tokens(served, weights)

    def figure(name: str) -> DirectionFigure:
        if spend is None or not whole or not counts[name]:
            return DirectionFigure(tokens=counts[name], usd_per_mtok=None)
        price = to_usd(divide(spend * weights.get(name, 0) * MTOK, whole))
        return DirectionFigure(tokens=counts[name], usd_per_mtok=price)

    return Directions(input=figure("input"), cached=figure("cached"), output=figure("output"))


def _tiers(allocation: Allocation, tokens: Mapping[str, int], *, in_part: bool) -> tuple[TierFigure, ...]:
    """All tiers; where nothing is known of the day, those alone that say which bill is missing."""
    figures = []
    for name in [*allocation.tiers, *sorted({one.tier for one in allocation.missing} - set(allocation.tiers))]:
        spend, count = allocation.tiers.get(name, 0), tokens.get(name, 0)
        missing = [one for one in allocation.missing if one.tier == name]
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
    """By amounts without their signs, so that a credit does not make it larger than all."""
    charged, accrued = abs(allocation.spend - allocation.accrued), abs(allocation.accrued)
    return to_usd(divide(charged * 10**PLACES, charged + accrued)) if charged + accrued else Decimal(allocation.billed)


def _variance(allocation: Allocation) -> Variance | None:
    if allocation.variance is None:
        return None
    accrued, billed = allocation.variance
    return Variance(accrued=to_usd(accrued), billed=to_usd(billed), difference=to_usd(billed - accrued))
