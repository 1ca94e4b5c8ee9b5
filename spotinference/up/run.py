"""`spotinference up`: the whole suite on one host, one process per service, and nothing left behind.

Every child holds one end of a socket pair, the lifeline; we hold the other. When we die, however we die, the
children read end-of-file and leave; when the last of them has gone, we read it. Machines' keepers inherit it
through the waker.
"""

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from shared import suite
from shared.bus.jetstream import connect
from shared.bus.provision import provision
from shared.config import Config
from shared.errors import BusError, Misconfigured
from shared.runtime.child import RESTART_SECONDS, Child, StartFailed
from shared.suite import Running, Suite
from spotinference.up.bus import Bus
from spotinference.up.tails import Tails

SERVICES = ("gateway", "waker", "meter", "billing")
"""In the order in which they stop: who takes requests goes first, who keeps the counts last."""
LAST_SECONDS = 15.0
"""For the machines' keepers, which give their engines 10 s."""


class Up:
    """One run of the suite."""

    def __init__(self, config: Config, config_path: Path, data_dir: Path) -> None:
        self._config = config
        self._config_path = config_path
        self._data_dir = data_dir
        self._logs = data_dir / "logs"
        self._ours, self._theirs = socket.socketpair()
        self._services: dict[str, Running] = {}
        self._children: list[Child] = []
        self._bus: Bus | None = None
        self._signals = 0
        self._stop = asyncio.Event()
        self._on_stop: Callable[[], object] = lambda: None

    async def run(self) -> int:
        """Start everything, wait for a signal, drain everything. The exit status."""
        self._logs.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        tails = Tails(self._logs)
        copying = asyncio.create_task(tails.run(), name="tails")
        keep_bus: asyncio.Task[None] | None = None
        try:
            if self._config.bus.url is None:
                self._bus = Bus(self._data_dir / "bus", self._logs / "bus.log")
                await self._start_bus()
                keep_bus = asyncio.create_task(self._keep_bus(), name="keep bus")
            else:
                await self._provision(suite.bus_url(self._config, self._data_dir))
            await self._start_services()
            if not self._stop.is_set():
                print('{"ready":true}', flush=True)
            await self._stop.wait()
            return 0
        finally:
            if keep_bus:
                keep_bus.cancel()
            await self._shut_down()
            copying.cancel()
            tails.copy()

    async def _start_bus(self) -> None:
        assert self._bus is not None
        url = self._bus.start()
        assert self._bus.process is not None
        await self._provision(url)
        self._announce(Running(service="bus", url=url, pid=self._bus.process.pid))

    @staticmethod
    async def _provision(url: str) -> None:
        async with connect(url, name="provision", wait=10.0) as bus:
            await provision(bus)

    async def _keep_bus(self) -> None:
        assert self._bus is not None
        while True:
            assert self._bus.process is not None
            status = await asyncio.to_thread(self._bus.process.wait)
            print(f"spotinference: the bus ended with {status}, starting it again", file=sys.stderr, flush=True)
            try:
                await self._start_bus()
            except (StartFailed, BusError) as error:
                print(f"spotinference: {error}", file=sys.stderr, flush=True)
                await asyncio.sleep(RESTART_SECONDS)

    async def _start_services(self) -> None:
        arguments = ["--config", str(self._config_path), "--data-dir", str(self._data_dir)]
        for name in SERVICES:
            log_path = self._logs / f"{name}.log"
            child = Child(name, arguments, log_path, self._announce, self._theirs.fileno())
            self._children.append(child)
        starting = asyncio.gather(*(child.start() for child in self._children))
        self._on_stop = starting.cancel
        try:
            await starting
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise

    def _announce(self, running: Running) -> None:
        self._services[running.service] = running
        suite.write(self._data_dir, Suite(pid=os.getpid(), services=self._services))
        print(msgspec.json.encode(running).decode(), flush=True)

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        self._on_stop()
        if self._signals == 1:
            print("spotinference: draining; once more stops at once", file=sys.stderr, flush=True)
        else:
            for child in self._children:
                child.kill()

    async def _shut_down(self) -> None:
        for child in self._children:
            await child.stop()
        suite.remove(self._data_dir)
        if self._bus is not None:
            await self._bus.stop()
        self._theirs.close()
        self._ours.shutdown(socket.SHUT_WR)
        await self._last_one_gone()

    async def _last_one_gone(self) -> None:
        """Every keeper has ended its engine when nobody holds the other end any more."""
        self._ours.setblocking(False)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await asyncio.get_running_loop().sock_recv(self._ours, 1)
        except TimeoutError:
            print("spotinference: a machine's engine has not ended", file=sys.stderr, flush=True)
        self._ours.close()


def run(config: Config, config_path: Path, data_dir: Path) -> int:
    """The command. `Misconfigured`: a suite runs in the folder already; `StartFailed`: a service cannot start."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(f"a suite runs in {data_dir} already: stop it, or name another --data-dir") from None
        return asyncio.run(Up(config, config_path.resolve(), data_dir.resolve()).run())
