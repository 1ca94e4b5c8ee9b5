"""A report as a workbook to read and print: amounts in cents, totals of all days, what is known beside them.

Every digit is on the sheet `exact`, which has the rows of the CSV. The pages of all sheets are ten at most.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypeVar

from services.billing.adapters.export import bill_coverage
from services.billing.adapters.export.csv import DAY_COLUMNS, report_rows
from services.billing.adapters.export.formatting import (
    NOBODY,
    TRAILING,
    UNATTRIBUTED,
    Report,
    days_of,
    span_of,
    split_top,
    trailing_period,
)
from services.billing.adapters.export.workbook import Kind, Row, Sheet, write_workbook
from shared.messages.billing import CAUSES, DayReport, KeyFigure, ModelFigure, PeriodReport, TierFigure
from shared.printable import printable
from shared.report_forms.words import BASIS, CAUSE_WORDS, format_decimal

P = TypeVar("P", bound=TierFigure | ModelFigure | KeyFigure)

CENTS, SMALL_CHANGE = 2, 6
"""Decimals of money; the second where all of it is less than a dollar."""
MOST_PARTS = 25
"""Rows of models, and of keys, on the summary; `exact` has all of them."""
KNOWN = "known of it"
"""What there is of a spend that is not known because a bill is missing."""
MOST_TIERS = 8
"""Tiers that have a column of their own."""
MOST_NOTES = 100
FIGURES: tuple[tuple[str, Kind], ...] = (("spend USD", "money"), ("tokens", "count"), ("USD per million", "ratio"))


def report_xlsx(report: Report) -> bytes:
    """The workbook. `Rejected` where a sheet would not fit; other forms have no such limit."""
    # Not the hour of writing: a report that is written again is the same file.
    last = datetime.combine(_date(days_of(report)[-1].day), datetime.min.time(), UTC)
    amount = report.spend_known if report.spend is None else report.spend
    small = amount is not None and abs(amount) < 1
    title = f"cost of {span_of(report)}, UTC"
    return write_workbook(sheets(report), title=title, created=last, cents=SMALL_CHANGE if small else CENTS)


def sheets(report: Report) -> list[Sheet]:
    """What the workbook has, in order."""
    days = days_of(report)
    return [
        _summary(report),
        _days(report, days),
        _causes(report, days),
        _tiers(report, days),
        _notes(report),
        _exact(report),
    ]


def _summary(report: Report) -> Sheet:
    first: list[tuple[str, Kind]] = [("part", "text"), ("name", "text")]
    last: list[tuple[str, Kind]] = [("share of spend", "share"), ("said", "text")]
    rows: list[Row] = [_span("all of it", report)]
    if report.spend is None and report.spend_known is not None:
        rows.append((span_of(report), KNOWN, report.spend_known, None, None, None, None))
    if isinstance(report, PeriodReport):
        periods = [trailing_period(report, days) for days in TRAILING]
        rows += [_span(f"the last {len(part.days)} days", part) for part in periods if part is not None]
    rows += [_named("cause", cause, amount, report) for cause, amount in report.causes.items()]
    rows += _parts("tier", report.tiers, lambda part: part.tier, report, note=lambda part: part.reason)
    if (loose := report.causes.get(UNATTRIBUTED)) is not None:  # with it the tiers sum to the spend
        rows.append(_named("tier", f"({UNATTRIBUTED})", loose, report))
    rows += _parts("model", report.models, lambda part: part.model, report)
    rows += _parts("key", report.keys, lambda part: part.name or part.key_id, report, note=_id_of)
    rows += list(_beside(report))
    return Sheet("summary", [*first, *FIGURES, *last], rows)


def _span(name: str, report: Report) -> Row:
    state = report.state or "not available"
    note = state if report.reason is None else f"{state}: {report.reason}"
    return span_of(report), name, report.spend, report.tokens, report.usd_per_mtok, None, note


def _named(part: str, name: str, amount: Decimal | None, report: Report, *, tokens: int | None = None) -> Row:
    return part, name, amount, tokens, None, _share(amount, report), None


def _id_of(key: KeyFigure) -> str | None:
    """Beside its name: two keys may have the same."""
    return key.key_id if key.name else None


def _parts(
    kind: str,
    parts: Sequence[P],
    name_of: Callable[[P], str | None],
    report: Report,
    *,
    note: Callable[[P], str | None] = lambda _part: None,
) -> list[Row]:
    shown, rest = split_top(parts, MOST_PARTS)
    rows: list[Row] = [
        (kind, name_of(p) or f"({NOBODY})", p.spend, p.tokens, p.usd_per_mtok, _share(p.spend, report), note(p))
        for p in shown
    ]
    if rest:
        spends = [part.spend for part in rest if part.spend is not None]
        amount = sum(spends, Decimal(0)) if len(spends) == len(rest) else None
        rows.append(_named(kind, f"({len(rest)} more)", amount, report, tokens=sum(part.tokens for part in rest)))
    return rows


def _beside(report: Report) -> Iterator[Row]:
    def row(
        name: str,
        amount: Decimal | None,
        ratio: Decimal | None = None,
        *,
        tokens: int | None = None,
        note: str | None = None,
    ) -> Row:
        return "beside", name, amount, tokens, ratio, None, note

    yield row("recoverable tax", report.tax)
    yield row("before credits", report.spend_before_credits, report.usd_per_mtok_before_credits)
    yield row("all by output tokens", report.spend, report.usd_per_mtok_output)
    if report.effective_spend is not None:
        yield row("by EffectiveCost", report.effective_spend)
    if report.always_on is not None:
        always = report.always_on
        yield row("always on", always.spend, always.usd_per_mtok, note=always.reason)
    if report.variance is not None:
        yield row("accrued for billed hours", report.variance.accrued)
        yield row("billed for them", report.variance.billed)
    yield row("of failed requests", None, tokens=report.tokens_failed)
    if (directions := report.directions) is not None:
        for name, part in (("input", directions.input), ("cached", directions.cached), ("output", directions.output)):
            yield "direction", name, None, part.tokens, part.usd_per_mtok, None, None


def _days(report: Report, days: Sequence[DayReport]) -> Sheet:
    first: list[tuple[str, Kind]] = [("day", "date"), ("state", "text"), ("revision", "count")]
    last: list[tuple[str, Kind]] = [("before credits USD", "money"), ("tax USD", "money"), ("failed tokens", "count")]
    columns = [*first, *FIGURES, *last, ("reason", "text")]
    rows = [(_date(day.day), day.state or "not available", day.revision, *_figures(day)) for day in days]
    return Sheet("days", columns, rows, (None, report.state or "not available", None, *_figures(report)))


def _figures(of: Report) -> Row:
    return of.spend, of.tokens, of.usd_per_mtok, of.spend_before_credits, of.tax, of.tokens_failed, of.reason


def _causes(report: Report, days: Sequence[DayReport]) -> Sheet:
    named: list[tuple[str, Kind]] = [(CAUSE_WORDS[cause][0], "money") for cause in CAUSES]
    last: list[tuple[str, Kind]] = [("sum", "money")]
    if report.spend_known is not None:  # then the causes of some day sum to that
        last.append((KNOWN, "money"))

    def row(of: Report) -> Row:
        return *(of.causes.get(cause) for cause in CAUSES), *(of.spend, of.spend_known)[: len(last)]

    return Sheet(
        "causes", [("day", "date"), *named, *last], [(_date(day.day), *row(day)) for day in days], (None, *row(report))
    )


def _tiers(report: Report, days: Sequence[DayReport]) -> Sheet:
    """The dearest tiers have a column each, the rest one together; a row's cells sum to its spend."""
    shown, rest = split_top(report.tiers, MOST_TIERS)
    names = [tier.tier for tier in shown]
    titles = [*map(printable, names), *([f"({len(rest)} more)"] if rest else []), f"({UNATTRIBUTED})", "(sum)"]
    columns: list[tuple[str, Kind]] = [("day", "date"), *((title, "money") for title in titles)]

    def row(of: Report) -> Row:
        spends = {tier.tier: tier.spend for tier in of.tiers}
        others = [spend for name, spend in spends.items() if name not in names]
        known = [spend for spend in others if spend is not None]
        more = (sum(known, Decimal(0)) if len(known) == len(others) else None,) if rest else ()
        return *(spends.get(name) for name in names), *more, of.causes.get(UNATTRIBUTED), of.spend

    return Sheet("tiers", columns, [(_date(day.day), *row(day)) for day in days], (None, *row(report)))


