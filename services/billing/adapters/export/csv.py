"""Days and statements as CSV: RFC 4180, UTF-8, every digit of every decimal."""

import csv
import io
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

from services.billing.adapters.export.formatting import UNATTRIBUTED, Report, days_of
from shared.csv_cells import csv_text
from shared.messages.billing import DayReport, DirectionFigure, PeriodReport, Statement
from shared.report_forms.words import format_decimal

DAY_COLUMNS = (
    "day",
    "state",
    "revision",
    "usage_complete",
    "billed_share",
    "currency",
    "kind",
    "name",
    "spend",
    "tokens",
    "usd_per_mtok",
    "reason",
    "key_name",
)
STATEMENT_COLUMNS = (
    "key_id",
    "day",
    "model",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "tokens",
    "usd_per_mtok",
    "amount",
    "reason",
    "complete",
    "key_name",
)

Cell = str | int | bool | Decimal | None


def report_csv(report: Report) -> bytes:
    """A row per day, kind and name. Rows of one kind can be added up; no row is the sum of other days'."""
    return _written(DAY_COLUMNS, report_rows(report))


def report_rows(report: Report) -> Iterator[tuple[Cell, ...]]:
    """The rows of `DAY_COLUMNS`, with texts as they are."""
    for day in days_of(report):
        yield from _day(day)
    if isinstance(report, PeriodReport) and report.left_out:
        yield ("", None, None, None, None, "", "left_out", "", None, None, None, report.left_out, "")


def statement_csv(statement: Statement) -> bytes:
    """A row per day and model. Amounts add up to the statement's."""
    rows = (
        (
            statement.key_id,
            line.day,
            line.model,
            line.prompt_tokens,
            line.cached_tokens,
            line.completion_tokens,
            line.prompt_tokens + line.completion_tokens,
            line.usd_per_mtok,
            line.amount,
            line.reason,
            statement.complete,
            statement.name,
        )
        for line in statement.lines
    )
    return _written(STATEMENT_COLUMNS, rows)


class _Figure(NamedTuple):
    """One row's own part. Nobody's cost has no name."""

    kind: str
    name: str | None = None
    spend: Decimal | None = None
    tokens: int | None = None
    usd_per_mtok: Decimal | None = None
    reason: str | None = None
    key_name: str | None = None


def _day(day: DayReport) -> Iterator[tuple[Cell, ...]]:
    first = (day.day, day.state, day.revision, day.usage_complete, day.billed_share, day.currency)
    for figure in (*_parts(day), *_beside(day), *_notes(day)):
        yield (*first, figure.kind, figure.name, *figure[2:5], figure.reason, figure.key_name)


def _parts(day: DayReport) -> Iterator[_Figure]:
    yield _Figure("total", None, day.spend, day.tokens, day.usd_per_mtok, day.reason)
    for cause, amount in day.causes.items():
        yield _Figure("cause", cause, amount)
    for tier in day.tiers:
        yield _Figure("tier", tier.tier, tier.spend, tier.tokens, tier.usd_per_mtok, tier.reason)
    if (loose := day.causes.get(UNATTRIBUTED)) is not None:  # so that the rows sum to the spend
        yield _Figure("tier", None, loose, reason=UNATTRIBUTED)
    for model in day.models:
        yield _Figure("model", model.model, model.spend, model.tokens, model.usd_per_mtok)
    for key in day.keys:
        yield _Figure("key", key.key_id, key.spend, key.tokens, key.usd_per_mtok, key_name=key.name)
    for key in day.keys:
        if key.wakes:
            yield _Figure("wakes", key.key_id, key.wakes, key_name=key.name)
    for name in ("input", "cached", "output"):
        direction: DirectionFigure = getattr(day.directions, name)
        yield _Figure("direction", name, None, direction.tokens, direction.usd_per_mtok)


def _beside(day: DayReport) -> Iterator[_Figure]:
    yield _Figure("beside", "tax", day.tax)
    if day.spend_known is not None:
        yield _Figure("beside", "known", day.spend_known)
    yield _Figure("beside", "before_credits", day.spend_before_credits, None, day.usd_per_mtok_before_credits)
    yield _Figure("beside", "effective", day.effective_spend)
    yield _Figure("beside", "all_by_output", None, day.directions.output.tokens, day.usd_per_mtok_output)
    yield _Figure("beside", "failed", None, day.tokens_failed)
    if day.always_on:
        compared = day.always_on
        yield _Figure("beside", "always_on", compared.spend, None, compared.usd_per_mtok, compared.reason)
    if day.variance:
        for name in ("accrued", "billed", "difference"):
            yield _Figure("variance", name, getattr(day.variance, name))


def _notes(day: DayReport) -> Iterator[_Figure]:
    if day.change:
        yield _Figure("change", reason=day.change)
    for reason in day.usage_reasons:
        yield _Figure("usage", reason=reason)
    for one in day.unbilled:
        cost = "estimated" if one.estimated else "cost unknown"
        yield _Figure("unbilled", one.machine, reason=f"{cost}, no bill {f'from {one.since}' if one.since else 'yet'}")
    if day.shared_by:
        yield _Figure("shared_by", day.shared_by)
    yield _Figure("charges", str(day.charges))
    for source in day.sources:
        yield _Figure("source", source)


def _written(columns: tuple[str, ...], rows: Iterable[tuple[Cell, ...]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return out.getvalue().encode()


def _cell(cell: Cell) -> str:
    match cell:
        case Decimal():
            return format_decimal(cell)
        case bool():
            return "true" if cell else "false"
        case int():
            return str(cell)
        case _:
            return csv_text(cell)
