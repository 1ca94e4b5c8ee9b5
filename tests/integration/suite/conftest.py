"""The operator's commands against a bus of the test's own, and a fleet that the test writes."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shared.bus.jetstream import JetStreamBus
from shared.bus.subjects import machine_key
from shared.bus.topology import FLEET
from shared.messages.codec import encode
from shared.messages.waker import MachineRecord, MachineState
from shared.runtime.suite_file import BUS_URL_VARIABLE
from spotinference.__main__ import main
from tests.kit.waiting import PATIENCE_SECONDS

CONFIG = """
[[tier]]
name = "lab"
provider = "static"
[[machine]]
id = "m1"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[machine]]
id = "m2"
tier = "lab"
endpoint = "http://127.0.0.1:1"
[[model]]
name = "org/a"
lineup = ["lab"]
"""
Shell = Callable[..., Coroutine[Any, Any, Result]]
Put = Callable[..., Awaitable[None]]


@pytest.fixture
def options(bus: JetStreamBus, nats_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """What leads a command to the test's bus."""
    config = tmp_path / "spotinference.toml"
    config.write_text(CONFIG)
    monkeypatch.setenv(BUS_URL_VARIABLE, nats_url)
    return ("--config", str(config), "--data-dir", str(tmp_path))


@pytest.fixture
def shell(options: tuple[str, ...]) -> Shell:
    """`await shell("wake", "org/a")`: runs a command as from a shell, in an event loop of its own."""

    async def run(*words: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, main, [*words, *options])

    return run


class Going:
    """A command that goes on until Ctrl-C."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self._process.stdout.readline()).decode()

    def send(self, number: int) -> None:
        self._process.send_signal(number)

    async def ctrl_c(self) -> tuple[int, str, str]:
        """Its status, what it had still to say, and its errors."""
        self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, out.decode(), err.decode()


Goes = Callable[..., Awaitable[Going]]


@pytest.fixture
async def goes(options: tuple[str, ...]) -> AsyncIterator[Goes]:
    """`await goes("journal", "--follow")`: runs a command as from a shell, in a process of its own."""
    processes: list[asyncio.subprocess.Process] = []

    async def run(*words: str) -> Going:
        command = (sys.executable, "-m", "spotinference", *words, *options)
        pipe = asyncio.subprocess.PIPE
        processes.append(await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe))
        return Going(processes[-1])

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def put(bus: JetStreamBus) -> Put:
    """`await put("m1", "waking", phase="booting")`: what the waker would write."""

    async def write(machine: str, state: MachineState, **fields: Any) -> None:
        facts: dict[str, Any] = {
            "tier": "lab",
            "provider_state": "running",
            "endpoint": None,
            "generation": 1,
            "since": time.time(),
            "reason": "",
        }
        record = MachineRecord(machine=machine, state=state, **{**facts, **fields})
        await bus.put(FLEET, machine_key(machine), encode(record))

    return write
