"""What each idle policy would have cost a tier, and how long requests would have waited, beside two yardsticks."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from services.waker.core.idle import IdleSettings, Past, break_even, idle_settings
from shared.config.fleet import Tier
from shared.config.sections import Config
from shared.config.values import Money
from spotinference.plan.replay import Outcome, Traffic, always_on, clairvoyant, most_at_once, replay, warm_spans

TIMEOUTS = (300.0, 900.0, 1800.0, 3600.0)
"""That are tried beside the configured one, in seconds."""
CENT_OF_A_CENT = Decimal("0.0001")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run the tier. Money is USD."""

    policy: str
    """`always_on`, `fixed`, `break_even`, `histogram` or `clairvoyant`."""
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
    """A tier's traffic and what became of it under each policy."""

    tier: Tier
    requests: int
    tokens: int
    most_at_once: int
    wake: float
    """Seconds."""
    wake_from: WakeFrom
    rows: list[Row]


def plan_of(config: Config, tier: Tier, traffic: Traffic, wake: float, wake_from: WakeFrom) -> TierPlan:
    return TierPlan(
        tier=tier,
        requests=len(traffic.arrivals),
        tokens=traffic.tokens,
        most_at_once=most_at_once(traffic),
        wake=wake,
        wake_from=wake_from,
        rows=compare(config, tier, traffic, wake),
    )


def compare(config: Config, tier: Tier, traffic: Traffic, wake: float) -> list[Row]:
    """Every policy on the same traffic, with the bounds and schedules that the tier has."""
    plan = idle_settings(config, tier)
    spans = warm_spans(plan, traffic.span)
    even = break_even(plan, Past(wakes=(wake,)))
    variants: list[tuple[IdleSettings, float | None]] = [
        (replace(plan, policy="fixed", timeout=timeout), timeout) for timeout in sorted({plan.timeout, *TIMEOUTS})
    ]
    variants.append((replace(plan, policy="break_even"), plan.timeout if even is None else even))
    variants.append((replace(plan, policy="histogram"), None))

    def row(policy: str, outcome: Outcome, timeout: float | None = None, *, configured: bool = False) -> Row:
        return Row(
            policy=policy,
            timeout=timeout,
            configured=configured,
            outcome=outcome,
            cost=_cost(tier, outcome),
            waiting_cost=_per(outcome.waiting, 60, config.waker.wait_price_per_minute),
        )

    tried = [
        row(variant.policy, replay(traffic, variant, wake, spans), timeout, configured=variant == plan)
        for variant, timeout in variants
    ]
    return [row("always_on", always_on(traffic, wake)), *tried, row("clairvoyant", clairvoyant(traffic, wake))]


def _cost(tier: Tier, outcome: Outcome) -> Decimal | None:
    if tier.price_per_hour is None:
        return None
    awake = _per(outcome.awake, 3600, tier.price_per_hour)
    return awake + _per(outcome.asleep, 3600, tier.asleep_price_per_hour)


def _per(seconds: float, unit: int, price: Money) -> Decimal:
    """The price of so many seconds, whose fractions count to the millisecond."""
    return (Decimal(round(seconds * 1000)) / (1000 * unit) * price).quantize(CENT_OF_A_CENT)
