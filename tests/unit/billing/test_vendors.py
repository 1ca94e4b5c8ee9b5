"""Every format of `tests/cases/books/vendors`, as CSV and Parquet: the same charges, the same owners.

Each file has its vendor's live header and the same seven charges in that vendor's words: a machine's hour, its disk, an
hour of a tagged machine, network, a machine of nobody's, a credit and tax.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb
import msgspec
import pytest

from services.billing.core.allocation.attribution import DirectOwner, Fleet, Owner
from services.billing.core.cost_row import CostRow
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.utc_time import format_time, parse_time_ms
from tests.unit.billing.file_reading import ReadResult, read

CASES = Path(__file__).parents[2] / "cases" / "books"
VENDORS = CASES / "vendors"
AZURE = "/subscriptions/11111111-2222-4333-8444-555555555555/resourceGroups/inference/providers/Microsoft.Compute"
FLEET = Fleet(
    tiers=("a", "b", "gpu"),
    tier_of={"a-1": "a"},
    machine_of=dict.fromkeys(
        (
            *("i-0a1b2c3d4e5f60718", "vol-0a1b2c3d4e5f60718"),
            *(f"{AZURE}/virtualMachines/a100-1", f"{AZURE}/Disks/a100-1-os"),
            *("4567890123456789012", "5678901234567890123"),
            *("ocid1.instance.oc1.us-sanjose-1.anzwuljr9foqhxic", "ocid1.bootvolume.oc1.us-sanjose-1.abzwuljrh7"),
        ),
        "a-1",
    ),
    tier_tag="tier",
)
TERMS = ImportSettings(source="vendor", mine=frozenset(FLEET.machine_of))
OWNERS: Mapping[Owner, Decimal] = {
    DirectOwner("a", "a-1"): Decimal("10.5"),
    DirectOwner("b", None): Decimal("7.25"),
    "unattributed": Decimal(3),
    "shared": Decimal("-0.5"),  # network 1.125, tax 0.375, credit -2
}

FOCUS_COSTS = ("BilledCost", "EffectiveCost", "ListCost")
FOCUS_TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
CUR_COSTS = ("line_item_unblended_cost", "pricing_public_on_demand_cost", "line_item_usage_amount")
CUR_TIMES = (
    *("bill_billing_period_start_date", "bill_billing_period_end_date"),
    *("line_item_usage_start_date", "line_item_usage_end_date"),
)
MAP = "CAST(CAST({} AS JSON) AS MAP(VARCHAR, VARCHAR))"
LABELS = 'CAST(CAST({} AS JSON) AS STRUCT("Key" VARCHAR, "Value" VARCHAR)[])'
CUR_TAGS = {"resourceTags/tier": "gpu", "costCategory/Team": "x", "accountTag/env": "prod"}
TAGS = (
    'CAST(CAST({} AS JSON) AS STRUCT("key" VARCHAR, "value" VARCHAR, x_type VARCHAR, x_inherited BOOLEAN, '
    "x_namespace VARCHAR)[])"
)
AWS = {**dict.fromkeys(FOCUS_COSTS, "{}::DOUBLE"), **dict.fromkeys(FOCUS_TIMES, "{}::TIMESTAMP_MS"), "Tags": MAP}
CUR = {**dict.fromkeys(CUR_COSTS, "{}::DOUBLE"), **dict.fromkeys(CUR_TIMES, "{}::TIMESTAMP_MS")}
MICROSOFT = {
    **dict.fromkeys(FOCUS_COSTS, "{}::DECIMAL(38, 18)"),
    **dict.fromkeys(FOCUS_TIMES, "replace({}, '0Z', '0:00Z')::TIMESTAMP"),
}
GOOGLE = {
    **dict.fromkeys(FOCUS_COSTS, "{}::DECIMAL(38, 9)"),
    **dict.fromkeys((*FOCUS_TIMES, "x_ExportTime"), "replace({}, ' UTC', '+00')::TIMESTAMPTZ"),
}


@dataclass(frozen=True)
class Vendor:
    """How the vendor's Parquet differs from its CSV, and what it tells besides."""

    parquet: Mapping[str, str]
    """Column to the SQL that gives it the type it has there."""
    issuer: str
    invoice: str | None = None
    credit: str = "Credit"


FORMATS = {
    "aws-focus-1.0": Vendor(AWS, "Amazon Web Services, Inc."),
    "aws-focus-1.1": Vendor(AWS, "Amazon Web Services, Inc."),
    "aws-focus-1.2": Vendor(AWS, "AWS", "2609000001"),
    "aws-focus-1.3": Vendor(AWS, "AWS", "2609000002"),
    "aws-cur-2.0-resource-tags": Vendor({**CUR, "resource_tags": MAP}, "AWS"),
    "aws-cur-2.0-tags": Vendor({**CUR, "tags": MAP}, "AWS", "2609000003"),
    "azure-focuscost-1.0": Vendor(MICROSOFT, "Microsoft", "E0300ABCDE"),
    "azure-focuscost-1.0r2": Vendor(
        {**MICROSOFT, **dict.fromkeys(FOCUS_TIMES, "{}::TIMESTAMP")}, "Microsoft", "E0300ABCDF"
    ),
    "azure-focuscost-1.2-preview": Vendor(
        {**MICROSOFT, **dict.fromkeys(FOCUS_TIMES, "{}::TIMESTAMP")}, "Microsoft", "E0300ABCE0"
    ),
    "google-native": Vendor(
        {**GOOGLE, **dict.fromkeys(("x_Labels", "x_Tags", "x_ProjectLabels"), LABELS)}, "Google Cloud"
    ),
    "google-view-2024": Vendor(
        {**GOOGLE, "Tags": TAGS, "ServiceCategory": "CAST(CAST({} AS JSON) AS VARCHAR[])"},
        "Google Cloud",
        credit="Adjustment",
    ),
    "google-view-1.0": Vendor({**GOOGLE, "Tags": TAGS}, "Google Cloud"),
    "oracle-focus-1.0": Vendor(dict.fromkeys(FOCUS_COSTS, "{}::DOUBLE"), "Oracle"),
}


