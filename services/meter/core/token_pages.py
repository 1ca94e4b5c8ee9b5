"""A large answer about tokens in pages, each as large as a message may be."""

from collections.abc import Iterator, Sequence

import msgspec

from shared.messages.codec import Unreadable, decode
from shared.messages.meter import Tokens, TokensRow

Interval = tuple[float, float]


class PageCursor(msgspec.Struct, frozen=True, order=True, array_like=True):
    """Where something stands in the answer: first the rows by their values, then busy times by machine and beginning.

    By value, not by number: what is counted meanwhile moves nothing from one page to another.
    """

    is_busy: bool
    names: tuple[str, ...]
    start: float = 0.0


def tokens_page(found: Tokens, by: Sequence[str], after: str, room: int) -> Tokens:
    """What comes after a place, "" for the beginning, in about `room` bytes and at least one thing; `ValueError`."""
    try:
        since = decode(after, PageCursor) if after else None
    except Unreadable as error:
        raise ValueError(f"after: expected `next` of the page before: {error}") from error
    rows: list[TokensRow] = []
    busy: dict[str, list[Interval]] = {}
    last: PageCursor | None = None
    following: str | None = None
    for place, thing in _things(found, by):
        if since is not None and place <= since:
            continue
        room -= len(msgspec.json.encode((place, thing)))
        if room < 0 and last is not None:
            following = msgspec.json.encode(last).decode()
            break
        if isinstance(thing, TokensRow):
            rows.append(thing)
        else:
            busy.setdefault(place.names[0], []).append(thing)
        last = place
    told = {machine: tuple(intervals) for machine, intervals in busy.items()}
    return msgspec.structs.replace(found, rows=tuple(rows), busy=told, next=following)


def _things(found: Tokens, by: Sequence[str]) -> Iterator[tuple[PageCursor, TokensRow | Interval]]:
    places = [(PageCursor(False, tuple(row.dimensions[name] for name in by)), row) for row in found.rows]
    yield from sorted(places, key=lambda item: item[0])
    for machine, intervals in sorted(found.busy.items()):
        for interval in intervals:
            yield PageCursor(True, (machine,), interval[0]), interval
