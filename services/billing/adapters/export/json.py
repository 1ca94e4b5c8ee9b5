"""The fields that other programs read: every one of the message, decimals in full as strings."""

from decimal import Decimal
from typing import Any

import msgspec

from services.billing.adapters.export.formatting import decimal
from shared.messages.billing import Bands, DayReport, PeriodReport, Statement


def fields(told: DayReport | PeriodReport | Statement | Bands) -> dict[str, Any]:
    """An object for JSON. A period's `first` is told as `from`, the word of every command."""
    found: dict[str, Any] = plain(msgspec.to_builtins(told, builtin_types=(Decimal,)))
    if isinstance(told, PeriodReport):
        return {"from": found.pop("first"), **found}
    return found


def json(told: DayReport | PeriodReport | Statement | Bands) -> bytes:
    """One line."""
    return msgspec.json.encode(fields(told)) + b"\n"


def plain(value: Any) -> Any:
    """As JSON has it: decimals in full as strings, without the tags of messages."""
    match value:
        case Decimal():
            return decimal(value)
        case dict():
            return {name: plain(inner) for name, inner in value.items() if name != "type"}
        case list() | tuple():
            return [plain(inner) for inner in value]
        case _:
            return value
