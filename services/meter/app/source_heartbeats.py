"""Hears what gateways say of themselves, and keeps the last of it for the ledger: how far they have written."""

from collections.abc import Callable

from services.meter.adapters.gap_store import Heartbeat, SqlGapStore
from shared.bus import subjects
from shared.bus.ports import Bus, Received
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity

MOST_WRITTEN = 2**53
"""Events; no gateway has written so many."""
MOST_SOURCES = 10_000
"""That are heard between two sweeps: more are not gateways."""


class SourceHeartbeats:
    """`heard` for each `activity.<gateway>`; `sweep` now and then. A gateway's name is that of its events' source."""

    def __init__(
        self,
        bus: Bus,
        book: SqlGapStore,
        now: Callable[[], float],
        on_gateway: Callable[[str], None] = lambda _source: None,
    ) -> None:
        self._bus = bus
        self._book = book
        self._on_gateway = on_gateway
        self._now = now
        self._claims: dict[str, Heartbeat] = {}

    async def heard(self, message: Received) -> None:
        try:
            said = _checked(decode(message.data, Activity))
        except Unreadable as error:
            self._bus.rejections.record(subjects.ACTIVITIES, error, subject=message.subject)
            return
        if said.gateway in self._claims or len(self._claims) < MOST_SOURCES:
            claim = Heartbeat(written=said.written or 0, heard_at=self._now(), left=said.leaving)
            self._claims[said.gateway] = claim
            self._on_gateway(said.gateway)

    async def sweep(self) -> None:
        """Raises one of `shared.database.AWAY`: what was heard is told again by then, but for a last word."""
        claims, self._claims = self._claims, {}
        try:
            await self._book.heard(claims)
        except BaseException:
            self._claims = claims | self._claims
            raise


def _checked(activity: Activity) -> Activity:
    """The message; `Unreadable` where the ledger's database cannot hold it."""
    if not 0 <= (activity.written or 0) < MOST_WRITTEN:
        raise Unreadable(f"written: expected 0 to {MOST_WRITTEN}")
    if "\0" in activity.gateway:
        raise Unreadable("gateway: has a NUL")
    return activity
