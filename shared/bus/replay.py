"""Replays a stream from a moment on, without its durable consumers."""

from collections.abc import AsyncIterator, Sequence

from shared.bus.ports import Bus, Received
from shared.bus.topology import Stream


async def replay(bus: Bus, stream: Stream, *, since: float | None, most: int) -> AsyncIterator[Sequence[Received]]:
    """Yield the messages stored since `since` (Unix seconds; None: all), up to the stream's end at the first page.

    A database restored from an older copy needs this: its durable consumer does not redeliver what it acknowledged.
    """
    after, end = 0, None
    while end is None or after < end:
        page = await bus.page(stream, after=after, since=since, most=most)
        yield page.messages
        after, end = page.last, page.end if end is None else end
