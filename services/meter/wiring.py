"""Assembles the meter: the only place that names its concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.confirmed_marks import SqlConfirmedMarks
from services.meter.adapters.engine_store import SqlEngineStore
from services.meter.adapters.gap_store import SqlGapStore
from services.meter.adapters.key_store import SqlKeyStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.otlp_client import OtlpClient
from services.meter.adapters.performance import SqlPerformanceReader
from services.meter.adapters.quarantine_store import SqlQuarantineStore
from services.meter.adapters.response_store import SqlResponseStore
from services.meter.adapters.schema import LEDGER_FILE, MIGRATIONS, VERSION_TABLE
from services.meter.adapters.scraper import MetricsScraper
from services.meter.adapters.sealing import Sealer
from services.meter.app.audit_leader import AuditLeader
from services.meter.app.auditor import Auditor
from services.meter.app.consumer import Consumer
from services.meter.app.gap_queries import GapQueries
from services.meter.app.key_copies import KeyCopies
from services.meter.app.known_names import KnownNames
from services.meter.app.ledger_gauges import LedgerGauges
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.app.queries import Backlog, LedgerQueries
from services.meter.app.recorder import Recorder
from services.meter.app.recount import QuarantineRecounter
from services.meter.app.recovery import Recovery
from services.meter.app.response_recorder import ResponseRecorder
from services.meter.app.source_heartbeats import SourceHeartbeats
from services.meter.app.telemetry import TelemetryExporter
from services.meter.core.otlp import Sender
from services.meter.metrics import AuditMetrics, Metrics, TelemetryMetrics
from shared import database
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.engine_keys import EngineKeys
from shared.errors import BusUnavailable
from shared.leadership import Leadership
from shared.messages.gateway import UsageEvent
from shared.periodic import PeriodicTask, PeriodicTasks, every
from shared.runtime.process import Runtime
from shared.tasks import cancel_and_wait
from shared.version import VERSION

log = structlog.get_logger()

COMPARISON = "comparison with the marks"
SWEEP_SECONDS = 10.0
"""After the bus lost its data: how long an outbox keeps events needlessly, and a quota is unknown."""
SEALING_STEPS = 10
"""Per sweep: as many events as a busy month makes in that time, with room for other writers in between."""
RETRY_SECONDS = 1.0
GAUGES_SECONDS = 60.0
"""How old the open gaps and incomplete days in the metrics may be; between two looks for old counts of responses."""
BACKLOG_SECONDS = 2.0
"""How old the backlog in the metrics may be, and how long counts of responses wait for the ledger."""


@asynccontextmanager
async def service(runtime: Runtime) -> AsyncIterator[None]:
    """Run the meter. Leaving finishes the current batch, within the drain's grace."""
    bus, now, settings = runtime.bus, runtime.now, runtime.config.meter
    tasks = PeriodicTasks(runtime.registry)
    async with (
        _telemetry(runtime) as on_counted,
        _open_database(runtime) as engine,
        _responses(runtime, engine, tasks) as responses,
    ):
        quarantine, gap_store, batch_size = SqlQuarantineStore(engine), SqlGapStore(engine), settings.batch
        metrics = Metrics(runtime.registry)
        key_copies = KeyCopies(SqlKeyStore(engine), metrics)
        names = KnownNames(bus, quarantine, runtime.monotonic, key_copies.on_key)
        ledger = SqlLedger(engine, frozenset(runtime.config.models))
        publisher = ProgressPublisher(bus, ledger, now)
        backlog = Backlog(bus, metrics, now)
        recorder = Recorder(
            ledger, publisher, metrics, names.vet, keep_events_s=settings.keep_events, now=now, on_counted=on_counted
        )
        consumer = Consumer(bus, recorder, batch_size=batch_size, monotonic=runtime.monotonic, stopped=runtime.stopped)
        recovery = Recovery(
            bus, SqlConfirmedMarks(engine), recorder, metrics, responses.read_again, batch_size=batch_size, now=now
        )
        recount = QuarantineRecounter(quarantine, names, recorder, batch_size=batch_size)
        await names.start()
        await _compare(recovery, tasks)
        heartbeats = SourceHeartbeats(bus, gap_store, now, names.on_gateway)
        subscription = await bus.subscribe(subjects.ACTIVITIES, heartbeats.on_activity)
        runtime.health.add_check("database", lambda: ledger.fault)
        runtime.health.add_alarm("keys", lambda: key_copies.fault)
        runtime.health.add_check("consumer", lambda: consumer.fault)
        consuming = runtime.spawn(consumer.run(), "consumer")
        runtime.health.add_check("work", lambda: tasks.fault)
        sweeps = {
            "sealing of old days": _sealing(runtime, engine, metrics),
            "sweep of the ledger": publisher.sweep,
            "size of the stream": backlog.read_size,
            COMPARISON: recovery.compare,
            "what gateways say": heartbeats.flush,
            "ids of keys": names.store_new_keys,
            "recount of known names": recount.recount_new_names,
        }
        refresh = PeriodicTask(name="look at the backlog", run=backlog.refresh, pause=every(BACKLOG_SECONDS))
        copy = PeriodicTask(name="copy of keys", run=key_copies.refresh, pause=key_copies.wait)
        queries = LedgerQueries(
            ledger, SqlPerformanceReader(engine), backlog, recovery, now=now, source_silence_s=settings.source_silence
        )
        gauges = LedgerGauges(gap_store, queries.read_tokens, metrics, now)
        gauge = PeriodicTask(name="gauges of the ledger", run=gauges.refresh, pause=every(GAUGES_SECONDS))
        repeated = [runtime.spawn(tasks.repeat(one), one.name) for one in (refresh, copy, gauge, *_periodic(sweeps))]
        audit_metrics = AuditMetrics(runtime.registry)
        auditor = Auditor(bus, SqlAuditStore(engine), queries.handle_tokens, audit_metrics, now)
        handlers = _handlers(queries, GapQueries(gap_store, now), recovery, recount, auditor)
        handlers[subjects.METER_KEYS] = key_copies.handle_keys
        responders = [await bus.respond("meter", subject, handle) for subject, handle in handlers.items()]
        leader = _audit_leader(runtime, engine, auditor, audit_metrics, recovery)
        lease = Lease(bus, subjects.METER_LEASE, runtime.instance, runtime.monotonic)
        leading = [
            runtime.keep_lease(lease, lambda: not ledger.is_outdated),
            runtime.spawn(Leadership(leader.begin, tasks).run(lease), "audit"),
        ]
        try:
            yield
        finally:
            for handle in (*responders, subscription, names):
                await handle.stop()
            await asyncio.wait([consuming], timeout=settings.drain_grace)
            # All of them use the database engine, which is closed next.
            await cancel_and_wait([consuming, *repeated, *leading])
            await lease.release()


