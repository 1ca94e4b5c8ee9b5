"""Splits lose nothing, and amounts keep every digit."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.money import divide, per_mtok, split_exactly, to_units, to_usd

AMOUNTS = st.integers(-(10**30), 10**30)
WEIGHTS = st.lists(st.integers(0, 10**15), min_size=1, max_size=60).filter(any)


@given(AMOUNTS, WEIGHTS)
def test_parts_sum_to_the_whole_and_stray_less_than_one_unit(total: int, weights: list[int]) -> None:
    parts = split_exactly(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    assert all(abs(part * whole - total * weight) < whole for part, weight in zip(parts, weights, strict=True))


@given(AMOUNTS, WEIGHTS)
def test_a_credit_splits_as_the_charge_it_undoes(total: int, weights: list[int]) -> None:
    assert split_exactly(-total, weights) == [-part for part in split_exactly(total, weights)]


def test_the_largest_remainder_wins_and_of_equals_the_first() -> None:
    assert split_exactly(100, [1, 1, 1]) == [34, 33, 33]
    assert split_exactly(10, [16, 15, 69]) == [2, 1, 7]


@pytest.mark.parametrize("weights", [[], [0, 0], [-1, 2]])
def test_split_rejects_weights_that_are_all_zero_or_negative(weights: list[int]) -> None:
    with pytest.raises(ValueError, match=r"weights|empty"):
        split_exactly(1, weights)


@given(AMOUNTS)
def test_units_and_usd_are_inverse(amount: int) -> None:
    assert to_units(to_usd(amount)) == amount


def test_an_amount_is_written_alike_whatever_its_zeros() -> None:
    assert str(to_usd(to_units(Decimal("1E+2")))) == str(to_usd(to_units(Decimal("100.00")))) == "100"
    assert str(to_usd(0)) == "0"
    assert to_usd(to_units(Decimal("1234567890123.123456789012"))) == Decimal("1234567890123.123456789012")


@pytest.mark.parametrize("amount", ["0.0000000000001", "NaN", "Infinity"])
def test_what_cannot_be_kept_exactly_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"decimals|not an amount"):
        to_units(Decimal(amount))


def test_division_rounds_halves_to_even() -> None:
    assert [divide(n, 2) for n in (1, 3, 5, -1, -3)] == [0, 2, 2, 0, -2]


def test_cost_per_million_tokens() -> None:
    assert per_mtok(to_units(Decimal(100)), 50_000_000) == 2
    assert per_mtok(to_units(Decimal("57.60")), 0) is None
