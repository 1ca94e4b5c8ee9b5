"""`spotinference statement`: what a key used in a month, at the prices in force."""

from pathlib import Path

import click

from services.billing.forms.csv import statement_csv
from services.billing.forms.html import statement_html
from services.billing.forms.json import fields
from shared.bus.ports import Bus
from shared.bus.subjects import BILLING_STATEMENT
from shared.errors import Rejected
from shared.messages.billing import Statement, StatementQuery
from spotinference.context import Context, ask, fail, suite_options
from spotinference.keys.store import ids_of
from spotinference.output_file import write
from spotinference.statement.view import show
from spotinference.terminal import echo_json, say
from spotinference.times import today

STATEMENT_SECONDS = 60.0
MOST_IDS = 20
"""Of keys with one name that an error lists."""
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("key", metavar="KEY")
@click.option("--month", help="A calendar month in UTC, YYYY-MM; this one by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--csv", type=_FILE, help="Write a CSV file with every digit.")
@click.option("--html", type=_FILE, help="Write one self-contained HTML file.")
@suite_options
def statement(
    context: Context, key: str, *, month: str | None, as_json: bool, csv: Path | None, html: Path | None
) -> None:
    """What a key used in a month, and what it costs. KEY is its id or its name."""

    async def told(bus: Bus) -> Statement | None:
        ids = await ids_of(bus, key)
        if len(ids) > 1:
            more = f" and {len(ids) - MOST_IDS} more" if len(ids) > MOST_IDS else ""
            raise Rejected(
                f"{len(ids)} keys have the name {key!r}: give the id of one: {', '.join(ids[:MOST_IDS])}{more}"
            )
        query = StatementQuery(key_id=ids[0] if ids else key, month=month or today()[:7])
        found = await ask(bus, BILLING_STATEMENT, query, Statement, timeout=STATEMENT_SECONDS)
        return found if found.lines or ids else None

    found = context.on_bus(told)
    if found is None:
        fail(f"no key has the id or the name {key!r}: `spotinference keys list` shows them")
    if csv is not None:
        write("--csv", csv, statement_csv(found))
    if html is not None:
        write("--html", html, statement_html(found).encode())
    if as_json:
        echo_json(fields(found))
    elif csv is None and html is None:
        show(found)
    else:
        say(f"wrote {', '.join(str(path) for path in (csv, html) if path is not None)}")
