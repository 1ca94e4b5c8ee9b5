"""Answers `billing.report`: the day's figures from the books and the meter, numbered by revision and kept."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal

import msgspec
import structlog

from services.billing.adapters.books import Books, DayRecords
from services.billing.core.allocation import Allocation, DayFacts, allocate
from services.billing.core.days import Window, day_window, millis
from services.billing.core.machine_time import MachineTime, intervals
from services.billing.core.money import usd
from services.billing.core.report import make_report, revised, served_by_tier, state_of
from services.billing.meter import Meter
from services.billing.metrics import Metrics
from services.billing.settings import Settings
from shared.database import AWAY, told
from shared.errors import Refusal
from shared.messages.billing import DayReport, ReportQuery
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import Refused, Tokens, TokensQuery

log = structlog.get_logger()


class Reports:
    """The figures of days. One at a time, so that revisions have an order."""

    def __init__(
        self, meter: Meter, books: Books, settings: Settings, metrics: Metrics, *, now: Callable[[], float]
    ) -> None:
        self._meter = meter
        self._books = books
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._one = asyncio.Lock()

    async def answer(self, data: bytes) -> bytes:
        answer = await self._answer(data)
        self._metrics.reports.labels("refused" if isinstance(answer, Refused) else "told").inc()
        return encode(answer)

    async def spend_today(self) -> Decimal | None:
        """In USD, without asking the meter: tokens divide the spend, they do not change it. None: not known."""
        now = self._now()
        window = day_window(datetime.fromtimestamp(now, UTC).date().isoformat())
        allocation = await asyncio.to_thread(self._allocation, await self._books.day(window), window, None, now)
        return usd(allocation.spend) if state_of(allocation) is not None else None

    async def of(self, day: str) -> DayReport:
        """The day's figures, kept where they are new. `Refusal` without the meter, or what `AWAY` lists."""
        window = day_window(day)
        async with self._one:
            asked = TokensQuery(day=day, by=("tier", "outcome"), busy=True)
            return await self._report(day, window, await self._meter.tokens(asked))

    async def _answer(self, data: bytes) -> DayReport | Refused:
        try:
            day = decode(data, ReportQuery).day
            day_window(day)
        except Unreadable as error:
            return Refused(reason=str(error))
        except ValueError as error:
            return Refused(reason=f"day: {error}")
        try:
            return await self.of(day)
        except Refusal as error:
            return Refused(reason=str(error))
        except AWAY as error:
            log.warning("the books cannot be used", reason=told(error))
            return Refused(reason="the books' database does not answer: ask again later")

    async def _report(self, day: str, window: Window, tokens: Tokens) -> DayReport:
        now = self._now()
        records = await self._books.day(window)
        # In a thread: a day of a large account must not keep the lease from being renewed.
        allocation = await asyncio.to_thread(self._allocation, records, window, tokens, now)
        sources = tuple(f"{file.file_name} from {file.source}, SHA-256 {file.sha256}" for file in records.files)
        report = make_report(day, allocation, tokens, self._settings.weights, sources)
        inputs = self._inputs(records, tokens)
        digest = hashlib.sha256(inputs).hexdigest()
        newest = await self._books.newest(day)
        report = revised(report, digest, newest)
        if newest is None or report.revision != newest[0].revision:
            await self._books.keep(report, inputs.decode(), digest, now)
        return report

    def _allocation(self, records: DayRecords, window: Window, tokens: Tokens | None, now: float) -> Allocation:
        busy = {} if tokens is None else tokens.busy
        times = {
            machine: MachineTime(
                intervals(changes, millis(now)),
                [Window(millis(start), millis(end)) for start, end in busy.get(machine, ())],
            )
            for machine, changes in records.changes.items()
        }
        facts = DayFacts(
            day=window,
            now=millis(now),
            rows=records.rows,
            fleet=self._settings.fleet,
            times=times,
            tokens={} if tokens is None else served_by_tier(tokens),
            prices=self._settings.prices,
        )
        return allocate(facts)

    def _inputs(self, records: DayRecords, tokens: Tokens) -> bytes:
        """What the figures were made from, as JSON; equal inputs are equal bytes."""
        changes = [[machine, [[c.at, c.state] for c in made]] for machine, made in sorted(records.changes.items())]
        told: dict[str, object] = {
            "files": [asdict(file) for file in records.files],
            "served": tokens.served,
            "tokens": sorted(tokens.rows, key=lambda row: sorted(row.dimensions.items())),
            "busy_sha256": _sha256(tokens.busy),
            "transitions_sha256": _sha256(changes),
            "settings_sha256": self._settings.digest,
        }
        return msgspec.json.encode(told, order="deterministic")


def _sha256(data: object) -> str:
    return hashlib.sha256(msgspec.json.encode(data, order="deterministic")).hexdigest()
