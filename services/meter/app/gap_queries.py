"""Answers `meter.gaps` and `meter.lost`: list what is missing, and declare it lost."""

from collections.abc import Callable

import msgspec
import structlog

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.ports import GapStore
from shared.bus.reply import reply
from shared.messages.meter import DeclareLost, Gaps, GapsQuery

log = structlog.get_logger()

LISTS_ARE_BOUNDED = "its sources' names are too long together"


class GapQueries:
    """Each handler takes a request and returns the gaps as they are after it, or an `ErrorReply`."""

    def __init__(self, store: GapStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    async def handle_gaps(self, data: bytes) -> bytes:
        async def list_gaps(_query: GapsQuery) -> Gaps:
            return await self._store.list_gaps(self._now())

        return await reply(data, GapsQuery, list_gaps, DATABASE_DOWN, if_too_large=LISTS_ARE_BOUNDED)

    async def handle_lost(self, data: bytes) -> bytes:
        async def declare_lost(order: DeclareLost) -> Gaps:
            await self._store.declare_lost(order, self._now())
            log.warning("events_declared_lost", **msgspec.structs.asdict(order))
            return await self._store.list_gaps(self._now())

        return await reply(data, DeclareLost, declare_lost, DATABASE_DOWN, if_too_large=LISTS_ARE_BOUNDED)
