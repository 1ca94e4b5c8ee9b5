"""Which bills tie to what is payable, and which days that settles."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tests.books_proof.facts import Charge, World

CENT = Fraction(1, 100)
Bill = tuple[str, str, str, tuple[int, int], str | None]
"""Source, issuer, account, billing period and invoice; without an invoice the charges of the period that name none."""


@dataclass(frozen=True)
class Standing:
    """A bill's charges beside what is payable."""

    billed: Fraction
    payable: Fraction | None

    @property
    def state(self) -> str:
        """`open` without an amount, `ties` within a cent."""
        if self.payable is None:
            return "open"
        return "ties" if abs(self.payable - self.billed) <= CENT else "differs"


def bill_of(charge: Charge) -> Bill:
    """The bill that it is on."""
    return charge.source, charge.issuer, charge.account, charge.period, charge.invoice


def standings(world: World, charges: Iterable[Charge]) -> dict[Bill, Standing]:
    """Of all bills."""
    sums: dict[Bill, Fraction] = {}
    for charge in charges:
        sums[bill_of(charge)] = sums.get(bill_of(charge), Fraction(0)) + charge.billed
    payables = {(p.source, p.issuer, p.account, p.period, p.invoice): p.amount for p in world.payables}
    return {bill: Standing(billed, payables.get(bill)) for bill, billed in sums.items()}


def concerned(bills: Iterable[Bill], rows: Iterable[Charge], start: int, end: int) -> set[Bill]:
    """The bills that a day waits for: those of its charges, and of every billing period that has it."""
    own = {bill_of(row) for row in rows}
    return {bill for bill in bills if bill in own or (bill[3][0] < end and bill[3][1] > start)}


def is_settled(world: World, bills: dict[Bill, Standing], rows: Iterable[Charge], start: int, end: int) -> bool:
    """Whether all bills that the day waits for are over and tie."""
    concerned_bills = concerned(bills, rows, start, end)
    over = all(period[1] <= world.now for _, _, _, period, _ in concerned_bills)
    return bool(concerned_bills) and over and all(bills[bill].state == "ties" for bill in concerned_bills)
