"""The command `report`."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click
from msgspec.structs import replace

from services.billing.adapters.export.csv import report_csv
from services.billing.adapters.export.formatting import HEADLINE_DAYS, Report
from services.billing.adapters.export.html import report_html
from services.billing.adapters.export.json import json_fields
from services.billing.adapters.export.xlsx import report_xlsx
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import BILLING_REPORT, BILLING_REPORTS
from shared.messages.billing import DayReport, PeriodReport, ReportQuery, ReportsQuery
from spotinference.context import Context, suite_options
from spotinference.option_types import DayParam
from spotinference.output_file import write_output
from spotinference.report.explanation_view import explanation_json, find_explanation, render_explanation
from spotinference.report.view import render_report
from spotinference.terminal import Screen, echo_json, print_line
from spotinference.times import today

REPORTS_SECONDS = 120.0
"""For many days: each report is computed from the charges and the meter."""
EXPLAIN_SECONDS = 600.0
"""To explain a day, billing reads its charges again, even if they have not changed."""
Query = ReportQuery | ReportsQuery
EXPORTS: Mapping[str, Callable[[Report], bytes]] = {
    "--csv": report_csv,
    "--xlsx": report_xlsx,
    "--html": lambda report: report_html(report).encode(),
}
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--day", type=DayParam(), help="UTC day.  [default: today]")
@click.option("--days", type=click.IntRange(1), help="Number of days, ending at --to.")
@click.option("--to", type=DayParam(), help="With --days: last day.  [default: today]")
@click.option(
    "--explain", metavar="FIGURE", help="Show the parts of a figure: `unattributed`, `shared` or a tier's name."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", type=_FILE, help="Write a CSV file, with all decimals.")
@click.option("--xlsx", type=_FILE, help="Write an Excel workbook.")
@click.option("--html", type=_FILE, help="Write a self-contained HTML file.")
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
    """Show the cost of a million tokens, of a day or of several: by cause, tier, model and key.

    Without --day and --days, show the last seven days, then today.
    """
    if day is not None and (days, to) != (None, None):
        raise click.UsageError("--day cannot be combined with --days or --to")
    if to is not None and days is None:
        raise click.UsageError("--to needs --days")
    options = {"--csv": csv, "--xlsx": xlsx, "--html": html}
    outputs = {option: path for option, path in options.items() if path is not None}
    if explain is not None and outputs:
        raise click.UsageError("--explain can be combined with --json only; the HTML file has all explanations")
    week = day is None and days is None and explain is None and not outputs and not as_json
    query = _query(day or today(), to or today(), HEADLINE_DAYS if week else days)
    query = replace(query, explain=explain is not None or html is not None)
    figures = context.run_with_bus(lambda bus: _request(bus, query))
    if explain is not None:
        _explain(figures, explain, as_json=as_json)
        return
    for option, path in outputs.items():
        write_output(option, path, EXPORTS[option](figures))
    if as_json:
        echo_json(json_fields(figures))
    elif outputs:
        print_line(f"wrote {', '.join(map(str, outputs.values()))}")
    else:
        _show(figures)
        if week and isinstance(figures, PeriodReport):
            print_line()
            _show(figures.days[-1])


def _query(day: str, to: str, days: int | None) -> Query:
    return ReportQuery(day=day) if days is None else ReportsQuery(to=to, days=days)


async def _request(bus: Bus, query: Query) -> Report:
    if isinstance(query, ReportQuery):
        return await request_reply(bus, BILLING_REPORT, query, DayReport)
    seconds = EXPLAIN_SECONDS if query.explain else REPORTS_SECONDS
    return await request_reply(bus, BILLING_REPORTS, query, PeriodReport, timeout=seconds)


def _explain(figures: Report, figure: str, *, as_json: bool) -> None:
    one = find_explanation(figures, figure)
    if as_json:
        echo_json(explanation_json(figures, one))
    else:
        console = Screen()
        console.print(render_explanation(figures, one, console.width))


def _show(figures: Report) -> None:
    console = Screen()
    console.print(render_report(figures, console.width))
