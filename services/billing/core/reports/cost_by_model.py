"""A day's spend by model and by key: each tier's is split over the tokens that it served, weighted by direction."""

from collections import Counter
from collections.abc import Mapping

from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.money import per_mtok, split_exactly, to_usd
from services.billing.core.token_usage import TokenUsage, total_tokens
from shared.messages.billing import KeyFigure, ModelFigure
from shared.messages.meter import TokenSums

Served = tuple[str | None, str | None]
"""Model and key; None: what a tier cost that served nothing."""


def cost_by_model_and_key(
    allocation: Allocation, usage: TokenUsage, weights: Mapping[str, int]
) -> tuple[tuple[ModelFigure, ...], tuple[KeyFigure, ...]]:
    """Return the figures by model and by key, ordered by name; each sum is the tiers' spend."""
    spend = _by_served(allocation.tiers, usage, weights)
    before = _by_served(allocation.tiers_before, usage, weights)
    tokens: Counter[Served] = Counter()
    for (_, served_model, served_key), sums in usage.served.items():
        tokens[served_model, served_key] += total_tokens(sums)
    models: dict[str | None, list[int]] = {}
    keys: dict[str | None, list[int]] = {key: [0, 0] for key in allocation.wakes}
    for served in [*tokens, *(one for one in {**before, **spend} if one not in tokens)]:
        model = models.setdefault(served[0], [0, 0, 0])
        key = keys.setdefault(served[1], [0, 0])
        for figure in (model, key):
            figure[0] += spend[served]
            figure[1] += tokens[served]
        model[2] += before[served]
    return (
        tuple(
            ModelFigure(
                model=name,
                spend=to_usd(cost),
                tokens=count,
                usd_per_mtok=per_mtok(cost, count),
                spend_before_credits=to_usd(uncredited),
            )
            for name, (cost, count, uncredited) in sorted(models.items(), key=_by_name)
        ),
        tuple(
            KeyFigure(
                key_id=name,
                spend=to_usd(cost),
                tokens=count,
                usd_per_mtok=per_mtok(cost, count),
                wakes=to_usd(allocation.wakes.get(name, 0)),
            )
            for name, (cost, count) in sorted(keys.items(), key=_by_name)
        ),
    )


def weighted_tokens(sums: TokenSums, weights: Mapping[str, int]) -> int:
    """Tokens times the weights of their directions."""
    uncached = sums.prompt_tokens - sums.cached_tokens
    counts = {"input": uncached, "cached": sums.cached_tokens, "output": sums.completion_tokens}
    return sum(weights.get(name, 0) * count for name, count in counts.items())


def _by_served(tiers: Mapping[str, int], usage: TokenUsage, weights: Mapping[str, int]) -> Counter[Served]:
    costs: Counter[Served] = Counter()
    for tier, spend in tiers.items():
        served = {(model, key): sums for (name, model, key), sums in usage.served.items() if name == tier}
        shares = [weighted_tokens(sums, weights) for sums in served.values()]
        if not any(shares):
            shares = [total_tokens(sums) for sums in served.values()]
        if any(shares):
            costs.update(dict(zip(served, split_exactly(spend, shares), strict=True)))
        elif spend:
            costs[None, None] += spend
    return costs


def _by_name(item: tuple[str | None, object]) -> tuple[bool, str]:
    return item[0] is None, item[0] or ""
