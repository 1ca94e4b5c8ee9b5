"""Days as a workbook: typed cells, no formulas, a sheet for state and sources."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Literal

from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from services.billing.forms.words import (
    BASIS,
    NOBODY,
    TRAILING,
    UNATTRIBUTED,
    Report,
    days_of,
    decimal,
    span_of,
    trailing,
)
from shared.errors import Refusal
from shared.messages.billing import DayReport, PeriodReport
from shared.printable import printable

Kind = Literal["date", "text", "count", "money", "share"]
Cell = date | str | int | Decimal | None

FORMATS: dict[Kind, str] = {
    "date": "yyyy-mm-dd",
    "text": "@",
    "count": "#,##0",
    "money": "#,##0.00##########;[Red]-#,##0.00##########",
    "share": "0.0%",
}
WIDTHS: dict[Kind, int] = {"date": 11, "text": 22, "count": 16, "money": 18, "share": 9}
MOST_ROWS = 1_048_576
"""A sheet's limit in Excel."""
DIGITS = 15
"""That Excel keeps of a number."""


@dataclass(frozen=True)
class Sheet:
    """Columns in order with what is in them, and a row of cells for each line."""

    name: str
    columns: dict[str, Kind]
    rows: Sequence[tuple[Cell, ...]]


def report_xlsx(report: Report) -> bytes:
    """The workbook. `Refusal` where a sheet would not fit; other forms have no such limit."""
    out = io.BytesIO()
    book = Workbook(out, {"in_memory": True})
    # Not the hour of writing: a report that is written again is the same file.
    book.set_properties({"title": f"Cost of {span_of(report)}", "created": _moment(days_of(report)[-1].day)})
    formats = {kind: book.add_format({"num_format": code, "valign": "top"}) for kind, code in FORMATS.items()}
    heading = book.add_format({"bold": True, "text_wrap": True, "valign": "top"})
    for sheet in sheets(report):
        _write(book.add_worksheet(sheet.name), sheet, formats, heading)
    book.close()
    return out.getvalue()


def sheets(report: Report) -> list[Sheet]:
    """What the workbook has, in order."""
    days = days_of(report)
    sheets = [_days(days), _causes(days), _tiers(days), _models(days), _keys(days), _state(report)]
    return [_spans(report), *sheets] if isinstance(report, PeriodReport) else sheets


RATIO: dict[str, Kind] = {"USD per million": "money"}
FIGURES: dict[str, Kind] = {"spend USD": "money", "tokens": "count", **RATIO}


def _spans(report: PeriodReport) -> Sheet:
    shown = [found for days in TRAILING if (found := trailing(report, days)) is not None]
    columns: dict[str, Kind] = {"from": "date", "to": "date", "days": "count", "state": "text", **FIGURES}
    rows = [
        (_date(r.first), _date(r.to), len(r.days), _state_word(r.state), r.spend, r.tokens, r.usd_per_mtok, r.reason)
        for r in (*shown, report)
    ]
    return Sheet("blended", {**columns, "reason": "text"}, rows)


def _days(days: Sequence[DayReport]) -> Sheet:
    columns: dict[str, Kind] = {
        "day": "date",
        "state": "text",
        "revision": "count",
        **FIGURES,
        "reason": "text",
        "before credits USD": "money",
        "before credits USD per million": "money",
        "all by output USD per million": "money",
        "effective USD": "money",
        "tax USD": "money",
        "always on USD": "money",
        "always on USD per million": "money",
        "accrued USD": "money",
        "billed USD": "money",
        "input tokens": "count",
        "cached tokens": "count",
        "output tokens": "count",
        "failed tokens": "count",
    }
    return Sheet("days", columns, [_day(day) for day in days])


def _day(day: DayReport) -> tuple[Cell, ...]:
    always, variance, directions = day.always_on, day.variance, day.directions
    return (
        _date(day.day),
        _state_word(day.state),
        day.revision,
        day.spend,
        day.tokens,
        day.usd_per_mtok,
        day.reason,
        day.spend_before_credits,
        day.usd_per_mtok_before_credits,
        day.usd_per_mtok_output,
        day.effective_spend,
        day.tax,
        always.spend if always else None,
        always.usd_per_mtok if always else None,
        variance.accrued if variance else None,
        variance.billed if variance else None,
        directions.input.tokens,
        directions.cached.tokens,
        directions.output.tokens,
        day.tokens_failed,
    )


def _causes(days: Sequence[DayReport]) -> Sheet:
    columns: dict[str, Kind] = {"day": "date", "cause": "text", "spend USD": "money"}
    return Sheet("causes", columns, [(_date(day.day), *part) for day in days for part in day.causes.items()])


