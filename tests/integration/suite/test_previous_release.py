"""The release before and this one, side by side on one bus and one database, forwards and back, under traffic."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner

from shared.tasks import cancel_and_wait
from spotinference.__main__ import main
from tests.kit.nats_server import NatsServer
from tests.kit.scripted_engine import NAME, ScriptedEngine
from tests.kit.service import ServiceProcess
from tests.kit.up import Output, processes_of
from tests.kit.waiting import PATIENCE_SECONDS, until

FAULTY_ENGINE = Path(__file__).parents[1] / "waker" / "faulty_engine.py"
CONFIG = """
[bus]
url = "{bus}"
nkey_file = "{folder}/users/{{user}}.nk"
[database]
url = "{database}"
[gateway]
port = 0
[waker]
gateway_timeout = "4s"
probe_interval = "50ms"
[[tier]]
name = "always"
provider = "static"
price_per_hour = "1.00"
[[machine]]
id = "always-1"
tier = "always"
endpoint = "{endpoint}"
[[model]]
name = "{name}"
lineup = ["always"]
[[tier]]
name = "local"
provider = "process"
[[machine]]
id = "local-1"
tier = "local"
command = ["{python}", "{faulty_engine}", "--port", "{{port}}"]
[[model]]
name = "slept"
lineup = ["local"]
"""
BACKENDS = ("meter", "waker", "billing")
SERVICES = (*BACKENDS, "gateway")
OLD, NEW = "old", "new"
CLIENTS = 3
PATH = "/v1/chat/completions"
"""Of the clients; the waker's probes take another."""


class Rollout:
    """Services of both releases. `running` has them by release and name."""

    def __init__(self, folder: Path, releases: dict[str, Path | None], server: NatsServer) -> None:
        self.running: dict[tuple[str, str], ServiceProcess] = {}
        self.key = ""
        self.answered = 0
        self.woken_tokens = 0
        self.faults: list[str] = []
        self._folder = folder
        self._releases = releases
        self._server = server
        self._config = folder / "spotinference.toml"
        self._going = asyncio.Event()
        self._in_flight = 0

    async def prepare(self, release: str) -> None:
        """Give the bus's users what they may do in this release, and run its `setup`."""
        users = await self.command(release, "nats-config", "--users-dir", str(self._folder / "users"), bare=True)
        self._server.more = users.out
        await asyncio.to_thread(self._server.reload)
        await self.command(release, "setup")

    async def command(self, release: str, *words: str, bare: bool = False) -> Output:
        options = () if bare else ("--config", str(self._config), "--data-dir", str(self._folder / "data"))
        if release == NEW:  # in this process: its start would be most of its work
            result = await asyncio.to_thread(CliRunner().invoke, main, [*words, *options])
            assert result.exit_code == 0 or words[0] == "doctor", (words, result.output, result.exception)
            return Output(result.exit_code, result.stdout, result.stderr)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "spotinference", *words, *options),
            cwd=self._releases[release],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, errors = await process.communicate()
        output = Output(process.returncode or 0, out.decode(), errors.decode())
        assert output.status == 0, (release, words, output)
        return output

    async def json(self, *words: str, release: str = NEW) -> Any:
        return json.loads((await self.command(release, *words, "--json")).out)

    async def start(self, release: str, *names: str) -> None:
        await asyncio.gather(*(self._start(release, name) for name in names))

    async def _start(self, release: str, name: str) -> None:
        data_dir = self._folder / "data" if name in BACKENDS else self._folder / f"{release}-{name}"
        data_dir.mkdir(exist_ok=True)
        service = ServiceProcess(name, self._config, data_dir, code=self._releases[release])
        service.log = self._folder / f"{release}-{name}.log"
        self.running[release, name] = service
        await service.start()

    async def stop(self, release: str, *names: str) -> None:
        statuses = await asyncio.gather(*(self.running[release, name].stop() for name in names))
        for name, status in zip(names, statuses, strict=True):
            del self.running[release, name]
            assert status == 0, (release, name)

    @asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        self._going.set()
        clients = [asyncio.create_task(self._client(number)) for number in range(CLIENTS)]
        try:
            yield
        finally:
            await cancel_and_wait(clients)

    async def _client(self, number: int) -> None:
        timeout = aiohttp.ClientTimeout(total=PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                while not self._going.is_set():
                    await self._going.wait()
                self._in_flight += 1
                try:
                    await self._ask(session, self.answered + number, NAME)
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)  # its gateway has just stopped
                finally:
                    self._in_flight -= 1

    async def _ask(self, session: aiohttp.ClientSession, number: int, model: str) -> dict[str, Any]:
        gateways = [service.announced.url for (_, name), service in self.running.items() if name == "gateway"]
        url = gateways[number % len(gateways)]
        streamed = number // len(gateways) % 2 == 0 and model == NAME
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": streamed}
        headers = {"Authorization": f"Bearer {self.key}"}
        async with session.post(f"{url}{PATH}", json=body, headers=headers) as reply:
            data = await reply.read()
        if reply.status != 200:
            self.faults.append(f"{reply.status} {data[:300]!r}")
        self.answered += 1
        return {} if streamed else dict(json.loads(data))

    async def check(self, engine: ScriptedEngine) -> None:
        """Wake a machine, let the traffic go on, and compare the ledger with what the engines have counted."""
        await self.command(NEW, "hibernate", "local-1", "--wait")
        async with aiohttp.ClientSession() as session:
            usage = (await self._ask(session, 0, "slept")).get("usage", {})
        self.woken_tokens += usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        expected = self.answered + 10 * CLIENTS

        async def count() -> int:
            return self.answered

        await until(count, lambda answered: answered >= expected)
        await self.pause()
        served = [seen for seen in engine.requests if seen.path == PATH]
        tokens = sum(seen.prompt_tokens + seen.completion_tokens for seen in served) + self.woken_tokens

        async def ledger() -> int:
            totals = (await self.json("usage", "--days", "2"))["totals"]
            return int(totals["prompt_tokens"] + totals["completion_tokens"])

        await until(ledger, lambda counted: counted >= tokens)
        assert (await ledger(), self.faults) == (tokens, [])
        self._going.set()

    async def pause(self) -> None:
        self._going.clear()

        async def in_flight() -> int:
            return self._in_flight

        await until(in_flight, lambda left: left == 0)

    async def close(self) -> None:
        for service in self.running.values():
            if service.process is not None and service.process.returncode is None:
                await service.kill9()
        for keeper in processes_of(self._folder):  # it ends its engine
            os.kill(keeper, signal.SIGTERM)

        async def left() -> list[int]:
            return processes_of(self._folder)

        await until(left, lambda processes: processes == [])


