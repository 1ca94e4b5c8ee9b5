"""The budget gates for those who are about to cost money: the gateway before a request, the waker before a wake."""

from collections.abc import Callable, Mapping

from shared.config.sections import Config
from shared.config.values import Money
from shared.messages.budget import BudgetGate
from shared.units import DAY_S

FLEET = "fleet"
"""The scope of the whole fleet's gate; a tier's is `tier.<name>`. A view of bucket `budget` has its keys so, too."""


def tier_scope(tier: str) -> str:
    return f"tier.{tier}"


def budget_limits(config: Config) -> dict[str, Money]:
    """Each gate's limit in USD per UTC day, by scope."""
    tiers = {tier_scope(tier.name): tier.daily_budget for tier in config.tier}
    named = {FLEET: config.billing.daily_budget, **tiers}
    return {scope: limit for scope, limit in named.items() if limit is not None}


class GateView:
    """Says why nothing new may cost money; an empty text: it may. `view` is of the bucket `budget`."""

    def __init__(self, config: Config, view: Mapping[str, BudgetGate], age: Callable[[str], float]) -> None:
        """`age`: how many seconds ago the entry of `view` under this scope was written."""
        self._view = view
        self._age = age
        self._patience = config.billing.observation_timeout
        self._open_when_dark = config.billing.when_dark == "open"
        self.limited = frozenset(budget_limits(config))
        """The scopes that have a gate."""
        self._tiers = {model.name: tuple(map(tier_scope, model.lineup)) for model in config.model}

    def fleet(self, now: float) -> str:
        return self._fault(FLEET, now)

    def tier(self, tier: str, now: float) -> str:
        """By its own gate or the fleet's."""
        return self._fault(FLEET, now) or self._fault(tier_scope(tier), now)

    def model(self, model: str, now: float) -> str:
        """By the fleet's gate, or by those of all tiers of its lineup: then the first one's reason."""
        if not self.limited:
            return ""
        fault = self._fault(FLEET, now)
        if fault:
            return fault
        for scope in self._tiers[model]:
            closed = self._fault(scope, now)
            if not closed:
                return ""
            fault = fault or closed
        return fault

    def _fault(self, scope: str, now: float) -> str:
        if scope not in self.limited:
            return ""
        gate = self._view.get(scope)
        if gate is not None and self._observed_ago(scope, gate, now) <= self._patience:
            return "" if gate.open else gate.reason
        if not self._open_when_dark:
            return "billing_unobservable"
        # What is spent stays spent until midnight, and what was ordered stands until then.
        closed_today = gate is not None and not gate.open and now // DAY_S == gate.observed_at // DAY_S
        return gate.reason if gate is not None and closed_today else ""

    def _observed_ago(self, scope: str, gate: BudgetGate, now: float) -> float:
        if gate.observed_age_s is not None:
            return self._age(scope) + gate.observed_age_s
        # By two clocks. One from the future is no better known than an old one: a clock was set back.
        return abs(now - gate.observed_at)
