"""An import reads its own directory alone, takes a share of the free disk, and bears many columns."""

import gzip
import json
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from services.billing.adapters import charge_database
from services.billing.adapters.charge_database import connect
from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.core.invoice_files.invalid_files import TOO_LARGE
from shared.messages.invoices import DeliveredFile
from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.billing.file_reading import TERMS, read

OUTSIDE = "/etc/passwd"


def test_sql_reaches_nothing_but_the_directory_of_the_import(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "own-not"
    own.mkdir()
    other.mkdir()
    (own / "a.txt").write_text("ours")
    (other / "a.txt").write_text("not ours")
    database = connect(own, ())
    assert database.execute("SELECT content FROM read_text(?)", [str(own / "a.txt")]).fetchall() == [("ours",)]
    for query in (
        f"SELECT * FROM read_text('{OUTSIDE}')",
        f"SELECT * FROM read_text('{own}/../../../../../../..{OUTSIDE}')",
        f"SELECT * FROM read_text('{other}/a.txt')",
        f"COPY (SELECT 1) TO '{other}/b.csv'",
        f"ATTACH '{other}/b.duckdb'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        f"SET allowed_directories = ['{other}']",
        "SET max_temp_directory_size = '1TB'",
        "SET lock_configuration = false",
    ):
        with pytest.raises(duckdb.Error, match=r"(?i)disabled|cannot change|locked"):
            database.execute(query)
    database.close()


def test_a_file_that_unpacks_to_more_than_its_share_of_the_disk_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = focus_csv(*[{}] * 2000)
    monkeypatch.setattr("services.billing.adapters.file_reader.disk_part", lambda _: len(data))
    assert read(gzip.compress(data)).snapshots
    (result,) = read(gzip.compress(data), gzip.compress(focus_csv({"BilledCost": "2"}))).refusals
    assert (result.file, result.reason) == ("1", TOO_LARGE)


def test_rows_of_parquet_count_though_they_pack_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = "SELECT DATE '2026-05-03' AS date, 'r' AS resource, 1 AS cost, 'USD' AS currency FROM range(200000)"
    path = tmp_path / "f.parquet"
    duckdb.execute(f"COPY ({sql}) TO '{path}'")
    assert path.stat().st_size < 20_000
    monkeypatch.setattr("services.billing.adapters.file_reader.disk_part", lambda _: 1_000_000)
    assert [refusal.reason for refusal in read(path).refusals] == [TOO_LARGE]


def test_what_fits_neither_memory_nor_disk_is_refused_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charge_database, "MEMORY", "25MB")
    monkeypatch.setattr(charge_database, "disk_part", lambda _: 1_000_000)
    tags = [json.dumps({"x": f"{number}{'y' * 600}"}) for number in range(15_000)]
    rows = [{"ResourceId": f"r-{number}", "Tags": tag} for number, tag in enumerate(tags)]
    assert [refusal.reason for refusal in read(focus_csv(*rows)).refusals] == [TOO_LARGE]


def test_two_hundred_columns_of_tags_are_read() -> None:
    names = [f"tag {number}" for number in range(200)]
    header = ",".join(["date", "resource", "cost", "currency", *names])
    lines = [",".join(["2026-05-03", f"r-{r}", "1", "USD", *(f"{r}-{n}" for n in range(200))]) for r in range(50)]
    result = read("\n".join([header, *lines, ""]).encode())
    tags = {row.resource_id: json.loads(row.tags or "") for row in result.rows}
    assert tags == {f"r-{r}": {name: f"{r}-{n}" for n, name in enumerate(names)} for r in range(50)}


@pytest.mark.parametrize("column", ["", ", range + 7 AS file_row_number"])
def test_the_number_of_a_row_is_no_tag_and_keeps_no_rows_apart(tmp_path: Path, column: str) -> None:
    path = tmp_path / "f.parquet"
    sql = f"SELECT DATE '2026-05-03' AS date, 'r' AS resource, 1 AS cost, 'USD' AS currency{column} FROM range(1000)"
    duckdb.execute(f"COPY ({sql}) TO '{path}'")
    result = read(path)
    assert sum(snapshot.billed for snapshot in result.snapshots) == Decimal(1000)
    if not column:
        assert [(row.rows, row.tags) for row in result.rows] == [(1000, None)]


def test_bad_row_is_reported_by_number_even_if_a_column_is_named_line(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    sql = "SELECT DATE '2026-05-03' AS date, 'r' AS resource, range::VARCHAR || 'x' AS cost, 'USD' AS currency"
    duckdb.execute(f"COPY ({sql}, 9 AS file_row_number FROM range(1)) TO '{path}'")
    assert [(r.line, r.column) for r in read(path).refusals] == [(1, "cost")]


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_that_is_called_like_a_column_changes_no_charge(tmp_path: Path, packed: bool) -> None:
    work = tmp_path / "BilledCost=99" / "ResourceId=other"
    work.mkdir(parents=True)
    path = work / "0.file"
    path.write_bytes(focus_csv({"BilledCost": "1.5", "ResourceId": "mine"}))
    if packed:
        (tmp_path / "f.csv").write_bytes(path.read_bytes())
        duckdb.execute(f"COPY (FROM read_csv('{tmp_path}/f.csv', all_varchar = true)) TO '{path}' (FORMAT parquet)")
    reading = DuckdbInvoiceReader(work, TERMS)
    try:
        reading.read([(DeliveredFile(name="f", sha256="0"), path)])
        assert [snapshot.billed for snapshot in reading.snapshots] == [Decimal("1.5")]
        assert reading.query("SELECT resource_id FROM charges") == [("mine",)]
    finally:
        reading.close()


def test_more_accounts_and_invoices_than_a_list_holds_are_refused() -> None:
    rows = [{"BillingAccountId": f"a{number % 4}", "InvoiceId": f"I{number}"} for number in range(1001)]
    assert not read(focus_csv(*rows[:1000])).refusals
    (refusal,) = read(focus_csv(*rows)).refusals
    assert refusal.reason.startswith("1,001 accounts, months or invoices, and at most 1,000")
    (refusal,) = read(focus_csv({"InvoiceId": "I" * 501})).refusals
    assert refusal.reason.startswith("a name of 501 characters (IIII")
