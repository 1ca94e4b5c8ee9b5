"""The fleet's journal, newest first, a page at a time: a page reads as much as it shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.bus.ports import Bus
from shared.bus.topology import FLEET_JOURNAL
from shared.journal_entries import decode_entry
from shared.messages.budget import Journalled
from shared.messages.codec import Unreadable

ENTRIES = 100
"""On one page."""


@dataclass(frozen=True, kw_only=True)
class JournalPage:
    """Some entries, newest first."""

    entries: Sequence[Journalled]
    unreadable: int
    """Entries of these that this version cannot read."""
    older: int | None
    """The page of what is older: entries before this number. None: there is none."""


async def read_journal_page(bus: Bus, before: int | None) -> JournalPage:
    """Return the newest entries, or those before the number of an entry. Raises `BusUnavailable`."""
    end = (await bus.page(FLEET_JOURNAL, after=0, most=1)).end
    last = end if before is None else min(before - 1, end)
    first = max(1, last - ENTRIES + 1)
    if last < 1:
        return JournalPage(entries=(), unreadable=0, older=None)
    entries: list[Journalled] = []
    unreadable, after = 0, first - 1
    while after < last:
        page = await bus.page(FLEET_JOURNAL, after=after, most=last - after)
        if page.last <= after:
            break
        after = page.last
        for received in page.messages:
            try:
                entries.append(decode_entry(received.subject, received.data))
            except Unreadable:
                unreadable += 1  # perhaps of a newer waker
    return JournalPage(entries=entries[::-1], unreadable=unreadable, older=first if first > 1 else None)
