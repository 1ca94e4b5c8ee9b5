"""`spotinference report`: cost per million tokens of a day or of several, on the terminal or as files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click
from msgspec.structs import replace

from services.billing.forms.csv import report_csv
from services.billing.forms.html import report_html
from services.billing.forms.json import fields
from services.billing.forms.words import HEADLINE_DAYS, Report
from services.billing.forms.xlsx import report_xlsx
from shared.bus.ports import Bus
from shared.bus.subjects import BILLING_REPORT, BILLING_REPORTS
from shared.messages.billing import DayReport, PeriodReport, ReportQuery, ReportsQuery
from spotinference.context import Context, ask, suite_options
from spotinference.output_file import write
from spotinference.report.explanation_view import chosen
from spotinference.report.explanation_view import fields as explained_fields
from spotinference.report.explanation_view import view as explained
from spotinference.report.view import view
from spotinference.terminal import Screen, echo_json, say
from spotinference.times import today

REPORTS_SECONDS = 120.0
"""For many days: each is made anew from the books and the meter."""
EXPLAIN_SECONDS = 600.0
"""To explain a day, its charges are read again, whether or not they have changed."""
Query = ReportQuery | ReportsQuery
FORMS: Mapping[str, Callable[[Report], bytes]] = {
    "--csv": report_csv,
    "--xlsx": report_xlsx,
    "--html": lambda report: report_html(report).encode(),
}
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--day", help="A UTC day, YYYY-MM-DD; today by default.")
@click.option("--days", type=click.IntRange(1), help="So many days, up to --to or today.")
@click.option("--to", help="The last of several days; today by default.")
@click.option(
    "--explain", metavar="FIGURE", help="What a figure is made of: `unattributed`, `shared` or a tier's name."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--csv", type=_FILE, help="Write a CSV file with every digit.")
@click.option("--xlsx", type=_FILE, help="Write a workbook.")
@click.option("--html", type=_FILE, help="Write one self-contained HTML file.")
@suite_options
def report(
    context: Context,
    *,
    day: str | None,
    days: int | None,
    to: str | None,
    explain: str | None,
    as_json: bool,
    csv: Path | None,
    xlsx: Path | None,
    html: Path | None,
) -> None:
    """What a million tokens cost, of a day or of several in a row: by cause, tier, model and key.

    Without --day and --days the terminal shows the last seven days, then today.
    """
    if day is not None and (days, to) != (None, None):
        raise click.UsageError("--day goes without --days and --to")
    if to is not None and days is None:
        raise click.UsageError("--to goes with --days")
    asked = {"--csv": csv, "--xlsx": xlsx, "--html": html}
    wanted = {option: path for option, path in asked.items() if path is not None}
    if explain is not None and wanted:
        raise click.UsageError("--explain goes with --json alone: the HTML file has all explanations")
    week = day is None and days is None and explain is None and not wanted and not as_json
    query = _query(day or today(), to or today(), HEADLINE_DAYS if week else days)
    query = replace(query, explain=explain is not None or html is not None)
    figures = context.on_bus(lambda bus: _ask(bus, query))
    if explain is not None:
        _explain(figures, explain, as_json=as_json)
        return
    for option, path in wanted.items():
        write(option, path, FORMS[option](figures))
    if as_json:
        echo_json(fields(figures))
    elif wanted:
        say(f"wrote {', '.join(map(str, wanted.values()))}")
    else:
        _show(figures)
        if week and isinstance(figures, PeriodReport):
            say()
            _show(figures.days[-1])


def _query(day: str, to: str, days: int | None) -> Query:
    return ReportQuery(day=day) if days is None else ReportsQuery(to=to, days=days)


async def _ask(bus: Bus, query: Query) -> Report:
    if isinstance(query, ReportQuery):
        return await ask(bus, BILLING_REPORT, query, DayReport)
    seconds = EXPLAIN_SECONDS if query.explain else REPORTS_SECONDS
    return await ask(bus, BILLING_REPORTS, query, PeriodReport, timeout=seconds)


def _explain(figures: Report, figure: str, *, as_json: bool) -> None:
    one = chosen(figures, figure)
    if as_json:
        echo_json(explained_fields(figures, one))
    else:
        console = Screen()
        console.print(explained(figures, one, console.width))


def _show(figures: Report) -> None:
    console = Screen()
    console.print(view(figures, console.width))
