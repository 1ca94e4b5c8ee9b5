"""A column of an invoice file as SQL: its value and its errors, by the type that it has in the file.

Text is read strictly and kept to the last digit. A binary number is read as its shortest decimal text. Amounts have
twelve decimals: one with more is rounded half to even, or rejected if its decimals decide.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from services.billing.core.invoice_files.sql_macros import RESIDUE_PLACES
from services.billing.core.money import PLACES

ColumnKind = Literal["text", "word", "category", "currency", "cost", "quantity", "moment", "day", "tags"]

INTEGER_TYPES = frozenset(
    f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
FLOAT_TYPES = frozenset({"FLOAT", "DOUBLE"})
TIME_TYPES = frozenset({"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"})

_LIST_TYPE = "VARCHAR[]"
_FLAT_TAGS_TYPE = "MAP(VARCHAR, VARCHAR)"
_LAST_TIME_MS = 253_370_764_800_000
"""The year 9999 as milliseconds: the month after each earlier day has a date, too."""


class UnsuitableType(ValueError):
    """A column has a type that cannot hold its kind of value."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a file schema. Names are compared without regard to case."""

    name: str
    aliases: tuple[str, ...] = ()
    """Other names of the same column. In each row the first one with a value counts; tags are merged."""
    kind: ColumnKind = "text"
    required: bool = False
    """A file must have the column, by one of its names."""
    nullable: bool = True
    words: tuple[str, ...] = ()
    """For `word` and `category`, in the capitals that are kept. A `word` is one of them; one that begins with `*`
    stands for every word that ends so. A `category` may be another one, or a list of which the first known counts."""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def sql_name(text: str) -> str:
    """Quote a name for SQL."""
    return '"' + text.replace('"', '""') + '"'


def sql_literal(text: str) -> str:
    """Quote a string for SQL."""
    return "'" + text.replace("'", "''") + "'"


def clean_sql(file_column: str, duckdb_type: str) -> str:
    """Return SQL for a column as it is read: a text without white space at its ends, null if it is empty."""
    return f"known({sql_name(file_column)})" if duckdb_type == "VARCHAR" else sql_name(file_column)


def value_sql(column: Column, duckdb_type: str, file_column: str = "") -> str:
    """SQL for the cell's value in a column of type `held`: null where there is none; any where `fault` finds one.

    The column must have been read with `clean_sql`. Costs are DECIMAL(38, 12), quantities their decimal text, moments
    milliseconds, tags JSON text of a flat object of texts. `UnsuitableType` names a type that cannot hold it.
    """
    x = _raw_sql(column, duckdb_type, file_column)
    match column.kind:
        case "cost":
            return f"try_cast({x} AS DECIMAL(38, {PLACES}))" if _is_exact(duckdb_type) else f"cost_of({x})"
        case "quantity":
            return f"CAST({x} AS VARCHAR)" if _is_exact(duckdb_type) else f"quantity_of({x})"
        case "moment" | "day":
            return _time_sql(x, duckdb_type, column.kind)
        case "tags":
            return (
                _json_sql(x)
                if duckdb_type == _FLAT_TAGS_TYPE
                else f"CAST(to_json(tag_map(tags_json({_tags_sql(x, duckdb_type)}))) AS VARCHAR)"
            )
        case _:
            return _text_sql(column, x, duckdb_type)


def combined_value_sql(column: Column, values: Sequence[str]) -> str:
    """Return SQL for the value if several file columns have it, the earlier ones first."""
    if column.kind != "tags" or len(values) == 1:
        return f"coalesce({', '.join(values)})"
    known = ", ".join(f"coalesce({value}, '{{}}')" for value in reversed(values))
    return f"CASE WHEN coalesce({', '.join(values)}) IS NOT NULL THEN CAST(json_merge_patch({known}) AS VARCHAR) END"


def residue_sql(column: Column, duckdb_type: str, file_column: str = "") -> str:
    """Return SQL for the part of a cost that rounding removes; null if the cost is not rounded."""
    kind = f"DECIMAL(38, {RESIDUE_PLACES})"
    return (
        f"CAST(NULL AS {kind})"
        if _is_exact(duckdb_type)
        else f"residue_of({_raw_sql(column, duckdb_type, file_column)})"
    )


def error_sql(column: Column, duckdb_type: str, file_column: str = "", *, rounds: bool = True) -> str:
    """Return SQL for the error text of a value in one file column; null if there is none.

    Unless it `rounds`, a cost must not have more decimals than are kept.
    """
    x = _raw_sql(column, duckdb_type, file_column)
    cases = []
    if duckdb_type == "VARCHAR":
        cases.append(f"WHEN contains({x}, chr(0)) THEN 'holds a NUL character: fetch the file again'")
    cases += _error_cases(column, x, duckdb_type, rounds=rounds)
    return f"CASE {' '.join(cases)} END" if cases else "NULL"


def empty_error_sql(column: Column, types: Mapping[str, str]) -> str:
    """Return SQL for the error text if none of the column's names, with their types, has a value."""
    nothing = " AND ".join(
        f"{_raw_sql(column, duckdb_type, file_column)} IS NULL" for file_column, duckdb_type in types.items()
    )
    return f"CASE WHEN {nothing} THEN {sql_literal('empty: every charge has this; export the file with it')} END"


