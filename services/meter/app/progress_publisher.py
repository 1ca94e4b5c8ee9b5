"""Publishes what the ledger has: the keys' months (bucket `months`) and each source's mark (bucket `meter`).

Months are published first. A gateway adds the usage that the ledger does not have yet to a key's month, and stops
adding it once the mark has passed it; in the other order it would count too little in between. A mark may also cover
what an earlier batch wrote and nobody published, so the first publication, and each one after a failure, is of
everything. Of several meters, one may still publish a mark that covers what another has just written: the other's
months follow a moment later, or with the next sweep if it died.
"""

from collections.abc import Callable, Mapping

from services.meter.app.monotonic_bucket import MonotonicBucket
from services.meter.core.record_result import RecordResult
from services.meter.core.rollups import MonthKey
from services.meter.ports import Ledger
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.messages.meter import Confirmed, KeyMonth, month_of
from shared.units import DAY_S

SOURCE_LIFETIME_S = 40 * DAY_S
"""As long as the stream keeps usage: a source that was silent for longer has nothing left to trim."""
SKEW_SECONDS = 60.0
"""How far clocks may differ: a gateway that is already in the next month gets that month."""


class ProgressPublisher:
    """Only ever raises a published value.

    Each method raises `BusUnavailable` or one of `DATABASE_ERRORS`; the next call then publishes everything.
    """

    def __init__(self, bus: Bus, ledger: Ledger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._now = now
        self._is_complete = False
        """Whether everything from earlier batches is published."""
        self._months = MonotonicBucket(bus, topology.MONTHS, KeyMonth, lambda month: (month.month, month.tokens))
        self._marks = MonotonicBucket(bus, topology.METER, Confirmed, lambda confirmed: confirmed.source_seq)

    async def publish(self, result: RecordResult) -> None:
        """Publish what a batch changed, and what is still unpublished from before it."""
        was_complete, self._is_complete = self._is_complete, False
        if was_complete:
            await self._months.raise_all(self._key_months(result.months))
            await self._marks.raise_all(self._confirmations(result.marks))
        else:
            await self.sweep()
        self._is_complete = True

    async def sweep(self) -> None:
        """Raise every value that is lower on the bus than in the ledger: all of them if the bus lost its data."""
        marks = await self._ledger.read_marks(self._now() - SOURCE_LIFETIME_S)
        # Read after the marks, so that no mark covers usage that the months lack.
        months = await self._ledger.read_months(self._current_months())
        await self._months.raise_lower(self._key_months(months))
        await self._marks.raise_lower(self._confirmations(marks))

    def _current_months(self) -> set[str]:
        """Return one month; two around midnight of its last day. A month that is over limits nobody.

        A month that a wrong clock dated far ahead is not published either: it would hide the one that counts.
        """
        return {month_of(self._now() + skew) for skew in (-SKEW_SECONDS, SKEW_SECONDS)}

    def _key_months(self, months: Mapping[MonthKey, int]) -> dict[str, KeyMonth]:
        current = self._current_months()
        return {
            subjects.month_key(of.key_id): KeyMonth(key_id=of.key_id, month=of.month, tokens=tokens, at=self._now())
            for of, tokens in sorted(months.items())  # by month: of two, the later one stays
            if of.month in current
        }

    def _confirmations(self, marks: Mapping[str, int]) -> dict[str, Confirmed]:
        return {
            subjects.confirmed_key(source): Confirmed(source=source, source_seq=mark, at=self._now())
            for source, mark in marks.items()
            if mark
        }
