"""Days, periods and statements as one HTML file each that needs nothing else: no script, no font, no address."""

from decimal import Decimal
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from services.billing.adapters.export import bill_coverage, formatting
from shared.key_names import key_label
from shared.messages.billing import DayReport, PeriodReport, Statement
from shared.report_forms import words
from shared.report_forms.charts import cause_bars, plot_days

MOST_ROWS = 25
"""Rows of models, and of keys, on a page; the rest is in one row. The other formats have all rows."""


def report_html(report: DayReport | PeriodReport) -> str:
    """The file's text. Amounts are rounded to cents here, never in the report."""
    shown = {
        "report": report,
        "span": formatting.span_of(report),
        "models": formatting.split_top(report.models, MOST_ROWS),
        "keys": formatting.split_top(report.keys, MOST_ROWS),
        "bars": cause_bars(report.causes),
    }
    if isinstance(report, DayReport):
        return _pages().get_template("day.html").render(shown)
    return (
        _pages()
        .get_template("period.html")
        .render(
            shown,
            plot=plot_days(report.days),
            bill_headings=[bill_coverage.source_heading(source) for source in report.bills],
            bill_runs=bill_coverage.coverage_by_days(report),
            sources=sorted({source for day in report.days for source in day.sources}),
            trailing=[
                period
                for days in formatting.TRAILING
                if (period := formatting.trailing_period(report, days)) is not None
            ],
        )
    )


def statement_html(statement: Statement) -> str:
    """The file's text; amounts rounded to cents."""
    models = dict.fromkeys(line.model for line in statement.lines)
    return (
        _pages()
        .get_template("statement.html")
        .render(
            statement=statement,
            label=key_label(statement.key_id, statement.name),
            models=[_model(statement, m) for m in models],
        )
    )


def _model(statement: Statement, model: str) -> tuple[str, int, Decimal | None]:
    """Its tokens and its amount, None where one of its lines has none."""
    lines = [line for line in statement.lines if line.model == model]
    tokens = sum(line.prompt_tokens + line.completion_tokens for line in lines)
    amounts = [line.amount for line in lines if line.amount is not None]
    return model, tokens, sum(amounts, Decimal(0)) if len(amounts) == len(lines) else None


@cache
def _pages() -> Environment:
    environment = Environment(
        loader=ChoiceLoader(
            [PackageLoader("services.billing.adapters", "export"), PackageLoader("shared.report_forms", ".")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=words.shown,
    )
    environment.filters["usd"] = words.format_usd
    environment.filters["count"] = words.format_count
    environment.filters["what"] = formatting.line_name
    environment.globals["lacking"] = formatting.missing_reason
    environment.filters["share"] = words.format_share
    environment.globals["state_words"] = words.STATE_WORDS
    environment.globals["basis"] = words.BASIS
    environment.globals["most_rows"] = MOST_ROWS
    environment.globals["nobody"] = formatting.NOBODY
    return environment
