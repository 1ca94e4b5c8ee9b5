"""Puts the meter together: the one place that names its concrete classes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from services.meter.adapters.figures import FiguresReader
from services.meter.adapters.ledger import Ledger
from services.meter.answers import Answers, Backlog
from services.meter.consumer import Consumer
from services.meter.metrics import Metrics
from services.meter.teller import Teller
from shared import database
from shared.bus import subjects
from shared.errors import BusUnavailable
from shared.runtime.process import Runtime
from shared.tasks import end

log = structlog.get_logger()

LEDGER_FILE = "ledger.sqlite"
MIGRATIONS = Path(__file__).parent / "migrations"
VERSION_TABLE = "ledger_version"
SWEEP_SECONDS = 10.0
"""How long an outbox keeps its events for nothing, and a quota is not known, after the bus lost its data."""
LOOK_SECONDS = 2.0
"""How fresh the backlog is in the metrics."""


@asynccontextmanager
async def opened(runtime: Runtime) -> AsyncIterator[None]:
    """The running meter. Leaving finishes the batch under way, within the drain's grace."""
    config = runtime.config
    url = database.url_of(config, runtime.data_dir, LEDGER_FILE)
    async with database.opened(url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        ledger = Ledger(engine)
        metrics = Metrics(runtime.registry)
        teller = Teller(runtime.bus, ledger, runtime.now)
        backlog = Backlog(runtime.bus, metrics.backlog, runtime.now)
        consumer = Consumer(
            runtime.bus,
            ledger,
            teller,
            metrics,
            batch=config.meter.batch,
            now=runtime.now,
            monotonic=runtime.monotonic,
            stopped=runtime.stopped,
        )
        runtime.health.add("database", lambda: ledger.fault)
        runtime.health.add("consumer", lambda: consumer.fault)
        consuming = runtime.spawn(consumer.run(), "consumer")
        sweeping = runtime.spawn(_every(SWEEP_SECONDS, teller.sweep), "sweep of the ledger")
        looking = runtime.spawn(_every(LOOK_SECONDS, backlog.look), "look at the backlog")
        answers = Answers(ledger, FiguresReader(engine), backlog)
        answering = [
            await runtime.bus.respond("meter", subjects.METER_TOKENS, answers.tokens),
            await runtime.bus.respond("meter", subjects.METER_HISTORY, answers.history),
            await runtime.bus.respond("meter", subjects.METER_FIGURES, answers.figures),
        ]
        try:
            yield
        finally:
            for responding in answering:
                await responding.stop()
            await asyncio.wait([consuming], timeout=config.meter.drain_grace)
            # All three work with the engine that is closed next.
            await end([consuming, sweeping, looking])


async def _every(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except (BusUnavailable, *database.AWAY) as error:
            log.warning("not done, trying again", work=work.__qualname__, reason=database.told(error))
        await asyncio.sleep(seconds)