def as_parquet(path: Path, types: Mapping[str, str], into: Path) -> Path:
    typed = ", ".join(f'{sql.format(name)} AS "{name}"' for name, sql in types.items())
    cells = f"read_csv('{path}', all_varchar = true, header = true, nullstr = '')"
    duckdb.execute(f"COPY (SELECT * REPLACE ({typed}) FROM {cells}) TO '{into}' (FORMAT parquet)")
    return into


def as_delivered(path: Path, vendor: Vendor, into: Path) -> ReadResult:
    """The file as CSV and Parquet in one delivery: to be told apart, each is another account's."""
    with path.open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    column = next(name for name in ("BillingAccountId", "bill_payer_account_id") if name in first)
    columnar = as_parquet(path, {**vendor.parquet, column: "'sheet'"}, into)
    return read(path, columnar, terms=TERMS)


def owners(rows: Sequence[CostRow]) -> Mapping[Owner, Decimal]:
    sums: dict[Owner, Decimal] = {}
    for row in rows:
        owner = FLEET.owner_of(row)
        sums[owner] = sums.get(owner, Decimal(0)) + row.billed
    return sums


def test_every_format_has_a_fixture_with_the_vendors_whole_header() -> None:
    assert {path.stem for path in VENDORS.glob("*.csv")} == set(FORMATS)
    for path in VENDORS.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            assert len(next(csv.reader(file))) > 40, path


@pytest.mark.parametrize("name", FORMATS)
def test_csv_and_parquet_of_a_format_read_the_same(name: str, tmp_path: Path) -> None:
    vendor = FORMATS[name]
    result = as_delivered(VENDORS / f"{name}.csv", vendor, tmp_path / "parquet")
    assert not result.refusals
    plain, columnar = (result.charges[key] for key in sorted(result.charges))
    assert plain == columnar
    assert owners(plain) == OWNERS
    assert {key.issuer for key in result.charges} == {vendor.issuer}
    assert {row.invoice_id for row in plain} == {vendor.invoice}
    assert Counter(row.category for row in plain) == Counter({"Usage": 5, vendor.credit: 1, "Tax": 1})
    of_machine = {row.billed: row for row in plain if FLEET.owner_of(row) == DirectOwner("a", "a-1")}
    machine, disk = of_machine[Decimal(10)], of_machine[Decimal("0.5")]
    assert (machine.service_category, disk.service_category) == ("Compute", "Storage")
    assert (machine.charge_start, machine.charge_end) == (
        parse_time_ms("2026-09-05T05:00:00Z"),
        parse_time_ms("2026-09-05T06:00:00Z"),
    )
    assert machine.effective == machine.list_cost == 10


def test_a_month_of_google_begins_at_midnight_in_california() -> None:
    (key,) = read(VENDORS / "google-native.csv", terms=TERMS).charges
    assert (key.period_start, key.period_end) == (
        parse_time_ms("2026-09-01T07:00:00Z"),
        parse_time_ms("2026-10-01T07:00:00Z"),
    )


@pytest.mark.parametrize(
    ("name", "owner", "tags", "amount", "day"),
    [
        ("azure_10.csv", DirectOwner("a", "a-1"), {"env": "prod", " org": "trey"}, "177.12", "2026-09-05"),
        ("google_native.csv", DirectOwner("a", "a-1"), {"tier": "a100x2"}, "6.24", "2026-09-03"),
        ("tags-list-of-structs.parquet", DirectOwner("gpu", None), {"tier": "gpu"}, "10", "2026-11-20"),
        ("gcp-service-category-list.parquet", DirectOwner("gpu", None), {"tier": "gpu"}, "10.5", "2026-11-18"),
        ("oci-names.csv.gz", "unattributed", {"orcl-cloud.free-tier-retained": "false"}, "3.25", "2026-09-05"),
        ("times-utc-word.csv", "unattributed", {}, "4", "2026-09-05"),
        ("cur2-tags-column.csv", DirectOwner("gpu", None), CUR_TAGS, "8", "2026-09-10"),
    ],
)
def test_a_file_from_the_field_is_read(name: str, owner: Owner, tags: dict[str, str], amount: str, day: str) -> None:
    result = read(CASES / name, terms=TERMS)
    assert not result.refusals
    assert owners(result.rows) == {owner: Decimal(amount)}
    assert min(format_time(row.charge_start)[:10] for row in result.rows) == day
    assert all(msgspec.json.decode(row.tags or "") == tags for row in result.rows)
