"""Whether invoices tie: the active charges of each against what it says is payable, and which months that settles."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from services.billing.core.money import to_units, to_usd
from services.billing.core.utc_time import Window, day_of, format_time, parse_time_ms
from shared.errors import Rejected
from shared.messages.invoices import InvoiceStanding, InvoiceState

TOLERANCE = Decimal("0.01")
"""Rows have more digits than an invoice: what they differ by up to here is its rounding."""


@dataclass(frozen=True, kw_only=True)
class BilledAmount:
    """The charges of one invoice in one snapshot, summed; `invoice_id` None: those that name no invoice."""

    source: str
    issuer: str
    invoice_id: str | None
    currency: str
    period: Window
    amount: Decimal
    account: str = ""
    snapshot: int = 0
    active: bool = True
    """False: the snapshot no longer counts, and `amount` is 0."""


@dataclass(frozen=True, kw_only=True)
class Payable:
    """What is to be paid for an invoice, in its own currency, and which one it takes the place of.

    Or, with `invoice_id` None, for the charges of `account` in the billing period `period` that name no invoice.
    """

    source: str
    issuer: str
    invoice_id: str | None
    amount: Decimal
    voids: str | None = None
    account: str | None = None
    period: Window | None = None


InvoiceKey = tuple[str, str, str]
"""Source, issuer and the invoice's id."""
BillKey = tuple[str, str, str, str, int]
"""The same, then empty and 0; of charges that name no invoice an empty id, the account and the period's start."""


def bill_key(part: BilledAmount | Payable) -> BillKey:
    """Return what is compared as a whole."""
    if part.invoice_id is not None:
        return part.source, part.issuer, part.invoice_id, "", 0
    start = part.period.start if part.period is not None else 0
    return part.source, part.issuer, "", part.account or "", start


def latest_payables(notes: Iterable[Payable]) -> dict[BillKey, Payable]:
    """The newest note of each bill; `notes` are oldest first."""
    return {bill_key(note): note for note in notes}


def voided_invoices(notes: Iterable[Payable]) -> frozenset[InvoiceKey]:
    """The invoices whose charges no longer count."""
    return frozenset((n.source, n.issuer, n.voids) for n in latest_payables(notes).values() if n.voids is not None)


def has_void_cycle(notes: Iterable[Payable]) -> bool:
    """Whether an invoice voids itself, directly or by way of others."""
    next_of = {
        (note.source, note.issuer, note.invoice_id): (note.source, note.issuer, note.voids)
        for note in latest_payables(notes).values()
        if note.invoice_id is not None and note.voids is not None
    }
    for start, first in next_of.items():
        at: InvoiceKey | None = first
        for _ in next_of:
            if at == start:
                return True
            at = next_of.get(at) if at is not None else None
    return False


def bills_affecting_day(billed: Sequence[BilledAmount], day: Window, snapshots: Container[int]) -> list[BilledAmount]:
    """The bills, each as a whole, that a day waits for: of billing periods that have it, or in one of `snapshots`.

    `snapshots` are those that have charges of the day: a correction lies in the bill of a later period.
    """
    bills = {bill_key(part) for part in billed if part.period.overlap(day).length or part.snapshot in snapshots}
    return [part for part in billed if bill_key(part) in bills]


def reconcile(billed: Sequence[BilledAmount], notes: Sequence[Payable]) -> tuple[InvoiceStanding, ...]:
    """Return each invoice's standing, and by account and period that of charges without one; by period, issuer and id.

    An invoice without active charges stands there only if a note concerns it, with an amount of 0.
    """
    payable, void = latest_payables(notes), voided_invoices(notes)
    sums: dict[tuple[BillKey, str], list[BilledAmount]] = {}
    for part in billed:
        sums.setdefault((bill_key(part), part.currency), []).append(part)
    invoices = [
        _standing(parts, payable.get(bill), is_voided=bill[:3] in void)
        for (bill, _), parts in sums.items()
        if any(part.active for part in parts) or bill in payable or bill[:3] in void
    ]
    return tuple(sorted(invoices, key=_order))


def is_settled(stands: Iterable[InvoiceStanding]) -> bool:
    """Whether each of these bills ties or is voided, and there is at least one.

    A bill without a payable amount keeps it unsettled.
    """
    states = {standing.state for standing in stands}
    return "ties" in states and states <= {"ties", "voided"}


def find_unnumbered_bill(
    billed: Sequence[BilledAmount], *, source: str, month: str, issuer: str | None, account: str | None
) -> tuple[str, str, Window]:
    """Issuer, account and billing period of the source's charges in a month (`YYYY-MM`) that name no invoice.

    A billing period is in the month that has its middle: providers begin theirs at a midnight of their own.

    Raises:
        Rejected: there are none, or they are of several issuers, accounts or periods.
    """
    known = [
        part
        for part in billed
        if part.invoice_id is None
        and part.source == source
        and day_of((part.period.start + part.period.end) // 2)[:7] == month
        and issuer in (None, part.issuer)
        and account in (None, part.account)
    ]
    if not known:
        whose = "".join(f", {name} {value}" for name, value in (("issuer", issuer), ("account", account)) if value)
        raise Rejected(
            f"period: {source} has no charge without an invoice number in {month}{whose}: import its file first, "
            "correct the month, or name the invoice (`spotinference invoice check` lists them)"
        )
    issuers = _single("issuer", month, sorted({part.issuer for part in known}))
    accounts = _single("account", month, sorted({part.account for part in known}))
    periods = {f"{format_time(p.period.start)} to {format_time(p.period.end)}": p.period for p in known}
    return issuers, accounts, periods[_single("period", month, sorted(periods))]


def _single(name: str, month: str, values: Sequence[str]) -> str:
    if len(values) > 1:
        raise Rejected(f"{name}: {' and '.join(values)} have charges without an invoice number in {month}: say which")
    return values[0]


def _order(standing: InvoiceStanding) -> tuple[str, ...]:
    one = standing
    return one.period_start, one.issuer, one.invoice_id or "", one.account or "", one.currency, one.source


def _standing(parts: Sequence[BilledAmount], note: Payable | None, *, is_voided: bool) -> InvoiceStanding:
    one = parts[0]
    billed = to_usd(sum(to_units(part.amount) for part in parts))
    rounding = None if note is None else to_usd(to_units(note.amount) - to_units(billed))
    state: InvoiceState = "open"
    if is_voided:
        state = "voided"
    elif rounding is not None:
        state = "ties" if abs(rounding) <= TOLERANCE else "differs"
    return InvoiceStanding(
        source=one.source,
        issuer=one.issuer,
        invoice_id=one.invoice_id,
        currency=one.currency,
        period_start=format_time(min(part.period.start for part in parts)),
        period_end=format_time(max(part.period.end for part in parts)),
        billed=billed,
        payable=None if note is None else note.amount,
        rounding=rounding,
        state=state,
        account=one.account if one.invoice_id is None else None,
    )


def period_of(standing: InvoiceStanding) -> Window:
    return Window(parse_time_ms(standing.period_start), parse_time_ms(standing.period_end))
