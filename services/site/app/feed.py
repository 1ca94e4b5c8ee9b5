"""`/feed.xml`: new figures and incidents, from the bus."""

from collections.abc import Callable

import structlog

from services.site.app.page import PublicFile
from services.site.core.feed import FeedEntry, atom, gate_entries, newest, revision_entry
from shared.bus import topology
from shared.bus.ports import Bus
from shared.bus.subjects import budget_journal, public_day_key
from shared.journal_entries import decode_entry
from shared.messages.budget import GateTurned
from shared.messages.codec import Unreadable, decode
from shared.messages.public import PublishedDay

log = structlog.get_logger()


class Feed:
    """Makes the feed anew from what the bus has, so every replica has the same."""

    def __init__(self, title: str, origin: Callable[[], str], bus: Bus, now: Callable[[], float]) -> None:
        """`origin`: where browsers reach the site."""
        self._title = title
        self._origin = origin
        self._bus = bus
        self._now = now

    def file(self) -> PublicFile:
        return PublicFile(path="/feed.xml", content_type="application/atom+xml", load=self._load)

    async def _load(self) -> str:
        entries = [*await self._revisions(), *await self._gates()]
        return atom(self._title, self._origin(), newest(entries), now=self._now())

    async def _revisions(self) -> list[FeedEntry]:
        """The newest revision of each day. An entry that cannot be read is left out; the bus's views report it."""
        entries = []
        for key, entry in (await self._bus.entries(topology.REPORTS)).items():
            if key.startswith(public_day_key("")):
                try:
                    entries.append(revision_entry(decode(entry.value, PublishedDay)))
                except Unreadable as error:
                    log.warning("feed_entry_rejected", key=key, reason=str(error))
        return entries

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
