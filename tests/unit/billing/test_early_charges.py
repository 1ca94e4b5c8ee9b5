"""A charge that came before its hours were over replaces no estimate of them: the larger of the two counts."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.allocation.charge_groups import is_early
from services.billing.core.allocation.day_allocation import Allocation
from services.billing.core.allocation.machine_time import MachineTime
from services.billing.core.cost_row import CostRow
from services.billing.core.money import to_units, to_usd
from services.billing.core.reports.day_report import report_state
from services.billing.core.utc_time import Window, parse_time_ms
from shared.units import DAY_MS, HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, charge, hours
from tests.unit.billing.test_allocation import LIVES, allocated, causes, cost_rows, life

PRICES = {"A": to_units(Decimal(36))}
AWAKE = {"a-1": life((0, "ready"))}
NOON = hours(12, 12).start
EVENING = hours(18, 18).start
ROUNDING = 100
"""Units of 10⁻¹² USD: each hour's estimate is rounded by itself."""


def at_six(*rows: CostRow, times: dict[str, MachineTime] = AWAKE, prices: dict[str, int] = PRICES) -> Allocation:
    """What is known at 18:00, of a machine that is awake all day."""
    return allocated(*rows, now=EVENING, times=until(EVENING, times), prices=prices)


def until(moment: int, times: dict[str, MachineTime]) -> dict[str, MachineTime]:
    """What the journal has told by then."""
    past = Window(DAY_WINDOW.start - 9 * DAY_MS, moment)
    return {
        name: MachineTime(
            [replace(i, window=i.window.overlap(past)) for i in time.intervals if i.window.overlap(past).length],
            time.busy,
        )
        for name, time in times.items()
    }


def test_a_cent_for_today_hides_no_machine() -> None:
    result = at_six(charge("0.01", arrived=NOON))
    assert to_usd(result.spend) == 18 * 36
    assert report_state(result) == "estimated"


def test_a_month_long_licence_of_a_cent_a_day_hides_no_machine() -> None:
    licence = charge(
        "0.31", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", arrived=parse_time_ms("2026-05-01T00:10:00Z")
    )
    assert to_usd(at_six(licence).spend) == 18 * 36 + Decimal("0.01")
    assert report_state(at_six(licence)) == "estimated"


def test_a_month_that_ended_today_hides_no_machine_of_today() -> None:
    licence = charge(
        "31", "2026-04-02T07:00:00Z", "2026-05-03T07:00:00Z", arrived=parse_time_ms("2026-05-03T08:00:00Z")
    )
    of_today = Decimal(31) * 7 / (31 * 24)
    assert abs(to_usd(at_six(licence).spend) - 18 * 36 - of_today) < Decimal("0.000001")
    over = allocated(licence, times=AWAKE, prices=PRICES)
    assert to_usd(over.spend) < 18 * 36, "a day that is over costs what its bill says"


def test_a_charge_of_today_above_the_estimate_of_its_hours_counts_and_the_estimate_goes_on() -> None:
    assert to_usd(at_six(charge("500", arrived=NOON)).spend) == 500 + 6 * 36


@pytest.mark.parametrize(("billed", "expected"), [("40", 40), ("1", 36)])
def test_the_hour_under_way_costs_the_larger_of_charge_and_estimate(billed: str, expected: int) -> None:
    row = charge(billed, "2026-05-03T17:00:00Z", "2026-05-03T18:00:00Z", arrived=hours(17.5, 17.5).start)
    assert to_usd(at_six(row).spend) == 17 * 36 + expected


def test_hour_that_was_over_costs_its_charge() -> None:
    row = charge("1", "2026-05-03T10:00:00Z", "2026-05-03T11:00:00Z", arrived=NOON)
    assert to_usd(at_six(row).spend) == 17 * 36 + 1


def test_a_charge_that_came_when_its_day_was_over_replaces_all_of_the_estimate() -> None:
    late = charge("5", arrived=DAY_WINDOW.end)
    assert to_usd(allocated(late, times=AWAKE, prices=PRICES).spend) == 5
    early = allocated(charge("5", arrived=NOON), times=AWAKE, prices=PRICES)
    assert to_usd(early.spend) == 24 * 36
    assert report_state(early) == "estimated"
    settled = allocated(charge("5", arrived=NOON), times=AWAKE, prices=PRICES, settled=True)
    assert to_usd(settled.spend) == 5


