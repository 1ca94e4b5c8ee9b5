"""Where the marks of a page's charts are, in per cent of the drawing's width or height."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, Protocol, TypeVar

from shared.messages.billing import CAUSES, Cause, FigureState
from shared.report_forms.words import CAUSE_WORDS, format_usd

WIDEST = Decimal("0.72")
"""The part of a day's place that its column fills."""
STEPS = (
    Decimal(1),
    Decimal("1.5"),
    Decimal(2),
    Decimal(3),
    Decimal(4),
    Decimal(5),
    Decimal(6),
    Decimal(8),
    Decimal(10),
)
"""Ends of a scale that read well, times a power of ten; half of each does, too."""


class DayFigures(Protocol):
    """What a chart of days reads of each."""

    @property
    def day(self) -> str: ...
    @property
    def state(self) -> FigureState | None: ...
    @property
    def usd_per_mtok(self) -> Decimal | None: ...
    @property
    def causes(self) -> dict[str, Decimal]: ...


D = TypeVar("D", bound=DayFigures)


@dataclass(frozen=True)
class Bar:
    """One cause. A negative amount grows to the left of the zero line."""

    label: str
    meaning: str
    amount: Decimal
    x: str
    width: str
    credit: bool


@dataclass(frozen=True)
class Column(Generic[D]):
    """A day's cost per million tokens, from the top. `height` None: the day has no figure."""

    report: D
    x: str
    middle: str
    width: str
    y: str
    height: str | None


@dataclass(frozen=True)
class Plot(Generic[D]):
    """Columns of days below one another's scale; `labels` stand at top, middle and bottom."""

    columns: tuple[Column[D], ...]
    labels: tuple[str, str, str]
    zero: str


@dataclass(frozen=True)
class Segment:
    """One cause of one day, from the top."""

    cause: Cause
    y: str
    height: str


@dataclass(frozen=True)
class Stack:
    """A day's spend by cause. `segments` None: the day has no figure, which is not 0."""

    day: str
    x: str
    middle: str
    width: str
    segments: tuple[Segment, ...] | None


@dataclass(frozen=True)
class StackPlot:
    """Days side by side, and the causes that any of them has."""

    stacks: tuple[Stack, ...]
    causes: tuple[Cause, ...]
    labels: tuple[str, str, str]
    zero: str


def cause_bars(causes: Mapping[str, Decimal]) -> list[Bar]:
    """Return a bar for each cause, in their order; none where the spend is unknown."""
    amounts = {cause: causes.get(cause, Decimal(0)) for cause in CAUSES} if causes else {}
    low, high = _around_zero(amounts.values())
    whole = high - low or Decimal(1)
    return [
        Bar(
            label=CAUSE_WORDS[cause][0],
            meaning=CAUSE_WORDS[cause][1],
            amount=amount,
            x=_percent((min(amount, Decimal(0)) - low) / whole),
            width=_percent(abs(amount) / whole),
            credit=amount < 0,
        )
        for cause, amount in amounts.items()
    ]


def plot_days(days: Iterable[D]) -> Plot[D]:
    """The days' cost per million tokens side by side."""
    shown = list(days)
    low, high = _around_zero(day.usd_per_mtok for day in shown if day.usd_per_mtok is not None)
    low, high = -_round_up(-low), _round_up(high)
    whole = high - low or Decimal(1)
    place = Decimal(1) / max(1, len(shown))
    columns = []
    for number, day in enumerate(shown):
        ratio = day.usd_per_mtok
        top = max(ratio or Decimal(0), Decimal(0))
        columns.append(
            Column(
                report=day,
                x=_percent((number + (1 - WIDEST) / 2) * place),
                middle=_percent((number + Decimal("0.5")) * place),
                width=_percent(place * WIDEST),
                y=_percent((high - top) / whole),
                height=None if ratio is None else _percent(abs(ratio) / whole),
            )
        )
    labels = (format_usd(high), format_usd((high + low) / 2), format_usd(low))
    return Plot(columns=tuple(columns), labels=labels, zero=_percent(high / whole))


def stack_days(days: Iterable[DayFigures]) -> StackPlot:
    """The days' spend by cause: amounts stand on the zero line in the causes' order, credits hang from it."""
    shown = list(days)
    sums = [sum((a for a in day.causes.values() if a * sign > 0), Decimal(0)) for day in shown for sign in (1, -1)]
    low, high = _around_zero(sums)
    low, high = -_round_up(-low), _round_up(high)
    whole = high - low or Decimal(1)
    place = Decimal(1) / max(1, len(shown))
    stacks = []
    for number, day in enumerate(shown):
        up = down = Decimal(0)
        segments = []
        for cause in CAUSES:
            amount = day.causes.get(cause, Decimal(0))
            up, down = up + max(amount, Decimal(0)), down + min(amount, Decimal(0))
            if amount:
                top = up if amount > 0 else down - amount
                segments.append(Segment(cause, _percent((high - top) / whole), _percent(abs(amount) / whole)))
        stacks.append(
            Stack(
                day=day.day,
                x=_percent((number + (1 - WIDEST) / 2) * place),
                middle=_percent((number + Decimal("0.5")) * place),
                width=_percent(place * WIDEST),
                segments=tuple(segments) if day.causes else None,
            )
        )
    causes = [cause for cause in CAUSES if any(day.causes.get(cause) for day in shown)]
    labels = (format_usd(high), format_usd((high + low) / 2), format_usd(low))
    return StackPlot(stacks=tuple(stacks), causes=tuple(causes), labels=labels, zero=_percent(high / whole))


def _around_zero(amounts: Iterable[Decimal]) -> tuple[Decimal, Decimal]:
    values = [Decimal(0), *amounts]
    return min(values), max(values)


def _round_up(amount: Decimal) -> Decimal:
    """Round up to the next end of a scale; `amount` is not negative."""
    if not amount:
        return Decimal(0)
    power = Decimal(1).scaleb(amount.adjusted())
    return next(step * power for step in STEPS if step * power >= amount)


def _percent(part: Decimal) -> str:
    return f"{part * 100:.3f}%"
