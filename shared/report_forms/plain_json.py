"""Messages as other programs read them: decimals in full as strings, no tags."""

from decimal import Decimal
from typing import Any

from shared.report_forms.words import format_decimal


def to_plain(value: Any) -> Any:
    """Return the value as JSON has it: decimals in full as strings, message tags left out, a report's day first."""
    match value:
        case Decimal():
            return format_decimal(value)
        case dict():
            fields = {name: to_plain(inner) for name, inner in value.items() if name != "type"}
            return {"day": fields["day"], **fields} if "day" in fields else fields
        case list() | tuple():
            return [to_plain(inner) for inner in value]
        case _:
            return value
