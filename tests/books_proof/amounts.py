"""Exact amounts that know how far a published one may be from them.

Published money is whole units of 10^-12 USD. A division is published by largest remainder, which moves each part by
less than one unit; which of two equal remainders gets the unit is not laid down. So an amount carries the number of
units that divisions may have moved it by: none where nothing was divided, and then it must be equal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

K = TypeVar("K")
UNITS = 10**12


@dataclass(frozen=True)
class Amount:
    """USD, and by how many units of 10^-12 divisions may have moved what is published of it."""

    value: Fraction = Fraction(0)
    slack: Fraction = Fraction(0)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.value + other.value, self.slack + other.slack)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.value - other.value, self.slack + other.slack)

    def part(self, weight: Fraction | int, whole: Fraction | int) -> "Amount":
        """Its part by `weight` of `whole`: moved by less than a unit more, unless it is a whole number of units."""
        share = Fraction(weight) / Fraction(whole)
        value = self.value * share
        exact = self.slack == 0 and (value * UNITS).denominator == 1
        return Amount(value, Fraction(0) if exact else self.slack * abs(share) + 1)

    def matches(self, published: Decimal) -> bool:
        """Whether this is the published figure."""
        difference = abs(Fraction(published) - self.value) * UNITS
        return difference < self.slack if self.slack else difference == 0

    def __bool__(self) -> bool:
        return bool(self.value)


def total(amounts: Iterable[Amount]) -> Amount:
    """Their sum."""
    return sum(amounts, Amount())


def spread(amount: Amount, weights: Mapping[K, Fraction]) -> dict[K, Amount]:
    """The amount over the keys in proportion to their weights, which must not all be 0."""
    whole = sum(weights.values(), Fraction(0))
    return {key: amount.part(weight, whole) for key, weight in weights.items() if weight}


def by_cost(amount: Amount, costs: Mapping[K, Amount]) -> dict[K, Amount]:
    """The amount in proportion to costs above 0; what may have moved these moves the parts in proportion."""
    parts = spread(amount, {key: cost.value for key, cost in costs.items()})
    doubt = sum((cost.slack for cost in costs.values()), Fraction(0))
    ratio_of = abs(amount.value) / sum((cost.value for cost in costs.values()), Fraction(0))
    return {key: Amount(part.value, part.slack + doubt * ratio_of * 2) for key, part in parts.items()}


def apportioned(amount: Decimal, weights: Mapping[K, Fraction]) -> dict[K, tuple[Decimal, bool]]:
    """A published amount by largest remainder, and of which parts the remainder ties with another for the last unit."""
    units = int(amount.scaleb(12))
    whole = sum(weights.values(), Fraction(0))
    shares = {key: abs(units) * weight / whole for key, weight in weights.items()}
    rest = {key: share - int(share) for key, share in shares.items()}
    order = sorted(rest.values(), reverse=True)
    left = int(sum(order))
    last = order[left - 1] if left else Fraction(2)
    tied = left < len(order) and left > 0 and order[left] == last
    sign = -1 if units < 0 else 1
    return {
        key: (Decimal(sign * (int(share) + (rest[key] >= last))).scaleb(-12), tied and rest[key] == last)
        for key, share in shares.items()
    }


def rounded(value: Fraction) -> Decimal:
    """To whole units, half to even."""
    units = round(value * UNITS)
    return Decimal(units).scaleb(-12)


def ratio(spend: Decimal, tokens: int) -> Decimal | None:
    """USD per million tokens, from what is published of both; None without tokens."""
    return rounded(Fraction(spend) * 1_000_000 / tokens) if tokens else None


def sum_of(published: Sequence[Decimal]) -> Decimal:
    """Exactly."""
    return sum(published, Decimal(0))
