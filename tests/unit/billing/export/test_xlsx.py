"""Workbooks have typed cells in cents, every digit on a sheet of its own, and no formulas; read as the XML they are."""

import csv
import io
import zipfile
from decimal import Decimal
from xml.etree import ElementTree as ET

import pytest
from msgspec.structs import replace

from services.billing.adapters.export import workbook
from services.billing.adapters.export.csv import report_csv
from services.billing.adapters.export.xlsx import report_xlsx
from services.billing.core.reports.period_report import build_period_report
from shared.errors import Rejected
from tests.unit.billing.export.full_reports import WEIGHTS, day_report, evil_day, lacking, period_report, unknown

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
EPOCH = 46145
"""2026-05-03 as a sheet counts days."""


def unpacked(data: bytes) -> dict[str, bytes]:
    """The files of a workbook."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


class Book:
    """Sheets by name, each a list of rows of cells as text; `kinds` has each cell's type and format."""

    def __init__(self, data: bytes) -> None:
        self.files = unpacked(data)
        strings = ["".join(t.text or "" for t in si.iter(f"{MAIN}t")) for si in self.xml("xl/sharedStrings.xml")]
        codes = {f.get("numFmtId"): f.get("formatCode") for f in self.xml("xl/styles.xml").iter(f"{MAIN}numFmt")}
        styles = [xf.get("numFmtId") for xf in self.xml("xl/styles.xml").iterfind(f"{MAIN}cellXfs/{MAIN}xf")]
        self.sheets: dict[str, list[dict[str, str]]] = {}
        self.kinds: dict[str, dict[str, set[tuple[str, str | None]]]] = {}
        for number, sheet in enumerate(self.xml("xl/workbook.xml").iter(f"{MAIN}sheet"), 1):
            name = sheet.get("name") or ""
            lines: list[dict[str, str]] = []
            kinds: dict[str, set[tuple[str, str | None]]] = {}
            for row in self.xml(f"xl/worksheets/sheet{number}.xml").iter(f"{MAIN}row"):
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

    def xml(self, name: str) -> ET.Element:
        return ET.fromstring(self.files[name])


def test_a_period_has_its_totals_first_and_every_digit_last() -> None:
    report = period_report(30)
    book = Book(report_xlsx(report))
    assert list(book.sheets) == ["summary", "days", "causes", "tiers", "notes", "exact"]
    assert [row["name"] for row in book.sheets["summary"]][:3] == ["all of it", "the last 7 days", "the last 28 days"]
    assert [row["day"] for row in book.sheets["days"]][-1] == "total"
    assert len(book.sheets["days"]) == 30 + 1
    notes = {(row["what"], row["is"]) for row in book.sheets["notes"]}
    assert ("change", "late usage") in notes
    assert any("SHA-256" in text for what, text in notes if what == "source")
    assert any("BilledCost" in text for what, text in notes if what == "basis")


def test_amounts_are_in_cents_and_their_digits_on_a_sheet_of_their_own() -> None:
    report = day_report(spend="990123456.789012000001")
    book = Book(report_xlsx(report))
    (day, total) = book.sheets["days"]
    assert (day["spend USD"], total["spend USD"]) == ("990123456.79", "990123456.79")
    assert book.kinds["days"]["spend USD"] == {("n", "#,##0.00;[Red]-#,##0.00")}
    (exact,) = [row for row in book.sheets["exact"] if row["kind"] == "total"]
    assert exact["spend"] == "990123456.789012000001"
    assert book.sheets["exact"] == list(csv.DictReader(io.StringIO(report_csv(report).decode(), newline="")))


def test_less_than_a_dollar_in_all_is_not_shown_as_nothing() -> None:
    day = Book(report_xlsx(day_report(spend="0.000842123"))).sheets["days"][0]
    assert Decimal(day["spend USD"]) == Decimal("0.000842")


