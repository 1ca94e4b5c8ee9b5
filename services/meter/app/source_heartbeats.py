"""Receives the gateways' heartbeats and stores the latest of each: how many events it has written."""

from collections.abc import Callable

from services.meter.core.completeness import Heartbeat
from services.meter.ports import GapStore
from shared.bus import subjects
from shared.bus.ports import Bus, Received
from shared.messages.codec import Unreadable, decode
from shared.messages.gateway import Activity

MAX_WRITTEN = 2**53
"""Events; no gateway has written so many."""
MAX_SOURCES = 10_000
"""Sources between two flushes; if there are more, they are not gateways."""


class SourceHeartbeats:
    """`on_activity` takes each `activity.<gateway>`; `flush` is to be called periodically.

    A gateway's name is that of its events' source.
    """

    def __init__(
        self,
        bus: Bus,
        store: GapStore,
        now: Callable[[], float],
        on_gateway: Callable[[str], None] = lambda _source: None,
    ) -> None:
        self._bus = bus
        self._store = store
        self._on_gateway = on_gateway
        self._now = now
        self._heartbeats: dict[str, Heartbeat] = {}

    async def on_activity(self, message: Received) -> None:
        try:
            activity = _validated(decode(message.data, Activity))
            subjects.check_sender(message.subject, activity.gateway)
        except Unreadable as error:
            self._bus.rejections.record(subjects.ACTIVITIES, error, subject=message.subject)
            return
        if activity.gateway in self._heartbeats or len(self._heartbeats) < MAX_SOURCES:
            heartbeat = Heartbeat(written=activity.written or 0, received_at=self._now(), left=activity.leaving)
            self._heartbeats[activity.gateway] = heartbeat
            self._on_gateway(activity.gateway)

    async def flush(self) -> None:
        """Store what arrived since the last flush. After one of `DATABASE_ERRORS` the next flush stores it."""
        heartbeats, self._heartbeats = self._heartbeats, {}
        try:
            await self._store.record_heartbeats(heartbeats)
        except BaseException:
            self._heartbeats = heartbeats | self._heartbeats
            raise


def _validated(activity: Activity) -> Activity:
    """Return the message; `Unreadable` if the ledger's database cannot hold it."""
    if not 0 <= (activity.written or 0) < MAX_WRITTEN:
        raise Unreadable(f"written: expected 0 to {MAX_WRITTEN}")
    if "\0" in activity.gateway:
        raise Unreadable("gateway: expected a name without a NUL")
    return activity
