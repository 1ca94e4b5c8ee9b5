"""How a budget gate is judged: spend against its limit, the dark, orders, midnight and clocks that are set."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from services.billing.core.budget_gate import GateRules, apply_order, evaluate_gate, gate_change
from shared.messages.budget import BudgetGate, GateOrder, GateOrdered
from tests.unit.billing.cost_row_builders import DAY, DAY_WINDOW

MIDNIGHT = DAY_WINDOW.start / 1000
NOON = MIDNIGHT + 43_200
TOMORROW = DAY_WINDOW.end / 1000
LIMIT = Decimal(10)
RULES = GateRules(warning=Decimal("0.8"), open_when_dark=False)
DARK_OPEN = GateRules(warning=Decimal("0.8"), open_when_dark=True)


def gate(
    spend: str | None,
    now: float = NOON,
    before: BudgetGate | None = None,
    *,
    limit: Decimal = LIMIT,
    rules: GateRules = RULES,
) -> BudgetGate:
    return evaluate_gate(None if spend is None else Decimal(spend), limit, now, rules=rules, before=before)


def with_order(word: GateOrdered, now: float = NOON, before: BudgetGate | None = None) -> BudgetGate:
    order = GateOrder(scope="fleet", order=word, by="ann", reason="why not")
    return apply_order(before or gate("1", now), order, now)


@pytest.mark.parametrize(
    ("spend", "is_open", "reason", "warning"),
    [
        ("7.999999999999", True, "", False),
        ("8", True, "", True),
        ("9.999999999999", True, "", True),
        ("10", False, "budget_closed", True),
        ("11", False, "budget_closed", True),
        ("-3", True, "", False),
        (None, False, "billing_unobservable", False),
    ],
)
def test_the_limit_itself_is_not_to_be_reached(spend: str | None, reason: str, *, is_open: bool, warning: bool) -> None:
    seen = gate(spend)
    assert (seen.open, seen.reason, seen.warning, seen.observed) == (is_open, reason, warning, spend is not None)
    assert (seen.limit, seen.observed_at) == (LIMIT, NOON)


def test_a_budget_of_nothing_is_spent() -> None:
    assert gate("0", limit=Decimal(0)).reason == "budget_closed"


def test_unknown_spend_shows_the_last_known_value_of_today() -> None:
    before = gate("4")
    assert gate(None, NOON + 60, before).spend == 4
    assert gate(None, TOMORROW + 60, before).spend == 0


def test_in_the_dark_it_stays_open_where_the_operator_chose_so_but_what_is_spent_is_spent() -> None:
    assert gate(None, rules=DARK_OPEN).open
    assert not gate(None, rules=DARK_OPEN).observed
    spent = gate("10", rules=DARK_OPEN)
    still = gate(None, NOON + 60, spent, rules=DARK_OPEN)
    assert gate(None, NOON + 120, still, rules=DARK_OPEN).reason == "budget_closed"
    assert gate(None, TOMORROW, still, rules=DARK_OPEN).open


def test_midnight_opens_what_was_spent() -> None:
    closed = gate("12")
    assert gate("12", TOMORROW - 0.001, closed).reason == "budget_closed"
    assert gate("0", TOMORROW, closed).open


@pytest.mark.parametrize(
    ("word", "spend", "is_open", "reason"),
    [
        ("open", "99", True, ""),
        ("open", None, True, ""),
        ("close", "0", False, "closed_by_operator"),
        ("close", None, False, "closed_by_operator"),
        ("auto", "99", False, "budget_closed"),
        ("auto", "0", True, ""),
    ],
)
def test_an_order_goes_before_the_spend(word: GateOrdered, spend: str | None, reason: str, *, is_open: bool) -> None:
    seen = gate(spend, NOON + 60, with_order(word))
    assert (seen.open, seen.reason) == (is_open, reason)


def test_an_order_lasts_until_midnight_in_utc() -> None:
    closed = gate("0", NOON, with_order("close"))
    assert (closed.ordered_day, closed.ordered_by, closed.ordered_why) == (DAY, "ann", "why not")
    last = gate("0", TOMORROW - 0.001, closed)
    assert not last.open
    after = gate("0", TOMORROW, last)
    assert (after.open, after.ordered, after.ordered_by) == (True, "auto", "")
    assert gate("0", TOMORROW + 1, after).open


def test_an_order_waits_for_its_day_where_a_clock_is_set_back_over_midnight() -> None:
    closed = gate("0", TOMORROW + 5, with_order("close", TOMORROW + 5))
    back = gate("0", TOMORROW - 5, closed)
    assert back.open
    assert not gate("0", TOMORROW + 1, back).open


def test_auto_withdraws_an_order() -> None:
    closed = gate("0", NOON, with_order("close"))
    opened = gate("0", NOON + 1, with_order("auto", NOON + 1, closed))
    assert (opened.open, opened.ordered, opened.ordered_day) == (True, "auto", "")


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"spend": Decimal(5), "observed_at": NOON + 10}, False),
        ({"open": False, "reason": "budget_closed"}, True),
        ({"warning": True}, True),
        ({"observed": False}, True),
        ({"ordered": "open", "ordered_day": DAY}, True),
    ],
)
def test_gate_change_is_reported_only_if_something_changed(changes: dict[str, Any], *, new: bool) -> None:
    before = gate("4")
    entry = gate_change("fleet", before, msgspec.structs.replace(before, **changes), None)
    assert (entry is not None) is new


def test_gate_change_has_who_ordered_it_and_why() -> None:
    first = gate_change("tier.a", None, gate("4"), None)
    assert first is not None
    assert (first.scope, first.open, first.by, first.at) == ("tier.a", True, "", NOON)
    assert first.spend == 4
    dark = gate_change("fleet", gate("4"), gate(None, NOON, gate("4")), None)
    assert dark is not None
    assert dark.spend is None
    order = GateOrder(scope="fleet", order="auto", by="bob", reason="done")
    closed = gate("0", NOON, with_order("close"))
    withdrawn = gate_change("fleet", closed, gate("0", NOON, apply_order(closed, order, NOON)), order)
    assert withdrawn is not None
    assert (withdrawn.open, withdrawn.by, withdrawn.why) == (True, "bob", "done")
