"""Writes sheets of typed cells as a workbook that can be printed: no formulas, no links, the same bytes each time."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import MAX_PREC, ROUND_HALF_EVEN, Context, Decimal
from typing import Literal

from xlsxwriter import Workbook
from xlsxwriter.format import Format
from xlsxwriter.worksheet import Worksheet

from shared.errors import Rejected
from shared.printable import printable

Kind = Literal["date", "text", "count", "money", "ratio", "share"]
Cell = date | str | int | Decimal | None
Row = tuple[Cell, ...]
Formats = dict[Kind, Format]

WIDTHS: dict[Kind, int] = {"date": 11, "text": 22, "count": 16, "money": 13, "ratio": 13, "share": 9}
WIDEST = 48
"""A column of texts is as wide as these, up to so many characters: a filled cell beside one cuts it off."""
MOST_ROWS = 1_048_576
"""A sheet's limit in Excel."""
A4 = 9
_ANY = Context(prec=MAX_PREC)
"""Rounds amounts of any size."""


@dataclass(frozen=True)
class Sheet:
    """Columns in order with what is in them, a row of cells for each line, and the last line in bold."""

    name: str
    columns: Sequence[tuple[str, Kind]]
    rows: Sequence[Row]
    total: Row | None = None
    pages: int = 2
    """How many pages of paper it takes at most; 0: its columns' names alone are printed."""


def write_workbook(sheets: Sequence[Sheet], *, title: str, created: datetime, cents: int) -> bytes:
    """The file. `cents`: the decimals of money. `Rejected` where a sheet would not fit."""
    places: dict[Kind, int] = {"money": cents, "ratio": max(4, cents)}
    out = io.BytesIO()
    book = Workbook(out, {"in_memory": True})
    book.set_properties({"title": title, "created": created})
    writer = _Writer(book, places)
    for sheet in sheets:
        writer.add(sheet, title)
    book.close()
    return out.getvalue()


class _Writer:
    """A cell holds what it shows, so that nobody adds up digits that are not seen."""

    def __init__(self, book: Workbook, places: dict[Kind, int]) -> None:
        codes: dict[Kind, str] = {"date": "yyyy-mm-dd", "text": "@", "count": "#,##0", "share": "0.0%"}
        codes |= {kind: f"#,##0.{'0' * count};[Red]-#,##0.{'0' * count}" for kind, count in places.items()}
        self._book = book
        self._places = places
        self._plain: Formats = {k: book.add_format({"num_format": c, "valign": "top"}) for k, c in codes.items()}
        self._bold: Formats = {k: book.add_format({"num_format": c, "bold": True, "top": 1}) for k, c in codes.items()}
        self._heading = book.add_format({"bold": True, "text_wrap": True, "valign": "top", "bottom": 1})

    def add(self, sheet: Sheet, title: str) -> None:
        if len(sheet.rows) + 1 >= MOST_ROWS:
            raise Rejected(f"{sheet.name}: {len(sheet.rows):,} rows do not fit on a sheet: take fewer days, or CSV")
        worksheet = self._book.add_worksheet(sheet.name)
        for column, (heading, kind) in enumerate(sheet.columns):
            texts = [len(cell) for row in sheet.rows if isinstance(cell := row[column], str)]
            worksheet.set_column(column, column, min(max([WIDTHS[kind], *texts]), WIDEST), None)
            worksheet.write_string(0, column, heading, self._heading)
        for line, row in enumerate(sheet.rows, 1):
            self._line(worksheet, line, row, sheet, self._plain)
        if sheet.total:
            last = len(sheet.rows) + 1
            self._line(worksheet, last, sheet.total, sheet, self._bold)
            worksheet.write_string(last, 0, "total", self._bold["text"])
        worksheet.freeze_panes(1, 0)
        worksheet.autofilter(0, 0, len(sheet.rows), len(sheet.columns) - 1)
        _print_setup(worksheet, sheet, title)

    def _line(self, worksheet: Worksheet, line: int, row: Row, sheet: Sheet, formats: Formats) -> None:
        for column, (cell, (_, kind)) in enumerate(zip(row, sheet.columns, strict=True)):
            cell_format = formats[kind]
            match cell:
                case None:
                    worksheet.write_blank(line, column, None, cell_format)
                case str():
                    # `write` would make a formula or a link of some texts.
                    worksheet.write_string(line, column, printable(cell), cell_format)
                case date():
                    worksheet.write_datetime(line, column, datetime(cell.year, cell.month, cell.day), cell_format)  # noqa: DTZ001 - no zones in a sheet
                case Decimal() if kind in self._places:
                    worksheet.write_number(line, column, _rounded(cell, self._places[kind]), cell_format)
                case _:
                    worksheet.write_number(line, column, cell, cell_format)


def _print_setup(worksheet: Worksheet, sheet: Sheet, title: str) -> None:
    worksheet.set_landscape()
    worksheet.set_paper(A4)
    worksheet.set_margins(left=0.5, right=0.5)
    worksheet.repeat_rows(0)
    worksheet.fit_to_pages(1, max(1, sheet.pages))
    worksheet.set_footer(f"&L{sheet.name}: {title}&R&P of &N")
    if not sheet.pages:
        worksheet.print_area(0, 0, 0, len(sheet.columns) - 1)


def _rounded(amount: Decimal, places: int) -> Decimal:
    return amount.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN, _ANY)
