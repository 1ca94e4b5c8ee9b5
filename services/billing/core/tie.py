"""Whether invoices tie: the active charges of each against what it says is payable, and which months that settles."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from services.billing.core.days import Window, moment, written
from services.billing.core.money import units, usd
from shared.messages.invoices import InvoiceStanding, InvoiceState

TOLERANCE = Decimal("0.01")
"""Rows have more digits than an invoice: what they differ by up to here is its rounding."""


@dataclass(frozen=True, kw_only=True)
class Billed:
    """Active charges of one invoice in one billing period, summed; `invoice_id` None: of no invoice yet."""

    source: str
    issuer: str
    invoice_id: str | None
    currency: str
    period: Window
    amount: Decimal


@dataclass(frozen=True, kw_only=True)
class Payable:
    """What an invoice says is to be paid, in its own currency, and which one it takes the place of."""

    source: str
    issuer: str
    invoice_id: str
    amount: Decimal
    voids: str | None = None


Invoice = tuple[str, str, str]
"""Source, issuer and the invoice's id."""


def in_force(notes: Iterable[Payable]) -> dict[Invoice, Payable]:
    """The newest note of each invoice; `notes` are oldest first."""
    return {(note.source, note.issuer, note.invoice_id): note for note in notes}


def voided(notes: Iterable[Payable]) -> frozenset[Invoice]:
    """The invoices whose charges no longer count."""
    return frozenset((n.source, n.issuer, n.voids) for n in in_force(notes).values() if n.voids is not None)


def goes_round(notes: Iterable[Payable]) -> bool:
    """Whether an invoice voids itself, directly or by way of others."""
    next_of = {
        key: (note.source, note.issuer, note.voids) for key, note in in_force(notes).items() if note.voids is not None
    }
    for start, first in next_of.items():
        at: Invoice | None = first
        for _ in next_of:
            if at == start:
                return True
            at = next_of.get(at) if at is not None else None
    return False


def standings(billed: Sequence[Billed], notes: Sequence[Payable]) -> tuple[InvoiceStanding, ...]:
    """Each invoice's, and the charges of no invoice by billing period; in order of period, issuer and id.

    An invoice without active charges but with a payable amount stands there only if `billed` tells its period, with
    an amount of 0.
    """
    payable, void = in_force(notes), voided(notes)
    sums: dict[tuple[str, ...], list[Billed]] = {}
    for part in billed:
        place = (f"{part.period.start}",) if part.invoice_id is None else ()
        sums.setdefault((part.source, part.issuer, part.invoice_id or "", part.currency, *place), []).append(part)
    found = [_standing(parts, payable, void) for parts in sums.values()]
    return tuple(sorted(found, key=lambda s: (s.period_start, s.issuer, s.invoice_id or "", s.currency, s.source)))


def settled(stands: Iterable[InvoiceStanding], period: Window) -> bool:
    """Whether every invoice whose billing period overlaps this one ties or is voided, and there is at least one.

    Charges without an invoice, and invoices without a payable amount, keep it unsettled.
    """
    states = {s.state for s in stands if period_of(s).overlap(period).length}
    return "ties" in states and states <= {"ties", "voided"}


def _standing(parts: Sequence[Billed], payable: Mapping[Invoice, Payable], void: frozenset[Invoice]) -> InvoiceStanding:
    one = parts[0]
    billed = usd(sum(units(part.amount) for part in parts))
    key = (one.source, one.issuer, one.invoice_id or "")
    note = None if one.invoice_id is None else payable.get(key)
    rounding = None if note is None else usd(units(note.amount) - units(billed))
    state: InvoiceState = "open"
    if one.invoice_id is not None and key in void:
        state = "voided"
    elif rounding is not None:
        state = "ties" if abs(rounding) <= TOLERANCE else "differs"
    return InvoiceStanding(
        source=one.source,
        issuer=one.issuer,
        invoice_id=one.invoice_id,
        currency=one.currency,
        period_start=written(min(part.period.start for part in parts)),
        period_end=written(max(part.period.end for part in parts)),
        billed=billed,
        payable=None if note is None else note.amount,
        rounding=rounding,
        state=state,
    )


def period_of(standing: InvoiceStanding) -> Window:
    return Window(moment(standing.period_start), moment(standing.period_end))
