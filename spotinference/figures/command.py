"""`spotinference figures`: how fast the service was, out of the ledger."""

import time

import click
from rich.table import Table

from shared.bus.subjects import METER_FIGURES
from shared.messages.codec import rfc3339
from shared.messages.meter_figures import Figures, FiguresQuery
from spotinference.context import Context, request_reply, suite_options
from spotinference.figures.view import figure_lines
from spotinference.terminal import echo_json, print_table

DAY = 86400.0


@click.command()
@click.option("--days", type=click.IntRange(1, 92), default=1, show_default=True, help="UTC days, today the last one.")
@click.option("--tier", help="Only this tier.")
@click.option("--model", help="Only this model.")
@click.option("--by", default="tier,model", show_default=True, help="Dimensions: tier, model, day, hour.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with a list of rows.")
@suite_options
def figures(context: Context, days: int, tier: str | None, model: str | None, by: str, *, as_json: bool) -> None:
    """Speed: time to the first token, per token, tokens per second, waits for wakes, the gateway's own part."""
    dimensions = tuple(part.strip() for part in by.split(",") if part.strip())
    end = (time.time() // DAY + 1) * DAY
    query = FiguresQuery(start=end - days * DAY, end=end, by=dimensions, tier=tier, model=model)
    found = context.run_with_bus(lambda bus: request_reply(bus, METER_FIGURES, query, Figures))
    if as_json:
        span = {"from": rfc3339(found.start), "to": rfc3339(found.end), "relative_error": found.relative_error}
        rows = [
            {**row.dimensions, **row.measures, "output_rate": row.output, "total_rate": row.total} for row in found.rows
        ]
        echo_json({**span, "rows": rows})
        return
    title = f"{rfc3339(found.start)[:10]}, {days} days" if days > 1 else f"{rfc3339(found.start)[:10]} UTC"
    table = Table(*dimensions, "what", "of", "p50", "p95", "p99", title=title)
    for row in found.rows:
        for cells in figure_lines(row):
            table.add_row(*(row.dimensions[d] for d in dimensions), *cells)
        table.add_section()
    print_table(table)
