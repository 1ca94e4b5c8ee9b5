"""Values of the configuration that TOML has no type for: durations and exact amounts."""

import re
from decimal import Decimal, InvalidOperation

from shared.messages.values import check_amounts
from shared.units import DAY_S, HOUR_S, MINUTE_S

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}


class Duration(float):
    """Seconds; written `"250ms"`, `"10s"`, `"15m"`, `"2h"`, `"1d"`."""

    @classmethod
    def parse(cls, text: object) -> "Duration":
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'expected a duration such as "15m" or "10s", got {text!r}')
        return cls(float(match[1]) * _UNITS[match[2]])


class Money(Decimal):
    """An exact amount; written as a string, `"200.00"`."""

    @classmethod
    def parse(cls, text: object) -> "Money":
        try:
            amount = cls(text) if isinstance(text, str) else None
        except InvalidOperation:
            amount = None
        if amount is None or not amount.is_finite() or amount < 0:
            raise ValueError(f'expected an amount as a string such as "5.00", got {text!r}')
        check_amounts(amount)  # a message will have to carry it
        return amount
