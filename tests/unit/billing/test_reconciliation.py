"""An invoice ties to the cent or keeps its month open; what is voided no longer counts."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from services.billing.core.reconciliation import (
    BilledAmount,
    Payable,
    bills_affecting_day,
    find_unnumbered_bill,
    has_void_cycle,
    is_settled,
    reconcile,
    voided_invoices,
)
from services.billing.core.utc_time import Window, parse_time_ms
from shared.errors import Rejected

MAY = Window(parse_time_ms("2026-05-01T00:00:00Z"), parse_time_ms("2026-06-01T00:00:00Z"))
JUNE = Window(MAY.end, parse_time_ms("2026-07-01T00:00:00Z"))
PACIFIC = 7 * 3_600_000
"""Google's months begin at midnight in California."""


def billed(
    amount: str, invoice: str | None = "I-1", period: Window = MAY, currency: str = "USD", **more: Any
) -> BilledAmount:
    return BilledAmount(
        source="aws",
        issuer="AWS Inc.",
        invoice_id=invoice,
        currency=currency,
        period=period,
        amount=Decimal(amount),
        **more,
    )


def final(day: Window, sums: list[BilledAmount], notes: list[Payable], used: tuple[int, ...] = ()) -> bool:
    """Whether the day's bills are settled; it has charges of the snapshots `used`."""
    return is_settled(reconcile(bills_affecting_day(sums, day, used), notes))


def payable(amount: str, invoice: str = "I-1", voids: str | None = None) -> Payable:
    return Payable(source="aws", issuer="AWS Inc.", invoice_id=invoice, amount=Decimal(amount), voids=voids)


def test_case_21_a_rest_below_a_cent_is_rounding_and_a_dollar_is_not() -> None:
    sums = [billed("1234.5649"), billed("99.00", "I-2", JUNE)]
    notes = [payable("1234.56"), payable("100.00", "I-2")]
    ties, differs = reconcile(sums, notes)
    assert (ties.state, ties.rounding) == ("ties", Decimal("-0.0049"))
    assert (differs.state, differs.rounding) == ("differs", Decimal(1))
    assert final(MAY, sums, notes)
    assert not final(JUNE, sums, notes)


@pytest.mark.parametrize(
    ("amount", "state"), [("10.01", "ties"), ("9.99", "ties"), ("10.010000000001", "differs"), ("9.98", "differs")]
)
def test_the_tolerance_is_a_cent_and_not_a_unit_more(amount: str, state: str) -> None:
    assert reconcile([billed("10.00")], [payable(amount)])[0].state == state


def test_case_24_charges_without_an_invoice_keep_the_month_open() -> None:
    result = reconcile([billed("5"), billed("5", None)], [payable("5")])
    assert {s.invoice_id: s.state for s in result} == {"I-1": "ties", None: "open"}
    assert not is_settled(result)
    assert final(MAY, [billed("5"), billed("5", None, JUNE)], [payable("5")])


def test_case_24_an_invoice_number_alone_settles_nothing() -> None:
    result = reconcile([billed("5")], [])
    assert (result[0].state, result[0].payable, result[0].rounding) == ("open", None, None)
    assert not is_settled(result)
    assert not is_settled([])


def test_case_27_a_voided_invoice_gives_way_to_the_one_in_its_place() -> None:
    notes = [payable("500.00", "A"), payable("480.00", "B", voids="A")]
    result = reconcile([billed("500.00", "A"), billed("480.00", "B")], notes)
    assert {s.invoice_id: s.state for s in result} == {"A": "voided", "B": "ties"}
    assert voided_invoices(notes) == {("aws", "AWS Inc.", "A")}
    assert is_settled(result)


def test_the_newest_note_counts_so_a_wrong_void_can_be_taken_back() -> None:
    notes = [payable("480.00", "B", voids="A"), payable("481.00", "B")]
    assert voided_invoices(notes) == frozenset()
    assert reconcile([billed("481", "B")], notes)[0].state == "ties"


def test_an_invoice_over_two_months_ties_as_a_whole_and_settles_both() -> None:
    sums = [billed("3"), billed("4", period=JUNE)]
    (result,) = reconcile(sums, [payable("7")])
    assert (result.state, result.period_start, result.period_end) == (
        "ties",
        "2026-05-01T00:00:00Z",
        "2026-07-01T00:00:00Z",
    )
    assert final(MAY, sums, [payable("7")])
    assert final(JUNE, sums, [payable("7")])


def test_unlike_currencies_are_never_added() -> None:
    result = reconcile([billed("3"), billed("4", currency="EUR")], [payable("7")])
    assert {s.currency: (s.billed, s.state) for s in result} == {
        "EUR": (Decimal(4), "differs"),
        "USD": (Decimal(3), "differs"),
    }


