"""Add keys' names to reports as they are shown. Stored figures have ids alone: a rename is no revision."""

from collections.abc import Mapping
from typing import TypeVar

from msgspec.structs import replace

from shared.messages.billing import DayReport, KeyFigure, PeriodReport

R = TypeVar("R", DayReport, PeriodReport)


def add_key_names(report: R, names: Mapping[str, str]) -> R:
    """Return the report with the name of each key that has one in `names`, by id; of a period in its days too."""
    named = replace(report, keys=tuple(_add_name(key, names) for key in report.keys))
    if isinstance(named, PeriodReport):
        return replace(named, days=tuple(add_key_names(day, names) for day in named.days))
    return named


def _add_name(key: KeyFigure, names: Mapping[str, str]) -> KeyFigure:
    name = None if key.key_id is None else names.get(key.key_id)
    return key if name is None else replace(key, name=name)
