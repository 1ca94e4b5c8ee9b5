"""A model's band: the step in which its cost lies, from billed days, before credits, and when it changes."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.money import to_usd
from services.billing.core.pricing.bands import LONG_WINDOW_DAYS, Ladder, days_before, next_band
from shared.config.sections import BillingSection
from shared.messages.billing import Band, DayReport
from tests.unit.billing.report_builders import day, model, report

MILLION = 1_000_000
ON = day(29)
"""The day that all of `day(1)` to `day(28)` are looked back at from."""
LADDER = Ladder(tuple(map(Decimal, ("0.05", "0.10", "1", "2", "5"))), MILLION)
EPS = Decimal("0.000000000001")


def months(*costs: tuple[str, int], **more: object) -> list[DayReport]:
    """The last days before `ON`, each with a cost and tokens of the model `m`."""
    first = 1 + LONG_WINDOW_DAYS - len(costs)
    return [report(day(first + n), cost, tokens, **more) for n, (cost, tokens) in enumerate(costs)]


def made(reports: list[DayReport], standing: Band | None = None, ladder: Ladder = LADDER) -> Band | None:
    return next_band("m", ON, reports, ladder, standing)


def steps(band: Band | None) -> tuple[Decimal | None, Decimal | None]:
    assert band is not None
    return band.low, band.high


@pytest.mark.parametrize(
    ("cost", "low", "high"),
    [
        (EPS, "0", "0.05"),
        ("0.05", "0", "0.05"),
        (Decimal("0.05") + EPS, "0.05", "0.10"),
        ("0.1", "0.05", "0.10"),
        ("0.99", "0.10", "1"),
        ("1", "0.10", "1"),
        (1 + EPS, "1", "2"),
        ("5", "2", "5"),
    ],
)
def test_a_step_has_its_upper_end_and_not_its_lower_one(cost: str | Decimal, low: str, high: str) -> None:
    band = made(months((str(cost), MILLION)))
    assert steps(band) == (Decimal(low), Decimal(high))
    assert band is not None
    assert (band.trailing_7, band.trailing_28, band.reason, band.day) == (Decimal(cost), Decimal(cost), None, ON)


def test_an_edge_is_met_exactly_and_not_by_the_rounded_ratio() -> None:
    """A third of a unit above the edge: twelve decimals would not see it."""
    above = months(("3.000000000001", 3 * MILLION))
    assert steps(made(above)) == (Decimal(1), Decimal(2))
    band = made(above)
    assert band is not None
    assert band.trailing_7 == 1


@pytest.mark.parametrize(("cost", "reason"), [("5.000000000001", "above the last step, 5"), ("0", "it cost nothing")])
def test_off_the_ladder_there_is_no_band_but_a_reason(cost: str, reason: str) -> None:
    band = made(months((cost, MILLION)))
    assert steps(band) == (None, None)
    assert band is not None
    assert band.reason == reason
    assert band.trailing_7 is not None


def test_the_dearer_of_both_windows_decides() -> None:
    """Ratios of sums: 21 dear days and 7 cheap ones, and the other way round."""
    dear, cheap = ("4", MILLION), ("0.5", MILLION)
    falling = made(months(*[dear] * 21, *[cheap] * 7))
    rising = made(months(*[cheap] * 21, *[dear] * 7))
    assert falling is not None
    assert rising is not None
    assert (falling.trailing_7, falling.trailing_28) == (Decimal("0.5"), Decimal("3.125"))
    assert (rising.trailing_7, rising.trailing_28) == (Decimal(4), Decimal("1.375"))
    assert steps(falling) == steps(rising) == (Decimal(2), Decimal(5))
    uneven = made(months(("100", 100 * MILLION), ("10", MILLION)))
    assert uneven is not None
    assert uneven.trailing_7 == Decimal("1.089108910891")


def test_the_windows_are_the_seven_and_the_28_days_before() -> None:
    assert days_before("2028-03-07", 7) == [
        f"2028-{d}" for d in ("02-29", "03-01", "03-02", "03-03", "03-04", "03-05", "03-06")
    ]
    assert days_before(ON, LONG_WINDOW_DAYS) == [day(number) for number in range(1, 29)]
    eighth, seventh = day(29 - 8), day(29 - 7)
    band = made([report(eighth, "3", MILLION), report(seventh, "1", MILLION)])
    assert band is not None
    assert (band.trailing_7, band.trailing_28) == (Decimal(1), Decimal(2))


def test_too_few_tokens_give_no_band_and_take_none_away() -> None:
    almost = months(("4", MILLION - 1))
    band = made(almost)
    assert steps(band) == (None, None)
    assert band is not None
    assert band.reason == "fewer than 1000000 tokens on billed days of the last 7"
    assert made(almost, standing=made(months(("1", MILLION)))) is None
    assert made(almost, standing=band) is None
    long_ago = [report(day(1), "4", 99 * MILLION)]
    assert steps(made(long_ago)) == (None, None)
    assert steps(made(months(("4", MILLION)))) == (Decimal(2), Decimal(5))


def test_estimated_and_unknown_days_do_not_count_and_are_listed() -> None:
    reports = [
        report(day(26), "1", MILLION),
        report(day(27), "40", MILLION, state="estimated"),
        report(day(28), None, MILLION),
    ]
    band = made(reports)
    assert band is not None
    assert (band.trailing_7, steps(band)) == (Decimal(1), (Decimal("0.10"), Decimal(1)))
    assert band.left_out == (f"{day(27)}: estimated", f"{day(28)}: cost not delivered")
    idle = made([report(day(27), None, 0), report(day(28), "1", MILLION)])
    assert idle is not None
    assert idle.left_out == ()


def test_case_16_bands_do_not_pass_credits_on() -> None:
    credited = report(day(28), "0", 250 * MILLION, models=(model("m", "0", 250 * MILLION, "500"),))
    band = made([credited])
    assert band is not None
    assert (band.trailing_7, steps(band)) == (Decimal(2), (Decimal(1), Decimal(2)))
    untold = made([report(day(28), "1", MILLION, models=(model("m", "1", MILLION, None),))])
    assert untold is not None
    assert untold.left_out == (f"{day(28)}: its cost before credits is not known",)


def test_another_models_cost_is_not_in_it() -> None:
    both = report(
        day(28), "9", 3 * MILLION, models=(model("m", "1", MILLION), model("n", "6", 2 * MILLION), model(None, "2", 0))
    )
    bands = [next_band(name, ON, [both], LADDER, None) for name in ("m", "n", "o")]
    assert [band.trailing_7 if band else None for band in bands] == [Decimal(1), Decimal(3), None]


def test_only_a_band_that_differs_follows() -> None:
    one = made(months(("0.5", MILLION)))
    assert made(months(("0.6", MILLION)), standing=one) is None
    two = made(months(("1.5", MILLION)), standing=one)
    assert steps(two) == (Decimal(1), Decimal(2))
    dear = made(months(("50", MILLION)), standing=two)
    assert steps(dear) == (None, None)
    assert made(months(("60", MILLION)), standing=dear) is None
    free = made(months(("0", MILLION)), standing=dear)
    assert free is not None
    assert free.reason == "it cost nothing"
    assert steps(made(months(("1.5", MILLION)), standing=dear)) == (Decimal(1), Decimal(2))
    wider = Ladder((Decimal(1), Decimal(4)), MILLION)
    assert steps(made(months(("1.5", MILLION)), standing=two, ladder=wider)) == (Decimal(1), Decimal(4))


@given(st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**10)), min_size=1, max_size=LONG_WINDOW_DAYS))
def test_a_band_always_holds_the_dearer_ratio(days: list[tuple[int, int]]) -> None:
    band = made(months(*[(str(to_usd(cost)), tokens) for cost, tokens in days]))
    assert band is not None
    windows = [days[-7:], days]
    if sum(tokens for _, tokens in windows[0]) < MILLION:
        assert band.high is None
        return
    dearer = max(Fraction(sum(c for c, _ in w), sum(t for _, t in w)) * Fraction(MILLION, 10**12) for w in windows)
    if band.low is None or band.high is None:
        assert not 0 < dearer <= 5
    else:
        assert Fraction(band.low) < dearer <= Fraction(band.high)
        assert band.low == 0 or LADDER.steps.index(band.high) == LADDER.steps.index(band.low) + 1


def test_the_shipped_ladder_ascends() -> None:
    shipped = BillingSection().band_steps
    assert list(shipped) == sorted(set(shipped))
    assert (len(shipped), str(shipped[0]), str(shipped[-1])) == (20, "0.05", "100")
