"""Answers `billing.report`: makes the figures of a day from charges and tokens, and keeps each revision."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import structlog

from services.billing.app.database_outage import DATABASE_DOWN
from services.billing.app.key_names import KeyNamesById
from services.billing.app.meter_client import MeterClient
from services.billing.core.allocation.charge_groups import is_early
from services.billing.core.allocation.day_allocation import Allocation, allocate
from services.billing.core.allocation.day_costs import DayInputs
from services.billing.core.allocation.machine_time import MachineTime, build_intervals
from services.billing.core.day_records import DayRecords
from services.billing.core.money import to_usd
from services.billing.core.reconciliation import is_settled, period_of
from services.billing.core.reports.bill_coverage import last_charges
from services.billing.core.reports.charge_list import ListedCharge, list_charges
from services.billing.core.reports.cost_lines import ChargeOrigin, CostLines, build_cost_lines, to_explanations
from services.billing.core.reports.day_report import always_on_cost, build_day_report
from services.billing.core.reports.key_names import add_key_names
from services.billing.core.revisions.change_reason import change_reason
from services.billing.core.revisions.charge_digest import charges_by_source
from services.billing.core.revisions.revision import FileInput, RevisionInputs, needs_revision, next_revision, sha256
from services.billing.core.revisions.trail import DayTrace
from services.billing.core.token_usage import DIMENSIONS, TokenUsage, token_usage, total_tokens
from services.billing.core.utc_time import Window, day_window
from services.billing.metrics import Metrics
from services.billing.ports import DayStore, RevisionStore
from services.billing.settings import Settings
from shared.bus.reply import MAX_REPLY_BYTES, attempt_query
from shared.errors import Rejected
from shared.messages.billing import DayReport, ReportQuery
from shared.messages.codec import encode
from shared.messages.invoices import InvoiceStanding
from shared.messages.meter import ErrorReply, Tokens, TokensQuery
from shared.units import to_millis

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class _Day:
    """The inputs of a day's figures, read at `now` (Unix milliseconds)."""

    window: Window
    records: DayRecords
    times: Mapping[str, MachineTime]
    usage: TokenUsage
    now: int
    settings: Settings
    """Those of the day."""
    was_final: bool = False
    on_bill: frozenset[str] = frozenset()
    """Machines that have charges on some day of the billing periods, where that matters."""

    @property
    def settled(self) -> bool:
        """Whether it and all billing periods that it waits for are over, and their bills tie.

        A day that was final stays so: an invoice of other days brings no estimate back into it.
        """
        invoices = self.records.invoices
        return self.was_final or (
            self.window.end <= self.now
            and is_settled(invoices)
            and all(period_of(invoice).end <= self.now for invoice in invoices)
        )


class _Read(NamedTuple):
    """A day's report and its inputs."""

    report: DayReport
    facts: DayInputs
    origins: Sequence[ChargeOrigin]
    """Where each of the rows is from."""
    allocation: Allocation
    invoices: Sequence[InvoiceStanding]


