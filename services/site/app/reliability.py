"""The reliability page: wakes from the site's own table, responses from the ledger."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, timedelta

import structlog

from services.site.app.journal_reader import JournalReader
from services.site.app.wake_months import WakeHistory, WakeMonths
from services.site.core.periods import day_of, read_from, window_start
from services.site.core.reliability import Reliability, reliability
from shared.bus.ports import Bus
from shared.bus.request import request_reply
from shared.bus.subjects import METER_RESPONSES
from shared.errors import BusError, Rejected
from shared.messages.codec import rfc3339
from shared.messages.responses import Responses, ResponsesQuery, ResponseSums
from shared.units import to_millis

log = structlog.get_logger()

SPAN_DAYS = 366
"""As many as the ledger answers at once."""
SPANS = 10
"""How many of them a page goes back: ten years. A year without a request may lie between two with some."""
REQUEST_S = 5.0
READ_S = 120.0
"""How long ago the journal may have been read to its end before the page says so."""


class ReliabilityPage:
    """Loads the reliability page."""

    def __init__(
        self, bus: Bus, history: WakeHistory, journal: JournalReader, *, cap_s: float, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._history = history
        self._months = WakeMonths(history, cap_s=cap_s, now=now)
        self._journal = journal
        self._cap_s = cap_s
        self._now = now

    async def load(self, _variables: Mapping[str, str]) -> Reliability:
        now = self._now()
        responses, fault = await self._responses(now)
        read_at = self._journal.read_at
        return reliability(
            await self._history.wakes(read_from(now)),
            await self._history.phases(to_millis(window_start(now))),
            responses,
            earlier=await self._months.earlier(is_whole=read_at is not None),
            cap_s=self._cap_s,
            now=now,
            as_of=rfc3339(now if read_at is None else read_at),
            fault=_journal_fault(read_at, now),
            responses_fault=fault,
        )

    async def _responses(self, now: float) -> tuple[dict[str, ResponseSums] | None, str | None]:
        """Return the responses by day; or None, and why."""
        by_day: dict[str, ResponseSums] = {}
        last = date.fromisoformat(day_of(now))
        try:
            for _ in range(SPANS):
                first = last - timedelta(days=SPAN_DAYS - 1)
                query = ResponsesQuery(day=first.isoformat(), to=last.isoformat(), by=("day",))
                answer = await request_reply(
                    self._bus, METER_RESPONSES, query, Responses, timeout=REQUEST_S, patience_s=0.0
                )
                by_day |= {row.dimensions["day"]: row.sums for row in answer.rows}
                last = first - timedelta(days=1)
        except (BusError, Rejected) as error:
            log.warning("responses_unknown", reason=str(error))
            return None, "The ledger does not answer at the moment, so the responses are not known."
        return by_day, None


def reliability_rows(page: Reliability) -> Iterable[Sequence[object]]:
    """The months and days as a table."""
    yield (
        "period",
        "wakes_ready",
        "wakes_failed",
        "wake_p50_seconds",
        "wake_p95_seconds",
        "wake_worst_seconds",
        "responses",
        "succeeded",
        "status_503",
        "status_504",
        "failed",
        "success_share",
    )
    for p in (*page.months, *page.days):
        spread = (p.wakes.p50, p.wakes.p95, p.wakes.worst)
        counts = (p.responses, p.succeeded, p.unavailable, p.timed_out, p.failed)
        yield p.period, p.wakes.count, p.failed_wakes, *spread, *counts, p.success_share


def _journal_fault(read_at: float | None, now: float) -> str | None:
    if read_at is None:
        return "The journal is still being read, so wakes may be missing."
    if now - read_at > READ_S:
        return "The journal could not be read lately, so the newest wakes are missing."
    return None
