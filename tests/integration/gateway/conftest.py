"""A real gateway process on a real bus in front of scripted engines; the test plays the waker and the meter."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import openai
import pytest

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import FLEET, USAGE, WAKE
from shared.messages.codec import decode, encode
from shared.messages.gateway import UsageEvent, WakeRequest
from shared.messages.waker import MachineRecord, MachineState
from spotinference.keys import mint
from tests.kit.scripted_engine import NAME
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import until

MODEL = "org/model"

CONFIG = """
[bus]
url = "{bus}"
[gateway]
port = 0
headers_held = "200ms"
heartbeat = "200ms"
drain_grace = "5s"
{gateway}
[[tier]]
name = "first"
provider = "static"
max_concurrency = 8
[[tier]]
name = "second"
provider = "static"
[[machine]]
id = "m1"
tier = "first"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "m2"
tier = "second"
endpoint = "http://127.0.0.1:2"
[[model]]
name = "org/model"
served_as = "{served_as}"
lineup = ["first", "second"]
"""


@dataclass
class Front:
    """One gateway and everything around it."""

    service: ServiceProcess
    bus: JetStreamBus
    key: str
    key_id: str
    folder: Path
    sdk: openai.AsyncOpenAI
    """The official client, without retries."""

    @property
    def url(self) -> str:
        return self.service.announced.url

    async def machine(self, machine: str, state: MachineState, endpoint: str | None = None) -> int:
        """Write the machine's record as the waker does; returns its revision."""
        record = MachineRecord(
            machine=machine,
            tier="first" if machine == "m1" else "second",
            state=state,
            provider_state="as the test says",
            endpoint=endpoint,
            generation=3,
            since=time.time(),
            reason="test",
            wake_id="wake-1",
        )
        return await self.bus.put(FLEET, subjects.machine_key(machine), encode(record))

    async def usage(self, count: int) -> list[UsageEvent]:
        """The events on the bus, once there are so many."""
        return await until(self._usage, lambda events: len(events) >= count)

    async def _usage(self) -> list[UsageEvent]:
        return [decode(received.data, UsageEvent) for received in await self.bus.read(USAGE)]

    async def wake_request(self, wanted: Callable[[WakeRequest], bool]) -> WakeRequest:
        async def newest() -> WakeRequest | None:
            data = await self.bus.last(WAKE, subjects.wake_request(MODEL))
            return decode(data, WakeRequest) if data else None

        found = await until(newest, lambda request: request is not None and wanted(request))
        assert found is not None
        return found

    async def ready(self) -> tuple[int, dict[str, str]]:
        """`/readyz`: its status and faults."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.service.announced.metrics_url}/readyz") as answer,
        ):
            return answer.status, (await answer.json())["faults"]


@pytest.fixture
async def opened(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Front]]]:
    """Start gateways: `await opened("hold_cap = '1s'")` takes more lines for the section `[gateway]`."""
    async with AsyncExitStack() as stack:

        async def start(gateway: str = "", folder: str = "data") -> Front:
            data_dir = tmp_path / folder
            data_dir.mkdir(exist_ok=True)
            config = data_dir / "spotinference.toml"
            config.write_text(CONFIG.format(bus=nats_url, gateway=gateway, served_as=NAME))
            key_id, key = await mint(bus, name="test")
            service = await stack.enter_async_context(running("gateway", config, data_dir))
            base_url = f"{service.announced.url}/v1"
            sdk = await stack.enter_async_context(openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0))
            return Front(service, bus, key, key_id, data_dir, sdk)

        yield start
