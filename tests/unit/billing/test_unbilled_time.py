"""A machine that was awake and has neither charge nor price has no bill yet: what it is part of is null, never 0."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.allocation.day_allocation import allocate
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.allocation.machine_time import MachineTime
from services.billing.core.cost_row import CostRow
from services.billing.core.money import to_units, to_usd
from services.billing.core.pricing.bands import Ladder, days_before, next_band
from services.billing.core.reports.period_report import build_period_report, complete_through
from services.billing.core.utc_time import Window, day_of
from shared.messages.billing import DayReport
from shared.units import DAY_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET, LATER, charge, hours
from tests.unit.billing.test_allocation import AWAKE, allocated, life
from tests.unit.billing.test_day_report import WEIGHTS, M, as_texts, figured, reported, served
from tests.unit.billing.test_time_allocation import PRICE, accrual

MINUTE = 1 / 60
PARTS = replace(FLEET, parts=frozenset({"vol-a"}))
BOTH = {"a-1": AWAKE["a-1"], "b-1": AWAKE["a-1"]}


def use(first: int, end: int, **more: Any) -> CostRow:
    """A charge for a machine's use from one hour of the day to another."""
    stop = "2026-05-04T00" if end == 24 else f"2026-05-03T{end:02}"
    return charge(str(end - first), f"2026-05-03T{first:02}:00:00Z", f"{stop}:00:00Z", **more)


def missing(*rows: CostRow, **more: Any) -> list[tuple[str, str | None]]:
    """The machines whose cost is unknown, and from when on where it is not all of the day."""
    return [
        (one.machine, one.since and one.since[11:16]) for one in reported(*rows, **more).unbilled if not one.estimated
    ]


@pytest.mark.parametrize(
    ("rows", "lives", "expected"),
    [
        ([], [(0, "ready"), (24, "asleep")], [("a-1", None)]),
        ([use(0, 24)], [(0, "ready"), (24, "asleep")], []),
        ([use(0, 13)], [(0, "ready"), (24, "asleep")], [("a-1", "13:00")]),
        ([use(0, 13)], [(0, "ready"), (13, "asleep")], []),
        ([use(13, 24)], [(0, "ready"), (24, "asleep")], [("a-1", "00:00")]),
        ([use(0, 24, category="Purchase")], [(0, "ready"), (1, "asleep")], [("a-1", None)]),
        ([use(0, 24, category="Credit")], [(0, "ready"), (1, "asleep")], [("a-1", None)]),
        ([use(0, 24, service_category="Networking")], [(0, "ready"), (1, "asleep")], [("a-1", None)]),
        ([use(0, 24, resource_id="vol-a", service_category="Storage")], [(0, "ready"), (1, "asleep")], [("a-1", None)]),
        ([use(0, 24, resource_id="vol-a", service_category=None)], [(0, "ready"), (1, "asleep")], [("a-1", None)]),
        ([use(0, 24, resource_id="disk", service_category=None, parent_id="i-a")], [(0, "ready")], [("a-1", None)]),
        ([use(0, 24, resource_id="i-b")], [(0, "ready"), (1, "asleep")], [("a-1", None)]),
        ([], [(-9, "asleep")], []),
        ([], [(-9, "gone")], []),
        ([], [(5, "ready"), (5 + MINUTE / 60, "asleep")], [("a-1", None)]),
        # A start that was refused bills nobody; one that took longer and failed may have.
        ([], [(5, "waking"), (5 + MINUTE / 2, "asleep")], []),
        ([], [(5, "waking"), (5 + 2 * MINUTE, "asleep")], [("a-1", None)]),
        # What its provider does not count at the edges of an hour.
        ([use(10, 12)], [(10 - 2 * MINUTE, "waking"), (10.1, "ready"), (11.9, "draining"), (12.05, "asleep")], []),
        ([use(10, 12)], [(9, "waking"), (10.1, "ready"), (12, "asleep")], [("a-1", "09:00")]),
        ([use(10, 12)], [(10, "ready"), (12, "asleep"), (15.5, "waking"), (15.7, "asleep")], [("a-1", "15:00")]),
    ],
)
def test_which_machine_has_no_bill(rows: list[CostRow], lives: list[Any], expected: list[Any]) -> None:
    assert missing(*rows, times={"a-1": life(*lives)}, fleet=PARTS) == expected


def test_a_price_or_a_running_bill_stands_in_for_the_bill() -> None:
    priced = reported(use(0, 13), times=AWAKE, prices=PRICE)
    assert as_texts(priced.state, priced.spend) == as_texts("estimated", 13 + 33)
    assert [(one.machine, one.since, one.estimated) for one in priced.unbilled] == [
        ("a-1", "2026-05-03T13:00:00Z", True)
    ]
    assert missing(times=AWAKE, prices={"A": 0}) == []
    running = {"a-1": [accrual(hour, "1") for hour in range(24)]}
    assert missing(times=AWAKE, accruals=running) == []
    assert missing(times=AWAKE, accruals={"a-1": running["a-1"][:-1]}) == [("a-1", "23:00")]
    late = [*running["a-1"][:-1], accrual(23, "1", 0.0, 0.95)]
    assert missing(times=AWAKE, accruals={"a-1": late}) == []  # it is read once a minute


