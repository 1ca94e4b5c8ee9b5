"""The oracle against cases whose right answers were found by hand, and that it shares no code with what it judges."""

import ast
from fractions import Fraction
from pathlib import Path

import pytest

from tests.books_proof.amounts import Amount
from tests.books_proof.facts import DAY, HOUR, Charge, Delivery, Machine, Move, Rate, Tier, Use, World
from tests.books_proof.oracle import Books, DayFigures

START = 1_777_766_400
"""2026-05-03T00:00:00Z."""
ORACLE = ("amounts", "attribution", "coverage", "facts", "hours", "machine_time", "oracle", "prices", "settlement")


def charge(billed: str, start: int = 0, length: int = 24, **more: object) -> Charge:
    """A charge for machine `a-1`, `start` hours after the day began."""
    begin = START + start * HOUR
    known: dict[str, object] = {"resource": "i-a", **more}
    period = (START - 2 * DAY, START + 29 * DAY)
    return Charge("cloud", "Cloud", "1", period, begin, begin + length * HOUR, Fraction(billed), **known)  # type: ignore[arg-type]  # as the fields have them


def figures(*charges: Charge, moves: tuple[tuple[int, str], ...] = ((0, "ready"),), **more: object) -> DayFigures:
    """The day's, of two tiers with a machine each; `moves` are those of `a-1`, by the hour."""
    known: dict[str, object] = {
        "tiers": (Tier("A", None), Tier("B", None)),
        "uses": (),
        **more,
    }
    world = World(
        now=START + 40 * DAY,
        machines=(Machine("a-1", "A", "i-a", ("vol-a",)), Machine("b-1", "B", "i-b")),
        models=("m",),
        rates=(Rate("EUR", Fraction("0.8"), 0), Rate("EUR", Fraction("0.5"), START)),
        append_sources=(),
        deliveries=(Delivery("cloud", "aws", "csv", charges),),
        moves=tuple(Move(Fraction(START + hour * HOUR), "a-1", state, "k") for hour, state in moves),
        **known,  # type: ignore[arg-type]  # as the fields have them
    )
    return Books(world).day(START)


def use(tier: str, tokens: int) -> Use:
    """A request at the day's second hour."""
    end = Fraction(START + 2 * HOUR)
    return Use(end - 60, end, "k", "m", tier, f"{tier.lower()}-1", tokens, 0, 0, failed=False)


def causes(day: DayFigures) -> dict[str, Fraction]:
    """Those with a cost."""
    names = ("serving", "warm_idle", "waking", "failed_wake", "asleep", "shared", "unattributed", "unexplained")
    return {name: amount.value for name in names if (amount := day.all_of_it.cause(name))}


@pytest.mark.parametrize("name", ORACLE)
def test_the_oracle_imports_nothing_of_the_project(name: str) -> None:
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    ours = [module for module in modules if module.startswith(("services", "shared", "spotinference", "tests"))]
    assert {module.rpartition(".")[2] for module in ours} <= set(ORACLE)
    assert all(module.startswith("tests.books_proof.") for module in ours)


def test_a_charge_over_midnight_is_split_by_its_time() -> None:
    assert figures(charge("4.80", -1, 2)).all_of_it.spend == Amount(Fraction("2.40"))


def test_shared_cost_follows_direct_cost() -> None:
    nat = charge("90", resource=None, service="Networking")
    day = figures(charge("600"), charge("300", resource="i-b"), nat)
    assert {tier: amount.value for tier, amount in day.all_of_it.tiers.items()} == {"A": 660, "B": 330}


def test_a_credit_counts_and_stands_beside() -> None:
    day = figures(charge("500"), charge("-500", category="Credit"), charge("40", category="Tax", resource=None))
    amounts = (day.all_of_it.spend, day.before_credits.spend, day.tax)
    assert amounts == (Amount(), Amount(Fraction(500)), Amount(Fraction(40)))


def test_a_savings_plan_is_billed_once_and_amortised_once() -> None:
    day = figures(
        charge("0", effective=Fraction(60)),
        charge("0", effective=Fraction(12), resource=None, category="Purchase", service="Other"),
        charge("72", effective=Fraction(0), resource=None, category="Purchase", service="Other"),
    )
    assert day.all_of_it.spend == day.effective == Amount(Fraction(72))


def test_a_disk_costs_in_every_state_and_a_machine_only_awake() -> None:
    moves = ((0, "waking"), (6, "ready"), (12, "asleep"))
    disk = charge("24", resource="vol-a", service="Storage")
    assert causes(figures(disk, moves=moves)) == {"waking": 6, "warm_idle": 6, "asleep": 12}
    assert causes(figures(charge("24"), moves=moves)) == {"waking": 12, "warm_idle": 12}


def test_billed_hours_above_known_hours_are_unexplained() -> None:
    moves = ((0, "asleep"), (12, "ready"), (18, "asleep"))
    assert causes(figures(charge("24", hours=Fraction(24)), moves=moves)) == {"warm_idle": 6, "unexplained": 18}


def test_a_refund_at_night_follows_the_days_causes() -> None:
    moves = ((0, "asleep"), (12, "ready"), (18, "asleep"))
    refund = charge("-6", 2, 1, category="Adjustment")
    assert causes(figures(charge("24"), refund, moves=moves)) == {"warm_idle": 18}


def test_a_machine_without_charge_and_price_has_no_bill_yet() -> None:
    assert figures(charge("1", resource="i-b")).missing == {"a-1": None}
    assert figures(charge("1", 0, 6)).missing == {"a-1": START + 6 * HOUR}
    assert figures(charge("1", 0, 6), moves=((0, "ready"), (6, "asleep"))).missing == {}


def test_an_hour_without_a_charge_costs_the_price_and_the_bill_takes_its_place() -> None:
    tiers = (Tier("A", Fraction("2.40")), Tier("B", None))
    assert figures(tiers=tiers).all_of_it.spend.value == Fraction("57.60")
    half = figures(charge("26.16", 0, 12), tiers=tiers)
    assert (half.all_of_it.spend.value, half.accrued.value) == (Fraction("54.96"), Fraction("28.80"))
    assert half.variance == (Amount(Fraction("28.80")), Amount(Fraction("26.16")))


def test_equal_rows_all_count_and_a_currency_has_the_rate_of_its_start() -> None:
    assert figures(charge("0.045"), charge("0.045")).all_of_it.spend.value == Fraction("0.09")
    assert figures(charge("8", currency="EUR")).all_of_it.spend.value == 16
    assert figures(charge("8", -12, 24, currency="EUR")).all_of_it.spend.value == 5


def test_models_and_keys_bear_what_served_them() -> None:
    day = figures(charge("3"), charge("1", resource="i-b"), uses=(use("A", 300), use("A", 100)))
    modules = {name: (amount.value, tokens) for name, (amount, tokens) in day.by(1, day.all_of_it).items()}
    assert modules == {"m": (Fraction(3), 400), None: (Fraction(1), 0)}
