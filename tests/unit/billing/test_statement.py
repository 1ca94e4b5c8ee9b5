"""A key's month: tokens times the band in force, to the last of twelve decimals, null where a price is lacking."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.billing.core.pricing.statement import build_statement, month_days
from shared.messages.billing import Band
from shared.messages.meter import Tokens, TokensRow, TokenSums

MILLION = 1_000_000


def row(day: str, model: str, prompt: int, completion: int = 0, outcome: str = "completed") -> TokensRow:
    return TokensRow(
        dimensions={"day": day, "model": model, "outcome": outcome},
        sums=TokenSums(requests=1, prompt_tokens=prompt, cached_tokens=prompt // 2, completion_tokens=completion),
    )


def used(*rows: TokensRow, complete: bool = True, reasons: tuple[str, ...] = ()) -> Tokens:
    """The sums beside the rows are not looked at."""
    return Tokens(
        day="2026-05-01", complete=complete, totals=TokenSums(), served=TokenSums(), rows=rows, reasons=reasons
    )


def at(price: str | None, reason: str | None = None) -> Band:
    high = None if price is None else Decimal(price)
    low = None if price is None else Decimal(0)
    return Band(model="m", day="2026-05-01", low=low, high=high, trailing_7=None, trailing_28=None, reason=reason)


def test_a_line_is_tokens_times_the_upper_end_of_the_band_on_its_day() -> None:
    bands = {("m", "2026-05-01"): at("2"), ("m", "2026-05-02"): at("3"), ("n", "2026-05-01"): at("0.05")}
    made = build_statement(
        "k1",
        "2026-05",
        used(
            row("2026-05-02", "m", MILLION, 500_000),
            row("2026-05-01", "n", 20 * MILLION),
            row("2026-05-01", "m", MILLION),
            row("2026-05-01", "m", 250_000, 250_000, outcome="client_closed"),
        ),
        lambda model, day: bands[model, day],
    )
    assert [(line.day, line.model, line.usd_per_mtok, line.amount) for line in made.lines] == [
        ("2026-05-01", "m", Decimal(2), Decimal(3)),
        ("2026-05-01", "n", Decimal("0.05"), Decimal(1)),
        ("2026-05-02", "m", Decimal(3), Decimal("4.5")),
    ]
    first = made.lines[0]
    assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (1_250_000, 625_000, 250_000)
    assert (made.amount, made.tokens, made.complete, made.reasons) == (Decimal("8.5"), 23 * MILLION, True, ())


def test_failed_requests_and_those_without_tokens_are_not_charged() -> None:
    failed, empty = (
        row("2026-05-01", "m", MILLION, outcome="failed"),
        row("2026-05-01", "n", 0, outcome="client_closed"),
    )
    made = build_statement("k1", "2026-05", used(failed, empty), lambda *_: None)
    assert (made.lines, made.tokens, made.amount) == ((), 0, Decimal(0))


def test_a_line_without_a_price_makes_the_total_unknown() -> None:
    bands = {"m": at("2"), "n": at(None, "above the last step, 100"), "o": None}
    rows = [row("2026-05-01", model, MILLION) for model in bands]
    made = build_statement("k1", "2026-05", used(*rows), lambda model, _: bands[model])
    assert [line.amount for line in made.lines] == [Decimal(2), None, None]
    assert [line.reason for line in made.lines] == [None, "above the last step, 100", "no band was in force"]
    assert (made.amount, made.tokens) == (None, 3 * MILLION)
    assert made.reasons == ("2 of 3 lines have no price",)


def test_month_is_complete_if_the_meter_reports_it_complete() -> None:
    made = build_statement("k1", "2026-05", used(complete=False, reasons=("it is not over",)), lambda *_: None)
    assert (made.complete, made.reasons, made.amount) == (False, ("it is not over",), Decimal(0))


PRICE = st.integers(1, 10**14).map(lambda n: Decimal(n).scaleb(-12))


@given(st.lists(st.tuples(st.integers(1, 10**12), PRICE), max_size=31))
def test_each_line_is_exact_to_half_a_unit_and_the_total_is_their_sum(used_at: list[tuple[int, Decimal]]) -> None:
    days = {f"2026-05-{number:02}": used for number, used in enumerate(used_at, 1)}
    rows = [row(day, "m", tokens // 2, tokens - tokens // 2) for day, (tokens, _) in days.items()]
    made = build_statement("k1", "2026-05", used(*rows), lambda _, day: at(str(days[day][1])))
    assert made.amount == sum((line.amount for line in made.lines if line.amount is not None), Decimal(0))
    for line, (tokens, price) in zip(made.lines, days.values(), strict=True):
        assert line.amount is not None
        assert abs(Fraction(line.amount) - Fraction(price) * tokens / MILLION) <= Fraction(1, 2 * 10**12)


@pytest.mark.parametrize(
    ("month", "last"),
    [("2026-05", "31"), ("2026-02", "28"), ("2028-02", "29"), ("2100-02", "28"), ("2026-12", "31"), ("2026-04", "30")],
)
def test_a_month_is_its_own_days(month: str, last: str) -> None:
    assert month_days(month) == (f"{month}-01", f"{month}-{last}")


@pytest.mark.parametrize(
    "month", ["", "2026", "2026-5", "2026-13", "2026-00", "0000-01", "2026-05-01", "٢٠٢٦-05", "2026-05\n"]
)
def test_what_is_no_month_is_refused(month: str) -> None:
    with pytest.raises(ValueError, match="expected a month such as"):
        month_days(month)
