"""A day's figures; the cases are those of the books' own list of tricky ones, by its numbers."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.billing.core.allocation.day_allocation import Allocation, allocate
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.cost_row import CostRow
from services.billing.core.money import per_mtok, to_units, to_usd
from services.billing.core.reports.cost_by_model import weighted_tokens
from services.billing.core.reports.day_report import NOT_DELIVERED, always_on_cost, build_day_report
from services.billing.core.reports.figures import NO_TOKENS
from services.billing.core.token_usage import TokenUsage, token_usage
from services.billing.core.utc_time import Window, day_window
from shared.messages.billing import DayReport
from shared.messages.meter import Tokens, TokensRow, TokenSums
from shared.units import DAY_MS
from tests.unit.billing.cost_row_builders import DAY_WINDOW, FLEET, LATER, charge, hours
from tests.unit.billing.test_allocation import AWAKE, LIVES, cost_rows, covers, life

WEIGHTS = {"input": 10, "cached": 1, "output": 40}
M = 1_000_000


def used(*rows: tuple[str, str, str, str, int], output: int = 0, complete: bool = True) -> TokenUsage:
    """Tier, model, key, outcome and prompt tokens; `output` completion tokens with the first."""
    every = tuple(
        TokensRow(
            dimensions={"tier": tier, "model": model, "key": key, "outcome": outcome},
            sums=TokenSums(prompt_tokens=tokens, completion_tokens=0 if number else output),
        )
        for number, (tier, model, key, outcome, tokens) in enumerate(rows)
    )
    empty = TokenSums()
    reasons = () if complete else ("it is not over",)
    return token_usage(
        Tokens(day="2026-05-03", complete=complete, totals=empty, served=empty, rows=every, reasons=reasons)
    )


def as_texts(*values: object) -> tuple[object, ...]:
    """To be compared with numbers of another type."""
    return values


def served(tokens: int, tier: str = "A") -> TokenUsage:
    return used((tier, "m", "k", "completed", tokens))


def reported(*rows: CostRow, tokens: TokenUsage | None = None, day: Window = DAY_WINDOW, **more: Any) -> DayReport:
    tokens = tokens or served(M)
    facts: dict[str, Any] = {"day": day, "now": LATER, "rows": rows, "fleet": FLEET, "tokens": tokens.by_tier()}
    return figured(allocate(DayInputs(**facts | more)), tokens, settled=more.get("settled", False))


def figured(allocation: Allocation, tokens: TokenUsage, *, settled: bool = False) -> DayReport:
    return build_day_report("2026-05-03", allocation, tokens, WEIGHTS, sources=(), settled=settled)


def test_case_06_a_covered_hour_by_both_costs() -> None:
    covered = charge("0", effective=Decimal(60), list_cost=Decimal(100))
    unused = charge("0", effective=Decimal(12), resource_id=None)
    fee = charge("72", effective=Decimal(0), category="Purchase", resource_id=None)
    report = reported(covered, unused, fee, tokens=served(24 * M))
    assert as_texts(report.spend, report.effective_spend, report.usd_per_mtok) == as_texts(72, 72, 3)


def test_case_07_an_upfront_purchase_is_one_line_of_its_day_and_a_tenth_of_a_hundredth_by_effective_cost() -> None:
    first, second = day_window("2026-05-01"), day_window("2026-05-02")
    bought = charge("3650", "2026-05-01T00:00:00Z", "2026-05-02T00:00:00Z", category="Purchase", effective=Decimal(0))
    days = [
        charge("0", f"2026-05-0{n}T00:00:00Z", f"2026-05-0{n + 1}T00:00:00Z", effective=Decimal(10)) for n in (1, 2)
    ]
    on_first, on_second = reported(bought, days[0], day=first), reported(days[1], day=second)
    assert [as_texts(r.spend, r.effective_spend) for r in (on_first, on_second)] == [
        as_texts(3650, 10),
        as_texts(0, 10),
    ]


def test_case_09_a_sleeping_tier_costs_its_disks_and_has_no_price_per_token() -> None:
    disk = charge("40.00", "2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", service_category="Storage")
    report = reported(disk, tokens=used(), times={"a-1": life((-999, "asleep"))})
    assert report.spend in (Decimal("1.290322580645"), Decimal("1.290322580646"))
    assert (report.causes["asleep"], report.usd_per_mtok, report.reason) == (report.spend, None, NO_TOKENS)


def test_case_10_cost_without_tokens_is_shown_and_belongs_to_nobody() -> None:
    report = reported(charge("57.60"), tokens=used())
    assert (report.spend, report.usd_per_mtok, report.reason) == (Decimal("57.6"), None, NO_TOKENS)
    assert [(m.model, m.spend) for m in report.models] == [(None, Decimal("57.6"))]
    assert [(k.key_id, k.spend) for k in report.keys] == [(None, Decimal("57.6"))]


def test_case_11_tokens_without_a_bill_are_estimated_or_not_known_but_never_free() -> None:
    unknown = reported(tokens=served(40 * M))
    assert (unknown.state, unknown.spend, unknown.reason) == (None, None, NOT_DELIVERED)
    assert [*unknown.models, *unknown.keys, *unknown.tiers] == []
    estimate = reported(tokens=served(40 * M), times=AWAKE, prices={"A": to_units(Decimal("2.40"))})
    assert as_texts(estimate.state, estimate.spend, estimate.billed_share) == as_texts("estimated", Decimal("57.6"), 0)


def test_case_15_the_headline_is_without_recoverable_tax() -> None:
    report = reported(charge("200"), charge("40", category="Tax", resource_id=None))
    assert as_texts(report.spend, report.tax, report.usd_per_mtok) == as_texts(200, 40, 200)


def test_case_16_before_and_after_credits_both_have_their_ratio() -> None:
    credit = charge("-500", category="Credit", resource_id=None)
    report = reported(charge("500"), credit, tokens=served(250 * M))
    assert as_texts(report.usd_per_mtok, report.usd_per_mtok_before_credits) == as_texts(0, 2)
    assert [as_texts(m.model, m.spend, m.spend_before_credits) for m in report.models] == [as_texts("m", 0, 500)]


def test_case_18_shared_cost_is_reported_with_its_basis() -> None:
    nat = charge("90", resource_id="nat", service_category="Networking")
    tokens = used(("A", "m", "k", "completed", 300 * M), ("B", "m", "k", "completed", 100 * M))
    report = reported(charge("600"), charge("300", resource_id="i-b"), nat, tokens=tokens)
    assert [as_texts(t.spend, t.usd_per_mtok) for t in report.tiers] == [
        as_texts(660, Decimal("2.2")),
        as_texts(330, Decimal("3.3")),
    ]
    assert (report.usd_per_mtok, report.shared_by) == (Decimal("2.475"), "direct cost")
    assert reported(nat).shared_by == "tokens"
    assert reported(nat, tokens=used()).shared_by == "nothing: evenly"
    assert reported(charge("1")).shared_by is None
    refunded = reported(charge("-10"), charge("10", resource_id="i-b"), nat)
    assert [tier.spend for tier in refunded.tiers] == [-10, 100]  # who got money back bears nothing


def test_case_19_the_tag_comes_after_the_resource_and_before_the_parent() -> None:
    def tiers(**row: Any) -> list[Decimal]:
        return [tier.spend for tier in reported(charge("1", **row)).tiers if tier.spend is not None]

    assert tiers(resource_id="i-a", tags='{"tier": "B"}', parent_id="i-b") == [1, 0]
    assert tiers(resource_id="x", tags='{"tier": "B"}', parent_id="i-a") == [0, 1]
    assert tiers(resource_id="x", parent_id="arn:aws:ec2:eu:1:instance/i-b") == [0, 1]
    assert tiers(resource_id="x", parent_id="y") == [0, 0]
    assert reported(charge("1", resource_id="x", parent_id="y")).causes["unattributed"] == 1


def test_case_28_variance_between_accrual_and_bill_is_reported() -> None:
    bill = charge("104.64", end="2026-05-04T00:00:00Z")
    two = {"a-1": life((0, "ready"), (24, "asleep"))}
    report = reported(bill, times=two, prices={"A": to_units(Decimal("4.80"))})
    assert report.variance is not None
    assert as_texts(report.spend, report.billed_share) == (Decimal("104.64"), 1)
    variance = (report.variance.accrued, report.variance.billed, report.variance.difference)
    assert variance == (Decimal("115.20"), Decimal("104.64"), Decimal("-10.56"))
    assert reported(bill, times=two).variance is None  # nothing would have been accrued
    assert reported(times=two, prices={"A": to_units(Decimal("4.80"))}).variance is None  # nothing was billed


def test_a_part_of_the_day_that_the_bill_has_not_reached_keeps_it_an_estimate() -> None:
    half = charge("30", end="2026-05-03T12:00:00Z")
    report = reported(half, times=AWAKE, prices={"A": to_units(Decimal("2.50"))})
    assert as_texts(report.state, report.spend, report.billed_share) == as_texts("estimated", 60, Decimal("0.5"))


@pytest.mark.parametrize(
    ("settled", "complete", "state"),
    [(True, True, "final"), (True, False, "provisional"), (False, True, "provisional")],
)
def test_final_needs_the_invoices_and_the_usage(settled: bool, complete: bool, state: str) -> None:
    tokens = used(("A", "m", "k", "completed", 5), complete=complete)
    report = reported(charge("1"), tokens=tokens, settled=settled)
    assert (report.state, report.usage_complete, bool(report.usage_reasons)) == (state, complete, not complete)


def test_a_settled_bill_is_the_whole_truth_of_the_machines_on_it() -> None:
    prices = {"A": to_units(Decimal(1)), "B": to_units(Decimal(1))}
    both = {"a-1": AWAKE["a-1"], "b-1": AWAKE["a-1"]}
    disk = charge("3", resource_id="vol-a", service_category="Storage")
    assert reported(disk, times=both, prices=prices).spend == 3 + 24 + 24
    settled = reported(disk, times=both, prices=prices, settled=True)
    assert as_texts(settled.spend, settled.state) == as_texts(
        3 + 24, "estimated"
    )  # b-1 has another provider, whose bill is to come
    alone = reported(disk, times=AWAKE, prices=prices, settled=True)
    assert as_texts(alone.spend, alone.state) == as_texts(3, "final")


def test_a_settled_day_without_any_charge_cost_nothing() -> None:
    report = reported(settled=True)
    assert as_texts(report.spend, report.state, report.usd_per_mtok) == as_texts(0, "final", 0)


def test_failed_tokens_are_waste_and_aborted_ones_served() -> None:
    rows = (("A", "m", "k", "completed", 5), ("A", "m", "k", "client_closed", 7), ("A", "m", "k", "failed", 11))
    report = reported(charge("1"), tokens=used(*rows))
    assert (report.tokens, report.tokens_failed, report.models[0].tokens) == (12, 11, 12)


def test_a_tiers_cost_is_split_by_weighted_tokens_over_models_and_keys() -> None:
    tokens = used(
        ("A", "large", "k1", "completed", 0),
        ("A", "small", "k2", "completed", 40),
        ("B", "small", "k1", "completed", 9),
        output=30,
    )
    report = reported(charge("160"), charge("10", resource_id="i-b"), tokens=tokens)
    assert [as_texts(m.model, m.spend, m.tokens) for m in report.models] == [
        as_texts("large", 120, 30),
        as_texts("small", 50, 49),
    ]
    assert [as_texts(k.key_id, k.spend, k.tokens) for k in report.keys] == [
        as_texts("k1", 130, 39),
        as_texts("k2", 40, 40),
    ]
    assert report.usd_per_mtok_output == per_mtok(to_units(Decimal(170)), 30)


def test_a_token_weighs_what_its_direction_does_and_directions_without_weight_count_alike() -> None:
    sums = TokenSums(prompt_tokens=100, cached_tokens=60, completion_tokens=7)
    assert weighted_tokens(sums, WEIGHTS) == 40 * 10 + 60 * 1 + 7 * 40
    tokens = used(("A", "m", "k1", "completed", 30), ("A", "m", "k2", "completed", 10))
    allocation = allocate(DayInputs(day=DAY_WINDOW, now=LATER, rows=[charge("8")], fleet=FLEET))
    unweighted = build_day_report("2026-05-03", allocation, tokens, {"output": 1}, sources=())
    assert [as_texts(key.key_id, key.spend) for key in unweighted.keys] == [as_texts("k1", 6), as_texts("k2", 2)]


def test_wake_cost_is_reported_by_key_even_if_the_wake_failed() -> None:
    times = {
        "a-1": life(
            (0, "asleep"), (1, "waking", "k1"), (2, "ready"), (3, "asleep"), (4, "waking", "k2"), (5, "asleep")
        ),
        "b-1": life((0, "waking"), (1, "ready"), (2, "asleep")),
    }
    prices = {"A": to_units(Decimal(3)), "B": to_units(Decimal(5))}
    report = reported(times=times, prices=prices, tokens=used(("A", "m", "k1", "completed", 5)))
    assert {k.key_id: as_texts(k.spend, k.wakes) for k in report.keys} == {
        "k1": as_texts(9, 3),
        "k2": as_texts(0, 3),
        None: as_texts(10, 5),
    }
    assert report.causes["waking"] + report.causes["failed_wake"] == 11


def test_a_machine_belongs_to_the_tier_that_the_journal_names_and_before_it_to_the_configured_one() -> None:
    moved = {"a-1": life((6, "ready", None, "B"), (12, "ready", None, "A"), (18, "asleep", None, "A"))}
    report = reported(charge("24"), times=moved, prices={"A": 1, "B": 1})
    assert {t.tier: t.spend for t in report.tiers} == {"A": 9 + 6, "B": 9}
    assert report.causes["unexplained"] == 6
    old = reported(
        times={"gone-1": life((0, "ready", None, "old"), (24, "asleep", None, "old"))}, prices={"old": 10**12}
    )
    assert {t.tier: t.spend for t in old.tiers} == {"A": 0, "B": 0, "old": 24}


def test_always_on_is_every_machine_for_all_of_the_time_that_has_passed() -> None:
    prices = {"A": to_units(Decimal(2)), "B": to_units(Decimal(3))}
    whole = always_on_cost(FLEET.tier_of, prices, DAY_WINDOW, 10 * M)
    assert as_texts(whole.spend, whole.usd_per_mtok, whole.reason) == as_texts(120, 12, None)
    assert always_on_cost(FLEET.tier_of, prices, hours(0, 6), 10 * M).spend == 30
    unpriced = always_on_cost(FLEET.tier_of, {"A": 1}, DAY_WINDOW, 10 * M)
    assert (unpriced.spend, unpriced.usd_per_mtok) == (None, None)
    assert "B" in (unpriced.reason or "")
    assert always_on_cost(FLEET.tier_of, prices, DAY_WINDOW, 0).usd_per_mtok is None


def test_a_charge_of_the_future_is_the_days_cost_and_explains_nothing() -> None:
    times = {"a-1": life((-1, "ready"))}
    report = reported(charge("5"), times=times, now=DAY_WINDOW.start - DAY_MS)
    assert as_texts(report.spend, report.state) == as_texts(5, "provisional")


TIERS = st.sampled_from(["A", "B", "old"])
TOKENS = st.lists(
    st.tuples(
        TIERS,
        st.sampled_from(["m1", "m2"]),
        st.sampled_from(["k1", "k2", "k3"]),
        st.sampled_from(["completed", "failed"]),
        st.integers(0, 10**9),
    ),
    max_size=8,
)


@settings(max_examples=150)
@given(
    st.lists(cost_rows().filter(covers), max_size=8),
    st.fixed_dictionaries({"a-1": LIVES, "b-1": LIVES}),
    st.sampled_from([{}, {"A": 3 * 10**12}]),
    TOKENS,
    st.integers(0, 10**6),
)
def test_every_level_sums_exactly(
    rows: list[CostRow], times: Mapping[str, Any], prices: dict[str, int], each: list[Any], output: int
) -> None:
    tokens = used(*each, output=output)
    facts = DayInputs(
        day=DAY_WINDOW, now=LATER, rows=rows, fleet=FLEET, times=times, prices=prices, tokens=tokens.by_tier()
    )
    report = figured(allocate(facts), tokens)
    if report.spend is None:
        return
    tiers = sum(to_units(tier.spend) for tier in report.tiers if tier.spend is not None)
    assert sum(to_units(cost) for cost in report.causes.values()) == to_units(report.spend)
    assert tiers + to_units(report.causes["unattributed"]) == to_units(report.spend)
    assert sum(to_units(model.spend) for model in report.models) == tiers
    assert sum(to_units(key.spend) for key in report.keys) == tiers
    assert sum(model.tokens for model in report.models) == sum(key.tokens for key in report.keys) == report.tokens
    wakes = to_units(report.causes["waking"]) + to_units(report.causes["failed_wake"])
    assert sum(to_units(key.wakes) for key in report.keys) == wakes
    before = sum(to_units(model.spend_before_credits or Decimal(0)) for model in report.models)
    credited = allocate(DayInputs(**{**_fields(facts), "rows": [row for row in rows if row.category != "Credit"]}))
    assert report.spend_before_credits is not None
    assert before == sum(allocate(facts).tiers_before.values())
    assert credited.spend == to_units(report.spend_before_credits)
    assert 0 <= (report.billed_share or 0) <= 1


def _fields(facts: DayInputs) -> dict[str, Any]:
    return {name: getattr(facts, name) for name in facts.__dataclass_fields__}


@settings(max_examples=100)
@given(
    st.lists(cost_rows(), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(["a-1", "b-1"]), LIVES),
    st.data(),
)
def test_no_figure_depends_on_how_many_rows_a_charge_came_in(
    rows: list[CostRow], times: Mapping[str, Any], data: st.DataObject
) -> None:
    """Rows that differ in their amounts alone may come one by one or as their sum."""
    more = [alike(row, data.draw(st.decimals(-50, 50, places=12))) for row in rows if data.draw(st.booleans())]
    summed = [
        merged([row, *(other for other in more if same(row, other))]) if any(same(row, o) for o in more) else row
        for row in rows
    ]
    unique = {(row.charge_start, row.charge_end, row.resource_id, row.category, row.tags) for row in rows}
    if len(unique) < len(rows):
        return
    day = day_window("2026-05-03")
    facts: dict[str, Any] = {"day": day, "now": LATER, "fleet": FLEET, "times": times}
    inside = [row for row in (*rows, *more) if covers(row)]
    together = [row for row in summed if covers(row)]
    assert allocate(DayInputs(rows=inside, **facts)) == allocate(DayInputs(rows=together, **facts))


def alike(row: CostRow, billed: Decimal) -> CostRow:
    return _replaced(row, billed=billed)


def same(row: CostRow, other: CostRow) -> bool:
    return _replaced(row, billed=Decimal(0)) == _replaced(other, billed=Decimal(0))


def merged(rows: list[CostRow]) -> CostRow:
    quantities = [row.consumed_quantity for row in rows]
    quantity = None if None in quantities else sum((q for q in quantities if q is not None), Decimal(0))
    billed = to_usd(sum(to_units(row.billed) for row in rows))
    return _replaced(rows[0], billed=billed, consumed_quantity=quantity, rows=len(rows))


def _replaced(row: CostRow, **more: Any) -> CostRow:
    return CostRow(**{**{name: getattr(row, name) for name in row.__dataclass_fields__}, **more})


@given(st.lists(cost_rows(), min_size=1, max_size=5))
def test_the_days_and_their_tax_are_the_whole_bill(rows: list[CostRow]) -> None:
    """Nothing of an invoice is outside its days: they, their tax and the rounding are what is payable."""
    first = min(row.charge_start for row in rows) // DAY_MS * DAY_MS
    last = max(row.charge_end for row in rows)
    reports = [
        reported(*(row for row in rows if falls(row, day)), day=day)
        for day in (Window(at, at + DAY_MS) for at in range(first, last + 1, DAY_MS))
    ]
    of_days = sum(to_units(r.spend or Decimal(0)) + to_units(r.tax) for r in reports)
    assert of_days == sum(to_units(row.billed) for row in rows)


def falls(row: CostRow, day: Window) -> bool:
    return row.charge_start < day.end and max(row.charge_start + 1, row.charge_end) > day.start