@pytest.mark.parametrize(("days", "keys"), [(1, 60), (31, 60), (366, 1)])
def test_it_is_printed_on_ten_pages_at_most(days: int, keys: int) -> None:
    files = unpacked(report_xlsx(period_report(days, keys=tuple(f"k{n}" for n in range(keys)))))
    pages = 0
    for name in (name for name in files if name.startswith("xl/worksheets/")):
        sheet = ET.fromstring(files[name])
        setup, fits = sheet.find(f"{MAIN}pageSetup"), sheet.find(f"{MAIN}sheetPr/{MAIN}pageSetUpPr")
        assert setup is not None
        assert fits is not None
        assert (fits.get("fitToPage"), setup.get("orientation"), setup.get("paperSize")) == ("1", "landscape", "9")
        pages += int(setup.get("fitToHeight", "1"))
    assert pages <= 10
    areas = ET.fromstring(files["xl/workbook.xml"]).iter(f"{MAIN}definedName")
    named = {(area.get("name"), area.text) for area in areas}
    assert ("_xlnm.Print_Area", "exact!$A$1:$M$1") in named, "rows for machines are not printed"
    assert ("_xlnm.Print_Titles", "days!$1:$1") in named


def test_a_text_beside_a_figure_is_seen_whole() -> None:
    """A column as narrow as before would cut off the span of a period and the id of a key without a name."""
    key = "01a219a3-e008-7827-ab22-9b393852b162"
    book = Book(
        report_xlsx(build_period_report([day_report("2026-05-03", keys=(key,)), day_report("2026-05-04")], WEIGHTS))
    )
    columns = list(book.xml("xl/worksheets/sheet1.xml").iter(f"{MAIN}col"))
    widths = {int(c.get("min") or 0): float(c.get("width") or 0) for c in columns}
    assert widths[1] >= len("2026-05-03 to 2026-05-04")
    assert widths[2] >= len(key)


def test_cells_have_types() -> None:
    book = Book(report_xlsx(day_report(keys=("0123", "k2", None), names={"0123": "Acme"})))
    day = book.sheets["days"][0]
    assert day["day"] == str(EPOCH)
    assert (day["state"], day["revision"], day["tokens"]) == ("provisional", "3", "400000000")
    kinds = book.kinds["days"]
    assert kinds["day"] == {("n", "yyyy-mm-dd"), ("s", "@")}
    assert kinds["tokens"] == {("n", "#,##0")}
    named = [(row["name"], row["said"]) for row in book.sheets["summary"] if row["part"] == "key"]
    assert named == [("Acme", "0123"), ("k2", ""), ("(nobody)", "")]
    keys = [row for row in book.sheets["exact"] if row["kind"] == "key"]
    assert [(row["name"], row["key_name"]) for row in keys] == [("0123", "Acme"), ("k2", ""), ("", "")]
    assert {kind for kind, _ in book.kinds["exact"]["name"]} == {"s"}, "an id stays text"


def test_causes_and_tiers_have_a_column_each_and_the_total_of_all_days() -> None:
    report = period_report(3)
    assert report.spend is not None
    book = Book(report_xlsx(report))
    for name, first, last in (("causes", "Serving", "sum"), ("tiers", "h100x2", "(sum)")):
        rows = book.sheets[name]
        assert [row["day"] for row in rows][-1] == "total"
        assert (list(rows[0])[1], list(rows[0])[-1]) == (first, last)
        assert Decimal(rows[-1][last]) == round(report.spend, 2)
        for row in rows:
            parts = sum(Decimal(value or 0) for title, value in row.items() if title not in ("day", last))
            assert abs(parts - Decimal(row[last])) <= Decimal("0.04"), "each is rounded by itself"
    tiers = [row for row in book.sheets["exact"] if row["kind"] == "tier"]
    assert sum((Decimal(row["spend"]) for row in tiers), Decimal(0)) == report.spend
    assert [row["reason"] for row in tiers][2] == "unattributed"


