"""The command `figures`."""

import time

import click
from rich.table import Table

from shared.bus.request import request_reply
from shared.bus.subjects import METER_FIGURES
from shared.messages.codec import rfc3339
from shared.messages.meter_figures import Figures, FiguresQuery
from shared.units import DAY_S
from spotinference.context import Context, suite_options
from spotinference.figures.view import figure_lines
from spotinference.option_types import ListParam
from spotinference.terminal import echo_json, print_table

DIMENSIONS = ("tier", "model", "day", "hour")


@click.command()
@click.option(
    "--days", type=click.IntRange(1, 92), default=1, show_default=True, help="Number of UTC days, including today."
)
@click.option("--tier", help="Show one tier only.")
@click.option("--model", help="Show one model only.")
@click.option(
    "--by",
    type=ListParam(DIMENSIONS),
    default="tier,model",
    show_default=True,
    help=f"Group by dimensions, comma-separated: {', '.join(DIMENSIONS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@suite_options
def figures(
    context: Context, days: int, tier: str | None, model: str | None, by: tuple[str, ...], *, as_json: bool
) -> None:
    """Show latency and throughput: time to first token and per token, tokens per second, waits, gateway overhead."""
    end = (time.time() // DAY_S + 1) * DAY_S
    query = FiguresQuery(start=end - days * DAY_S, end=end, by=by, tier=tier, model=model)
    reply = context.run_with_bus(lambda bus: request_reply(bus, METER_FIGURES, query, Figures))
    if as_json:
        span = {"from": rfc3339(reply.start), "to": rfc3339(reply.end), "relative_error": reply.relative_error}
        rows = [
            {**row.dimensions, **row.measures, "output_rate": row.output, "total_rate": row.total} for row in reply.rows
        ]
        echo_json({**span, "rows": rows})
        return
    title = f"{rfc3339(reply.start)[:10]}, {days} days" if days > 1 else f"{rfc3339(reply.start)[:10]} UTC"
    table = Table(*by, "figure", "samples", "p50", "p95", "p99", title=title)
    for row in reply.rows:
        for cells in figure_lines(row):
            table.add_row(*(row.dimensions[d] for d in by), *cells)
        table.add_section()
    print_table(table)
