"""A report of a day or a period as rich text. Text from outside is never markup or an escape sequence."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.billing.adapters.export import bill_coverage
from services.billing.adapters.export.formatting import (
    NOBODY,
    TRAILING,
    UNATTRIBUTED,
    Report,
    span_of,
    split_top,
    trailing_period,
)
from services.billing.core.reports.period_report import format_days
from shared.key_names import key_label
from shared.messages.billing import CAUSES, DayReport, Directions, KeyFigure, ModelFigure, PeriodReport
from shared.printable import printable
from shared.report_forms.words import CAUSE_WORDS
from spotinference.tables import Row, decimal_places, figure_table, format_usd

LEVELS = "▁▂▃▄▅▆▇█"
GAP = "·"
"""A day without a figure."""
MOST_PARTS = 10
BAR = 24
NARROW = 72
"""A terminal with fewer columns gets no bars, tokens or revisions, so that no number is broken over two lines."""

P = TypeVar("P", bound=ModelFigure | KeyFigure)


def render_report(report: Report, width: int) -> Group:
    """Render the headline first, then its parts, for a terminal with `width` columns."""
    first = _period(report, width) if isinstance(report, PeriodReport) else _day(report)
    spaced = [renderable for part in (*first, *_parts_of(report, width)) for renderable in (part, Text())]
    return Group(*spaced[:-1])


def sparkline(values: Sequence[Decimal | None]) -> str:
    """Return a mark for each value, on a scale from the lowest value, or 0, to the highest."""
    known = [value for value in values if value is not None]
    low, high = min([Decimal(0), *known]), max([Decimal(0), *known])
    step = (high - low) / (len(LEVELS) - 1) or Decimal(1)
    return "".join(GAP if value is None else LEVELS[round((value - low) / step)] for value in values)


def _period(report: PeriodReport, width: int) -> Iterator[RenderableType]:
    headline = _ratio(report)
    headline.append(f"\n{len(report.days)} days, {span_of(report)} UTC, {report.state or 'no figure'}")
    through = report.complete_through
    headline.append(
        f"\nbills and usage are complete through {through}" if through else "\nno day has complete bills and usage yet"
    )
    yield headline
    yield from _line(report.days[-width:])
    yield _days(report, wide=width >= NARROW)
    reasons = dict.fromkeys(day.reason for day in report.days if day.usd_per_mtok is None)
    without = [(format_days([day.day for day in report.days if day.reason == reason]), reason) for reason in reasons]
    if without:
        yield Text("\n".join(f"{days}: {printable(reason or 'not known')}" for days, reason in without))
    if report.bills:
        yield Text("\n".join(map(printable, bill_coverage.coverage_lines(report))))
    if report.left_out:
        yield Text(f"not included: {printable(report.left_out)}")


def _line(days: Sequence[DayReport]) -> Iterator[Text]:
    ratios = [day.usd_per_mtok for day in days]
    if known := [ratio for ratio in ratios if ratio is not None]:
        line = Text(sparkline(ratios), "bold")
        yield line.append(f"\n$/Mtok by day, {min(known):,.4f} to {max(known):,.4f}", "not bold")


def _days(report: PeriodReport, *, wide: bool) -> Table:
    trailing_days = [blend for days in TRAILING if (blend := trailing_period(report, days)) is not None]
    places = decimal_places(day.spend for day in report.days)

    def row(name: str, of: Report, revision: str) -> Row:
        figures = format_usd(of.spend, places), format_usd(of.usd_per_mtok, 4)
        state = of.state or "none"
        return (name, state, revision, figures[0], f"{of.tokens:,}", figures[1]) if wide else (name, state, *figures)

    headings = ("day", "state", "rev", "USD", "tokens", "$/Mtok") if wide else ("day", "state", "USD", "$/Mtok")
    sums = [row(f"{len(of.days)} days", of, "") for of in (*trailing_days, report)]
    return figure_table(
        headings, [row(day.day, day, str(day.revision)) for day in report.days], sums, texts=2, gap=2 if wide else 1
    )


def _day(report: DayReport) -> Iterator[RenderableType]:
    text = _ratio(report)
    text.append(f"\n{report.day} UTC, {report.state or 'no figure'}, revision {report.revision}, ")
    text.append(f"{report.tokens:,} tokens served, ")
    known = "" if report.spend_known is None else f", ${format_usd(report.spend_known)} known so far"
    text.append(f"spend unknown{known}" if report.spend is None else f"spend ${format_usd(report.spend)}")
    if report.tax:
        text.append(f", plus ${format_usd(report.tax)} tax")
    if report.change:
        text.append(f"\nchanged: {printable(report.change)}")
    if report.billed_share is not None:
        text.append(f"\n{report.billed_share:.1%} of the spend comes from charges, the rest from accruals")
    text.append(f"\nbased on {report.charges:,} charges")
    if report.shared_by:
        text.append(f", shared cost distributed by {printable(report.shared_by)}")
    text.append(f"\nusage is {'complete' if report.usage_complete else 'not complete'}")
    for reason in report.usage_reasons:
        text.append(f"\n  {printable(reason)}")
    yield text


def _ratio(report: Report) -> Text:
    if report.usd_per_mtok is None:
        return Text(f"$/Mtok not available: {printable(report.reason or 'not known')}", "bold")
    text = Text(f"${format_usd(report.usd_per_mtok, 4)} per million tokens", "bold")
    if report.usd_per_mtok_output is not None:
        text.append(f", ${format_usd(report.usd_per_mtok_output, 4)} per million output tokens", "not bold")
    if report.usd_per_mtok_before_credits not in (None, report.usd_per_mtok):
        text.append(f", ${format_usd(report.usd_per_mtok_before_credits, 4)} before credits", "not bold")
    return text


def _parts_of(report: Report, width: int) -> Iterator[RenderableType]:
    """Render the parts of the spend, and the figures beside it."""
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
    places, whole = decimal_places(report.causes.values()), report.spend or report.spend_known

    def row(name: str, amount: Decimal, bar: str) -> Row:
        share = f"{amount / whole:.1%}" if whole else ""
        return (name, bar, format_usd(amount, places), share) if wide else (name, format_usd(amount, places))

    rows = []
    for cause in CAUSES:
        amount = report.causes.get(cause, Decimal(0))
        length = round(amount / whole * BAR) if whole else 0
        rows.append(row(CAUSE_WORDS[cause][0].lower(), amount, "█" * max(0, min(BAR, length))))
    sums = [row("total" if report.spend is not None else "known so far", _sum(report.causes.values()), "")]
    return figure_table(("cause", "", "USD", "share") if wide else ("cause", "USD"), rows, sums, texts=2 if wide else 1)


def _tiers(report: Report, *, wide: bool) -> Table:
    """List all tiers and the unattributed cost: together they are the spend."""
    places = decimal_places([*(tier.spend for tier in report.tiers), report.spend])

    def row(name: str, spend: Decimal | None, tokens: str, ratio: str) -> Row:
        return (name, format_usd(spend, places), tokens, ratio) if wide else (name, format_usd(spend, places), ratio)

    rows = [row(t.tier, t.spend, f"{t.tokens:,}", format_usd(t.usd_per_mtok, 4)) for t in report.tiers]
    rows.append(row(UNATTRIBUTED, report.causes.get(UNATTRIBUTED), "", ""))
    sums = [row("total", report.spend, f"{report.tokens:,}", format_usd(report.usd_per_mtok, 4))]
    return figure_table(("tier", "USD", "tokens", "$/Mtok") if wide else ("tier", "USD", "$/Mtok"), rows, sums)


def _key_label(key: KeyFigure) -> str | None:
    return None if key.key_id is None else key_label(key.key_id, key.name)


def _parts(kind: str, parts: Sequence[P], name_of: Callable[[P], str | None], *, wide: bool) -> Table:
    shown, rest = split_top(parts, MOST_PARTS)
    places = decimal_places(part.spend for part in shown)

    def row(name: str, of: Sequence[P], ratio: str) -> Row:
        spend = format_usd(_sum(part.spend for part in of), places)
        if not wide:
            return name, spend, ratio
        wakes = [part.wakes for part in of if isinstance(part, KeyFigure)]
        tokens = sum(part.tokens for part in of)
        return name, spend, f"{tokens:,}", ratio, *([format_usd(_sum(wakes), places)] if wakes else [])

    rows = [row(name_of(part) or NOBODY, [part], format_usd(part.usd_per_mtok, 4)) for part in shown]
    if rest:
        rows.append(row(f"{len(rest)} others", rest, ""))
    headings = (kind, "USD", "tokens", "$/Mtok", "wakes caused") if wide else (kind, "USD", "$/Mtok")
    return figure_table(headings[: len(rows[0])], rows)


def _directions(directions: Directions) -> Table:
    rows = [
        (name, f"{figure.tokens:,}", format_usd(figure.usd_per_mtok, 4))
        for name, figure in (("input", directions.input), ("cached", directions.cached), ("output", directions.output))
    ]
    return figure_table(("direction", "tokens", "$/Mtok"), rows)


def _beside(report: Report) -> Iterator[Text]:
    if (always := report.always_on) is not None:
        if always.spend is None:
            yield Text(f"always on: not available: {printable(always.reason or 'not known')}")
        else:
            yield Text(
                f"always on: ${format_usd(always.spend)}, ${format_usd(always.usd_per_mtok, 4)} per million tokens"
            )
    if (variance := report.variance) is not None:
        share = f" ({variance.difference / variance.accrued:+.2%})" if variance.accrued else ""
        places = decimal_places([variance.accrued, variance.billed])
        accrued, billed = format_usd(variance.accrued, places), format_usd(variance.billed, places)
        difference = format_usd(variance.difference, places)
        yield Text(f"for the same hours: accrued ${accrued}, billed ${billed}, difference {difference} USD{share}")
    if report.effective_spend is not None:
        yield Text(f"by EffectiveCost: ${format_usd(report.effective_spend)}")
    if report.tokens_failed:
        yield Text(f"wasted: {report.tokens_failed:,} tokens of failed requests")


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    return sum(amounts, Decimal(0))
