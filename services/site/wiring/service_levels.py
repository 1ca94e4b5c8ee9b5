"""Builds the pages about how well the service does: status, performance, reliability."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from services.site.adapters.pruner import Pruner
from services.site.adapters.wake_store import SqlWakeStore
from services.site.app.journal_reader import JournalReader
from services.site.app.page import Page
from services.site.app.performance import PerformancePage, performance_rows
from services.site.app.reliability import ReliabilityPage, reliability_rows
from services.site.app.report_view import ReportView
from services.site.app.status import StatusPage
from shared.periodic import PeriodicTask, PeriodicTasks, every
from shared.runtime.process import Runtime
from shared.tasks import cancel_and_wait
from shared.units import HOUR_S

READ_PAUSE_S = 0.5
"""Between two batches of the journal: how late a page may learn of a wake."""

PRUNE_PAUSE_S = HOUR_S


@asynccontextmanager
async def open_journal(runtime: Runtime, engine: AsyncEngine) -> AsyncIterator[JournalReader]:
    """Copy the fleet's journal into the database, and remove from the database what is too old."""
    reader = JournalReader(runtime.bus, SqlWakeStore(engine), runtime.now)
    pruner = Pruner(engine, audit_kept_s=runtime.config.site.audit_kept)
    tasks = PeriodicTasks(runtime.registry)
    runtime.health.add_alarm("work", lambda: tasks.fault)
    running = [
        runtime.spawn(tasks.repeat(task), task.name)
        for task in (
            PeriodicTask(name="journal of the fleet", run=reader.read_batch, pause=every(READ_PAUSE_S)),
            PeriodicTask(name="pruning", run=lambda: pruner.prune(runtime.now()), pause=every(PRUNE_PAUSE_S)),
        )
    ]
    try:
        yield reader
    finally:
        async with reader.writing, pruner.writing:
            await cancel_and_wait(running)  # they use the engine, which is closed next


def service_level_pages(
    runtime: Runtime, engine: AsyncEngine, reports: ReportView, status: StatusPage, journal: JournalReader
) -> list[Page]:
    cap_s = float(runtime.config.wake_cap)
    reliability = ReliabilityPage(runtime.bus, SqlWakeStore(engine), journal, cap_s=cap_s, now=runtime.now)
    return [
        Page(
            path="/performance",
            label="Performance",
            template="performance.html",
            load=PerformancePage(runtime.bus, reports, runtime.now).load,
            rows=performance_rows,
            fresh_s=60.0,
        ),
        Page(
            path="/reliability",
            label="Reliability",
            template="reliability.html",
            load=reliability.load,
            rows=reliability_rows,
            fresh_s=60.0,
        ),
        Page(path="/status", label="Status", template="status.html", load=status.load, fresh_s=2.0, max_age_s=2),
    ]
