"""Forms of invoice files: which columns one has, and how they make a charge. SQL as text; nothing is run here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.billing.core import days
from services.billing.core.cells import Cell, Unsuitable, fault, literal, name_of, value

MAX_CHARGE_PERIOD = 3700 * days.DAY
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
}
"""A charge as it is delivered. `split_of`: the resource whose charge it repeats in parts; null for most."""

AMOUNTS = ("billed", "effective", "list_cost")
KEY = ("issuer", "account", "period_start", "period_end")
"""What one import replaces as a whole."""

LINE = "\tline"
"""The column that says where a row of a file stands in it. No column that is read has a name with a tab."""

_NULLS = {"cost": "DECIMAL(38, 12)", "moment": "BIGINT", "day": "BIGINT"}


@dataclass(frozen=True, kw_only=True)
class Rate:
    """From `start` (milliseconds) on, one USD is `per_usd` of `currency`."""

    currency: str
    per_usd: str
    start: int


@dataclass(frozen=True, kw_only=True)
class Form:
    """`fields` are SQL over the cells by name; a field left out is null. Of `one_of` a file needs one at least."""

    name: str
    cells: tuple[Cell, ...]
    fields: Mapping[str, str]
    places: Mapping[str, str] = field(default_factory=dict)
    """Field to the column that a refusal names, for the fields that are checked against one another."""
    one_of: tuple[str, ...] = ()
    split: str = ""
    """The column that tells charges which repeat others in parts; `split_of` stands on it."""

    def missing(self, names: Sequence[str]) -> tuple[str, ...]:
        """The columns that a file with these has to have besides."""
        found = tuple(cell.name for cell in self.cells if cell.mandatory and cell.name not in names)
        if self.one_of and not set(self.one_of) & set(names):
            found += self.one_of[:1]
        return found

    def twice(self, names: Sequence[str]) -> tuple[str, ...]:
        """Its columns that are there more than once; SQL does not tell capitals from small letters."""
        small = [name.casefold() for name in names]
        return tuple(cell.name for cell in self.cells if small.count(cell.name.casefold()) > 1)


@dataclass(frozen=True)
class Query:
    """One file's SQL. `unsuitable` columns have a type that cannot be read: then there is no SQL."""

    charges: str = ""
    """`line` and all of `FIELDS`."""
    faults: str = ""
    """`line` and the reasons of what is wrong there, one for each of `columns`, null where nothing is."""
    columns: tuple[str, ...] = ()
    splits: bool = False
    """Whether there may be charges that repeat others in parts."""
    unsuitable: Mapping[str, str] = field(default_factory=dict)


def best(forms: Sequence[Form], names: Sequence[str]) -> Form:
    """The form that most of a file's columns speak for; the first one where none does."""

    def share(form: Form) -> float:
        wanted = [cell.name for cell in form.cells if cell.mandatory]
        return len(set(wanted) & set(names)) / len(wanted)

    return max(forms, key=share)


def query(form: Form, relation: str, types: Mapping[str, str], rates: Sequence[Rate], limit: int) -> Query:
    """SQL that reads `relation`, whose columns are `LINE` and those of `types` (name to DuckDB's type)."""
    values, faults, unsuitable = [], {}, {}
    for cell in form.cells:
        if cell.name not in types:
            values.append(f"CAST(NULL AS {_NULLS.get(cell.kind, 'VARCHAR')}) AS {name_of(cell.name)}")
            continue
        try:
            faults[cell.name] = fault(cell, types[cell.name])
            values.append(f"{value(cell, types[cell.name])} AS {name_of(cell.name)}")
        except Unsuitable as error:
            unsuitable[cell.name] = str(error)
    if unsuitable:
        return Query(unsuitable=unsuitable)
    fields = [f"{form.fields.get(name, f'CAST(NULL AS {kind})')} AS {name}" for name, kind in FIELDS.items()]
    line = name_of(LINE)
    charges = f"SELECT {line} AS line, {', '.join(fields)} FROM (SELECT {line}, {', '.join(values)} FROM {relation})"
    marks = {name_of(f"\t{number}"): sql for number, sql in enumerate(faults.values())}
    marked = (
        f"SELECT {', '.join([line, *fields, *marks])} FROM (SELECT {line}, {', '.join(values)}, "
        f"{', '.join(f'{sql} AS {mark}' for mark, sql in marks.items())} FROM {relation})"
    )
    checks = _checks(form, rates)
    reasons = ", ".join([*marks, *(sql for _, sql in checks)])
    some = f"({marked}) WHERE coalesce({reasons}) IS NOT NULL"
    told = f"SELECT {line}, [{reasons}] FROM {some} ORDER BY {line} LIMIT {limit}"
    return Query(charges, told, (*faults, *(column for column, _ in checks)), form.split in types)


