"""Numbers, times and tags of text are read to the last digit, or not at all."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.billing.core.invoice_files.columns import Column, ColumnKind, clean_sql, error_sql, residue_sql, value_sql
from services.billing.core.invoice_files.sql_macros import (
    CREATE_MACROS_SQL,
    MAX_INTEGER_DIGITS,
    MAX_TAGS,
    RESIDUE_PLACES,
)
from services.billing.core.money import PLACES

UNIT = Decimal("1e-12")
EXACT = Context(prec=9999)
NUMBERS = st.from_regex(r"-?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE][+-]?[0-9]{1,3})?", fullmatch=True)
EDGES = (
    "-0",
    "0e999",
    "1" + "0" * 3990 + "e-3990",
    "0." + "0" * 40,
    "1." + "0" * 40,
    "999999999999999.999999999999",
    "1000000000000000",
    "123456789012345678901234567e-12",
)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds
UTC_SPELLINGS = ["", "Z", "z", " UTC", "UTC", " GMT", "+00:00", " +00:00", "+0000", "+00", "-00:00"]
WORDS = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=30)
PAIRS = [("key", "value"), ("Key", "Value")]
LIKE_JSON = st.text(alphabet='{}[]":,aNI0.eE-n ', max_size=30)


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute(CREATE_MACROS_SQL)
        yield connection


def all_judged(
    db: duckdb.DuckDBPyConnection, kind: ColumnKind, cells: Sequence[Any], held: str = "VARCHAR"
) -> list[tuple[Any, str | None]]:
    """Of each cell the value, and what is wrong with it."""
    form = Column(name="x", kind=kind)
    texts = [None if cell is None else str(cell) for cell in cells]
    rows = f"(SELECT CAST(unnest($1::VARCHAR[]) AS {held}) AS x, generate_subscripts($1, 1) AS n)"
    rows = f"(SELECT {clean_sql('x', held)} AS x, n FROM {rows})"
    wrong = error_sql(form, held, rounds=False)
    return db.execute(f"SELECT {value_sql(form, held)}, {wrong} FROM {rows} ORDER BY n", [texts]).fetchall()


def judged(db: duckdb.DuckDBPyConnection, kind: ColumnKind, cell: Any, held: str = "VARCHAR") -> tuple[Any, str | None]:
    return all_judged(db, kind, [cell], held)[0]


def decimals(number: Decimal) -> int:
    """How many it needs."""
    _, digits, exponent = number.as_tuple()
    text = "".join(map(str, digits))
    return -int(exponent) - (len(text) - len(text.rstrip("0")))


@settings(max_examples=20, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=100))
@example(list(EDGES))
def test_a_cost_is_exact_or_refused(db: duckdb.DuckDBPyConnection, texts: list[str]) -> None:
    for text, (amount, wrong) in zip(texts, all_judged(db, "cost", texts), strict=True):
        exact = Decimal(text)
        if exact and exact.adjusted() >= MAX_INTEGER_DIGITS:
            assert "digits before the point" in str(wrong)
        elif exact and decimals(exact) > PLACES:
            assert "more than 12 decimals" in str(wrong)
        else:
            assert (amount, wrong) == (exact, None)


@settings(max_examples=10, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=50))
@example(["0.0000000000005", "-0.0000000000015", "0.1000000000000000055511151231257827", "2.5e-12", "1e-40", *EDGES])
def test_a_cost_with_more_decimals_is_rounded_half_to_even_and_the_rest_is_kept(
    db: duckdb.DuckDBPyConnection, texts: list[str]
) -> None:
    texts = [text for text in texts if Decimal(text).adjusted() < MAX_INTEGER_DIGITS] or ["0"]
    cell = Column(name="x", kind="cost")
    value = db.execute(
        f"SELECT x, {value_sql(cell, 'VARCHAR')}, {residue_sql(cell, 'VARCHAR')}, {error_sql(cell, 'VARCHAR')} "
        "FROM (SELECT unnest(?::VARCHAR[]) AS x)",
        [texts],
    ).fetchall()
    for text, amount, lost, wrong in value:
        exact = Decimal(text)
        rounded = exact.quantize(UNIT, ROUND_HALF_EVEN, EXACT)
        expected = EXACT.subtract(exact, rounded).quantize(Decimal(1).scaleb(-RESIDUE_PLACES), ROUND_DOWN, EXACT)
        assert (amount, wrong) == (rounded, None)
        assert lost == (expected if exact != rounded else None)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(min_value=-1e14, max_value=1e14), min_size=1, max_size=100))
@example([0.1, 1234567.123456789, 5e-13, 1e-7, 69181183.2674946, -2.5e-13])
def test_a_binary_number_is_judged_by_its_shortest_decimal_text(
    db: duckdb.DuckDBPyConnection, numbers: list[float]
) -> None:
    for number, (amount, wrong) in zip(numbers, all_judged(db, "cost", numbers, "DOUBLE"), strict=True):
        exact = Decimal(repr(number))
        assert amount == exact.quantize(UNIT, ROUND_HALF_EVEN)
        assert (wrong is None) == (amount == exact)


@pytest.mark.parametrize(("number", "reason"), [(float("nan"), "number"), (float("inf"), "number"), (1e15, "digits")])
def test_a_binary_number_that_is_none_is_refused(db: duckdb.DuckDBPyConnection, number: float, reason: str) -> None:
    assert reason in str(judged(db, "cost", number, "DOUBLE")[1])


@pytest.mark.parametrize(
    ("number", "held", "reason"),
    [
        ("1.234567890123", "DECIMAL(20, 13)", None),
        ("1.2345678901234", "DECIMAL(20, 13)", "more than 12 decimals"),
        ("1000000000000000", "BIGINT", "digits before the point"),
        ("12.5", "DECIMAL(38, 20)", None),
        ("7", "INTEGER", None),
    ],
)
def test_exact_types_are_taken_exactly(
    db: duckdb.DuckDBPyConnection, number: str, held: str, reason: str | None
) -> None:
    amount, wrong = judged(db, "cost", number, held)
    if reason is None:
        assert (amount, wrong) == (Decimal(number), None)
    else:
        assert reason in str(wrong)


@settings(max_examples=20, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=100), st.sampled_from(["T", " "]), st.sampled_from(UTC_SPELLINGS))
@example([datetime(2024, 2, 29, 23, 59, 59, 999000, tzinfo=UTC)], "T", "Z")
def test_a_time_is_its_millisecond(db: duckdb.DuckDBPyConnection, times: list[datetime], t: str, z: str) -> None:
    naive = [time.replace(tzinfo=None) for time in times]
    value = all_judged(db, "moment", [time.isoformat(t, "milliseconds") + z for time in naive])
    since = [(time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) for time in times]
    assert value == [(moment, None) for moment in since]
    assert all_judged(db, "moment", [time.isoformat(t, "microseconds") + z for time in naive]) == value


@pytest.mark.parametrize("text", ["2026-05-03", "2026-05-03T00:00Z", "2026-05-03 00:00", "2026-05-03 00:00:00.0 UTC"])
def test_a_time_without_seconds_and_a_day_alone_are_midnight(db: duckdb.DuckDBPyConnection, text: str) -> None:
    assert judged(db, "moment", text) == (datetime(2026, 5, 3, tzinfo=UTC).timestamp() * 1000, None)


@pytest.mark.parametrize(
    "text", ["2026-05-03T00:00+02:00", "2026-05-03 PST", "05/03/2026", "2026-05-03 12 AM", "1777766400", "2026-05-03 Z"]
)
def test_a_time_that_is_not_plainly_utc_is_refused(db: duckdb.DuckDBPyConnection, text: str) -> None:
    assert "expected a UTC time" in str(judged(db, "moment", text)[1])


@pytest.mark.parametrize(
    "text", ["2026-02-29T00:00:00Z", "2026-05-03T24:00:00Z", "2026-05-03T00:60:00Z", "2026-05-03T23:59:60Z"]
)
def test_a_time_that_is_none_is_refused(db: duckdb.DuckDBPyConnection, text: str) -> None:
    assert judged(db, "moment", text)[1] is not None


@pytest.mark.parametrize(
    "held", ["TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"]
)
def test_a_typed_time_is_milliseconds_whatever_its_unit(db: duckdb.DuckDBPyConnection, held: str) -> None:
    moment = datetime(2026, 5, 3, 1, 2, 3, tzinfo=UTC)
    assert judged(db, "moment", "2026-05-03 01:02:03+00", held) == (moment.timestamp() * 1000, None)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.dictionaries(WORDS, st.none() | st.booleans() | st.integers() | WORDS), min_size=1, max_size=30))
def test_tags_come_out_as_a_flat_object_of_texts(db: duckdb.DuckDBPyConnection, every: list[dict[str, Any]]) -> None:
    for tags, (value, wrong) in zip(every, all_judged(db, "tags", [json.dumps(tags) for tags in every]), strict=True):
        assert wrong is None
        expected = msgspec.json.decode(value, type=dict[str, str | None])
        assert expected == {
            n: tag if tag is None or isinstance(tag, str) else json.dumps(tag) for n, tag in tags.items()
        }


@pytest.mark.parametrize(
    "text",
    [
        *("1", '"a"', '{"a": [1]}', '{"a": {"b": 1}}', "{", "{a: 1}", '{"a": 1, "a": 2}'),
        *("[1]", "[[]]", '["key"]', "[null]", '[{"name": "a"}]', '[{"key": "a", "value": {"b": 1}}]', '[{"key": "a"}'),
    ],
)
def test_other_tags_are_refused(db: duckdb.DuckDBPyConnection, text: str) -> None:
    assert "flat JSON object" in str(judged(db, "tags", text)[1])


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.lists(st.tuples(WORDS, st.none() | WORDS), max_size=5), min_size=1, max_size=30), st.sampled_from(PAIRS)
)
def test_array_of_keys_and_values_reads_the_same_as_an_object(
    db: duckdb.DuckDBPyConnection, every: list[list[tuple[str, str | None]]], names: tuple[str, str]
) -> None:
    key, value = names
    texts = [json.dumps([{key: k, value: v, "x_inherited": False} for k, v in tags]) for tags in every]
    for tags, (value, wrong) in zip(every, all_judged(db, "tags", texts), strict=True):
        assert wrong is None
        assert msgspec.json.decode(value, type=dict[str, str | None]) == dict(reversed(tags))  # the first one counts


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ("VARCHAR", '{"tier": "A", "n": 1}'),
        ("VARCHAR", '"tier": "A", "n": 1'),
        ("JSON", '[{"Key": "tier", "Value": "A"}, {"Key": null, "Value": "?"}, {"Key": "n", "Value": 1}]'),
        ("MAP(VARCHAR, VARCHAR)", "{tier=A, n=1}"),
        ("STRUCT(tier VARCHAR, n INTEGER)", "{'tier': A, 'n': 1}"),
        ("STRUCT(key VARCHAR, value VARCHAR)[]", "[{'key': tier, 'value': A}, {'key': n, 'value': 1}]"),
        ("MAP(VARCHAR, VARCHAR)[]", "[{key=tier, value=A}, {key=n, value=1}]"),
    ],
)
def test_tags_of_every_shape_are_the_same_object(db: duckdb.DuckDBPyConnection, held: str, text: str) -> None:
    value, wrong = judged(db, "tags", text, held)
    assert wrong is None
    assert msgspec.json.decode(value) == {"tier": "A", "n": "1"}


@pytest.mark.parametrize(
    "tags", [{str(n): "" for n in range(MAX_TAGS + 1)}, [{"key": "a", "value": 1}] * (MAX_TAGS + 1)]
)
def test_tags_without_end_are_refused(db: duckdb.DuckDBPyConnection, tags: Any) -> None:
    assert f"more than {MAX_TAGS} tags" in str(judged(db, "tags", json.dumps(tags))[1])


@pytest.mark.parametrize(("text", "tags"), [("null", None), ("[]", "{}"), ("{}", "{}"), ("", None), (None, None)])
def test_no_tags_are_none(db: duckdb.DuckDBPyConnection, text: str | None, tags: str | None) -> None:
    assert judged(db, "tags", text) == (tags, None)


@settings(max_examples=20, deadline=None)
@given(st.lists(WORDS | LIKE_JSON, min_size=1, max_size=100))
@example(['{"a": NaN}', '{"a": 1,}', '{"a": 1e999}', '{"\\ud800": 1}', '{"a": "\\ud800"}', '{"a": "\\u0000"}'])
def test_whatever_is_accepted_as_tags_can_be_read_later(db: duckdb.DuckDBPyConnection, texts: list[str]) -> None:
    for value, wrong in all_judged(db, "tags", texts):
        if wrong is None and value is not None:
            msgspec.json.decode(value, type=dict[str, str | None])
