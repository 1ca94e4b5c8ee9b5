"""Payable amounts of invoices, and which charges count because of them. The leading replica is the only writer."""

from collections.abc import Container, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import ColumnElement, and_, exists, func, insert, not_, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.billing.adapters.tables import cost_rows, payables, snapshot_invoices, snapshots
from services.billing.core.reconciliation import (
    BilledAmount,
    Payable,
    bills_affecting_day,
    find_unnumbered_bill,
    has_void_cycle,
    reconcile,
)
from services.billing.core.utc_time import Window
from shared.database import read_transaction
from shared.errors import Rejected
from shared.messages.invoices import InvoiceStanding, PayableNote


class SqlPayableStore:
    """The payable amounts in the database. Raises what `DATABASE_ERRORS` lists while it is down."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def invoices(self) -> tuple[list[BilledAmount], list[Payable]]:
        """Return every invoice's active charges and the recorded amounts, the oldest first, read at one moment."""
        async with read_transaction(self._engine) as connection:
            return await _invoices(connection), await _notes(connection)

    async def record(self, note: PayableNote, now: float) -> None:
        """Keep what is payable; `Rejected` where the books know no such invoice, or more than one."""
        async with self._engine.begin() as connection:
            known = [part for part in await _invoices(connection) if part.source == note.source]
            new = _of_invoice(note, known) if note.period is None else _of_period(note, note.period, known)
            if has_void_cycle([*await _notes(connection), new]):
                raise Rejected(f"voids: {note.voids!r} and {note.invoice_id!r} would void each other: name one of them")
            values = {
                "source": new.source,
                "issuer": new.issuer,
                "invoice_id": new.invoice_id or "",
                "amount": new.amount,
                "voids": new.voids,
                "account": new.account,
                "period_start": None if new.period is None else new.period.start,
                "period_end": None if new.period is None else new.period.end,
            }
            await connection.execute(insert(payables).values(**values, noted_at=now))


async def standings_of(connection: AsyncConnection, day: Window, used: Container[int]) -> tuple[InvoiceStanding, ...]:
    """Return the standing of every bill that a day waits for; the day's charges are in the snapshots `used`."""
    return (await bills_in(connection)).concerning(day, used)


@dataclass(frozen=True)
class Bills:
    """Every invoice's charges and all recorded amounts, read at one moment."""

    billed: Sequence[BilledAmount]
    notes: Sequence[Payable]

    def concerning(self, day: Window, used: Container[int]) -> tuple[InvoiceStanding, ...]:
        """Return what `standings_of` does."""
        return reconcile(bills_affecting_day(self.billed, day, used), self.notes)


async def bills_in(connection: AsyncConnection) -> Bills:
    return Bills(await _invoices(connection), await _notes(connection))


def counts() -> ColumnElement[bool]:
    """Return SQL for the charges that count: those of active snapshots, without invoices that another one voids."""
    newer = payables.alias()
    same = [newer.c[name] == payables.c[name] for name in ("source", "issuer", "invoice_id")]
    newest = select(func.max(newer.c.id)).where(*same).scalar_subquery()
    voided = exists().where(
        payables.c.voids == cost_rows.c.invoice_id,
        payables.c.source == snapshots.c.source,
        payables.c.issuer == snapshots.c.issuer,
        payables.c.id == newest,
    )
    return and_(snapshots.c.active, not_(voided))


async def _invoices(connection: AsyncConnection) -> list[BilledAmount]:
    """Return the invoices by snapshot. In a snapshot that no longer counts their amount is 0."""
    query = select(snapshots, snapshot_invoices.c.invoice_id, snapshot_invoices.c.billed).join(
        snapshot_invoices, snapshot_invoices.c.snapshot_id == snapshots.c.id
    )
    return [
        BilledAmount(
            source=part.source,
            issuer=part.issuer,
            invoice_id=part.invoice_id or None,
            currency=part.currency,
            period=Window(part.period_start, part.period_end),
            amount=part.billed if part.active else Decimal(0),
            account=part.account,
            snapshot=part.id,
            active=part.active,
        )
        for part in await connection.execute(query.order_by(snapshots.c.id))
        if part.active or part.invoice_id
    ]


async def _notes(connection: AsyncConnection) -> list[Payable]:
    return [
        Payable(
            source=note.source,
            issuer=note.issuer,
            invoice_id=note.invoice_id or None,
            amount=note.amount,
            voids=note.voids,
            account=note.account,
            period=None if note.period_start is None else Window(note.period_start, note.period_end),
        )
        for note in await connection.execute(select(payables).order_by(payables.c.id))
    ]


def _of_invoice(note: PayableNote, known: Sequence[BilledAmount]) -> Payable:
    issuer = _issuer(note, known)
    if note.voids is not None and not any(p.issuer == issuer and p.invoice_id == note.voids for p in known):
        raise Rejected(f"voids: {issuer} has no invoice {note.voids!r} from {note.source}: correct the number")
    return Payable(source=note.source, issuer=issuer, invoice_id=note.invoice_id, amount=note.amount, voids=note.voids)


def _of_period(note: PayableNote, month: str, known: Sequence[BilledAmount]) -> Payable:
    issuer, account, period = find_unnumbered_bill(
        known, source=note.source, month=month, issuer=note.issuer, account=note.account
    )
    return Payable(
        source=note.source, issuer=issuer, invoice_id=None, amount=note.amount, account=account, period=period
    )


def _issuer(note: PayableNote, known: Sequence[BilledAmount]) -> str:
    """The invoice's issuer, as told or the only one."""
    issuers = sorted({part.issuer for part in known if part.invoice_id == note.invoice_id})
    if note.issuer is not None:
        issuers = [issuer for issuer in issuers if issuer == note.issuer]
    if not issuers:
        whose = "" if note.issuer is None else f" of {note.issuer}"
        raise Rejected(
            f"invoice_id: no charge from {note.source} names invoice {note.invoice_id!r}{whose}: import its file "
            "first, or correct the number"
        )
    if len(issuers) > 1:
        raise Rejected(f"issuer: {' and '.join(issuers)} both have an invoice {note.invoice_id!r}: name the issuer")
    return issuers[0]
