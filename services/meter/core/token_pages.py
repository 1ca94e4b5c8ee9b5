"""A large answer about tokens in pages, each as large as a message may be."""

from collections.abc import Iterator, Sequence

import msgspec

from shared.errors import Rejected
from shared.messages.codec import Unreadable, decode
from shared.messages.meter import Tokens, TokensRow

Interval = tuple[float, float]


class PageCursor(msgspec.Struct, frozen=True, order=True, array_like=True):
    """An item's position in the answer: first the rows by their values, then busy times by machine and beginning.

    By value, not by number: events that are counted meanwhile move nothing from one page to another.
    """

    is_busy: bool
    names: tuple[str, ...]
    start: float = 0.0


def tokens_page(tokens: Tokens, by: Sequence[str], after: str, max_bytes: int) -> Tokens:
    """Return what follows a cursor in about `max_bytes`, at least one item; raises `Rejected` for a bad cursor.

    `after`: `next` of the previous page; "" asks for the first.
    """
    try:
        cursor = decode(after, PageCursor) if after else None
    except Unreadable as error:
        raise Rejected(f"after: expected the `next` of the previous page: {error}") from error
    rows: list[TokensRow] = []
    busy: dict[str, list[Interval]] = {}
    last: PageCursor | None = None
    next_page: str | None = None
    for position, item in _items(tokens, by):
        if cursor is not None and position <= cursor:
            continue
        max_bytes -= len(msgspec.json.encode((position, item)))
        if max_bytes < 0 and last is not None:
            next_page = msgspec.json.encode(last).decode()
            break
        if isinstance(item, TokensRow):
            rows.append(item)
        else:
            busy.setdefault(position.names[0], []).append(item)
        last = position
    page_busy = {machine: tuple(intervals) for machine, intervals in busy.items()}
    return msgspec.structs.replace(tokens, rows=tuple(rows), busy=page_busy, next=next_page)


def _items(tokens: Tokens, by: Sequence[str]) -> Iterator[tuple[PageCursor, TokensRow | Interval]]:
    rows = [(PageCursor(False, tuple(row.dimensions[name] for name in by)), row) for row in tokens.rows]
    yield from sorted(rows, key=lambda item: item[0])
    for machine, intervals in sorted(tokens.busy.items()):
        for interval in intervals:
            yield PageCursor(True, (machine,), interval[0]), interval
