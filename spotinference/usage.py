"""`spotinference usage`: a day's tokens out of the ledger."""

from datetime import UTC, datetime

import click
import msgspec
from rich.table import Table

from shared.bus.subjects import METER_TOKENS
from shared.messages.meter import Tokens, TokensQuery, TokenSums
from spotinference.context import Context, ask, echo_json, show, suite_options

COUNTS = TokenSums.__struct_fields__


def today() -> str:
    """The UTC day, `YYYY-MM-DD`."""
    return datetime.now(UTC).date().isoformat()


@click.command()
@click.option("--day", default=today, show_default="today", help="A UTC day, YYYY-MM-DD.")
@click.option("--by", default="", help="Dimensions, separated by commas: model, tier, key, machine, outcome.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with totals and rows.")
@suite_options
def usage(context: Context, day: str, by: str, *, as_json: bool) -> None:
    """Tokens of a day, from the ledger."""
    dimensions = tuple(part.strip() for part in by.split(",") if part.strip())
    query = TokensQuery(day=day, by=dimensions)
    tokens = context.on_bus(lambda bus: ask(bus, METER_TOKENS, query, Tokens))
    if as_json:
        rows = [{**row.dimensions, **msgspec.structs.asdict(row.sums)} for row in tokens.rows]
        totals = msgspec.structs.asdict(tokens.totals)
        echo_json({"day": tokens.day, "complete": tokens.complete, "totals": totals, "rows": rows})
        return
    table = Table(*dimensions, *(name.replace("_", " ") for name in COUNTS), title=f"{tokens.day} UTC")
    for row in tokens.rows:
        table.add_row(*(row.dimensions[d] for d in dimensions), *_cells(row.sums))
    if dimensions:
        table.add_section()
    table.add_row(*([""] * len(dimensions)), *_cells(tokens.totals))
    show(table)


def _cells(sums: TokenSums) -> list[str]:
    return [f"{getattr(sums, name):,}" for name in COUNTS]
