"""Forms of invoice files: which columns one has, and how they make a charge. SQL as text; nothing is run here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.billing.core.invoice_files.columns import (
    Column,
    UnsuitableType,
    clean_sql,
    combined_value_sql,
    empty_error_sql,
    error_sql,
    residue_sql,
    sql_literal,
    sql_name,
    value_sql,
)
from services.billing.core.invoice_files.sql_macros import RESIDUE_PLACES
from shared.units import DAY_MS

MAX_CHARGE_PERIOD_MS = 3700 * DAY_MS
"""Ten years: no provider sells longer, and each day of a row is one part of it."""

FIELDS: Mapping[str, str] = {
    "issuer": "VARCHAR",
    "account": "VARCHAR",
    "period_start": "BIGINT",
    "period_end": "BIGINT",
    "currency": "VARCHAR",
    "charge_start": "BIGINT",
    "charge_end": "BIGINT",
    "category": "VARCHAR",
    "charge_class": "VARCHAR",
    "service_category": "VARCHAR",
    "service_name": "VARCHAR",
    "resource_id": "VARCHAR",
    "parent_id": "VARCHAR",
    "tags": "VARCHAR",
    "invoice_id": "VARCHAR",
    "consumed_quantity": "VARCHAR",
    "consumed_unit": "VARCHAR",
    "billed": "DECIMAL(38, 12)",
    "effective": "DECIMAL(38, 12)",
    "list_cost": "DECIMAL(38, 12)",
    "split_of": "VARCHAR",
    "residue": f"DECIMAL(38, {RESIDUE_PLACES})",
}
"""A charge as it is delivered. `split_of`: the resource whose charge it repeats in parts; null for most.
`residue`: what was delivered less `billed`; null where it was not rounded."""

ROUNDING_TOLERANCE = "0.000001"
"""By how much parts may miss the charge that they repeat: each of them may be rounded."""
AMOUNT_FIELDS = ("billed", "effective", "list_cost")
SNAPSHOT_KEY = ("issuer", "account", "period_start", "period_end")
"""What one import replaces as a whole."""

LINE_COLUMN = "\tline"
"""The column that says where a row of a file stands in it. No column that is read has a name with a tab."""

_NULL_TYPES = {"cost": "DECIMAL(38, 12)", "moment": "BIGINT", "day": "BIGINT"}


@dataclass(frozen=True, kw_only=True)
class ExchangeRate:
    """From `start` (milliseconds) on, one USD is `per_usd` of `currency`."""

    currency: str
    per_usd: str
    start: int


@dataclass(frozen=True, kw_only=True)
class FileSchema:
    """`fields` are SQL over the cells by name; a field left out is null."""

    name: str
    cells: tuple[Column, ...]
    fields: Mapping[str, str]
    billed: tuple[str, ...]
    """The cells that are the billed cost, the first one that is not null: their decimals decide."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Field to the cell that a refusal names, for the fields that are checked against one another."""
    split: str = ""
    """The cell that tells charges which repeat others in parts; `split_of` stands on it."""

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of a file's columns are read, as the file names them."""
        wanted = {column.casefold() for cell in self.cells for column in cell.columns}
        return tuple(name for name in names if name.casefold() in wanted)

    def share(self, names: Sequence[str]) -> float:
        """How much of what it needs these columns are: 1 is all of it."""
        wanted = [cell for cell in self.cells if cell.mandatory]
        return sum(bool(_casefolded(names) & _casefolded(cell.columns)) for cell in wanted) / len(wanted)

    def missing(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns that a file with these has to have besides."""
        there = _casefolded(names)
        return tuple(cell.name for cell in self.cells if cell.mandatory and not there & _casefolded(cell.columns))

    def twice(self, names: Sequence[str]) -> tuple[str, ...]:
        """Its columns that are there more than once; SQL does not tell capitals from small letters."""
        small = [name.casefold() for name in names]
        every = (column for cell in self.cells for column in cell.columns)
        return tuple(column for column in every if small.count(column.casefold()) > 1)


@dataclass(frozen=True)
class FileQuery:
    """One file's SQL. `unsuitable` columns have a type that cannot be read: to the SQL they are not there."""

    charges: str = ""
    """`line` and all of `FIELDS`."""
    faults: str = ""
    """`line` and the reasons of what is wrong there, one for each of `columns`, null where nothing is."""
    columns: tuple[str, ...] = ()
    splits: bool = False
    """Whether there may be charges that repeat others in parts."""
    unsuitable: Mapping[str, str] = field(default_factory=dict)


def best_schema(forms: Sequence[FileSchema], names: Sequence[str]) -> FileSchema:
    """The form that most of a file's columns speak for; the first one where none does."""
    return max(forms, key=lambda form: form.share(names))


def file_query(
    form: FileSchema,
    relation: str,
    types: Mapping[str, str],
    rates: Sequence[ExchangeRate],
    limit: int,
    *,
    rounds: bool = False,
) -> FileQuery:
    """SQL that reads `relation`, whose columns are `LINE_COLUMN` and those of `types` (name to DuckDB's type).

    `rounds`: a billed cost that has too many decimals is rounded, not refused.
    """
    read = {name: types[name] for name in form.columns(list(types))}
    told = {name.casefold(): (name, held) for name, held in read.items()}
    values: list[str] = []
    faults: list[tuple[str, str]] = []
    unsuitable: dict[str, str] = {}
    residues: dict[str, str] = {}
    for cell in form.cells:
        said: dict[str, str] = {}
        for column, held in (told[small] for small in map(str.casefold, cell.columns) if small in told):
            try:
                faults.append((column, error_sql(cell, held, column, rounds=rounds or cell.name not in form.billed)))
                said[column] = value_sql(cell, held, column)
                if rounds and cell.name in form.billed:
                    residues[cell.name] = residue_sql(cell, held, column)
            except UnsuitableType as error:
                unsuitable[column] = str(error)
        nothing = f"CAST(NULL AS {_NULL_TYPES.get(cell.kind, 'VARCHAR')})"
        values.append(f"{combined_value_sql(cell, list(said.values()) or [nothing])} AS {sql_name(cell.name)}")
        if said and not cell.nullable:
            faults.append((next(iter(said)), empty_error_sql(cell, {column: types[column] for column in said})))
    columns = [f"{clean_sql(name, held)} AS {sql_name(name)}" for name, held in read.items()]
    relation = (
        f"(SELECT {', '.join([sql_name(LINE_COLUMN), *columns])} FROM {relation})"  # once, not in every expression
    )
    values += [f"{sql} AS {_residue_column(name)}" for name, sql in residues.items()]
    made = {**form.fields, "residue": _residue_sql(form, residues)}
    fields = [f"{made.get(name, f'CAST(NULL AS {kind})')} AS {name}" for name, kind in FIELDS.items()]
    line = sql_name(LINE_COLUMN)
    charges = f"SELECT {line} AS line, {', '.join(fields)} FROM (SELECT {line}, {', '.join(values)} FROM {relation})"
    marks = {sql_name(f"\t{number}"): sql for number, (_, sql) in enumerate(faults)}
    marked = (
        f"SELECT {', '.join([line, *fields, *marks])} FROM (SELECT {line}, {', '.join(values)}, "
        f"{', '.join(f'{sql} AS {mark}' for mark, sql in marks.items())} FROM {relation})"
    )
    checks = _cross_checks(form, rates)
    reasons = ", ".join([*marks, *(sql for _, sql in checks)])
    some = f"({marked}) WHERE coalesce({reasons}) IS NOT NULL"
    wrong = f"SELECT {line}, [{reasons}] FROM {some} ORDER BY {line} LIMIT {limit}"
    named = tuple(column for column, _ in (*faults, *checks))
    return FileQuery(charges, wrong, named, form.split.casefold() in told, unsuitable)


def _residue_sql(form: FileSchema, residues: Mapping[str, str]) -> str:
    """SQL over the cells: the residue of the one that is billed."""
    cases = [
        f"WHEN {sql_name(name)} IS NOT NULL THEN {_residue_column(name)}" for name in form.billed if name in residues
    ]
    return f"CASE {' '.join(cases)} END" if cases else f"CAST(NULL AS {FIELDS['residue']})"


def _residue_column(name: str) -> str:
    return sql_name(f"\tresidue of {name}")


def exchange_rate_sql(rates: Sequence[ExchangeRate]) -> str:
    """SQL for the rate in force at a charge's start; null where there is none."""
    known = [
        f"WHEN currency = {sql_literal(rate.currency)} AND charge_start >= {rate.start} "
        f"THEN {sql_literal(rate.per_usd)}"
        for rate in sorted(rates, key=lambda rate: -rate.start)
    ]
    return f"CASE WHEN currency = 'USD' THEN '1' {' '.join(known)} END"


def merge_charges_sql(charges: str, rates: Sequence[ExchangeRate]) -> str:
    """SQL that sums charges which nothing can tell apart: of resources in no machine's table `mine`, within one day.

    Such a charge counts for its whole UTC day, however its hours were delivered, so that no figure changes by it. All
    others stay as they are: how a machine was used within its charge's hours decides what the charge was for.
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
    """SQL for the charges without those that repeat another one in parts: each counts on one level only.

    Parts repeat a charge of their resource and hour that they sum to, or if they cost nothing. Other parts are all that
    there is of their charge, as FOCUS has it: beside them the resource has charges of its own for something else.
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
    """As `attribution.Fleet` finds a machine."""
    ours, in_any_capitals = "IN (SELECT resource FROM mine)", "IN (SELECT lower(resource) FROM mine)"
    last = f"last_part({column})"
    azure = f"is_azure({column}) AND (lower({column}) {in_any_capitals} OR lower({last}) {in_any_capitals})"
    return f"coalesce({column} {ours} OR {last} {ours} OR {azure}, false)"


def _casefolded(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}


def _cross_checks(form: FileSchema, rates: Sequence[ExchangeRate]) -> list[tuple[str, str]]:
    """What no cell can tell alone: the column to name, and SQL over the fields that is a reason or null."""
    start = "left(CAST(make_timestamp(charge_start * 1000) AS VARCHAR), 10)"
    wrong = [
        ("charge_end", "charge_end < charge_start", "'before the start of the charge: the row needs a charge period'"),
        (
            "charge_end",
            f"charge_end - charge_start > {MAX_CHARGE_PERIOD_MS}",
            "'more than ten years after the start of the charge: correct the date'",
        ),
        ("period_end", "period_end <= period_start", "'not after its start: the row needs a billing period'"),
        (
            "currency",
            f"currency IS NOT NULL AND charge_start IS NOT NULL AND ({exchange_rate_sql(rates)}) IS NULL",
            f"'currency ' || quoted(currency) || ': no [[billing.rate]] is in force on ' || {start} || ': add one'",
        ),
    ]
    return [(form.places[name], f"CASE WHEN {condition} THEN {reason} END") for name, condition, reason in wrong]
