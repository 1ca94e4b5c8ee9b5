"""The day's report: its figures from an allocation and the meter's answer, and when it is a new revision."""

from collections.abc import Mapping

import msgspec

from services.billing.core.allocation import Allocation
from services.billing.core.money import MTOK, divided, per_mtok, usd
from shared.messages.billing import (
    CAUSES,
    DayReport,
    DirectionFigure,
    Directions,
    FigureState,
    TierFigure,
)
from shared.messages.meter import Tokens, TokenSums

NOT_DELIVERED = "cost not delivered"
NO_TOKENS = "no tokens"


def tokens_of(sums: TokenSums) -> int:
    return sums.prompt_tokens + sums.completion_tokens


def served_by_tier(answer: Tokens) -> dict[str, int]:
    """Tokens of each tier without failed requests, from an answer by tier and outcome."""
    found: dict[str, int] = {}
    for row in answer.rows:
        if row.dimensions["outcome"] != "failed":
            tier = row.dimensions["tier"]
            found[tier] = found.get(tier, 0) + tokens_of(row.sums)
    return found


def state_of(allocation: Allocation) -> FigureState | None:
    """None where the cost is not known. An accrual in it makes the whole figure an estimate."""
    if allocation.accrued or not allocation.billed:
        return "estimated" if allocation.billed or allocation.observed else None
    return "provisional"


def make_report(
    day: str, allocation: Allocation, answer: Tokens, weights: Mapping[str, int], sources: tuple[str, ...]
) -> DayReport:
    """Revision 0: `revised` numbers it. `weights` are whole numbers in proportion to the published ones."""
    state = state_of(allocation)
    known = state is not None
    served = tokens_of(answer.served)
    by_tier = served_by_tier(answer)
    return DayReport(
        day=day,
        state=state,
        revision=0,
        currency="USD",
        spend=usd(allocation.spend) if known else None,
        tokens=served,
        usd_per_mtok=per_mtok(allocation.spend, served) if known else None,
        reason=NOT_DELIVERED if not known else None if served else NO_TOKENS,
        causes={cause: usd(allocation.causes[cause]) for cause in CAUSES} if known else {},
        tiers=tuple(_tier(name, spend, by_tier.get(name, 0)) for name, spend in allocation.tiers.items())
        if known
        else (),
        directions=directions_of(answer.served, allocation.spend if known else None, weights),
        tax=usd(allocation.tax),
        spend_before_credits=usd(allocation.before_credits) if known else None,
        sources=sources,
    )


def revised(report: DayReport, digest: str, newest: tuple[DayReport, str] | None) -> DayReport:
    """The newest stored report where neither a figure nor the inputs' digest differ, else the next revision."""
    if newest is None:
        return msgspec.structs.replace(report, revision=1)
    stored, stored_digest = newest
    numbered = msgspec.structs.replace(report, revision=stored.revision)
    if numbered == stored and digest == stored_digest:
        return stored
    return msgspec.structs.replace(report, revision=stored.revision + 1)


def _tier(name: str, spend: int, tokens: int) -> TierFigure:
    return TierFigure(tier=name, spend=usd(spend), tokens=tokens, usd_per_mtok=per_mtok(spend, tokens))


def directions_of(served: TokenSums, spend: int | None, weights: Mapping[str, int]) -> Directions:
    """Each direction's tokens and price: the spend in units, None where it is not known, by the published weights."""
    counts = {
        "input": served.prompt_tokens - served.cached_tokens,
        "cached": served.cached_tokens,
        "output": served.completion_tokens,
    }
    weighted = sum(weights.get(name, 0) * count for name, count in counts.items())

    def figure(name: str) -> DirectionFigure:
        if spend is None or not weighted or not counts[name]:
            return DirectionFigure(tokens=counts[name], usd_per_mtok=None)
        price = usd(divided(spend * weights.get(name, 0) * MTOK, weighted))
        return DirectionFigure(tokens=counts[name], usd_per_mtok=price)

    return Directions(input=figure("input"), cached=figure("cached"), output=figure("output"))
