"""What billing publishes and answers: imports, the daily report, the budget gate."""

from decimal import Decimal
from typing import Literal

import msgspec

from shared.messages.codec import Message

FigureState = Literal["estimated", "provisional", "final", "restated"]
Cause = Literal["serving", "warm_idle", "waking", "failed_wake", "asleep", "shared", "unattributed", "unexplained"]
CAUSES: tuple[Cause, ...] = (
    "serving",
    "warm_idle",
    "waking",
    "failed_wake",
    "asleep",
    "shared",
    "unattributed",
    "unexplained",
)


class BudgetGate(Message, frozen=True, kw_only=True, tag="budget.v1"):
    """Bucket `budget`, key `fleet`: whether new requests may cost money. Stale means closed."""

    open: bool
    reason: str
    spend: Decimal
    limit: Decimal
    observed_at: float


class ImportRequest(Message, frozen=True, kw_only=True, tag="import_request.v1"):
    """Request on `billing.import`: read an invoice file that lies in the bus's object store `invoices`."""

    object_name: str
    file_name: str
    source: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a file was not imported. `line` counts from 1, the header included; 0 means the whole file."""

    file: str
    line: int
    column: str
    reason: str


class SnapshotSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One imported snapshot: all rows of one issuer, account and billing period in one file."""

    issuer: str
    account: str
    period_start: str
    period_end: str
    rows: int
    billed: Decimal
    currency: str
    replaced: bool


class ImportAnswer(Message, frozen=True, kw_only=True, tag="import_answer.v1"):
    """Answer on `billing.import`. With any refusal nothing was imported."""

    sha256: str
    snapshots: tuple[SnapshotSummary, ...] = ()
    refusals: tuple[Refusal, ...] = ()


class ReportQuery(Message, frozen=True, kw_only=True, tag="report_query.v1"):
    """Request on `billing.report`: the figures of one UTC day (`YYYY-MM-DD`)."""

    day: str


class TierFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One tier's day: its own cost and its part of the shared cost. `usd_per_mtok` is None without tokens."""

    tier: str
    spend: Decimal
    tokens: int
    usd_per_mtok: Decimal | None


class DirectionFigure(msgspec.Struct, frozen=True, kw_only=True):
    """One direction's tokens and its part of the spend per million of them."""

    tokens: int
    usd_per_mtok: Decimal | None


class Directions(msgspec.Struct, frozen=True, kw_only=True):
    """By the published weights, which allocate all of the spend; `input` is uncached."""

    input: DirectionFigure
    cached: DirectionFigure
    output: DirectionFigure


class DayReport(Message, frozen=True, kw_only=True, tag="day_report.v1"):
    """Answer on `billing.report`. `spend`, `state`, `usd_per_mtok` are None, with `reason`, where unknown: never 0."""

    day: str
    state: FigureState | None
    revision: int
    currency: str
    spend: Decimal | None
    tokens: int
    usd_per_mtok: Decimal | None
    reason: str | None
    causes: dict[str, Decimal]
    """Every cause of `CAUSES`; they sum to `spend`. Empty while there is no spend."""
    tiers: tuple[TierFigure, ...]
    """With `causes['unattributed']` they sum to `spend`."""
    directions: Directions
    tax: Decimal
    spend_before_credits: Decimal | None
    sources: tuple[str, ...] = ()
    """What the figure was made from: each file's name, source and SHA-256."""
