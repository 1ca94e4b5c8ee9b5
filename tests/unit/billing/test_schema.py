"""Several files as one delivery, our own form, FOCUS in Parquet and of later versions, and a reading that is ended."""

import hashlib
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from services.billing.adapters.csv_lines import PROGRESS_LINES
from services.billing.adapters.invoice_reader import DuckdbInvoiceReader
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.utc_time import parse_time_ms
from services.billing.ports import Interrupted
from shared.messages.invoices import DeliveredFile
from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.billing.file_reading import read

TERMS = ImportSettings(source="neo", mine=frozenset({"i-a", "gpu-17"}))
JUNE = {"BillingPeriodStart": "2026-06-01T00:00:00Z", "BillingPeriodEnd": "2026-07-01T00:00:00Z"}


def simple(*lines: str, header: str = "date,resource,cost,currency") -> bytes:
    return "\n".join([header, *lines, ""]).encode()


def test_two_files_are_one_delivery_and_equal_lines_of_them_stay_two_charges() -> None:
    result = read(focus_csv({}), focus_csv({}, {"BilledCost": "2"}), terms=TERMS, parts=True)
    assert sorted(row.billed for row in result.rows) == [1, 1, 2]
    (snapshot,) = result.snapshots
    assert (snapshot.rows, snapshot.billed, len(snapshot.files)) == (3, Decimal(4), 2)


def test_a_snapshot_names_the_files_that_it_comes_from_and_no_others() -> None:
    may, june = focus_csv({}), focus_csv(JUNE)
    first, second = read(may, june, terms=TERMS).snapshots
    assert [s.sha256 for s in (first, second)] == [hashlib.sha256(data).hexdigest() for data in (may, june)]
    both = read(may, june, focus_csv({}, JUNE), terms=TERMS, parts=True).snapshots
    assert [len(snapshot.files) for snapshot in both] == [2, 2]


def test_a_fault_in_one_file_keeps_all_of_them_out_and_each_is_named() -> None:
    result = read(focus_csv({"BilledCost": "x"}), focus_csv({}), focus_csv({"Tags": "y"}), terms=TERMS)
    assert not result.charges
    assert [(r.file, r.line, r.column) for r in result.refusals] == [("bill.csv", 2, "BilledCost"), ("2", 2, "Tags")]


def test_our_own_form_is_a_day_a_line() -> None:
    data = simple(
        "2026-05-31,gpu-17,57.60,USD,h100x2,",
        "2026-05-31,,4.000000000001,USD,,b",
        "2026-06-01,gpu-18,1,USD,,",
        header="date,resource,cost,currency,tier,team",
    )
    result = read(data, terms=TERMS)
    assert not result.refusals
    assert [(k.issuer, k.account, k.period_start, k.period_end) for k in result.charges] == [
        ("neo", "neo", parse_time_ms("2026-05-01T00:00:00Z"), parse_time_ms("2026-06-01T00:00:00Z")),
        ("neo", "neo", parse_time_ms("2026-06-01T00:00:00Z"), parse_time_ms("2026-07-01T00:00:00Z")),
    ]
    by_cost = {row.billed: row for row in result.rows}
    machine, shared = by_cost[Decimal("57.6")], by_cost[Decimal("4.000000000001")]
    assert (machine.charge_start, machine.charge_end) == (
        parse_time_ms("2026-05-31T00:00:00Z"),
        parse_time_ms("2026-06-01T00:00:00Z"),
    )
    assert (machine.resource_id, machine.category, machine.service_category) == ("gpu-17", "Usage", "Compute")
    assert (machine.tags, shared.tags, by_cost[Decimal(1)].tags) == ('{"tier":"h100x2"}', '{"team":"b"}', None)
    assert (shared.resource_id, shared.service_category, shared.effective) == (None, None, None)


def test_columns_of_focus_may_stand_in_our_own_form() -> None:
    header = "date,resource,cost,currency,parent,ChargeCategory,ServiceCategory,InvoiceId"
    (row,) = read(simple("2026-05-03,disk-1,1,USD,gpu-17,Credit,Storage,N-1", header=header), terms=TERMS).rows
    assert (row.parent_id, row.category, row.service_category, row.invoice_id) == ("gpu-17", "Credit", "Storage", "N-1")
    assert row.tags is None


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        ("2026-02-29,a,1,USD", "date", "expected a UTC day"),
        ("2026-05-03T00:00:00Z,a,1,USD", "date", "expected a UTC day"),
        (",a,1,USD", "date", "empty"),
        ("2026-05-03,a,,USD", "cost", "empty"),
        ("2026-05-03,a,1;5,USD", "cost", "expected a number"),
        ("2026-05-03,a,1,EUR", "currency", "'EUR'"),
        ("2026-05-03,a,1,", "currency", "empty"),
    ],
)
def test_a_bad_line_of_our_own_form_is_refused(line: str, column: str, reason: str) -> None:
    (result,) = read(simple("2026-05-03,a,1,USD", line), terms=TERMS).refusals
    assert (result.line, result.column) == (3, column)
    assert reason in result.reason


