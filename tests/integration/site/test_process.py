"""The site as a process on a real bus: killed with -9 while it reads the journal, and without bus and database."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psycopg

from services.site.adapters.schema import SITE_FILE
from services.site.adapters.wake_store import SqlWakeStore
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import WAKE_HISTORY
from shared.database import create_engine
from tests.integration.site.test_wakes import month_of_journal, oracle, summary
from tests.kit.nats_server import NatsServer
from tests.kit.service import ServiceProcess, running
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


async def test_pages_stay_while_bus_and_database_are_away(
    tmp_path: Path, nats_server: NatsServer, bus: JetStreamBus, postgres_cluster: str, postgres_url: str
) -> None:
    config = tmp_path / "spotinference.toml"
    config.write_text(
        f'[bus]\nurl = "{nats_server.url}"\n[database]\nurl = "{postgres_url}"\n[site]\nport = 0\nmetrics_port = 0\n'
    )
    database = urlsplit(postgres_url).path[1:]
    async with (
        running("site", config, tmp_path) as site,
        aiohttp.ClientSession() as http,
    ):

        async def read(url: str) -> tuple[int, str]:
            async with http.get(url) as answer:
                return answer.status, await answer.text()

        async def readiness() -> dict[str, Any]:
            async with http.get(f"{site.announced.metrics_url}/readyz") as answer:
                return {"status": answer.status, "alarms": {}, **await answer.json()}

        def accept_connections(allowed: str) -> None:
            with psycopg.connect(postgres_cluster, autocommit=True) as admin:
                admin.execute(f'ALTER DATABASE "{database}" ALLOW_CONNECTIONS {allowed}')
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,))

        nats_server.stop()
        await asyncio.to_thread(accept_connections, "false")
        try:
            without = await until(readiness, lambda page: {"bus", "database"} <= page["alarms"].keys())
            assert (without["status"], without["faults"]) == (200, {})
            for path in ("/", "/status", "/learn"):
                assert (await read(f"{site.announced.url}{path}"))[0] == 200
            assert "not known" in (await read(f"{site.announced.url}/status"))[1]
        finally:
            await asyncio.to_thread(accept_connections, "true")
        await asyncio.to_thread(nats_server.start)
        await until(readiness, lambda page: page["alarms"] == {} and page["status"] == 200)
