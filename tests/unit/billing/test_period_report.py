"""Several days as one figure: sums at every level, ratios of sums, and null where a day's cost is lacking."""

from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.app.period_reports import fit_to_message, requested_days
from services.billing.core.money import split_exactly, to_usd
from services.billing.core.reports.period_report import build_period_report, complete_through, format_days
from shared.errors import Rejected
from shared.messages.billing import (
    CAUSES,
    AlwaysOn,
    DayReport,
    DirectionFigure,
    Directions,
    KeyFigure,
    ReportsQuery,
    TierFigure,
    Variance,
)
from shared.messages.codec import encode
from tests.unit.billing.report_builders import WEIGHTS, day, model, report

MILLION = 1_000_000
COST = st.integers(-(10**15), 10**18)
NAMES = ("x", "y", None)


@st.composite
def day_reports(draw: st.DrawFn) -> list[DayReport]:
    """Up to eight days with causes, tiers, models and keys that sum to each one's spend; some have none."""
    return [draw(one_day(day(number))) for number in range(1, 1 + draw(st.integers(1, 8)))]


@st.composite
def one_day(draw: st.DrawFn, at: str) -> DayReport:
    if draw(st.integers(0, 5)) == 0:
        return report(at, None, 0)
    cost = draw(COST)

    def parts(count: int) -> list[int]:
        weights = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count).filter(any))
        return split_exactly(cost, weights)

    tokens = [draw(st.integers(0, 10**12)) for _ in range(3)]
    named = draw(st.permutations(NAMES))
    total = sum(tokens)
    return report(
        at,
        str(to_usd(cost)),
        total,
        causes=dict(zip(CAUSES, map(to_usd, parts(len(CAUSES))), strict=True)),
        tiers=tuple(
            TierFigure(tier=str(name), spend=to_usd(part), tokens=count, usd_per_mtok=None)
            for name, part, count in zip(named, parts(3), tokens, strict=True)
        ),
        models=tuple(
            model(name, str(to_usd(part)), count, str(to_usd(part + 7)))
            for name, part, count in zip(named, parts(3), tokens, strict=True)
        ),
        keys=tuple(
            KeyFigure(key_id=name, spend=to_usd(part), tokens=count, usd_per_mtok=None, wakes=to_usd(abs(part) // 3))
            for name, part, count in zip(named, parts(3), tokens, strict=True)
        ),
        directions=Directions(
            **{
                name: DirectionFigure(tokens=count, usd_per_mtok=None)
                for name, count in zip(("input", "cached", "output"), tokens, strict=True)
            }
        ),
    )


@given(day_reports())
def test_every_level_of_a_period_is_the_sum_of_its_days(days: list[DayReport]) -> None:
    whole = build_period_report(days, WEIGHTS)
    known = [each for each in days if each.spend is not None]
    assert whole.tokens == sum(each.tokens for each in days)
    if not known:
        assert (whole.spend, whole.causes, whole.tiers) == (None, {}, ())
        return
    assert whole.spend == sum((each.spend for each in known if each.spend is not None), Decimal(0))
    assert sum(whole.causes.values()) == whole.spend
    for cause in CAUSES:
        assert whole.causes[cause] == sum(each.causes[cause] for each in known)
    assert summed(known, "tiers", "tier", "spend", "tokens") == shown(whole, "tiers", "tier", "spend", "tokens")
    levels: list[tuple[str, str, tuple[str, ...]]] = [
        ("models", "model", ("spend", "tokens", "spend_before_credits")),
        ("keys", "key_id", ("spend", "tokens", "wakes")),
    ]
    for level, name, amounts in levels:
        assert summed(known, level, name, *amounts) == shown(whole, level, name, *amounts)
        assert sum(part.spend for part in getattr(whole, level)) == whole.spend
    assert_ratio(whole.usd_per_mtok, whole.spend, whole.tokens)
    assert_ratio(whole.usd_per_mtok_output, whole.spend, sum(each.directions.output.tokens for each in days))
    for tier in whole.tiers:
        assert tier.spend is not None
        assert_ratio(tier.usd_per_mtok, tier.spend, tier.tokens)


def summed(days: list[DayReport], level: str, name: str, *amounts: str) -> dict[Any, tuple[Any, ...]]:
    result: dict[Any, Counter[str]] = {}
    for each in days:
        for part in getattr(each, level):
            so_far = result.setdefault(getattr(part, name), Counter())
            for amount in amounts:
                so_far[amount] += getattr(part, amount)
    return {key: tuple(sums[amount] for amount in amounts) for key, sums in result.items()}


def shown(whole: Any, level: str, name: str, *amounts: str) -> dict[Any, tuple[Any, ...]]:
    parts = getattr(whole, level)
    assert len({getattr(part, name) for part in parts}) == len(parts)
    return {getattr(part, name): tuple(getattr(part, amount) for amount in amounts) for part in parts}


def assert_ratio(shown: Decimal | None, spend: Decimal, tokens: int) -> None:
    """Exact to half of the last of twelve decimals."""
    if not tokens:
        assert shown is None
        return
    assert shown is not None
    assert abs(Fraction(shown) - Fraction(spend) * MILLION / tokens) <= Fraction(1, 2 * 10**12)


def test_case_12_a_period_is_the_ratio_of_its_sums() -> None:
    whole = build_period_report([report(day(1), "100.00", 100 * MILLION), report(day(2), "10.00", MILLION)], WEIGHTS)
    assert whole.usd_per_mtok == Decimal("1.089108910891")  # 110/101, never 5.50
    assert (whole.first, whole.to, whole.spend, whole.tokens) == (day(1), day(2), Decimal(110), 101 * MILLION)


def test_case_10_cost_without_tokens_stays_in_the_ratio() -> None:
    whole = build_period_report([report(day(1), "57.60"), report(day(2), "42.40", 50 * MILLION)], WEIGHTS)
    assert (whole.spend, whole.usd_per_mtok, whole.reason) == (Decimal(100), Decimal(2), None)
    alone = build_period_report([report(day(1), "57.60")], WEIGHTS)
    assert (alone.spend, alone.usd_per_mtok, alone.reason) == (Decimal("57.60"), None, "no tokens")


def test_case_16_credits_leave_the_figure_before_them_standing() -> None:
    free = report(day(1), "0", 250 * MILLION, spend_before_credits=Decimal(500))
    whole = build_period_report([free, free], WEIGHTS)
    assert (whole.usd_per_mtok, whole.usd_per_mtok_before_credits, whole.spend_before_credits) == (
        Decimal(0),
        Decimal(2),
        Decimal(1000),
    )


def test_case_11_tokens_without_their_cost_make_the_whole_unknown_and_are_named() -> None:
    days = [
        report(day(1), "10", MILLION),
        report(day(2), None, MILLION),
        report(day(3), None, 0),
        report(day(4), None, MILLION),
        report(day(5), None, MILLION),
    ]
    whole = build_period_report(days, WEIGHTS)
    assert (whole.state, whole.spend, whole.usd_per_mtok, whole.usd_per_mtok_output) == (None, None, None, None)
    assert whole.reason == (
        "cost not delivered: 2026-05-02, 2026-05-04 to 2026-05-05; the days up to 2026-05-01 are whole"
    )
    assert (whole.tokens, whole.causes, whole.tiers, whole.models, whole.keys) == (4 * MILLION, {}, (), (), ())
    assert whole.always_on is None
    assert whole.days == tuple(days)


def test_days_with_neither_cost_nor_tokens_add_nothing() -> None:
    before = [report(day(number), None, 0) for number in (1, 2)]
    whole = build_period_report([*before, report(day(3), "6", 2 * MILLION)], WEIGHTS)
    assert (whole.spend, whole.usd_per_mtok, whole.reason, whole.state) == (Decimal(6), Decimal(3), None, "provisional")
    nothing = build_period_report(before, WEIGHTS)
    assert (nothing.spend, nothing.state, nothing.usd_per_mtok) == (None, None, None)
    assert nothing.reason == "neither cost nor tokens: 2026-05-01 to 2026-05-02"


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("final", "final"), "final"),
        (("final", "restated"), "restated"),
        (("restated", "provisional"), "provisional"),
        (("estimated", "provisional", "final"), "estimated"),
        (("final", None), "final"),
    ],
)
def test_a_period_is_as_certain_as_its_least_certain_day(states: tuple[Any, ...], expected: str) -> None:
    days = [
        report(day(number), "1", MILLION, state=state) if state else report(day(number), None, 0)
        for number, state in enumerate(states, 1)
    ]
    assert build_period_report(days, WEIGHTS).state == expected
    assert build_period_report(days[::-1], WEIGHTS).state == expected


