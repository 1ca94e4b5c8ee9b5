"""The command `statement`."""

from pathlib import Path

import click

from services.billing.adapters.export.csv import statement_csv
from services.billing.adapters.export.html import statement_html
from services.billing.adapters.export.json import json_fields
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_STATEMENT
from shared.errors import Rejected
from shared.messages.billing import Statement, StatementQuery
from spotinference.context import Context, exit_with_error, suite_options
from spotinference.keys.store import find_key_ids
from spotinference.option_types import MonthParam
from spotinference.output_file import write_output
from spotinference.statement.view import print_statement
from spotinference.terminal import echo_json, print_line
from spotinference.times import today

STATEMENT_SECONDS = 60.0
MAX_IDS = 20
"""The most ids of keys with one name that an error lists."""
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("key", metavar="KEY")
@click.option("--month", type=MonthParam(), help="Calendar month in UTC.  [default: this month]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", type=_FILE, help="Write a CSV file, with all decimals.")
@click.option("--html", type=_FILE, help="Write a self-contained HTML file.")
@suite_options
def statement(
    context: Context, key: str, *, month: str | None, as_json: bool, csv: Path | None, html: Path | None
) -> None:
    """Show what a key used in a month, and what it costs. KEY is its id or its name."""

    async def read(bus: Bus) -> Statement | None:
        ids = await find_key_ids(bus, key)
        if len(ids) > 1:
            more = f" and {len(ids) - MAX_IDS} more" if len(ids) > MAX_IDS else ""
            raise Rejected(f"{len(ids)} keys are named {key!r}: pass the id of one: {', '.join(ids[:MAX_IDS])}{more}")
        query = StatementQuery(key_id=ids[0] if ids else key, month=month or today()[:7])
        reply = await request_reply(bus, BILLING_STATEMENT, query, Statement, timeout=STATEMENT_SECONDS)
        return reply if reply.lines or ids else None

    reply = context.run_with_bus(read)
    if reply is None:
        exit_with_error(f"no key has the id or the name {key!r}: `spotinference keys list` shows them")
    if csv is not None:
        write_output("--csv", csv, statement_csv(reply))
    if html is not None:
        write_output("--html", html, statement_html(reply).encode())
    if as_json:
        echo_json(json_fields(reply))
    elif csv is None and html is None:
        print_statement(reply)
    else:
        print_line(f"wrote {', '.join(str(path) for path in (csv, html) if path is not None)}")
