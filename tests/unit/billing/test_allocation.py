"""A day's spend divides exactly, by cause and by tier; the cases are those of the books' own list of tricky ones."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.allocation import charge_groups
from services.billing.core.allocation.attribution import DirectOwner
from services.billing.core.allocation.day_allocation import Allocation, allocate
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.allocation.machine_time import MachineTime, StateChange, build_intervals
from services.billing.core.cost_row import CostRow
from services.billing.core.invoice_files.focus import CATEGORIES
from services.billing.core.money import per_mtok, to_units, to_usd
from services.billing.core.utc_time import Window, day_window
from shared.messages.billing import CAUSES
from shared.messages.waker import MachineState
from shared.units import DAY_MS, HOUR_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET, LATER, charge, hours


def life(*changes: tuple[Any, ...], busy: tuple[Window, ...] = ()) -> MachineTime:
    """States from hours of the day on: when, which, and where it matters the key and the tier."""
    padded = [(*change, None, None)[:4] for change in changes]
    state_changes = [StateChange(hours(at, at).start, state, tier, key_id) for at, state, key_id, tier in padded]
    return MachineTime(build_intervals(state_changes, LATER), busy)


def allocated(*rows: CostRow, day: Window = DAY_WINDOW, **more: Any) -> Allocation:
    facts: dict[str, Any] = {"day": day, "now": LATER, "rows": rows, "fleet": FLEET}
    return allocate(DayInputs(**facts | more))


def day_part(day: Window, *rows: CostRow) -> int:
    """What of the rows falls on the day."""
    allocation = charge_groups.group_charges(rows, FLEET.owner_of, DAY_WINDOW, LATER).items()
    return sum(charge_groups.cost_on_day(charge.billed, kind, day) for kind, charge in allocation)


def causes(allocation: Allocation) -> dict[str, Decimal]:
    return {cause: to_usd(amount) for cause, amount in allocation.causes.items() if amount}


def tiers(allocation: Allocation) -> dict[str, Decimal]:
    return {tier: to_usd(amount) for tier, amount in allocation.tiers.items() if amount}


AWAKE = {"a-1": life((0, "ready"), (24, "asleep"), busy=(hours(0, 24),))}


def test_case_4_reversals_add_up() -> None:
    allocation = allocated(charge("30.00"), charge("-30.00"), charge("27.00"))
    assert to_usd(allocation.spend) == 27


def test_a_refund_larger_than_the_charge_beside_it_does_not_hide_that_the_machine_is_billed() -> None:
    allocation = allocated(charge("5.00"), charge("-9.13"), times=AWAKE)
    assert (causes(allocation), allocation.unbilled) == ({"serving": Decimal("-4.13")}, ())
    assert allocated(charge("-9.13"), times=AWAKE).unbilled


def test_case_6_a_covered_hour_counts_what_is_billed_and_nothing_twice() -> None:
    covered = charge("0", effective=Decimal(60), list_cost=Decimal(100))
    unused = charge("0", effective=Decimal(12), resource_id=None)
    fee = charge("72", effective=Decimal(0), category="Purchase", resource_id=None)
    allocation = allocated(covered, unused, fee)
    assert per_mtok(allocation.spend, 24_000_000) == 3
    assert tiers(allocation) == {"A": 36, "B": 36}


def test_case_9_disks_of_a_sleeping_tier_cost_a_thirty_first_a_day_and_the_month_is_exact() -> None:
    disk = charge("40.00", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", service_category="Storage")
    month = [day_window(f"2026-05-{n:02}") for n in range(1, 32)]
    parts = [day_part(day, disk) for day in month]
    assert sum(parts) == to_units(Decimal(40))
    assert set(map(to_usd, parts)) == {Decimal("1.290322580645"), Decimal("1.290322580646")}
    assert causes(allocated(disk, times={"a-1": life((-999, "asleep"))})) == {"asleep": to_usd(parts[2])}


def test_case_13_a_row_over_midnight_is_split_by_seconds() -> None:
    row = charge("4.80", "2026-05-03T23:00:00Z", "2026-05-04T01:00:00Z")
    assert to_usd(day_part(DAY_WINDOW, row)) == to_usd(day_part(day_window("2026-05-04"), row)) == Decimal("2.4")


def test_case_15_recoverable_tax_stands_beside_the_spend() -> None:
    allocation = allocated(charge("200"), charge("40", category="Tax", resource_id=None))
    assert [to_usd(allocation.spend), to_usd(allocation.tax)] == [Decimal(200), Decimal(40)]


def test_tax_alone_is_no_delivered_cost() -> None:
    assert not allocated(charge("40", category="Tax", resource_id=None)).billed


def test_case_16_credits_are_in_the_spend_and_out_of_the_one_before_them() -> None:
    allocation = allocated(charge("500"), charge("-500", category="Credit", resource_id=None))
    assert [to_usd(allocation.spend), to_usd(allocation.before_credits)] == [Decimal(0), Decimal(500)]


def test_case_18_shared_cost_follows_direct_cost() -> None:
    allocation = allocated(
        charge("600"), charge("300", resource_id="i-b"), charge("90", resource_id="nat", service_category="Networking")
    )
    assert tiers(allocation) == {"A": 660, "B": 330}
    assert to_usd(allocation.causes["shared"]) == 90


def test_shared_cost_alone_follows_tokens_else_is_spread_evenly() -> None:
    support = charge("90", resource_id=None)
    assert tiers(allocated(support, tokens={"A": 2, "B": 1})) == {"A": 60, "B": 30}
    assert tiers(allocated(support)) == {"A": 45, "B": 45}


def test_case_19_an_instance_is_known_without_its_tag_and_an_unknown_one_is_unattributed() -> None:
    allocation = allocated(charge("10"), charge("5", resource_id="i-unknown"))
    assert tiers(allocation) == {"A": 10}
    assert to_usd(allocation.causes["unattributed"]) == 5
    assert to_usd(allocation.spend) == 15


@pytest.mark.parametrize(
    ("row", "owner"),
    [
        ({"resource_id": "i-a"}, DirectOwner("A", "a-1")),
        ({"resource_id": "arn:aws:ec2:us-east-1:1:instance/i-a"}, DirectOwner("A", "a-1")),
        ({"resource_id": "ocid:vol-a"}, DirectOwner("A", "a-1")),
        ({"resource_id": "vol-a", "service_category": "Networking"}, DirectOwner("A", "a-1")),
        ({"resource_id": "x", "tags": '{" tier": "B"}'}, DirectOwner("B", None)),
        ({"resource_id": "x", "tags": '{"tier": "unknown"}'}, "unattributed"),
        ({"resource_id": "i-b", "tags": '{"tier": "A"}'}, DirectOwner("B", "b-1")),
        ({"resource_id": "x", "service_category": "AI and Machine Learning"}, "unattributed"),
        ({"resource_id": "x", "service_category": "Storage"}, "unattributed"),
        ({"resource_id": "x", "service_category": "Networking"}, "shared"),
        ({"resource_id": "x", "service_category": None}, "unattributed"),
        ({"resource_id": "i-a", "service_category": None}, DirectOwner("A", "a-1")),
        ({"resource_id": "x", "tags": '{"user_tier": "B"}'}, DirectOwner("B", None)),
        ({"resource_id": "x", "tags": '{"resourceTags/tier": "B"}'}, DirectOwner("B", None)),
        ({"resource_id": "x", "tags": '{"resourceTags/user:tier": "B", "user:tier": "A"}'}, DirectOwner("A", None)),
        ({"resource_id": "x", "tags": '{"costCategory/tier": "B", "accountTag/tier": "B"}'}, "unattributed"),
        ({"resource_id": "x", "tags": '{"tier": null}'}, "unattributed"),
        ({"resource_id": "x", "tags": '[{"key": "tier", "value": "B"}]'}, "unattributed"),
        ({"resource_id": "x", "tags": "{"}, "unattributed"),
        ({"resource_id": "/Subscriptions/1/VIRTUALMACHINES/vm-C"}, DirectOwner("A", "a-1")),
        ({"resource_id": "/subscriptions/1/virtualmachines/I-B"}, DirectOwner("B", "b-1")),
        ({"resource_id": "/projects/1/instances/I-B"}, "unattributed"),
        ({"resource_id": None}, "shared"),
    ],
)
def test_whose_a_charge_is(row: dict[str, Any], owner: object) -> None:
    assert FLEET.owner_of(charge("1", **row)) == owner


def test_case_22_equal_rows_both_count() -> None:
    nat = charge("0.045", resource_id="nat", service_category="Networking")
    assert to_usd(allocated(nat, nat).spend) == Decimal("0.09")


def test_case_28_the_bill_replaces_the_accrual() -> None:
    prices = {"A": to_units(Decimal("2.40"))}
    allocation = allocated(times=AWAKE, prices=prices)
    assert (to_usd(allocation.spend), allocation.accrued, allocation.billed) == (
        Decimal("57.6"),
        allocation.spend,
        False,
    )
    billed = allocated(charge("52.32"), times=AWAKE, prices=prices)
    assert (to_usd(billed.spend), billed.accrued) == (Decimal("52.32"), 0)


def test_the_bill_replaces_the_accrual_hour_by_hour() -> None:
    allocation = allocated(
        charge("2.00", "2026-05-03T10:00:00Z", "2026-05-03T10:30:00Z"),
        charge("9.00", service_category="Storage", resource_id="vol-a"),
        times=AWAKE,
        prices={"A": to_units(Decimal(3))},
    )
    assert to_usd(allocation.accrued) == 23 * 3
    assert to_usd(allocation.spend) == 2 + 9 + 69


def test_a_day_of_sleep_is_an_estimate_of_nothing_and_silence_is_none() -> None:
    prices = {"A": to_units(Decimal(3))}
    asleep = allocated(times={"a-1": life((-5, "asleep"))}, prices=prices)
    assert (asleep.spend, asleep.observed) == (0, True)
    assert not allocated(times={"a-1": MachineTime()}, prices=prices).observed
    assert not allocated(times={"a-1": life((-5, "asleep"))}).observed


def test_a_compute_charge_follows_what_the_machine_did_while_it_was_billed() -> None:
    times = {
        "a-1": life(
            (-1, "asleep"), (8, "waking"), (9, "ready"), (12, "falling_asleep"), (12.5, "asleep"), busy=(hours(10, 12),)
        )
    }
    assert causes(allocated(charge("9.00"), times=times)) == {"waking": 2, "serving": 4, "warm_idle": 3}
    consumed: dict[str, Any] = {"consumed_quantity": Decimal("4.5"), "consumed_unit": "Hours"}
    assert causes(allocated(charge("9.00", **consumed), times=times)) == {"waking": 2, "serving": 4, "warm_idle": 3}


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [
        ("4", {"serving": 12}),  # what the journal knows explains it all
        ("8", {"serving": 6, "unexplained": 6}),
        ("16", {"serving": 3, "unexplained": 9}),  # in the journal's silence, and in its sleep
        ("24", {"serving": 2, "unexplained": 10}),
        ("25", {"serving": 7, "unexplained": 5}),  # not of the machine: no day has so many
        (None, {"serving": 7, "unexplained": 5}),  # as far as the journal is silent
    ],
)
def test_hours_that_the_journal_cannot_explain(quantity: str | None, expected: dict[str, Decimal]) -> None:
    times = {"a-1": life((10, "ready"), (14, "asleep"), busy=(hours(10, 14),))}
    consumed: dict[str, Any] = {}
    if quantity is not None:
        consumed = {"consumed_quantity": Decimal(quantity), "consumed_unit": "hours"}
    assert causes(allocated(charge("12.00", **consumed), times=times)) == expected


def test_a_charge_for_a_machine_that_slept_or_for_an_unknown_past_is_unexplained() -> None:
    assert causes(allocated(charge("1"), times={"a-1": life((-1, "asleep"))})) == {"unexplained": 1}
    assert causes(allocated(charge("1"))) == {"unexplained": 1}
    moment = "2026-05-03T10:00:00Z"
    assert causes(allocated(charge("1", moment, moment), times=AWAKE)) == {"unexplained": 1}


def test_storage_costs_in_every_state() -> None:
    times = {"a-1": life((0, "ready"), (6, "asleep"), (18, "gone"), busy=(hours(0, 6),))}
    disk = charge("24", resource_id="vol-a", service_category="Storage")
    assert causes(allocated(disk, times=times)) == {"serving": 6, "asleep": 18}


def test_what_has_not_happened_yet_explains_nothing() -> None:
    times = {"a-1": MachineTime(build_intervals([StateChange(DAY_WINDOW.start, "ready")], hours(6, 6).end))}
    assert causes(allocated(charge("24"), times=times, now=hours(6, 6).start)) == {"warm_idle": 24}


COSTS = st.decimals(-1000, 1000, places=12)
STATES: list[MachineState] = ["asleep", "waking", "ready", "draining", "falling_asleep", "broken"]
MOMENTS = st.integers(DAY_WINDOW.start - 2 * DAY_MS, DAY_WINDOW.end + 2 * DAY_MS)
LIVES = st.lists(st.tuples(MOMENTS, st.sampled_from(STATES)), max_size=8).map(
    lambda allocation: MachineTime(
        build_intervals([StateChange(*c) for c in sorted(allocation, key=lambda c: c[0])], LATER),
        (hours(3, 4), hours(7, 7.5)),
    )
)


@st.composite
def cost_rows(draw: st.DrawFn) -> CostRow:
    start = draw(MOMENTS)
    return CostRow(
        billed=draw(COSTS),
        charge_start=start,
        charge_end=start + draw(st.integers(0, 40 * DAY_MS)),
        category=draw(st.sampled_from(CATEGORIES)),
        service_category=draw(st.sampled_from(["Compute", "Storage", "Networking", None])),
        resource_id=draw(st.sampled_from(["i-a", "vol-a", "i-b", "stranger", None])),
        tags=draw(st.sampled_from([None, '{"tier": "B"}', "{}"])),
        consumed_quantity=draw(st.sampled_from([None, Decimal(1), Decimal("-0.3"), Decimal(0), Decimal(700)])),
        consumed_unit=draw(st.sampled_from([None, "Hours", "GB"])),
    )


def covers(row: CostRow) -> bool:
    return row.charge_start < DAY_WINDOW.end and max(row.charge_start + 1, row.charge_end) > DAY_WINDOW.start


@given(
    st.lists(cost_rows().filter(covers), max_size=8),
    st.fixed_dictionaries({"a-1": LIVES, "b-1": LIVES}),
    st.sampled_from([{}, {"A": 3 * 10**12}]),
    st.sampled_from([{}, {"A": 7, "old": 3}]),
)
def test_every_part_sums_exactly(
    rows: list[CostRow], times: dict[str, MachineTime], prices: dict[str, int], tokens: dict[str, int]
) -> None:
    allocation = allocated(*rows, times=times, prices=prices, tokens=tokens)
    charged = day_part(DAY_WINDOW, *(row for row in rows if row.category != "Tax"))
    credited = day_part(DAY_WINDOW, *(row for row in rows if row.category == "Credit"))
    assert set(allocation.causes) == set(CAUSES)
    assert sum(allocation.causes.values()) == allocation.spend == charged + allocation.accrued
    assert sum(allocation.tiers.values()) + allocation.causes["unattributed"] == allocation.spend
    assert allocation.before_credits == allocation.spend - credited
    assert allocation == allocated(*rows, times=times, prices=prices, tokens=tokens)


@given(COSTS, st.integers(0, 5 * HOUR_MS), st.integers(0, 70 * DAY_MS))
def test_the_days_of_a_row_sum_to_its_cost(cost: Decimal, offset: int, length: int) -> None:
    start = DAY_WINDOW.start + offset
    row = CostRow(billed=cost, charge_start=start, charge_end=start + length, category="Usage")
    days = [Window(at, at + DAY_MS) for at in range(DAY_WINDOW.start, start + length + 1, DAY_MS)]
    assert sum(day_part(day, row) for day in days if day.start < max(start + 1, start + length)) == to_units(cost)
