"""Whether new requests may cost money today: spend against the daily limit; unknown spend is no permission."""

from decimal import Decimal

from shared.messages.budget import BudgetGate


def budget_gate(spend: Decimal | None, limit: Decimal, now: float) -> BudgetGate:
    """`spend` in USD today, None where it cannot be known. The limit itself is not to be reached."""
    if spend is None:
        is_open, reason = False, "billing_unobservable"
    elif spend >= limit:
        is_open, reason = False, "budget_closed"
    else:
        is_open, reason = True, ""
    return BudgetGate(
        open=is_open, reason=reason, spend=Decimal(0) if spend is None else spend, limit=limit, observed_at=now
    )
