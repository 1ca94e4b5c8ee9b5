"""From nothing to serving with what is rendered: each container's command, on its own files."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from shared.bus.access import BusAccess
from tests.deploy.bus_servers import Servers
from tests.deploy.manifests import SETUP, Manifests, load
from tests.deploy.pods import Pod, Secrets
from tests.deploy.rules.code import SERVICES
from tests.kit.scripted_engine import ScriptedEngine
from tests.kit.waiting import until

MODEL = "qwen3-8b"
PORTS = {
    "metrics_port = 9090": "metrics_port = 0",
    **{f'[{name}]\nhost = "*"': f'[{name}]\nport = 0\nhost = "127.0.0.1"' for name in ("gateway", "site")},
}
"""What would be taken on this host."""


def secrets_of(users: Path) -> Secrets:
    """Return the Secrets as the guide makes them."""
    return {f"bus-{name}": {f"{name}.nk": (users / f"{name}.nk").read_text("utf-8")} for name in (*SERVICES, SETUP)}


async def spotinference(access: BusAccess, folder: Path, *words: str) -> str:
    """Run a command with the configuration that the guide gives the operator."""
    config = folder / "operator.toml"
    config.write_text(f'[bus]\nurls = ["{access.urls[0]}"]\nnkey_file = "{access.nkey_file}"\n', "utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "spotinference", *words, "--config", str(config)), cwd=folder, stdout=subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, words
    return output.decode()


@asynccontextmanager
async def pods(
    manifests: Manifests, folder: Path, servers: Servers, engine: ScriptedEngine
) -> AsyncIterator[list[Pod]]:
    """Every container but the bus, started at once and not waited for, as `kubectl apply` does."""
    access = servers.access(is_secure=False)
    replaced = {**PORTS, "nats://nats:4222": access.urls[0], "http://10.0.4.11:8000": engine.base_url}
    secrets = secrets_of(folder / "bus" / "users")
    async with AsyncExitStack() as stack:
        started = [Pod(manifests, name, folder, secrets, replaced) for name in (*SERVICES, SETUP)]
        for pod in started:
            stack.push_async_callback(pod.close)
            await pod.start()
        yield started


@pytest.mark.long
async def test_what_is_rendered_serves_a_request_and_drains(tmp_path: Path, scripted_engine: ScriptedEngine) -> None:
    manifests = load("local")
    (tmp_path / "bus").mkdir()
    servers = Servers(manifests, tmp_path / "bus")
    access = servers.access(is_secure=False)
    scripted_engine.name = "Qwen/Qwen3-8B"
    with servers.running():
        async with pods(manifests, tmp_path, servers, scripted_engine) as started:
            by_name = {pod.service: pod for pod in started}
            assert await by_name[SETUP].ended() == 0, by_name[SETUP].log.read_text("utf-8")
            announced = {name: await by_name[name].ready() for name in SERVICES}
            created = json.loads(await spotinference(access, tmp_path, "keys", "create", "--name", "first", "--json"))
            async with aiohttp.ClientSession() as session:

                async def answer() -> tuple[int, str]:
                    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
                    headers = {"Authorization": f"Bearer {created['key']}"}
                    url = f"{announced['gateway'].url}/v1/chat/completions"
                    async with session.post(url, json=body, headers=headers) as response:
                        return response.status, await response.text()

                await until(answer, lambda reply: reply[0] == 200)
                async with session.get(announced["site"].url) as response:
                    assert response.status == 200

            async def counted() -> int:
                usage = json.loads(await spotinference(access, tmp_path, "usage", "--json"))
                return int(usage["totals"]["requests"])

            assert await until(counted, bool) >= 1
            assert [await by_name[name].stop() for name in SERVICES] == [0] * len(SERVICES)
