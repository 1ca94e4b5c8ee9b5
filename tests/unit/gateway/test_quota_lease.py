"""A lender never has more open than there is, whatever the others are short of."""

from fractions import Fraction

import pytest

from services.gateway.core.quota_apportion import split
from services.gateway.core.quota_lease import KEYS_PER_TURN, NO_LOAN, Capacity, QuotaFollower, QuotaLeader
from shared.messages.gateway import KeyTold, Loan

LIMIT = 10


def told(used: int, wanted: int = 0) -> dict[str, KeyTold]:
    return {"k": KeyTold(used=(used, 0, 0, 0), limits=(LIMIT, None, None, None), wanted=(wanted, 0, 0, 0))}


def loan(version: int, amount: int) -> Loan:
    return Loan(version=version, parts=3, keys={"k": (amount, 0, 0, 0)})


def estate(*borrowers: QuotaFollower, borrowed: Loan | None = None) -> Capacity:
    return Capacity(
        mine={}, capacity=lambda _key, _at, limit: limit, borrowed=borrowed, counted=borrowers, borrowers=borrowers
    )


def open_to(*borrowers: QuotaFollower) -> list[int]:
    return [borrower.bound("k", 0, LIMIT) for borrower in borrowers]


def test_the_highest_of_use_and_open_loans_counts() -> None:
    assert QuotaFollower(told(9), agreed=loan(1, 5), offered=loan(2, 3)).bound("k", 0, LIMIT) == 9
    assert QuotaFollower(told(1), agreed=loan(1, 5), offered=loan(2, 3)).bound("k", 0, LIMIT) == 5
    assert QuotaFollower(told(1), agreed=loan(1, 5), offered=loan(2, 7)).bound("k", 0, LIMIT) == 7
    assert QuotaFollower({}, agreed=Loan(version=1, parts=3, keys={}), offered=NO_LOAN).bound("k", 0, LIMIT) == 3


def test_what_is_still_open_is_lent_to_nobody_else() -> None:
    rich, poor = QuotaFollower(told(0)), QuotaFollower(told(1, wanted=1))
    rich.agreed = rich.offered = loan(1, 9)
    poor.agreed = poor.offered = loan(1, 1)
    lender = QuotaLeader()
    lender.offer(2, estate(rich, poor))
    assert open_to(rich, poor) == [9, 1]
    rich.agreed = rich.offered
    lender.offer(3, estate(rich, poor))
    assert poor.offered.keys["k"][0] > 1
    assert sum(open_to(rich, poor)) <= LIMIT


def test_nothing_new_is_offered_before_the_last_offer_is_acknowledged() -> None:
    borrower = QuotaFollower(told(0, wanted=1), agreed=loan(1, 2), offered=loan(2, 4))
    QuotaLeader().offer(3, estate(borrower))
    assert borrower.offered.version == 2


def test_newcomers_get_equal_parts_of_what_is_not_lent_yet() -> None:
    half = Loan(version=1, parts=2, keys={})
    borrowers = [QuotaFollower({}, agreed=half, offered=half), *(QuotaFollower({}) for _ in range(3))]
    lender = QuotaLeader()
    for version in (2, 3):
        lender.offer(version, estate(*borrowers))
        open_parts = [min(n for n in (b.agreed.parts, b.offered.parts) if n) for b in borrowers if b.offered.parts]
        assert sum(Fraction(1, parts) for parts in open_parts) <= 1
        for borrower in borrowers:
            borrower.agreed = borrower.offered
    assert [borrower.agreed.parts for borrower in borrowers] == [5] * 4


def test_of_a_key_that_only_an_elder_named_nothing_is_lent() -> None:
    borrower = QuotaFollower({})
    QuotaLeader().offer(1, estate(borrower, borrowed=loan(7, 4)))
    assert borrower.offered == Loan(version=1, parts=6, keys={"k": (0, 0, 0, 0)})


def test_of_many_keys_those_that_somebody_is_short_of_come_first_and_all_in_turn() -> None:
    calm, short = told(0)["k"], told(5, wanted=5)["k"]
    names = [f"k{at:03}" for at in range(5 * KEYS_PER_TURN)]
    borrower = QuotaFollower(dict.fromkeys(names, calm))
    lender = QuotaLeader()
    lender.offer(1, estate(borrower))
    borrower.agreed = borrower.offered
    borrower.keys = {**dict.fromkeys(names, told(3)["k"]), names[-1]: short}
    lender.offer(2, estate(borrower))
    assert borrower.offered.keys[names[-1]][0] == LIMIT
    assert len(borrower.offered.keys) == KEYS_PER_TURN + 1
    for version in range(3, 8):
        borrower.agreed = borrower.offered
        lender.offer(version, estate(borrower))
    assert set(borrower.offered.keys) == set(names)


@pytest.mark.parametrize(
    ("rest", "wants", "parts"),
    [
        (9, [0, 0], [4, 4]),
        (1, [0, 1], [0, 1]),
        (80, [10, 0], [72, 8]),
        (3, [5, 2], [0, 2]),
        (0, [1, 0], [0, 0]),
        (10, [1, 1], [5, 5]),
    ],
)
def test_split(rest: int, wants: list[int], parts: list[int]) -> None:
    assert split(rest, wants) == parts
