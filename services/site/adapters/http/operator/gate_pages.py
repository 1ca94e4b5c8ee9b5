"""The budget gates, and an operator's override until midnight UTC."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from services.site.adapters.http.account.gate import AccountRoute, Gate, Visit
from services.site.adapters.http.operator.asking import Asker, Question
from services.site.adapters.http.operator.paths import listed_page, name_in
from services.site.app.orders import order_gate
from shared.budget_gates import budget_limits
from shared.bus.ports import Bus
from shared.bus.subjects import budget_key
from shared.bus.view import View
from shared.config.sections import Config
from shared.messages.budget import BudgetGate, GateOrdered

ORDERS: Mapping[str, tuple[GateOrdered, str, str]] = {
    "open": ("open", "Open", "It stays open until midnight UTC, whatever has been spent."),
    "close": ("close", "Close", "It stays closed until midnight UTC: new requests that cost money are rejected."),
    "auto": ("auto", "Follow the spend at", "An override ends: the gate follows the day's spend again."),
}


@dataclass(frozen=True, kw_only=True)
class ShownGate:
    """One gate as its page shows it."""

    scope: str
    path: str
    gate: BudgetGate | None
    """None: billing has not written it."""
    is_stale: bool
    """Its spend has not been observed lately, so new spending is closed."""


class GatePages:
    """Handlers of `/operator/gates`."""

    def __init__(self, gate: Gate, bus: Bus, config: Config, view: View[BudgetGate]) -> None:
        self._gate = gate
        self._bus = bus
        self._view = view
        self._scopes = frozenset(budget_limits(config))
        self._patience_s = float(config.billing.observation_timeout)
        self._when_dark = config.billing.when_dark

    def table(self) -> list[AccountRoute]:
        return [
            listed_page("/operator/gates", self._list, "Gates"),
            *Asker(self._gate).routes("/operator/gates/{scope}/{order}", self._ask),
        ]

    async def _list(self, visit: Visit) -> web.Response:
        gates = [self._shown(scope) for scope in sorted(self._scopes)]
        return self._gate.page(visit, "operator_gates.html", gates=gates, when_dark=self._when_dark)

    def _shown(self, scope: str) -> ShownGate:
        gate = self._view.get(scope)
        age_s = self._view.age(scope) + (gate.observed_age_s or 0.0 if gate is not None else 0.0)
        return ShownGate(
            scope=scope, path=f"/operator/gates/{budget_key(scope)}", gate=gate, is_stale=age_s > self._patience_s
        )

    async def _ask(self, visit: Visit) -> Question:
        scope, known = name_in(visit.request, "scope"), visit.request.match_info["order"]
        if scope not in self._scopes or known not in ORDERS:
            raise web.HTTPNotFound
        order, verb, words = ORDERS[known]

        async def do(reason: str) -> None:
            await order_gate(self._bus, visit.person, order, scope, reason)

        return Question(
            title=f"{verb} the gate of {scope}?",
            words=words,
            button=f"{verb} it",
            back="/operator/gates",
            action=f"gate_{order}_ordered",
            target=scope,
            do=do,
        )
