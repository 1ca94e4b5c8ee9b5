"""The numbers of messages: what lies outside these bounds is refused where a message is decoded."""

from decimal import Decimal
from typing import Annotated

from msgspec import Meta

UnixSeconds = Annotated[float, Meta(ge=0, lt=253_402_300_800)]
"""A moment, up to the year 9999: every later one is beyond what a calendar, and so a report, can name."""
Seconds = Annotated[float, Meta(ge=-1e9, le=1e9)]
"""A duration of some 32 years at most; a difference of two clocks may be negative."""
Count = Annotated[int, Meta(ge=0, lt=2**53)]
"""How many: whole in a double too, through which JSON goes elsewhere."""

Whole = Annotated[int, Meta(gt=-(2**53), lt=2**53)]
"""What is left of something, which may be overdrawn."""

_DIGITS = 15
_PLACES = 30


def check_amounts(*amounts: Decimal | None) -> None:
    """Raise `ValueError` for what is no amount of money: msgspec takes "NaN" and "1e999999" for decimals."""
    for amount in amounts:
        # Its digits are looked at, not its value: a sum of so large a number would raise or take all memory.
        if amount is not None and not (amount.is_finite() and _fits(amount)):
            raise ValueError(f"expected an amount below 10^{_DIGITS} with {_PLACES} decimals at most")


def _fits(amount: Decimal) -> bool:
    return amount.adjusted() < _DIGITS and int(amount.as_tuple().exponent) >= -_PLACES
