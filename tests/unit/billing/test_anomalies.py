"""What looks wrong about an import is said, and counts all the same."""

from decimal import Decimal
from typing import Any

import pytest

from services.billing.core.invoice_files.anomalies import (
    PreviousSnapshot,
    SnapshotStatistics,
    find_anomalies,
    usual_day_cost,
)
from services.billing.core.utc_time import day_window

FACTS = SnapshotStatistics(
    usual_day=Decimal(10),
    days=3,
    largest=Decimal(-999),
    largest_of="i-a",
    largest_at=day_window("2026-05-03").start,
    future=0,
    first_future=None,
)


def warnings_for(**more: Any) -> tuple[str, ...]:
    values: dict[str, Any] = {"rows": 10, "billed": Decimal(100), "usual": Decimal(1), "previous": None}
    facts = SnapshotStatistics(**{name: more.pop(name, value) for name, value in vars(FACTS).items()})
    return find_anomalies(facts, currency="EUR", **values | more)


def test_charge_of_a_thousand_usual_days_is_reported_by_name_and_day() -> None:
    assert warnings_for() == ()
    (text,) = warnings_for(largest=Decimal("-1000.00"))
    assert text.startswith("a charge of -1,000 EUR for i-a on 2026-05-03 is 1,000 times what a usual day")
    assert (
        warnings_for(largest=Decimal(5000), usual=None) == warnings_for(largest=Decimal(5000), usual=Decimal(0)) == ()
    )


def test_future_charges_are_reported_with_the_first_day() -> None:
    assert warnings_for(future=2, first_future=day_window("2026-12-24").start) == (
        "2 charges begin in the future, the first on 2026-12-24",
    )


@pytest.mark.parametrize(
    ("previous", "count"),
    [
        (PreviousSnapshot(20, Decimal(200)), 0),
        (PreviousSnapshot(21, Decimal(200)), 1),
        (PreviousSnapshot(20, Decimal(201)), 1),
        (PreviousSnapshot(21, Decimal(201)), 2),
        (PreviousSnapshot(1, Decimal(-500)), 0),
    ],
)
def test_period_that_shrinks_by_more_than_half_is_reported(previous: PreviousSnapshot, count: int) -> None:
    assert len(warnings_for(previous=previous)) == count


def test_a_usual_day_is_the_sources_own_and_of_few_days_there_is_none() -> None:
    before = [Decimal(1), Decimal(9), Decimal(3)]
    assert usual_day_cost(FACTS, before) == 3
    assert usual_day_cost(FACTS, []) == 10
    assert usual_day_cost(SnapshotStatistics(**{**vars(FACTS), "days": 2}), []) is None
