"""The form of AWS's Cost and Usage Report 2.0. Unblended cost is what its invoice adds up to, net of discounts."""

from services.billing.core.invoice_files.columns import Column
from services.billing.core.invoice_files.schema import FileSchema

_USAGE = ("Usage", "DiscountedUsage", "SavingsPlanCoveredUsage", "SavingsPlanNegation")
_PURCHASE = ("SavingsPlanRecurringFee", "SavingsPlanUpfrontFee", "RIFee", "Fee")
_TYPES = (*_USAGE, *_PURCHASE, "Tax", "Credit", "Refund", "*Discount")

_COSTS = (
    "line_item_unblended_cost",
    "line_item_net_unblended_cost",
    "pricing_public_on_demand_cost",
    "savings_plan_savings_plan_effective_cost",
    "savings_plan_net_savings_plan_effective_cost",
    "savings_plan_total_commitment_to_date",
    "savings_plan_used_commitment",
    "reservation_effective_cost",
    "reservation_net_effective_cost",
    "reservation_unused_amortized_upfront_fee_for_billing_period",
    "reservation_unused_recurring_fee",
)
_TEXTS = (
    "bill_invoice_id",
    "line_item_resource_id",
    "line_item_product_code",
    "line_item_usage_type",
    "pricing_unit",
    "product_product_family",
    "reservation_reservation_a_r_n",
    "split_line_item_parent_resource_id",
)
_MOMENTS = (
    "bill_billing_period_start_date",
    "bill_billing_period_end_date",
    "line_item_usage_start_date",
    "line_item_usage_end_date",
)

_TYPE = "line_item_line_item_type"
_BILLED = "coalesce(line_item_net_unblended_cost, line_item_unblended_cost)"
_AMORTISED = f"""CASE {_TYPE}
    WHEN 'SavingsPlanCoveredUsage' THEN coalesce(
        savings_plan_net_savings_plan_effective_cost, savings_plan_savings_plan_effective_cost, {_BILLED})
    WHEN 'DiscountedUsage' THEN coalesce(reservation_net_effective_cost, reservation_effective_cost, {_BILLED})
    WHEN 'SavingsPlanNegation' THEN 0
    WHEN 'SavingsPlanUpfrontFee' THEN 0
    WHEN 'SavingsPlanRecurringFee' THEN coalesce(
        savings_plan_total_commitment_to_date - savings_plan_used_commitment, 0)
    WHEN 'RIFee' THEN coalesce(reservation_unused_amortized_upfront_fee_for_billing_period, 0)
        + coalesce(reservation_unused_recurring_fee, 0)
    WHEN 'Fee' THEN CASE WHEN reservation_reservation_a_r_n IS NULL THEN {_BILLED} ELSE 0 END
    ELSE {_BILLED} END"""
_CATEGORY = f"""CASE
    WHEN {_TYPE} IN {_USAGE} THEN 'Usage'
    WHEN {_TYPE} IN {_PURCHASE} THEN 'Purchase'
    WHEN {_TYPE} IN ('Tax', 'Credit') THEN {_TYPE}
    ELSE 'Adjustment' END"""
"""A refund is often a private discount that comes a month late: a lower price, not a gift like a credit."""
_SERVICE_CATEGORY = """CASE
    WHEN line_item_usage_type LIKE '%EBS:%' OR product_product_family = 'Storage' THEN 'Storage'
    WHEN regexp_matches(line_item_usage_type, '(Box|Spot|Host|Dedicated|Res)Usage')
        OR starts_with(product_product_family, 'Compute Instance') THEN 'Compute'
    WHEN line_item_product_code IN ('AmazonSageMaker', 'AmazonBedrock') THEN 'AI and Machine Learning'
    ELSE 'Other' END"""
CUR = FileSchema(
    name="CUR 2.0",
    columns=(
        *(Column(name=name, kind="moment", required=True, nullable=False) for name in _MOMENTS),
        *(Column(name=name, kind="cost", required=name == _COSTS[0], nullable=name != _COSTS[0]) for name in _COSTS),
        *(Column(name=name) for name in _TEXTS),
        Column(name=_TYPE, kind="word", words=_TYPES, required=True, nullable=False),
        Column(name="bill_payer_account_id", required=True, nullable=False),
        Column(name="bill_invoicing_entity", aliases=("bill_billing_entity",), required=True, nullable=False),
        Column(name="line_item_currency_code", kind="currency", required=True, nullable=False),
        Column(name="line_item_usage_amount", kind="quantity"),
        Column(name="resource_tags", aliases=("tags",), kind="tags"),
    ),
    billed_columns=("line_item_net_unblended_cost", "line_item_unblended_cost"),
    split_column="split_line_item_parent_resource_id",
    fields={
        "issuer": "bill_invoicing_entity",
        "account": "bill_payer_account_id",
        "period_start": "bill_billing_period_start_date",
        "period_end": "bill_billing_period_end_date",
        "currency": "line_item_currency_code",
        "charge_start": "line_item_usage_start_date",
        "charge_end": "line_item_usage_end_date",
        "category": _CATEGORY,
        "service_category": _SERVICE_CATEGORY,
        "service_name": "line_item_product_code",
        "resource_id": "line_item_resource_id",
        "tags": "resource_tags",
        "invoice_id": "bill_invoice_id",
        "consumed_quantity": "line_item_usage_amount",
        "consumed_unit": "pricing_unit",
        "billed": _BILLED,
        "effective": _AMORTISED,
        "list_cost": "pricing_public_on_demand_cost",
        # A pod's part of its host: the host's own line has all of it.
        "split_of": "split_line_item_parent_resource_id",
    },
    error_columns={
        "charge_end": "line_item_usage_end_date",
        "period_end": "bill_billing_period_end_date",
        "currency": "line_item_currency_code",
    },
)
