"""Exact money: whole numbers of units (10⁻¹² USD), and splits of them that lose nothing."""

from collections.abc import Sequence
from decimal import MAX_PREC, Context, Decimal

PLACES = 12
UNITS_PER_USD = 10**PLACES
MTOK = 10**6
_EXACT = Context(prec=MAX_PREC)
"""Moves the point without a digit lost."""


def to_units(amount: Decimal) -> int:
    """USD as units; `ValueError` where the amount has more than twelve decimals or is no number."""
    if not amount.is_finite():
        raise ValueError(f"{amount} is not an amount")
    scaled = amount.scaleb(PLACES, _EXACT)
    value = int(scaled)
    if value != scaled:
        raise ValueError(f"{amount} has more than {PLACES} decimals")
    return value


def to_units_at_rate(amount: Decimal, per_usd: str) -> int:
    """An amount of a currency, of which `per_usd` is one USD, as units: to the nearest, exact for USD itself."""
    return convert_to_usd(to_units(amount), per_usd)


def convert_to_usd(amount: int, per_usd: str) -> int:
    """Units of a currency as units of USD, as above."""
    if per_usd == "1":
        return amount
    above, below = Decimal(per_usd).as_integer_ratio()
    return divide(amount * below, above)


def to_usd(amount: int) -> Decimal:
    """Units as USD without trailing zeros, so that equal amounts are written alike."""
    whole, fraction = divmod(abs(amount), UNITS_PER_USD)
    text = f"{whole}.{fraction:0{PLACES}d}".rstrip("0").rstrip(".")
    return Decimal(f"-{text}" if amount < 0 else text)


def divide(amount: int, by: int) -> int:
    """`amount / by` to the nearest whole, halves to even. `by` is positive."""
    quotient, rest = divmod(amount, by)
    if 2 * rest > by or (2 * rest == by and quotient % 2):
        quotient += 1
    return quotient


def split_exactly(total: int, weights: Sequence[int]) -> list[int]:
    """Parts in proportion to `weights` that sum to exactly `total`, which may be negative.

    Largest remainder; of equal remainders the first wins. Weights are not negative and not all 0 (`ValueError`).
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights must not be negative, and one must be positive")
    sign = -1 if total < 0 else 1
    shares = [divmod(abs(total) * weight, whole) for weight in weights]
    left = abs(total) - sum(part for part, _ in shares)
    first = sorted(range(len(shares)), key=lambda i: (-shares[i][1], i))[:left]
    raised = set(first)
    return [sign * (part + (i in raised)) for i, (part, _) in enumerate(shares)]


def per_mtok(spend: int, tokens: int) -> Decimal | None:
    """USD per million tokens, to twelve decimals; None without tokens."""
    return to_usd(divide(spend * MTOK, tokens)) if tokens > 0 else None