def _raw_sql(column: Column, duckdb_type: str, file_column: str) -> str:
    """Return SQL for the raw value: a text, or a type that holds the same without one."""
    x = sql_name(file_column or column.name)
    number = duckdb_type in INTEGER_TYPES | FLOAT_TYPES or duckdb_type.startswith("DECIMAL")
    fits = {
        "text": number and duckdb_type not in FLOAT_TYPES,
        "word": False,
        "currency": False,
        "category": duckdb_type == _LIST_TYPE,
        "cost": number,
        "quantity": number,
        "moment": duckdb_type in TIME_TYPES,
        "day": duckdb_type in TIME_TYPES,
        "tags": duckdb_type == "JSON" or duckdb_type.startswith(("MAP(", "STRUCT(")) or duckdb_type.endswith("[]"),
    }[column.kind]
    if duckdb_type != "VARCHAR" and not fits:
        raise UnsuitableType(
            f"the column is of type {duckdb_type[:40]}, which cannot hold a {column.kind}: export it as text"
        )
    as_text = column.kind == "text" or (column.kind in ("cost", "quantity") and not _is_exact(duckdb_type))
    return f"CAST({x} AS VARCHAR)" if as_text and duckdb_type != "VARCHAR" else x


def _is_exact(duckdb_type: str) -> bool:
    """Return whether every value of the type is an exact amount."""
    places = re.fullmatch(r"DECIMAL\(\d+,\s*(\d+)\)", duckdb_type)
    return duckdb_type in INTEGER_TYPES or (places is not None and int(places[1]) <= PLACES)


def _time_sql(x: str, duckdb_type: str, kind: ColumnKind) -> str:
    if duckdb_type != "VARCHAR":
        return _epoch_ms_sql(x, duckdb_type)
    return f"day_of({x})" if kind == "day" else f"moment_of({x})"


def _epoch_ms_sql(x: str, duckdb_type: str) -> str:
    # DuckDB 2.0's epoch_ms fails on every other kind of timestamp.
    return f"epoch_ms({x})" if duckdb_type.endswith("TIME ZONE") else f"epoch_ms(try_cast({x} AS TIMESTAMP))"


def _json_sql(x: str) -> str:
    return f"CAST(to_json({x}) AS VARCHAR)"


def _tags_sql(x: str, duckdb_type: str) -> str:
    return x if duckdb_type in ("VARCHAR", "JSON") else _json_sql(x)


def _canonical_word_sql(x: str, words: Sequence[str]) -> str:
    """Return SQL for the word in its canonical case; null if it is not one of the words."""
    known = [f"WHEN {sql_literal(word.lower())} THEN {sql_literal(word)}" for word in words if not word.startswith("*")]
    return f"CASE lower({x}) {' '.join(known)} END"


def _text_sql(column: Column, x: str, duckdb_type: str) -> str:
    if column.kind == "currency":
        return f"CASE WHEN regexp_full_match({x}, '[A-Za-z]{{3}}') THEN upper({x}) ELSE {x} END"
    if column.kind == "text":
        return x
    listed = x if duckdb_type == _LIST_TYPE else f"CAST(try_cast({x} AS JSON) AS VARCHAR[])"
    known = f"list_transform({listed}, lambda word: {_canonical_word_sql('word', column.words)})"
    first = f"list_filter({known}, lambda word: word IS NOT NULL)[1]"
    if duckdb_type == _LIST_TYPE:
        return first
    one = f"coalesce({_canonical_word_sql(x, column.words)}, {x})"
    return one if column.kind == "word" else f"CASE WHEN left({x}, 1) = '[' THEN {first} ELSE {one} END"


def _error_cases(column: Column, x: str, duckdb_type: str, *, rounds: bool) -> list[str]:
    text = duckdb_type == "VARCHAR"
    if column.kind == "word":
        return [
            f"WHEN NOT coalesce({_is_allowed_sql(column, x)}, true) THEN {_expected_values_sql(column)} || quoted({x})"
        ]
    if column.kind in ("cost", "quantity"):
        number = f"CAST({x} AS VARCHAR)" if _is_exact(duckdb_type) else x
        places = PLACES if column.kind == "cost" and not rounds else "NULL"
        return [f"WHEN {x} IS NOT NULL THEN number_fault({number}, {places})"]
    if column.kind in ("moment", "day"):
        return [f"ELSE {column.kind}_fault({x})"] if text else _time_error_cases(column, x, duckdb_type)
    if column.kind == "tags":
        return (
            []
            if duckdb_type == _FLAT_TAGS_TYPE
            else [f"WHEN {x} IS NOT NULL THEN tags_fault({_tags_sql(x, duckdb_type)})"]
        )
    return []


def _time_error_cases(column: Column, x: str, duckdb_type: str) -> list[str]:
    text, at = f"CAST({x} AS VARCHAR)", _epoch_ms_sql(x, duckdb_type)
    bounds = f"{x} IS NOT NULL AND coalesce({at} < 0 OR {at} >= {_LAST_TIME_MS}, true)"
    cases = [f"WHEN {bounds} THEN 'not between the years 1970 and 9998: ' || {text}"]
    if column.kind == "day":
        cases.append(f"WHEN {at} % 86400000 <> 0 THEN 'expected a UTC day, got ' || {text}")
    return cases


def _is_allowed_sql(column: Column, x: str) -> str:
    endings = [
        f" OR ends_with(lower({x}), {sql_literal(word[1:].lower())})" for word in column.words if word.startswith("*")
    ]
    return f"{_canonical_word_sql(x, column.words)} IS NOT NULL{''.join(endings)}"


def _expected_values_sql(column: Column) -> str:
    return sql_literal(f"expected one of {', '.join(column.words)}, got ")
