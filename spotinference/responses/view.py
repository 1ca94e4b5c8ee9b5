"""Counts of responses as a table and as JSON."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec
from rich.table import Table

from shared.messages.responses import Responses, ResponseSums
from spotinference.terminal import print_table

SHARES = ("succeeded", "unavailable", "timed_out")
PLACES = Decimal("0.000001")


def responses_json(answer: Responses) -> dict[str, object]:
    span = {"day": answer.day} if answer.to is None else {"from": answer.day, "to": answer.to}
    return {
        **span,
        "totals": _fields(answer.totals),
        "rows": [{**row.dimensions, **_fields(row.sums)} for row in answer.rows],
    }


def print_responses(columns: Sequence[str], answer: Responses) -> None:
    span = answer.day if answer.to is None else f"{answer.day} to {answer.to}"
    table = Table(*columns, "responses", "succeeded", "503", "504", title=f"{span} UTC")
    for row in answer.rows:
        table.add_row(*(row.dimensions[column] for column in columns), *_cells(row.sums))
    if columns:
        table.add_section()
    table.add_row(*([""] * len(columns)), *_cells(answer.totals))
    print_table(table)


def _fields(sums: ResponseSums) -> dict[str, object]:
    """Return the counts, and what share of all responses each is; null if there are none."""
    shares = {f"{name}_share": share(sums, name) for name in SHARES}
    success = (Decimal(sums.succeeded) / sums.judged).quantize(PLACES) if sums.judged else None
    parts = {**shares, "success_share": success}
    return {**msgspec.structs.asdict(sums), **{name: None if s is None else str(s) for name, s in parts.items()}}


def _cells(sums: ResponseSums) -> list[str]:
    cells = [f"{sums.responses:,}"]
    for name in SHARES:
        part = share(sums, name)
        cells.append(f"{getattr(sums, name):,}" + ("" if part is None else f" ({part:.2%})"))
    return cells


def share(sums: ResponseSums, name: str) -> Decimal | None:
    return (Decimal(getattr(sums, name)) / sums.responses).quantize(PLACES) if sums.responses else None
