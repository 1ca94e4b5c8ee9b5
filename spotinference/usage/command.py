"""The command `usage`."""

from datetime import date, timedelta
from pathlib import Path

import click

from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_TOKENS
from shared.messages.meter import Tokens, TokensQuery
from spotinference.context import Context, suite_options
from spotinference.keys.store import read_key_names
from spotinference.option_types import DayParam, ListParam
from spotinference.terminal import echo_json
from spotinference.times import today
from spotinference.usage.view import KEY, KEY_NAME, _with_name, print_usage, usage_json, write_csv

DIMENSIONS = ("day", "hour", "minute", "model", "tier", "machine", "key", "direction", "outcome")


@click.command()
@click.option("--day", type=DayParam(), help="UTC day.  [default: today]")
@click.option("--days", type=click.IntRange(1, 366), help="Number of days, ending at --to.")
@click.option("--from", "first", type=DayParam(), help="First day, instead of --days.")
@click.option("--to", type=DayParam(), help="With --days or --from: last day.  [default: today]")
@click.option(
    "--by",
    type=ListParam(DIMENSIONS),
    default="",
    help=f"Group by dimensions, comma-separated: {', '.join(DIMENSIONS)}.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", "csv_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a CSV file.")
@suite_options
def usage(
    context: Context,
    *,
    day: str | None,
    days: int | None,
    first: str | None,
    to: str | None,
    by: tuple[str, ...],
    as_json: bool,
    csv_path: Path | None,
) -> None:
    """Show the token counts of a day, or of several, from the ledger."""
    start, end = day_span(day, days, first, to)
    query = TokensQuery(day=start, to=end, by=by)

    async def work(bus: Bus) -> tuple[Tokens, dict[str, str]]:
        tokens = await request_reply(bus, METER_TOKENS, query, Tokens)
        return tokens, await read_key_names(bus) if KEY in query.by else {}

    tokens, names = context.run_with_bus(work)
    columns = [column for part in query.by for column in ((part, KEY_NAME) if part == KEY else (part,))]
    rows = [(_with_name(row.dimensions, names), row.sums) for row in tokens.rows]
    if csv_path is not None:
        write_csv(csv_path, columns, rows or [({}, tokens.totals)])
    if as_json:
        echo_json(usage_json(tokens, rows))
    elif csv_path is None:
        print_usage(columns, rows, tokens)


def day_span(day: str | None, days: int | None, first: str | None, to: str | None) -> tuple[str, str | None]:
    """Return `day` and `to` of the query."""
    if sum(option is not None for option in (day, days, first)) > 1:
        raise click.UsageError("--day, --days and --from cannot be combined")
    if day is not None or (days, first, to) == (None, None, None):
        if to is not None:
            raise click.UsageError("--to needs --days or --from")
        return day or today(), None
    last = to or today()
    if first is not None:
        return first, last
    try:
        return (date.fromisoformat(last) - timedelta(days=(days or 1) - 1)).isoformat(), last
    except OverflowError:
        raise click.UsageError(
            f"--days: {days} days before {last} is earlier than the year 1: ask for fewer days"
        ) from None
