"""Finds out when the ledger lacks what it had confirmed, and reads the stream again until it has it.

Every replica compares, at its start and then steadily; the leader reads. A ledger goes back when it is restored from a
backup or its database fails over. Gateways have forgotten what was confirmed, so the stream alone still has it.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from services.meter.adapters.confirmed_marks import SqlConfirmedMarks, search_from
from services.meter.app.recorder import Recorder
from services.meter.core.batch import SEQ_LIMIT, is_name
from services.meter.metrics import Metrics
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.database import DATABASE_ERRORS, describe
from shared.errors import BusUnavailable
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import Confirmed, ErrorReply, Reread, RereadQuery

log = structlog.get_logger()


@dataclass
class _Search:
    """One pass through the stream, up to where it ended when the pass began."""

    since: float | None
    confirmed: dict[str, int]
    after: int = 0
    end: int | None = None


class Recovery:
    """`compare` by every replica, `catch_up` by the leader, `reread` for whoever asks."""

    def __init__(
        self,
        bus: Bus,
        book: SqlConfirmedMarks,
        recorder: Recorder,
        metrics: Metrics,
        *,
        batch: int,
        now: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._book = book
        self._recorder = recorder
        self._metrics = metrics
        self._batch = batch
        self._now = now
        self._search: _Search | None = None
        self._newest: float | None = None
        """When the newest thing came that the ledger had before anything was counted."""
        self.compared = False
        """Whether the ledger was ever compared with its marks."""

    async def compare(self) -> None:
        """Compare the marks on the bus with the ledger's. `BusUnavailable`, or one of `shared.database.AWAY`."""
        if self._newest is None:
            self._newest = await self._book.newest()
        entries = await self._bus.entries(topology.METER)  # before the ledger's: both only rise
        confirmed = []
        for key, entry in entries.items():
            try:
                mark = decode(entry.value, Confirmed)
            except Unreadable:
                continue  # the sweep of the ledger's marks replaces it
            if is_name(mark.source) and key == subjects.confirmed_key(mark.source) and 0 < mark.source_seq < SEQ_LIMIT:
                confirmed.append(mark)
        # Until it was compared once, what came meanwhile says nothing about the age of the copy.
        behind = await self._book.compare(confirmed, newest=None if self.compared else self._newest)
        self.compared = True
        self._metrics.behind.set(sum(behind.values()))

    async def catch_up(self) -> None:
        """Read the stream again while the ledger lacks what it had confirmed.

        `BusUnavailable`, or one of `shared.database.AWAY`: the next call goes on where this one stopped.
        """
        if self._search is None:
            found = await self._book.count_behind(self._now())
            if not found:
                return
            search = _Search(
                since=search_from(found),
                confirmed={source.name: source.confirmed for source in found},
            )
            log.error(
                "ledger_behind_its_marks",
                sources=sorted(search.confirmed)[:5],
                reading_since=search.since,
                reason="was it restored from an older copy? reading the stream again",
            )
            self._search = search
        await self._read_on(self._search)
        await self._book.sought(self._search.confirmed)
        self._search = None

    async def _read_on(self, search: _Search) -> None:
        sums: Counter[str] = Counter()
        while search.end is None or search.after < search.end:
            page = await self._page(search.after, search.since)
            search.end = page.end if search.end is None else search.end
            search.after = page.last
            sums += Counter(read=page.read, counted=page.counted)
        log.warning("stream_reread", **sums)

    async def reread(self, data: bytes) -> bytes:
        """One page of the stream for whoever asked, as an answer to `RereadQuery`."""
        try:
            query = decode(data, RereadQuery)
            answer: Reread | ErrorReply = await self._page(query.after, query.since)
        except Unreadable as error:
            answer = ErrorReply(reason=str(error))
        except BusUnavailable as error:
            answer = ErrorReply(reason=f"the stream cannot be read: {error}")
        except DATABASE_ERRORS as error:
            log.warning("the ledger cannot be written", reason=describe(error))
            answer = ErrorReply(reason="the ledger's database does not answer: ask again later")
        return encode(answer)

    async def _page(self, after: int, since: float | None) -> Reread:
        page = await self._bus.page(topology.USAGE, after=after, since=since, most=self._batch)
        if not page.messages:
            return Reread(last=page.last, end=page.end)
        recorded = await self._recorder.record([message.data for message in page.messages])
        try:
            await self._recorder.tell(recorded)
        except (BusUnavailable, *DATABASE_ERRORS) as error:
            log.warning("committed and not told yet", reason=describe(error))
        self._metrics.reread.inc(len(page.messages))
        return Reread(
            last=page.last,
            end=page.end,
            read=len(page.messages),
            counted=recorded.counted,
            repeated=recorded.repeated,
            quarantined=sum(recorded.quarantined.values()),
        )
