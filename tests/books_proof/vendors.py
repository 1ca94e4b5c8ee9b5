"""Charges as each vendor exports them: its columns, its spelling of times, units and tags, and its file formats."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import duckdb

from tests.books_proof.facts import Charge, Delivery

Row = Mapping[str, str | None]
FOCUS_12 = (
    "AvailabilityZone,BilledCost,BillingAccountId,BillingAccountName,BillingAccountType,BillingCurrency,BillingPeriodEnd,"
    "BillingPeriodStart,CapacityReservationId,CapacityReservationStatus,ChargeCategory,ChargeClass,ChargeDescription,"
    "ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,CommitmentDiscountCategory,CommitmentDiscountId,"
    "CommitmentDiscountName,CommitmentDiscountQuantity,CommitmentDiscountStatus,CommitmentDiscountType,"
    "CommitmentDiscountUnit,ConsumedQuantity,ConsumedUnit,ContractedCost,ContractedUnitPrice,EffectiveCost,InvoiceId,"
    "InvoiceIssuerName,ListCost,ListUnitPrice,PricingCategory,PricingQuantity,PricingUnit,ProviderName,PublisherName,"
    "RegionId,RegionName,ResourceId,ResourceName,ResourceType,ServiceCategory,ServiceName,SkuId,SkuPriceId,SubAccountId,"
    "SubAccountName,Tags,x_Discounts,x_Operation,x_ServiceCode"
)
AZURE = (
    "BilledCost,BillingAccountId,BillingAccountName,BillingAccountType,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,"
    "ChargeCategory,ChargeClass,ChargeDescription,ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,ConsumedQuantity,"
    "ConsumedUnit,ContractedCost,EffectiveCost,InvoiceId,InvoiceIssuerName,ListCost,PricingQuantity,PricingUnit,"
    "ProviderName,PublisherName,RegionId,RegionName,ResourceId,ResourceName,ResourceType,ServiceCategory,ServiceName,"
    "SkuId,SubAccountId,SubAccountName,Tags,x_AccountId,x_BilledCostInUsd,x_BillingExchangeRate,x_SkuMeterName"
)
GOOGLE = (
    "AvailabilityZone,BilledCost,BillingAccountId,BillingCurrency,BillingPeriodStart,BillingPeriodEnd,ChargeCategory,"
    "ChargeClass,ChargeDescription,ChargePeriodStart,ChargePeriodEnd,ConsumedQuantity,ConsumedUnit,ContractedCost,"
    "ContractedUnitPrice,ListCost,ListUnitPrice,PricingCategory,PricingQuantity,PricingUnit,ProviderName,PublisherName,"
    "RegionId,RegionName,ResourceId,ResourceName,ServiceName,SkuId,SkuPriceId,SubAccountId,SubAccountName,x_Credits,"
    "x_CostType,x_ExportTime,x_Project,x_Labels,x_Tags,EffectiveCost,PricingCurrency,BillingAccountType"
)
ORACLE = (
    "AvailabilityZone,BilledCost,BillingAccountId,BillingAccountName,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,"
    "ChargeCategory,ChargeDescription,ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,ChargeSubcategory,EffectiveCost,"
    "InvoiceIssuer,ListCost,ListUnitPrice,PricingCategory,PricingQuantity,PricingUnit,Provider,Publisher,Region,ResourceId,"
    "ResourceName,ResourceType,ServiceCategory,ServiceName,SkuId,SkuPriceId,SubAccountId,SubAccountName,Tags,UsageQuantity,"
    "UsageUnit,oci_ReferenceNumber,oci_CompartmentId"
)
CUR = (
    "bill_bill_type,bill_billing_entity,bill_billing_period_start_date,bill_billing_period_end_date,bill_invoice_id,"
    "bill_invoicing_entity,bill_payer_account_id,identity_line_item_id,identity_time_interval,line_item_currency_code,"
    "line_item_line_item_type,line_item_product_code,line_item_resource_id,line_item_unblended_cost,"
    "line_item_usage_amount,line_item_usage_start_date,line_item_usage_end_date,line_item_usage_type,pricing_unit,"
    "product_product_family,resource_tags,savings_plan_savings_plan_effective_cost,"
    "savings_plan_total_commitment_to_date,savings_plan_used_commitment"
)
PLAIN = "date,resource,cost,currency,InvoiceId,ChargeCategory,ServiceCategory,tier"
CUR_LINES = {"Usage": "Usage", "Purchase": "SavingsPlanRecurringFee", "Adjustment": "Refund"}
CUR_TYPES = {
    "Compute": ("AmazonEC2", "BoxUsage:g6e.12xlarge", "Compute Instance"),
    "Storage": ("AmazonEC2", "EBS:VolumeUsage.gp3", "Storage"),
    "Networking": ("AmazonVPC", "DataTransfer-Regional-Bytes", "Data Transfer"),
    "Other": ("ComputeSavingsPlans", "ComputeSP:1yrNoUpfront", ""),
}


def text(amount: Fraction | None) -> str | None:
    """The amount as a plain decimal with every digit."""
    if amount is None:
        return None
    units = amount * 10**12
    assert units.denominator == 1, amount
    return format((Decimal(units.numerator).scaleb(-12)).normalize(), "f")


def _at(form: str) -> Callable[[int], str]:
    return lambda seconds: datetime.fromtimestamp(seconds, UTC).strftime(form)


ENDS = ("", " ", "\t", "\u200b", "\u00a0", "\ufeff", " \u2009")
"""What stands about a text in files and is not part of it: white space, invisible characters, byte order marks."""


def _framed(cell: str | None, row: Charge) -> str | None:
    """The text as some line of a file has it."""
    number = row.start // 3600
    return None if cell is None else ENDS[number % 7] + cell + ENDS[number % 5]


def _tags(pairs: Mapping[str, str | None]) -> str | None:
    known_pairs = {key: value for key, value in pairs.items() if value is not None}
    return json.dumps(known_pairs) if known_pairs else None


def _focus(row: Charge, at: Callable[[int], str]) -> dict[str, str | None]:
    """What all forms of FOCUS have."""
    return {
        "BilledCost": text(row.billed),
        "EffectiveCost": text(row.effective),
        "ListCost": text(row.billed),
        "ContractedCost": text(row.billed),
        "BillingAccountId": _framed(row.account, row),
        "BillingCurrency": row.currency,
        "BillingPeriodStart": at(row.period[0]),
        "BillingPeriodEnd": at(row.period[1]),
        "ChargePeriodStart": at(row.start),
        "ChargePeriodEnd": at(row.end),
        "ChargeCategory": row.category,
        "ChargeClass": "Correction" if row.correction else None,
        "ChargeDescription": "charge, with a comma",
        "ConsumedQuantity": text(row.hours),
        "ConsumedUnit": None if row.hours is None else "Hours",
        "InvoiceId": _framed(row.invoice, row),
        "InvoiceIssuerName": _framed(row.issuer, row),
        "ProviderName": row.issuer,
        "PublisherName": row.issuer,
        "ResourceId": _framed(row.resource, row),
        "ServiceCategory": row.service,
        "ServiceName": "Ünïcode, Inc. v",
        "Tags": _tags({"tier": row.tier_tag, "env": "dev"}),
    }


def _aws(row: Charge) -> Row:
    return {**_focus(row, _at("%Y-%m-%dT%H:%M:%SZ")), "Tags": _tags({"tier": row.tier_tag, "aws:createdBy": "x"})}


def _azure(row: Charge) -> Row:
    """Its ids come in other capitals at times."""
    resource = row.resource and (row.resource.lower() if row.start // 86_400 % 2 else row.resource)
    tags = _tags({" tier": row.tier_tag, "org": "trey"})
    return {**_focus(row, _at("%Y-%m-%dT%H:%M:%SZ")), "ResourceId": resource, "Tags": tags}


def _google(row: Charge) -> Row:
    """Its quantity counts the seconds of each core: no hours of a machine."""
    names = {"Compute": "Compute Engine", "Networking": "Networking", "Storage": "Cloud Storage"}
    core_seconds = str(12 * (row.end - row.start)) if row.service == "Compute" else None
    labels = [] if row.tier_tag is None else [{"Key": "tier", "Value": row.tier_tag}]
    return {
        **_focus(row, _at("%Y-%m-%d %H:%M:%S UTC")),
        "ConsumedQuantity": core_seconds,
        "ConsumedUnit": None if core_seconds is None else "seconds",
        "ProviderName": row.issuer,
        "ServiceName": names.get(row.service or "", "Support"),
        "x_Labels": json.dumps(labels),
        "x_Tags": "[]",
        "x_Credits": "[]",
    }


def _oracle(row: Charge) -> Row:
    return {
        **_focus(row, _at("%Y-%m-%dT%H:%M:%S.000Z")),
        "InvoiceIssuer": row.issuer,
        "Provider": row.issuer,
        "Publisher": row.issuer,
        "UsageQuantity": text(row.hours),
        "UsageUnit": None if row.hours is None else "HOUR",
        "Tags": _tags({"tier": row.tier_tag, "orcl-cloud.free-tier-retained": "false"}),
    }


def _cur(row: Charge) -> Row:
    at = _at("%Y-%m-%dT%H:%M:%S.000Z")
    code, usage, family = CUR_TYPES[row.service or "Other"]
    plan = row.plan_used or (None, None)
    return {
        "bill_bill_type": "Anniversary",
        "bill_billing_entity": "AWS",
        "bill_billing_period_start_date": at(row.period[0]),
        "bill_billing_period_end_date": at(row.period[1]),
        "bill_invoice_id": row.invoice,
        "bill_invoicing_entity": row.issuer,
        "bill_payer_account_id": row.account,
        "identity_line_item_id": "abc",
        "identity_time_interval": f"{at(row.start)}/{at(row.end)}",
        "line_item_currency_code": row.currency,
        "line_item_line_item_type": row.line or CUR_LINES.get(row.category, row.category),
        "line_item_product_code": code,
        "line_item_resource_id": _framed(row.resource, row),
        "line_item_unblended_cost": text(row.billed),
        "line_item_usage_amount": text(row.hours),
        "line_item_usage_start_date": at(row.start),
        "line_item_usage_end_date": at(row.end),
        "line_item_usage_type": usage,
        "pricing_unit": None if row.hours is None else "Hrs",
        "product_product_family": family,
        "resource_tags": _tags({"user_tier": row.tier_tag, "aws_created_by": "x"}),
        "savings_plan_savings_plan_effective_cost": (
            text(row.effective) if row.line == "SavingsPlanCoveredUsage" else None
        ),
        "savings_plan_total_commitment_to_date": text(plan[0]),
        "savings_plan_used_commitment": text(plan[1]),
    }


def _plain(row: Charge) -> Row:
    return {
        "date": _at("%Y-%m-%d")(row.start),
        "resource": _framed(row.resource, row),
        "cost": text(row.billed),
        "currency": row.currency,
        "InvoiceId": row.invoice,
        "ChargeCategory": row.category,
        "ServiceCategory": row.service,
        "tier": row.tier_tag,
    }


@dataclass(frozen=True)
class Vendor:
    """The columns of an export and how a charge stands in them."""

    header: str
    row: Callable[[Charge], Row]

    @property
    def columns(self) -> Sequence[str]:
        """Their names."""
        return self.header.split(",")


VENDORS = {
    "aws": Vendor(FOCUS_12, _aws),
    "cur": Vendor(CUR, _cur),
    "azure": Vendor(AZURE, _azure),
    "google": Vendor(GOOGLE, _google),
    "oracle": Vendor(ORACLE, _oracle),
    "plain": Vendor(PLAIN, _plain),
}


def written(delivery: Delivery, directory: Path) -> tuple[str, bytes]:
    """The delivery's file: its name and what is in it."""
    vendor = VENDORS[delivery.vendor]
    rows = [vendor.row(charge) for charge in delivery.rows]
    table = _csv(vendor.columns, rows)
    if delivery.file_format == "csv":
        return "bill.csv", table
    if delivery.file_format == "gzip":
        return "bill.csv.gz", gzip.compress(table, 1, mtime=0)
    source, target = directory / "rows.csv", directory / "rows.parquet"
    source.write_bytes(table)
    columns = ", ".join(_typed(name) for name in vendor.columns)
    duckdb.execute(
        f"COPY (SELECT {columns} FROM read_csv('{source}', all_varchar = true, header = true, nullstr = '')) "
        f"TO '{target}' (FORMAT parquet)"
    )
    return "bill.snappy.parquet", target.read_bytes()


def _csv(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, columns, extrasaction="ignore", restval=None)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _typed(name: str) -> str:
    """Costs are doubles and times are timestamps, as in the vendors' own Parquet."""
    quoted = f'"{name}"'
    if name.endswith(("Cost", "_cost", "Quantity", "usage_amount", "_commitment", "_to_date")):
        return f"CAST({quoted} AS DOUBLE) AS {quoted}"
    if name.endswith(("PeriodStart", "PeriodEnd", "start_date", "end_date")):
        return f"CAST(replace({quoted}, ' UTC', '') AS TIMESTAMP) AS {quoted}"
    if name == "resource_tags":
        return f"CAST(CAST({quoted} AS JSON) AS MAP(VARCHAR, VARCHAR)) AS {quoted}"
    return quoted
