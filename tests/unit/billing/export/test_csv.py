"""A spreadsheet's reader gets every digit, sums that hold, and no formula."""

import csv
import io
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from services.billing.adapters.export.csv import DAY_COLUMNS, STATEMENT_COLUMNS, report_csv, statement_csv
from services.billing.core.money import to_usd
from shared.csv_cells import csv_text
from shared.messages.billing import PeriodReport
from tests.unit.billing.export.full_reports import EVIL, day_report, evil_day, period_report, statement, unknown

AMOUNTS = st.integers(-(10**18), 10**24).map(to_usd)


def rows_of(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""), strict=True))


def total(rows: list[dict[str, str]], kind: str, column: str = "spend") -> Decimal:
    return sum((Decimal(row[column] or 0) for row in rows if row["kind"] == kind), Decimal(0))


def sums_hold(report: PeriodReport) -> None:
    rows = rows_of(report_csv(report))
    assert total(rows, "total") == total(rows, "cause") == report.spend
    unattributed = sum((day.causes["unattributed"] for day in report.days), Decimal(0))
    assert total(rows, "tier") == report.spend, "with a row of what belongs to none"
    assert sum(Decimal(row["spend"]) for row in rows if row["reason"] == "unattributed") == unattributed
    for kind in ("model", "key"):
        assert total(rows, kind) + unattributed == report.spend, kind
    for kind in ("tier", "model", "key"):
        assert total(rows, kind, "tokens") == report.tokens
    assert total(rows, "direction", "tokens") == report.tokens


def test_its_columns_add_up_to_the_report() -> None:
    sums_hold(period_report(92))


@settings(max_examples=30, deadline=None)
@given(AMOUNTS)
def test_every_digit_is_there(amount: Decimal) -> None:
    """Also of 10⁻¹² and of a trillion, and without an exponent, which spreadsheets round."""
    report = day_report(spend=f"{amount:f}")
    rows = rows_of(report_csv(report))
    assert total(rows, "total") == total(rows, "cause") == amount
    assert not any("E" in row["spend"] for row in rows)


def test_each_row_names_its_kind() -> None:
    rows = rows_of(report_csv(day_report()))
    assert tuple(rows[0]) == DAY_COLUMNS
    assert rows[0] == {
        "day": "2026-05-03",
        "state": "provisional",
        "revision": "3",
        "usage_complete": "true",
        "billed_share": "0.75",
        "currency": "USD",
        "kind": "total",
        "name": "",
        "spend": "990.123456789012",
        "tokens": "400000000",
        "usd_per_mtok": "2.475308641973",
        "reason": "",
        "key_name": "",
    }
    kinds = [row["kind"] for row in rows]
    figures = {"total", "cause", "tier", "model", "key", "wakes", "direction", "beside", "variance"}
    assert set(kinds) == figures | {"change", "shared_by", "charges", "source"}
    named = {(row["kind"], row["name"]): row for row in rows}
    assert named["variance", "difference"]["spend"] == "-10.56"
    assert named["model", ""]["tokens"] == "0"
    assert named["model", ""]["usd_per_mtok"] == ""
    assert named["beside", "before_credits"]["usd_per_mtok"] == "2.64"


def test_what_is_not_known_is_empty_with_its_reason() -> None:
    rows = rows_of(report_csv(unknown()))
    first = rows[0]
    assert (first["state"], first["spend"], first["usd_per_mtok"]) == ("", "", "")
    assert first["reason"] == "cost not delivered"
    assert [row["reason"] for row in rows if row["kind"] == "usage"] == ["the day is not over"]


def test_left_out_parts_of_a_period_have_a_row() -> None:
    rows = rows_of(report_csv(replace(period_report(2), left_out="the days' keys")))
    assert (rows[-1]["kind"], rows[-1]["reason"]) == ("left_out", "the days' keys")


def test_no_cell_is_a_formula_and_no_name_breaks_a_line() -> None:
    data = report_csv(evil_day())
    assert b"\x00" not in data
    assert b"\x1b" not in data
    rows = rows_of(data)
    assert data.count(b"\r\n") == len(rows) + 1
    for row in rows:
        for column in ("kind", "name", "reason", "key_name"):
            assert not row[column].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d")), row[column]
    names = [row["name"] for row in rows if row["kind"] == "key"]
    assert '\'=HYPERLINK("http://127.0.0.1/","x")' in names
    assert "''=1" in names, "a name that already begins so is told from one that does not"


@pytest.mark.parametrize("name", EVIL)
def test_text_is_harmless(name: str) -> None:
    shown = csv_text(name)
    assert shown.isprintable()
    assert not shown.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))


def test_a_keys_name_stands_in_a_column_of_its_own() -> None:
    rows = rows_of(report_csv(day_report(names={"k1": "Acme", "k2": "=1+1"})))
    of_keys = [(row["kind"], row["name"], row["key_name"]) for row in rows if row["kind"] in ("key", "wakes")]
    keys = [("k1", "Acme"), ("k2", "'=1+1"), ("", "")]
    assert of_keys == [(kind, *key) for kind in ("key", "wakes") for key in keys]
    (first, *_) = rows_of(statement_csv(statement(name="@Acme")))
    assert (first["key_id"], first["key_name"]) == ("k1", "'@Acme")


def test_a_number_below_zero_stays_a_number() -> None:
    rows = rows_of(report_csv(day_report(spend="-5")))
    assert rows[0]["spend"] == "-5"


def test_statement_lines_add_up() -> None:
    risky = statement(key_id="=k", model="+m")
    rows = rows_of(statement_csv(risky))
    assert tuple(rows[0]) == STATEMENT_COLUMNS
    assert sum((Decimal(row["amount"]) for row in rows), Decimal(0)) == risky.amount
    assert sum(int(row["tokens"]) for row in rows) == risky.tokens
    assert rows[1]["amount"] == "0.0000055"
    assert (rows[0]["key_id"], rows[0]["model"]) == ("'=k", "'+m")
