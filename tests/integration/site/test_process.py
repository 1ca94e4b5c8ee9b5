"""The site as a process on a real bus, killed with -9 while it reads the journal."""

import asyncio
from pathlib import Path

from services.site.adapters.schema import SITE_FILE
from services.site.adapters.wake_store import SqlWakeStore
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import WAKE_HISTORY
from shared.database import create_engine
from tests.integration.site.test_wakes import month_of_journal, oracle, summary
from tests.kit.service import ServiceProcess
from tests.kit.waiting import until
from tests.unit.site.journal import messages


async def test_no_wake_is_lost_or_doubled_when_the_site_is_killed(
    tmp_path: Path, bus: JetStreamBus, nats_url: str
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(f'[bus]\nurl = "{nats_url}"\n[site]\nport = 0\nmetrics_port = 0\n')
    entries = month_of_journal()
    site = ServiceProcess("site", config, tmp_path)

    async def publish() -> None:
        for subject, data in messages(entries):
            await bus.publish(subject, data)

    publishing = asyncio.create_task(publish())
    engine = create_engine(f"sqlite+aiosqlite:///{tmp_path / SITE_FILE}")
    store = SqlWakeStore(engine)
    try:
        await site.start()
        await until(lambda: bus.backlog(WAKE_HISTORY), lambda backlog: 0 < backlog < len(entries))
        await site.kill9()
        await publishing
        await site.start()
        await until(lambda: summary(store), lambda wakes: wakes == oracle(entries))
        assert await site.stop() == 0
    finally:
        publishing.cancel()
        await engine.dispose()
        if site.process is not None and site.process.returncode is None:
            await site.kill9()
