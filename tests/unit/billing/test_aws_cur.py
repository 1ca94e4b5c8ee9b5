"""CUR 2.0: what the invoice adds up to, what it is worth spread over time, and nothing twice."""

from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.utc_time import parse_time_ms
from tests.unit.billing.file_reading import read

TERMS = ImportSettings(source="aws", mine=frozenset({"i-a", "vol-a"}))
ROW = {
    "bill_payer_account_id": "'123456789012'",
    "bill_billing_entity": "'AWS'",
    "bill_invoicing_entity": "'Amazon Web Services, Inc.'",
    "bill_invoice_id": "NULL::VARCHAR",
    "bill_billing_period_start_date": "TIMESTAMP_MS '2026-05-01'",
    "bill_billing_period_end_date": "TIMESTAMP_MS '2026-06-01'",
    "line_item_usage_start_date": "TIMESTAMP_MS '2026-05-03 05:00:00'",
    "line_item_usage_end_date": "TIMESTAMP_MS '2026-05-03 06:00:00'",
    "line_item_line_item_type": "'Usage'",
    "line_item_product_code": "'AmazonEC2'",
    "line_item_usage_type": "'BoxUsage:p5.48xlarge'",
    "line_item_resource_id": "'i-a'",
    "line_item_currency_code": "'USD'",
    "line_item_usage_amount": "1.0::DOUBLE",
    "line_item_unblended_cost": "55.04::DOUBLE",
    "pricing_public_on_demand_cost": "98.32::DOUBLE",
    "pricing_unit": "'Hrs'",
    "product_product_family": "'Compute Instance'",
    "resource_tags": "MAP {'user_tier': 'A', 'aws_created_by': 'x'}",
    "savings_plan_savings_plan_effective_cost": "NULL::DOUBLE",
    "savings_plan_total_commitment_to_date": "NULL::DOUBLE",
    "savings_plan_used_commitment": "NULL::DOUBLE",
    "reservation_effective_cost": "NULL::DOUBLE",
    "reservation_reservation_a_r_n": "NULL::VARCHAR",
    "split_line_item_parent_resource_id": "NULL::VARCHAR",
    "line": "'a column of that name'",
}
"""As AWS's Parquet has them: doubles, timestamps, a map."""


def cur(path: Path, *rows: dict[str, str], drop: tuple[str, ...] = (), form: str = "FORMAT parquet") -> Path:
    """A file whose rows differ from `ROW` as told, in SQL."""
    names = [name for name in {**ROW, **{name: "" for row in rows for name in row}} if name not in drop]
    every = " UNION ALL ".join(
        f"SELECT {', '.join(f'{ {**ROW, **row}[name] } AS {name}' for name in names)}" for row in rows
    )
    duckdb.execute(f"COPY ({every}) TO '{path}' ({form})")
    return path


def test_a_row_of_parquet_is_read_with_every_digit(tmp_path: Path) -> None:
    result = read(cur(tmp_path / "cur.parquet", {}), terms=TERMS)
    assert not result.refusals
    ((key, (row,)),) = result.charges.items()
    assert (key.issuer, key.account) == ("Amazon Web Services, Inc.", "123456789012")
    assert (key.period_start, key.period_end) == (
        parse_time_ms("2026-05-01T00:00:00Z"),
        parse_time_ms("2026-06-01T00:00:00Z"),
    )
    assert (row.charge_start, row.charge_end) == (
        parse_time_ms("2026-05-03T05:00:00Z"),
        parse_time_ms("2026-05-03T06:00:00Z"),
    )
    assert (row.billed, row.effective, row.list_cost) == (Decimal("55.04"), Decimal("55.04"), Decimal("98.32"))
    assert (row.category, row.service_category, row.service_name) == ("Usage", "Compute", "AmazonEC2")
    assert (row.resource_id, row.invoice_id, row.consumed_quantity, row.consumed_unit) == (
        "i-a",
        None,
        Decimal(1),
        "Hrs",
    )
    assert row.tags == '{"user_tier":"A","aws_created_by":"x"}'