def test_no_negative_charge_replaces_an_estimate_whatever_hours_it_counts() -> None:
    ten = ("2026-05-03T10:00:00Z", "2026-05-03T11:00:00Z")
    counted: dict[str, Any] = {"consumed_quantity": Decimal(1), "consumed_unit": "Hours"}
    negation = charge("-20", *ten, **counted, arrived=NOON)
    assert to_usd(at_six(negation).estimates["A"]) == 18 * 36
    assert to_usd(at_six(charge("30", *ten, **counted, arrived=NOON), negation).estimates["A"]) == 17 * 36


def test_no_charge_has_come_later_than_now() -> None:
    assert is_early(charge("1"), EVENING)
    assert is_early(charge("1", arrived=DAY_WINDOW.end + DAY_MS), EVENING)
    assert (
        to_usd(at_six(charge("0.01")).spend) == to_usd(at_six(charge("0.01", arrived=DAY_WINDOW.end)).spend) == 18 * 36
    )


def test_an_early_charge_and_what_the_estimate_adds_are_split_by_what_the_machine_did() -> None:
    times = {"a-1": life((0, "asleep"), (6, "waking"), (7, "ready"), (9, "asleep"))}
    result = at_six(charge("36", arrived=NOON), times=times)
    assert causes(result) == {"waking": 36, "warm_idle": 72}


def test_time_that_nothing_prices_is_named_until_its_bill_comes() -> None:
    other = {"a-1": life((10, "ready"), (12, "asleep"))}
    assert at_six(times=other, prices={}).unestimated[0].tier == "A"
    early = at_six(charge("5", arrived=hours(11.95, 11.95).start), times=other, prices={})
    assert [(one.machine, one.since) for one in early.unestimated] == [("a-1", None)]
    assert early.uncertain == {"A"}
    hour = ("2026-05-03T11:00:00Z", "2026-05-03T12:00:00Z")
    over = charge("5", "2026-05-03T10:00:00Z", "2026-05-03T11:00:00Z")
    begun = at_six(over, charge("5", *hour, arrived=hours(11.95, 11.95).start), times=other, prices={})
    assert not begun.unestimated
    assert begun.uncertain == {"A"}
    assert report_state(begun) == "estimated"
    late = at_six(charge("5", "2026-05-03T10:00:00Z", "2026-05-03T12:00:00Z"), times=other, prices={})
    assert not late.uncertain
    assert report_state(late) == "provisional"
    assert not at_six(times={"a-1": life((0, "asleep"))}, prices={}).unestimated


@given(
    rows=st.lists(st.tuples(cost_rows(), st.integers(DAY_WINDOW.start - DAY_MS, EVENING)), max_size=6),
    times=st.fixed_dictionaries({"a-1": LIVES, "b-1": LIVES}),
)
def test_no_delivery_lowers_the_estimate_of_hours_that_were_not_over(
    rows: list[tuple[CostRow, int]], times: dict[str, MachineTime]
) -> None:
    """Whatever came: the gate counts at least the estimate of all hours that were not over when the last of it did."""
    prices = {"A": 36 * 10**12, "B": 7 * 10**12}
    came = [_arrived(row, at) for row, at in rows if touches(row)]
    last = max([at for _, at in rows], default=DAY_WINDOW.start)
    open_from = max(DAY_WINDOW.start, last - last % HOUR_MS)
    whole = at_six(times=times, prices=prices).accrued
    before = allocated(now=open_from, times=until(open_from, times), prices=prices).accrued
    assert sum(at_six(*came, times=times, prices=prices).estimates.values()) >= whole - before - ROUNDING
    early = [row for row in came if row.billed >= 0 and row.category != "Tax" and is_early(row, EVENING)]
    assert at_six(*early, times=times, prices=prices).spend >= whole - ROUNDING


def touches(row: CostRow) -> bool:
    return row.charge_start < DAY_WINDOW.end and max(row.charge_start + 1, row.charge_end) > DAY_WINDOW.start


def _arrived(row: CostRow, at: int) -> CostRow:
    return CostRow(**{name: getattr(row, name) for name in row.__dataclass_fields__} | {"arrived": at})
