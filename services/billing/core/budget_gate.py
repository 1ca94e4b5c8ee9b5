"""Whether new requests may cost money today: spend against the daily limit; unknown spend is no permission."""

from dataclasses import dataclass
from decimal import Decimal

import msgspec

from services.billing.core.utc_time import day_of
from shared.messages.budget import BudgetGate, GateOrder, GateTurned
from shared.units import to_millis


@dataclass(frozen=True, kw_only=True)
class GateRules:
    """How every gate is judged."""

    warning: Decimal
    """The share of the limit from which on it warns."""
    open_when_dark: bool


def evaluate_gate(
    spend: Decimal | None, limit: Decimal, now: float, *, rules: GateRules, before: BudgetGate | None
) -> BudgetGate:
    """`spend` in USD today, None where it cannot be known. The limit itself is not to be reached.

    What was ordered for today, it says in `before`, goes before everything else.
    """
    today = before if before is not None and _day(before.observed_at) == _day(now) else None
    known = spend if spend is not None else today.spend if today is not None else Decimal(0)
    reason = _reason(spend, limit, rules, today)
    gate = BudgetGate(
        open=not reason,
        reason=reason,
        spend=known,
        limit=limit,
        observed_at=now,
        observed_age_s=0.0,
        warning=known >= limit * rules.warning,
        observed=spend is not None,
    )
    return gate if before is None else _with_order_in_force(gate, before, now)


def apply_order(gate: BudgetGate, order: GateOrder, now: float) -> BudgetGate:
    """Return the gate with an order for the rest of the day; `auto` withdraws it."""
    if order.order == "auto":
        return msgspec.structs.replace(gate, ordered="auto", ordered_day="", ordered_by="", ordered_why="")
    return msgspec.structs.replace(
        gate, ordered=order.order, ordered_day=_day(now), ordered_by=order.by, ordered_why=order.reason
    )


def gate_change(scope: str, before: BudgetGate | None, after: BudgetGate, order: GateOrder | None) -> GateTurned | None:
    """Return the change to record; None where nothing is new. `order`: the order that led to this evaluation."""
    if before is not None and _reported_state(before) == _reported_state(after):
        return None
    return GateTurned(
        at=after.observed_at,
        scope=scope,
        open=after.open,
        reason=after.reason,
        spend=after.spend if after.observed else None,
        limit=after.limit,
        by=order.by if order is not None else after.ordered_by,
        warning=after.warning,
        why=order.reason if order is not None else after.ordered_why,
    )


def _reason(spend: Decimal | None, limit: Decimal, rules: GateRules, today: BudgetGate | None) -> str:
    if spend is not None:
        return "budget_closed" if spend >= limit else ""
    if not rules.open_when_dark:
        return "billing_unobservable"
    # What is spent stays spent, whether anybody sees it or not.
    return "budget_closed" if today is not None and today.spend >= limit else ""


def _with_order_in_force(gate: BudgetGate, before: BudgetGate, now: float) -> BudgetGate:
    """A clock that was set back over midnight finds an order of tomorrow, which waits."""
    if before.ordered_day < _day(now):
        return gate
    names = ("ordered", "ordered_day", "ordered_by", "ordered_why")
    gate = msgspec.structs.replace(gate, **{name: getattr(before, name) for name in names})
    if before.ordered == "auto" or before.ordered_day != _day(now):
        return gate
    is_open = before.ordered == "open"
    return msgspec.structs.replace(gate, open=is_open, reason="" if is_open else "closed_by_operator")


def _reported_state(gate: BudgetGate) -> tuple[object, ...]:
    return gate.open, gate.reason, gate.warning, gate.observed, gate.ordered, gate.ordered_day


def _day(seconds: float) -> str:
    return day_of(to_millis(seconds))
