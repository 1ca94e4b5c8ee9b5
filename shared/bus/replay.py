"""Reads a stream again from a moment on, beside its durable consumers."""

from collections.abc import AsyncIterator, Sequence

from shared.bus.ports import Bus, Received
from shared.bus.topology import Stream


async def replay(bus: Bus, stream: Stream, *, since: float | None, most: int) -> AsyncIterator[Sequence[Received]]:
    """Yield what the stream has stored since `since` (Unix seconds; None: all), up to its end at the first page.

    A durable consumer does not bring this again to a database that was restored from an older copy.
    """
    after, end = 0, None
    while end is None or after < end:
        page = await bus.page(stream, after=after, since=since, most=most)
        yield page.messages
        after, end = page.last, page.end if end is None else end
