"""`spotinference usage`: tokens of a day, or of several, out of the ledger."""

import csv
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click
import msgspec
from rich.table import Table

from shared.bus.subjects import METER_TOKENS
from shared.messages.meter import Tokens, TokensQuery, TokenSums
from spotinference.context import Context, ask, fail, suite_options
from spotinference.terminal import echo_json, say, show

COUNTS = TokenSums.__struct_fields__


def today() -> str:
    """The UTC day, `YYYY-MM-DD`."""
    return datetime.now(UTC).date().isoformat()


@click.command()
@click.option("--day", help="A UTC day, YYYY-MM-DD; today by default.")
@click.option("--days", type=click.IntRange(1, 366), help="So many days, up to --to or today.")
@click.option("--from", "first", help="The first of several days.")
@click.option("--to", help="The last of several days; today by default.")
@click.option(
    "--by",
    default="",
    help="Dimensions, separated by commas: day, hour, minute, model, tier, machine, key, direction, outcome.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object with totals and rows.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False), help="Write the rows to a file.")
@suite_options
def usage(
    context: Context,
    *,
    day: str | None,
    days: int | None,
    first: str | None,
    to: str | None,
    by: str,
    as_json: bool,
    csv_path: Path | None,
) -> None:
    """Tokens of a day, or of several in a row, from the ledger."""
    start, end = _span(day, days, first, to)
    query = TokensQuery(day=start, to=end, by=tuple(part.strip() for part in by.split(",") if part.strip()))
    tokens = context.on_bus(lambda bus: ask(bus, METER_TOKENS, query, Tokens))
    if csv_path is not None:
        _write(csv_path, query.by, tokens)
    if as_json:
        echo_json(_told(tokens))
    elif csv_path is None:
        _print(query.by, tokens)


def _span(day: str | None, days: int | None, first: str | None, to: str | None) -> tuple[str, str | None]:
    """The query's `day` and `to`."""
    if sum(option is not None for option in (day, days, first)) > 1:
        raise click.UsageError("--day, --days and --from exclude one another")
    if day is not None or (days, first, to) == (None, None, None):
        if to is not None:
            raise click.UsageError("--to goes with --days or --from")
        return day or today(), None
    last = to or today()
    if first is not None:
        return first, last
    try:
        return (date.fromisoformat(last) - timedelta(days=(days or 1) - 1)).isoformat(), last
    except (ValueError, OverflowError):
        raise click.UsageError(f"--to: expected YYYY-MM-DD such as 2026-11-23, got {to!r}") from None


def _told(tokens: Tokens) -> dict[str, object]:
    span = {"day": tokens.day} if tokens.to is None else {"from": tokens.day, "to": tokens.to}
    return {
        **span,
        "complete": tokens.complete,
        "reasons": tokens.reasons,
        "totals": msgspec.structs.asdict(tokens.totals),
        "rows": [{**row.dimensions, **msgspec.structs.asdict(row.sums)} for row in tokens.rows],
    }


def _write(path: Path, dimensions: Sequence[str], tokens: Tokens) -> None:
    """The rows, or the totals where no dimension was asked for."""
    rows: list[list[object]] = [[*map(row.dimensions.get, dimensions), *_values(row.sums)] for row in tokens.rows]
    if not dimensions:
        rows = [[*_values(tokens.totals)]]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([[*dimensions, *COUNTS], *rows])
    except OSError as error:
        fail(f"--csv: {error}")


def _print(dimensions: Sequence[str], tokens: Tokens) -> None:
    span = tokens.day if tokens.to is None else f"{tokens.day} to {tokens.to}"
    table = Table(*dimensions, *(name.replace("_", " ") for name in COUNTS), title=f"{span} UTC")
    for row in tokens.rows:
        table.add_row(*(row.dimensions[d] for d in dimensions), *_cells(row.sums))
    if dimensions:
        table.add_section()
    table.add_row(*([""] * len(dimensions)), *_cells(tokens.totals))
    show(table)
    for reason in tokens.reasons:
        say(f"not complete: {reason}")


def _values(sums: TokenSums) -> list[int]:
    return [getattr(sums, name) for name in COUNTS]


def _cells(sums: TokenSums) -> list[str]:
    return [f"{value:,}" for value in _values(sums)]
