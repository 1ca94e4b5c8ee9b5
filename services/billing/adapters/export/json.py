"""The JSON that other programs read: every field of the message, decimals in full as strings."""

from decimal import Decimal
from typing import Any

import msgspec

from shared.messages.billing import Bands, DayReport, PeriodReport, Statement
from shared.report_forms.plain_json import to_plain


def json_fields(message: DayReport | PeriodReport | Statement | Bands) -> dict[str, Any]:
    """Return the message as a JSON object. A period's `first` is named `from`, as in every command."""
    fields: dict[str, Any] = to_plain(msgspec.to_builtins(message, builtin_types=(Decimal,)))
    if isinstance(message, PeriodReport):
        return {"from": fields.pop("first"), "to": fields.pop("to"), **fields}
    return fields


def render_json(message: DayReport | PeriodReport | Statement | Bands) -> bytes:
    """Return the message as one line of JSON."""
    return msgspec.json.encode(json_fields(message)) + b"\n"
