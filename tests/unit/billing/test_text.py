"""A text comes back from the reader as it went in, but for what nobody sees at its ends."""

import json
import re
import unicodedata
from pathlib import Path

import duckdb
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.billing.core.cost_row import CostRow, SnapshotKey
from tests.unit.billing.cost_row_builders import focus_csv
from tests.unit.billing.file_reading import ReadResult, read

ZERO_WIDTH = "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"
EDGES = [
    "v",
    "vol-0bb",
    "gpu-dev",
    "\\v",
    "\ufeffacc\ufeff",
    " \u00a0\u200ba\u2009\t",
    "a\r\nb",
    "a\rb",
    'say "v"',
    "'",
    ",",
    "é",
]
Texts = tuple[str, str | None, str | None, str]


def is_invisible(character: str) -> bool:
    kind = unicodedata.category(character)
    return kind in ("Cc", "Zs", "Zl", "Zp") or character in ZERO_WIDTH or "\u2061" <= character <= "\u206f"


def shown(text: str) -> str:
    """The text without what nobody sees at its ends."""
    first = next((i for i, c in enumerate(text) if not is_invisible(c)), len(text))
    last = next((i for i, c in enumerate(reversed(text)) if not is_invisible(c)), 0)
    return text[first : len(text) - last]


def is_kept(text: str) -> bool:
    return shown(text) not in ("", "NULL")


TEXTS = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    EDGES
)
ROWS = st.lists(st.tuples(TEXTS.filter(is_kept), TEXTS, TEXTS, TEXTS), min_size=1, max_size=25)


def expected(rows: list[Texts]) -> set[Texts]:
    return {
        (shown(account), *(shown(text) if text and is_kept(text) else None for text in (invoice, resource)), tag)  # type: ignore[misc]  # a tuple in parts
        for account, invoice, resource, tag in rows
    }


def came_back(result: ReadResult) -> set[Texts]:
    assert not result.refusals

    def texts(key: SnapshotKey, row: CostRow) -> Texts:
        return key.account, row.invoice_id, row.resource_id, json.loads(row.tags or "{}")["tier"]

    return {texts(key, row) for key, rows in result.charges.items() for row in rows}


def focus(rows: list[Texts]) -> list[dict[str, str]]:
    names = ("BillingAccountId", "InvoiceId", "ResourceId")
    return [
        {**dict(zip(names, map(str, row[:3]), strict=True)), "Tags": json.dumps({"tier": row[3]}, ensure_ascii=False)}
        for row in rows
    ]


@settings(max_examples=3, deadline=None)
@given(ROWS)
@example([(edge, edge, edge, edge) for edge in EDGES])
def test_a_text_comes_back_as_it_went_in_from_csv(rows: list[Texts]) -> None:
    # A byte order mark at the beginning of a line is none of its text.
    marked = re.compile("(?<=[\r\n])\ufeff+")
    bare: list[Texts] = [tuple(marked.sub("", text or "") for text in row) for row in rows]  # type: ignore[misc]  # as before
    kept = [row for row in bare if is_kept(row[0])] or [("a", "b", "c", "d")]
    assert came_back(read(focus_csv(*focus(kept)))) == expected(kept)


@settings(max_examples=2, deadline=None)
@given(ROWS)
@example([(edge, edge, edge, edge) for edge in EDGES])
def test_a_text_comes_back_as_it_went_in_from_parquet(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Texts]
) -> None:
    path = tmp_path_factory.mktemp("text") / "f.parquet"
    assert came_back(read(parquet(path, focus(rows)))) == expected(rows)


def parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    (path.parent / "f.csv").write_bytes(focus_csv({}))
    with duckdb.connect() as db:
        db.execute("CREATE TABLE texts (account VARCHAR, invoice VARCHAR, resource VARCHAR, told VARCHAR)")
        db.executemany("INSERT INTO texts VALUES (?, ?, ?, ?)", [list(row.values()) for row in rows])
        db.execute(
            f'COPY (SELECT f.* REPLACE (account AS "BillingAccountId", invoice AS "InvoiceId", resource AS '
            f'"ResourceId", told AS "Tags") FROM read_csv(\'{path.parent}/f.csv\', all_varchar = true) AS f, texts) '
            f"TO '{path}' (FORMAT parquet)"
        )
    return path


@settings(max_examples=2, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS.filter(is_kept)), min_size=1, max_size=25))
@example([(edge, edge) for edge in EDGES])
def test_a_tag_of_our_own_form_comes_back_as_it_went_in(rows: list[tuple[str, str]]) -> None:
    cells = [[text.replace("\ufeff", "").replace('"', '""') for text in row] for row in rows]
    lines = [f'2026-05-03,"{resource}",1,usd,"{tag}"' for resource, tag in cells]
    result = read("\n".join(["date,resource,cost,currency,te\u00e4m", *lines, ""]).encode())
    assert not result.refusals
    back = {(row.resource_id, json.loads(row.tags or "{}").get("te\u00e4m")) for row in result.rows}
    kept = [[text.replace("\ufeff", "") for text in row] for row in rows]
    assert back == {tuple(shown(text) if is_kept(text) else None for text in row) for row in kept}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_as_on_any_system(end: bytes) -> None:
    result = read(focus_csv({"BilledCost": "1"}, {"BilledCost": "x"}).replace(b"\r\n", end))
    assert [(r.line, r.column) for r in result.refusals] == [(3, "BilledCost")]


def test_a_line_end_within_quotes_is_the_cells() -> None:
    texts = {"GPU\r\n8xH100", "GPU\r8xH100", "GPU\n\n8xH100", "GPU" * 100_000 + "\n8xH100"}
    assert {row.service_name for row in read(focus_csv(*({"ServiceName": text} for text in texts))).rows} == texts


def test_a_second_byte_order_mark_makes_no_second_account() -> None:
    header, line, _ = focus_csv({"BillingAccountId": "c05c"}).split(b"\r\n")
    mark = b"\xef\xbb\xbf"
    account = [b'"c05c"', mark + b"c05c", b"c05c" + mark, b" " + mark + b" c05c"]
    lines = [mark + line, mark + mark + line, *(mark + line.replace(b"c05c", text) for text in account)]
    result = read(b"\r\n".join([mark + header, *lines, b""]))
    assert [(key.account, len(rows)) for key, rows in result.charges.items()] == [("c05c", 1)]
    assert [snapshot.rows for snapshot in result.snapshots] == [6]
