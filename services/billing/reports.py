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
from services.billing.metrics import Metrics
from services.billing.settings import Settings
from shared.bus import subjects
from shared.bus.ports import Bus
from shared.database import AWAY, told
from shared.errors import BusUnavailable, Refusal
from shared.messages.billing import DayReport, ReportQuery
from shared.messages.codec import Unreadable, decode, encode
from shared.messages.meter import Refused, Tokens, TokensQuery

log = structlog.get_logger()

METER_SECONDS = 10.0
"""For a day's sums: the ledger answers in milliseconds, its database may be busy for seconds."""
_answers: msgspec.json.Decoder[Tokens | Refused] = msgspec.json.Decoder(Tokens | Refused)


class Reports:
    """The figures of days. One at a time, so that revisions have an order."""

    def __init__(
        self, bus: Bus, books: Books, settings: Settings, metrics: Metrics, *, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._books = books
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._one = asyncio.Lock()

    async def answer(self, data: bytes) -> bytes:
        async with self._one:
            answer = await self._answer(data)
        self._metrics.reports.labels("refused" if isinstance(answer, Refused) else "told").inc()
        return encode(answer)

    async def spend_today(self) -> Decimal | None:
        """In USD, without asking the meter: tokens divide the spend, they do not change it. None: not known."""
        now = self._now()
        window = day_window(datetime.fromtimestamp(now, UTC).date().isoformat())
        allocation = await asyncio.to_thread(self._allocation, await self._books.day(window), window, None, now)
        return usd(allocation.spend) if state_of(allocation) is not None else None

    async def _answer(self, data: bytes) -> DayReport | Refused:
        try:
            query = decode(data, ReportQuery)
            window = day_window(query.day)
        except Unreadable as error:
            return Refused(reason=str(error))
        except ValueError as error:
            return Refused(reason=f"day: {error}")
        try:
            return await self._report(query.day, window, await self._tokens(query.day))
        except Refusal as error:
            return Refused(reason=str(error))
        except AWAY as error:
            log.warning("the books cannot be used", reason=told(error))
            return Refused(reason="the books' database does not answer: ask again later")

    async def _tokens(self, day: str) -> Tokens:
        """`Refusal` where the meter has no answer: without its tokens there is no figure."""
        asked = TokensQuery(day=day, by=("tier", "outcome"), busy=True)
        try:
            answer = _answers.decode(
                await self._bus.request(subjects.METER_TOKENS, encode(asked), timeout=METER_SECONDS)
            )
        except BusUnavailable as error:
            raise Refusal(f"the meter does not answer ({error}): ask again when it runs") from error
        except msgspec.DecodeError as error:
            raise Refusal(f"the meter's answer is unreadable ({error}): run the same version of both") from error
        if isinstance(answer, Refused):
            raise Refusal(f"the meter refused: {answer.reason}")
        return answer

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
