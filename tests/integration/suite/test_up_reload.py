"""SIGHUP to `up`: the services reread the configuration, and none of them ends."""

import asyncio
import signal
from pathlib import Path

import openai

from tests.integration.suite.test_up import key_of
from tests.kit.scripted_engine import NAME, ScriptedEngine
from tests.kit.up import up
from tests.kit.waiting import until

SETTINGS = """
[gateway]
port = 0
[meter]
source_silence = "{seal}"
[[tier]]
name = "mine"
provider = "static"
[[machine]]
id = "mine-1"
tier = "mine"
endpoint = "{endpoint}"
[[model]]
name = "{model}"
served_as = "{served_as}"
lineup = ["mine"]
"""


async def logged(log: Path, expected: str) -> None:
    await until(lambda: asyncio.to_thread(log.read_text), lambda text: expected in text)


async def test_hangup_reaches_every_service_and_ends_none(tmp_path: Path, scripted_engine: ScriptedEngine) -> None:
    def settings(model: str, seal: str) -> str:
        return SETTINGS.format(endpoint=scripted_engine.base_url, model=model, served_as=NAME, seal=seal)

    async with up(tmp_path, settings("before", "1d")) as suite:
        key = await key_of(suite)
        pids = {name: service["pid"] for name, service in suite.services.items()}
        suite.config.write_text(settings("after", "2d"))
        assert suite.process is not None
        suite.process.send_signal(signal.SIGHUP)
        for service in ("gateway", "waker", "meter", "billing"):
            await logged(tmp_path / "data" / "logs" / f"{service}.log", '"section": "meter"')
        async with openai.AsyncOpenAI(base_url=suite.base_url, api_key=key, max_retries=0) as sdk:
            await sdk.chat.completions.create(model="after", messages=[{"role": "user", "content": "hi"}])
        assert {name: service["pid"] for name, service in suite.services.items()} == pids
