"""Charges of a delivery as the books keep them: without repeated parts, and alike ones summed. SQL as text."""

from collections.abc import Sequence

from services.billing.core.invoice_files.schema import (
    AMOUNT_FIELDS,
    FIELDS,
    SNAPSHOT_KEY,
    ExchangeRate,
    exchange_rate_sql,
)
from shared.units import DAY_MS

ROUNDING_TOLERANCE = "0.000001"
"""How far parts may be from the charge that they repeat: each of them may be rounded."""


def merge_charges_sql(charges: str, rates: Sequence[ExchangeRate]) -> str:
    """Return SQL that sums the charges of one day that differ in nothing and belong to no resource in table `mine`.

    Such a charge counts for its whole UTC day, however its hours were delivered, so no figure depends on that. All
    other charges stay as they are: how a machine was used within its charge's hours decides what the charge was for.
    """
    exact = "CASE WHEN is_mine OR NOT in_a_day THEN line END"
    group = [
        *(name for name in FIELDS if name not in {*AMOUNT_FIELDS, "residue", "charge_start", "charge_end", "split_of"}),
        *("charge_start", "charge_end", "per_usd", "alone"),
    ]
    return f"""
        SELECT * EXCLUDE (alone, no_effective, no_list_cost) FROM (
            SELECT {", ".join(group)}, effective IS NULL AS no_effective, list_cost IS NULL AS no_list_cost,
                sum(billed) AS billed, sum(effective) AS effective, sum(list_cost) AS list_cost,
                sum(residue) AS residue, count(*) AS rows
            FROM (SELECT * REPLACE (
                    CASE WHEN alone IS NULL THEN day_start(charge_start) ELSE charge_start END AS charge_start,
                    CASE WHEN alone IS NULL THEN day_start(charge_start) + {DAY_MS} ELSE charge_end END AS charge_end,
                    CASE WHEN alone IS NOT NULL THEN consumed_quantity END AS consumed_quantity,
                    CASE WHEN alone IS NOT NULL THEN consumed_unit END AS consumed_unit
                ) FROM (SELECT *, {exact} AS alone, {exchange_rate_sql(rates)} AS per_usd FROM (SELECT *,
                    {_is_own_resource_sql("resource_id")} OR {_is_own_resource_sql("parent_id")} AS is_mine,
                    charge_end <= day_start(charge_start) + {DAY_MS} AS in_a_day
                FROM ({charges}))))
            GROUP BY ALL)"""


def without_split_charges_sql(charges: str) -> str:
    """Return SQL for the charges without those that repeat another charge in parts: each cost counts on one level.

    Parts repeat a charge if they sum to a charge of their resource and hour, or if they cost nothing. Other parts are
    all there is of their charge, as in FOCUS: the resource's own charges are then for something else.
    """
    same = [f"part.{name} = whole.{name}" for name in (*SNAPSHOT_KEY, "currency", "charge_start")]
    its = "last_part(comparable(whole.resource_id)) = part.resource"
    key = ", ".join((*SNAPSHOT_KEY, "currency", "charge_start"))
    resource = "last_part(comparable(split_of)) AS resource"
    return f"""
        WITH delivered AS ({charges}),
        parts AS (
            SELECT {key}, {resource}, sum(billed) AS billed FROM delivered WHERE split_of IS NOT NULL GROUP BY ALL),
        repeated AS (
            SELECT part.* FROM parts AS part JOIN delivered AS whole ON {" AND ".join([*same, its])}
            WHERE whole.split_of IS NULL GROUP BY ALL
            HAVING part.billed = 0 OR abs(sum(whole.billed) - part.billed) <= {ROUNDING_TOLERANCE}
                OR bool_or(abs(whole.billed - part.billed) <= {ROUNDING_TOLERANCE}))
        SELECT * FROM delivered WHERE split_of IS NULL
            OR ({key}, last_part(comparable(split_of))) NOT IN (SELECT ({key}, resource) FROM repeated)"""


def _is_own_resource_sql(column: str) -> str:
    """Return SQL that finds a machine's resource as `attribution.Fleet` does."""
    ours, in_any_capitals = "IN (SELECT resource FROM mine)", "IN (SELECT lower(resource) FROM mine)"
    last = f"last_part({column})"
    azure = f"is_azure({column}) AND (lower({column}) {in_any_capitals} OR lower({last}) {in_any_capitals})"
    return f"coalesce({column} {ours} OR {last} {ours} OR {azure}, false)"
