"""Billed hours against the journal's: what is above them is unexplained; adjustments follow the day, not an hour."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.allocation import machine_hours as hours_of
from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.allocation.machine_time import MachineTime
from services.billing.core.cost_row import CostRow
from services.billing.core.money import to_units
from shared.messages.bill_coverage import MachineHours
from tests.unit.billing.cost_row_builders import FLEET, charge, hours
from tests.unit.billing.test_allocation import LIVES, allocated, causes, cost_rows, covers, life

AWAKE = {"a-1": life((0, "asleep"), (8, "waking"), (8.5, "ready"), (19, "falling_asleep"), (19.3, "asleep"))}
"""11.3 hours, with waking and falling asleep."""


def counted(quantity: str, billed: str = "24", **more: Any) -> CostRow:
    return charge(billed, consumed_quantity=Decimal(quantity), consumed_unit="Hours", **more)


def hourly(hour: int, quantity: str | None = "1", billed: str = "1") -> CostRow:
    end = f"2026-05-03T{hour + 1:02}:00:00Z" if hour < 23 else "2026-05-04T00:00:00Z"
    consumed = {} if quantity is None else {"consumed_quantity": Decimal(quantity), "consumed_unit": "Hrs"}
    return charge(billed, f"2026-05-03T{hour:02}:00:00Z", end, **consumed)


def unexplained(allocation: Allocation) -> Decimal:
    return causes(allocation).get("unexplained", Decimal(0))


def machine(allocation: Allocation) -> tuple[str | None, str, str, str, Decimal]:
    (one,) = hours_of.machine_hours_figures(allocation.hours)
    billed = None if one.billed is None else f"{one.billed:.2f}"
    return billed, f"{one.known:.2f}", f"{one.unexplained:.2f}", f"{one.asleep:.2f}", one.spend


def gpus(hour: int, quantity: str) -> CostRow:
    return replace(hourly(hour, quantity), consumed_unit="HOUR")


BILLS: list[tuple[Sequence[CostRow], str, str | None]] = [
    ([counted("24")], "12.7", "24.00"),
    ([counted("11.3")], "0", "11.30"),
    ([counted("12")], "1.4", "12.00"),  # 0.7 of 12 hours: a biller by whole hours
    ([hourly(n) for n in range(24)], "12.7", "24.00"),
    ([charge("24", consumed_quantity=Decimal(1440), consumed_unit="Minutes")], "12.7", "24.00"),
    ([charge("24", consumed_quantity=Decimal(86400), consumed_unit="seconds")], "0", None),
    ([gpus(n, "8") for n in range(8, 19)] + [gpus(19, "2.4")], "0", None),  # of eight GPUs: no machine's hours
    ([hourly(n, None) for n in range(24)], "12", None),  # what no quantity counts, an hour awake in part explains
]


@pytest.mark.parametrize(("rows", "above", "billed"), BILLS)
def test_hours_billed_above_hours_known_are_unexplained(
    rows: Sequence[CostRow], above: str, billed: str | None
) -> None:
    allocation = allocated(*rows, times=AWAKE)
    assert unexplained(allocation) == Decimal(above)
    assert machine(allocation)[0] == billed
    assert machine(allocation)[1] == "11.30"
    assert machine(allocation)[4] == Decimal(above)


def test_a_day_that_counts_no_hours_follows_the_time_awake() -> None:
    allocation = allocated(charge("11.3"), times=AWAKE)
    assert causes(allocation) == {"waking": Decimal("0.5"), "warm_idle": Decimal("10.8")}
    assert machine(allocation) == (None, "11.30", "0.00", "0.00", Decimal(0))


def test_a_machine_billed_while_it_sleeps_shows_and_its_disk_does_not() -> None:
    asleep = {"a-1": life((-9, "asleep"))}
    assert causes(allocated(charge("3"), times=asleep)) == {"unexplained": 3}
    assert machine(allocated(charge("3"), times=asleep)) == (None, "0.00", "24.00", "24.00", Decimal(3))
    assert machine(allocated(counted("5"), times=asleep)) == ("5.00", "0.00", "5.00", "5.00", Decimal(24))
    disk = charge("3", resource_id="vol-a", service_category="Storage")
    address = charge("2", service_category="Networking")
    assert causes(allocated(disk, address, times=asleep)) == {"asleep": 5}
    assert allocated(disk, address, times=asleep).hours == {}
    unnamed = charge("3", resource_id="vol-a")
    assert causes(allocated(unnamed, times=asleep, fleet=replace(FLEET, parts=frozenset({"vol-a"})))) == {"asleep": 3}


def test_time_outside_the_journal_is_not_reported_as_sleep() -> None:
    times = {"a-1": life((10, "ready"), (14, "asleep"))}
    assert machine(allocated(counted("13"), times=times)) == (
        "13.00",
        "4.00",
        "9.00",
        "0.00",
        Decimal("16.615384615385"),
    )
    assert machine(allocated(counted("20"), times=times))[2:4] == ("16.00", "6.00")


def test_charges_by_the_hour_and_by_the_day_are_for_the_same_hours() -> None:
    licence = counted("11.3", "2")
    allocation = allocated(licence, *[hourly(n) for n in range(9, 19)], times=AWAKE)
    assert machine(allocation)[:3] == ("11.30", "11.30", "0.00")


REFUNDS: list[dict[str, Any]] = [
    {"start": "2026-05-03T02:00:00Z", "end": "2026-05-03T03:00:00Z", "category": "Adjustment"},
    {"start": "2026-05-03T02:00:00Z", "end": "2026-05-03T03:00:00Z", "category": "Credit"},
    {"start": "2026-05-03T02:00:00Z", "end": "2026-05-03T02:00:00Z", "category": "Adjustment"},
    {"start": "2026-05-03T02:00:00Z", "end": "2026-05-03T03:00:00Z"},  # negative use that counts no hours
    {"category": "Adjustment", "consumed_quantity": Decimal(1), "consumed_unit": "Hrs"},
]


@pytest.mark.parametrize("refund", REFUNDS)
def test_case_17_a_refund_at_night_follows_the_days_causes(refund: dict[str, Any]) -> None:
    allocation = allocated(counted("11.3", "22.6"), charge("-2.26", **refund), times=AWAKE)
    assert causes(allocation) == {"waking": Decimal("0.9"), "warm_idle": Decimal("19.44")}


def test_what_takes_back_the_cost_of_time_awake_follows_that_time() -> None:
    covered = [
        counted("1", "4", start=f"2026-05-03T{n:02}:00:00Z", end=f"2026-05-03T{n + 1:02}:00:00Z") for n in (8, 12)
    ]
    negated = charge("-4", "2026-05-03T08:00:00Z", "2026-05-03T09:00:00Z")
    assert causes(allocated(*covered, negated, times=AWAKE)) == {"warm_idle": 4}


@pytest.mark.parametrize("hour", ["02", "10"])
def test_a_refund_follows_estimates_too_and_never_takes_the_place_of_one(hour: str) -> None:
    night = charge("-1", f"2026-05-03T{hour}:00:00Z", f"2026-05-03T{hour}:59:00Z")
    allocation = allocated(night, times=AWAKE, prices={"A": to_units(Decimal(2))})
    assert allocation.accrued == to_units(Decimal("22.6"))
    assert causes(allocation)["waking"] == (1 if hour == "10" else Decimal(1) - Decimal("0.044247787611"))


def test_a_refund_of_a_machine_without_other_costs_follows_its_tier_else_its_time_else_is_unexplained() -> None:
    refund = charge("-1", "2026-05-03T02:00:00Z", "2026-05-03T03:00:00Z", category="Adjustment")
    tagged = charge("5", resource_id=None, tags='{"tier": "A"}')
    assert causes(allocated(refund, tagged)) == {"unexplained": 4}
    assert causes(allocated(refund, times={"a-1": life((-1, "ready"))})) == {"warm_idle": -1}
    assert causes(allocated(refund)) == {"unexplained": -1}


@given(
    st.lists(cost_rows().filter(covers), max_size=8),
    st.fixed_dictionaries({"a-1": LIVES, "b-1": LIVES}),
)
def test_positive_charges_make_no_negative_cause_and_the_hours_hold(
    rows: list[CostRow], times: dict[str, MachineTime]
) -> None:
    allocation = allocated(*[row for row in rows if row.billed >= 0], times=times)
    assert min(allocation.causes.values()) >= 0
    assert (
        sum(allocation.causes.values())
        == sum(allocation.tiers.values()) + allocation.causes["unattributed"]
        == allocation.spend
    )
    day = hours(0, 24).length
    for one in allocation.hours.values():
        assert 0 <= one.asleep <= one.unexplained <= day
        assert one.cost <= allocation.causes["unexplained"]
        assert one.billed is None or 0 <= one.billed <= day
        assert bool(one.unexplained) <= (one.known < day)


@given(quantity=st.integers(1, 24 * 3600), awake=st.integers(0, 24 * 3600))
def test_the_unexplained_share_is_that_of_the_hours(quantity: int, awake: int) -> None:
    times = {"a-1": life((0, "ready"), (awake / 3600, "asleep"))}
    row = charge("86400", consumed_quantity=Decimal(quantity) / 3600, consumed_unit="h")
    expected = Decimal(86400) * max(0, quantity - awake) / quantity
    assert abs(unexplained(allocated(row, times=times)) - expected) < Decimal("0.1")


def test_a_report_has_the_hours() -> None:
    assert hours_of.machine_hours_figures(allocated(counted("24"), times=AWAKE).hours) == (
        MachineHours(
            machine="a-1",
            billed=Decimal("24.0000"),
            known=Decimal("11.3000"),
            unexplained=Decimal("12.7000"),
            asleep=Decimal("12.7000"),
            spend=Decimal("12.7"),
        ),
    )
