"""The budget gate: whether new requests may cost money today, and an operator's orders about it."""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.codec import Message
from shared.messages.values import Seconds, UnixSeconds, check_amounts
from shared.messages.waker import JournalEntry

GateOrdered = Literal["open", "close", "auto"]


class BudgetGate(Message, frozen=True, kw_only=True, tag="budget.v1"):
    """Bucket `budget`, keys `fleet` and `tier.<tier>`: whether new requests may cost money. Stale means closed."""

    open: bool
    reason: str
    """Empty while it is open: `budget_closed`, `billing_unobservable`, `closed_by_operator`."""
    spend: Decimal
    limit: Decimal
    observed_at: UnixSeconds
    """By billing's clock."""
    observed_age_s: Seconds | None = None
    """How old the observation was when this was written."""
    warning: bool = False
    """Whether the spend is over the warning threshold."""
    observed: bool = True
    """False: today's spend is unknown, and `spend` is its last known value."""
    ordered: GateOrdered = "auto"
    """The order for `ordered_day`. It overrides the spend on that day only."""
    ordered_day: str = ""
    ordered_by: str = ""
    ordered_why: str = ""

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.limit)


class GateOrder(Message, frozen=True, kw_only=True, tag="gate_order.v1"):
    """Request on `billing.gate`: open or close a gate until midnight UTC, or let the spend decide again.

    The reply is `Gates`, once the order is stored.
    """

    scope: str
    """`fleet` or `tier.<tier>`."""
    order: GateOrdered
    by: str
    reason: str


class GatesQuery(Message, frozen=True, kw_only=True, tag="gates_query.v1"):
    """Request on `billing.gate`: read the gates without changing them."""


class Gates(Message, frozen=True, kw_only=True, tag="gates.v1"):
    """Answer on `billing.gate`: by scope."""

    gates: dict[str, BudgetGate] = msgspec.field(default_factory=dict)


class GateTurned(Message, frozen=True, kw_only=True, tag="gate_turned.v1"):
    """`fleet.journal.budget.<scope>`: a gate opened, closed, began or ceased to warn, or was ordered to."""

    at: UnixSeconds
    scope: str
    open: bool
    reason: str
    spend: Decimal | None
    """None if it was unknown."""
    limit: Decimal
    by: str = ""
    """Who ordered it; empty if the spend decided."""
    warning: bool = False
    why: str = ""
    """The reason that the operator gave."""

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.limit)


Journalled = JournalEntry | GateTurned
"""Every message in the journal."""
