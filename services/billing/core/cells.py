"""A cell of an invoice file as SQL: its value, and what is wrong with it, by the type that its column has in the file.

Text is read strictly and kept to the last digit. Binary floating point is not exact anyway: it is taken by its
shortest decimal text, to twelve decimals, halves away from zero.
"""

from dataclasses import dataclass
from typing import Literal

from services.billing.core.macros import MAX_INTEGER_DIGITS, MAX_QUANTITY_PLACES
from services.billing.core.money import PLACES

Kind = Literal["text", "word", "cost", "quantity", "moment", "day", "tags"]

INTEGERS = frozenset(
    f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
FLOATS = frozenset({"FLOAT", "DOUBLE"})
TIMES = frozenset({"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"})

_LAST_MOMENT = 253_402_300_800_000
"""The year 10000 as milliseconds."""


class Unsuitable(ValueError):
    """A column's type cannot hold what is wanted of it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A column of a file, by its name there."""

    name: str
    kind: Kind = "text"
    mandatory: bool = False
    """The column has to be there."""
    nullable: bool = True
    words: tuple[str, ...] = ()
    """For `word`: what it may be. One that begins with `*` stands for every word that ends so."""


def name_of(text: str) -> str:
    """As a name in SQL."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str) -> str:
    """As a string in SQL."""
    return "'" + text.replace("'", "''") + "'"


def value(cell: Cell, held: str) -> str:
    """SQL for the cell's value in a column of type `held`: null where there is none; any where `fault` finds one.

    Texts are trimmed, costs DECIMAL(38, 12), quantities their decimal text, moments milliseconds, tags JSON text of a
    flat object of texts. `Unsuitable` names a type that cannot hold it.
    """
    x = _raw(cell, held)
    match cell.kind:
        case "text" | "word":
            return x
        case "cost":
            return _cost(x, held)
        case "quantity":
            return x if held == "VARCHAR" else f"CAST({x} AS VARCHAR)"
        case "moment" | "day":
            return _moment(x, held, cell.kind)
        case "tags":
            return f"CAST(to_json(tag_map({x})) AS VARCHAR)" if held in ("VARCHAR", "JSON") else _json(x)


def fault(cell: Cell, held: str) -> str:
    """SQL for what is wrong with the cell, in words; null where nothing is."""
    x = _raw(cell, held)
    empty = literal("empty: every charge has this; export the file with it")
    found = [] if cell.nullable else [f"WHEN {x} IS NULL THEN {empty}"]
    if held == "VARCHAR":
        found.append(f"WHEN contains({x}, chr(0)) THEN 'holds a NUL character: fetch the file again'")
    found += _faults(cell, x, held)
    return f"CASE {' '.join(found)} END" if found else "NULL"


def _raw(cell: Cell, held: str) -> str:
    x = f"known({name_of(cell.name)})" if held == "VARCHAR" else name_of(cell.name)
    decimal = held.startswith("DECIMAL")
    fits = {
        "text": held == "VARCHAR" or held in INTEGERS or decimal,
        "word": held == "VARCHAR",
        "cost": held == "VARCHAR" or held in INTEGERS | FLOATS or decimal,
        "quantity": held == "VARCHAR" or held in INTEGERS | FLOATS or decimal,
        "moment": held == "VARCHAR" or held in TIMES,
        "day": held == "VARCHAR" or held in TIMES,
        "tags": held in ("VARCHAR", "JSON") or held.startswith(("MAP(", "STRUCT(")),
    }[cell.kind]
    if not fits:
        raise Unsuitable(f"the column is of type {held[:40]}, which cannot hold a {cell.kind}: export it as text")
    return f"CAST({x} AS VARCHAR)" if cell.kind == "text" and held != "VARCHAR" else x


def _cost(x: str, held: str) -> str:
    if held == "VARCHAR":
        return f"cost_of({x})"
    # Of a DOUBLE by its text: a cast of the number itself would multiply it by 10¹² in binary first.
    return f"try_cast(CAST({x} AS VARCHAR) AS DECIMAL(38, {PLACES}))" if held in FLOATS else _decimal(x)


def _decimal(x: str) -> str:
    return f"try_cast({x} AS DECIMAL(38, {PLACES}))"


def _moment(x: str, held: str, kind: Kind) -> str:
    if held != "VARCHAR":
        return _millis(x, held)
    return f"day_of({x})" if kind == "day" else f"moment_of({x})"


def _millis(x: str, held: str) -> str:
    # DuckDB 2.0's epoch_ms fails on every other kind of timestamp.
    return f"epoch_ms({x})" if held.endswith("TIME ZONE") else f"epoch_ms(try_cast({x} AS TIMESTAMP))"


def _json(x: str) -> str:
    return f"CAST(to_json({x}) AS VARCHAR)"


def _faults(cell: Cell, x: str, held: str) -> list[str]:
    text = held == "VARCHAR"
    if cell.kind == "word":
        return [f"WHEN NOT coalesce({_is_word(cell, x)}, true) THEN {_expected(cell)} || quoted({x})"]
    if cell.kind in ("cost", "quantity"):
        places = PLACES if cell.kind == "cost" else MAX_QUANTITY_PLACES
        return [f"ELSE number_fault({x}, {places})"] if text else _number_faults(cell, x, held)
    if cell.kind in ("moment", "day"):
        return [f"ELSE {cell.kind}_fault({x})"] if text else _moment_faults(cell, x, held)
    if cell.kind == "tags":
        if held in ("VARCHAR", "JSON"):
            return [f"WHEN {x} IS NOT NULL THEN tags_fault({x})"]
        return [f"WHEN {x} IS NOT NULL AND NOT is_flat({_json(x)}) THEN 'expected flat tags'"]
    return []


def _moment_faults(cell: Cell, x: str, held: str) -> list[str]:
    told, at = f"CAST({x} AS VARCHAR)", _millis(x, held)
    bounds = f"{x} IS NOT NULL AND coalesce({at} < 0 OR {at} >= {_LAST_MOMENT}, true)"
    found = [f"WHEN {bounds} THEN 'not between the years 1970 and 9999: ' || {told}"]
    if cell.kind == "day":
        found.append(f"WHEN {at} % 86400000 <> 0 THEN 'expected a UTC day, got ' || {told}")
    return found


def _number_faults(cell: Cell, x: str, held: str) -> list[str]:
    told = f"CAST({x} AS VARCHAR)"
    large = f"WHEN abs({x}) >= 1e{MAX_INTEGER_DIGITS} THEN {told} || ' has more than {MAX_INTEGER_DIGITS} digits"
    found = [f"{large} before the point: correct it'"] if held not in FLOATS else []
    if held in FLOATS:
        found.append(f"WHEN NOT isfinite({x}) THEN 'expected a number, got ' || {told}")
        found.append(f"{large} before the point: correct it'")
    elif cell.kind == "cost":
        inexact = f"{_decimal(x)} <> {x}"
        found.append(f"WHEN {inexact} THEN {told} || ' has more than {PLACES} decimals: have it rounded'")
    return found


def _is_word(cell: Cell, x: str) -> str:
    exact = ", ".join(literal(word) for word in cell.words if not word.startswith("*"))
    endings = [f" OR ends_with({x}, {literal(word[1:])})" for word in cell.words if word.startswith("*")]
    return f"{x} IN ({exact}){''.join(endings)}"


def _expected(cell: Cell) -> str:
    return literal(f"expected one of {', '.join(cell.words)}, got ")
