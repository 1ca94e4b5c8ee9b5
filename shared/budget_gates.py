"""The budget gates, as read before money is spent: by the gateway before a request, by the waker before a wake."""

from collections.abc import Callable, Mapping

from shared.config.sections import Config
from shared.config.values import Money
from shared.messages.budget import BudgetGate
from shared.units import DAY_S

FLEET_SCOPE = "fleet"
"""The scope of the whole fleet's gate; a tier's is `tier.<name>`. They are also the keys of bucket `budget`."""


def tier_scope(tier: str) -> str:
    return f"tier.{tier}"


def budget_limits(config: Config) -> dict[str, Money]:
    """Return each gate's limit in USD per UTC day, by scope."""
    tiers = {tier_scope(tier.name): tier.daily_budget for tier in config.tier}
    named = {FLEET_SCOPE: config.billing.daily_budget, **tiers}
    return {scope: limit for scope, limit in named.items() if limit is not None}


class GateView:
    """Tells why new spending is closed, or None while it is open. `view` is the view of bucket `budget`."""

    def __init__(self, config: Config, view: Mapping[str, BudgetGate], age: Callable[[str], float]) -> None:
        """`age` returns how many seconds ago the entry of a scope was written."""
        self._view = view
        self._age = age
        self._patience = config.billing.observation_timeout
        self._open_when_dark = config.billing.when_dark == "open"
        self.limited_scopes = frozenset(budget_limits(config))
        """The scopes that have a gate."""
        self._tiers = {model.name: tuple(map(tier_scope, model.lineup)) for model in config.model}

    def tier_closed_reason(self, tier: str, now: float) -> str | None:
        """Return why the tier is closed, by its own gate or the fleet's; None if it is open."""
        fleet = self._closed_reason(FLEET_SCOPE, now)
        return self._closed_reason(tier_scope(tier), now) if fleet is None else fleet

    def model_closed_reason(self, model: str, now: float) -> str | None:
        """Return why the model is closed: by the fleet's gate, or by all its tiers' (the first one's reason)."""
        if not self.limited_scopes:
            return None
        first = self._closed_reason(FLEET_SCOPE, now)
        if first is not None:
            return first
        for scope in self._tiers.get(model, ()):
            reason = self._closed_reason(scope, now)
            if reason is None:
                return None
            first = reason if first is None else first
        return first

    def _closed_reason(self, scope: str, now: float) -> str | None:
        if scope not in self.limited_scopes:
            return None
        gate = self._view.get(scope)
        if gate is not None and self._observed_ago(scope, gate, now) <= self._patience:
            return None if gate.open else gate.reason
        if not self._open_when_dark:
            return "billing_unobservable"
        # Today's spend cannot shrink, and an operator's order lasts until midnight.
        closed_today = gate is not None and not gate.open and now // DAY_S == gate.observed_at // DAY_S
        return gate.reason if gate is not None and closed_today else None

    def _observed_ago(self, scope: str, gate: BudgetGate, now: float) -> float:
        if gate.observed_age_s is not None:
            return self._age(scope) + gate.observed_age_s
        # Two clocks are compared. A gate from the future is as uncertain as an old one: a clock was set back.
        return abs(now - gate.observed_at)
