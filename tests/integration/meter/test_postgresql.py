"""PostgreSQL's usual URLs, and what a service does when its server changes."""

import asyncio
import signal
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from shared.bus import topology
from shared.bus.jetstream import JetStreamBus
from shared.config.load import parse
from shared.database import DATABASE_ERRORS, create_engine, database_url, without_secrets
from shared.errors import BusUnavailable, Misconfigured
from shared.messages.codec import Unreadable
from shared.messages.meter import TokensQuery
from tests.integration.meter.test_process import DAY, MarkWatcher, ask, meter_on, quick
from tests.integration.meter.test_restore import probed
from tests.kit.ports import free_port
from tests.kit.postgres import PostgresServer
from tests.kit.tls import make_certificate, postgres_with_tls
from tests.kit.usage import send
from tests.kit.waiting import until
from tests.unit.meter.events import event


async def answer(url: str) -> object:
    """Connect as a service does with this `[database] url`, and return what the server answers."""
    engine = create_engine(database_url(parse(f'[database]\nurl = "{url}"\n', "test"), Path(), "x"))
    try:
        async with engine.connect() as connection:
            return (await connection.execute(text("SELECT 1"))).scalar_one()
    finally:
        await engine.dispose()


async def test_libpq_parameters_of_tls_are_accepted(postgres_url: str, tmp_path: Path) -> None:
    trusted, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    parts = urlsplit(postgres_url)
    async with postgres_with_tls(trusted, parts.port or 0) as port:
        url = f"postgres://{parts.username}@127.0.0.1:{port}{parts.path}"
        root = f"sslrootcert={quote(str(trusted.certificate))}"
        for query in ("sslmode=require", "ssl=require", f"sslmode=verify-full&{root}", f"{root}&sslmode=verify-ca"):
            assert await answer(f"{url}?{query}") == 1, query
        for query in ("sslmode=verify-full", f"sslmode=verify-full&sslrootcert={quote(str(other.certificate))}"):
            with pytest.raises((*DATABASE_ERRORS, Misconfigured)):
                await answer(f"{url}?{query}")
    assert await answer(postgres_url.replace("+asyncpg", "") + "?sslmode=disable&application_name=spot") == 1


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sslmode=always", "sslmode must be one of disable, allow"),
        ("sslmode=verify-full&sslrootcert=/no/such", "/no/such"),
        ("channel_binding=require", "channel_binding is not supported: remove it"),
        ("prepared_statement_cache_size=many", "prepared_statement_cache_size must be a whole number"),
    ],
)
async def test_wrong_parameter_is_named(query: str, reason: str) -> None:
    with pytest.raises(Misconfigured, match=rf"database\.url: .*{reason}") as caught:
        await answer(f"postgresql://meter:hunter2@127.0.0.1:1/ledger?{query}")
    assert "hunter2" not in str(caught.value)


def test_logged_url_has_no_secret() -> None:
    url = "postgresql+asyncpg://meter:hunter2@db-1:5432,db-2/ledger?password=hunter3"
    assert without_secrets(url) == "postgresql+asyncpg://meter@db-1:5432,db-2/ledger"


async def test_several_hosts_lead_to_the_one_that_accepts_writes(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    """The first host is down, the second one a replica, as it were."""
    await asyncio.to_thread(postgres_server.start)
    own, shared = urlsplit(postgres_server.url), urlsplit(postgres_url)
    engine = create_engine(postgres_server.url)
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(text("ALTER SYSTEM SET default_transaction_read_only = on"))
        await connection.execute(text("SELECT pg_reload_conf()"))
        name = shared.path.removeprefix("/")
        await connection.execute(text("SET default_transaction_read_only = off"))
        await connection.execute(text(f'CREATE DATABASE "{name}"'))
    await engine.dispose()
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{own.port},127.0.0.1:{shared.port}"
    engine = create_engine(f"postgresql+asyncpg://{shared.username}@{hosts}{shared.path}")
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE written (n BIGINT)"))
        assert (await connection.execute(text("SHOW port"))).scalar_one() == str(shared.port)
    await engine.dispose()


async def test_pool_is_replaced_when_its_server_became_read_only(postgres_url: str) -> None:
    """Those of the pool would lead to the earlier primary for ever."""
    engine = create_engine(postgres_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE written (n BIGINT)"))
        await connection.execute(text("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"))
    with pytest.raises(SQLAlchemyError, match="read-only"):
        async with engine.begin() as connection:
            await connection.execute(text("INSERT INTO written VALUES (1)"))
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO written VALUES (1)"))
    await engine.dispose()


async def count_requests(bus: JetStreamBus) -> tuple[int, int]:
    """Return the requests of the day and how many are missing; none while the meter has no database."""
    try:
        tokens = await ask(bus, TokensQuery(day="2026-11-23"))
    except (Unreadable, BusUnavailable):
        return 0, 0
    return tokens.totals.requests, tokens.open_gaps


def probes_in(server: PostgresServer) -> list[int]:
    """Return the tokens of the stored probes."""
    with psycopg.connect(server.url) as connection:
        return [row[0] for row in connection.execute("SELECT amount FROM engine_notes ORDER BY amount")]


@pytest.mark.long
async def test_ledger_catches_up_after_a_failover_that_lost_commits(
    bus: JetStreamBus, nats_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """The meter runs throughout: it finds the new primary, and reads again what it had confirmed."""
    await quick(bus)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    await asyncio.to_thread(postgres_server.start)
    replica = postgres_server.sibling()
    try:
        hosts = f"{urlsplit(postgres_server.url).netloc},{urlsplit(replica.url).netloc.rpartition('@')[2]}"
        async with meter_on(tmp_path / "meter", nats_url, f"postgresql://{hosts}/postgres"):
            for n in range(1, 11):
                await send(bus, event("gw-1", n, completed_at=DAY.start + n))
            await watcher.reach("gw-1", 10)
            await asyncio.to_thread(postgres_server.copy_to, replica)
            for n in range(11, 21):
                await send(bus, event("gw-1", n, completed_at=DAY.start + n))
            await send(bus, event("gw-2", 1, completed_at=DAY.start))
            await watcher.reach("gw-1", 20)
            await watcher.reach("gw-2", 1)
            await probed(bus, 4)
            await until(lambda: asyncio.to_thread(probes_in, postgres_server), lambda stored: stored == [4])
            await asyncio.to_thread(postgres_server.stop, signal.SIGQUIT)
            await asyncio.to_thread(replica.start)
            await send(bus, event("gw-1", 21, completed_at=DAY.start + 21))
            assert await until(lambda: count_requests(bus), lambda counted: counted[0] == 22) == (22, 0)
            await until(lambda: asyncio.to_thread(probes_in, replica), lambda stored: stored == [4])
    finally:
        replica.remove()
    await watch.stop()