def test_many_tiers_keys_and_notes_end_in_a_rest() -> None:
    report = replace(period_report(40, keys=tuple(f"k{n}" for n in range(60))), left_out=None)
    tier = report.tiers[0]
    report = replace(report, tiers=tuple(replace(tier, tier=f"t{n}") for n in range(20)))
    days_with_changes = tuple(replace(day, change="late usage") for day in report.days)
    busy = replace(
        report,
        days=tuple(replace(day, usage_complete=False, usage_reasons=("a", "b", "c")) for day in days_with_changes),
    )
    book = Book(report_xlsx(busy))
    assert [row["name"] for row in book.sheets["summary"] if row["part"] == "key"][-1] == "(35 more)"
    assert "(12 more)" in book.sheets["tiers"][0]
    assert len(book.sheets["notes"]) == 101
    assert book.sheets["notes"][-1]["what"] == "more"


def test_there_is_no_formula_and_no_link() -> None:
    data = report_xlsx(evil_day())
    book = Book(data)
    for name, content in book.files.items():
        assert b"<f>" not in content, name
        assert b"<hyperlink" not in content, name
        assert b"TargetMode" not in content, name
    assert '=HYPERLINK("http://127.0.0.1/","x")' in [row["name"] for row in book.sheets["summary"]]
    assert all(cell.isprintable() for rows in book.sheets.values() for row in rows for cell in row.values())


def test_what_is_not_known_is_an_empty_cell_and_a_reason() -> None:
    book = Book(report_xlsx(unknown()))
    day = book.sheets["days"][0]
    assert (day["state"], day["spend USD"], day["reason"]) == ("not available", "", "cost not delivered")
    assert {value for row in book.sheets["causes"] for title, value in row.items() if title != "day"} == {""}


def test_what_is_known_of_a_day_that_lacks_a_bill_stands_beside_the_reason() -> None:
    lone = lacking()
    for report in (lone, build_period_report([lone], WEIGHTS)):
        book = Book(report_xlsx(report))
        summary = {(row["part"], row["name"]): row for row in book.sheets["summary"]}
        assert summary[lone.day, "all of it"]["spend USD"] == ""
        assert summary[lone.day, "known of it"]["spend USD"] == "0.750000"
        first = lone.tiers[0]
        assert (summary["tier", first.tier]["spend USD"], summary["tier", first.tier]["said"]) == ("", first.reason)
        for row in book.sheets["causes"]:
            assert (row["sum"], row["known of it"]) == ("", "0.750000")
            assert row["Waking"] == f"{lone.causes['waking']:.6f}"
    (always,) = [row for row in Book(report_xlsx(lone)).sheets["summary"] if row["name"] == "always on"]
    assert (always["spend USD"], always["said"]) == ("", "no price_per_hour: h100x2")
    whole = build_period_report([day_report("2026-05-03"), lone], WEIGHTS)
    assert [row["known of it"] == "" for row in Book(report_xlsx(whole)).sheets["causes"]] == [True, False, False]


def test_equal_reports_are_equal_bytes() -> None:
    first = report_xlsx(period_report(3))
    assert first == report_xlsx(period_report(3))
    assert first != report_xlsx(period_report(4))
    assert b"2026-05-31T00:00:00Z" in Book(first).files["docProps/core.xml"]


def test_a_text_longer_than_a_cell_is_cut_and_nothing_is_lost_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    long = replace(day_report(), change="c" * 40_000)
    (change,) = [row["is"] for row in Book(report_xlsx(long)).sheets["notes"] if row["what"] == "change"]
    assert len(change) == 32_767
    monkeypatch.setattr(workbook, "MOST_ROWS", 100)
    with pytest.raises(Rejected, match=r"exact: .* rows do not fit on a sheet: take fewer days, or CSV"):
        report_xlsx(period_report(30))
