"""Schemas of invoice files: which columns a format has, and how they make a charge. SQL as text; nothing runs here."""

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
"""A charge as delivered. `split_of`: the resource whose charge it repeats in parts; null for most charges.
`residue`: the delivered cost less `billed`; null if it was not rounded."""

AMOUNT_FIELDS = ("billed", "effective", "list_cost")
SNAPSHOT_KEY = ("issuer", "account", "period_start", "period_end")
"""The key of a snapshot: what one import replaces as a whole."""

LINE_COLUMN = "\tline"
"""The column with a row's line in its file. No column that is read has a tab in its name."""

_CHECKED_FIELDS = ("period_start", "period_end", "currency", "charge_start", "charge_end")
"""What `_cross_checks` reads."""

_NULL_TYPES = {"cost": "DECIMAL(38, 12)", "moment": "BIGINT", "day": "BIGINT"}


@dataclass(frozen=True, kw_only=True)
class ExchangeRate:
    """One USD is `per_usd` of `currency` from `start` (milliseconds) on."""

    currency: str
    per_usd: str
    start: int


@dataclass(frozen=True, kw_only=True)
class FileSchema:
    """The columns of a file format. `fields` are SQL over the columns by name; a field left out is null."""

    name: str
    columns: tuple[Column, ...]
    fields: Mapping[str, str]
    billed_columns: tuple[str, ...]
    """The columns that hold the billed cost. The first one that is not null counts, and its decimals decide."""
    error_columns: Mapping[str, str] = field(default_factory=dict)
    """Field to the column that an error names, for the fields that are checked against one another."""
    split_column: str = ""
    """The column that marks charges which repeat other charges in parts; `split_of` is made from it."""

    def known_columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of a file's columns are read, as the file names them."""
        known = {name.casefold() for column in self.columns for name in column.names}
        return tuple(name for name in names if name.casefold() in known)

    def match_ratio(self, names: Sequence[str]) -> float:
        """Return how many of the required columns a file with these columns has, from 0 to 1."""
        required = [column for column in self.columns if column.required]
        return sum(bool(_casefolded(names) & _casefolded(column.names)) for column in required) / len(required)

    def missing_columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the required columns that a file with these columns lacks."""
        present = _casefolded(names)
        return tuple(c.name for c in self.columns if c.required and not present & _casefolded(c.names))

    def duplicate_columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that a file has more than once. SQL ignores the case of names."""
        lowered = [name.casefold() for name in names]
        every = (name for column in self.columns for name in column.names)
        return tuple(name for name in every if lowered.count(name.casefold()) > 1)


@dataclass(frozen=True)
class FileQuery:
    """One file's SQL. `unsuitable` columns have a type that cannot be read; the SQL does not use them."""

    charges: str = ""
    """`line` and all of `FIELDS`."""
    faults: str = ""
    """`line` and its errors, one for each of `columns`, null where there is none."""
    columns: tuple[str, ...] = ()
    splits: bool = False
    """Whether there may be charges that repeat others in parts."""
    unsuitable: Mapping[str, str] = field(default_factory=dict)


def best_schema(schemas: Sequence[FileSchema], names: Sequence[str]) -> FileSchema:
    """Return the schema that matches a file's columns best; the first one if none matches."""
    return max(schemas, key=lambda schema: schema.match_ratio(names))


