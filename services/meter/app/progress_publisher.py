"""Tells the gateways what is in the ledger: the keys' months (bucket `months`), and how far each source is (`meter`).

Months come first. A gateway adds what the ledger does not have yet to a key's month, and leaves it out once the mark
has passed it: it would count too little between the two if they came the other way round. A mark may cover what an
earlier batch wrote and nobody was told of; so whoever begins, or could not tell its last batch, first tells everything.
Of several meters, one may still tell a mark that covers what another has just written: the other's months come a moment
later, or with the next sweep if it died.
"""

from collections.abc import Callable, Mapping

from services.meter.adapters.ledger import RecordResult, SqlLedger
from services.meter.app.monotonic_bucket import MonotonicBucket
from services.meter.core.rollups import MonthKey
from shared.bus import subjects, topology
from shared.bus.ports import Bus
from shared.messages.meter import Confirmed, KeyMonth, month_of
from shared.units import DAY_S

KNOWN_SECONDS = 40 * DAY_S
"""As long as the stream keeps usage: a source that was silent for longer has nothing left to trim."""
SKEW_SECONDS = 60.0
"""How far clocks may differ, so that a gateway which is in the next month already is told of it."""


class ProgressPublisher:
    """Only ever raises what it tells. `BusUnavailable` or one of `shared.database.AWAY`: the next call tells it."""

    def __init__(self, bus: Bus, ledger: SqlLedger, now: Callable[[], float]) -> None:
        self._ledger = ledger
        self._now = now
        self._even = False
        """Whether nothing of an earlier batch is untold."""
        self._months = MonotonicBucket(bus, topology.MONTHS, KeyMonth, lambda told: (told.month, told.tokens))
        self._marks = MonotonicBucket(bus, topology.METER, Confirmed, lambda told: told.source_seq)

    async def tell(self, recorded: RecordResult) -> None:
        """What a batch changed, and what was left untold before it."""
        even, self._even = self._even, False
        if even:
            await self._months.raise_all(self._latest(recorded.months))
            await self._marks.raise_all(self._confirmed(recorded.marks))
        else:
            await self.sweep()
        self._even = True

    async def sweep(self) -> None:
        """Raise whatever is lower on the bus than in the ledger: all of it when the bus lost its data."""
        marks = await self._ledger.marks(self._now() - KNOWN_SECONDS)
        # Read after the marks, so that no mark covers what they lack.
        months = await self._ledger.months(self._current())
        await self._months.sweep(self._latest(months))
        await self._marks.sweep(self._confirmed(marks))

    def _current(self) -> set[str]:
        """One month; two around midnight of its last day. What is over limits nobody.

        What a wrong clock dated far ahead is not told either: it would hide the month that counts.
        """
        return {month_of(self._now() + skew) for skew in (-SKEW_SECONDS, SKEW_SECONDS)}

    def _latest(self, months: Mapping[MonthKey, int]) -> dict[str, KeyMonth]:
        current = self._current()
        return {
            subjects.month_key(of.key_id): KeyMonth(key_id=of.key_id, month=of.month, tokens=tokens, at=self._now())
            for of, tokens in sorted(months.items())  # by month: of two, the later one stays
            if of.month in current
        }

    def _confirmed(self, marks: Mapping[str, int]) -> dict[str, Confirmed]:
        return {
            subjects.confirmed_key(source): Confirmed(source=source, source_seq=mark, at=self._now())
            for source, mark in marks.items()
            if mark
        }