def test_complete_through_ends_before_the_first_day_that_is_not_whole() -> None:
    empty = (None, 0)
    first = [report(day(1), *empty), report(day(2), "1", MILLION, state="final"), report(day(3), "0", 0, state="final")]
    assert complete_through(first) == day(3)
    assert complete_through([*first, report(day(4), *empty)]) == day(3)
    assert complete_through([*first, report(day(4), *empty), report(day(5), "1", MILLION)]) == day(5)
    for broken in (
        report(day(4), "1", MILLION, state="estimated"),
        report(day(4), "1", MILLION, usage_complete=False),
        report(day(4), None, MILLION),
    ):
        assert complete_through([*first, broken, report(day(5), "1", MILLION)]) == day(3)
    assert complete_through([report(day(1), None, MILLION), *first[1:]]) is None


def test_always_on_is_known_only_of_days_that_all_know_it() -> None:
    days = [report(day(1), "10", MILLION), report(day(2), "20", MILLION)]
    assert build_period_report(days, WEIGHTS).always_on == AlwaysOn(spend=Decimal(60), usd_per_mtok=Decimal(30))
    silent = AlwaysOn(spend=None, usd_per_mtok=None, reason="no price_per_hour: A")
    days[1] = msgspec.structs.replace(days[1], always_on=silent)
    assert build_period_report(days, WEIGHTS).always_on == silent
    days[1] = msgspec.structs.replace(days[1], always_on=None)
    unknown = build_period_report(days, WEIGHTS).always_on
    assert unknown is not None
    assert (unknown.spend, unknown.reason) == (None, "not known of every day")


