"""Workbooks have typed cells, exact text where a number would not do, and no formulas; read as the XML they are."""

import io
import zipfile
from decimal import Decimal
from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from services.billing.forms import xlsx
from services.billing.forms.xlsx import report_xlsx
from shared.errors import Refusal
from tests.unit.billing.forms.kit import day_report, evil_day, period_report, unknown

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
EPOCH = 46145
"""2026-05-03 as a sheet counts days."""


class Book:
    """Sheets by name, each a list of rows of cells as text; `kinds` has each cell's type and format."""

    def __init__(self, data: bytes) -> None:
        self.files = {}
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            self.files = {name: archive.read(name) for name in archive.namelist()}
        strings = ["".join(t.text or "" for t in si.iter(f"{MAIN}t")) for si in self._xml("xl/sharedStrings.xml")]
        codes = {f.get("numFmtId"): f.get("formatCode") for f in self._xml("xl/styles.xml").iter(f"{MAIN}numFmt")}
        styles = [xf.get("numFmtId") for xf in self._xml("xl/styles.xml").iterfind(f"{MAIN}cellXfs/{MAIN}xf")]
        self.sheets: dict[str, list[dict[str, str]]] = {}
        self.kinds: dict[str, dict[str, set[tuple[str, str | None]]]] = {}
        for number, sheet in enumerate(self._xml("xl/workbook.xml").iter(f"{MAIN}sheet"), 1):
            name = sheet.get("name") or ""
            lines: list[dict[str, str]] = []
            kinds: dict[str, set[tuple[str, str | None]]] = {}
            for row in self._xml(f"xl/worksheets/sheet{number}.xml").iter(f"{MAIN}row"):
                line = {}
                for cell in row.iter(f"{MAIN}c"):
                    column, kind = (cell.get("r") or "").rstrip("0123456789"), cell.get("t") or "n"
                    value = cell.findtext(f"{MAIN}v") or ""
                    line[column] = strings[int(value)] if kind == "s" else value
                    if lines:
                        code = styles[int(cell.get("s") or 0)]
                        kinds.setdefault(lines[0][column], set()).add((kind, codes.get(code, code)))
                lines.append(line)
            self.sheets[name] = [{title: line.get(c, "") for c, title in lines[0].items()} for line in lines[1:]]
            self.kinds[name] = kinds

    def _xml(self, name: str) -> ET.Element:
        return ET.fromstring(self.files[name])


def test_a_period_has_a_sheet_for_each_view_and_one_for_its_sources() -> None:
    book = Book(report_xlsx(period_report(30)))
    assert list(book.sheets) == ["blended", "days", "causes", "tiers", "models", "keys", "state and sources"]
    assert [row["days"] for row in book.sheets["blended"]] == ["7", "28", "30"]
    assert len(book.sheets["days"]) == 30
    said = {(row["what"], row["is"]) for row in book.sheets["state and sources"]}
    for wanted in (
        ("state", "final"),
        ("state", "estimated"),
        ("change", "late usage"),
        ("currency", "USD"),
        ("charges", "12"),
    ):
        assert wanted in said
    assert any("SHA-256" in text for what, text in said if what == "source")
    assert any("BilledCost" in text for what, text in said if what == "basis")


def test_cells_have_types() -> None:
    book = Book(report_xlsx(day_report(keys=("0123", "k2", None), names={"0123": "Acme"})))
    (day,) = book.sheets["days"]
    assert day["day"] == str(EPOCH)
    assert (day["state"], day["revision"], day["tokens"]) == ("provisional", "3", "400000000")
    kinds = book.kinds["days"]
    assert kinds["day"] == {("n", "yyyy-mm-dd")}
    assert kinds["tokens"] == {("n", "#,##0")}
    assert {kind for kind, _ in kinds["spend USD"]} == {"n"}
    assert [row["key"] for row in book.sheets["keys"]] == ["0123", "k2", "(nobody)"]
    assert [row["name"] for row in book.sheets["keys"]] == ["Acme", "", ""]
    assert {kind for kind, _ in book.kinds["keys"]["key"]} == {"s"}, "an id stays text"


def test_a_number_that_would_lose_digits_has_its_text_beside() -> None:
    (day,) = Book(report_xlsx(day_report(spend="990123456.789012000001"))).sheets["days"]
    assert day["spend USD, exact"] == "990123456.789012000001"
    (day,) = Book(report_xlsx(day_report(spend="12345.678901234567"))).sheets["days"]
    assert day["spend USD, exact"] == "12345.678901234567", "a double holds them, Excel shows fifteen"
    (day,) = Book(report_xlsx(day_report(spend="990.123456789012"))).sheets["days"]
    assert day["spend USD, exact"] == "", "fifteen digits are all there"
    assert Decimal(day["spend USD"]) == Decimal("990.123456789012")


def test_money_of_the_causes_sums_to_the_spend() -> None:
    report = period_report(30)
    rows = Book(report_xlsx(report)).sheets["causes"]
    exact = sum((Decimal(row["spend USD, exact"] or row["spend USD"]) for row in rows), Decimal(0))
    assert exact == report.spend


def test_the_rows_of_the_tiers_sum_to_the_spend() -> None:
    report = period_report(3)
    rows = Book(report_xlsx(report)).sheets["tiers"]
    assert [row["tier"] for row in rows if row["day"] == rows[0]["day"]] == ["h100x2", "l4x2", "(unattributed)"]
    exact = sum((Decimal(row["spend USD, exact"] or row["spend USD"]) for row in rows), Decimal(0))
    assert exact == report.spend


def test_there_is_no_formula_and_no_link() -> None:
    data = report_xlsx(evil_day())
    book = Book(data)
    for name, content in book.files.items():
        assert b"<f>" not in content, name
        assert b"<hyperlink" not in content, name
        assert b"TargetMode" not in content, name
    assert '=HYPERLINK("http://127.0.0.1/","x")' in [row["model"] for row in book.sheets["models"]]
    assert all(row["key"].isprintable() for row in book.sheets["keys"])


def test_what_is_not_known_is_an_empty_cell_and_a_reason() -> None:
    book = Book(report_xlsx(unknown()))
    (day,) = book.sheets["days"]
    assert (day["state"], day["spend USD"], day["reason"]) == ("not available", "", "cost not delivered")
    assert book.sheets["causes"] == []


def test_equal_reports_are_equal_bytes() -> None:
    first = report_xlsx(period_report(3))
    assert first == report_xlsx(period_report(3))
    assert first != report_xlsx(period_report(4))
    assert b"2026-05-31T00:00:00Z" in Book(first).files["docProps/core.xml"]


def test_a_text_longer_than_a_cell_is_cut_and_nothing_is_lost_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(day_report(), change="c" * 40_000)
    (change,) = [row["is"] for row in Book(report_xlsx(long)).sheets["state and sources"] if row["what"] == "change"]
    assert len(change) == 32_767
    monkeypatch.setattr(xlsx, "MOST_ROWS", 100)
    with pytest.raises(Refusal, match="causes: 240 rows do not fit on a sheet: take fewer days, or CSV"):
        report_xlsx(period_report(30))
