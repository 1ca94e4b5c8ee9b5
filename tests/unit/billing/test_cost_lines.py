"""An explanation's lines sum to exactly the figure that they explain, largest first, however many there are."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.billing.core.allocation.attribution import Fleet
from services.billing.core.allocation.day_allocation import Allocation, allocate
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.allocation.machine_time import MachineTime
from services.billing.core.cost_row import CostRow
from services.billing.core.money import to_usd
from services.billing.core.reports.charge_list import list_charges
from services.billing.core.reports.cost_lines import (
    MAX_LINES,
    ChargeOrigin,
    CostLines,
    Figure,
    build_cost_lines,
    to_explanations,
)
from shared.messages.explanation import CostLine, Explanation
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET, LATER, charge
from tests.unit.billing.test_allocation import LIVES, cost_rows, covers, life


def explained(*rows: CostRow, fleet: Fleet = FLEET, **more: Any) -> tuple[Allocation, CostLines]:
    facts: dict[str, Any] = {"day": DAY_WINDOW, "now": LATER, "rows": rows, "fleet": fleet}
    made = DayInputs(**facts | more)
    allocation = allocate(made)
    return allocation, build_cost_lines(made, [ChargeOrigin("cloud", "may.csv")] * len(rows), allocation)


def figure(result: CostLines, name: str) -> Explanation:
    (explanation,) = [one for one in to_explanations(result) if one.figure == name]
    return explanation


def amounts(lines: CostLines, what: str) -> int:
    return sum(t.amount for result in lines.by_figure.values() for label, t in result.items() if label.what == what)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(cost_rows().filter(covers), max_size=8),
    st.fixed_dictionaries({"a-1": LIVES, "b-1": LIVES}),
    st.sampled_from([{}, {"A": 3 * 10**12}]),
    st.sampled_from([{}, {"A": 7, "old": 3}]),
)
def test_each_figure_is_the_sum_of_its_lines(
    rows: list[CostRow], times: dict[str, MachineTime], prices: dict[str, int], tokens: dict[str, int]
) -> None:
    allocation, lines = explained(*rows, times=times, prices=prices, tokens=tokens)
    result = {Figure(one.is_tier, one.figure): one for one in to_explanations(lines)}
    assert {name.name for name in result if name.is_tier} == set(allocation.tiers)
    for name, one in result.items():
        expected = allocation.tiers[name.name] if name.is_tier else dict(allocation.causes)[name.name]  # type: ignore[index]  # a cause's name
        assert one.amount == to_usd(expected) == sum((line.amount for line in one.lines), one.rest)
    # Shares are what is left in a tier: that they sum to the shared cost says that nothing else is.
    assert amounts(lines, "shared") == allocation.causes["shared"]
    assert amounts(lines, "estimate") == allocation.accrued
    assert amounts(lines, "charges") == allocation.spend - allocation.accrued


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(cost_rows().filter(covers), st.sampled_from(["1", "0.92", "7.3"])), max_size=8),
    st.fixed_dictionaries({"a-1": LIVES, "b-1": LIVES}),
    st.sampled_from([{}, {"A": 3 * 10**12}]),
    st.sampled_from([FLEET, Fleet(tiers=(), tier_of={}, machine_of={}, tier_tag="tier")]),
)
def test_single_charges_and_estimates_sum_to_the_figures(
    priced: list[tuple[CostRow, str]], times: dict[str, MachineTime], prices: dict[str, int], fleet: Fleet
) -> None:
    alike = [Decimal("0.000000000007"), Decimal("-1.000000000001"), Decimal(3)]
    rows = [replace(row, per_usd=rate, billed=billed) for row, rate in priced for billed in (row.billed, *alike)]
    facts = DayInputs(day=DAY_WINDOW, now=LATER, rows=rows, fleet=fleet, times=times, prices=prices)
    allocation = allocate(facts)
    origins = [ChargeOrigin("cloud", f"{number}.csv") for number in range(len(rows))]
    charges = list_charges(facts, origins, allocation)
    assert sorted(one.origin.file for one in charges) == sorted(origin.file for origin in origins)
    by_cause: Counter[str] = Counter()
    by_tier: Counter[str | None] = Counter()
    for one in charges:
        assert sum(one.parts.values()) == (0 if one.row.category == "Tax" else one.amount)
        for (tier, cause), amount in one.parts.items():
            by_cause[cause] += amount
            by_tier[tier] += amount
    for part, amount in allocation.estimate_parts.items():
        by_cause[part.cause] += amount
        by_tier[part.tier] += amount
    assert {cause: by_cause[cause] for cause in allocation.causes} == allocation.causes
    assert by_cause.total() == allocation.spend
    assert sum(one.amount for one in charges if one.row.category == "Tax") == allocation.tax
    assert by_tier[None] == allocation.causes["shared"] + allocation.causes["unattributed"]
    reordered = list_charges(replace(facts, rows=rows[::-1]), origins[::-1], allocate(replace(facts, rows=rows[::-1])))
    assert [(one.row, one.parts) for one in reordered] == [(one.row, one.parts) for one in charges]


def test_cost_line_has_resource_service_and_origin() -> None:
    _, lines = explained(
        charge("6", resource_id="vol-x", service_name="EBS", tags='{"tier": "C", "team": "x"}', rows=3),
        charge("1", resource_id="vol-x", service_name="EBS", tags='{"tier": "C"}'),
        charge("-9", resource_id="vol-x", service_name="EBS", category="Credit"),
        charge("2", resource_id="nat", service_name="VPC", service_category="Networking"),
        charge("5", resource_id="tax", category="Tax"),
    )
    assert figure(lines, "unattributed") == Explanation(
        figure="unattributed",
        is_tier=False,
        amount=Decimal(-2),
        lines=(
            CostLine(
                what="charges",
                amount=Decimal(-9),
                resource="vol-x",
                service="EBS",
                category="Credit",
                source="cloud",
                file="may.csv",
                charges=1,
            ),
            CostLine(
                what="charges",
                amount=Decimal(7),
                resource="vol-x",
                service="EBS",
                category="Usage",
                tag="C",
                source="cloud",
                file="may.csv",
                charges=4,
            ),
        ),
    )
    (nat,) = figure(lines, "shared").lines
    assert (nat.resource, nat.service, nat.amount) == ("nat", "VPC", Decimal(2))


def test_a_tier_has_its_charges_its_estimates_and_its_part_of_the_shared_cost() -> None:
    times = {"a-1": life((0, "ready"), (24, "asleep"))}
    _, lines = explained(
        charge("10", "2026-05-03T00:00:00Z", "2026-05-03T12:00:00Z", service_name="EC2"),
        charge("3", resource_id="nat", service_category="Networking"),
        times=times,
        prices={"A": 2 * 10**12},
    )
    parts = [(line.what, line.resource, line.amount) for line in figure(lines, "A").lines]
    assert parts == [
        ("estimate", "a-1", Decimal(24)),
        ("charges", "i-a", Decimal(10)),
        ("shared", None, Decimal(3)),
    ]
    assert figure(lines, "B").lines == ()


def test_a_charge_of_a_machine_that_changed_its_tier_is_in_both() -> None:
    times = {"a-1": life((0, "ready", None, "A"), (6, "ready", None, "B"))}
    _, lines = explained(charge("8"), charge("0.000000000001", resource_id="vol-a"), times=times)
    for tier, amount in (("A", "2"), ("B", "6")):
        result = figure(lines, tier)
        assert abs(result.amount - Decimal(amount)) <= Decimal("0.000000000001")
        assert {line.resource for line in result.lines} <= {"i-a", "vol-a"}
        assert sum(line.amount for line in result.lines) == result.amount


def test_without_a_tier_the_shared_cost_is_unattributed() -> None:
    nobody = Fleet(tiers=(), tier_of={}, machine_of={}, tier_tag="tier")
    allocation, lines = explained(charge("3", resource_id=None), charge("4", resource_id="x"), fleet=nobody)
    assert allocation.causes["shared"] == 0
    assert [line.amount for line in figure(lines, "unattributed").lines] == [Decimal(4), Decimal(3)]
    assert figure(lines, "shared").lines == ()


def test_many_resources_are_the_largest_and_one_rest() -> None:
    _, lines = explained(*(charge(f"{number + 1}", resource_id=f"x-{number:03}") for number in range(MAX_LINES + 5)))
    result = figure(lines, "unattributed")
    assert [line.amount for line in result.lines] == [Decimal(n) for n in range(MAX_LINES + 5, 5, -1)]
    assert (result.more, result.rest) == (5, Decimal(15))
    _, lines = explained(*(charge("1", resource_id=f"x-{number:03}") for number in range(MAX_LINES + 1)))
    assert (len(figure(lines, "unattributed").lines), figure(lines, "unattributed").more) == (MAX_LINES + 1, 0)


def test_days_are_added_up_line_by_line() -> None:
    _, first = explained(charge("3", resource_id="x"), charge("1", resource_id="y"))
    _, second = explained(charge("4", resource_id="x"))
    both = CostLines()
    both.add_all(first)
    both.add_all(second)
    lines = [(line.resource, line.amount, line.charges) for line in figure(both, "unattributed").lines]
    assert lines == [("x", Decimal(7), 2), ("y", Decimal(1), 1)]
