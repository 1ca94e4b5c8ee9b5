"""From the command line to a running service and back: `python -m services.NAME` ends up in `run`.

A service is an asynchronous context manager: entering starts it, leaving drains it. The process ends on SIGTERM or
SIGINT, when the lifeline says that its parent has gone, or with status 1 when one of its tasks crashed.
"""

import argparse
import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
import uvloop
from prometheus_client import CollectorRegistry, Gauge

from shared.bus.jetstream import connect
from shared.bus.lease import Lease
from shared.bus.ports import Bus
from shared.config.load import find_config, load
from shared.config.sections import Config, ServiceSection
from shared.errors import Misconfigured, SpotinferenceError
from shared.runtime import logs, suite_file
from shared.runtime.bus_health import BusMetrics, view_fault
from shared.runtime.child import LIFELINE_VARIABLE
from shared.runtime.clock_skew import ClockSkewMonitor
from shared.runtime.health import Health, serve_health
from shared.runtime.workers import Workers
from shared.tasks import cancel_and_wait

BUS_WAIT = 30.0
"""For the first connection: on one host the bus is there at once, on a cluster it may start beside us."""

CANCEL_AGAIN_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(kw_only=True)
class Runtime:
    """What a service gets from its process. `now` is Unix seconds, `monotonic` never jumps."""

    service: str
    config: Config
    data_dir: Path
    bus: Bus
    port: int | None
    """From the command line: overrides the configured one."""
    instance: str = field(default_factory=lambda: f"{socket.gethostname()}-{uuid4().hex[:8]}")
    """This replica and boot."""
    health: Health = field(default_factory=Health)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    worker: int | None = None
    """Which of several processes that listen on the same port, from 0; None: it is the only one."""
    workers: int = 1
    """How many they are."""
    url: str | None = None
    """Set by a service with a front door: its origin."""
    started: bool = False
    """Set once the service is open: until then it is alive and not ready."""
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _crash: BaseException | None = None
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.registry.register(BusMetrics(self.bus))

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run beside the service. It is cancelled after the drain; if it raises, the process drains and ends with 1."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def keep_lease(self, lease: Lease) -> asyncio.Task[None]:
        """Try for the lease for ever. That nobody leads is a fault of this replica's health, and a metric."""
        self.health.add_check("lease", lambda: lease.fault)
        name, text = f"spot_{self.service}_leaderless_seconds", "How long no replica is known to lead."
        Gauge(name, text, registry=self.registry).set_function(lambda: lease.leaderless_seconds)
        return self.spawn(lease.keep(), "lease")

    def stop(self) -> None:
        self._ended.set()

    async def stopped(self) -> None:
        await self._ended.wait()

    @property
    def stopping(self) -> bool:
        return self._ended.is_set()

    @property
    def crashed(self) -> bool:
        return self._crash is not None

    async def cancel_tasks(self) -> None:
        await cancel_and_wait(self._tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("task crashed", task=task.get_name(), exc_info=error)
            self._crash = error
            self.stop()


Service = Callable[[Runtime], AbstractAsyncContextManager[None]]


def run(service: str, section: Callable[[Config], ServiceSection], opened: Service) -> None:
    """The whole life of a service process; ends the interpreter with its exit status."""
    gc.freeze()  # what was imported stays: no collection has to look at it
    gc.enable()
    parser = argparse.ArgumentParser(prog=f"python -m services.{service}")
    parser.add_argument("--config", type=Path, help="the TOML file")
    parser.add_argument("--data-dir", type=Path, default=Path(".spotinference"), help="where this host keeps its files")
    parser.add_argument("--port", type=int, help="instead of the configured port; 0 is any free one")
    parser.add_argument("--metrics-port", type=int, help="instead of the configured metrics port")
    parser.add_argument("--workers", type=int, help="processes that share the port, where the service can have several")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logs.configure(service)
    try:
        config = load(find_config(arguments.config))
        suite_file.open_data_dir(arguments.data_dir)
        # Never closed: that would wait for the NATS client's own tasks, which may not end when their server is gone.
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        workers = _workers(section(config), arguments)
        if workers > 1 and arguments.worker is None:
            status = runner.run(_supervise(service, section(config), workers, arguments))
        else:
            status = runner.run(_live(service, config, section(config), opened, arguments))
    except (SpotinferenceError, OSError) as error:
        log.critical("cannot run", reason=str(error))
        logs.stderr().write(f"spotinference {service}: {error}\n")
        status = 1
    os._exit(status)


def _workers(section: ServiceSection, arguments: argparse.Namespace) -> int:
    """How many processes are wanted."""
    configured: int | None = getattr(section, "workers", None)
    asked: int | None = arguments.workers
    if configured is None and asked is not None:
        raise Misconfigured("--workers: this service has one process; start it several times")
    if asked is not None and asked < 1:
        raise Misconfigured(f"--workers: must be at least 1, got {asked}")
    return asked or configured or 1


async def _supervise(service: str, section: ServiceSection, count: int, arguments: argparse.Namespace) -> int:
    options = ["--data-dir", str(arguments.data_dir)]
    if arguments.config is not None:
        options += ["--config", str(arguments.config)]
    port: int = getattr(section, "port", 0) if arguments.port is None else arguments.port
    metrics_port = section.metrics_port if arguments.metrics_port is None else arguments.metrics_port
    workers = Workers(service, (section.host, port), (section.metrics_host, metrics_port), count, options)
    _on_end(workers.stop)
    return await workers.run()


def _on_end(stop: Callable[[], None]) -> None:
    """Call it when this process is asked to end, or its parent has."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    _watch_lifeline(stop)


async def _live(
    service: str, config: Config, section: ServiceSection, opened: Service, arguments: argparse.Namespace
) -> int:
    metrics_port = section.metrics_port if arguments.metrics_port is None else arguments.metrics_port
    async with AsyncExitStack() as stack:
        url = suite_file.bus_url(config, arguments.data_dir)
        bus = await stack.enter_async_context(connect(url, name=service, wait=BUS_WAIT))
        runtime = Runtime(
            service=service,
            config=config,
            data_dir=arguments.data_dir,
            bus=bus,
            port=arguments.port,
            worker=arguments.worker,
            workers=_workers(section, arguments),
        )
        _on_end(runtime.stop)
        runtime.health.add_check("bus", lambda: None if bus.connected else "not connected to the bus")
        runtime.health.add_check("starting", lambda: None if runtime.started else "starting")
        runtime.health.add_check("draining", lambda: "draining" if runtime.stopping else None)
        runtime.health.add_check("views", lambda: view_fault(bus, config.bus.max_view_age))
        try:
            bound = await stack.enter_async_context(
                serve_health(runtime.health, runtime.registry, section.metrics_host, metrics_port)
            )
        except OSError as error:
            where = f"{service}.metrics_port: cannot listen on {section.metrics_host}:{metrics_port}"
            raise Misconfigured(f"{where}: {error.strerror}: name another port, or 0") from error
        stack.push_async_callback(runtime.cancel_tasks)
        runtime.spawn(_raise_ended_watch(bus), "watches")
        clock = ClockSkewMonitor(bus, runtime.registry)
        await clock.measure()  # before any view is read: ages stand on it
        runtime.health.add_alarm("clock", lambda: clock.alarm)
        runtime.spawn(clock.run(), "clock skew")
        try:
            async with _cancelled_by_stop(runtime):
                await stack.enter_async_context(opened(runtime))
        except asyncio.CancelledError:
            log.info("stopped before it was ready")
            return 1 if runtime.crashed else 0
        runtime.started = True
        metrics_url = f"http://{section.metrics_host}:{bound}"
        announcement = suite_file.RunningService(
            service=service, url=runtime.url or metrics_url, metrics_url=metrics_url, pid=os.getpid()
        )
        suite_file.announce(announcement)
        log.info("ready", url=announcement.url, metrics_url=metrics_url)
        await runtime.stopped()
        log.info("draining")
    log.info("stopped")
    return 1 if runtime.crashed else 0


@asynccontextmanager
async def _cancelled_by_stop(runtime: Runtime) -> AsyncIterator[None]:
    """Cancel what runs inside once the process is asked to end: a start that waits must not outlive its parent."""
    start = asyncio.current_task()
    assert start is not None, "a coroutine runs in a task"

    async def cancel() -> None:
        await runtime.stopped()
        while True:  # one cancellation may be lost on its way through `asyncio.wait_for` before Python 3.12
            start.cancel()
            await asyncio.sleep(CANCEL_AGAIN_SECONDS)

    canceller = asyncio.create_task(cancel())
    try:
        yield
    finally:
        canceller.cancel()


async def _raise_ended_watch(bus: Bus) -> None:
    """A view that nobody keeps current is worse than none: the process ends, and begins again."""
    raise await bus.wait_for_ended_watch()


def _watch_lifeline(stop: Callable[[], None]) -> None:
    number = os.environ.get(LIFELINE_VARIABLE)
    if number is None:
        return
    descriptor = int(number)
    loop = asyncio.get_running_loop()

    def on_readable() -> None:
        loop.remove_reader(descriptor)
        log.warning("the parent process has gone")
        stop()

    loop.add_reader(descriptor, on_readable)
