"""Answers `meter.gaps` and `meter.lost`: what is missing, and the order to give it up."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from services.meter.adapters.gap_store import SqlGapStore
from shared.database import DATABASE_ERRORS, describe
from shared.errors import Rejected
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import DeclareLost, ErrorReply, Gaps, GapsQuery

log = structlog.get_logger()


class GapQueries:
    """Every request gets an answer: the gaps as they stand, or what is wrong with the question or the database."""

    def __init__(self, book: SqlGapStore, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now

    async def gaps(self, data: bytes) -> bytes:
        async def list_gaps() -> None:
            decode(data, GapsQuery)

        return encode(await self._answer(list_gaps))

    async def lost(self, data: bytes) -> bytes:
        async def declared() -> None:
            order = decode(data, DeclareLost)
            await self._book.declare_lost(order, self._now())
            log.warning("declared lost", **msgspec.structs.asdict(order))

        return encode(await self._answer(declared))

    async def _answer(self, work: Callable[[], Awaitable[None]]) -> Gaps | ErrorReply:
        """The gaps after `work`."""
        try:
            await work()
            return await self._book.list_gaps(self._now())
        except (Unreadable, Rejected) as error:
            return ErrorReply(reason=str(error))
        except DATABASE_ERRORS as error:
            log.warning("the gaps cannot be read or written", reason=describe(error))
            return ErrorReply(reason="the ledger's database does not answer: ask again later")
