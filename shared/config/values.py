"""What the sections of the configuration are made of: their base class, durations, exact amounts, bounded numbers."""

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated

import msgspec

from shared.messages.values import check_amounts
from shared.units import DAY_S, HOUR_S, MINUTE_S

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. A key that it does not have is an error."""


class Duration(float):
    """Seconds. Written as `"250ms"`, `"10s"`, `"15m"`, `"2h"` or `"1d"`."""

    @classmethod
    def parse(cls, text: object) -> "Duration":
        match = _DURATION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f'must be a duration, e.g. "15m" or "10s", got {text!r}')
        return cls(float(match[1]) * _UNITS[match[2]])


class Money(Decimal):
    """An exact amount of USD. Written as a string: `"200.00"`."""

    @classmethod
    def parse(cls, text: object) -> "Money":
        try:
            amount = cls(text) if isinstance(text, str) else None
        except InvalidOperation:
            amount = None
        if amount is None or not amount.is_finite() or amount < 0:
            raise ValueError(f'must be a decimal string, e.g. "5.00", got {text!r}')
        check_amounts(amount)  # a message will have to carry it
        return amount


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest value of a field, both included: `Annotated[int, Bounds(1)]`."""

    least: float
    most: float = math.inf

    def fault(self, value: float) -> str | None:
        """Return what is wrong with the value, to be read after the field's name."""
        if self.least <= value <= self.most:
            return None
        allowed = f"at least {self.least:g}" if self.most == math.inf else f"from {self.least:g} to {self.most:g}"
        return f"must be {allowed}, got {value:g}"


Port = Annotated[int, Bounds(0, 65535)]
"""A TCP port; 0 picks a free one."""
PositiveInt = Annotated[int, Bounds(1)]
Interval = Annotated[Duration, Bounds(0.1)]
"""A duration of at least 100 ms."""
