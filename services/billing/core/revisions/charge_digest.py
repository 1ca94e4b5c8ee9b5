"""What a day's charges say, by source: the same however they were ordered, stored or split over files."""

import hashlib
from collections.abc import Iterable
from decimal import Decimal
from typing import NamedTuple

import msgspec

from services.billing.core.allocation.charge_groups import ChargeKey, cost_on_day, quantity_units
from services.billing.core.cost_row import CostRow
from services.billing.core.money import to_units, to_usd
from services.billing.core.utc_time import Window
from shared.messages.codec import Unreadable, decode


class SourceCharges(msgspec.Struct, frozen=True, kw_only=True):
    """A source's charges that fall on a day."""

    source: str
    sha256: str
    """The hash of everything in them that can decide a figure."""
    rows: int
    """As delivered."""
    spend: Decimal
    """What the charges cost on the day, in USD without tax."""
    tax: Decimal


class _Line(NamedTuple):
    """All of a charge that can decide a figure, except for its amounts. The charges of one line are summed."""

    start: int
    end: int
    category: str
    service_category: str | None
    resource_id: str | None
    parent_id: str | None
    tags: str | None
    unit: str
    currency: str
    per_usd: str
    has_effective: bool


def charges_by_source(rows: Iterable[tuple[str, CostRow]], day: Window) -> tuple[SourceCharges, ...]:
    """Sum up the charges of a day, each with its source, in order of the source's name."""
    by_source: dict[str, dict[_Line, list[int]]] = {}
    tags: dict[str | None, str | None] = {}
    for source, row in rows:
        if row.tags not in tags:
            tags[row.tags] = _canonical(row.tags)
        sums = by_source.setdefault(source, {}).setdefault(_line(row, tags[row.tags]), [0, 0, 0, 0])
        sums[0] += row.rows
        sums[1] += to_units(row.billed)
        sums[2] += 0 if row.effective is None else to_units(row.effective)
        sums[3] += 0 if row.consumed_quantity is None else quantity_units(row.consumed_quantity)
    return tuple(_sum_source(source, lines, day) for source, lines in sorted(by_source.items()))


def _line(row: CostRow, tags: str | None) -> _Line:
    return _Line(
        start=row.charge_start,
        end=row.charge_end,
        category=row.category,
        service_category=row.service_category,
        resource_id=row.resource_id,
        parent_id=row.parent_id,
        tags=tags,
        unit=(row.consumed_unit or "").strip().lower(),
        currency=row.currency,
        per_usd=row.per_usd,
        has_effective=row.effective is not None,
    )


def _sum_source(source: str, lines: dict[_Line, list[int]], day: Window) -> SourceCharges:
    spend = tax = 0
    for line, (_, billed, *_) in lines.items():
        kind = ChargeKey(line.start, line.end, "shared", line.category, line.service_category, False, line.per_usd)
        part = cost_on_day(billed, kind, day)
        spend, tax = (spend, tax + part) if line.category == "Tax" else (spend + part, tax)
    # Amounts are texts: they may be larger than a JSON number.
    written = sorted(msgspec.json.encode((*line, *map(str, sums))) for line, sums in lines.items())
    return SourceCharges(
        source=source,
        sha256=hashlib.sha256(b"\n".join(written)).hexdigest(),
        rows=sum(sums[0] for sums in lines.values()),
        spend=to_usd(spend),
        tax=to_usd(tax),
    )


def _canonical(tags: str | None) -> str | None:
    """The tags in the order of their names."""
    if tags is None:
        return None
    try:
        return msgspec.json.encode(decode(tags, dict[str, object]), order="sorted").decode()
    except Unreadable:
        return tags
