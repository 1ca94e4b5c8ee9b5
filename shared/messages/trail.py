"""Where a day's figures come from, for everybody: revisions, invoices and charges, without the name of a file."""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.billing import FigureState
from shared.messages.codec import Message
from shared.messages.explanation import LineKind
from shared.messages.values import UnixSeconds, check_amounts

ChangeCause = Literal[
    "first",
    "charges",
    "estimate",
    "running_bill",
    "journal",
    "usage",
    "invoices",
    "day_over",
    "settings",
    "calculation",
]
"""What was different in the inputs of a revision. `calculation`: nothing, so a newer version made it."""
TrailOwner = Literal["tier", "shared", "unattributed"]
TrailCategory = Literal["Usage", "Purchase", "Tax", "Credit", "Adjustment"]
"""FOCUS's ChargeCategory."""


class TrailQuery(Message, frozen=True, kw_only=True, tag="trail_query.v1"):
    """Request on `billing.trail`: one UTC day (`YYYY-MM-DD`)."""

    day: str


class TrailRevision(msgspec.Struct, frozen=True, kw_only=True):
    """A revision of the day, and which of its inputs differed from the one before."""

    revision: int
    at: UnixSeconds
    state: FigureState | None
    spend: Decimal | None
    tokens: int
    usd_per_mtok: Decimal | None
    causes: tuple[ChangeCause, ...]

    def __post_init__(self) -> None:
        check_amounts(self.spend, self.usd_per_mtok)


class TrailInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice file: who delivered it, the SHA-256 of its content, and its rows."""

    source: str
    sha256: str
    rows: int


class TrailCost(msgspec.Struct, frozen=True, kw_only=True):
    """Charges that are alike, or cost without a charge, and where they went."""

    owner: TrailOwner
    tier: str | None
    what: LineKind
    source: str | None
    category: TrailCategory | None
    charges: int
    amount: Decimal

    def __post_init__(self) -> None:
        check_amounts(self.amount)


class Trail(Message, frozen=True, kw_only=True, tag="trail.v1"):
    """Answer on `billing.trail`. The costs of a tier sum to its spend, the others to their cause."""

    day: str
    revision: int
    revisions: tuple[TrailRevision, ...]
    """The newest first."""
    more_revisions: bool
    """Whether there are older ones than these."""
    invoices: tuple[TrailInvoice, ...]
    costs: tuple[TrailCost, ...]
