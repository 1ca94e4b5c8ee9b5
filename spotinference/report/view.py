"""A day's or a period's report as rich's text. What comes from outside is text there, never markup or an escape."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.billing.core.period import spans
from services.billing.forms import bills
from services.billing.forms.words import (
    CAUSE_WORDS,
    NOBODY,
    TRAILING,
    UNATTRIBUTED,
    Report,
    span_of,
    top,
    trailing,
)
from shared.key_names import key_label
from shared.messages.billing import CAUSES, DayReport, Directions, KeyFigure, ModelFigure, PeriodReport
from shared.printable import printable
from spotinference.tables import Row, places_of, table, usd

LEVELS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""A day without a figure."""
MOST_PARTS = 10
BAR = 24
NARROW = 72
"""A terminal of fewer columns gets no bars, no tokens and no revisions: digits are not broken over lines."""

P = TypeVar("P", bound=ModelFigure | KeyFigure)


def view(report: Report, width: int) -> Group:
    """The headline first, then what it is made of, for a terminal of so many columns."""
    first = _period(report, width) if isinstance(report, PeriodReport) else _day(report)
    spaced = [renderable for part in (*first, *_shares(report, width)) for renderable in (part, Text())]
    return Group(*spaced[:-1])


def sparkline(values: Sequence[Decimal | None]) -> str:
    """A mark for each value, on a scale from the lowest, or 0, to the highest."""
    known = [value for value in values if value is not None]
    low, high = min([Decimal(0), *known]), max([Decimal(0), *known])
    step = (high - low) / (len(LEVELS) - 1) or Decimal(1)
    return "".join(GAP if value is None else LEVELS[round((value - low) / step)] for value in values)


def _period(report: PeriodReport, width: int) -> Iterator[RenderableType]:
    told = _ratio(report)
    told.append(f"\n{len(report.days)} days, {span_of(report)} UTC, {report.state or 'no figure'}")
    through = report.complete_through
    told.append(
        f"\nbills and usage are complete through {through}" if through else "\nno day has complete bills and usage"
    )
    yield told
    yield from _line(report.days[-width:])
    yield _days(report, wide=width >= NARROW)
    reasons = dict.fromkeys(day.reason for day in report.days if day.usd_per_mtok is None)
    without = [(spans([day.day for day in report.days if day.reason == reason]), reason) for reason in reasons]
    if without:
        yield Text("\n".join(f"{days}: {printable(reason or 'not known')}" for days, reason in without))
    if report.bills:
        yield Text("\n".join(map(printable, bills.lines(report))))
    if report.left_out:
        yield Text(f"left out: {printable(report.left_out)}")


def _line(days: Sequence[DayReport]) -> Iterator[Text]:
    ratios = [day.usd_per_mtok for day in days]
    if known := [ratio for ratio in ratios if ratio is not None]:
        line = Text(sparkline(ratios), "bold")
        yield line.append(f"\n$/Mtok by day, {min(known):,.4f} to {max(known):,.4f}", "not bold")


def _days(report: PeriodReport, *, wide: bool) -> Table:
    blended = [found for days in TRAILING if (found := trailing(report, days)) is not None]
    places = places_of(day.spend for day in report.days)

    def row(name: str, of: Report, revision: str) -> Row:
        figures = usd(of.spend, places), usd(of.usd_per_mtok, 4)
        state = of.state or "none"
        return (name, state, revision, figures[0], f"{of.tokens:,}", figures[1]) if wide else (name, state, *figures)

    headings = ("day", "state", "rev", "USD", "tokens", "$/Mtok") if wide else ("day", "state", "USD", "$/Mtok")
    sums = [row(f"{len(of.days)} days", of, "") for of in (*blended, report)]
    return table(
        headings, [row(day.day, day, str(day.revision)) for day in report.days], sums, texts=2, gap=2 if wide else 1
    )


def _day(report: DayReport) -> Iterator[RenderableType]:
    told = _ratio(report)
    told.append(f"\n{report.day} UTC, {report.state or 'no figure'}, revision {report.revision}, ")
    told.append(f"{report.tokens:,} tokens served, ")
    known = "" if report.spend_known is None else f", ${usd(report.spend_known)} of it known"
    told.append(f"spend unknown{known}" if report.spend is None else f"spend ${usd(report.spend)}")
    if report.tax:
        told.append(f", tax beside it ${usd(report.tax)}")
    if report.change:
        told.append(f"\nchanged: {printable(report.change)}")
    if report.billed_share is not None:
        told.append(f"\n{report.billed_share:.1%} of the spend comes from charges, the rest from accruals")
    told.append(f"\nmade from {report.charges:,} charges")
    if report.shared_by:
        told.append(f", shared cost spread by {printable(report.shared_by)}")
    told.append(f"\nusage {'complete' if report.usage_complete else 'not complete'}")
    for reason in report.usage_reasons:
        told.append(f"\n  {printable(reason)}")
    yield told


