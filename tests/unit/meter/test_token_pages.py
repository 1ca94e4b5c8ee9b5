"""The pages of an answer hold every item once, in any page size and whatever is counted meanwhile."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.meter.core.token_pages import tokens_page
from shared.errors import Rejected
from shared.messages.codec import encode
from shared.messages.meter import Tokens, TokensRow, TokenSums

BY = ("tier", "key")
NAMES = st.text('ab\u00e9-"\\', min_size=1, max_size=3)
INTERVALS = st.lists(st.floats(0, 86400), max_size=6, unique=True).map(lambda tokens: tuple(_pairs(sorted(tokens))))


def _pairs(moments: list[float]) -> list[tuple[float, float]]:
    return [(moments[n], moments[n + 1]) for n in range(0, len(moments) - 1, 2)]


def answer(rows: dict[tuple[str, str], int], busy: dict[str, tuple[tuple[float, float], ...]]) -> Tokens:
    busy_of = tuple(
        TokensRow(dimensions=dict(zip(BY, names, strict=True)), sums=TokenSums(prompt_tokens=count))
        for names, count in sorted(rows.items())
    )
    return Tokens(day="2026-11-23", complete=True, totals=TokenSums(), served=TokenSums(), rows=busy_of, busy=busy)


def pages(tokens: Tokens, room: int) -> list[Tokens]:
    read = [tokens_page(tokens, BY, "", room)]
    while (after := read[-1].next) is not None:
        read.append(tokens_page(tokens, BY, after, room))
        assert len(read) < 1000
    return read


@settings(max_examples=60)
@given(
    st.dictionaries(st.tuples(NAMES, NAMES), st.integers(0, 9), max_size=9),
    st.dictionaries(NAMES, INTERVALS.filter(bool), max_size=3),
    st.integers(1, 900),
)
def test_pages_hold_every_item_once(
    rows: dict[tuple[str, str], int], busy: dict[str, tuple[tuple[float, float], ...]], room: int
) -> None:
    tokens = answer(rows, busy)
    read = pages(tokens, room)
    assert tuple(row for one in read for row in one.rows) == tokens.rows
    together: dict[str, list[tuple[float, float]]] = {}
    for one in read:
        for machine, intervals in one.busy.items():
            together.setdefault(machine, []).extend(intervals)
    assert {machine: tuple(intervals) for machine, intervals in together.items()} == busy
    pages_with_sizes = [(len(one.rows) + sum(map(len, one.busy.values())), one) for one in read]
    bare = len(encode(answer({}, {})))
    assert all(
        count <= 1 or len(encode(one)) <= bare + room + len(one.next or "") + 2 for count, one in pages_with_sizes
    )


def test_events_counted_between_two_pages_move_nothing() -> None:
    rows = {("A", f"k{n}"): n for n in range(10)}
    first = tokens_page(answer(rows, {}), BY, "", 400)
    assert first.next
    rest = tokens_page(answer({("A", "a-new-one"): 1, **rows}, {}), BY, first.next, 10_000)
    assert [row.dimensions["key"] for row in (*first.rows, *rest.rows)] == [f"k{n}" for n in range(10)]


@pytest.mark.parametrize("after", ["x", "[]", "[1,2]", '{"a":1}'])
def test_invalid_cursor_is_rejected_with_its_field(after: str) -> None:
    with pytest.raises(Rejected, match=r"^after: "):
        tokens_page(answer({}, {}), BY, after, 9)


def test_small_answer_fits_one_page() -> None:
    tokens = answer({("A", "k"): 1}, {"m": ((1.0, 2.0),)})
    assert tokens_page(tokens, BY, "", 10_000) == msgspec.structs.replace(tokens, next=None)