def _notes(report: Report) -> Sheet:
    """Return the notes on the figures, and the files; what does not fit is on sheet `exact`."""
    about: list[Row] = [
        (None, "basis", BASIS),
        (None, "rounding", "each amount by itself; all digits: exact"),
    ]
    if report.left_out:
        about.append((None, "left out", report.left_out))
    if isinstance(report, PeriodReport):
        about += [(None, "bills", line) for line in bill_coverage.coverage_lines(report)]
    days = days_of(report)
    about += [(None, "source", source) for source in sorted({source for day in days for source in day.sources})]
    for day in days:
        note = [
            *([("not available", day.reason)] if day.usd_per_mtok is None else []),
            *([("change", day.change)] if day.change else []),
            *([] if day.usage_complete else [("usage", reason) for reason in day.usage_reasons or ("not complete",)]),
        ]
        about += [(_date(day.day), what, text) for what, text in note]
    rest = len(about) - MOST_NOTES
    if rest > 0:
        about[MOST_NOTES:] = [(None, "more", f"{rest} more notes: see sheet exact")]
    return Sheet("notes", [("day", "date"), ("what", "text"), ("is", "text")], about, pages=1)


def _exact(report: Report) -> Sheet:
    rows = [tuple(_text(cell) for cell in row) for row in report_rows(report)]
    return Sheet("exact", [(name, "text") for name in DAY_COLUMNS], rows, pages=0)


def _text(cell: str | int | bool | Decimal | None) -> str:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return format_decimal(cell) if isinstance(cell, Decimal) else "" if cell is None else str(cell)


def _share(amount: Decimal | None, report: Report) -> Decimal | None:
    return amount / report.spend if amount is not None and report.spend else None


def _date(day: str) -> date:
    return date.fromisoformat(day)
