"""The suite as the demo runs it: `spotinference up` in a process of its own, used by the operator's commands."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from services.billing.core.utc_time import day_of
from shared.bus.jetstream import JetStreamBus
from shared.bus.topology import FLEET
from shared.errors import SpotinferenceError
from shared.messages.codec import decode, decode_any, decode_text
from shared.messages.waker import MachineRecord
from shared.units import to_millis
from spotinference.bucket_reader import read_bucket
from spotinference.context import Context
from spotinference.terminal import print_line

T = TypeVar("T")

WAIT_SECONDS = 60.0
"""For any one thing that the demo waits for; each takes a few seconds at most."""


class DemoFailed(SpotinferenceError):
    """A step did not do what it shows."""


@dataclass
class Stage:
    """Prints steps and how long each took."""

    begun: float = field(default_factory=time.monotonic)
    _step_begun: float = field(default_factory=time.monotonic)
    _number: int = 0

    def step(self, title: str) -> None:
        self._number += 1
        self._step_begun = time.monotonic()
        click.secho(f"\n{self._number}. {title}", bold=True)

    def print(self, text: str) -> None:
        print_line(f"   {time.monotonic() - self._step_begun:6.2f} s  {text}")


@dataclass
class Suite:
    """The running suite, as one who uses it sees it."""

    folder: Path
    services: dict[str, dict[str, Any]]

    @property
    def base_url(self) -> str:
        return f"{self.services['gateway']['url']}/v1"

    async def command(self, *words: str) -> str:
        """The output of one of the operator's commands; `DemoFailed` with its errors when it fails."""
        options = ("--config", str(self.folder / "spotinference.toml"), "--data-dir", str(self.folder))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spotinference", *words, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
        if process.returncode:
            raise DemoFailed(f"`spotinference {' '.join(words)}` failed: {errors.decode('utf-8', 'replace').strip()}")
        return decode_text(output)

    async def json(self, *words: str) -> Any:
        return decode_any(await self.command(*words, "--json"))

    async def usage_since(self, moment: float) -> dict[str, int]:
        """The ledger's totals from the UTC day of `moment` on: a midnight may have passed."""
        return dict((await self.json("usage", "--from", day_of(to_millis(moment))))["totals"])

    async def run_with_bus(self, work: Callable[[JetStreamBus], Coroutine[Any, Any, T]]) -> T:
        return await Context(self.folder / "spotinference.toml", self.folder).with_bus(work)

    async def machine(self) -> MachineRecord:
        """What the waker tells of the one machine."""

        async def records(bus: JetStreamBus) -> list[MachineRecord]:
            return [record for record, _ in (await read_bucket(bus, FLEET, MachineRecord)).values()]

        (record,) = await until(lambda: self.run_with_bus(records), bool, "the waker tells of no machine")
        return record

    async def endpoint(self) -> str:
        """Of its engine, which runs."""
        record = await self.machine()
        expect(record.endpoint, f"the machine has no engine: {record}")
        return str(record.endpoint)


@asynccontextmanager
async def up(folder: Path, stage: Stage) -> AsyncIterator[Suite]:
    options = ("--config", str(folder / "spotinference.toml"), "--data-dir", str(folder))
    with (folder / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spotinference", "up", *options, stdout=subprocess.PIPE, stderr=log
        )
    try:
        yield Suite(folder, await _announced(process, folder, stage))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        status = await process.wait()
    if status:
        raise DemoFailed(f"`spotinference up` ended with {status}")


async def _announced(process: asyncio.subprocess.Process, folder: Path, stage: Stage) -> dict[str, dict[str, Any]]:
    assert process.stdout is not None
    services: dict[str, dict[str, Any]] = {}
    async for line in process.stdout:
        announced = decode(line, dict[str, Any])
        if "ready" in announced:
            return services
        services[announced["service"]] = announced
        stage.print(f"{announced['service']:<8} {announced['url']}  pid {announced['pid']}")
    raise DemoFailed(
        f"`spotinference up` did not start: {(folder / 'up.log').read_text('utf-8', 'replace').strip()[-500:]}"
    )


async def until(look: Callable[[], Awaitable[T]], good: Callable[[T], bool], failure: str) -> T:
    """What `look` sees once it is `good`; `DemoFailed` when it is not in time."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not good(seen := await look()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"{failure}: {seen}")
        await asyncio.sleep(0.1)
    return seen


def expect(condition: object, failure: str) -> None:
    if not condition:
        raise DemoFailed(failure)
