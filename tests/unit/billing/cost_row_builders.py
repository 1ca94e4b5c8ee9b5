"""FOCUS files and cost rows for tests, written as briefly as the case allows."""

import csv
import io
from decimal import Decimal
from typing import Any

from services.billing.core.allocation.attribution import Fleet
from services.billing.core.cost_row import CostRow
from services.billing.core.utc_time import Window, day_window, parse_time_ms

DAY = "2026-05-03"
DAY_WINDOW = day_window(DAY)
LATER = DAY_WINDOW.end + 30 * 86_400_000
ROW = {
    "BilledCost": "1.00",
    "EffectiveCost": "1.00",
    "ListCost": "1.00",
    "BillingAccountId": "acc-1",
    "BillingCurrency": "USD",
    "BillingPeriodStart": "2026-05-01T00:00:00Z",
    "BillingPeriodEnd": "2026-06-01T00:00:00Z",
    "ChargePeriodStart": "2026-05-03T00:00:00Z",
    "ChargePeriodEnd": "2026-05-04T00:00:00Z",
    "ChargeCategory": "Usage",
    "ChargeClass": "NULL",
    "ChargeDescription": "GPU",
    "ConsumedQuantity": "NULL",
    "ConsumedUnit": "NULL",
    "InvoiceId": "NULL",
    "InvoiceIssuerName": "Cloud Inc.",
    "ResourceId": "i-a",
    "ServiceCategory": "Compute",
    "Tags": "",
}
FLEET = Fleet(
    tiers=("A", "B"),
    tier_of={"a-1": "A", "b-1": "B"},
    machine_of={"i-a": "a-1", "vol-a": "a-1", "i-b": "b-1", "/subscriptions/1/virtualMachines/vm-c": "a-1"},
    tier_tag="tier",
)


def focus_csv(*rows: dict[str, str], drop: tuple[str, ...] = ()) -> bytes:
    """A FOCUS file whose rows differ from `ROW` as told."""
    out = io.StringIO(newline="")
    columns = [*(name for name in ROW if name not in drop), *{n: 0 for row in rows for n in row if n not in ROW}]
    writer = csv.DictWriter(out, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows({**ROW, **row} for row in rows)
    return out.getvalue().encode()


def charge(billed: str, start: str = "2026-05-03T00:00:00Z", end: str = "2026-05-04T00:00:00Z", **more: Any) -> CostRow:
    defaults: dict[str, Any] = {"category": "Usage", "service_category": "Compute", "resource_id": "i-a"}
    return CostRow(
        billed=Decimal(billed), charge_start=parse_time_ms(start), charge_end=parse_time_ms(end), **defaults | more
    )


def hours(start: float, end: float) -> Window:
    """Hours of the test's day."""
    return Window(DAY_WINDOW.start + round(start * 3_600_000), DAY_WINDOW.start + round(end * 3_600_000))