def test_gzipped_csv_reads_the_same_as_plain_csv(tmp_path: Path) -> None:
    tags = {"resource_tags": """'{"user_tier": "A", "aws_created_by": "x"}'"""}
    packed = read(cur(tmp_path / "cur.csv.gz", tags, form="FORMAT csv, COMPRESSION gzip"), terms=TERMS)
    assert not packed.refusals
    assert packed.charges == read(cur(tmp_path / "cur.parquet", {}), terms=TERMS).charges


def test_net_cost_is_what_counts_where_there_is_one(tmp_path: Path) -> None:
    net = {"line_item_net_unblended_cost": "50.5::DOUBLE"}
    assert read(cur(tmp_path / "a", net), terms=TERMS).rows[0].billed == Decimal("50.5")
    none = {"line_item_net_unblended_cost": "NULL::DOUBLE"}
    assert read(cur(tmp_path / "b", none), terms=TERMS).rows[0].billed == Decimal("55.04")


def test_case_6_a_savings_plan_hour_is_billed_once_and_worth_the_same(tmp_path: Path) -> None:
    kind = "line_item_line_item_type"
    covered = {
        kind: "'SavingsPlanCoveredUsage'",
        "line_item_unblended_cost": "100::DOUBLE",
        "savings_plan_savings_plan_effective_cost": "60::DOUBLE",
    }
    negation = {kind: "'SavingsPlanNegation'", "line_item_unblended_cost": "-100::DOUBLE"}
    fee = {
        kind: "'SavingsPlanRecurringFee'",
        "line_item_unblended_cost": "72::DOUBLE",
        "savings_plan_total_commitment_to_date": "72::DOUBLE",
        "savings_plan_used_commitment": "60::DOUBLE",
        "line_item_resource_id": "NULL",
    }
    result = read(cur(tmp_path / "cur", covered, negation, fee), terms=TERMS).rows
    assert sum(row.billed for row in result) == 72
    assert [row.effective for row in sorted(result, key=lambda row: row.billed)] == [0, 12, 60]
    assert sorted(row.category for row in result) == ["Purchase", "Usage", "Usage"]


def test_each_type_of_line_has_its_category(tmp_path: Path) -> None:
    categories = {
        "Tax": "Tax",
        "Credit": "Credit",
        "Refund": "Adjustment",
        "EdpDiscount": "Adjustment",
        "BundledDiscount": "Adjustment",
        "RIFee": "Purchase",
        "Fee": "Purchase",
        "DiscountedUsage": "Usage",
        "usage": "Usage",
    }
    rows = [
        {"line_item_line_item_type": f"'{kind}'", "line_item_unblended_cost": f"{number}::DOUBLE"}
        for number, kind in enumerate(categories)
    ]
    result = {row.billed: row.category for row in read(cur(tmp_path / "cur", *rows), terms=TERMS).rows}
    assert result == dict(enumerate(categories.values()))


def test_machine_services_are_distinguished_from_the_rest(tmp_path: Path) -> None:
    categories = {
        ("EBS:VolumeUsage.gp3", "Storage"): "Storage",
        ("USE1-EBS:VolumeUsage.gp3", ""): "Storage",
        ("SpotUsage:g6.xlarge", "Compute Instance"): "Compute",
        ("USE2-BoxUsage:g6.xlarge", ""): "Compute",
        ("NatGateway-Hours", "NAT Gateway"): "Other",
    }
    rows = [
        {
            "line_item_usage_type": f"'{usage}'",
            "product_product_family": f"nullif('{family}', '')",
            "line_item_unblended_cost": f"{number}::DOUBLE",
        }
        for number, (usage, family) in enumerate(categories)
    ]
    result = {row.billed: row.service_category for row in read(cur(tmp_path / "cur", *rows), terms=TERMS).rows}
    assert result == dict(enumerate(categories.values()))


