"""The machines' transitions get into the books, and again into books that were restored from an older copy."""

from prometheus_client import CollectorRegistry
from sqlalchemy import delete, func, select

from services.billing.adapters.schema import MIGRATIONS, VERSION_TABLE
from services.billing.adapters.tables import transitions
from services.billing.adapters.transition_store import SqlTransitionStore
from services.billing.app.fleet_journal import FleetJournalReader
from services.billing.metrics import Metrics
from shared import database
from shared.bus import subjects
from shared.bus.memory import MemoryBus
from shared.messages.codec import encode
from shared.messages.waker import MachineState, Transition
from tests.unit.meter.events import MIDNIGHT

STATES: tuple[MachineState, ...] = ("waking", "ready", "draining", "falling_asleep", "asleep")


async def test_books_that_went_back_read_the_journal_again_from_where_they_stand(books_url: str) -> None:
    bus, metrics = MemoryBus(), Metrics(CollectorRegistry())
    for n, state in enumerate(STATES * 3):
        entry = Transition(
            machine="m-1",
            generation=1,
            at=MIDNIGHT + 7200.0 * n,
            from_state=None,
            to_state=state,
            reason="",
            tier="lab",
            wake_id=None,
        )
        await bus.publish(subjects.journal("m-1"), encode(entry))
    await bus.publish(subjects.journal("m-1"), b"junk")
    async with database.migrated_engine(books_url, MIGRATIONS, version_table=VERSION_TABLE) as engine:
        books = SqlTransitionStore(engine)

        async def kept() -> int:
            async with database.read_transaction(engine) as connection:
                return int((await connection.execute(select(func.count()).select_from(transitions))).scalar_one())

        assert await books.newest() is None
        running = FleetJournalReader(bus, books, metrics)
        await running.read_batch()
        assert await kept() == len(STATES * 3)
        for lost in (4, 15):
            later = transitions.c.at >= (MIDNIGHT + 7200.0 * (15 - lost)) * 1000
            async with engine.begin() as connection:
                await connection.execute(delete(transitions).where(later))
            assert await kept() == 15 - lost
            # The same process: its database failed over. And another one: it was restored while none ran.
            await (running if lost == 4 else FleetJournalReader(bus, books, metrics)).read_batch()
            assert await kept() == 15, "the consumer brings none of them"
