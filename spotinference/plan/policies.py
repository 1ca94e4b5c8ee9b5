"""The cost and the waits of a tier under each idle policy, and under two reference policies."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from services.waker.core.idle import IdleSettings, Past, break_even, idle_settings
from shared.config.fleet import Tier
from shared.config.sections import Config
from shared.config.values import Money
from spotinference.plan.replay import (
    Outcome,
    Traffic,
    peak_concurrency,
    replay,
    replay_always_on,
    replay_clairvoyant,
    scheduled_spans,
)

TIMEOUTS = (300.0, 900.0, 1800.0, 3600.0)
"""Timeouts that are compared with the configured one, in seconds."""
CENT_OF_A_CENT = Decimal("0.0001")


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """The result of one policy. Money is USD."""

    policy: str
    """`replay_always_on`, `fixed`, `break_even`, `histogram` or `replay_clairvoyant`."""
    timeout: float | None
    """Seconds, of a fixed or break-even policy."""
    configured: bool
    outcome: Outcome
    cost: Decimal | None
    """None: the tier has no price."""
    waiting_cost: Decimal


WakeFrom = Literal["measured", "given", "assumed"]


@dataclass(frozen=True, kw_only=True)
class TierPlan:
    """A tier's traffic, and the result of each policy for it."""

    tier: Tier
    requests: int
    tokens: int
    peak_concurrency: int
    wake: float
    """Seconds."""
    wake_from: WakeFrom
    rows: list[PolicyResult]


def plan_tier(config: Config, tier: Tier, traffic: Traffic, wake: float, wake_from: WakeFrom) -> TierPlan:
    return TierPlan(
        tier=tier,
        requests=len(traffic.arrivals),
        tokens=traffic.tokens,
        peak_concurrency=peak_concurrency(traffic),
        wake=wake,
        wake_from=wake_from,
        rows=compare(config, tier, traffic, wake),
    )


def compare(config: Config, tier: Tier, traffic: Traffic, wake: float) -> list[PolicyResult]:
    """Replay the traffic under every policy, with the limits and schedules of the tier."""
    plan = idle_settings(config, tier)
    spans = scheduled_spans(plan, traffic.span)
    even = break_even(plan, Past(wakes=(wake,)))
    variants: list[tuple[IdleSettings, float | None]] = [
        (replace(plan, policy="fixed", timeout=timeout), timeout) for timeout in sorted({plan.timeout, *TIMEOUTS})
    ]
    variants.append((replace(plan, policy="break_even"), plan.timeout if even is None else even))
    variants.append((replace(plan, policy="histogram"), None))

    def row(policy: str, outcome: Outcome, timeout: float | None = None, *, configured: bool = False) -> PolicyResult:
        return PolicyResult(
            policy=policy,
            timeout=timeout,
            configured=configured,
            outcome=outcome,
            cost=_cost(tier, outcome),
            waiting_cost=_price_of(outcome.waiting, 60, config.waker.wait_price_per_minute),
        )

    tried = [
        row(variant.policy, replay(traffic, variant, wake, spans), timeout, configured=variant == plan)
        for variant, timeout in variants
    ]
    return [
        row("always_on", replay_always_on(traffic, wake)),
        *tried,
        row("clairvoyant", replay_clairvoyant(traffic, wake)),
    ]


def _cost(tier: Tier, outcome: Outcome) -> Decimal | None:
    if tier.price_per_hour is None:
        return None
    awake = _price_of(outcome.awake, 3600, tier.price_per_hour)
    return awake + _price_of(outcome.asleep, 3600, tier.asleep_price_per_hour)


def _price_of(seconds: float, unit: int, price: Money) -> Decimal:
    """Return the price of a duration, exact to the millisecond."""
    return (Decimal(round(seconds * 1000)) / (1000 * unit) * price).quantize(CENT_OF_A_CENT)