def test_a_settled_bill_that_has_the_machine_is_the_whole_truth() -> None:
    assert missing(use(0, 24, resource_id="i-b"), times=BOTH, settled=True) == [("a-1", None)]
    whole = reported(use(0, 24, resource_id="i-b"), times=BOTH, settled=True, on_bill=frozenset({"a-1"}))
    assert as_texts(whole.spend, whole.state, whole.unbilled) == as_texts(24, "final", ())


def test_machines_that_nobody_bills_or_knows_are_not_waited_for() -> None:
    owned = replace(FLEET, never_billed=frozenset({"a-1"}))
    assert missing(use(0, 24, resource_id="i-b"), times=BOTH, fleet=owned) == []
    assert missing(use(0, 24), times={"a-1": AWAKE["a-1"], "old-1": AWAKE["a-1"]}) == []


def test_a_machine_without_an_id_is_billed_by_the_tag_of_its_tier() -> None:
    nameless = replace(FLEET, machine_of={"i-b": "b-1"})
    tagged = use(0, 13, resource_id="x", tags='{"tier": "A"}')
    assert missing(tagged, times=AWAKE, fleet=nameless) == []
    assert missing(times=AWAKE, fleet=nameless) == [("a-1", None)]
    assert missing(tagged, times=AWAKE) == [("a-1", None)]


def test_a_tier_s_tagged_bill_of_a_day_that_was_over_replaces_its_estimate() -> None:
    nameless, prices = replace(FLEET, machine_of={"i-b": "b-1"}), {"A": to_units(Decimal(9))}
    tagged = charge("180", resource_id="x", tags='{"tier": "A"}')
    assert to_usd(allocated(tagged, times=AWAKE, fleet=nameless, prices=prices).spend) == 180
    early = replace(tagged, arrived=hours(12, 12).start)
    estimated = to_usd(allocated(times=AWAKE, fleet=nameless, prices=prices).spend)
    assert estimated > 0
    assert to_usd(allocated(early, times=AWAKE, fleet=nameless, prices=prices).spend) == 180 + estimated


def test_known_part_is_reported_and_every_sum_with_the_missing_bill_is_null() -> None:
    disk = charge("3", resource_id="vol-a", service_category="Storage")
    day = reported(disk, use(0, 24, resource_id="i-b"), times=BOTH, tokens=served(M, "B"))
    assert as_texts(day.state, day.spend, day.usd_per_mtok, day.spend_before_credits) == as_texts(
        "estimated", None, None, None
    )
    assert day.reason == "no bill yet: a-1"
    assert as_texts(day.spend_known, sum(day.causes.values()), day.billed_share) == as_texts(27, 27, None)
    assert [as_texts(t.tier, t.spend, t.spend_known, t.reason) for t in day.tiers] == [
        as_texts("A", None, 3, "no bill yet: a-1"),
        as_texts("B", 24, None, None),
    ]
    assert (day.models, day.keys, day.directions.output.usd_per_mtok) == ((), (), None)
    nothing = reported(times=AWAKE)
    assert as_texts(nothing.state, nothing.spend, nothing.spend_known, nothing.causes) == as_texts(
        "estimated", None, None, {}
    )
    assert [as_texts(t.tier, t.spend, t.spend_known) for t in nothing.tiers] == [as_texts("A", None, None)]


def test_a_reason_names_as_many_as_a_reader_reads() -> None:
    many = {f"m-{number:02}": AWAKE["a-1"] for number in range(12)}
    fleet = replace(FLEET, tier_of=dict.fromkeys(many, "A"))
    report = reported(times=many, fleet=fleet)
    assert report.reason == f"no bill yet: {', '.join(list(many)[:8])} and 4 more"
    assert [one.machine for one in report.unbilled] == list(many)


def week(without: int | None, **more: Any) -> list[DayReport]:
    """Seven days of 24 USD and a million tokens, the bill of one of them missing."""
    days = []
    for number in range(7):
        report = reported(*([] if number == without else [use(0, 24)]), times=AWAKE, **more)
        days.append(replace_day(report, day_of(DAY_WINDOW.start + number * DAY_MS)))
    return days


def replace_day(report: DayReport, day: str) -> DayReport:
    return type(report)(
        **{**{name: getattr(report, name) for name in report.__struct_fields__}, "day": day, "revision": 1}
    )


