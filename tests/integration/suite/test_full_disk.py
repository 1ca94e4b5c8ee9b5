"""A disk fills and empties under traffic: nothing is lost, somebody leads again, and all goes on by itself."""

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.suite.config import SOON
from tests.kit import full_disk
from tests.kit.scripted_engine import NAME, ScriptedEngine
from tests.kit.up import UpProcess, processes_of, up
from tests.kit.waiting import PATIENCE_SECONDS, until

ENGINE = Path(__file__).parents[1] / "waker" / "faulty_engine.py"
CONFIG = """
[gateway]
port = 0
drain_grace = "5s"
[waker]
{waker}
[[tier]]
name = "always"
provider = "static"
[[machine]]
id = "always-1"
tier = "always"
endpoint = "{endpoint}"
[[model]]
name = "tiny"
served_as = "{served_as}"
lineup = ["always"]
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "local-1"
tier = "local"
command = ["{python}", "{engine}", "--port", "{{port}}"]
[[model]]
name = "slept"
lineup = ["local"]
"""
LEADERS = ("waker", "meter", "billing")


class Clients:
    """Four clients that send requests again and again; their results by status and code since the last call."""

    def __init__(self, suite: UpProcess, key: str) -> None:
        self._suite = suite
        self._headers = {"Authorization": f"Bearer {key}"}
        self.answers: Counter[str] = Counter()
        self.served = 0

    async def run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(4)))

    async def more(self, answer: str, count: int = 20) -> None:
        expected = self.answers[answer] + count
        await until(self._reported, lambda reply: reply[answer] >= expected)

    async def _reported(self) -> Counter[str]:
        return self.answers

    async def _client(self) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            while True:
                body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
                async with session.post(f"{self._suite.base_url}/chat/completions", json=body) as response:
                    answer = await response.json()
                self.served += response.status == 200
                self.answers[answer.get("error", {}).get("code", "served")] += 1
                await asyncio.sleep(0.1)


async def page(suite: UpProcess, service: str, path: str) -> tuple[int, str]:
    """Its status and its text; 0 and nothing while the service is down."""
    url = suite.services[service]["metrics_url"] + path
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def leading(suite: UpProcess) -> dict[str, bool]:
    return {
        service: f"\nspot_{service}_leading 1.0" in (await page(suite, service, "/metrics"))[1] for service in LEADERS
    }


async def ready(suite: UpProcess) -> dict[str, Any]:
    return {service: await page(suite, service, "/readyz") for service in ("gateway", *LEADERS)}


async def counted(suite: UpProcess) -> int:
    usage = await suite.json("usage", "--days", "2")
    return int(usage["totals"]["requests"])


async def write_again(suite: UpProcess) -> None:
    """Everything that writes does: keys, the operator's orders, the journal, the engines of local machines."""
    await until(lambda: leading(suite), lambda seen: all(seen.values()))
    await until(lambda: ready(suite), lambda pages: all(status == 200 for status, _ in pages.values()))
    assert (await suite.command("keys", "create", "--name", "after")).status == 0
    for order, target in (("wake", "slept"), ("hibernate", "local-1")):
        output = await suite.command(order, target, "--wait")
        assert output.status == 0, output


def reached(engine: ScriptedEngine) -> int:
    """The requests of clients: the waker's probes ask for completions."""
    return sum(request.path == "/v1/chat/completions" for request in engine.requests)


@pytest.mark.timeout(300)
async def test_a_disk_fills_and_empties_under_traffic(tmp_path: Path, scripted_engine: ScriptedEngine) -> None:
    settings = CONFIG.format(
        waker=SOON, endpoint=scripted_engine.base_url, served_as=NAME, python=sys.executable, engine=ENGINE
    )
    async with up(tmp_path, settings) as suite:
        clients = Clients(suite, await suite.key())
        asking = asyncio.create_task(clients.run())
        await clients.more("served")
        bus = suite.services["bus"]["pid"]

        full_disk.fill(processes_of(tmp_path))
        await clients.more("outbox_full")
        await until(lambda: leading(suite), lambda seen: not any(seen.values()))
        os.kill(suite.services["meter"]["pid"], signal.SIGKILL)  # what starts on a full disk waits for room

        assert suite.process is not None
        full_disk.free([suite.process.pid])
        full_disk.free(processes_of(tmp_path))
        await clients.more("served")
        await write_again(suite)
        assert suite.services["bus"]["pid"] != bus, "a stream that failed to write needs its server started again"
        assert set(clients.answers) == {"served", "outbox_full"}
        asking.cancel()
        await asyncio.wait([asking])
        # One that its client left may still be on its way to the engine.
        await until(lambda: counted(suite), lambda count: count == reached(scripted_engine))
        assert clients.served <= reached(scripted_engine) <= clients.served + 4  # those under way at the end

        full_disk.fill(processes_of(tmp_path))
        assert await suite.stop() == 0