@asynccontextmanager
async def _responses(runtime: Runtime, engine: AsyncEngine, tasks: PeriodicTasks) -> AsyncIterator[ResponseRecorder]:
    """Keep how gateways answered."""
    responses = ResponseRecorder(runtime.bus, SqlResponseStore(engine), runtime.now)
    await responses.start()
    responder = await runtime.bus.respond("meter", subjects.METER_RESPONSES, responses.handle_responses)
    store = PeriodicTask(name="responses", run=responses.flush, pause=every(BACKLOG_SECONDS))
    fold = PeriodicTask(name="responses of old days", run=responses.fold, pause=every(GAUGES_SECONDS))
    running = [runtime.spawn(tasks.repeat(task), task.name) for task in (store, fold)]
    try:
        yield responses
    finally:
        await responder.stop()
        await responses.stop()
        await cancel_and_wait(running)


def _open_database(runtime: Runtime) -> AbstractAsyncContextManager[AsyncEngine]:
    url = database.database_url(runtime.config, runtime.data_dir, LEDGER_FILE)
    on_fault = partial(runtime.health.report, "database")
    return database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE, on_fault=on_fault)


@asynccontextmanager
async def _telemetry(runtime: Runtime) -> AsyncIterator[Callable[[Collection[UsageEvent]], None]]:
    """Yield what takes counted events. Leaving sends the last of them, once the ledger is closed."""
    metrics, endpoint = TelemetryMetrics(runtime.registry), runtime.config.otel.endpoint
    if endpoint is None:
        yield lambda _: None
        return
    resource = {"service.name": "spotinference", "service.instance.id": runtime.instance, "service.version": VERSION}
    client = OtlpClient(endpoint)
    exporter = TelemetryExporter(client, Sender(resource, "spotinference.meter", VERSION), metrics, now=runtime.now)
    running = runtime.spawn(exporter.run(), "telemetry")
    try:
        yield exporter.offer
    finally:
        await exporter.flush()
        await cancel_and_wait([running])
        await client.close()


def _handlers(
    queries: LedgerQueries, gaps: GapQueries, recovery: Recovery, recount: QuarantineRecounter, auditor: Auditor
) -> dict[str, Callable[[bytes], Awaitable[bytes]]]:
    """Return the handler of each request subject."""
    return {
        subjects.METER_TOKENS: queries.handle_tokens,
        subjects.METER_HISTORY: queries.handle_history,
        subjects.METER_FIGURES: queries.handle_figures,
        subjects.METER_GAPS: gaps.handle_gaps,
        subjects.METER_LOST: gaps.handle_lost,
        subjects.METER_REREAD: recovery.handle_reread,
        subjects.METER_RECOUNT: recount.handle_recount,
        subjects.METER_AUDIT: auditor.handle_audit,
    }


def _audit_leader(
    runtime: Runtime, engine: AsyncEngine, auditor: Auditor, metrics: AuditMetrics, recovery: Recovery
) -> AuditLeader:
    def open_scraper() -> MetricsScraper:
        return MetricsScraper(find_key=EngineKeys(runtime.config).find)

    return AuditLeader(
        runtime, SqlEngineStore(engine), open_scraper, auditor=auditor, metrics=metrics, recovery=recovery
    )


def _periodic(sweeps: Mapping[str, Callable[[], Awaitable[None]]]) -> Iterator[PeriodicTask]:
    return (PeriodicTask(name=name, run=run, pause=every(SWEEP_SECONDS)) for name, run in sweeps.items())


def _sealing(runtime: Runtime, engine: AsyncEngine, metrics: Metrics) -> Callable[[], Awaitable[None]]:
    sealer = Sealer(engine, runtime.config.meter.keep_events)

    async def seal() -> None:
        metrics.sealed.inc(await sealer.seal(runtime.now(), max_steps=SEALING_STEPS))

    return seal


async def _compare(recovery: Recovery, tasks: PeriodicTasks) -> None:
    """Wait for the first comparison: a ledger that went back would report its days as complete.

    Any failure other than of the bus or the database concerns the comparison alone. It is retried beside the other
    work, and no day is complete before it has succeeded.
    """
    while True:
        try:
            return await recovery.compare()
        except (BusUnavailable, *database.DATABASE_ERRORS) as error:
            log.warning("mark_comparison_failed", reason=database.describe(error), retry_in_s=RETRY_SECONDS)
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever it is, events are counted
            tasks.record_failure(COMPARISON, error, 1)
            return None