@asynccontextmanager
async def rollout(
    folder: Path, previous: Path, server: NatsServer, engine: ScriptedEngine, database: str
) -> AsyncIterator[Rollout]:
    (folder / "spotinference.toml").write_text(
        CONFIG.format(
            bus=server.url,
            folder=folder,
            database=database,
            endpoint=engine.base_url,
            name=NAME,
            python=sys.executable,
            faulty_engine=FAULTY_ENGINE,
        )
    )
    (folder / "data").mkdir()
    it = Rollout(folder, {OLD: previous, NEW: None}, server)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(it.close)
        await it.prepare(OLD)
        await it.start(OLD, *SERVICES)
        it.key = (await it.json("keys", "create", "--name", "test", release=OLD))["key"]
        await stack.enter_async_context(it.traffic())
        yield it


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_the_release_before_and_this_one_count_the_same_side_by_side(
    tmp_path: Path,
    previous_release: Path,
    nats_server: NatsServer,
    scripted_engine: ScriptedEngine,
    database_url: str,
) -> None:
    async with rollout(tmp_path, previous_release, nats_server, scripted_engine, database_url) as it:
        await it.check(scripted_engine)
        await it.prepare(NEW)
        await it.check(scripted_engine)  # the release before, on a bus and a database of this one
        await it.start(NEW, *SERVICES)
        await it.check(scripted_engine)  # all of both
        await it.stop(OLD, *BACKENDS)
        await it.stop(NEW, "gateway")
        await it.check(scripted_engine)  # only the gateway is old
        await it.start(NEW, "gateway")
        await it.stop(OLD, "gateway")
        await it.check(scripted_engine)  # all new
        await it.start(OLD, *BACKENDS)
        await it.stop(NEW, *BACKENDS)
        await it.check(scripted_engine)  # rolled back, but for the gateway
        await it.start(OLD, "gateway")
        await it.stop(NEW, "gateway")
        await it.check(scripted_engine)  # rolled back
        await it.start(NEW, *SERVICES)
        await it.stop(OLD, *SERVICES)
        await it.check(scripted_engine)
        await it.pause()

        async def wrong() -> list[dict[str, Any]]:
            return [link for link in (await it.json("doctor"))["links"] if link["level"] == "wrong"]

        await until(wrong, lambda links: links == [])
        assert not [line for line in nats_server.log.read_text().splitlines() if " Violation - " in line]
