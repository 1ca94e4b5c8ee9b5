"""`/feed.xml`: new figures and incidents, from the bus and the table of wakes."""

from collections.abc import Callable

import structlog

from services.site.app.page import PublicFile
from services.site.app.wake_months import WakeHistory
from services.site.core.feed import FeedEntry, atom, gate_entries, newest, revision_entry, wake_entries
from services.site.core.periods import WINDOW_DAYS
from services.site.core.reliability import failed_wakes
from shared.bus import topology
from shared.bus.ports import Bus
from shared.bus.subjects import budget_journal, public_day_key
from shared.database import DATABASE_ERRORS, describe
from shared.journal_entries import decode_entry
from shared.messages.budget import GateTurned
from shared.messages.codec import Unreadable, decode
from shared.messages.public import PublishedDay
from shared.units import DAY_S, to_millis

log = structlog.get_logger()


class Feed:
    """Makes the feed anew from what the bus and the table of wakes have, so every replica has the same."""

    def __init__(
        self,
        title: str,
        origin: Callable[[], str],
        bus: Bus,
        history: WakeHistory,
        *,
        wake_cap_s: float,
        now: Callable[[], float],
    ) -> None:
        """`origin`: where browsers reach the site."""
        self._history = history
        self._wake_cap_s = wake_cap_s
        self._title = title
        self._origin = origin
        self._bus = bus
        self._now = now

    def file(self) -> PublicFile:
        return PublicFile(path="/feed.xml", content_type="application/atom+xml", load=self._load)

    async def _load(self) -> str:
        entries = [*await self._revisions(), *await self._gates(), *await self._failed_wakes()]
        return atom(self._title, self._origin(), newest(entries), now=self._now())

    async def _revisions(self) -> list[FeedEntry]:
        """The newest revision of each day. An entry that cannot be read is left out; the bus's views report it."""
        entries = []
        for key, entry in (await self._bus.entries(topology.REPORTS)).items():
            if key.startswith(public_day_key("")):
                try:
                    entries.append(revision_entry(decode(entry.value, PublishedDay)))
                except Unreadable as error:
                    log.warning("feed_entry_rejected", entry=key, reason=str(error))
        return entries

    async def _failed_wakes(self) -> list[FeedEntry]:
        """Those of the last days. Without the database the feed does without them."""
        now = self._now()
        try:
            wakes = await self._history.wakes(to_millis(now - WINDOW_DAYS * DAY_S))
        except DATABASE_ERRORS as error:
            log.warning("feed_without_wakes", reason=describe(error))
            return []
        return wake_entries(failed_wakes(wakes, cap_s=self._wake_cap_s, now=now))

    async def _gates(self) -> list[FeedEntry]:
        turns = []
        for message in await self._bus.read(topology.FLEET_JOURNAL, budget_journal(">")):
            try:
                entry = decode_entry(message.subject, message.data)
            except Unreadable as error:
                log.warning("feed_entry_rejected", subject=message.subject, reason=str(error))
                continue
            if isinstance(entry, GateTurned):
                turns.append(entry)
        return gate_entries(turns)
