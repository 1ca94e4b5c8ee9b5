"""A day's charges by source: the same in any order and split, and other ones when anything that counts is."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.cost_row import CostRow
from services.billing.core.revisions.charge_digest import charges_by_source
from tests.unit.billing.cost_row_builders import DAY_WINDOW, charge, hours

AMOUNTS = st.decimals(-1000, 1000, places=12)
ROWS = st.builds(
    lambda billed, start, length, **more: replace(
        charge("0"),
        billed=billed,
        charge_start=hours(start, 0).start,
        charge_end=hours(start + length, 0).start,
        **more,
    ),
    billed=AMOUNTS,
    start=st.integers(-23, 23),
    length=st.sampled_from([24, 720]),
    effective=st.none() | AMOUNTS,
    category=st.sampled_from(["Usage", "Tax", "Credit"]),
    resource_id=st.sampled_from(["i-a", "vol-a", None]),
    tags=st.sampled_from([None, '{"a":"1","tier":"A"}', '{"tier": "A", "a": "1"}']),
    consumed_quantity=st.none() | st.decimals(0, 24, places=3),
    consumed_unit=st.sampled_from([None, "Hours"]),
    currency=st.just("EUR"),
    per_usd=st.sampled_from(["1", "0.92"]),
    rows=st.integers(1, 3),
)


def of(*rows: CostRow) -> object:
    return charges_by_source([("cloud", row) for row in rows], DAY_WINDOW)


@given(st.lists(ROWS, max_size=6).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows))))
def test_order_is_no_content(rows: tuple[list[CostRow], list[CostRow]]) -> None:
    assert of(*rows[0]) == of(*rows[1])


@given(ROWS, AMOUNTS)
def test_how_charges_that_are_alike_were_summed_is_no_content(row: CostRow, part: Decimal) -> None:
    whole = replace(row, rows=2, effective=None)
    one, other = replace(whole, rows=1, billed=part), replace(whole, rows=1, billed=row.billed - part)
    split = None if row.consumed_quantity is None else Decimal(0)
    assert of(whole) == of(one, replace(other, consumed_quantity=split))


@pytest.mark.parametrize(
    "change",
    [
        {"billed": Decimal("1.000000000001")},
        {"effective": Decimal(1)},
        {"charge_end": DAY_WINDOW.end - 1},
        {"category": "Credit"},
        {"service_category": "Storage"},
        {"resource_id": "i-b"},
        {"parent_id": "i-b"},
        {"tags": '{"tier":"B"}'},
        {"consumed_unit": "Seconds"},
        {"consumed_quantity": Decimal(2)},
        {"currency": "USD"},
        {"per_usd": "1.1"},
        {"rows": 2},
    ],
)
def test_whatever_can_decide_a_figure_is_content(change: dict[str, Any]) -> None:
    row = charge("1", consumed_unit="Hours", consumed_quantity=Decimal(1), tags='{"tier":"A"}', currency="EUR")
    assert of(row) != of(replace(row, **change))


def test_what_decides_no_figure_is_none() -> None:
    row = charge("1")
    assert of(row) == of(replace(row, invoice_id="I-1", charge_class="Correction", list_cost=Decimal(9)))


def test_the_sums_are_what_falls_on_the_day_by_source() -> None:
    rows = [
        ("b", charge("4.80", "2026-05-02T12:00:00Z", "2026-05-04T12:00:00Z")),
        ("b", charge("1", category="Credit")),
        ("a", charge("0.92", per_usd="0.92", currency="EUR", category="Tax", rows=3)),
    ]
    first, second = charges_by_source(rows, DAY_WINDOW)
    assert (first.source, first.rows, first.spend, first.tax) == ("a", 3, Decimal(0), Decimal(1))
    assert (second.source, second.rows, second.spend, second.tax) == ("b", 2, Decimal("3.4"), Decimal(0))