def _ratio(report: Report) -> Text:
    if report.usd_per_mtok is None:
        return Text(f"$/Mtok not available: {printable(report.reason or 'not known')}", "bold")
    told = Text(f"${usd(report.usd_per_mtok, 4)} per million tokens", "bold")
    if report.usd_per_mtok_output is not None:
        told.append(f", ${usd(report.usd_per_mtok_output, 4)} per million output tokens", "not bold")
    if report.usd_per_mtok_before_credits not in (None, report.usd_per_mtok):
        told.append(f", ${usd(report.usd_per_mtok_before_credits, 4)} before credits", "not bold")
    return told


def _shares(report: Report, width: int) -> Iterator[RenderableType]:
    """What the spend is made of, and what stands beside it."""
    wide = width >= NARROW
    if report.causes:
        yield _causes(report, wide=wide)
    if report.tiers:
        yield _tiers(report, wide=wide)
    if report.models:
        yield _parts("model", report.models, lambda part: part.model, wide=wide)
    if report.keys:
        yield _parts("key", report.keys, _key_label, wide=wide)
    if report.directions:
        yield _directions(report.directions)
    yield from _beside(report)


def _causes(report: Report, *, wide: bool) -> Table:
    places, whole = places_of(report.causes.values()), report.spend or report.spend_known

    def row(name: str, amount: Decimal, bar: str) -> Row:
        share = f"{amount / whole:.1%}" if whole else ""
        return (name, bar, usd(amount, places), share) if wide else (name, usd(amount, places))

    rows = []
    for cause in CAUSES:
        amount = report.causes.get(cause, Decimal(0))
        length = round(amount / whole * BAR) if whole else 0
        rows.append(row(CAUSE_WORDS[cause][0].lower(), amount, "█" * max(0, min(BAR, length))))
    sums = [row("sum" if report.spend is not None else "known of it", _sum(report.causes.values()), "")]
    return table(("cause", "", "USD", "share") if wide else ("cause", "USD"), rows, sums, texts=2 if wide else 1)


def _tiers(report: Report, *, wide: bool) -> Table:
    """All of them and what belongs to none: they sum to the spend."""
    places = places_of([*(tier.spend for tier in report.tiers), report.spend])

    def row(name: str, spend: Decimal | None, tokens: str, ratio: str) -> Row:
        return (name, usd(spend, places), tokens, ratio) if wide else (name, usd(spend, places), ratio)

    rows = [row(t.tier, t.spend, f"{t.tokens:,}", usd(t.usd_per_mtok, 4)) for t in report.tiers]
    rows.append(row(UNATTRIBUTED, report.causes.get(UNATTRIBUTED), "", ""))
    sums = [row("sum", report.spend, f"{report.tokens:,}", usd(report.usd_per_mtok, 4))]
    return table(("tier", "USD", "tokens", "$/Mtok") if wide else ("tier", "USD", "$/Mtok"), rows, sums)


def _key_label(key: KeyFigure) -> str | None:
    return None if key.key_id is None else key_label(key.key_id, key.name)


def _parts(kind: str, parts: Sequence[P], name_of: Callable[[P], str | None], *, wide: bool) -> Table:
    shown, rest = top(parts, MOST_PARTS)
    places = places_of(part.spend for part in shown)

    def row(name: str, of: Sequence[P], ratio: str) -> Row:
        spend = usd(_sum(part.spend for part in of), places)
        if not wide:
            return name, spend, ratio
        wakes = [part.wakes for part in of if isinstance(part, KeyFigure)]
        tokens = sum(part.tokens for part in of)
        return name, spend, f"{tokens:,}", ratio, *([usd(_sum(wakes), places)] if wakes else [])

    rows = [row(name_of(part) or NOBODY, [part], usd(part.usd_per_mtok, 4)) for part in shown]
    if rest:
        rows.append(row(f"{len(rest)} more", rest, ""))
    headings = (kind, "USD", "tokens", "$/Mtok", "its wakes") if wide else (kind, "USD", "$/Mtok")
    return table(headings[: len(rows[0])], rows)


def _directions(found: Directions) -> Table:
    rows = [
        (name, f"{figure.tokens:,}", usd(figure.usd_per_mtok, 4))
        for name, figure in (("input", found.input), ("cached", found.cached), ("output", found.output))
    ]
    return table(("direction", "tokens", "$/Mtok"), rows)


def _beside(report: Report) -> Iterator[Text]:
    if (always := report.always_on) is not None:
        if always.spend is None:
            yield Text(f"always on: not available, {printable(always.reason or 'not known')}")
        else:
            yield Text(f"always on: ${usd(always.spend)}, ${usd(always.usd_per_mtok, 4)} per million tokens")
    if (variance := report.variance) is not None:
        share = f" ({variance.difference / variance.accrued:+.2%})" if variance.accrued else ""
        places = places_of([variance.accrued, variance.billed])
        hours = f"the same hours accrued ${usd(variance.accrued, places)}, billed ${usd(variance.billed, places)}"
        yield Text(f"{hours}: {usd(variance.difference, places)} USD{share}")
    if report.effective_spend is not None:
        yield Text(f"by EffectiveCost: ${usd(report.effective_spend)}")
    if report.tokens_failed:
        yield Text(f"waste: {report.tokens_failed:,} tokens of failed requests")


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
