"""Puts the meter together: the one place that names its concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.meter.adapters.audit_store import SqlAuditStore
from services.meter.adapters.confirmed_marks import SqlConfirmedMarks
from services.meter.adapters.engine_store import SqlEngineStore
from services.meter.adapters.gap_store import SqlGapStore
from services.meter.adapters.ledger import SqlLedger
from services.meter.adapters.performance import SqlPerformanceReader
from services.meter.adapters.quarantine_store import SqlQuarantineStore
from services.meter.adapters.sealing import Sealer
from services.meter.app.audit_leader import AuditLeader
from services.meter.app.auditor import Auditor
from services.meter.app.consumer import Consumer
from services.meter.app.gap_queries import GapQueries
from services.meter.app.known_names import KnownNames
from services.meter.app.progress_publisher import ProgressPublisher
from services.meter.app.queries import Backlog, LedgerQueries
from services.meter.app.recorder import Recorder
from services.meter.app.recount import QuarantineRecounter
from services.meter.app.recovery import Recovery
from services.meter.app.source_heartbeats import SourceHeartbeats
from services.meter.audit_metrics import AuditMetrics
from services.meter.metrics import Metrics
from shared import database
from shared.bus import subjects
from shared.bus.lease import Lease
from shared.errors import BusUnavailable
from shared.leadership import Leadership
from shared.periodic import PeriodicTask, PeriodicTasks, every
from shared.runtime.process import Runtime
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

COMPARISON = "comparison with the marks"
LEDGER_FILE = "ledger.sqlite"
MIGRATIONS = Path(__file__).parent / "adapters" / "migrations"
VERSION_TABLE = "ledger_version"
SWEEP_SECONDS = 10.0
"""How long an outbox keeps its events for nothing, and a quota is not known, after the bus lost its data."""
SEALING_STEPS = 10
"""Each sweep: as many events as a busy month makes in that time, and other writers get in between."""
RETRY_SECONDS = 1.0
LOOK_SECONDS = 2.0
"""How fresh the backlog is in the metrics."""


@asynccontextmanager
async def service(runtime: Runtime) -> AsyncIterator[None]:
    """The running meter. Leaving finishes the batch under way, within the drain's grace."""
    config, batch = runtime.config, runtime.config.meter.batch
    url = database.database_url(config, runtime.data_dir, LEDGER_FILE)
    async with database.migrated_engine(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        quarantine, book = SqlQuarantineStore(engine), SqlGapStore(engine)
        names = KnownNames(runtime.bus, quarantine, runtime.monotonic)
        ledger = SqlLedger(engine, frozenset(config.models))
        metrics = Metrics(runtime.registry)
        publisher = ProgressPublisher(runtime.bus, ledger, runtime.now)
        backlog = Backlog(runtime.bus, metrics.backlog, runtime.now)
        recorder = Recorder(ledger, publisher, metrics, names.vet, keep=config.meter.keep_events, now=runtime.now)
        consumer = Consumer(runtime.bus, recorder, batch=batch, monotonic=runtime.monotonic, stopped=runtime.stopped)
        recovery = Recovery(runtime.bus, SqlConfirmedMarks(engine), recorder, metrics, batch=batch, now=runtime.now)
        recount = QuarantineRecounter(quarantine, names, recorder, batch=batch)
        works = PeriodicTasks(runtime.registry)
        await names.start()
        await _compare(recovery, works)
        heartbeats = SourceHeartbeats(runtime.bus, book, runtime.now, names.on_gateway)
        listening = await runtime.bus.subscribe(subjects.ACTIVITIES, heartbeats.heard)
        runtime.health.add_check("database", lambda: ledger.fault)
        runtime.health.add_check("consumer", lambda: consumer.fault)
        consuming = runtime.spawn(consumer.run(), "consumer")
        runtime.health.add_check("work", lambda: works.fault)
        sweeps = {
            "sealing of old days": _sealing(runtime, engine, metrics),
            "sweep of the ledger": publisher.sweep,
            COMPARISON: recovery.compare,
            "what gateways say": heartbeats.sweep,
            "ids of keys": names.keep,
            "recount of known names": recount.count_known,
        }
        repeated = [
            runtime.spawn(works.repeat(work), work.name)
            for work in (
                PeriodicTask(name="look at the backlog", run=backlog.look, pause=every(LOOK_SECONDS)),
                *_works(sweeps),
            )
        ]
        queries = LedgerQueries(
            ledger,
            SqlPerformanceReader(engine),
            backlog,
            recovery,
            now=runtime.now,
            silence=config.meter.source_silence,
        )
        gaps = GapQueries(book, runtime.now)
        lease = Lease(runtime.bus, subjects.METER_LEASE, runtime.instance, runtime.monotonic)
        audit_metrics = AuditMetrics(runtime.registry)
        auditor = Auditor(runtime.bus, SqlAuditStore(engine), queries.tokens, audit_metrics, runtime.now)
        handlers = _handlers(queries, gaps, recovery, recount, auditor)
        answering = [await runtime.bus.respond("meter", subject, handle) for subject, handle in handlers.items()]
        leader = AuditLeader(runtime, SqlEngineStore(engine), auditor, audit_metrics, recovery)
        leadership = Leadership(leader.begin, works)
        leading = [runtime.keep_lease(lease), runtime.spawn(leadership.run(lease), "audit")]
        try:
            yield
        finally:
            for handle in (*answering, listening, names):
                await handle.stop()
            await asyncio.wait([consuming], timeout=config.meter.drain_grace)
            # All of them work with the engine that is closed next.
            await cancel_and_wait([consuming, *repeated, *leading])
            await lease.release()


def _handlers(
    queries: LedgerQueries, gaps: GapQueries, recovery: Recovery, recount: QuarantineRecounter, auditor: Auditor
) -> dict[str, Callable[[bytes], Awaitable[bytes]]]:
    """What answers the requests on each subject."""
    return {
        subjects.METER_TOKENS: queries.tokens,
        subjects.METER_HISTORY: queries.history,
        subjects.METER_FIGURES: queries.figures,
        subjects.METER_GAPS: gaps.gaps,
        subjects.METER_LOST: gaps.lost,
        subjects.METER_REREAD: recovery.reread,
        subjects.METER_RECOUNT: recount.answer,
        subjects.METER_AUDIT: auditor.answer,
    }


def _works(sweeps: Mapping[str, Callable[[], Awaitable[None]]]) -> Iterator[PeriodicTask]:
    return (PeriodicTask(name=name, run=do, pause=every(SWEEP_SECONDS)) for name, do in sweeps.items())


def _sealing(runtime: Runtime, engine: AsyncEngine, metrics: Metrics) -> Callable[[], Awaitable[None]]:
    sealer = Sealer(engine, runtime.config.meter.keep_events)

    async def seal() -> None:
        metrics.sealed.inc(await sealer.seal(runtime.now(), most=SEALING_STEPS))

    return seal


async def _compare(recovery: Recovery, works: PeriodicTasks) -> None:
    """Wait for the first comparison: a ledger that went back would take its days for complete.

    Whatever fails but the bus and the database concerns the comparison alone. It is repeated beside the other work, and
    no day is complete before it has succeeded.
    """
    while True:
        try:
            return await recovery.compare()
        except (BusUnavailable, *database.DATABASE_ERRORS) as error:
            log.warning("the marks cannot be compared, trying again", reason=database.describe(error))
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever it is, events are counted
            works.record_failure(COMPARISON, error, 1)
            return None
