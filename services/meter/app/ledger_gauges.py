"""Keeps the gauges of the ledger current on every replica: what is missing, and which days are incomplete."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from services.meter.metrics import Metrics
from services.meter.ports import GapStore
from shared.messages.meter import Tokens, TokensQuery

DAYS = 7
"""Whole days, up to yesterday: what is incomplete for longer has open gaps."""


class LedgerGauges:
    """`read_tokens` answers a query as `meter.tokens` does."""

    def __init__(
        self,
        gaps: GapStore,
        read_tokens: Callable[[TokensQuery], Awaitable[Tokens]],
        metrics: Metrics,
        now: Callable[[], float],
    ) -> None:
        self._gaps = gaps
        self._read_tokens = read_tokens
        self._metrics = metrics
        self._now = now

    async def refresh(self) -> None:
        """Read everything once. Raises what `DATABASE_ERRORS` lists."""
        gaps = await self._gaps.list_gaps(self._now())
        self._metrics.open_gaps.set(sum(gap.last - gap.first + 1 for gap in gaps.open))
        self._metrics.usage_missing.set(gaps.missing)
        today = datetime.fromtimestamp(self._now(), UTC).date()
        days = [(today - timedelta(days=back)).isoformat() for back in range(1, DAYS + 1)]
        answers = [await self._read_tokens(TokensQuery(day=day)) for day in days]
        self._metrics.incomplete_days.set(sum(not answer.complete for answer in answers))
