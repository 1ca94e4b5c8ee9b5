"""A real gateway process on a real bus in front of scripted engines; the test plays the waker and the meter."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus
from shared.bus.ports import Received
from shared.bus.topology import FLEET, USAGE, WAKE
from shared.key_store import create_key
from shared.messages.codec import decode, encode
from shared.messages.gateway import Activity, UsageEvent, WakeRequest
from shared.messages.waker import MachineRecord, MachineState, Phase
from tests.kit.scripted_engine import NAME
from tests.kit.service import ServiceProcess, running
from tests.kit.waiting import until

MODEL = "org/model"
OF_REQUESTS = re.compile(r"services[./]gateway|aiohttp[./](web|_http_parser)")
"""Types and frames of which a request is made; those of failed attempts to reach the bus are not."""

CONFIG = """
[bus]
url = "{bus}"
[gateway]
port = 0
headers_held = "200ms"
heartbeat = "200ms"
drain_grace = "{grace}"
{gateway}
[[tier]]
name = "first"
provider = "process"
max_concurrency = {room}
{tier}
[[tier]]
name = "second"
provider = "process"
{tier}
[[tier]]
name = "mark"
provider = "process"
[[machine]]
id = "mark"
tier = "mark"
command = ["engine", "{{port}}"]
[[machine]]
id = "m1"
tier = "first"
command = ["engine", "{{port}}"]
[[machine]]
id = "m2"
tier = "second"
command = ["engine", "{{port}}"]
[[model]]
name = "org/model"
served_as = "{served_as}"
lineup = ["first", "second"]
{more}
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

    async def machine(
        self,
        machine: str,
        state: MachineState,
        endpoint: str | None = None,
        *,
        phase: Phase | None = None,
        ready_at: float | None = None,
        max_model_len: int | None = None,
        tier: str | None = None,
    ) -> int:
        """Write the machine's record as the waker does; returns its revision."""
        record = MachineRecord(
            machine=machine,
            tier=tier or {"m1": "first", "m2": "second"}.get(machine, machine),
            state=state,
            provider_state="as the test says",
            endpoint=endpoint,
            generation=3,
            since=time.time(),
            reason="test",
            wake_id="wake-1",
            phase=phase,
            ready_at=ready_at,
            max_model_len=max_model_len,
        )
        return await self.bus.put(FLEET, subjects.machine_key(machine), encode(record))

    async def seen(self, gateways: int = 1) -> None:
        """Returns once so many gateways have heard of all that `machine` has written so far."""
        arrived: set[tuple[str, int | None]] = set()

        async def on_activity(received: Received) -> None:
            activity = decode(received.data, Activity)
            if mark := activity.machines.get("mark"):
                arrived.add((activity.gateway, mark.acknowledged))

        subscription = await self.bus.subscribe(subjects.ACTIVITIES, on_activity)
        # The bucket's changes are told in order, and a machine that drains is acknowledged.
        revision = await self.machine("mark", "draining")
        await until(
            lambda: asyncio.sleep(0, [name for name, acknowledged in arrived if acknowledged == revision]),
            lambda names: len(names) == gateways,
        )
        await subscription.stop()

    async def usage(self, count: int) -> list[UsageEvent]:
        """The events on the bus, once there are so many."""
        return await until(self._usage, lambda events: len(events) >= count)

    async def _usage(self) -> list[UsageEvent]:
        return [decode(received.data, UsageEvent) for received in await self.bus.read(USAGE)]

    async def wake_request(self, expected: Callable[[WakeRequest], bool]) -> WakeRequest:
        async def newest() -> WakeRequest | None:
            stored = await self.bus.last(WAKE, subjects.wake_request(MODEL))
            return decode(stored.data, WakeRequest) if stored else None

        results = await until(newest, lambda request: request is not None and expected(request))
        assert results is not None
        return results

    async def mint(self, **limits: Any) -> tuple[str, str]:
        """Another key's id and secret."""
        return await create_key(self.bus, name="another", **limits)

    async def knows(self, key: str) -> None:
        """Returns once the gateway does: a new key counts within a second, not at once."""
        headers = {"Authorization": f"Bearer {key}"}

        async def status() -> int:
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.get(f"{self.url}/v1/models") as answer,
            ):
                return answer.status

        await until(status, lambda seen: seen != 401)

    async def samples(self) -> list[Sample]:
        """All that `/metrics` says."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.service.announced.metrics_url}/metrics") as answer,
        ):
            text = await answer.text()
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels; `name` without `spot_gateway_`."""
        return sum(
            sample.value
            for sample in await self.samples()
            if sample.name == f"spot_gateway_{name}" and labels.items() <= sample.labels.items()
        )

    async def ready(self) -> tuple[int, dict[str, str]]:
        """`/readyz`: its status and faults."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.service.announced.metrics_url}/readyz") as answer,
        ):
            return answer.status, (await answer.json())["faults"]


async def check_garbage(service: ServiceProcess) -> None:
    """Fail if requests have left reference cycles: those hold bodies, uncounted, until a collection that comes late."""
    if service.process is not None and service.process.returncode is None:
        left = [line for line in await service.garbage() if OF_REQUESTS.search(line)]
        assert not left, "\n".join(left[:50])


@pytest.fixture
async def opened(bus: JetStreamBus, nats_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Front]]]:
    """Start gateways: `await opened("hold_cap = '1s'")` takes more lines for the section `[gateway]`.

    `more` goes behind everything else, `tier` into both tiers, `room` is the first tier's `max_concurrency`, `grace`
    the time to finish once it is told to stop, `files` how many it may open, and what is left are the limits of the
    key, as `create_key` takes them.
    """
    async with AsyncExitStack() as stack:

        async def start(
            gateway: str = "",
            folder: str = "data",
            *,
            more: str = "",
            tier: str = "",
            room: int = 8,
            grace: str = "30s",
            files: int = 0,
            **limits: Any,
        ) -> Front:
            data_dir = tmp_path / folder
            data_dir.mkdir(exist_ok=True)
            config = data_dir / "spotinference.toml"
            reported = CONFIG.format(
                bus=nats_url, gateway=gateway, served_as=NAME, more=more, tier=tier, room=room, grace=grace
            )
            config.write_text(reported)
            key_id, key = await create_key(bus, name="test", **limits)
            service = await stack.enter_async_context(
                running("gateway", config, data_dir, files=files, collects=bool(files))
            )
            if not files:
                stack.push_async_callback(check_garbage, service)
            base_url = f"{service.announced.url}/v1"
            sdk = await stack.enter_async_context(openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0))
            return Front(service, bus, key, key_id, data_dir, sdk)

        yield start
