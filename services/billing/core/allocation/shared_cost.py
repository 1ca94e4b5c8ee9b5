"""A day's parts as its causes and its tiers: the shared cost is spread over the tiers that it serves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from services.billing.core.allocation.cost_parts import CostPart
from services.billing.core.money import split_exactly
from shared.messages.billing import CAUSES, Cause

SharedBy = Literal["direct cost", "tokens", "nothing: evenly"]
Unowned = Literal["shared", "unattributed"]


def spread_shared_cost(
    tiers: Sequence[str], tokens: Mapping[str, int], parts: Mapping[CostPart, int], loose: Mapping[Unowned, int]
) -> tuple[dict[Cause, int], dict[str, int], SharedBy | None]:
    """Return causes and tiers, and what the shared cost follows. `tokens` are served, by tier.

    Shared cost follows direct cost, else tokens, else it is spread evenly.
    """
    causes: dict[Cause, int] = {**dict.fromkeys(CAUSES, 0), **{name: loose[name] for name in loose}}
    direct: Counter[str] = Counter()
    for part, amount in parts.items():
        causes[part.cause] += amount
        direct[part.tier] += amount
    names = [*tiers, *sorted((set(tokens) | set(direct)) - set(tiers))]
    if not names:
        causes["unattributed"] += causes["shared"]
        causes["shared"] = 0
        return causes, {}, None
    keys: dict[SharedBy, list[int]] = {
        "direct cost": [max(0, direct[name]) for name in names],
        "tokens": [tokens.get(name, 0) for name in names],
        "nothing: evenly": [1] * len(names),
    }
    key = next(key for key, weights in keys.items() if any(weights))
    shares = split_exactly(causes["shared"], keys[key])
    costs = {name: direct[name] + share for name, share in zip(names, shares, strict=True)}
    return causes, costs, key if "shared" in loose else None
