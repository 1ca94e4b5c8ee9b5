"""Keeps the embedded nats-server running: restarts it when it has ended, or when it can no longer write."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from shared.bus.jetstream import connect
from shared.bus.ports import Bus
from shared.bus.provision import provision
from shared.bus.server_health import server_fault
from shared.errors import BusError, Misconfigured
from shared.runtime.child import RESTART_SECONDS, StartFailed
from spotinference.up.nats_server import NatsServer
from spotinference.up.store_limits import has_room

POLL_SECONDS = 0.1
HEALTH_SECONDS = 2.0
"""Between two health checks, and the timeout of one."""
PROVISION_SECONDS = 10.0
BACKOFF_SECONDS = 5.0, 300.0
"""Between two restarts because of its health, doubled each time: a restart does not help if the disk fills again."""


class NatsSupervisor:
    """Call `start` once, then `run` forever.

    `on_start` is called after each start, and `prepare` with the provisioned bus; `report` prints one line.
    """

    def __init__(
        self,
        bus: NatsServer,
        on_start: Callable[[], None],
        prepare: Callable[[Bus], Awaitable[None]],
        report: Callable[[str], None],
    ) -> None:
        self._bus = bus
        self._on_start = on_start
        self._prepare = prepare
        self._report = report
        self._provisioned = False
        self._next_check = 0.0
        self._not_before = 0.0
        self._backoff = BACKOFF_SECONDS[0]
        self._last_report = ""

    async def start(self) -> None:
        """Start and provision the server. Raises `StartFailed`, `BusError`, `Misconfigured` or `OSError`."""
        await self._bus.start()
        await self._provision()
        self._on_start()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            process = self._bus.process
            if process is None or (status := process.poll()) is not None:
                if process is not None:
                    self._report(f"the bus ended with status {status}; restarting it")
                await self._restart()
            elif time.monotonic() >= self._next_check:
                if not self._provisioned:
                    await self._try_provision()
                await self._check_health()
                self._next_check = time.monotonic() + HEALTH_SECONDS

    async def _check_health(self) -> None:
        """Check the server's health. If it cannot write although its disk has room, restart it."""
        try:
            fault = await server_fault(self._bus.health_url, seconds=HEALTH_SECONDS)
        except BusError as error:  # it may be busy or suspended: a restart would not help
            self._report_once(f"{error}")
            return
        now = time.monotonic()
        if fault is None:
            self._last_report = ""
            if now > self._not_before + BACKOFF_SECONDS[1]:
                self._backoff = BACKOFF_SECONDS[0]
            return
        if now < self._not_before:
            return
        if not await asyncio.to_thread(has_room, self._bus.folder):
            self._report_once(f"the bus cannot write because its disk is full: free some space: {fault}")
            return
        self._report(f"the bus cannot write; restarting it: {fault}")
        self._not_before = now + self._backoff
        self._backoff = min(2 * self._backoff, BACKOFF_SECONDS[1])
        await self._bus.stop()
        await self._restart()

    async def _restart(self) -> None:
        while True:
            try:
                await self._bus.start()
            except (StartFailed, Misconfigured, OSError) as error:
                self._report_once(f"cannot start the bus: {error}")
                await self._bus.stop()
                await asyncio.sleep(RESTART_SECONDS)
                continue
            self._on_start()
            await self._try_provision()
            self._next_check = 0.0
            return

    async def _try_provision(self) -> None:
        """Provision after a restart. Nearly always nothing is missing, so a failure does not stop the bus."""
        self._provisioned = False
        try:
            await self._provision()
        except BusError as error:
            self._report_once(str(error))

    async def _provision(self) -> None:
        async with connect(self._bus.access("setup"), name="provision", wait=PROVISION_SECONDS) as bus:
            await provision(bus, usage_bytes=self._bus.limits.usage)
            await self._prepare(bus)
        self._provisioned = True

    def _report_once(self, text: str) -> None:
        """Report a lasting condition once."""
        if text != self._last_report:
            self._last_report = text
            self._report(text)
