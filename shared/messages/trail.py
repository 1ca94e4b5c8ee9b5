"""Where a day's figures come from, for everybody: revisions, invoices and charges, without the name of a file.

Nothing here names a key, an account, a machine, an endpoint or an invoice either.
"""

from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from shared.messages.billing import Cause, FigureState
from shared.messages.codec import Message
from shared.messages.explanation import LineKind
from shared.messages.invoices import InvoiceState
from shared.messages.values import Count, UnixSeconds, check_amounts

MOST_CHARGES = 500
"""In one answer."""
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
TrailService = Literal[
    "AI and Machine Learning",
    "Analytics",
    "Business Applications",
    "Compute",
    "Databases",
    "Developer Tools",
    "Identity",
    "Integration",
    "Internet of Things",
    "Management and Governance",
    "Media",
    "Migration",
    "Mobile",
    "Multicloud",
    "Networking",
    "Other",
    "Security",
    "Storage",
    "Web",
]
"""FOCUS's ServiceCategory. A file's own word is none of them, and not public."""


class TrailQuery(Message, frozen=True, kw_only=True, tag="trail_query.v1"):
    """Request on `billing.trail`: one UTC day (`YYYY-MM-DD`)."""

    day: str
    charges_from: Count = 0
    """How many charges to leave out at the beginning."""
    most_charges: Annotated[int, Meta(ge=0, le=MOST_CHARGES)] = 0
    """How many of them are wanted."""


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


class TrailPart(msgspec.Struct, frozen=True, kw_only=True):
    """USD that went to a tier for one cause; `tier` None: to no tier by itself."""

    tier: str | None
    cause: Cause
    amount: Decimal

    def __post_init__(self) -> None:
        check_amounts(self.amount)


class TrailCharge(msgspec.Struct, frozen=True, kw_only=True):
    """A charge as delivered, and where its cost went."""

    start: str
    end: str
    """Its charge period, RFC 3339, `end` exclusive."""
    category: TrailCategory | None
    service: TrailService | None
    source: str
    delivery: str
    """The SHA-256 of the file that it came in; of several delivered together, that of their hashes."""
    rows: int
    """Delivered rows that are summed in it because they differ in nothing else."""
    billed: Decimal
    """In `currency`."""
    currency: str
    per_usd: str
    """How much of `currency` is one USD."""
    amount: Decimal
    """USD of it that fall on the day, by its time."""
    parts: tuple[TrailPart, ...]
    """They sum to `amount`. Empty for tax, which is no part of the spend."""

    def __post_init__(self) -> None:
        check_amounts(self.billed, self.amount)


class TrailBill(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice that the day waits for: its charges against what is payable, in its currency.

    `open`: nobody has recorded yet what is payable. Charges that name no invoice are one bill of their period.
    """

    source: str
    period_start: str
    period_end: str
    currency: str
    billed: Decimal
    payable: Decimal | None
    state: InvoiceState

    def __post_init__(self) -> None:
        check_amounts(self.billed, self.payable)


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
    more_invoices: Count = 0
    """How many files there are besides `invoices`."""
    bills: tuple[TrailBill, ...] = ()
    more_bills: Count = 0
    sources_left_out: tuple[str, ...] = ()
    """Sources that have files which could not be imported as billing last saw them; their charges are missing."""
    charges: tuple[TrailCharge, ...] = ()
    """Those of the largest amounts first, from `charges_from` of the query on. With `estimates`, all of them sum to the
    spend, cause by cause."""
    all_charges: Count = 0
    """How many there are. Each is one or more delivered rows."""
    estimates: tuple[TrailPart, ...] = ()
    """What no charge covers yet."""