def test_invoices_of_other_sources_and_issuers_do_not_lend_their_payable_amount() -> None:
    other = Payable(source="export", issuer="AWS Inc.", invoice_id="I-1", amount=Decimal(5))
    assert reconcile([billed("5")], [other])[0].state == "open"


@pytest.mark.parametrize(
    ("voids", "round_trip"),
    [
        ({"A": "A"}, True),
        ({"A": "B", "B": "A"}, True),
        ({"D": "A", "A": "B", "B": "C", "C": "A"}, True),
        ({"B": "A", "C": "B"}, False),
    ],
)
def test_invoices_that_void_each_other_are_seen(voids: dict[str, str], round_trip: bool) -> None:
    assert has_void_cycle([payable("1", invoice, voids=other) for invoice, other in voids.items()]) is round_trip


def pacific(period: Window) -> Window:
    return Window(period.start + PACIFIC, period.end + PACIFIC)


def note_of(amount: str, period: Window, account: str = "acc") -> Payable:
    return Payable(
        source="aws", issuer="AWS Inc.", invoice_id=None, amount=Decimal(amount), account=account, period=period
    )


def test_charges_without_a_number_tie_by_account_and_billing_period() -> None:
    sums = [
        billed("5", None, account="acc"),
        billed("6", None, account="acc-2"),
        billed("7", None, JUNE, account="acc"),
    ]
    result = reconcile(sums, [note_of("5", MAY), note_of("6.5", MAY, "acc-2")])
    assert [(s.account, s.period_start[:7], s.state) for s in result] == [
        ("acc", "2026-05", "ties"),
        ("acc-2", "2026-05", "differs"),
        ("acc", "2026-06", "open"),
    ]


def test_a_month_by_another_clock_blocks_only_the_day_that_it_shares() -> None:
    """Google's May ends on 1 June at 07:00 UTC, and its June is still open."""
    day = Window(JUNE.start + 14 * 86_400_000, JUNE.start + 15 * 86_400_000)
    first = Window(JUNE.start, JUNE.start + 86_400_000)
    june = billed("9", "I-6", JUNE, snapshot=1)
    google = billed("5", None, pacific(MAY), account="g", snapshot=2)
    assert final(day, [june, google], [payable("9", "I-6")], used=(1,))
    assert not final(first, [june, google], [payable("9", "I-6")], used=(1,))
    assert final(first, [june, google], [payable("9", "I-6"), note_of("5", pacific(MAY), "g")], used=(1,))


def test_a_correction_makes_its_day_wait_for_the_bill_that_brought_it() -> None:
    day = Window(MAY.start, MAY.start + 86_400_000)
    sums = [billed("9", snapshot=1), billed("-1", "I-6", JUNE, snapshot=2), billed("3", "I-7", JUNE, snapshot=3)]
    assert not final(day, sums, [payable("9")], used=(1, 2))
    assert final(day, sums, [payable("9"), payable("-1", "I-6")], used=(1, 2))


def test_a_provisional_number_that_went_away_blocks_nothing() -> None:
    gone = billed("0", "EST-1", active=False)
    assert final(MAY, [gone, billed("5")], [payable("5")])
    assert [s.state for s in reconcile([gone, billed("5")], [payable("5"), payable("5", "EST-1")])] == [
        "differs",
        "ties",
    ]


@pytest.mark.parametrize("period", [MAY, pacific(MAY), Window(MAY.start - 10 * 86_400_000, JUNE.start - 10**8)])
def test_period_is_matched_by_the_month_of_its_middle(period: Window) -> None:
    sums = [billed("5", None, period, account="acc"), billed("5", None, JUNE, account="acc")]
    assert find_unnumbered_bill(sums, source="aws", month="2026-05", issuer=None, account=None) == (
        "AWS Inc.",
        "acc",
        period,
    )


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        ({"month": "2026-07"}, "period: aws has no charge without an invoice number in 2026-07: import"),
        ({"source": "gcp"}, "period: gcp has no charge"),
        ({"account": "c"}, "in 2026-05, account c: import"),
        ({"account": "a"}, "issuer: AWS Inc. and Shop have charges without"),
        ({"issuer": "AWS Inc."}, "account: a and b have charges without"),
        ({"issuer": "Shop", "account": "a"}, "period: 2026-05-01T00:00:00Z to 2026-05-16T00:00:00Z and 2026-05-16"),
    ],
)
def test_a_period_that_is_not_clear_is_refused(filters: dict[str, str], reason: str) -> None:
    middle = MAY.start + 15 * 86_400_000
    shop = [billed("1", None, window, account="a") for window in (Window(MAY.start, middle), Window(middle, MAY.end))]
    sums = [billed("5", None, account=account) for account in "ab"] + [replace(one, issuer="Shop") for one in shop]
    arguments: dict[str, Any] = {"source": "aws", "month": "2026-05", "issuer": None, "account": None, **filters}
    with pytest.raises(Rejected, match=reason):
        find_unnumbered_bill(sums, **arguments)
