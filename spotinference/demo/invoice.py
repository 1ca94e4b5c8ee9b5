"""The demo's invoice: a FOCUS 1.2 file, as the provider of a small rented CPU machine would deliver it.

The prices are invented, the charges are real: the hours of the machine and its disk, and the bytes sent. Pure: the
same facts give the same bytes.
"""

import csv
import io
from calendar import monthrange
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, Decimal

from shared.messages.budget import Journalled
from shared.messages.waker import Transition

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PRICE_PER_HOUR = Decimal("0.0832")
DISK_GB = Decimal(40)
DISK_PRICE_PER_GB_MONTH = Decimal("0.08")
NETWORK_PRICE_PER_GB = Decimal("0.09")
TAX_RATE = Decimal("0.19")
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
class DemoFacts:
    """What happened, in Unix seconds; every end is exclusive."""

    awake: Sequence[tuple[float, float]]
    """When the machine ran, in any order."""
    disk: tuple[float, float]
    """From when until when the disk existed; nothing after its end is charged."""
    transfers: Sequence[tuple[float, int]]
    """When a response ended, and its size in bytes."""


@dataclass(frozen=True, kw_only=True)
class DemoInvoice:
    """The file, its total in USD including tax, and the UTC days that it charges for, in order."""

    csv: bytes
    total: Decimal
    days: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Usage:
    """One usage row. `quantity` is consumed and priced in the same unit."""

    start: datetime
    end: datetime
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


def facts_from_journal(journal: Iterable[Journalled], transfers: Sequence[tuple[float, int]], now: float) -> DemoFacts:
    """Return what the provider would know: the disk since the first entry, and each run from wake to sleep."""
    first: float | None = None
    began: float | None = None
    awake: list[tuple[float, float]] = []
    for entry in journal:
        if not isinstance(entry, Transition):
            continue
        first = entry.at if first is None else first
        if entry.to_state == "waking":
            began = entry.at
        elif entry.to_state == "asleep" and began is not None:
            awake.append((began, entry.at))
            began = None
    if began is not None:
        awake.append((began, now))
    return DemoFacts(awake=awake, disk=(now if first is None else first, now), transfers=transfers)


def build_invoice(facts: DemoFacts, *, instance: str, disk: str) -> DemoInvoice:
    """Return the charges for `facts`, hour by hour. `instance` and `disk` become the rows' ResourceId."""
    rows = [*_compute(facts, instance), *_disk(facts, disk), *_network(facts)]
    by_day: defaultdict[datetime, Decimal] = defaultdict(Decimal)
    for row in rows:
        by_day[row.start.replace(hour=0, minute=0, second=0, microsecond=0)] += row.cost
    taxes = {day: (cost * TAX_RATE).quantize(_COST) for day, cost in sorted(by_day.items())}
    cells = [*map(_usage_cells, rows), *(_tax_cells(day, tax) for day, tax in taxes.items())]
    return DemoInvoice(
        csv=_csv(cells),
        total=sum(by_day.values(), sum(taxes.values(), Decimal(0))),
        days=tuple(day.date().isoformat() for day in taxes),
    )


def _compute(facts: DemoFacts, instance: str) -> Iterator[_Usage]:
    end = _moment(facts.disk[1])
    ran: defaultdict[datetime, timedelta] = defaultdict(timedelta)
    for begin, stop in _merged(facts.awake, end):
        for start, until in _by_hour(begin, stop):
            ran[_hour_of(start)] += until - start
    for hour, time in sorted(ran.items()):
        # Never more than the machine ran: a provider that rounds up leaves time that nothing explains.
        hours = (Decimal(time // timedelta(microseconds=1)) / 3_600_000_000).quantize(_QUANTITY, ROUND_DOWN)
        if hours:
            yield _Usage(
                start=hour,
                end=hour + HOUR,
                quantity=hours,
                unit="Hours",
                price=PRICE_PER_HOUR,
                service=("Compute", "Virtual Machines", "Example Machines"),
                resource=(instance, "Virtual Machine"),
                description="c2.small, 2 vCPU, on demand",
            )


def _disk(facts: DemoFacts, disk: str) -> Iterator[_Usage]:
    for start, end in _by_hour(*map(_moment, facts.disk)):
        month = monthrange(start.year, start.month)[1] * DAY
        share = Decimal((end - start) // timedelta(microseconds=1)) / (month // timedelta(microseconds=1))
        yield _Usage(
            start=start,
            end=end,
            quantity=(DISK_GB * share).quantize(_QUANTITY),
            unit="GB-Months",
            price=DISK_PRICE_PER_GB_MONTH,
            service=("Storage", "Block Storage", "Example Disks"),
            resource=(disk, "Disk"),
            description=f"{DISK_GB} GB of disk",
        )


def _network(facts: DemoFacts) -> Iterator[_Usage]:
    sent: defaultdict[datetime, int] = defaultdict(int)
    for moment, size in facts.transfers:
        sent[_hour_of(_moment(moment))] += size
    for hour, size in sorted(sent.items()):
        yield _Usage(
            start=hour,
            end=hour + HOUR,
            quantity=Decimal(size) / 10**9,
            unit="GB",
            price=NETWORK_PRICE_PER_GB,
            service=("Networking", "Network Connectivity", "Example Network"),
            resource=None,
            description="Traffic of the account to the internet",
        )


def _merged(awake: Iterable[tuple[float, float]], last: datetime) -> list[tuple[datetime, datetime]]:
    """Sort and merge the spans; nothing is after `last`."""
    merged: list[tuple[datetime, datetime]] = []
    for pair in sorted(awake):
        begin, end = map(_moment, pair)
        end = min(end, last)
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif begin < end:
            merged.append((begin, end))
    return merged


def _by_hour(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Split the time between the two at full hours."""
    while start < end:
        until = min(end, _hour_of(start) + HOUR)
        yield start, until
        start = until


def _moment(seconds: float) -> datetime:
    """Format to the millisecond, like the fleet's journal: any time that the bill adds to it would be unexplained."""
    return datetime.fromtimestamp(round(seconds * 1000) / 1000, UTC)


def _hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _usage_cells(row: _Usage) -> Mapping[str, str]:
    category, subcategory, service = row.service
    resource, kind = row.resource or (_NULL, _NULL)
    return {
        **_common(row.start, row.end, row.cost),
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
    """Return the columns that every row has; the others are null."""
    month = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
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
    form = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=form).replace("+00:00", "Z")


def _csv(rows: Iterable[Mapping[str, str]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()
