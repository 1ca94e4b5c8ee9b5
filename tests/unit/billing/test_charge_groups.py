"""Charges are summed on their way into the books, and no figure changes by it, to the last unit."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.billing.core.allocation.day_allocation import Allocation, allocate
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.allocation.machine_time import MachineTime, StateChange, build_intervals
from services.billing.core.cost_row import CostRow
from services.billing.core.invoice_files.focus import CATEGORIES
from services.billing.core.invoice_files.import_settings import ImportSettings
from services.billing.core.invoice_files.schema import ExchangeRate
from services.billing.core.money import to_units
from services.billing.core.utc_time import day_window, format_time, parse_time_ms
from shared.messages.waker import MachineState
from shared.units import DAY_MS, HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET, LATER, focus_csv
from tests.unit.billing.file_reading import read

RATES = (
    ExchangeRate(currency="EUR", per_usd="0.92", start=0),
    ExchangeRate(currency="EUR", per_usd="0.97", start=DAY_WINDOW.end),
)
TERMS = ImportSettings(source="cloud", mine=frozenset(FLEET.machine_of), rates=RATES)
PERIOD = DAY_WINDOW.start - 2 * DAY_MS
AZURE = "/Subscriptions/1/virtualmachines/VM-C"

AMOUNTS = st.integers(-(10**6), 10**6).map(lambda n: str(Decimal(n).scaleb(-7)))
ROWS = st.fixed_dictionaries(
    {
        "BilledCost": AMOUNTS,
        "EffectiveCost": AMOUNTS | st.just("NULL"),
        "ListCost": AMOUNTS | st.just(""),
        "BillingCurrency": st.sampled_from(["USD", "USD", "EUR"]),
        "ChargeCategory": st.sampled_from(CATEGORIES),
        "ServiceCategory": st.sampled_from(["Compute", "Storage", "Networking", "NULL"]),
        "ResourceId": st.sampled_from(["i-a", "arn:aws:ec2:x:volume/vol-a", "i-b", AZURE, "i-other", "NULL"]),
        "Tags": st.sampled_from(["", '{"tier": "B"}', '{"tier": "none"}']),
        "ConsumedQuantity": st.sampled_from(["NULL", "1", "0.5"]),
        "ConsumedUnit": st.sampled_from(["NULL", "Hrs", "GB"]),
        "InvoiceId": st.sampled_from(["NULL", "I-1"]),
    }
)
TIMES = st.sampled_from(
    [(h, length) for h in (0, 5, 23, 24, 47, 48, 60) for length in (0, 1, 24)] + [(0, 72), (23, 2), (12, 240)]
).map(lambda t: (PERIOD + t[0] * HOUR_MS, PERIOD + (t[0] + t[1]) * HOUR_MS))
CHARGES = st.lists(st.tuples(ROWS, TIMES), min_size=1, max_size=60)


def delivered(charges: list[tuple[dict[str, str], tuple[int, int]]]) -> list[dict[str, str]]:
    return [
        {**row, "ChargePeriodStart": format_time(start), "ChargePeriodEnd": format_time(end)}
        for row, (start, end) in charges
    ]


def as_it_is(row: dict[str, str]) -> CostRow:
    """One delivered row as one charge."""
    known: dict[str, Any] = {name: None if text in ("", "NULL") else text for name, text in row.items()}
    start = parse_time_ms(row["ChargePeriodStart"])
    rate = max((rate for rate in RATES if rate.start <= start), key=lambda rate: rate.start).per_usd
    quantity = known["ConsumedQuantity"]
    return CostRow(
        charge_start=start,
        charge_end=parse_time_ms(row["ChargePeriodEnd"]),
        billed=Decimal(row["BilledCost"]),
        effective=None if known["EffectiveCost"] is None else Decimal(known["EffectiveCost"]),
        list_cost=None if known["ListCost"] is None else Decimal(known["ListCost"]),
        category=row["ChargeCategory"],
        service_category=known["ServiceCategory"],
        resource_id=known["ResourceId"],
        tags=known["Tags"],
        invoice_id=known["InvoiceId"],
        consumed_quantity=None if quantity is None else Decimal(quantity),
        consumed_unit=known["ConsumedUnit"],
        currency=row["BillingCurrency"],
        per_usd="1" if row["BillingCurrency"] == "USD" else rate,
    )


def facts(rows: list[CostRow], day: str, now: int) -> DayInputs:
    window = day_window(day)
    states: tuple[tuple[int, MachineState], ...] = ((3, "waking"), (4, "ready"), (30, "asleep"))
    changes = [StateChange(DAY_WINDOW.start - DAY_MS + hour * HOUR_MS, state, "A") for hour, state in states]
    times = {"a-1": MachineTime(build_intervals(changes, now), [])}
    on_it = [
        row
        for row in rows
        if row.charge_start < window.end
        and (row.charge_end > window.start or row.charge_start == row.charge_end == window.start)
    ]
    return DayInputs(
        day=window, now=now, rows=on_it, fleet=FLEET, times=times, tokens={"A": 3, "B": 1}, prices={"A": 7}
    )


def euros(hour: int) -> tuple[dict[str, str], tuple[int, int]]:
    """An hour whose conversion is rounded up; two of them, converted as a sum, are not."""
    names = ("EffectiveCost", "ListCost", "ServiceCategory", "ConsumedQuantity", "ConsumedUnit", "InvoiceId")
    row = dict.fromkeys(names, "NULL") | {"BilledCost": "0.000000000006", "BillingCurrency": "EUR", "Tags": ""}
    times = PERIOD + hour * HOUR_MS, PERIOD + (hour + 1) * HOUR_MS
    return row | {"ChargeCategory": "Usage", "ResourceId": "i-other"}, times


def figures(allocation: Allocation) -> Allocation:
    """Without where each row went: a sum of rows is another row."""
    return replace(allocation, splits=())


@settings(max_examples=5, deadline=None)
@given(CHARGES)
@example([euros(1), euros(2)])
def test_no_figure_changes_by_it(charges: list[tuple[dict[str, str], tuple[int, int]]]) -> None:
    rows = delivered(charges)
    result = read(focus_csv(*rows), terms=TERMS)
    assert not result.refusals
    assert sum(row.rows for row in result.rows) == len(rows) == sum(snapshot.rows for snapshot in result.snapshots)
    single = [as_it_is(row) for row in rows]
    for day in ("2026-05-01", "2026-05-02", "2026-05-03", "2026-05-04"):
        for now in (LATER, DAY_WINDOW.start + 5 * HOUR_MS + 1):
            assert figures(allocate(facts(list(result.rows), day, now))) == figures(allocate(facts(single, day, now)))


@settings(max_examples=5, deadline=None)
@given(CHARGES)
def test_sums_by_invoice_and_currency_are_those_of_the_file(
    charges: list[tuple[dict[str, str], tuple[int, int]]],
) -> None:
    rows = delivered(charges)
    result = read(focus_csv(*rows), terms=TERMS)
    sums: dict[tuple[str, str], int] = {}
    for row in rows:
        of = row["BillingCurrency"], row["InvoiceId"].replace("NULL", "")
        sums[of] = sums.get(of, 0) + to_units(Decimal(row["BilledCost"]))
    read_sums = {(s.currency, name): to_units(amount) for s in result.snapshots for name, amount in s.invoices.items()}
    assert read_sums == sums
    for snapshot in result.snapshots:
        assert snapshot.billed == sum(snapshot.invoices.values())


def test_charges_of_no_machine_become_one_a_day_and_those_of_machines_stay() -> None:
    hours = [(DAY_WINDOW.start + h * HOUR_MS, DAY_WINDOW.start + (h + 1) * HOUR_MS) for h in range(24)]
    rows = [
        {"ResourceId": r, "ChargePeriodStart": format_time(s), "ChargePeriodEnd": format_time(e)}
        for r in ("i-a", "i-x")
        for s, e in hours
    ]
    result = read(focus_csv(*rows), terms=TERMS).rows
    assert [row.rows for row in result if row.resource_id == "i-a"] == [1] * 24
    ((start, end, billed, count),) = [
        (r.charge_start, r.charge_end, r.billed, r.rows) for r in result if r.resource_id == "i-x"
    ]
    assert (start, end, billed, count) == (DAY_WINDOW.start, DAY_WINDOW.end, Decimal(24), 24)


@pytest.mark.parametrize("resource", ["i-a", "arn:aws:ec2:us-east-1:1:instance/i-a", "projects/x:i-a"])
def test_a_machine_is_known_by_the_last_part_of_its_resource(resource: str) -> None:
    row = {
        "ResourceId": resource,
        "ChargePeriodStart": "2026-05-03T05:00:00Z",
        "ChargePeriodEnd": "2026-05-03T06:00:00Z",
    }
    (result,) = read(focus_csv(row), terms=TERMS).rows
    assert result.charge_end - result.charge_start == HOUR_MS
