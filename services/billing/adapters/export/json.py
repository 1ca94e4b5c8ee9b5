"""The fields that other programs read: every one of the message, decimals in full as strings."""

from decimal import Decimal
from typing import Any

import msgspec

from services.billing.adapters.export.formatting import format_decimal
from shared.messages.billing import Bands, DayReport, PeriodReport, Statement


def json_fields(told: DayReport | PeriodReport | Statement | Bands) -> dict[str, Any]:
    """An object for JSON. A period's `first` is told as `from`, the word of every command."""
    found: dict[str, Any] = to_plain(msgspec.to_builtins(told, builtin_types=(Decimal,)))
    if isinstance(told, PeriodReport):
        return {"from": found.pop("first"), **found}
    return found


def render_json(told: DayReport | PeriodReport | Statement | Bands) -> bytes:
    """One line."""
    return msgspec.json.encode(json_fields(told)) + b"\n"


def to_plain(value: Any) -> Any:
    """As JSON has it: decimals in full as strings, without the tags of messages."""
    match value:
        case Decimal():
            return format_decimal(value)
        case dict():
            return {name: to_plain(inner) for name, inner in value.items() if name != "type"}
        case list() | tuple():
            return [to_plain(inner) for inner in value]
        case _:
            return value
