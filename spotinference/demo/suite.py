"""The services as the demo runs them: `spotinference up` in a process of its own, used through the other commands."""

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
"""For each event that the demo waits for; each takes a few seconds at most."""


class DemoFailed(SpotinferenceError):
    """A step of the demo failed."""


@dataclass
class StepPrinter:
    """Prints the steps, and the time since the start of each."""

    began_at: float = field(default_factory=time.monotonic)
    _step_began_at: float = field(default_factory=time.monotonic)
    _number: int = 0

    def step(self, title: str) -> None:
        self._number += 1
        self._step_began_at = time.monotonic()
        click.secho(f"\n{self._number}. {title}", bold=True)

    def print(self, text: str) -> None:
        print_line(f"   {time.monotonic() - self._step_began_at:6.2f} s  {text}")


@dataclass
class Suite:
    """The running services, as a user sees them."""

    folder: Path
    services: dict[str, dict[str, Any]]

    @property
    def base_url(self) -> str:
        return f"{self.services['gateway']['url']}/v1"

    async def run_command(self, *words: str) -> str:
        """Run a command and return its output. Raises `DemoFailed` with its errors if it fails."""
        options = ("--config", str(self.folder / "spotinference.toml"), "--data-dir", str(self.folder))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spotinference", *words, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        output, errors = await process.communicate()
        if process.returncode:
            raise DemoFailed(f"`spotinference {' '.join(words)}` failed: {errors.decode('utf-8', 'replace').strip()}")
        return decode_text(output)

    async def run_json(self, *words: str) -> Any:
        return decode_any(await self.run_command(*words, "--json"))

    async def usage_since(self, moment: float) -> dict[str, int]:
        """Return the ledger's totals from the UTC day of `moment` on: a midnight may have passed."""
        return dict((await self.run_json("usage", "--from", day_of(to_millis(moment))))["totals"])

    async def run_with_bus(self, work: Callable[[JetStreamBus], Coroutine[Any, Any, T]]) -> T:
        return await Context(self.folder / "spotinference.toml", self.folder).with_bus(work)

    async def machine(self) -> MachineRecord:
        """Return the record of the only machine."""

        async def records(bus: JetStreamBus) -> list[MachineRecord]:
            return [record for record, _ in (await read_bucket(bus, FLEET, MachineRecord)).values()]

        (record,) = await wait_until(lambda: self.run_with_bus(records), bool, "the waker has recorded no machine")
        return record

    async def endpoint(self) -> str:
        """Return the endpoint of the machine's running engine."""
        record = await self.machine()
        require(record.endpoint, f"the machine has no running engine: {record}")
        return str(record.endpoint)


@asynccontextmanager
async def running_suite(folder: Path, printer: StepPrinter) -> AsyncIterator[Suite]:
    """Run `spotinference up` and stop it at the end."""
    options = ("--config", str(folder / "spotinference.toml"), "--data-dir", str(folder))
    with (folder / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "spotinference", "up", *options, stdout=subprocess.PIPE, stderr=log
        )
    try:
        yield Suite(folder, await _read_announcements(process, folder, printer))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        status = await process.wait()
    if status:
        raise DemoFailed(f"`spotinference up` ended with {status}")


async def _read_announcements(
    process: asyncio.subprocess.Process, folder: Path, printer: StepPrinter
) -> dict[str, dict[str, Any]]:
    assert process.stdout is not None
    services: dict[str, dict[str, Any]] = {}
    async for line in process.stdout:
        announced = decode(line, dict[str, Any])
        if "ready" in announced:
            return services
        services[announced["service"]] = announced
        printer.print(f"{announced['service']:<8} {announced['url']}  pid {announced['pid']}")
    raise DemoFailed(
        f"`spotinference up` did not start: {(folder / 'up.log').read_text('utf-8', 'replace').strip()[-500:]}"
    )


async def wait_until(read: Callable[[], Awaitable[T]], is_done: Callable[[T], bool], failure: str) -> T:
    """Call `read` until `is_done` holds for its result, and return the result. Raises `DemoFailed` after a timeout."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_done(result := await read()):
        if time.monotonic() > deadline:
            raise DemoFailed(f"{failure}: {result}")
        await asyncio.sleep(0.1)
    return result


def require(condition: object, failure: str) -> None:
    if not condition:
        raise DemoFailed(failure)
