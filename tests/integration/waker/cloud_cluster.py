"""A gateway, a waker and a cloud whose machines have engines: one lineup of two machines, `m1` before `m2`."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.waker.adapters.probe import HttpProber
from services.waker.app.term_resources import TermResources
from services.waker.app.waker import Waker
from services.waker.core.fleet_spec import CLOUD, fleet_spec_of
from services.waker.metrics import Metrics
from services.waker.wiring import build_providers
from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.lease import Lease
from shared.bus.topology import FLEET, FLEET_JOURNAL
from shared.config.load import load
from shared.ids import uuid7
from shared.key_store import create_key
from shared.messages.codec import decode
from shared.messages.waker import (
    JournalEntry,
    MachineRecord,
    MachineState,
    PhaseEnded,
    ProviderCall,
    Transition,
)
from shared.tasks import cancel_and_wait
from tests.integration.waker.clouds import FLEET as FLEET_NAME
from tests.integration.waker.clouds import SimulatedCloud
from tests.kit.ports import free_port
from tests.kit.scripted_engine import NAME, scripted
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import PATIENCE_SECONDS, until

MODEL = "org/model"
ROOM_SECONDS = 0.05
"""Between two looks of the machine room."""
QUICK = replace(CLOUD, observe_every_s=0.5, observe_fast_s=0.1, settle_s=1.0, stuck_s=60.0)
"""A cloud that tells at once what was done: for waits that are the waker's, not the cloud's."""
CONFIG = """
[bus]
url = "{bus}"
[gateway]
port = 0
hold_cap = "90s"
access_log = false
[waker]
fleet = "{fleet}"
gateway_timeout = "4s"
probe_interval = "50ms"
{waker}
{section}
[[model]]
name = "org/model"
served_as = "{served_as}"
lineup = ["first", "second"]
"""
PART = """
[[tier]]
name = "{tier}"
provider = "{provider}"
idle_timeout = "{idle}"
[[machine]]
id = "{id}"
tier = "{tier}"
instance = "{instance}"
endpoint = "http://127.0.0.1:{port}"
"""


class MachineRoom:
    """Runs an engine for each machine that is up, from a moment after it came up until it goes."""

    def __init__(self, cloud: SimulatedCloud, ports: Mapping[str, int]) -> None:
        self._cloud = cloud
        self._ports = ports
        self._engines: dict[str, AsyncExitStack] = {}
        self.served: dict[str, int] = dict.fromkeys(ports, 0)
        """Engines that each machine has had."""

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                up = await self._cloud.up()
                for instance, port in self._ports.items():
                    if instance in up and instance not in self._engines:
                        self._engines[instance] = AsyncExitStack()
                        await self._engines[instance].enter_async_context(scripted(port=port))
                        self.served[instance] += 1
                    elif instance not in up and instance in self._engines:
                        await self._engines.pop(instance).aclose()
                await asyncio.sleep(ROOM_SECONDS)
        finally:
            for engine in self._engines.values():
                await engine.aclose()


@dataclass
class CloudCluster:
    cloud: SimulatedCloud
    first: str
    """The instance of `m1`."""
    second: str
    bus: JetStreamBus
    config: Path
    key: str
    stack: AsyncExitStack
    room: MachineRoom
    gateway: ServiceProcess
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    """Of a waker in this process."""
    process: ServiceProcess | None = None
    """A waker in one of its own."""

    async def ask(self) -> str:
        """One request, through the gateway: what the engine said. `AssertionError` for any other answer than 200."""
        body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
        limit = aiohttp.ClientTimeout(total=2 * PATIENCE_SECONDS)
        headers = {"Authorization": f"Bearer {self.key}"}
        async with (
            aiohttp.ClientSession(headers=headers, timeout=limit) as session,
            session.post(f"{self.gateway.announced.url}/v1/chat/completions", json=body) as answer,
        ):
            current = await answer.json()
            assert answer.status == 200, current
            return str(current["choices"][0]["message"]["content"])

    async def serves_again(self) -> None:
        """After a machine went without a word: until the gateway has heard of it, its requests meet no engine."""

        async def served() -> bool:
            with suppress(AssertionError):
                return "w1" in await self.ask()
            return False

        await until(served, bool)

    async def record(self, machine: str = "m1") -> MachineRecord | None:
        entry = await self.bus.get(FLEET, subjects.machine_key(machine))
        return decode(entry.value, MachineRecord) if entry else None

    async def reaches(self, state: MachineState, machine: str = "m1") -> MachineRecord:
        """Once the bucket says so: a state that lasts."""
        latest = await until(lambda: self.record(machine), lambda seen: seen is not None and seen.state == state)
        assert latest is not None
        return latest

    async def passes(self, state: MachineState, machine: str = "m1") -> Transition:
        """The last transition to a state, once the journal has one."""

        async def current() -> list[Transition]:
            return [e for e in await self.transitions(machine) if e.to_state == state]

        return (await until(current, bool))[-1]

    async def journal(self) -> list[JournalEntry]:
        return [decode(m.data, JournalEntry) for m in await self.bus.read(FLEET_JOURNAL)]  # type: ignore[arg-type]  # a union of messages is one

    async def transitions(self, machine: str = "m1") -> list[Transition]:
        return [e for e in await self.journal() if isinstance(e, Transition) and e.machine == machine]

    async def path(self, machine: str = "m1") -> list[MachineState]:
        """The states that it went through, once the journal, which follows the record, tells of the last."""

        async def current() -> tuple[MachineState | None, list[MachineState]]:
            record = await self.record(machine)
            return None if record is None else record.state, [
                entry.to_state for entry in await self.transitions(machine)
            ]

        return (await until(current, lambda seen: seen[0] in (None, *seen[1][-1:])))[1]

    async def phases(self, machine: str = "m1") -> list[str]:
        return [e.phase for e in await self.journal() if isinstance(e, PhaseEnded) and e.machine == machine and e.done]

    async def calls(self, machine: str = "m1") -> list[tuple[str, str]]:
        current = [e for e in await self.journal() if isinstance(e, ProviderCall) and e.machine == machine]
        return [(entry.call, entry.outcome) for entry in current]

    async def asleep(self, instance: str) -> None:
        """Once the cloud says so. A machine that seemed broken first is put to sleep again after a minute."""
        await until(self.cloud.asleep, lambda seen: instance in seen, seconds=2 * PATIENCE_SECONDS)

    async def metric(self, name: str, **labels: str) -> float | None:
        """Of the waker, without `spot_waker_`."""
        if self.process is None:
            return self.registry.get_sample_value(f"spot_waker_{name}", labels)
        url = f"{self.process.announced.metrics_url}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            text = await answer.text()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return next((s.value for s in samples if s.name == f"spot_waker_{name}" and s.labels == labels), None)

    async def in_doubt(self, doubt: bool) -> None:
        """Once the waker's metrics say whether the cloud is."""
        await until(
            lambda: self.metric("provider_in_doubt", provider=self.cloud.provider),
            lambda seen: seen == float(doubt),
        )

    async def waker_process(self) -> None:
        """The service as it is."""
        self.process = await self.stack.enter_async_context(running("waker", self.config, self.config.parent))

    async def waker(self) -> None:
        """In this process, and quicker with its looks than clouds deserve."""
        await self.stack.enter_async_context(_waker(self))