def _tiers(days: Sequence[DayReport]) -> Sheet:
    rows: list[tuple[Cell, ...]] = []
    for day in days:
        rows += [(_date(day.day), t.tier, t.spend, t.tokens, t.usd_per_mtok) for t in day.tiers]
        if (amount := day.causes.get(UNATTRIBUTED)) is not None:  # so that a day's rows sum to its spend
            rows.append((_date(day.day), f"({UNATTRIBUTED})", amount, None, None))
    return Sheet("tiers", {"day": "date", "tier": "text", **FIGURES}, rows)


def _models(days: Sequence[DayReport]) -> Sheet:
    rows = [(_date(day.day), _who(m.model), m.spend, m.tokens, m.usd_per_mtok) for day in days for m in day.models]
    return Sheet("models", {"day": "date", "model": "text", **FIGURES}, rows)


def _keys(days: Sequence[DayReport]) -> Sheet:
    rows = [
        (_date(day.day), k.name, _who(k.key_id), k.spend, k.tokens, k.usd_per_mtok, k.wakes)
        for day in days
        for k in day.keys
    ]
    return Sheet("keys", {"day": "date", "name": "text", "key": "text", **FIGURES, "its wakes USD": "money"}, rows)


def _state(report: Report) -> Sheet:
    rows: list[tuple[Cell, ...]] = [(None, "basis", BASIS, None)]
    if isinstance(report, PeriodReport) and report.left_out:
        rows.append((None, "left out", report.left_out, None))
    for day in days_of(report):
        about = [
            ("state", _state_word(day.state)),
            ("revision", str(day.revision)),
            ("currency", day.currency),
            ("usage", "complete" if day.usage_complete else "not complete"),
            *(("usage", reason) for reason in day.usage_reasons),
            *([("not available", day.reason)] if day.reason else []),
            *([("change", day.change)] if day.change else []),
            *([("shared cost spread by", day.shared_by)] if day.shared_by else []),
            ("charges", str(day.charges)),
            *(("source", source) for source in day.sources),
        ]
        rows.append((_date(day.day), "billed share", None, day.billed_share))
        rows.extend((_date(day.day), what, said, None) for what, said in about)
    columns: dict[str, Kind] = {"day": "date", "what": "text", "is": "text", "share": "share"}
    return Sheet("state and sources", columns, rows)


def _write(sheet: Worksheet, told: Sheet, formats: dict[Kind, Format], heading: Format) -> None:
    """Money is a number, and in a column to the right its exact text where a number would lose digits."""
    if len(told.rows) >= MOST_ROWS:
        raise Refusal(f"{told.name}: {len(told.rows):,} rows do not fit on a sheet: take fewer days, or CSV")
    money = [index for index, kind in enumerate(told.columns.values()) if kind == "money"]
    titles = [*told.columns, *(f"{list(told.columns)[index]}, exact" for index in money)]
    exact: list[Kind] = ["text"] * len(money)
    kinds = [*told.columns.values(), *exact]
    for column, (title, kind) in enumerate(zip(titles, kinds, strict=True)):
        sheet.set_column(column, column, WIDTHS[kind], None)
        sheet.write_string(0, column, title, heading)
    for line, row in enumerate(told.rows, 1):
        cells = [*row, *(_exact(row[index]) for index in money)]
        for column, (cell, kind) in enumerate(zip(cells, kinds, strict=True)):
            _cell(sheet, line, column, cell, formats[kind])
    sheet.freeze_panes(1, 0)
    sheet.autofilter(0, 0, len(told.rows), len(titles) - 1)


def _cell(sheet: Worksheet, line: int, column: int, cell: Cell, form: Format) -> None:
    match cell:
        case None:
            return
        case str():
            # `write` would make a formula or a link of some texts.
            sheet.write_string(line, column, printable(cell), form)
        case date():
            sheet.write_datetime(line, column, datetime(cell.year, cell.month, cell.day), form)  # noqa: DTZ001 - no zones in a sheet
        case _:
            sheet.write_number(line, column, cell, form)


def _exact(amount: Cell) -> str | None:
    """Its text where 15 digits do not hold it."""
    if isinstance(amount, Decimal) and Decimal(f"{amount:.{DIGITS}g}") != amount:
        return decimal(amount)
    return None


def _who(name: str | None) -> str:
    return f"({NOBODY})" if name is None else name


def _state_word(state: str | None) -> str:
    return state or "not available"


def _date(day: str) -> date:
    return date.fromisoformat(day)


def _moment(day: str) -> datetime:
    return datetime.combine(_date(day), datetime.min.time(), UTC)
