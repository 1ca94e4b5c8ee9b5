"""Hears what gateways say of themselves, and keeps the last of it for the ledger: how far they have written."""

from collections.abc import Callable

import structlog

from services.meter.adapters.gaps import Claim, GapBook
from shared.bus.ports import Received
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity

MOST_SOURCES = 10_000
"""That are heard between two sweeps: more are not gateways."""

log = structlog.get_logger()


class Hearing:
    """`heard` for each `activity.<gateway>`; `sweep` now and then. A gateway's name is that of its events' source."""

    def __init__(self, book: GapBook, now: Callable[[], float]) -> None:
        self._book = book
        self._now = now
        self._claims: dict[str, Claim] = {}

    async def heard(self, message: Received) -> None:
        try:
            said = decode(message.data, Activity)
        except Unreadable as error:
            log.warning("unreadable activity", subject=message.subject, error=str(error))
            return
        if said.gateway in self._claims or len(self._claims) < MOST_SOURCES:
            claim = Claim(written=said.written or 0, heard_at=self._now(), left=said.leaving)
            self._claims[said.gateway] = claim

    async def sweep(self) -> None:
        """Raises one of `shared.database.AWAY`: what was heard is told again by then, but for a last word."""
        claims, self._claims = self._claims, {}
        try:
            await self._book.heard(claims)
        except BaseException:
            self._claims = claims | self._claims
            raise