@asynccontextmanager
async def _waker(cluster: CloudCluster) -> AsyncIterator[None]:
    config = load(cluster.config)
    spec = replace(fleet_spec_of(config, uuid7), observation_policies={cluster.cloud.provider: QUICK})
    async with connect(config.bus.url or "", name="waker", wait=PATIENCE_SECONDS) as bus:
        lease = Lease(bus, subjects.WAKER_LEASE, "waker", time.monotonic)
        resources = TermResources(
            bus=bus,
            lease=lease,
            spec=spec,
            providers=build_providers(config, cluster.config.parent),
            prober=HttpProber(),
            metrics=Metrics(cluster.registry),
        )
        waker = Waker(resources, now=time.time, monotonic=time.monotonic)
        await waker.start()
        assert await lease.renew()
        tasks = [asyncio.create_task(lease.keep()), asyncio.create_task(waker.run())]
        try:
            yield
            assert not [task for task in tasks if task.done()], "the waker ended by itself"
        finally:
            await cancel_and_wait(tasks)
            await waker.stop()


@asynccontextmanager
async def cloud_cluster(
    cloud: SimulatedCloud,
    bus: JetStreamBus,
    nats_url: str,
    folder: Path,
    *,
    first: str,
    second: str,
    idle: str,
    waker: str,
) -> AsyncIterator[CloudCluster]:
    """All of it but the waker."""
    ports = {first: free_port(), second: free_port()}
    parts = [
        PART.format(id=id_, tier=tier, provider=cloud.provider, idle=idle, instance=instance, port=ports[instance])
        for id_, tier, instance in (("m1", "first", first), ("m2", "second", second))
    ]
    text = CONFIG.format(bus=nats_url, fleet=FLEET_NAME, waker=waker, section=cloud.section, served_as=NAME)
    config = folder / "spotinference.toml"
    config.write_text("\n".join([text, *parts]))
    _, key = await create_key(bus, name="test")
    room = MachineRoom(cloud, ports)
    following = asyncio.create_task(room.run())
    try:
        async with AsyncExitStack() as stack:
            gateway = await stack.enter_async_context(running("gateway", config, folder))
            yield CloudCluster(cloud, first, second, bus, config, key, stack, room, gateway)
            assert not following.done(), "the machine room ended by itself"
    finally:
        await cancel_and_wait([following])