def test_what_stands_beside_the_figure_is_summed_too() -> None:
    variance = Variance(accrued=Decimal("115.20"), billed=Decimal("104.64"), difference=Decimal("-10.56"))
    days = [
        report(
            day(1), "1", MILLION, tax=Decimal("0.19"), tokens_failed=5, effective_spend=Decimal(2), variance=variance
        ),
        report(day(2), "1", MILLION, tax=Decimal("0.19"), tokens_failed=6, effective_spend=Decimal(3)),
        report(day(3), None, 0, tax=Decimal(1)),
    ]
    whole = build_period_report(days, WEIGHTS)
    assert (whole.tax, whole.tokens_failed, whole.effective_spend) == (Decimal("1.38"), 11, Decimal(5))
    assert whole.variance == variance
    days[1] = msgspec.structs.replace(days[1], effective_spend=None, variance=variance)
    whole = build_period_report(days, WEIGHTS)
    assert whole.effective_spend is None
    assert whole.variance is not None
    assert whole.variance.difference == Decimal("-21.12")


def test_the_directions_of_a_period_bear_all_of_its_spend() -> None:
    def shown(at: str, spend: str, uncached: int, cached: int, output: int) -> DayReport:
        counts = {"input": uncached, "cached": cached, "output": output}
        made = Directions(**{name: DirectionFigure(tokens=n, usd_per_mtok=None) for name, n in counts.items()})
        return report(at, spend, sum(counts.values()), directions=made)

    days = [
        shown(day(1), "30", 6 * MILLION, 0, 0),
        shown(day(2), "10", MILLION, 20 * MILLION, 5 * MILLION),
        shown(day(3), "5", 0, 0, 0),
    ]
    result = build_period_report(days, {"input": 10, "cached": 1, "output": 40}).directions
    assert result is not None
    assert [f.tokens for f in (result.input, result.cached, result.output)] == [7 * MILLION, 20 * MILLION, 5 * MILLION]
    figures = (result.input, result.cached, result.output)
    borne = sum(((f.usd_per_mtok or Decimal(0)) * f.tokens / MILLION for f in figures), Decimal(0))
    assert abs(borne - 45) < Decimal("1e-9")
    assert result.output.usd_per_mtok == 4 * (result.input.usd_per_mtok or 0)


def test_months_and_leap_years_are_days_in_a_row() -> None:
    assert requested_days(ReportsQuery(to="2028-03-01", days=3)) == ["2028-02-28", "2028-02-29", "2028-03-01"]
    assert requested_days(ReportsQuery(to="2027-03-01", days=2)) == ["2027-02-28", "2027-03-01"]
    assert requested_days(ReportsQuery(to="2027-01-01", days=2)) == ["2026-12-31", "2027-01-01"]
    assert len(requested_days(ReportsQuery(to="2026-05-31", days=92))) == 92
    assert (
        format_days(["2028-02-28", "2028-02-29", "2028-03-01", "2028-03-03"]) == "2028-02-28 to 2028-03-01, 2028-03-03"
    )


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (ReportsQuery(to="2026-05-31", days=0), "days: expected 1 to 92"),
        (ReportsQuery(to="2026-05-31", days=93), "days: expected 1 to 92"),
        (ReportsQuery(to="2026-02-29", days=1), "to: "),
        (ReportsQuery(to="today", days=1), "to: "),
        (ReportsQuery(to="0001-01-01", days=2), "to: "),
    ],
)
def test_a_bad_question_is_refused_by_its_field(query: ReportsQuery, field: str) -> None:
    with pytest.raises(Rejected, match="^" + field):
        requested_days(query)


def test_quarter_with_many_keys_fits_into_a_message_and_names_what_it_left_out() -> None:
    def busy(at: str, count: int) -> DayReport:
        keys = tuple(
            KeyFigure(key_id=f"key-{n:06}", spend=to_usd(10**12 + n), tokens=n, usd_per_mtok=to_usd(n), wakes=to_usd(n))
            for n in range(count)
        )
        return report(at, "1000", MILLION, keys=keys, sources=("bill.csv from cloud",))

    few = fit_to_message(build_period_report([busy(day(1), 10)], WEIGHTS))
    assert (few.left_out, len(few.days[0].keys)) == (None, 10)
    quarter = build_period_report([busy(day(number), 500) for number in range(1, 93)], WEIGHTS)
    assert len(encode(quarter)) > 1_000_000
    shown = fit_to_message(quarter)
    assert len(encode(shown)) < 1_000_000
    assert shown.left_out == "keys, models, sources, hours and unbilled of each day"
    assert (len(shown.keys), len(shown.days), shown.days[0].keys, shown.days[0].sources) == (500, 92, (), ())
    assert shown.days[0].tiers == quarter.days[0].tiers
    crowd = fit_to_message(build_period_report([busy(day(1), 20_000)], WEIGHTS))
    assert len(encode(crowd)) < 1_000_000
    assert (crowd.keys, crowd.left_out) == ((), "keys; models, sources, hours and unbilled of each day")
    assert crowd.models