@pytest.mark.parametrize("host", ["i-a", "arn:aws:ec2:us-east-1:1:instance/i-a"])
def test_case_30_a_pods_part_of_its_host_is_not_added_to_it(tmp_path: Path, host: str) -> None:
    pods = [
        {
            "line_item_resource_id": f"'arn:pod/{n}'",
            "split_line_item_parent_resource_id": f"'{host}'",
            "line_item_unblended_cost": "27.52::DOUBLE",
        }
        for n in (1, 2)
    ]
    result = read(cur(tmp_path / "cur", {}, *pods), terms=TERMS).rows
    assert [(row.resource_id, row.billed) for row in result] == [("i-a", Decimal("55.04"))]
    alone = read(cur(tmp_path / "pods", *pods), terms=TERMS).rows
    assert sum(row.billed for row in alone) == Decimal("55.04")


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"line_item_line_item_type": "'Surprise'"}, "line_item_line_item_type", "expected one of"),
        ({"line_item_unblended_cost": "'nan'::DOUBLE"}, "line_item_unblended_cost", "expected a number"),
        ({"line_item_unblended_cost": "NULL::DOUBLE"}, "line_item_unblended_cost", "empty"),
        ({"line_item_currency_code": "'JPY'"}, "line_item_currency_code", "'JPY'"),
        ({"line_item_usage_end_date": "TIMESTAMP_MS '2026-05-03 04:00:00'"}, "line_item_usage_end_date", "before"),
        ({"line_item_usage_end_date": "NULL::TIMESTAMP_MS"}, "line_item_usage_end_date", "empty"),
        ({"bill_invoicing_entity": "NULL::VARCHAR", "bill_billing_entity": "''"}, "bill_invoicing_entity", "empty"),
        ({"line_item_resource_id": "'a' || chr(0)"}, "line_item_resource_id", "NUL"),
        ({"line_item_unblended_cost": "true"}, "line_item_unblended_cost", "type BOOLEAN"),
        ({"line_item_usage_start_date": "5"}, "line_item_usage_start_date", "type INTEGER"),
    ],
)
def test_a_bad_cell_is_refused_by_row_and_column(tmp_path: Path, row: dict[str, str], column: str, reason: str) -> None:
    wrong_type = reason.startswith("type")
    rows = [row] if wrong_type else [{}, row]
    (result, *_) = read(cur(tmp_path / "cur", *rows), terms=TERMS).refusals
    assert (result.line, result.column) == (0 if wrong_type else 2, column)
    assert reason in result.reason


def test_tags_that_are_not_flat_are_refused(tmp_path: Path) -> None:
    (result,) = read(cur(tmp_path / "cur", {"resource_tags": "MAP {'a': {'b': 'c'}}"}), terms=TERMS).refusals
    assert (result.line, result.column) == (1, "resource_tags")
    assert "flat JSON object" in result.reason


def test_a_column_without_a_value_needs_no_type(tmp_path: Path) -> None:
    nothing = {"bill_invoicing_entity": "NULL", "resource_tags": "NULL", "pricing_public_on_demand_cost": "NULL"}
    result = read(cur(tmp_path / "cur", nothing), terms=TERMS)
    ((key, (row,)),) = result.charges.items()
    assert (key.issuer, row.tags, row.list_cost) == ("AWS", None, None)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    result = read(cur(tmp_path / "cur", {}, drop=("line_item_usage_end_date",)), terms=TERMS)
    assert [(r.line, r.column) for r in result.refusals] == [(0, "line_item_usage_end_date")]
    assert "CUR 2.0" in result.refusals[0].reason


def test_a_file_cut_short_is_refused_as_a_whole(tmp_path: Path) -> None:
    path = cur(tmp_path / "cur.parquet", {})
    path.write_bytes(path.read_bytes()[:-20])
    (result,) = read(path, terms=TERMS).refusals
    assert (result.line, result.column) == (0, "")
    assert "fetch the file again" in result.reason
    assert str(tmp_path) not in result.reason
