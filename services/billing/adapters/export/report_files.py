"""A report's or a statement's files, by the name of the form."""

from collections.abc import Mapping

from services.billing.adapters.export.csv import report_csv, statement_csv
from services.billing.adapters.export.html import report_html, statement_html
from services.billing.adapters.export.json import render_json
from services.billing.adapters.export.xlsx import report_xlsx
from shared.messages.billing import DayReport, PeriodReport, Statement


def render_files(message: DayReport | PeriodReport | Statement) -> Mapping[str, bytes]:
    """`json`, `csv`, `html` and, of a report, `xlsx`. Equal reports have equal files."""
    if isinstance(message, Statement):
        return {"json": render_json(message), "csv": statement_csv(message), "html": statement_html(message).encode()}
    return {
        "json": render_json(message),
        "csv": report_csv(message),
        "xlsx": report_xlsx(message),
        "html": report_html(message).encode(),
    }