class DayReports:
    """Makes the reports of days, one at a time, so that revisions have an order."""

    def __init__(
        self,
        meter: MeterClient,
        store: DayStore,
        revisions: RevisionStore,
        settings: Settings,
        metrics: Metrics,
        *,
        published: Callable[[str], Awaitable[int]],
        now: Callable[[], float],
        names: KeyNamesById = dict,
    ) -> None:
        """`published` returns a day's last published revision, 0 if there is none. `names` are the keys' names."""
        self._meter = meter
        self._names = names
        self._store = store
        self._revisions = revisions
        self._settings = settings
        self._metrics = metrics
        self._published = published
        self._now = now
        self._lock = asyncio.Lock()

    async def answer(self, data: bytes) -> bytes:
        answer = await attempt_query(data, ReportQuery, self._answer, DATABASE_DOWN)
        self._metrics.reports.labels("refused" if isinstance(answer, ErrorReply) else "told").inc()
        return encode(fit_to_message(add_key_names(answer, self._names())) if isinstance(answer, DayReport) else answer)

    async def allocate_today(self) -> Allocation:
        """Return today's spend for the budget gates, without the meter: tokens divide the spend but do not change it.

        Credits for hours that are not over do not count: no delivery may open the gate for later hours.
        """
        now = self._now()
        window = day_window(datetime.fromtimestamp(now, UTC).date().isoformat())
        records = await self._store.read(window)
        rows = [row for row in records.rows if row.billed >= 0 or not is_early(row, to_millis(now))]
        day = self._day(window, replace(records, rows=rows), None, now)
        return await asyncio.to_thread(allocate, self._facts(day))

    async def report(self, day: str) -> DayReport:
        """Return the day's report, stored if it is new. Raises `Rejected` without the meter, or `DATABASE_ERRORS`."""
        return (await self._read(day))[0]

    async def explain(self, day: str) -> tuple[DayReport, CostLines]:
        """Return the report and the lines of its figures, read at one moment, so that each figure equals its sum."""
        report, facts, origins, allocation, _ = await self._read(day)
        if not report.causes:  # an unknown figure has no lines, not even 0
            return report, CostLines()
        return report, await asyncio.to_thread(build_cost_lines, facts, origins, allocation)

    async def trace(self, day: str) -> DayTrace:
        """Return the report with all that it was made from, read at one moment."""
        read = await self._read(day)
        if not read.report.causes:
            return DayTrace(read.report, CostLines(), [], {}, read.invoices)
        lines, charges = await asyncio.to_thread(_trace, read)
        return DayTrace(read.report, lines, charges, read.allocation.estimate_parts, read.invoices)

    async def _read(self, day: str) -> _Read:
        window = day_window(day)
        async with self._lock:
            answer = await self._meter.tokens(TokensQuery(day=day, by=DIMENSIONS, busy=True))
            now = self._now()
            records = await self._store.read(window)
            newest = await self._revisions.newest(day)
            day_state = self._day(window, records, answer, now, was_final=newest is not None and newest.was_final)
            facts = self._facts(day_state)
            # In a thread: a large account's day must not delay the renewal of the lease.
            allocation = await asyncio.to_thread(allocate, facts)
            if day_state.settled and allocation.unbilled:
                day_state = replace(day_state, on_bill=await self._on_bill(day_state))
                facts = self._facts(day_state)
                allocation = await asyncio.to_thread(allocate, facts)
            report, inputs = await asyncio.to_thread(self._make_report, day, day_state, allocation, answer)
            if newest is not None and not needs_revision(report, inputs, newest):
                return _Read(newest.report, facts, records.origins, allocation, records.invoices)
            published = await self._published(day)
            if newest is None:
                report = msgspec.structs.replace(report, revision=published + 1)
            else:
                report, inputs = next_revision(report, inputs, newest, change_reason(report, inputs, newest), published)
            await self._revisions.save(report, inputs, now)
            return _Read(report, facts, records.origins, allocation, records.invoices)

    async def _on_bill(self, day: _Day) -> frozenset[str]:
        """The machines for whose use there are charges in the billing periods that have the day."""
        periods = [period for one in day.records.invoices if (period := period_of(one)).overlap(day.window).length]
        start = min((period.start for period in periods), default=day.window.start)
        end = max((period.end for period in periods), default=day.window.end)
        return frozenset(last_charges(await self._store.reaches(Window(start, end)), day.settings.fleet))

    async def _answer(self, query: ReportQuery) -> DayReport:
        try:
            day_window(query.day)
        except ValueError as error:
            raise Rejected(f"day: {error}") from error
        if not query.explain:
            return await self.report(query.day)
        report, lines = await self.explain(query.day)
        return msgspec.structs.replace(report, explanations=to_explanations(lines))

    def _make_report(
        self, name: str, day: _Day, allocation: Allocation, answer: Tokens
    ) -> tuple[DayReport, RevisionInputs]:
        elapsed = Window(day.window.start, max(day.window.start, min(day.window.end, day.now)))
        report = build_day_report(
            name,
            allocation,
            day.usage,
            day.settings.weights,
            sources=tuple(f"{f.file_name} from {f.source}, SHA-256 {f.sha256}" for f in day.records.files),
            always_on=always_on_cost(
                day.settings.machines, day.settings.prices, elapsed, total_tokens(day.usage.total)
            ),
            settled=day.settled,
        )
        return report, self._inputs(day, answer, allocation)

    def _day(
        self, window: Window, records: DayRecords, answer: Tokens | None, now: float, *, was_final: bool = False
    ) -> _Day:
        busy = {} if answer is None else answer.busy
        times = {
            machine: MachineTime(
                build_intervals(changes, to_millis(now)),
                [Window(to_millis(start), to_millis(end)) for start, end in busy.get(machine, ())],
            )
            for machine, changes in records.changes.items()
        }
        describe = TokenUsage() if answer is None else token_usage(answer)
        return _Day(
            window=window,
            records=records,
            times=times,
            usage=describe,
            now=to_millis(now),
            settings=self._settings.at(window, records.fleets, to_millis(now)),
            was_final=was_final,
        )

    def _facts(self, day: _Day) -> DayInputs:
        return DayInputs(
            day=day.window,
            now=day.now,
            rows=day.records.rows,
            fleet=day.settings.fleet,
            times=day.times,
            tokens=day.usage.by_tier(),
            prices=day.settings.prices,
            accruals=day.records.accruals,
            settled=day.settled,
            on_bill=day.on_bill,
        )

    def _inputs(self, day: _Day, answer: Tokens, allocation: Allocation) -> RevisionInputs:
        records = day.records
        known = {
            # Without ends: the last one's is only how late it is.
            machine: [
                (max(i.window.start, day.window.start), i.spell, i.can_serve) for i in time.intervals_in(day.window)
            ]
            for machine, time in sorted(day.times.items())
        }
        return RevisionInputs(
            over=day.now >= day.window.end,
            files=tuple(
                FileInput(source=f.source, file_name=f.file_name, sha256=f.sha256, rows=f.rows) for f in records.files
            ),
            charges=sum(row.rows for row in records.rows),
            invoices=tuple((i.source, i.issuer, i.invoice_id or "", i.state) for i in records.invoices),
            accruals=sum(map(len, records.accruals.values())),
            accruals_sha256=sha256(records.accruals),
            transitions=sum(map(len, known.values())),
            transitions_sha256=sha256(known),
            served=day.usage.total,
            failed_tokens=day.usage.failed,
            usage_rows=len(answer.rows),
            usage_sha256=sha256(list(day.usage.served.items())),
            busy_sha256=sha256(answer.busy),
            usage_complete=answer.complete,
            usage_reasons=answer.reasons,
            settings_sha256=day.settings.digest,
            sources=charges_by_source(
                zip((origin.source for origin in records.origins), records.rows, strict=True), day.window
            ),
            estimate=to_usd(allocation.accrued),
            settings=day.settings.named,
        )


def _trace(read: _Read) -> tuple[CostLines, list[ListedCharge]]:
    made_from = read.facts, read.origins, read.allocation
    return build_cost_lines(*made_from), list_charges(*made_from)


def fit_to_message(report: DayReport) -> DayReport:
    """Drop the keys and then the explanations until the report fits into a message."""
    if len(encode(report)) <= MAX_REPLY_BYTES:
        return report
    report = msgspec.structs.replace(report, keys=(), left_out="keys")
    if len(encode(report)) <= MAX_REPLY_BYTES:
        return report
    return msgspec.structs.replace(report, explanations=(), left_out="keys; explanations")
