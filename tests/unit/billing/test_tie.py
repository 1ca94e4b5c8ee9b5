"""An invoice ties to the cent or keeps its month open; what is voided no longer counts."""

from decimal import Decimal

import pytest

from services.billing.core.days import Window, moment
from services.billing.core.tie import Billed, Payable, goes_round, settled, standings, voided

MAY = Window(moment("2026-05-01T00:00:00Z"), moment("2026-06-01T00:00:00Z"))
JUNE = Window(MAY.end, moment("2026-07-01T00:00:00Z"))


def billed(amount: str, invoice: str | None = "I-1", period: Window = MAY, currency: str = "USD") -> Billed:
    return Billed(
        source="aws",
        issuer="AWS Inc.",
        invoice_id=invoice,
        currency=currency,
        period=period,
        amount=Decimal(amount),
    )


def payable(amount: str, invoice: str = "I-1", voids: str | None = None) -> Payable:
    return Payable(source="aws", issuer="AWS Inc.", invoice_id=invoice, amount=Decimal(amount), voids=voids)


def test_case_21_a_rest_below_a_cent_is_rounding_and_a_dollar_is_not() -> None:
    sums = [billed("1234.5649"), billed("99.00", "I-2", JUNE)]
    notes = [payable("1234.56"), payable("100.00", "I-2")]
    ties, differs = standings(sums, notes)
    assert (ties.state, ties.rounding) == ("ties", Decimal("-0.0049"))
    assert (differs.state, differs.rounding) == ("differs", Decimal(1))
    assert settled([ties, differs], MAY)
    assert not settled([ties, differs], JUNE)


@pytest.mark.parametrize(
    ("amount", "state"), [("10.01", "ties"), ("9.99", "ties"), ("10.010000000001", "differs"), ("9.98", "differs")]
)
def test_the_tolerance_is_a_cent_and_not_a_unit_more(amount: str, state: str) -> None:
    assert standings([billed("10.00")], [payable(amount)])[0].state == state


def test_case_24_charges_without_an_invoice_keep_the_month_open() -> None:
    found = standings([billed("5"), billed("5", None)], [payable("5")])
    assert {s.invoice_id: s.state for s in found} == {"I-1": "ties", None: "open"}
    assert not settled(found, MAY)
    june = standings([billed("5"), billed("5", None, JUNE)], [payable("5")])
    assert settled(june, MAY)


def test_case_24_an_invoice_number_alone_settles_nothing() -> None:
    found = standings([billed("5")], [])
    assert (found[0].state, found[0].payable, found[0].rounding) == ("open", None, None)
    assert not settled(found, MAY)
    assert not settled([], MAY)


def test_case_27_a_voided_invoice_gives_way_to_the_one_in_its_place() -> None:
    notes = [payable("500.00", "A"), payable("480.00", "B", voids="A")]
    found = standings([billed("500.00", "A"), billed("480.00", "B")], notes)
    assert {s.invoice_id: s.state for s in found} == {"A": "voided", "B": "ties"}
    assert voided(notes) == {("aws", "AWS Inc.", "A")}
    assert settled(found, MAY)


def test_the_newest_note_counts_so_a_wrong_void_can_be_taken_back() -> None:
    notes = [payable("480.00", "B", voids="A"), payable("481.00", "B")]
    assert voided(notes) == frozenset()
    assert standings([billed("481", "B")], notes)[0].state == "ties"


def test_an_invoice_over_two_months_ties_as_a_whole_and_settles_both() -> None:
    (found,) = standings([billed("3"), billed("4", period=JUNE)], [payable("7")])
    assert (found.state, found.period_start, found.period_end) == (
        "ties",
        "2026-05-01T00:00:00Z",
        "2026-07-01T00:00:00Z",
    )
    assert settled([found], MAY)
    assert settled([found], JUNE)


def test_unlike_currencies_are_never_added() -> None:
    found = standings([billed("3"), billed("4", currency="EUR")], [payable("7")])
    assert {s.currency: (s.billed, s.state) for s in found} == {
        "EUR": (Decimal(4), "differs"),
        "USD": (Decimal(3), "differs"),
    }


def test_invoices_of_other_sources_and_issuers_do_not_lend_their_payable_amount() -> None:
    other = Payable(source="export", issuer="AWS Inc.", invoice_id="I-1", amount=Decimal(5))
    assert standings([billed("5")], [other])[0].state == "open"


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
    assert goes_round([payable("1", invoice, voids=other) for invoice, other in voids.items()]) is round_trip
