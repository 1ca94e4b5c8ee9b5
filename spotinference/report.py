"""`spotinference report`: a day's cost per million tokens, on the terminal, as JSON or as HTML."""

import time
from decimal import Decimal
from pathlib import Path

import click
import msgspec
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from services.billing.html import render
from shared.bus.subjects import BILLING_REPORT
from shared.errors import Misconfigured
from shared.messages.billing import DayReport, ReportQuery
from spotinference.context import Context, ask, echo_json, suite_options
from spotinference.usage import today

BAR = 24


@click.command()
@click.option("--day", default=today, show_default="today", help="A UTC day, YYYY-MM-DD.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write one self-contained HTML file.")
@suite_options
def report(context: Context, day: str, html: Path | None, *, as_json: bool) -> None:
    """What a day cost, by cause, and what a million tokens cost."""
    figures = context.on_bus(lambda bus: ask(bus, BILLING_REPORT, ReportQuery(day=day), DayReport))
    if html is not None:
        try:
            html.write_text(render(figures, time.time()), "utf-8")
        except OSError as error:
            raise Misconfigured(f"--html {html}: {error.strerror}") from error
    if as_json:
        fields = msgspec.to_builtins(figures)
        del fields["type"]
        echo_json(fields)
    elif html is None:
        Console().print(on_terminal(figures))
    else:
        click.echo(f"wrote {html}")


def on_terminal(report: DayReport) -> Group:
    """The report as rich's text: the headline, then spend by cause, then by tier."""
    headline = Text()
    if report.usd_per_mtok is None:
        headline.append(f"$/Mtok not available: {report.reason}", "bold")
    else:
        headline.append(f"${report.usd_per_mtok:,.4f} per million tokens", "bold")
    headline.append(f"\n{report.day} UTC, {report.state or 'no figure'}, revision {report.revision}, ")
    headline.append(f"{report.tokens:,} tokens served, ")
    headline.append(f"spend {'unknown' if report.spend is None else _usd(report.spend)}")
    if report.tax:
        headline.append(f", tax beside it {_usd(report.tax)}")
    causes = Table("cause", "", "USD", box=None, pad_edge=False)
    causes.columns[2].justify = "right"
    whole = report.spend or Decimal(1)
    for cause, amount in report.causes.items():
        filled = max(0, min(BAR, round(amount / whole * BAR))) if whole else 0
        causes.add_row(cause.replace("_", " "), "█" * filled, f"{amount:,.6f}")
    if report.spend is not None:
        causes.add_section()
        causes.add_row("sum", "", f"{sum(report.causes.values(), Decimal(0)):,.6f}")
    tiers = Table("tier", "USD", "tokens", "$/Mtok", box=None, pad_edge=False)
    for tier in report.tiers:
        ratio = "no tokens" if tier.usd_per_mtok is None else f"{tier.usd_per_mtok:,.4f}"
        tiers.add_row(tier.tier, f"{tier.spend:,.6f}", f"{tier.tokens:,}", ratio)
    return Group(headline, Text(), causes, Text(), tiers)


def _usd(amount: Decimal) -> str:
    return f"${amount:,.6f}"