def test_names_that_differ_in_capitals_alone_are_twice_the_same() -> None:
    data = simple("2026-05-03,a,1,USD,x,y", header="date,resource,cost,currency,Team,team")
    assert [(r.line, r.column) for r in read(data, terms=TERMS).refusals] == [(1, "Team"), (1, "team")]


def test_tags_with_names_of_any_kind_harm_nothing() -> None:
    header = """date,resource,cost,currency,line,#line,"a""b",a'b,select,,tag"""
    (row,) = read(simple("2026-05-03,a,1,USD,1,2,3,4,5,6,7", header=header), terms=TERMS).rows
    assert row.tags == '{"line":"1","#line":"2","a\\"b":"3","a\'b":"4","select":"5","tag":"7"}'


def parquet(path: Path, sql: str) -> Path:
    """FOCUS as `focus_csv` has it, a column of it replaced."""
    (path.parent / "f.csv").write_bytes(focus_csv({}, {}))
    names = "all_varchar = true, nullstr = ['NULL', '']"
    duckdb.execute(f"COPY (SELECT {sql} FROM read_csv('{path.parent}/f.csv', {names})) TO '{path}' (FORMAT parquet)")
    return path


def test_focus_reads_the_same_from_parquet_and_csv(tmp_path: Path) -> None:
    typed = """* REPLACE ("BilledCost"::DOUBLE AS "BilledCost", "EffectiveCost"::DECIMAL(20, 4) AS "EffectiveCost",
        "ListCost"::INTEGER AS "ListCost", "ChargePeriodStart"::TIMESTAMP AS "ChargePeriodStart",
        "ChargePeriodEnd"::TIMESTAMPTZ AS "ChargePeriodEnd", "ResourceId"::BLOB AS "ResourceId")"""
    result = read(parquet(tmp_path / "f.parquet", typed), terms=TERMS)
    assert not result.refusals
    assert result.charges == read(focus_csv({}, {}), terms=TERMS).charges


def test_a_bad_row_of_parquet_is_refused_by_its_number(tmp_path: Path) -> None:
    bad = """* REPLACE (CASE WHEN row_number() OVER () = 2 THEN 'x' ELSE "BilledCost" END AS "BilledCost")"""
    (result,) = read(parquet(tmp_path / "f.parquet", bad), terms=TERMS).refusals
    assert (result.line, result.column) == (2, "BilledCost")


def test_zip_archive_is_rejected_with_advice_to_unpack_it() -> None:
    (result,) = read(b"PK\x03\x04...", terms=TERMS).refusals
    assert "unpack it" in result.reason


def test_later_versions_name_the_provider_otherwise() -> None:
    issuer = {"InvoiceIssuerName": "", "ServiceProviderName": "Neo Cloud"}
    (key,) = read(focus_csv(issuer), terms=TERMS).charges
    assert key.issuer == "Neo Cloud"


def test_case_30_allocated_parts_of_a_charge_are_left_out_beside_it() -> None:
    host = {"BilledCost": "10", "AllocatedMethodId": ""}
    parts = [{"BilledCost": "6", "AllocatedMethodId": "by-cpu"}, {"BilledCost": "4", "AllocatedMethodId": "by-cpu"}]
    assert [row.billed for row in read(focus_csv(host, *parts), terms=TERMS).rows] == [10]
    assert sum(row.billed for row in read(focus_csv(*parts), terms=TERMS).rows) == 10
    other = {**host, "ResourceId": "i-b"}
    assert sum(row.billed for row in read(focus_csv(other, *parts), terms=TERMS).rows) == 20
    # Beside the parts of one charge there may be another one, for the traffic of the same machine in the same hour.
    traffic = {**host, "BilledCost": "0.09", "ServiceName": "Data Transfer"}
    assert sum(row.billed for row in read(focus_csv(traffic, *parts), terms=TERMS).rows) == Decimal("10.09")
    assert sum(row.billed for row in read(focus_csv(host, traffic, *parts), terms=TERMS).rows) == Decimal("10.09")
    # They may come in another file of the delivery than the charge itself.
    assert [row.billed for row in read(focus_csv(*parts), focus_csv(host), terms=TERMS).rows] == [10]


def test_a_reading_can_be_ended_and_then_has_nothing(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_bytes(focus_csv(*[{}] * (PROGRESS_LINES + 1)))
    reading = DuckdbInvoiceReader(tmp_path, TERMS)
    reading.interrupt()
    with pytest.raises(Interrupted):
        reading.read([(DeliveredFile(name="f.csv", sha256="0"), tmp_path / "f.csv")])
    assert reading.snapshots == ()
    reading.close()
