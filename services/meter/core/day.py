"""UTC days, as the ledger counts them: in Unix seconds."""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from shared.errors import Rejected
from shared.units import DAY_S, MINUTE_S


@dataclass(frozen=True, kw_only=True)
class Day:
    """A UTC day, or several in a row; Unix seconds, end exclusive."""

    name: str
    """The first day's, `YYYY-MM-DD`."""
    start: float
    end: float

    @property
    def first_minute(self) -> int:
        return int(self.start / MINUTE_S)

    @property
    def end_minute(self) -> int:
        return int(self.end / MINUTE_S)


def parse_day(text: str, field: str = "day") -> Day:
    """Parse `YYYY-MM-DD`; raises `Rejected` with the name of the field."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        raise Rejected(f"{field}: expected YYYY-MM-DD such as 2026-11-23, got {text!r}")
    try:
        start = datetime.combine(date.fromisoformat(text), time(), UTC).timestamp()
    except ValueError as error:
        raise Rejected(f"{field}: {text!r} is not a day: {error}") from error
    return Day(name=text, start=start, end=start + DAY_S)


def day_of(at: float) -> Day:
    """Return the UTC day of a Unix time."""
    return parse_day(datetime.fromtimestamp(at, UTC).date().isoformat())
