"""Answers `meter.gaps` and `meter.lost`: what is missing, and the order to give it up."""

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from services.meter.adapters.gaps import GapBook
from shared.database import AWAY, told
from shared.errors import Refusal
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import DeclareLost, Gaps, GapsQuery, Refused

log = structlog.get_logger()


class GapAnswers:
    """Every request gets an answer: the gaps as they stand, or what is wrong with the question or the database."""

    def __init__(self, book: GapBook, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now

    async def gaps(self, data: bytes) -> bytes:
        async def listed() -> None:
            decode(data, GapsQuery)

        return encode(await self._answer(listed))

    async def lost(self, data: bytes) -> bytes:
        async def declared() -> None:
            order = decode(data, DeclareLost)
            await self._book.declare_lost(order, self._now())
            log.warning("declared lost", **msgspec.structs.asdict(order))

        return encode(await self._answer(declared))

    async def _answer(self, work: Callable[[], Awaitable[None]]) -> Gaps | Refused:
        """The gaps after `work`."""
        try:
            await work()
            return await self._book.listed(self._now())
        except (Unreadable, Refusal) as error:
            return Refused(reason=str(error))
        except AWAY as error:
            log.warning("the gaps cannot be read or written", reason=told(error))
            return Refused(reason="the ledger's database does not answer: ask again later")
