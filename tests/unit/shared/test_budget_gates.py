"""The budget gates as the gateway and the waker read them: closed tiers, whole lineups, stale gates, clock changes."""

from decimal import Decimal

import pytest

from shared.budget_gates import FLEET_SCOPE, GateView, budget_limits, tier_scope
from shared.bus import subjects
from shared.config.load import parse
from shared.messages.budget import BudgetGate

NOON = 1_800_000_000.0 // 86400 * 86400 + 43_200
FILE = """
[billing]
{fleet}
[[tier]]
name = "a"
provider = "static"
price_per_hour = "1"
daily_budget = "5"
[[tier]]
name = "b.c"
provider = "static"
price_per_hour = "1"
{b}
[[model]]
name = "m"
lineup = ["a", "b.c"]
[[model]]
name = "n"
lineup = ["a"]
"""
CLOSED = "budget_closed"


def gate(reason: str = "", at: float = NOON) -> BudgetGate:
    return BudgetGate(open=not reason, reason=reason, spend=Decimal(1), limit=Decimal(5), observed_at=at)


def view(gates: dict[str, BudgetGate], *, fleet: str = "", b: str = 'daily_budget = "5"') -> GateView:
    return GateView(parse(FILE.format(fleet=fleet, b=b), "test"), gates, lambda _scope: 0.0)


WITH_FLEET = 'daily_budget = "9"'
A, B = tier_scope("a"), tier_scope("b.c")


def test_a_tier_is_closed_by_its_own_gate_or_the_fleets() -> None:
    gates = view({A: gate(CLOSED), B: gate()})
    assert (gates.tier_closed_reason("a", NOON), gates.tier_closed_reason("b.c", NOON)) == (CLOSED, None)
    gates = view({FLEET_SCOPE: gate("closed_by_operator"), A: gate(), B: gate()}, fleet=WITH_FLEET)
    assert {gates.tier_closed_reason(tier, NOON) for tier in ("a", "b.c")} == {"closed_by_operator"}


def test_a_model_is_closed_with_all_of_its_tiers_or_with_the_fleet() -> None:
    gates = view({A: gate(CLOSED), B: gate()})
    assert (gates.model_closed_reason("m", NOON), gates.model_closed_reason("n", NOON)) == (None, CLOSED)
    assert view({A: gate(CLOSED), B: gate("closed_by_operator")}).model_closed_reason("m", NOON) == CLOSED
    assert view({A: gate(CLOSED)}, b="").model_closed_reason("m", NOON) is None, "a tier without a budget has no gate"
    assert (
        view({FLEET_SCOPE: gate(CLOSED), A: gate(), B: gate()}, fleet=WITH_FLEET).model_closed_reason("m", NOON)
        == CLOSED
    )


def test_a_gate_without_an_entry_is_closed() -> None:
    assert view({}).tier_closed_reason("a", NOON) == "billing_unobservable"
    assert view({}).model_closed_reason("m", NOON) == "billing_unobservable"
    assert view({A: gate()}).model_closed_reason("m", NOON) is None


@pytest.mark.parametrize(
    ("ago_s", "reason"),
    [(300.0, None), (300.1, "billing_unobservable"), (-300.0, None), (-301.0, "billing_unobservable")],
)
def test_a_gate_is_closed_when_its_figure_is_old_or_from_the_future(ago_s: float, reason: str | None) -> None:
    assert view({A: gate(at=NOON - ago_s)}).tier_closed_reason("a", NOON) == reason


@pytest.mark.parametrize(
    ("last_gate", "reason"),
    [
        (None, None),
        (gate(at=NOON - 301), None),
        (gate(CLOSED, at=NOON - 301), CLOSED),
        (gate(CLOSED, at=NOON - 301 - 43_200), None),
        (gate(CLOSED, at=NOON - 10), CLOSED),
    ],
)
def test_a_gate_closed_today_stays_closed_when_dark_is_open(last_gate: BudgetGate | None, reason: str | None) -> None:
    gates = view({} if last_gate is None else {A: last_gate}, fleet='when_dark = "open"')
    assert gates.tier_closed_reason("a", NOON) == reason


def test_without_any_budget_nothing_is_closed() -> None:
    nothing = FILE.format(fleet="", b="").replace('daily_budget = "5"', "")
    gates = GateView(parse(nothing, "test"), {}, lambda _scope: 0.0)
    assert gates.limited_scopes == frozenset()
    assert gates.model_closed_reason("m", NOON) is None
    assert gates.tier_closed_reason("a", NOON) is None


def test_scopes_are_the_buckets_keys() -> None:
    config = parse(FILE.format(fleet=WITH_FLEET, b=""), "test")
    assert budget_limits(config) == {FLEET_SCOPE: 9, A: 5}
    for scope in (FLEET_SCOPE, A, B, tier_scope("x/y z")):
        key = subjects.budget_key(scope)
        assert subjects.name(key) == scope
        assert subjects.budget_journal(scope) == f"fleet.journal.budget.{key}"
        assert key.count(".") == (scope != FLEET_SCOPE)