def per_usd(rates: Sequence[Rate]) -> str:
    """SQL for the rate in force at a charge's start; null where there is none."""
    known = [
        f"WHEN currency = {literal(rate.currency)} AND charge_start >= {rate.start} THEN {literal(rate.per_usd)}"
        for rate in sorted(rates, key=lambda rate: -rate.start)
    ]
    return f"CASE WHEN currency = 'USD' THEN '1' {' '.join(known)} END"


def grouped(charges: str, rates: Sequence[Rate]) -> str:
    """SQL that sums charges which nothing can tell apart: of resources in no machine's table `mine`, within one day.

    Such a charge counts for its whole UTC day, however its hours were delivered, so that no figure changes by it. All
    others stay as they are: how a machine was used within its charge's hours decides what the charge was for.
    """
    exact = "CASE WHEN is_mine OR NOT in_a_day THEN line END"
    group = [
        *(name for name in FIELDS if name not in {*AMOUNTS, "charge_start", "charge_end", "split_of"}),
        *("charge_start", "charge_end", "per_usd", "alone"),
    ]
    return f"""
        SELECT * EXCLUDE (alone, no_effective, no_list_cost) FROM (
            SELECT {", ".join(group)}, effective IS NULL AS no_effective, list_cost IS NULL AS no_list_cost,
                sum(billed) AS billed, sum(effective) AS effective, sum(list_cost) AS list_cost, count(*) AS rows
            FROM (SELECT * REPLACE (
                    CASE WHEN alone IS NULL THEN day_start(charge_start) ELSE charge_start END AS charge_start,
                    CASE WHEN alone IS NULL THEN day_start(charge_start) + {days.DAY} ELSE charge_end END AS charge_end,
                    CASE WHEN alone IS NOT NULL THEN consumed_quantity END AS consumed_quantity,
                    CASE WHEN alone IS NOT NULL THEN consumed_unit END AS consumed_unit
                ) FROM (SELECT *, {exact} AS alone, {per_usd(rates)} AS per_usd FROM (SELECT *,
                    {_is_mine("resource_id")} OR {_is_mine("parent_id")} AS is_mine,
                    charge_end <= day_start(charge_start) + {days.DAY} AS in_a_day
                FROM ({charges}))))
            GROUP BY ALL)"""


def whole_only(charges: str) -> str:
    """SQL for the charges without those that repeat another one in parts: each counts on one level only."""
    same = " AND ".join(f"part.{name} = whole.{name}" for name in (*KEY, "charge_start"))
    return (
        f"SELECT * FROM ({charges}) AS part WHERE split_of IS NULL OR NOT EXISTS (SELECT 1 FROM ({charges}) AS whole "
        f"WHERE whole.split_of IS NULL AND {_last('whole.resource_id')} = {_last('part.split_of')} AND {same})"
    )


def _is_mine(column: str) -> str:
    ours = "IN (SELECT resource FROM mine)"
    return f"coalesce({column} {ours} OR {_last(column)} {ours}, false)"


def _last(column: str) -> str:
    """Of an ARN or a path the last part, which is the id alone."""
    return f"regexp_extract({column}, '[^/:]*$')"


def _checks(form: Form, rates: Sequence[Rate]) -> list[tuple[str, str]]:
    """What no cell can tell alone: the column to name, and SQL over the fields that is a reason or null."""
    start = "left(CAST(make_timestamp(charge_start * 1000) AS VARCHAR), 10)"
    wrong = [
        ("issuer", "issuer IS NULL", "'empty: every charge has an issuer; export the file with it'"),
        ("charge_end", "charge_end < charge_start", "'before the start of the charge: the row needs a charge period'"),
        (
            "charge_end",
            f"charge_end - charge_start > {MAX_CHARGE_PERIOD}",
            "'more than ten years after the start of the charge: correct the date'",
        ),
        ("period_end", "period_end <= period_start", "'not after its start: the row needs a billing period'"),
        (
            "currency",
            f"currency IS NOT NULL AND charge_start IS NOT NULL AND ({per_usd(rates)}) IS NULL",
            f"'currency ' || quoted(currency) || ': no [[billing.rate]] is in force on ' || {start} || ': add one'",
        ),
    ]
    return [(form.places[name], f"CASE WHEN {condition} THEN {reason} END") for name, condition, reason in wrong]
