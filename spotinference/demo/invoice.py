"""The invoice of the demo: a FOCUS 1.2 file as a provider of a small rented CPU machine would deliver it.

Made up are the prices, yesterday's use and the network; today's compute is what the machine really ran. Nothing here
reads a clock or a file, and the same facts give the same bytes.
"""

import csv
import io
from calendar import monthrange
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PRICE_PER_HOUR = Decimal("0.0832")
DISK_GB = Decimal(40)
DISK_PRICE_PER_GB_MONTH = Decimal("0.08")
NETWORK_GB = Decimal("0.75")
NETWORK_PRICE_PER_GB = Decimal("0.09")
TAX_RATE = Decimal("0.19")
YESTERDAY_HOURS = (9, 10, 14)
"""The hours of yesterday in which the machine ran through."""
_QUANTITY = Decimal("1e-9")
_COST = Decimal("1e-10")
_NULL = "NULL"

COLUMNS = (
    *("BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodStart"),
    *("BillingPeriodEnd", "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency"),
    *("ChargePeriodStart", "ChargePeriodEnd", "ConsumedQuantity", "ConsumedUnit", "ContractedCost"),
    *("ContractedUnitPrice", "EffectiveCost", "InvoiceId", "InvoiceIssuerName", "ListCost", "ListUnitPrice"),
    *("PricingCategory", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "RegionId", "RegionName"),
    *("ResourceId", "ResourceName", "ResourceType", "ServiceCategory", "ServiceName", "ServiceSubcategory"),
    *("SkuId", "SkuPriceId", "Tags"),
)


@dataclass(frozen=True, kw_only=True)
class DemoInvoice:
    """The file and what it comes to, in USD: `total` = `yesterday` + `today` + `tax`."""

    csv: bytes
    total: Decimal
    yesterday: Decimal
    today: Decimal
    tax: Decimal


@dataclass(frozen=True, kw_only=True)
class _Usage:
    """One usage row. `quantity` is consumed and priced in the same unit."""

    start: datetime
    length: timedelta
    quantity: Decimal
    unit: str
    price: Decimal
    service: tuple[str, str, str]
    """FOCUS's category and subcategory, the provider's name for it."""
    resource: tuple[str, str] | None
    """Id and type."""
    description: str

    @property
    def cost(self) -> Decimal:
        return (self.quantity * self.price).quantize(_COST)


def demo_invoice(*, now: float, instance: str, disk: str, awake: Iterable[tuple[float, float]]) -> DemoInvoice:
    """Yesterday's and today's charges as they stand at `now`.

    `awake`: when the machine ran, Unix seconds, end exclusive, in any order. `instance` and `disk` become the rows'
    ResourceId.
    """
    present = datetime.fromtimestamp(now, UTC)
    today = present.replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - DAY
    before = [*(_compute(yesterday + h * HOUR, Decimal(1), instance) for h in YESTERDAY_HOURS), _disk(yesterday, disk)]
    since = [*_compute_hours(today, present, instance, awake), _disk(today, disk), _network(today)]
    spent = [sum((row.cost for row in rows), Decimal(0)) for rows in (before, since)]
    tax = (sum(spent, Decimal(0)) * TAX_RATE).quantize(_COST)
    cells = [*map(_usage_cells, (*before, *since)), _tax_cells(today, tax)]
    return DemoInvoice(csv=_csv(cells), total=sum(spent, tax), yesterday=spent[0], today=spent[1], tax=tax)


