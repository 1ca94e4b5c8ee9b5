"""A provider's charge in the terms of FOCUS, and the key of the snapshot that it came with."""

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class CostRow:
    """One charge, or the sum of several alike. Costs in `currency`; times in milliseconds, the end exclusive."""

    charge_start: int
    charge_end: int
    billed: Decimal
    category: str
    service_category: str | None = None
    effective: Decimal | None = None
    list_cost: Decimal | None = None
    charge_class: str | None = None
    resource_id: str | None = None
    tags: str | None = None
    """JSON text of one flat object."""
    invoice_id: str | None = None
    consumed_quantity: Decimal | None = None
    consumed_unit: str | None = None
    currency: str = "USD"
    per_usd: str = "1"
    """How much of `currency` is one USD."""
    parent_id: str | None = None
    """The resource that this one belongs to, as a disk belongs to its machine."""
    service_name: str | None = None
    rows: int = 1
    """How many delivered charges are summed in it."""
    arrived: int | None = None
    """When it was first delivered, in milliseconds, if its charge period was not over then; otherwise None."""


@dataclass(frozen=True, order=True)
class SnapshotKey:
    """The key of a snapshot: what one import replaces as a whole."""

    issuer: str
    account: str
    period_start: int
    period_end: int
