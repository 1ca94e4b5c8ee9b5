"""`docs/reference/reports.md` names every field of a report's JSON, and the columns and kinds of its CSV."""

import csv
import io
from typing import get_args

from msgspec.structs import fields, replace

from services.billing.adapters.export.csv import DAY_COLUMNS, STATEMENT_COLUMNS, report_csv
from services.billing.adapters.export.json import json_fields
from services.billing.adapters.export.xlsx import sheets
from shared.messages.billing import DayReport, Statement
from shared.messages.explanation import CostLine, Explanation, LineKind
from tests.docs.pages import page
from tests.unit.billing.export.full_reports import day_report, period_report, unknown

NAMED = set(page("docs/reference/reports.md").spans)


def test_every_field_of_the_json_is_described() -> None:
    period = json_fields(period_report(2))
    described = {*json_fields(day_report()), *(field.name for field in fields(Statement)), *period}
    assert described - NAMED == set()
    assert {field.name for field in fields(DayReport)} <= described


def test_every_field_of_an_explanation_is_described() -> None:
    described = {field.name for struct in (Explanation, CostLine) for field in fields(struct)}
    assert {*described, *get_args(LineKind)} - NAMED == set()


def test_every_column_and_kind_of_the_csv_is_described() -> None:
    assert {*DAY_COLUMNS, *STATEMENT_COLUMNS} - NAMED == set()
    report = replace(period_report(2), left_out="keys")
    rows = [*rows_of(report_csv(report)), *rows_of(report_csv(unknown()))]
    assert {row["kind"] for row in rows} - NAMED == set()
    assert {row["name"] for row in rows if row["kind"] == "beside"} - NAMED == set()


def test_every_sheet_of_the_workbook_is_described() -> None:
    assert {sheet.name for sheet in sheets(period_report(9))} - NAMED == set()


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))
