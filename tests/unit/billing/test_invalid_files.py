"""A file that is no invoice file is refused once, by what it is; of all else every cause is told at once."""

import gzip
import io
import json
import zipfile
from pathlib import Path

import duckdb
import pytest

from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.billing.file_reading import read

FOCUS = focus_csv({})
CASES = Path(__file__).parents[2] / "cases" / "invoices"
OLD_CUR = b"identity/LineItemId,bill/PayerAccountId,lineItem/UnblendedCost\nabc,1,2\n"
AZURE = b"InvoiceSectionName,SubscriptionId,date,costInBillingCurrency,billingCurrency\na,b,09/05/2026,1,USD\n"


def archive(*names: str, flags: int = 0) -> bytes:
    """A ZIP archive of empty files, marked with these flags."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name in names:
            packed.writestr(name, "")
    data = bytearray(out.getvalue())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= flags
    return bytes(data)


def parquet(sql: str, tmp_path: Path) -> bytes:
    (tmp_path / "f.csv").write_bytes(FOCUS)
    path = tmp_path / "f.parquet"
    duckdb.execute(f"COPY (SELECT {sql} FROM read_csv('{tmp_path}/f.csv', all_varchar = true)) TO '{path}'")
    return path.read_bytes()


WRONG = {
    "an empty file": b"",
    "an empty file: expected": b"\xef\xbb\xbf \r\n\r\n",
    "an Excel workbook: save": archive("[Content_Types].xml", "xl/workbook.xml"),
    "an Excel workbook, of an old format or with a password": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "an encrypted ZIP archive": archive("bill.csv", flags=1),
    "a ZIP archive: unpack it": archive("bill.csv"),
    "a ZIP archive, damaged": archive("bill.csv")[:40],
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "a web page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>",
    "not logged in": b"<html lang=en><body>Log in</body></html>",
    "an XML document": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    "JSON": json.dumps([{"BilledCost": 1}]).encode(),
    "UTF-16 text": FOCUS.decode().encode("utf-16"),
    "UTF-16 text: save": FOCUS.decode().encode("utf-16-le"),
    "a zstd archive": b"\x28\xb5\x2f\xfd" + bytes(20),
    "within gzip": gzip.compress(archive("bill.csv")),
    "a web page, as": gzip.compress(b"<!doctype html><html>"),
    "a download that stopped early (its gzip": gzip.compress(FOCUS * 20)[:-20],
    "the older Cost and Usage Report": OLD_CUR,
    "Azure's cost details": AZURE,
    "columns are separated by ';'": FOCUS.replace(b",", b";"),
    "columns are separated by ';': export": b'"date";"resource";"cost";"currency"\n"2026-05-03";"a"\n',
    "separated by ';': export it with commas": b"sep=;\n" + FOCUS.replace(b",", b";"),
    "columns are separated by tabs": FOCUS.replace(b",", b"\t"),
    "line 4 looks like the header": b'Report for May\n"for: a, b"\n\n' + FOCUS,
    "no columns that we know": b"name,amount\na,1\n",
    "801 columns, and at most 800": b"date,resource,cost,currency," + b",".join(b"t%d" % n for n in range(797)) + b"\n",
    "2,000,000 columns": b"," * 1_999_999 + b"date\n",
    "a line or a charge has more than 4,194,304 bytes": FOCUS + b'"a\n",' * 900_000,
    "more than 100,000 empty lines": FOCUS + b"\n" * 100_001,
    "more than 100,000 empty lines:": gzip.compress(b"\n" * 100_001 + FOCUS),
    "the header again": FOCUS * 2,
    "nothing but zeros": bytes(5000),
    "ends within this line": FOCUS.rpartition(b",")[0].rpartition(b",")[0],
}


def test_a_file_is_refused_once_by_what_it_is(tmp_path: Path) -> None:
    pages = parquet("*", tmp_path)
    wrong = {
        **WRONG,
        "a download that stopped early (a Parquet file": pages[:-30],
        "an encrypted Parquet": b"PARE" + pages,
    }
    result = read(*wrong.values())
    reasons: dict[str, list[str]] = {}
    for refusal in result.refusals:
        reasons.setdefault(refusal.file, []).append(refusal.reason)
    assert [len(reasons[name]) for name in reasons] == [1] * len(wrong)
    for (beginning, _), (reason,) in zip(wrong.items(), reasons.values(), strict=True):
        assert beginning in reason


def test_every_cause_of_a_file_comes_at_once(tmp_path: Path) -> None:
    typed = """true AS "ChargePeriodStart", ['x'] AS "ResourceId", 'y' AS "BilledCost\""""
    result = read(parquet(f'* EXCLUDE ("BillingCurrency") REPLACE ({typed})', tmp_path))
    assert {(r.line, r.column) for r in result.refusals} == {
        (0, "BillingCurrency"),
        (0, "ChargePeriodStart"),
        (0, "ResourceId"),
        (1, "BilledCost"),
    }
    header, row, _ = focus_csv({"ChargeCategory": "z"}, drop=("BillingCurrency",)).split(b"\r\n")
    again = read(b"\n".join([header + b",InvoiceId", row + b",1", b""]))
    assert [(r.line, r.column) for r in again.refusals] == [
        (1, "InvoiceId"),
        (1, "BillingCurrency"),
        (2, "ChargeCategory"),
    ]


@pytest.mark.parametrize("day", ["0000-01-01", "1969-12-31", "9999-01-01", "9999-12-31"])
def test_a_day_that_no_calendar_goes_on_from_is_refused(day: str) -> None:
    simple = read(f"date,resource,cost,currency\n{day},a,1,USD\n".encode())
    focus = read(focus_csv({"BillingPeriodEnd": f"{day}T00:00:00Z"}))
    for result, column in ((simple, "date"), (focus, "BillingPeriodEnd")):
        assert [(r.line, r.column) for r in result.refusals if "between the years 1970 and 9998" in r.reason] == [
            (2, column)
        ]


@pytest.mark.parametrize(
    ("name", "billed"),
    [
        ("noise-in-effective-cost.csv", ["0.30"]),
        ("quoted-crlf.csv", ["10.00"]),
        ("pass-trailing-comma.csv", ["10.00"]),
        ("pass-rounding-adjustment.csv", ["12.34"]),
        ("second-bom-account-1.csv", ["12.50"]),
        ("fault1_v.csv", ["18.00"]),
    ],
)
def test_a_file_as_a_provider_wrote_it_is_one_snapshot(name: str, billed: list[str]) -> None:
    result = read(CASES / name)
    assert not result.refusals
    assert [f"{snapshot.billed:.2f}" for snapshot in result.snapshots] == billed
