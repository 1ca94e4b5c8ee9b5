"""Token counts as a table, as JSON and as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.table import Table

from shared.csv_cells import csv_text
from shared.messages.meter import Tokens, TokenSums
from spotinference.context import exit_with_error
from spotinference.terminal import print_line, print_table

COUNTS = TokenSums.__struct_fields__
KEY = "key"
KEY_NAME = "key_name"
Row = tuple[Mapping[str, str | None], TokenSums]
"""A row's dimensions and its counts."""


def _with_name(dimensions: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str | None]:
    """Return the dimensions; if there is a key, also its name, or None if the name is unknown."""
    return {**dimensions, KEY_NAME: names.get(dimensions[KEY])} if KEY in dimensions else {**dimensions}


def usage_json(tokens: Tokens, rows: Sequence[Row]) -> dict[str, object]:
    span = {"day": tokens.day} if tokens.to is None else {"from": tokens.day, "to": tokens.to}
    return {
        **span,
        "complete": tokens.complete,
        "reasons": tokens.reasons,
        "totals": msgspec.structs.asdict(tokens.totals),
        "rows": [{**dimensions, **msgspec.structs.asdict(sums)} for dimensions, sums in rows],
    }


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    lines = [[*(csv_text(dimensions.get(column)) for column in columns), *_values(sums)] for dimensions, sums in rows]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[*columns, *COUNTS], *lines])
    except OSError as error:
        exit_with_error(f"--csv: {error}")


def print_usage(columns: Sequence[str], rows: Iterable[Row], tokens: Tokens) -> None:
    span = tokens.day if tokens.to is None else f"{tokens.day} to {tokens.to}"
    table = Table(*(name.replace("_", " ") for name in (*columns, *COUNTS)), title=f"{span} UTC")
    for dimensions, sums in rows:
        table.add_row(*(dimensions[column] or "" for column in columns), *_cells(sums))
    if columns:
        table.add_section()
    table.add_row(*([""] * len(columns)), *_cells(tokens.totals))
    print_table(table)
    for reason in tokens.reasons:
        print_line(f"not complete: {reason}")


def _values(sums: TokenSums) -> list[int]:
    return [getattr(sums, name) for name in COUNTS]


def _cells(sums: TokenSums) -> list[str]:
    return [f"{value:,}" for value in _values(sums)]
