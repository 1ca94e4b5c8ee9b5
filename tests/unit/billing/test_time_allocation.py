"""What a machine's time decides of a day: running bills beside prices, wakes by key, hours that a charge counts."""

from decimal import Decimal
from typing import Any

import pytest

from services.billing.core.allocation.accrual import Accrual
from services.billing.core.allocation.charge_groups import group_charges
from services.billing.core.money import to_units, to_usd
from shared.messages.billing import DayReport
from shared.units import HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET, LATER, charge, hours
from tests.unit.billing.test_allocation import AWAKE, allocated, causes, life, tiers
from tests.unit.billing.test_day_report import as_texts, reported

PRICE = {"A": to_units(Decimal(3))}


def accrual(hour: float, amount: str, since: float = 0.0, through: float = 1.0, machine: str = "a-1") -> Accrual:
    """`since` and `through` are parts of the hour."""
    at = DAY_WINDOW.start + round(hour * HOUR_MS)
    return Accrual(machine, at, to_units(Decimal(amount)), at + round(since * HOUR_MS), at + round(through * HOUR_MS))


def running(*accruals: Accrual) -> dict[str, list[Accrual]]:
    return {"a-1": list(accruals)}


def test_case_28_hour_costs_its_running_bill_and_the_rest_costs_the_price() -> None:
    result = allocated(times=AWAKE, prices=PRICE, accruals=running(accrual(5, "2.00"), accrual(6, "1.00", 0.25, 0.75)))
    assert to_usd(result.accrued) == 22 * 3 + 2 + 1 + Decimal("1.5")
    assert allocated(times=AWAKE, prices=PRICE).accrued == to_units(Decimal(72))


def test_a_running_bill_needs_no_price_and_counts_in_sleep_and_in_silence_too() -> None:
    times = {"a-1": life((6, "asleep"), (7, "ready"), (8, "asleep"))}
    result = allocated(times=times, accruals=running(accrual(5, "1"), accrual(6, "2"), accrual(7, "4")))
    assert causes(result) == {"unexplained": 1, "asleep": 2, "warm_idle": 4}
    assert as_texts(result.observed, to_usd(result.accrued)) == as_texts(True, 7)
    assert not allocated(accruals={}).observed


def test_a_bill_replaces_the_running_bill_hour_by_hour_and_is_compared_with_it() -> None:
    bill = charge("5.00", "2026-05-03T05:00:00Z", "2026-05-03T06:00:00Z")
    times = {"a-1": life((5, "ready"), (7, "asleep"))}
    report = reported(bill, times=times, accruals=running(accrual(5, "4.40"), accrual(6, "4.40")))
    assert as_texts(report.spend, report.state) == as_texts(Decimal("9.40"), "estimated")
    assert report.variance is not None
    result = (report.variance.accrued, report.variance.billed, report.variance.difference)
    assert result == (Decimal("4.40"), Decimal(5), Decimal("0.60"))


def test_a_running_bill_of_a_machine_that_nobody_knows_is_nobodys() -> None:
    result = allocated(accruals={"stranger": [accrual(5, "1", machine="stranger")]})
    assert (result.accrued, result.observed, tiers(result)) == (0, False, {})


def keys(report: DayReport) -> dict[str | None, Decimal]:
    return {key.key_id: key.wakes for key in report.keys if key.wakes}


def test_billed_wake_is_reported_by_key_too() -> None:
    times = {"a-1": life((0, "waking", "k1"), (6, "ready"), (12, "waking", "k2"), (18, "asleep"))}
    report = reported(charge("18"), times=times)
    assert keys(report) == {"k1": 6, "k2": 6}
    disk = charge("24", resource_id="vol-a", service_category="Storage")
    idle = charge("0", service_category=None)
    assert keys(reported(disk, idle, times=times)) == {"k1": 6, "k2": 6}


def test_a_key_stays_with_its_wake_alone() -> None:
    times = {"a-1": life((0, "waking", "k1"), (6, "ready", "k1"), (18, "asleep", "k1"))}
    assert keys(reported(charge("18"), times=times)) == {"k1": 6}


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_for_the_same_hours_do_not_make_them_longer(rows: int) -> None:
    consumed: dict[str, Any] = {"consumed_quantity": Decimal(6), "consumed_unit": "h"}
    times = {"a-1": life((12, "ready"), (16, "asleep"))}
    whole = allocated(*[charge("12", **consumed)] * rows, times=times)
    summed = charge(str(12 * rows), **{**consumed, "consumed_quantity": Decimal(6 * rows)}, rows=rows)
    assert causes(whole) == causes(allocated(summed, times=times)) == {"warm_idle": 8 * rows, "unexplained": 4 * rows}


def test_billed_hours_are_not_rounded_to_milliseconds() -> None:
    times = {"a-1": life((12, "ready"), (13, "asleep"))}
    counted: dict[str, Any] = {"consumed_quantity": Decimal("1.0000001"), "consumed_unit": "h"}
    result = causes(allocated(charge("1.0000001", **counted), times=times))
    assert result == {"warm_idle": 1, "unexplained": Decimal("0.0000001")}


def test_a_charge_without_length_that_counts_hours_is_unexplained() -> None:
    at = "2026-05-03T10:00:00Z"
    result = allocated(charge("1", at, at, consumed_quantity=Decimal(3), consumed_unit="h"), times=AWAKE)
    assert causes(result) == {"unexplained": 1}


def test_charges_alike_but_for_their_parent_have_owners_of_their_own() -> None:
    disks = [charge("1", resource_id="x", parent_id=parent) for parent in ("i-a", "i-b", None)]
    assert len(group_charges(disks, FLEET.owner_of, DAY_WINDOW, LATER)) == 3
    assert tiers(allocated(*disks)) == {"A": 1, "B": 1}


def test_transfer_and_disks_of_a_machine_do_not_take_the_place_of_its_accrual() -> None:
    transfer = charge("1", service_category="Networking")
    disk = charge("2", resource_id="vol-a", service_category="Storage")
    credit = charge("-4", category="Credit")
    assert to_usd(allocated(transfer, disk, credit, times=AWAKE, prices=PRICE).spend) == 72 + 1 + 2 - 4
    unnamed = charge("50", service_category=None)
    assert to_usd(allocated(unnamed, times=AWAKE, prices=PRICE).spend) == 50


def test_accrued_cost_is_part_of_the_effective_cost_which_only_bills_have() -> None:
    half = charge("0", end="2026-05-03T12:00:00Z", effective=Decimal(10))
    assert reported(half, times=AWAKE, prices=PRICE).effective_spend == 10 + 36
    assert reported(charge("5"), times=AWAKE, prices=PRICE).effective_spend is None
    mixed = reported(charge("5"), charge("0", effective=Decimal(2)))
    assert as_texts(mixed.spend, mixed.effective_spend) == as_texts(5, 7)


def test_busy_time_counts_where_the_machine_can_serve_and_at_both_its_edges() -> None:
    times = {"a-1": life((0, "waking"), (6, "ready"), (12, "asleep"), busy=(hours(5, 7), hours(8, 9), hours(11, 13)))}
    assert causes(allocated(charge("12"), times=times)) == {"waking": 6, "serving": 3, "warm_idle": 3}
    part = charge("12", "2026-05-03T06:30:00Z", "2026-05-03T08:30:00Z")
    assert causes(allocated(part, times=times)) == {"serving": 6, "warm_idle": 6}
