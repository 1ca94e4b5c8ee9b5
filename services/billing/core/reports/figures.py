"""The figures that the reports of a day and of a period share, calculated from exact sums in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from services.billing.core.money import MTOK, divide, per_mtok, to_usd
from services.billing.core.reports.cost_by_model import weighted_tokens
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    Cause,
    DirectionFigure,
    Directions,
    FigureState,
    KeyFigure,
    ModelFigure,
    ReportFigures,
    TierFigure,
    Variance,
)
from shared.messages.meter import TokenSums

NO_TOKENS = "no tokens"


@dataclass(frozen=True, kw_only=True)
class ReportSums:
    """What the figures are calculated from. Amounts are in units of money; None where they are unknown."""

    spend: int | None
    spend_before_credits: int | None
    effective_spend: int | None
    spend_known: int | None
    """The known part of a spend that is None."""
    tax: int
    causes: Mapping[Cause, int] | None
    accrued_and_billed: tuple[int, int] | None
    """What was accrued for the machine hours that are billed, and what was billed for them."""
    tokens: int
    tokens_failed: int
    served: TokenSums


def build_figures(
    sums: ReportSums,
    weights: Mapping[str, int],
    *,
    state: FigureState | None,
    reason: str | None,
    tiers: Sequence[TierFigure],
    models: Sequence[ModelFigure],
    keys: Sequence[KeyFigure],
    always_on: AlwaysOn | None,
) -> dict[str, Any]:
    """Return the fields of `ReportFigures`. `weights` are whole numbers in proportion to the published ones."""
    figures = ReportFigures(
        state=state,
        spend=_usd(sums.spend),
        tokens=sums.tokens,
        usd_per_mtok=_per_mtok(sums.spend, sums.tokens),
        reason=reason,
        causes={} if sums.causes is None else {cause: to_usd(sums.causes[cause]) for cause in CAUSES},
        tiers=tuple(tiers),
        directions=cost_by_direction(sums.served, sums.spend, weights),
        tax=to_usd(sums.tax),
        spend_before_credits=_usd(sums.spend_before_credits),
        tokens_failed=sums.tokens_failed,
        effective_spend=_usd(sums.effective_spend),
        usd_per_mtok_before_credits=_per_mtok(sums.spend_before_credits, sums.tokens),
        usd_per_mtok_output=_per_mtok(sums.spend, sums.served.completion_tokens),
        models=tuple(models),
        keys=tuple(keys),
        always_on=always_on,
        variance=_variance(sums.accrued_and_billed),
        spend_known=_usd(sums.spend_known),
    )
    return msgspec.structs.asdict(figures)


def cost_by_direction(served: TokenSums, spend: int | None, weights: Mapping[str, int]) -> Directions:
    """Return each direction's tokens and price by the published weights. `spend` is in units, None if unknown."""
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


def _variance(accrued_and_billed: tuple[int, int] | None) -> Variance | None:
    if accrued_and_billed is None:
        return None
    accrued, billed = accrued_and_billed
    return Variance(accrued=to_usd(accrued), billed=to_usd(billed), difference=to_usd(billed - accrued))


def _usd(amount: int | None) -> Decimal | None:
    return None if amount is None else to_usd(amount)


def _per_mtok(amount: int | None, tokens: int) -> Decimal | None:
    return None if amount is None else per_mtok(amount, tokens)