def test_period_with_a_missing_bill_is_null_and_names_the_machine_and_the_complete_days() -> None:
    days = week(without=4)
    period = build_period_report(days, WEIGHTS)
    assert as_texts(period.spend, period.usd_per_mtok, period.state) == as_texts(None, None, "estimated")
    assert period.reason == "no bill yet: a-1 on 2026-05-07; the days up to 2026-05-06 are whole"
    assert as_texts(period.spend_known, sum(period.causes.values()), period.complete_through) == as_texts(
        144, 144, "2026-05-06"
    )
    assert [as_texts(t.spend, t.spend_known, t.tokens, t.reason) for t in period.tiers] == [
        as_texts(None, 144, 7 * M, "no bill yet: a-1"),
        as_texts(0, None, 0, None),
    ]
    assert complete_through(week(without=None)) == "2026-05-09"
    idle = replace_day(reported(times=AWAKE, tokens=served(0)), "2026-05-10")
    assert complete_through([*week(without=None), idle, *week(without=None)]) == "2026-05-09"
    assert build_period_report([idle], WEIGHTS).reason == "no bill yet: a-1 on 2026-05-10"


def test_a_day_without_its_bill_never_enters_a_band_and_takes_none_away() -> None:
    ladder = Ladder(tuple(map(Decimal, ("10", "20", "30"))), M)
    on = day_of(DAY_WINDOW.start + 7 * DAY_MS)
    assert days_before(on, 7)[0] == "2026-05-03"
    band = next_band("m", on, week(without=4), ladder, None)
    assert band is not None
    assert as_texts(band.low, band.high, band.trailing_7) == as_texts(20, 30, 24)
    assert band.left_out == ("2026-05-07: no bill yet: a-1",)
    unbilled = [replace_day(reported(times=AWAKE), day) for day in days_before(on, 7)]
    assert next_band("m", on, unbilled, ladder, band) is None


def test_the_day_that_goes_on_lacks_the_bill_of_the_hours_that_were() -> None:
    now = hours(10.5, 10.5).start
    times = {"a-1": MachineTime([replace(i, window=Window(i.window.start, now)) for i in AWAKE["a-1"].intervals])}
    assert missing(times=times, now=now) == [("a-1", None)]
    assert missing(use(0, 10), times=times, now=now) == [("a-1", "10:00")]


@pytest.mark.parametrize(
    ("first", "end", "arrived", "expected"),
    [
        (0, 24, 12.5, [("a-1", None)]),
        (0, 24, 24.5, []),
        (17, 18, 17.95, []),
        (17, 18, 17.5, [("a-1", "17:00")]),
    ],
)
def test_early_charge_of_an_hour_covers_the_cost_up_to_then_and_a_longer_one_covers_none(
    first: int, end: int, arrived: float, expected: list[Any]
) -> None:
    now = hours(18, 18).start
    since = 17 if first else 0
    times = {"a-1": life((since, "ready"), (24, "asleep"))}
    until_now = [replace(i, window=i.window.overlap(Window(0, now))) for i in times["a-1"].intervals]
    row = use(first, end, arrived=hours(arrived, arrived).start)
    now = max(now, hours(arrived, arrived).start)
    assert missing(row, times={"a-1": MachineTime(until_now)}, now=now) == expected


def test_early_licence_of_a_month_covers_no_cost() -> None:
    licence = charge("9", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", arrived=DAY_WINDOW.start)
    assert missing(licence, times=AWAKE, now=hours(18, 18).start) == [("a-1", None)]


LIVES = st.lists(
    st.tuples(st.integers(0, 1440), st.sampled_from(["waking", "ready", "draining", "falling_asleep", "asleep"])),
    max_size=6,
).map(lambda changes: life(*((at / 60, state) for at, state in sorted(changes)), (24, "asleep")))
BILL = st.lists(
    st.tuples(st.integers(0, 23), st.integers(0, 10**6), st.sampled_from(["i-a", "i-b", "vol-a", None])), max_size=30
).map(
    lambda bill: [
        use(
            hour,
            hour + 1,
            resource_id=name,
            effective=None,
            service_category="Storage" if name == "vol-a" else "Compute",
        )
        for hour, _, name in bill
    ]
)


@given(st.tuples(LIVES, LIVES), BILL, st.randoms(use_true_random=False))
def test_whatever_comes_in_whichever_order_the_figures_are_those_of_all_at_once(
    lives: tuple[MachineTime, MachineTime], rows: list[CostRow], random: Any
) -> None:
    """And a machine never loses a bill that it has, so that null becomes a figure once."""
    times = dict(zip(("a-1", "b-1"), lives, strict=True))

    def of(rows: Sequence[CostRow]) -> DayReport:
        tokens = served(M)
        facts = DayInputs(day=DAY_WINDOW, now=LATER, rows=rows, fleet=PARTS, times=times, tokens=tokens.by_tier())
        return figured(allocate(facts), tokens)

    at_once = of(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert of(shuffled) == at_once
    if at_once.spend is not None:
        assert to_units(at_once.spend) == sum(to_units(cost) for cost in at_once.causes.values())
    for machine, instance in (("a-1", "i-a"), ("b-1", "i-b")):
        whole = [*rows, *(use(hour, hour + 1, resource_id=instance) for hour in range(24))]
        assert machine not in {one.machine for one in of(whole).unbilled}