def file_query(
    schema: FileSchema,
    relation: str,
    types: Mapping[str, str],
    rates: Sequence[ExchangeRate],
    limit: int,
    *,
    rounds: bool = False,
) -> FileQuery:
    """Return SQL that reads `relation`, whose columns are `LINE_COLUMN` and those of `types` (name to DuckDB's type).

    `rounds`: a billed cost with too many decimals is rounded, not rejected.
    """
    read = {name: types[name] for name in schema.known_columns(list(types))}
    types_by_name = {name.casefold(): (name, duckdb_type) for name, duckdb_type in read.items()}
    values: dict[str, str] = {}
    faults: list[tuple[str, str]] = []
    unsuitable: dict[str, str] = {}
    residues: dict[str, str] = {}
    for column in schema.columns:
        values_by_column: dict[str, str] = {}
        for file_column, duckdb_type in (
            types_by_name[small] for small in map(str.casefold, column.names) if small in types_by_name
        ):
            try:
                faults.append(
                    (
                        file_column,
                        error_sql(
                            column, duckdb_type, file_column, rounds=rounds or column.name not in schema.billed_columns
                        ),
                    )
                )
                values_by_column[file_column] = value_sql(column, duckdb_type, file_column)
                if rounds and column.name in schema.billed_columns:
                    residues[column.name] = residue_sql(column, duckdb_type, file_column)
            except UnsuitableType as error:
                unsuitable[file_column] = str(error)
        nothing = f"CAST(NULL AS {_NULL_TYPES.get(column.kind, 'VARCHAR')})"
        values[column.name] = combined_value_sql(column, list(values_by_column.values()) or [nothing])
        if values_by_column and not column.nullable:
            faults.append(
                (
                    next(iter(values_by_column)),
                    empty_error_sql(column, {file_column: types[file_column] for file_column in values_by_column}),
                )
            )
    columns = [f"{clean_sql(name, duckdb_type)} AS {sql_name(name)}" for name, duckdb_type in read.items()]
    relation = (
        f"(SELECT {', '.join([sql_name(LINE_COLUMN), *columns])} FROM {relation})"  # once, not in every expression
    )
    values |= {_residue_name(name): sql for name, sql in residues.items()}
    made = {**schema.fields, "residue": _residue_sql(schema, residues)}
    fields = {name: made.get(name, f"CAST(NULL AS {kind})") for name, kind in FIELDS.items()}
    line = sql_name(LINE_COLUMN)
    charges = (
        f"SELECT {line} AS line, {_named(fields)} FROM (SELECT {', '.join([line, _named(values)])} FROM {relation})"
    )
    checks = _cross_checks(schema, rates)
    wrong = _faults_sql(relation, values, fields, [sql for _, sql in faults], [sql for _, sql in checks])
    wrong += f" ORDER BY {line} LIMIT {limit}"
    named = tuple(file_column for file_column, _ in (*faults, *checks))
    return FileQuery(charges, wrong, named, schema.split_column.casefold() in types_by_name, unsuitable)


def _faults_sql(
    relation: str,
    values: Mapping[str, str],
    fields: Mapping[str, str],
    faults: Sequence[str],
    checks: Sequence[str],
) -> str:
    """Return SQL for the rows that have `faults` in a column, or between the fields that `checks` compare."""
    line = sql_name(LINE_COLUMN)
    marks = {f"\t{number}": sql for number, sql in enumerate(faults)}
    checked = {name: fields[name] for name in _CHECKED_FIELDS}
    # DuckDB takes longest to bind the values: only those that a check compares.
    compared = {name: value for name, value in values.items() if any(name in sql for sql in checked.values())}
    marked = (
        f"SELECT {', '.join([line, _named(checked), *map(sql_name, marks)])} "
        f"FROM (SELECT {', '.join([line, _named(compared | marks)])} FROM {relation})"
    )
    reasons = ", ".join([*map(sql_name, marks), *checks])
    return f"SELECT {line}, [{reasons}] FROM ({marked}) WHERE coalesce({reasons}) IS NOT NULL"


def _named(expressions: Mapping[str, str]) -> str:
    """Return SQL for the columns of a SELECT."""
    return ", ".join(f"{sql} AS {sql_name(name)}" for name, sql in expressions.items())


def _residue_sql(schema: FileSchema, residues: Mapping[str, str]) -> str:
    """Return SQL over the columns: the rounding residue of the billed one."""
    cases = [
        f"WHEN {sql_name(name)} IS NOT NULL THEN {sql_name(_residue_name(name))}"
        for name in schema.billed_columns
        if name in residues
    ]
    return f"CASE {' '.join(cases)} END" if cases else f"CAST(NULL AS {FIELDS['residue']})"


def _residue_name(name: str) -> str:
    return f"\tresidue of {name}"


def exchange_rate_sql(rates: Sequence[ExchangeRate]) -> str:
    """Return SQL for the rate in force at a charge's start; null if there is none."""
    known = [
        f"WHEN currency = {sql_literal(rate.currency)} AND charge_start >= {rate.start} "
        f"THEN {sql_literal(rate.per_usd)}"
        for rate in sorted(rates, key=lambda rate: -rate.start)
    ]
    return f"CASE WHEN currency = 'USD' THEN '1' {' '.join(known)} END"


def _casefolded(names: Iterable[str]) -> set[str]:
    return {name.casefold() for name in names}


def _cross_checks(schema: FileSchema, rates: Sequence[ExchangeRate]) -> list[tuple[str, str]]:
    """Return checks across columns: the column to name, and SQL over the fields that is an error text or null."""
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
    return [
        (schema.error_columns[name], f"CASE WHEN {condition} THEN {reason} END") for name, condition, reason in wrong
    ]
