"""What looks wrong about an import and may be right: it is warned of, never refused. SQL as text, none is run here."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from statistics import median_low
from typing import Any

from services.billing.core.cost_row import SnapshotKey
from services.billing.core.invoice_files.schema import SNAPSHOT_KEY
from services.billing.core.money import to_units, to_usd
from services.billing.core.utc_time import day_of
from shared.units import DAY_MS

LARGE_CHARGE_FACTOR = 1000
"""A charge of so many usual days is a slip of units more likely than a charge."""
MIN_DAYS = 3
"""With fewer days, no day is usual."""
SHRINK_FACTOR = 2
"""A period that has less than one part of so many of what it had."""
MAX_NAME_LENGTH = 100
"""Characters of a resource's name."""

_KEY_COLUMNS = ", ".join(SNAPSHOT_KEY)


@dataclass(frozen=True, kw_only=True)
class SnapshotStatistics:
    """Statistics of the charges of one snapshot and currency. Times are in milliseconds."""

    usual_day: Decimal
    """The median of what its days cost, by charge start, without sign."""
    days: int
    largest: Decimal
    """The charge of the largest amount, either sign."""
    largest_of: str
    """Its resource, or else its service."""
    largest_at: int
    future: int
    """Charges that begin after today."""
    first_future: int | None


@dataclass(frozen=True)
class PreviousSnapshot:
    """The size and the amount of the snapshot that this one replaces."""

    rows: int
    billed: Decimal


def statistics_sql(now: int) -> str:
    """SQL over the table `charges`: key, currency, then the fields of `SnapshotStatistics` in order."""
    tomorrow = (now // DAY_MS + 1) * DAY_MS
    return f"""
        WITH of_day AS (
            SELECT {_KEY_COLUMNS}, currency, day_start(charge_start) AS day, abs(sum(billed)) AS cost
            FROM charges GROUP BY ALL),
        of_days AS (
            SELECT {_KEY_COLUMNS}, currency, quantile_disc(cost, 0.5) AS usual, count(*) AS days
            FROM of_day GROUP BY ALL)
        SELECT {_KEY_COLUMNS}, currency, any_value(usual), any_value(days),
            arg_max(billed, abs(billed)), arg_max(coalesce(resource_id, service_name, ''), abs(billed)),
            arg_max(charge_start, abs(billed)),
            count(*) FILTER (charge_start >= {tomorrow}), min(charge_start) FILTER (charge_start >= {tomorrow})
        FROM charges JOIN of_days USING ({_KEY_COLUMNS}, currency) GROUP BY ALL"""


def parse_statistics(rows: Sequence[tuple[Any, ...]]) -> dict[tuple[SnapshotKey, str], SnapshotStatistics]:
    """Return what `statistics_sql` found, by key and currency."""
    names = [field.name for field in fields(SnapshotStatistics)]
    width = len(SNAPSHOT_KEY)
    return {
        (SnapshotKey(*row[:width]), row[width]): SnapshotStatistics(**dict(zip(names, row[width + 1 :], strict=True)))
        for row in rows
    }


def usual_day_cost(facts: SnapshotStatistics, before: Sequence[Decimal]) -> Decimal | None:
    """Return what a day of the source costs: by its snapshots `before` this one, else by this one alone."""
    if before:
        return median_low(before)
    return facts.usual_day if facts.days >= MIN_DAYS else None


def find_anomalies(
    statistics: SnapshotStatistics,
    *,
    rows: int,
    billed: Decimal,
    currency: str,
    usual: Decimal | None,
    previous: PreviousSnapshot | None,
) -> tuple[str, ...]:
    """Return what an operator should look at, a sentence each. `former` is None where nothing was replaced."""
    warnings: list[str] = []
    if usual and abs(statistics.largest) >= LARGE_CHARGE_FACTOR * usual:
        what = f" for {statistics.largest_of[:MAX_NAME_LENGTH]}" if statistics.largest_of else ""
        warnings.append(
            f"a charge of {_format_amount(statistics.largest)} {currency}{what} on {day_of(statistics.largest_at)} is "
            f"{LARGE_CHARGE_FACTOR:,} times "
            f"what a usual day of this source costs ({_format_amount(usual)}), or more: is its unit right?"
        )
    if statistics.first_future is not None:
        warnings.append(
            f"{statistics.future:,} charges begin in the future, the first on {day_of(statistics.first_future)}"
        )
    if previous is not None and rows * SHRINK_FACTOR < previous.rows:
        warnings.append(f"{rows:,} rows, where the snapshot before had {previous.rows:,}: is the export whole?")
    if previous is not None and previous.billed > 0 and billed * SHRINK_FACTOR < previous.billed:
        warnings.append(
            f"{_format_amount(billed)} {currency}, where the snapshot before had {_format_amount(previous.billed)}: "
            "is the export whole?"
        )
    return tuple(warnings)


def _format_amount(amount: Decimal) -> str:
    return f"{to_usd(to_units(amount)):,f}"
