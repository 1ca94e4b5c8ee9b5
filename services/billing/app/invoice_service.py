"""Answers `billing.invoices` and `billing.payable`: lists imports and invoices, and records payable amounts."""

import re
from collections.abc import Callable, Iterable, Mapping

import structlog
from msgspec.structs import replace

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.core.money import to_units
from services.billing.core.reconciliation import reconcile
from services.billing.ports import InvoiceStore, PayableStore
from shared.bus.reply import MAX_REPLY_BYTES, reply
from shared.errors import Rejected
from shared.messages.codec import encode
from shared.messages.invoices import Invoices, InvoicesQuery, PayableNote, SourceState

log = structlog.get_logger()

TOO_MANY_INVOICES = "import fewer invoices from each source"
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)


class InvoiceService:
    """Lists what was imported, and records what is payable."""

    def __init__(
        self,
        store: InvoiceStore,
        payables: PayableStore,
        sources: Callable[[], Iterable[SourceState]],
        not_reread: Callable[[], Mapping[int, str]],
        *,
        now: Callable[[], float],
    ) -> None:
        """`not_reread`: why deliveries could not be read again, by their number."""
        self._not_reread = not_reread
        self._store = store
        self._sources = sources
        self._payables = payables
        self._now = now

    async def list(self, data: bytes) -> bytes:
        """Answer an `InvoicesQuery`."""
        return await reply(data, InvoicesQuery, self._invoices, DATABASE_DOWN, if_too_large=TOO_MANY_INVOICES)

    async def record_payable(self, data: bytes) -> bytes:
        """Answer a `PayableNote`."""
        return await reply(data, PayableNote, self._record, DATABASE_DOWN, if_too_large=TOO_MANY_INVOICES)

    async def _record(self, note: PayableNote) -> Invoices:
        _check(note)
        await self._payables.record(note, self._now())
        log.info("payable_recorded", source=note.source, invoice=note.invoice_id, voids=note.voids, period=note.period)
        return await self._invoices()

    async def _invoices(self, _query: InvoicesQuery | None = None) -> Invoices:
        billed, notes = await self._payables.invoices()
        whole = Invoices(
            imported=await self._store.list_snapshots(self._not_reread()),
            standings=reconcile(billed, notes),
            sources=tuple(self._sources()),
        )
        return fit_to_message(whole)


def fit_to_message(whole: Invoices) -> Invoices:
    """Leave out the oldest snapshots that no longer count until the listing fits into a message."""
    room = MAX_REPLY_BYTES - len(encode(replace(whole, imported=())))
    kept: list[int] = []
    for place, one in sorted(enumerate(whole.imported), key=lambda placed: not placed[1].active):
        room -= len(encode(one)) + 1
        if room < 0:
            break
        kept.append(place)
    imported = tuple(whole.imported[place] for place in sorted(kept))
    return replace(whole, imported=imported, left_out=len(whole.imported) - len(kept))


def _check(note: PayableNote) -> None:
    """`Rejected` names the field."""
    if not note.source.strip():
        raise Rejected("source: must not be empty")
    if note.period is None and not note.invoice_id.strip():
        raise Rejected("invoice_id: must not be empty")
    if note.period is None and note.account is not None:
        raise Rejected("account: an invoice is known by its number alone: leave the account out")
    if note.period is not None and (note.invoice_id or note.voids is not None):
        raise Rejected("period: is for charges that name no invoice: leave the invoice's number out")
    if note.period is not None and not _MONTH.fullmatch(note.period):
        raise Rejected(f'period: expected a month such as "2026-09", got {note.period[:100]!r}')
    try:
        to_units(note.amount)
    except ValueError as error:
        raise Rejected(f"amount: {error}") from error
    if abs(note.amount) >= 10**15:
        raise Rejected(f"amount: {note.amount} has more than 15 digits before the decimal point: correct it")
