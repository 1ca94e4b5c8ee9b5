"""A figure that is new is calculated for days and periods, and each form of a report shows it."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from msgspec.structs import asdict, replace
from rich.console import Console

from services.billing.adapters.export.csv import report_csv
from services.billing.adapters.export.formatting import Report
from services.billing.adapters.export.html import report_html
from services.billing.adapters.export.xlsx import sheets
from services.billing.core.reports.period_report import build_period_report
from shared.messages.billing import DayReport, ReportFigures
from spotinference.report.view import render_report
from tests.unit.billing.export.full_reports import WEIGHTS, day_report, lacking

FIGURES = ReportFigures.__struct_fields__
DAYS = (day_report("2026-05-03"), lacking("2026-05-04"))
"""Between them they have every figure."""
OTHER_STATE = {"provisional": "final", "estimated": "provisional"}


def terminal(report: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(render_report(report, 120))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


FORMS: Mapping[str, Callable[[DayReport], object]] = {
    "csv": report_csv,
    "xlsx": lambda report: [sheet for sheet in sheets(report) if sheet.name != "exact"],  # which is the CSV again
    "html": report_html,
    "terminal": terminal,
}
LEFT_OUT: Mapping[str, set[str]] = {"terminal": {"spend_before_credits"}}
"""Figures that a form does not show: the terminal has the price before credits alone."""


def is_there(value: object) -> bool:
    return value not in (None, 0, (), {})


def altered(value: Any) -> Any:
    """Another value of the same type."""
    match value:
        case None:
            return None
        case str():
            return OTHER_STATE.get(value, f"{value}!")
        case tuple():
            return value[:-1]
        case dict():
            return {name: altered(part) for name, part in value.items()}
        case msgspec.Struct():
            return replace(value, **{name: altered(part) for name, part in asdict(value).items()})
        case _:
            return value + 1


@pytest.mark.parametrize("name", FIGURES)
def test_a_period_has_every_figure_of_its_days(name: str) -> None:
    assert any(is_there(getattr(day, name)) for day in DAYS), f"the days of this test have no {name}"
    periods = [build_period_report([day, replace(day, day="2026-05-05")], WEIGHTS) for day in DAYS]
    assert any(is_there(getattr(period, name)) for period in periods)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FIGURES)
def test_every_form_shows_every_figure(name: str, form: str) -> None:
    show = FORMS[form]
    having = [day for day in DAYS if is_there(getattr(day, name))]
    is_shown = any(show(day) != show(replace(day, **{name: altered(getattr(day, name))})) for day in having)
    assert is_shown == (name not in LEFT_OUT.get(form, ()))
