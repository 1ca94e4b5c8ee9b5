"""`spotinference up` for tests: the real command in a process of its own, and the other commands beside it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from click.testing import CliRunner

from shared.bus.access import BusAccess
from shared.bus.jetstream import connect
from shared.bus.permissions import Role
from shared.bus.subjects import machine_key
from shared.bus.topology import FLEET
from shared.config.load import load
from shared.messages.waker import MachineRecord, MachineState
from shared.runtime.suite_file import bus_access
from spotinference.__main__ import main
from spotinference.bucket_reader import read_bucket
from tests.kit.waiting import PATIENCE_SECONDS, until

ANY_SITE_PORT = "\n[site]\nport = 0\n"
"""Suites of several tests run at the same time."""


@dataclass(frozen=True)
class Output:
    """What one command said."""

    status: int
    out: str
    err: str


class UpProcess:
    """One suite in `folder`. `services` is what it announced last of each, `lines` all that it said."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.config = folder / "spotinference.toml"
        self.config.write_text(config if "[site]" in config else config + ANY_SITE_PORT, "utf-8")
        self.services: dict[str, dict[str, Any]] = {}
        self.lines: list[dict[str, Any]] = []
        self.process: asyncio.subprocess.Process | None = None
        self.forbidden = 0
        self._reading: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        return f"{self.services['gateway']['url']}/v1"

    def bus_access(self, role: Role = "setup") -> BusAccess:
        """As a user of the bus; `setup` may publish anything."""
        return bus_access(load(self.config), self.folder / "data", role)

    def violations(self) -> list[str]:
        """What the bus refused its users."""
        log = self.folder / "data" / "logs" / "bus.log"
        lines = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
        return [line for line in lines if " Violation - " in line]

    @property
    def errors(self) -> str:
        return (self.folder / "up.err").read_text("utf-8")

    async def start(self) -> None:
        self.lines = []  # of this run alone
        with (self.folder / "up.err").open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                *self._words("up"), stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self._reading = asyncio.create_task(self._read(self.process))
        await until(self._is_ready, bool)

    async def command(self, *words: str) -> Output:
        process = await asyncio.create_subprocess_exec(
            *self._words(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Output(process.returncode, out.decode(), err.decode())

    async def json(self, *words: str) -> Any:
        return json.loads(await self._run_command(*words))

    async def key(self, *options: str) -> str:
        """A new key that the gateway has heard of."""
        key = str((await self.json("keys", "create", "--name", "test", *options))["key"])
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:

            async def status() -> int:
                async with session.get(f"{self.base_url}/models") as answer:
                    return answer.status

            await until(status, lambda seen: seen == 200)
        return key

    async def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (await self._run_command("journal")).splitlines()]

    async def machines(self) -> dict[str, MachineRecord]:
        """As the waker's records have them now: the command `fleet` listens to the gateways first, for seconds."""
        async with connect(self.bus_access(), name="test", wait=PATIENCE_SECONDS) as bus:
            records = await read_bucket(bus, FLEET, MachineRecord)
        return {record.machine: record for key, (record, _) in records.items() if key == machine_key(record.machine)}

    async def states(self) -> dict[str, MachineState]:
        return {name: record.state for name, record in (await self.machines()).items()}

    async def kill9(self, service: str) -> None:
        """The service dies; returns once it is there again, at the same address."""
        before = self.services[service]
        os.kill(before["pid"], signal.SIGKILL)

        async def announced() -> dict[str, Any]:
            return self.services[service]

        after = await until(announced, lambda seen: bool(seen["pid"] != before["pid"]))
        assert after["url"] == before["url"]

    async def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        assert self.process is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self._reading is not None:
            self._reading.cancel()

    async def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, self.errors[-3000:]
        return {"ready": True} in self.lines

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            announcement = json.loads(line)
            if "service" in announcement:
                self.services[announcement["service"]] = announcement
            self.lines.append(announcement)

    async def _run_command(self, *words: str) -> str:
        """By the command, run in this process: its start would be most of its work."""
        result = await asyncio.to_thread(CliRunner().invoke, main, [*words, "--json", *self._options])
        assert result.exit_code == 0, (result.stderr, result.exception)
        return result.stdout

    def _words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "spotinference", *words, *self._options]

    @property
    def _options(self) -> tuple[str, ...]:
        return "--config", str(self.config), "--data-dir", str(self.folder / "data")


@asynccontextmanager
async def up(folder: Path, config: str) -> AsyncIterator[UpProcess]:
    """A ready suite. Afterwards it is killed if it still runs, and has to leave nothing behind.

    None of its users may have tried what it is not allowed; `forbidden` are the acts of the test itself.
    """
    suite = UpProcess(folder, config)
    try:
        await suite.start()
        yield suite
        assert suite.violations()[suite.forbidden :] == []
    finally:
        await suite.close()

        async def left() -> list[int]:
            return processes_of(folder)

        await until(left, lambda processes: processes == [])


def alive(pid: int) -> bool:
    """Whether such a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_of(folder: Path) -> list[int]:
    """Every process whose command line names the folder: services, keepers, engines."""
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(folder).encode() in command and alive(int(entry.name)):
                processes.append(int(entry.name))
    return processes
