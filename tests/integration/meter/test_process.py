"""The real process on a real NATS server: killed with -9, drained and queried."""

import asyncio
import dataclasses
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from sqlalchemy import text

from services.meter.adapters.ledger import SqlLedger
from services.meter.core.day import parse_day
from shared.bus import subjects, topology
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Changed, WatchEvent
from shared.bus.provision import _consumer
from shared.config.load import CONFIG_VARIABLE
from shared.database import create_engine
from shared.errors import BusUnavailable
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.meter import Confirmed, ErrorReply, KeyMonth, Tokens, TokensQuery, month_of
from shared.runtime.suite_file import BUS_URL_VARIABLE
from tests.kit import fork_server
from tests.kit.fork_server import ForkedProcess
from tests.kit.nats_server import NatsServer
from tests.kit.ports import free_port
from tests.kit.postgres import PostgresServer
from tests.kit.usage import send
from tests.kit.waiting import PATIENCE_SECONDS, until
from tests.unit.meter.events import event, sums_of

DAY = parse_day("2026-11-23")


class Meter:
    """One process of the service."""

    def __init__(self, home: Path, nats_url: str, database_url: str, more: str = "") -> None:
        home.mkdir()
        self._home = home
        config = home / "spotinference.toml"
        config.write_text(f'[database]\nurl = "{database_url}"\n[meter]\nbatch = 50\nkeep_events = "36500d"\n{more}')
        self._environment = {**os.environ, BUS_URL_VARIABLE: nats_url, CONFIG_VARIABLE: str(config)}
        self._process: ForkedProcess | None = None
        self.metrics_url = ""
        self.log = home / "meter.log"

    async def start(self) -> None:
        """Return once it has announced itself."""
        await self.spawn()
        await self.announced()

    async def spawn(self, *arguments: str) -> None:
        with self.log.open("ab") as log:
            words = ("services.meter", "--data-dir", str(self._home), *arguments)
            self._process = await fork_server.start("meter", *words, stderr=log, environment=self._environment)

    async def announced(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            line = await self._process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        self.metrics_url = json.loads(line)["metrics_url"]

    async def end_by_itself(self) -> int:
        assert self._process is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._process.wait()

    async def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self._process.wait()


@asynccontextmanager
async def meter_on(home: Path, nats_url: str, database_url: str, more: str = "") -> AsyncIterator[Meter]:
    """`more`: further sections of its configuration."""
    meter = Meter(home, nats_url, database_url, more)
    await meter.start()
    try:
        yield meter
    finally:
        await meter.end(signal.SIGKILL)


class MarkWatcher:
    """The highest mark that the meter has published for each source."""

    def __init__(self) -> None:
        self.marks: dict[str, int] = {}
        self._changed = asyncio.Event()

    def on_event(self, change: WatchEvent) -> None:
        if isinstance(change, Changed) and change.value is not None:
            confirmed = decode(change.value, Confirmed)
            assert confirmed.source_seq >= self.marks.get(confirmed.source, 0), "a mark never falls"
            self.marks[confirmed.source] = confirmed.source_seq
            self._changed.set()

    async def reach(self, source: str, mark: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.marks.get(source, 0) < mark:
                self._changed.clear()
                await self._changed.wait()


async def quick(bus: JetStreamBus) -> None:
    """Redeliver what a dead process held after a second."""
    await _consumer(bus, dataclasses.replace(topology.LEDGER, ack_wait=1.0))


async def ask(bus: JetStreamBus, query: TokensQuery) -> Tokens:
    return decode(await bus.request(subjects.METER_TOKENS, encode(query), timeout=PATIENCE_SECONDS), Tokens)


async def read_page(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as page:
        return page.status, await page.text()


async def test_ledger_is_exact_when_the_meter_is_killed_repeatedly(
    bus: JetStreamBus, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    await quick(bus)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    sent = [event(f"gw-{1 + n % 2}", 1 + n // 2, completed_at=DAY.start + n, prompt_tokens=n) for n in range(3000)]

    async def publish() -> None:
        for n, e in enumerate(sent):
            await send(bus, e)
            if n % 10 == 0:
                await send(bus, sent[n // 2])

    async with meter_on(tmp_path / "meter", nats_url, database_url) as meter:
        publishing = asyncio.create_task(publish())
        for killed_at in (100, 400, 900):
            await watcher.reach("gw-1", killed_at)
            assert await meter.end(signal.SIGKILL) == -signal.SIGKILL
            await meter.start()
        await publishing
        await asyncio.gather(watcher.reach("gw-1", 1500), watcher.reach("gw-2", 1500))
        answer = await ask(bus, TokensQuery(day=DAY.name, by=("machine",), busy=True))
        assert answer.totals == sums_of(sent)
        assert answer.open_gaps == 0
        assert [row.sums for row in answer.rows] == [answer.totals]
        assert answer.busy == {"l4x2-1": ((DAY.start, DAY.start + 2999),)}
    await watch.stop()


async def test_months_are_on_the_bus_when_their_mark_is(
    bus: JetStreamBus, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    watcher, now = MarkWatcher(), time.time()
    watch = await bus.watch(topology.METER, watcher.on_event)
    async with meter_on(tmp_path / "meter", nats_url, database_url) as meter:
        for n in range(1, 301):
            e = event(source_seq=n, completed_at=now, key_id=f"team/{n % 3}", prompt_tokens=n, completion_tokens=0)
            await send(bus, e)
        await watcher.reach("gw-1", 300)
        entries = await bus.entries(topology.MONTHS)
        assert await meter.end(signal.SIGKILL) == -signal.SIGKILL
    await watch.stop()
    months = {name: decode(entry.value, KeyMonth) for name, entry in entries.items()}
    assert {subjects.name(name): (m.key_id, m.month, m.tokens) for name, m in months.items()} == {
        f"team/{k}": (f"team/{k}", month_of(now), sum(n for n in range(1, 301) if n % 3 == k)) for k in range(3)
    }


async def test_failed_batch_is_not_acknowledged_and_counts_once_after_a_kill(
    bus: JetStreamBus, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    """No gateway resends: what is acknowledged too early is lost."""
    await quick(bus)
    watcher, sent = MarkWatcher(), [event(source_seq=n, completed_at=DAY.start + n) for n in range(1, 101)]
    watch = await bus.watch(topology.METER, watcher.on_event)
    async with meter_on(tmp_path / "meter", nats_url, database_url) as meter:
        await executed(database_url, "ALTER TABLE rollups RENAME TO away")
        for e in sent:
            await send(bus, e)
        await until(lambda: faults_of_database(meter), lambda faults: faults > 0)
        await until(lambda: bus.backlog(topology.LEDGER), lambda left: left == len(sent))
        assert await meter.end(signal.SIGKILL) == -signal.SIGKILL
        await until(lambda: bus.backlog(topology.LEDGER), lambda left: left == len(sent))
        assert watcher.marks == {}
        await executed(database_url, "ALTER TABLE away RENAME TO rollups")
        await meter.start()
        await watcher.reach("gw-1", len(sent))
        assert (await ask(bus, TokensQuery(day=DAY.name))).totals == sums_of(sent)
    await watch.stop()


async def executed(database_url: str, statement: str) -> None:
    engine = create_engine(database_url)
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


async def faults_of_database(meter: Meter) -> float:
    _, page = await read_page(meter.metrics_url + "/metrics")
    return float(page.split("\nspot_meter_database_faults_total ")[1].split()[0])


async def test_no_event_is_missing_when_the_database_crashes(
    bus: JetStreamBus, nats_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    postgres_server.start()
    sent = [event(source_seq=n, completed_at=DAY.start + n) for n in range(1, 3001)]
    async with meter_on(tmp_path / "meter", nats_url, postgres_server.url):
        for n, e in enumerate(sent):
            await send(bus, e)
            if n in (500, 1500):
                await watcher.reach("gw-1", n // 2)
                postgres_server.stop(signal.SIGQUIT)
                await asyncio.to_thread(postgres_server.start)
        await watcher.reach("gw-1", 3000)
        assert (await ask(bus, TokensQuery(day=DAY.name))).totals == sums_of(sent)
    await watch.stop()


async def test_two_replicas_share_the_stream(
    bus: JetStreamBus, nats_url: str, postgres_url: str, tmp_path: Path
) -> None:
    await quick(bus)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    sent = [event(f"gw-{1 + n % 3}", 1 + n // 3, completed_at=DAY.start + n) for n in range(3000)]
    async with (
        meter_on(tmp_path / "a", nats_url, postgres_url) as first,
        meter_on(tmp_path / "b", nats_url, postgres_url) as second,
    ):
        for e in sent:
            await send(bus, e)
        await asyncio.gather(*(watcher.reach(f"gw-{s}", 1000) for s in (1, 2, 3)))
        assert (await ask(bus, TokensQuery(day=DAY.name))).totals == sums_of(sent)
        worked = [(await read_page(meter.metrics_url + "/metrics"))[1] for meter in (first, second)]
        counted = [float(page.split('messages_total{kind="counted"} ')[1].split()[0]) for page in worked]
        assert sum(counted) == 3000
        assert min(counted) > 0, "both took part"
    await watch.stop()


async def test_sigterm_leaves_nothing_between_commit_and_acknowledgement(
    bus: JetStreamBus, nats_url: str, database_url: str, tmp_path: Path
) -> None:
    """Acknowledged events are committed, all others are still on the bus."""
    sent = [event(source_seq=n) for n in range(1, 1001)]
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    for e in sent:
        await send(bus, e)
    async with meter_on(tmp_path / "meter", nats_url, database_url) as meter:
        await watcher.reach("gw-1", 50)
        assert await meter.end(signal.SIGTERM) == 0, meter.log.read_text()[-2000:]
    engine = create_engine(database_url)
    facts = await SqlLedger(engine).read_day(DAY, (), busy=False)
    await engine.dispose()
    counted = sum(sums.requests for sums in facts.sums.values())
    assert counted < 1000, "it did not just finish everything"
    await watcher.reach("gw-1", counted)
    # The server takes acknowledgements in when it comes to it.
    await until(lambda: bus.backlog(topology.LEDGER), lambda left: left == 1000 - counted)
    await watch.stop()


async def test_token_queries_are_answered_and_invalid_ones_rejected(
    bus: JetStreamBus, nats_url: str, tmp_path: Path
) -> None:
    async with meter_on(tmp_path / "meter", nats_url, f"sqlite:///{tmp_path / 'l.sqlite'}") as meter:
        nothing = await ask(bus, TokensQuery(day="2020-01-01", by=("model",), busy=True))
        assert (nothing.complete, nothing.totals.requests, nothing.rows, nothing.busy) == (True, 0, (), {})
        assert (await ask(bus, TokensQuery(day="2100-01-01"))).complete is False
        for question, field in [
            (encode(TokensQuery(day="yesterday")), "day"),
            (encode(TokensQuery(day="2026-11-23", by=("colour",))), "by"),
            (b'{"type":"tokens_query.v1"}', "day"),
            (b"\xff", "TokensQuery"),
        ]:
            answer = await bus.request(subjects.METER_TOKENS, question, timeout=PATIENCE_SECONDS)
            assert field in msgspec.json.decode(answer, type=ErrorReply).reason
        assert (await read_page(meter.metrics_url + "/readyz"))[0] == 200


async def test_meter_reconnects_when_the_bus_was_killed(
    bus: JetStreamBus, nats_server: NatsServer, tmp_path: Path
) -> None:
    await quick(bus)
    watcher = MarkWatcher()
    watch = await bus.watch(topology.METER, watcher.on_event)
    async with meter_on(tmp_path / "meter", nats_server.url, f"sqlite:///{tmp_path / 'l.sqlite'}"):
        await send(bus, event(source_seq=1))
        await watcher.reach("gw-1", 1)
        await asyncio.to_thread(nats_server.restart)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await published(bus, event(source_seq=2)):
                pass
        await watcher.reach("gw-1", 2)
    await watch.stop()


async def test_meter_waits_for_a_database_that_starts_later(
    bus: JetStreamBus, nats_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    await send(bus, event())
    meter = Meter(tmp_path / "meter", nats_url, postgres_server.url)
    port = free_port()
    await meter.spawn("--metrics-port", str(port))
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        status, page = await first_page(url)
        assert status == 503
        assert {"starting", "bus", "database"} >= json.loads(page)["faults"].keys() >= {"starting"}
        page = await until(lambda: read_text(url), lambda text: "database" in text)
        assert "ConnectionRefusedError" in json.loads(page)["faults"]["database"]
        await asyncio.to_thread(postgres_server.start)
        await meter.announced()
        assert (await read_page(f"http://127.0.0.1:{port}/readyz"))[0] == 200
    finally:
        await meter.end(signal.SIGKILL)


async def read_text(url: str) -> str:
    return (await read_page(url))[1]


async def first_page(url: str) -> tuple[int, str]:
    """Return the page of a process that is just starting."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                return await read_page(url)
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


async def published(bus: JetStreamBus, sent: UsageEvent) -> bool:
    try:
        await send(bus, sent)
    except BusUnavailable:
        await asyncio.sleep(0.05)  # the client connects again by itself and says so to nobody
        return False
    return True