def _compute_hours(
    today: datetime, present: datetime, instance: str, awake: Iterable[tuple[float, float]]
) -> Iterator[_Usage]:
    ran = _merged(awake, present)
    for number in range(24):
        start = today + number * HOUR
        within = (min(end, start + HOUR) - max(begin, start) for begin, end in ran)
        seconds = sum((length for length in within if length > timedelta()), timedelta())
        # Never more than the machine ran: a provider that rounds up leaves time that nothing explains.
        hours = (Decimal(seconds // timedelta(microseconds=1)) / 3_600_000_000).quantize(_QUANTITY, ROUND_DOWN)
        if hours:
            yield _compute(start, hours, instance)


def _merged(awake: Iterable[tuple[float, float]], present: datetime) -> list[tuple[datetime, datetime]]:
    """Sorted, without overlaps, nothing of the future."""
    found: list[tuple[datetime, datetime]] = []
    for pair in sorted(awake):
        begin, end = (datetime.fromtimestamp(moment, UTC) for moment in pair)
        end = min(end, present)
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif begin < end:
            found.append((begin, end))
    return found


def _compute(start: datetime, hours: Decimal, instance: str) -> _Usage:
    return _Usage(
        start=start,
        length=HOUR,
        quantity=hours,
        unit="Hours",
        price=PRICE_PER_HOUR,
        service=("Compute", "Virtual Machines", "Example Machines"),
        resource=(instance, "Virtual Machine"),
        description="c2.small, 2 vCPU, on demand",
    )


def _disk(day: datetime, disk: str) -> _Usage:
    days = monthrange(day.year, day.month)[1]
    return _Usage(
        start=day,
        length=DAY,
        quantity=(DISK_GB / days).quantize(_QUANTITY),
        unit="GB-Months",
        price=DISK_PRICE_PER_GB_MONTH,
        service=("Storage", "Block Storage", "Example Disks"),
        resource=(disk, "Disk"),
        description="40 GB of disk",
    )


def _network(day: datetime) -> _Usage:
    return _Usage(
        start=day,
        length=DAY,
        quantity=NETWORK_GB,
        unit="GB",
        price=NETWORK_PRICE_PER_GB,
        service=("Networking", "Network Connectivity", "Example Network"),
        resource=None,
        description="Traffic of the account to the internet",
    )


def _usage_cells(row: _Usage) -> Mapping[str, str]:
    category, subcategory, service = row.service
    resource, kind = row.resource or (_NULL, _NULL)
    return {
        **_common(row.start, row.start + row.length, row.cost),
        "ChargeCategory": "Usage",
        "ChargeDescription": row.description,
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": f"{row.quantity:f}",
        "ConsumedUnit": row.unit,
        "ContractedUnitPrice": f"{row.price:f}",
        "ListUnitPrice": f"{row.price:f}",
        "PricingCategory": "Standard",
        "PricingQuantity": f"{row.quantity:f}",
        "PricingUnit": row.unit,
        "RegionId": "eu-1",
        "RegionName": "Europe 1",
        "ResourceId": resource,
        "ResourceName": resource,
        "ResourceType": kind,
        "ServiceCategory": category,
        "ServiceName": service,
        "ServiceSubcategory": subcategory,
        "SkuId": f"sku-{subcategory.replace(' ', '-').lower()}",
        "SkuPriceId": f"price-{subcategory.replace(' ', '-').lower()}",
    }


def _tax_cells(day: datetime, tax: Decimal) -> Mapping[str, str]:
    return {
        **_common(day, day + DAY, tax),
        "ChargeCategory": "Tax",
        "ChargeDescription": f"Value added tax, {TAX_RATE:.0%}",
        "ChargeFrequency": "Recurring",
        "ServiceCategory": "Other",
        "ServiceName": "Tax",
        "ServiceSubcategory": "Other (Other)",
    }


def _common(start: datetime, end: datetime, cost: Decimal) -> Mapping[str, str]:
    """What every row says, all else null until it says more."""
    month = start.replace(day=1, hour=0)
    return {
        **dict.fromkeys(COLUMNS, _NULL),
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), f"{cost:f}"),
        "BillingAccountId": "demo-account",
        "BillingAccountName": "spotinference demo",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _text(month),
        "BillingPeriodEnd": _text(month + monthrange(month.year, month.month)[1] * DAY),
        "ChargePeriodStart": _text(start),
        "ChargePeriodEnd": _text(end),
        "InvoiceIssuerName": "Example Cloud Inc.",
        "ProviderName": "Example Cloud",
        "PublisherName": "Example Cloud",
    }


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _csv(rows: Iterable[Mapping[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
