"""Imports and invoices as lines and tables."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from rich.table import Table

from shared.messages.invoices import ImportAnswer, Imported, InvoiceStanding, SourceState


def imported_lines(answer: ImportAnswer) -> Iterator[str]:
    """Describe what an import added."""
    for snapshot in answer.snapshots:
        replaced = "  (replaces the previous one)" if snapshot.replaced else ""
        yield (
            f"{snapshot.period_start[:10]} to {snapshot.period_end[:10]}  {snapshot.issuer}  "
            f"account {snapshot.account}  {snapshot.rows} rows  {snapshot.billed} {snapshot.currency}"
            f"{_rounded(snapshot.residue)}{replaced}"
        )
    if answer.snapshots:
        yield f"sha256 {answer.sha256}"


def warning_lines(answer: ImportAnswer) -> Iterator[str]:
    """Describe what looks wrong in an import that counts nevertheless."""
    for one in answer.snapshots:
        for warning in one.warnings:
            yield f"warning: {one.issuer}, account {one.account}, {one.period_start[:7]}: {warning}"


def rejection_lines(answer: ImportAnswer) -> Iterator[str]:
    """Say why an import was rejected."""
    for refusal in answer.refusals:
        place = f"{refusal.file}:{refusal.line}" if refusal.line else refusal.file
        column = f" {refusal.column}:" if refusal.column else ""
        yield f"{place}:{column} {refusal.reason}"


def imported_table(imported: Sequence[Imported]) -> Table:
    table = Table(
        "source",
        "issuer",
        "account",
        "period",
        "rows",
        "billed",
        "currency",
        "counts",
        "files",
        box=None,
        pad_edge=False,
    )
    for column in (4, 5):
        table.columns[column].justify = "right"
    for one in imported:
        files = ", ".join(f"{file.name} {file.sha256[:12]}" for file in one.files)
        period = f"{one.period_start[:10]} to {one.period_end[:10]}"
        reread = f", read again: {one.reread}" if one.reread else ""
        counts = f"{'yes' if one.active else 'no: replaced'}{reread}{_rounded(one.residue)}"
        not_reread = [f"NOT READ AGAIN: {one.not_reread}"] if one.not_reread else []
        counts = "\n".join((counts, *not_reread, *(f"WARNING: {text}" for text in one.warnings)))
        cells = (one.source, one.issuer, one.account, period, f"{one.rows:,}", f"{one.billed:,f}", one.currency)
        table.add_row(*cells, counts, files)
    return table


def _rounded(residue: Decimal | None) -> str:
    """Say how much the delivered amount exceeds the rounded one."""
    return "" if residue is None else f", rounded (residue {residue:f})"


def sources_table(sources: Sequence[SourceState]) -> Table:
    """List the configured sources: when billing last checked each, when all was well, and what it could not import."""
    table = Table(
        "source", "fetched from", "last check", "last success", "deliveries", "problem", box=None, pad_edge=False
    )
    for one in sources:
        reasons = "; ".join(one.reasons)
        since = "" if one.refused_at is None else f"REJECTED since {_moment(one.refused_at)}: {reasons}"
        cells = (_moment(one.looked_at), _moment(one.good_at), str(one.deliveries))
        table.add_row(one.name, one.url, *cells, since if one.reasons else "")
    return table


def _moment(at: float | None) -> str:
    return "not yet" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}Z"


def bill_name(one: InvoiceStanding) -> str:
    """Name an invoice, or charges that have none."""
    return (
        f"invoice {one.invoice_id}" if one.invoice_id else f"charges without an invoice number, account {one.account}"
    )


def standings_table(standings: Sequence[InvoiceStanding]) -> Table:
    table = Table(
        "period", "issuer", "invoice", "charges", "to pay", "rounding", "currency", "state", box=None, pad_edge=False
    )
    for column in (3, 4, 5):
        table.columns[column].justify = "right"
    for one in standings:
        amounts = [f"{one.billed:,f}", *("" if a is None else f"{a:,f}" for a in (one.payable, one.rounding))]
        period = f"{one.period_start[:10]} to {one.period_end[:10]}"
        table.add_row(
            period,
            one.issuer,
            one.invoice_id or f"none, account {one.account}",
            *amounts,
            one.currency,
            _WORDS[one.state],
        )
    return table


_WORDS = {
    "open": "open: no amount to pay recorded",
    "ties": "ties",
    "differs": "DIFFERS",
    "voided": "voided: no longer counts",
}
