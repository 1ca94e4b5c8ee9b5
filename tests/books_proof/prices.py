"""The price list and what keys have to pay by it."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tests.books_proof.amounts import UNITS
from tests.books_proof.facts import DAY, World
from tests.books_proof.oracle import Books, DayFigures

LADDER = "0.05 0.10 0.15 0.20 0.30 0.50 0.75 1 1.50 2 3 5 7.50 10 15 20 30 50 75 100"
"""The default, USD per million tokens."""
MIN_TOKENS = 1_000_000


@dataclass(frozen=True)
class Trailing:
    """A model's cost before credits and tokens of some days."""

    cost: Fraction
    tokens: int
    slack: Fraction

    @property
    def ratio(self) -> Fraction:
        """USD per million tokens."""
        return self.cost * 1_000_000 / self.tokens

    def matches(self, published: Fraction) -> bool:
        """Within what divisions may have moved the cost by, and half a unit of rounding."""
        return abs(published - self.ratio) * UNITS <= self.slack * 1_000_000 / self.tokens + Fraction(1, 2)


def trailing(model: str, days: Sequence[DayFigures]) -> Trailing:
    """Over the days that are not estimated."""
    cost, tokens, slack = Fraction(0), 0, Fraction(0)
    for day in days:
        if day.state == "estimated":
            continue
        amount, count = day.by(1, day.before_credits).get(model, (None, 0))
        tokens += count
        if amount is not None:
            cost, slack = cost + amount.value, slack + amount.slack
    return Trailing(cost, tokens, slack)


def step_of(ratio: Fraction) -> tuple[Fraction, Fraction] | None:
    """The step of the ladder that it lies in, above the low end; None: above the last, or it cost nothing."""
    if ratio <= 0:
        return None
    steps = [Fraction(step) for step in LADDER.split()]
    return next((pair for pair in zip([Fraction(0), *steps], steps, strict=False) if ratio <= pair[1]), None)


def band(model: str, books: Books, day: int) -> tuple[Trailing, Trailing, tuple[Fraction, Fraction] | None]:
    """Of 7 and 28 days before `day`: the two ratios, and the step of the dearer one where enough was served."""
    week, month = (
        trailing(model, [books.day(day - back * DAY) for back in range(length, 0, -1)]) for length in (7, 28)
    )
    if week.tokens < MIN_TOKENS:
        return week, month, None
    return week, month, step_of(max(week.ratio, month.ratio))


def used(key: str, world: World, start: int, end: int) -> dict[tuple[int, str], tuple[int, int, int]]:
    """Prompt, cached and completion tokens of what was served to a key, by day and model."""
    sums: dict[tuple[int, str], tuple[int, int, int]] = {}
    for use in world.uses:
        if use.key == key and not use.failed and start <= use.end < end and use.prompt + use.completion:
            at = int(use.end) // DAY * DAY, use.model
            before = sums.get(at, (0, 0, 0))
            sums[at] = before[0] + use.prompt, before[1] + use.cached, before[2] + use.completion
    return sums
