"""Invoices on the bus: files to import, what was imported or rejected, and whether invoices tie to what is payable."""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.codec import Message
from shared.messages.values import check_amounts


class DeliveredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a delivery as it lies in the bus's object store `invoices`, named there by its SHA-256."""

    name: str
    sha256: str


class ImportRequest(Message, frozen=True, kw_only=True, tag="import_request.v2"):
    """Request on `billing.import`: read these files as one delivery of `source`, all or nothing."""

    source: str
    files: tuple[DeliveredFile, ...]
    wanted: tuple[str, ...] = ()
    """Names of files that the delivery's manifests list: each must be among `files`."""
    sizes: dict[str, int] = msgspec.field(default_factory=dict)
    """Bytes of each file that the manifest lists, by name. A file of another size is rejected."""
    parts: bool = False
    """The files are parts of one snapshot, as in a manifest: equal charges in two of them are no mistake."""
    beside: tuple[str, ...] = ()
    """SHA-256 of files of other deliveries from the same place: this delivery must not replace their charges."""
    id: str = ""
    """Identifies the import in `ImportStatus`."""
    round: bool = False
    """Billed costs with more than twelve decimals are rounded half to even, not rejected."""


class RowError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file was not imported. `line` counts from 1, the header included; 0 means the whole file."""

    file: str
    line: int
    column: str
    reason: str


class SnapshotSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One imported snapshot: all rows of one issuer, account and billing period in one delivery."""

    issuer: str
    account: str
    period_start: str
    period_end: str
    rows: int
    billed: Decimal
    """In `currency`."""
    currency: str
    replaced: bool
    residue: Decimal | None = None
    """What rounding took away: the sum as delivered less `billed`. None where no cost was rounded."""
    warnings: tuple[str, ...] = ()
    """What looks wrong but counts anyway; an operator should check it."""


class ImportAnswer(Message, frozen=True, kw_only=True, tag="import_answer.v1"):
    """Answer on `billing.import`. With any refusal nothing was imported."""

    sha256: str
    """The hash of the delivery: that of its one file, or that of the hashes of several."""
    snapshots: tuple[SnapshotSummary, ...] = ()
    refusals: tuple[RowError, ...] = ()


class ImportStatusQuery(Message, frozen=True, kw_only=True, tag="import_status_query.v1"):
    """Request on `billing.import_status`: which import is under way."""


ImportStep = Literal["fetching", "reading", "summing", "writing"]


class RunningImport(msgspec.Struct, frozen=True, kw_only=True):
    """The import in progress; all others wait for it."""

    id: str
    """The id of the request; empty where billing fetched the delivery, or reads it again."""
    source: str
    step: ImportStep
    rows: int
    """Read or written so far in this step."""
    share: float | None
    """How much of this step is done, from 0 to 1; None: not known."""
    seconds: float
    """Since the import began."""


class ImportStatus(Message, frozen=True, kw_only=True, tag="import_status.v1"):
    """Answer on `billing.import_status`, at once."""

    instance: str
    """The process that replies. It knows only the imports that were requested from it."""
    running: RunningImport | None = None


class InvoicesQuery(Message, frozen=True, kw_only=True, tag="invoices_query.v1"):
    """Request on `billing.invoices`: what was imported, and how each invoice stands."""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot in the books; only active ones count."""

    source: str
    issuer: str
    account: str
    period_start: str
    period_end: str
    rows: int
    billed: Decimal
    currency: str
    active: bool
    imported_at: float
    files: tuple[DeliveredFile, ...]
    residue: Decimal | None = None
    """What rounding took away: the sum as delivered less `billed`. None where no cost was rounded."""
    reread: str = ""
    """Why its files were read again; empty where they were not."""
    warnings: tuple[str, ...] = ()
    """What looked wrong when it was imported."""
    not_reread: str = ""
    """Why its files, which have to be read again, could not be: it counts as it was read before."""


InvoiceState = Literal["open", "ties", "differs", "voided"]


class InvoiceStanding(msgspec.Struct, frozen=True, kw_only=True):
    """The active charges of one invoice against what it says is payable.

    `open`: no payable amount is noted. `ties`: within 0.01; the rest is `rounding`. Charges that name no invoice stand
    under `invoice_id` None, by account and billing period.
    """

    source: str
    issuer: str
    invoice_id: str | None
    currency: str
    period_start: str
    period_end: str
    billed: Decimal
    payable: Decimal | None
    rounding: Decimal | None
    """`payable` less `billed`."""
    state: InvoiceState
    account: str | None = None
    """The account of the charges, if they name no invoice."""


class SourceState(msgspec.Struct, frozen=True, kw_only=True):
    """A configured source that billing fetches by itself. Times are Unix seconds, known to this process only."""

    name: str
    url: str
    looked_at: float | None
    """When the source was last checked."""
    good_at: float | None
    """The last check after which everything there was imported."""
    refused_at: float | None
    """When a new reason appeared."""
    reasons: tuple[str, ...]
    """What is not imported now, and why; the first few."""
    deliveries: int
    """How many are imported and still there."""


class Invoices(Message, frozen=True, kw_only=True, tag="invoices.v1"):
    """Answer on `billing.invoices`."""

    imported: tuple[Imported, ...]
    standings: tuple[InvoiceStanding, ...]
    sources: tuple[SourceState, ...] = ()
    left_out: int = 0
    """Replaced snapshots, the oldest, for which `imported` had no room."""


class PayableNote(Message, frozen=True, kw_only=True, tag="payable_note.v1"):
    """Request on `billing.payable`: what is to be paid, in the charges' own currency; the reply is `Invoices`."""

    source: str
    invoice_id: str
    amount: Decimal
    issuer: str | None = None
    """None: the only issuer that has this invoice."""
    voids: str | None = None
    """The invoice that this one takes the place of: its charges no longer count."""
    period: str | None = None
    """With an empty `invoice_id`: a month, `YYYY-MM`, of which the charges that name no invoice are meant."""
    account: str | None = None
    """With `period`. None: the only account that has such charges."""

    def __post_init__(self) -> None:
        check_amounts(self.amount)
