"""Detects that the ledger lacks events that it had confirmed, and reads the stream again until it has them.

Every replica compares, at its start and then periodically; the leader reads. A ledger goes back when it is restored
from a backup or its database fails over. Gateways have forgotten what was confirmed, so only the stream still has it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from services.meter.app.database_outage import DATABASE_DOWN
from services.meter.app.recorder import Recorder
from services.meter.core.completeness import search_start
from services.meter.core.event_validation import SEQ_LIMIT, is_name
from services.meter.metrics import Metrics
from services.meter.ports import ConfirmedMarks
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.bus.reply import reply
from shared.messages.codec import Unreadable, decode
from shared.messages.meter import Confirmed, Reread, RereadQuery

log = structlog.get_logger()


@dataclass
class _Search:
    """One pass through the stream, up to where it ended when the pass began."""

    since: float | None
    """Unix seconds; None: from the stream's beginning."""
    confirmed: dict[str, int]
    """By source: the number up to which its events had been confirmed."""
    after: int = 0
    end: int | None = None


class Recovery:
    """Every replica calls `compare`, the leader calls `catch_up`; `handle_reread` answers `meter.reread`.

    `compare` and `catch_up` raise `BusUnavailable` or one of `DATABASE_ERRORS`.
    """

    def __init__(
        self,
        bus: Bus,
        marks: ConfirmedMarks,
        recorder: Recorder,
        metrics: Metrics,
        read_responses: Callable[[], Awaitable[None]] | None = None,
        *,
        batch_size: int,
        now: Callable[[], float],
    ) -> None:
        """`read_responses` reads again how gateways answered."""
        self._bus = bus
        self._marks = marks
        self._recorder = recorder
        self._metrics = metrics
        self._read_responses = read_responses
        self._batch_size = batch_size
        self._now = now
        self._search: _Search | None = None
        self._newest_at: float | None = None
        """When the newest event arrived that the ledger had before this process counted anything."""
        self.compared = False
        """Whether the ledger was ever compared with its marks."""

    async def compare(self) -> None:
        """Compare the marks on the bus with the ledger's."""
        if self._newest_at is None:
            self._newest_at = await self._marks.newest_received_at()
        entries = await self._bus.entries(topology.METER)  # before the ledger's: both only rise
        confirmed = []
        for key, entry in entries.items():
            try:
                mark = decode(entry.value, Confirmed)
            except Unreadable:
                continue  # the sweep of the ledger's marks replaces it
            if is_name(mark.source) and key == subjects.confirmed_key(mark.source) and 0 < mark.source_seq < SEQ_LIMIT:
                confirmed.append(mark)
        # Until the first comparison, events that arrived meanwhile say nothing about the age of the copy.
        behind = await self._marks.compare(confirmed, newest_at=None if self.compared else self._newest_at)
        self.compared = True
        self._metrics.behind.set(sum(behind.values()))

    async def catch_up(self) -> None:
        """Read the stream again while the ledger lacks events that it had confirmed.

        After an error, the next call continues where this one stopped.
        """
        if self._search is None:
            behind = await self._marks.sources_behind(self._now())
            if not behind:
                return
            search = _Search(
                since=search_start(behind),
                confirmed={source.name: source.confirmed for source in behind},
            )
            log.error(
                "ledger_behind_its_marks",
                sources=sorted(search.confirmed)[:5],
                reading_since=search.since,
                reason="was it restored from an older copy? reading the stream again",
            )
            self._search = search
        await self._run(self._search)
        await self._marks.record_searched(self._search.confirmed)
        self._search = None

    async def handle_reread(self, data: bytes) -> bytes:
        """Read one page of the stream again."""

        async def read_page(query: RereadQuery) -> Reread:
            return await self._read_page(query.after, query.since)

        return await reply(data, RereadQuery, read_page, DATABASE_DOWN, if_too_large="try again")

    async def _run(self, search: _Search) -> None:
        totals: Counter[str] = Counter()
        while search.end is None or search.after < search.end:
            page = await self._read_page(search.after, search.since)
            search.end = page.end if search.end is None else search.end
            search.after = page.last
            totals += Counter(read=page.read, counted=page.counted)
        log.warning("stream_reread", **totals)

    async def _read_page(self, after: int, since: float | None) -> Reread:
        if not after and self._read_responses is not None:  # they may be missing as well
            await self._read_responses()
        page = await self._bus.page(topology.USAGE, after=after, since=since, most=self._batch_size)
        if not page.messages:
            return Reread(last=page.last, end=page.end)
        result = await self._recorder.record([message.data for message in page.messages])
        await self._recorder.publish_progress(result)
        self._metrics.reread.inc(len(page.messages))
        return Reread(
            last=page.last,
            end=page.end,
            read=len(page.messages),
            counted=result.counted,
            repeated=result.repeated,
            quarantined=sum(result.quarantined.values()),
        )
