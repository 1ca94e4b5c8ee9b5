"""A charge in FOCUS's words, and two forms of files: FOCUS itself, and our own for providers without a better one."""

from collections.abc import Sequence
from typing import get_args

from services.billing.core.invoice_files.columns import Column, sql_literal, sql_name
from services.billing.core.invoice_files.schema import FileSchema
from shared.messages.trail import TrailCategory, TrailService
from shared.units import DAY_MS

CATEGORIES: tuple[str, ...] = get_args(TrailCategory)
SERVICE_CATEGORIES: tuple[str, ...] = get_args(TrailService)
SERVICES = {
    "Compute Engine": "Compute",
    "Kubernetes Engine": "Compute",
    "Cloud Run": "Compute",
    "Cloud TPU": "AI and Machine Learning",
    "Vertex AI": "AI and Machine Learning",
    "Cloud Storage": "Storage",
    "Cloud Filestore": "Storage",
    "Filestore": "Storage",
    "Networking": "Networking",
    "Cloud DNS": "Networking",
    "Cloud Logging": "Management and Governance",
    "Cloud Monitoring": "Management and Governance",
    "Artifact Registry": "Developer Tools",
    "Secret Manager": "Security",
    "Cloud Key Management Service (KMS)": "Security",
    "BigQuery": "Analytics",
    "Cloud SQL": "Databases",
    "Support": "Other",
}
"""The category of a service where the file names none, as Google's export. Of a service that is not here it is null."""
_SERVICE_CATEGORY = f"""coalesce("ServiceCategory", CASE
    WHEN "ServiceName" = 'Compute Engine' AND regexp_matches("ResourceId", '/(disks|snapshots|images)/[^/]*$')
        THEN 'Storage'
    {" ".join(f'WHEN "ServiceName" = {sql_literal(k)} THEN {sql_literal(v)}' for k, v in SERVICES.items())} END)"""

FOCUS = FileSchema(
    name="FOCUS",
    columns=(
        Column(name="BilledCost", kind="cost", required=True, nullable=False),
        Column(name="BillingAccountId", required=True, nullable=False),
        Column(name="BillingCurrency", kind="currency", required=True, nullable=False),
        Column(name="BillingPeriodStart", kind="moment", required=True, nullable=False),
        Column(name="BillingPeriodEnd", kind="moment", required=True, nullable=False),
        Column(name="ChargePeriodStart", kind="moment", required=True, nullable=False),
        Column(name="ChargePeriodEnd", kind="moment", required=True, nullable=False),
        Column(name="ChargeCategory", kind="word", words=CATEGORIES, required=True, nullable=False),
        Column(
            name="InvoiceIssuerName",
            # A provider issues its own invoices where no issuer is named: all of Google's, some of AWS's rows.
            aliases=("InvoiceIssuer", "ServiceProviderName", "ProviderName", "Provider"),
            required=True,
            nullable=False,
        ),
        Column(name="ServiceCategory", kind="category", words=SERVICE_CATEGORIES),
        Column(name="ServiceName"),
        Column(name="ChargeClass", kind="category", words=("Correction",)),
        Column(name="EffectiveCost", kind="cost"),
        Column(name="ListCost", kind="cost"),
        Column(name="ResourceId"),
        Column(name="Tags", aliases=("x_Labels", "x_Tags", "x_ProjectLabels"), kind="tags"),
        Column(name="InvoiceId", aliases=("x_InvoiceId",)),
        Column(name="ConsumedQuantity", aliases=("UsageQuantity",), kind="quantity"),
        Column(name="ConsumedUnit", aliases=("UsageUnit",)),
        Column(name="AllocatedMethodId"),
    ),
    billed_columns=("BilledCost",),
    split_column="AllocatedMethodId",
    fields={
        "issuer": '"InvoiceIssuerName"',
        "account": '"BillingAccountId"',
        "period_start": '"BillingPeriodStart"',
        "period_end": '"BillingPeriodEnd"',
        "currency": '"BillingCurrency"',
        "charge_start": '"ChargePeriodStart"',
        "charge_end": '"ChargePeriodEnd"',
        "category": '"ChargeCategory"',
        "charge_class": '"ChargeClass"',
        "service_category": _SERVICE_CATEGORY,
        "service_name": '"ServiceName"',
        "resource_id": '"ResourceId"',
        "tags": '"Tags"',
        "invoice_id": '"InvoiceId"',
        "consumed_quantity": '"ConsumedQuantity"',
        "consumed_unit": '"ConsumedUnit"',
        "billed": '"BilledCost"',
        "effective": '"EffectiveCost"',
        "list_cost": '"ListCost"',
        # From FOCUS 1.3 on a charge may be delivered in parts too; then its resource stays in ResourceId.
        "split_of": 'CASE WHEN "AllocatedMethodId" IS NOT NULL THEN "ResourceId" END',
    },
    error_columns={
        "charge_end": "ChargePeriodEnd",
        "period_end": "BillingPeriodEnd",
        "currency": "BillingCurrency",
    },
)
"""FOCUS 1.0 to 1.4 as the providers write it: what each calls a column stands beside the standard's name for it."""


def simple_schema(source: str, names: Sequence[str]) -> FileSchema:
    """The format with one line per charge and UTC day: `date,resource,cost,currency`.

    `parent` and some of FOCUS's columns may stand beside them under their names; every other column is a tag. The
    billing period is the calendar month, issuer and account are the source.
    """
    beside = ("parent", "ServiceCategory", "InvoiceId")
    named = {name.casefold() for name in ("date", "resource", "cost", "currency", "ChargeCategory", *beside)}
    tags = [name for name in dict.fromkeys(names) if name and name.isprintable() and name.casefold() not in named]
    pairs = ", ".join(f"to_json({sql_literal(name)}) || ':' || to_json({sql_name(name)})" for name in tags)
    return FileSchema(
        name="date,resource,cost,currency",
        columns=(
            Column(name="date", kind="day", required=True, nullable=False),
            Column(name="resource", required=True),
            Column(name="cost", kind="cost", required=True, nullable=False),
            Column(name="currency", kind="currency", required=True, nullable=False),
            Column(name="ChargeCategory", kind="word", words=CATEGORIES),
            Column(name="ServiceCategory", kind="category", words=SERVICE_CATEGORIES),
            *(Column(name=name) for name in ("parent", "InvoiceId", *tags)),
        ),
        fields={
            "issuer": sql_literal(source),
            "account": sql_literal(source),
            "period_start": 'month_start("date")',
            "period_end": 'next_month("date")',
            "currency": '"currency"',
            "charge_start": '"date"',
            "charge_end": f'"date" + {DAY_MS}',
            "category": "coalesce(\"ChargeCategory\", 'Usage')",
            # What has a resource is somebody's or nobody's, but never everybody's.
            "service_category": "coalesce(\"ServiceCategory\", CASE WHEN resource IS NOT NULL THEN 'Compute' END)",
            "resource_id": '"resource"',
            "parent_id": '"parent"',
            "tags": f"'{{' || nullif(concat_ws(',', {pairs}), '') || '}}'" if tags else "CAST(NULL AS VARCHAR)",
            "invoice_id": '"InvoiceId"',
            "billed": '"cost"',
        },
        billed_columns=("cost",),
        error_columns={"charge_end": "date", "period_end": "date", "currency": "currency"},
    )
