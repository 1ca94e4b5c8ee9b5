"""Runs all services on one host, one process each, and leaves nothing behind.

Every child holds one end of a socket pair, the lifeline; we hold the other. When we end, for whatever reason, the
children read end-of-file and end as well; when the last child has ended, we read end-of-file. The machines' keepers
inherit the lifeline through the waker.
"""

import asyncio
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from shared.bus.jetstream import connect
from shared.bus.ports import Bus
from shared.bus.provision import provision
from shared.config.sections import Config
from shared.errors import Misconfigured
from shared.messages.codec import encode
from shared.runtime import suite_file
from shared.runtime.child import Child, StartFailed
from shared.runtime.suite_file import RunningService, Suite
from spotinference.up.console import Console
from spotinference.up.environment import child_environment
from spotinference.up.log_files import LogFiles
from spotinference.up.nats_server import NatsServer
from spotinference.up.nats_supervisor import NatsSupervisor

SERVICES = ("site", "gateway", "waker", "meter", "billing")
"""Services in the order in which they stop: first those that take requests, last those that count."""
LAST_SECONDS = 15.0
"""Seconds for the machines' keepers to end; they give their engines 10 s."""
KILL_AFTER_SECONDS = 15.0
"""Beyond what a service's drain may take: longer than a gateway waits for its own workers."""
FLUSH_SECONDS = 1.0
"""For the last lines to be written."""
RETRY_WRITE_SECONDS = 1.0
"""Between two attempts to write the suite file, after the disk was full."""


class SuiteRunner:
    """One run of all services."""

    def __init__(self, config: Config, config_path: Path, data_dir: Path) -> None:
        self._config = config
        self._config_path = config_path
        self._data_dir = data_dir
        self._logs = data_dir / "logs"
        self._out, self._err = Console(1), Console(2)
        self._ours, self._theirs = socket.socketpair()
        self._services: dict[str, RunningService] = {}
        self._unwritten = False
        self._children: list[Child] = []
        self._bus: NatsServer | None = None
        self._signals = 0
        self._stop = asyncio.Event()
        self._on_stop: Callable[[], object] = lambda: None

    async def run(self) -> int:
        """Start everything, wait for a signal, drain everything, and return the exit status."""
        self._logs.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, sys.stdin is not None and sys.stdin.isatty())
        logs = LogFiles(self._data_dir, self._err.write)
        tasks = [asyncio.create_task(logs.run(), name="logs"), asyncio.create_task(self._retry_write_suite())]
        try:
            if not suite_file.has_named_bus(self._config):
                tasks.append(await self._start_bus())
            else:
                access = suite_file.bus_access(self._config, self._data_dir, "setup")
                async with connect(access, name="provision", wait=10.0) as bus:
                    config = self._config.bus
                    await provision(bus, replicas=config.replicas, usage_bytes=config.usage_max_bytes)
                    await self._return_keys(bus)
            await self._start_services()
            if not self._stop.is_set():
                self._out.line('{"ready":true}')
            await self._stop.wait()
            return 0
        finally:
            for task in tasks[1:]:
                task.cancel()
            await self._shut_down()
            tasks[0].cancel()
            logs.poll()
            for console in (self._out, self._err):
                console.flush(FLUSH_SECONDS)

    async def _start_bus(self) -> asyncio.Task[None]:
        bus = self._bus = NatsServer(
            self._data_dir / "bus", self._logs / "bus.log", child_environment("bus", os.environ, self._config)
        )

        def announce() -> None:
            assert bus.process is not None
            self._announce(RunningService(service="bus", url=bus.origin, pid=bus.process.pid))

        supervisor = NatsSupervisor(bus, announce, self._return_keys, self._report)
        await supervisor.start()
        return asyncio.create_task(supervisor.run(), name="keep bus")

    async def _return_keys(self, bus: Bus) -> None:
        """Bring back the keys that the bus lost."""
        from spotinference.setup.keys import try_return_keys  # the database's packages take half a second to load

        if words := await try_return_keys(bus, self._config, self._data_dir):
            self._report(words)

    async def _start_services(self) -> None:
        arguments = ["--config", str(self._config_path), "--data-dir", str(self._data_dir)]
        for name in SERVICES:
            log_path = self._logs / f"{name}.log"
            child = Child(
                name,
                arguments,
                log_path,
                self._announce,
                self._theirs.fileno(),
                stop_s=getattr(self._config, name).drain_s + KILL_AFTER_SECONDS,
                report=self._report,
                environment=child_environment(name, os.environ, self._config),
            )
            self._children.append(child)
        if self._stop.is_set():
            return
        self._write_suite()  # with a named bus there is none yet, and one of a suite that died has old addresses
        starting = asyncio.gather(*(child.start() for child in self._children))
        self._on_stop = starting.cancel
        try:
            await starting
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise

    def _announce(self, running: RunningService) -> None:
        """Announce a service on standard output and in the suite file."""
        self._services[running.service] = running
        self._write_suite()
        self._out.line(encode(running).decode())

    def _write_suite(self) -> None:
        try:
            suite_file.write(self._data_dir, Suite(pid=os.getpid(), services=self._services))
            self._unwritten = False
        except OSError as error:  # the previous file has the same addresses
            if not self._unwritten:
                self._report(f"{self._data_dir / suite_file.FILE} cannot be written: {error.strerror}")
            self._unwritten = True

    async def _retry_write_suite(self) -> None:
        while True:
            await asyncio.sleep(RETRY_WRITE_SECONDS)
            if self._unwritten:
                self._write_suite()

    def _report(self, text: str) -> None:
        """Print a line for people on standard error."""
        self._err.line(f"spotinference: {text}")

    def _on_signal(self) -> None:
        self._signals += 1
        self._stop.set()
        self._on_stop()
        if self._signals == 1:
            self._report("draining; press Ctrl-C again to stop immediately")
        else:
            for child in self._children:
                child.kill()

    def _on_hangup(self, had_terminal: bool) -> None:
        """Have the services reread their configuration; or stop, if the terminal was closed."""
        if had_terminal and not os.isatty(0):
            self._on_signal()
            return
        self._report("the services reread their configuration; their logs say what takes a restart")
        for child in self._children:
            child.reload()

    async def _shut_down(self) -> None:
        for child in self._children:
            await child.stop()
        suite_file.remove(self._data_dir)
        if self._bus is not None:
            await self._bus.stop()
        self._theirs.close()
        self._ours.shutdown(socket.SHUT_WR)
        await self._wait_for_engines()

    async def _wait_for_engines(self) -> None:
        """Wait until no process holds the lifeline: then every keeper has ended its engine."""
        self._ours.setblocking(False)
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await asyncio.get_running_loop().sock_recv(self._ours, 1)
        except TimeoutError:
            self._report("the engine of a machine has not ended")
        self._ours.close()


def run(config: Config, config_path: Path, data_dir: Path) -> int:
    """Run all services until a signal, and return the exit status.

    Raises:
        Misconfigured: services already run with this data directory, or it is not writable.
        StartFailed: a service cannot start.
    """
    data_dir = suite_file.open_data_dir(data_dir)
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(
                f"services are already running with data directory {data_dir}: stop them, or choose another --data-dir"
            ) from None
        try:
            return asyncio.run(SuiteRunner(config, config_path.resolve(), data_dir).run())
        except OSError as error:
            raise StartFailed(f"cannot start in {data_dir}: {error}") from error
